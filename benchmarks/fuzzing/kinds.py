"""All kinds of input, and how many of each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fuzzing import base, folders, images, models, options, tables
from fuzzing.mutations import Rng
from fuzzing.sandbox import Trial


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        make: makes an input in a folder, from the generator and the folder of the unmutated inputs.
        weight: how many of all inputs are of this kind.
    """

    make: Callable[[Rng, Path, Path], Trial]
    weight: float


def _alone(make: Callable[[Rng, Path], Trial]) -> Callable[[Rng, Path, Path], Trial]:
    return lambda rng, folder, base: make(rng, folder)


KINDS: dict[str, Kind] = {
    "nifti-header": Kind(_alone(images.nifti_header), 12),
    "nifti-bytes": Kind(_alone(images.nifti_bytes), 8),
    "nifti-gzip": Kind(_alone(images.nifti_gzip), 5),
    "nifti-same": Kind(_alone(images.nifti_same), 5),
    "nifti-size": Kind(_alone(images.nifti_size), 3),
    "picture-bytes": Kind(_alone(images.picture_bytes), 8),
    "picture-same": Kind(_alone(images.picture_same), 5),
    "picture-size": Kind(_alone(images.picture_size), 3),
    "stack-bytes": Kind(_alone(images.stack_bytes), 4),
    "nnunet-json": Kind(folders.nnunet_json, 6),
    "msd-json": Kind(folders.msd_json, 5),
    "splits-json": Kind(folders.splits_json, 3),
    "labels-csv": Kind(folders.labels_csv, 4),
    "folder-layout": Kind(folders.layout, 8),
    "model-json": Kind(models.model_json, 6),
    "model-weights": Kind(models.model_weights, 6),
    "model-folder": Kind(models.model_folder, 3),
    "run-json": Kind(models.run_json, 4),
    "checkpoint": Kind(models.checkpoint, 4),
    "prepared": Kind(models.prepared, 3),
    "study-folder": Kind(models.study_folder, 1),
    "scores-table": Kind(_alone(tables.scores_table), 7),
    "foreign-scores": Kind(_alone(tables.foreign_scores), 6),
    "label-pairs": Kind(_alone(tables.label_pairs), 4),
    "option-strings": Kind(_alone(options.option_strings), 7),
    "option-numbers": Kind(options.option_numbers, 3),
}


def make_base(folder: Path) -> None:
    """Write the unmutated inputs, unless they are there."""
    if folder.exists():
        return
    data = base.write_nnunet(folder / "nnunet")
    base.write_msd(folder / "msd")
    base.write_pictures(folder / "pictures")
    base.write_model(data, folder / "model", folder / "cache")
    base.write_run(data, folder / "run", folder / "cache")
    base.write_run(data, folder / "stopped", folder / "cache", stop_after=1)
    # fitted epochs are kept there, which makes the study as short as can be
    (folder / "study").mkdir()
    (folder / "study" / "plan.json").write_text('{"budget": "10m", "seconds": 600, "epochs": 1}')
    models.run_study(data, folder / "study", folder / "study-cache")
