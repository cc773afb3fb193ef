"""nnU-Net v2 and scse's U-Net, plain and with scSE, trained for the same time on the same cases of one data set.

    nohup python benchmarks/nnunet_beside.py ../shared/data/hippocampus --folds 5 --hours 1 --out beside > beside.log &

Takes three times `--hours` and some minutes, on a machine that does nothing else. A system that is finished in `--out`
is skipped by the next call, one that was interrupted starts anew. With `--only`, systems run side by side, on a core
each: `OMP_NUM_THREADS=1 taskset -c 0 python ... --only nnunet`. `--smoke` tries everything in minutes: few cases, 10 s
of training each.

- Split: that of `scse study` for the same `--folds` and `--fold`; without `--folds`, the data set's own. nnU-Net sees
  the training cases alone (its fold "all"): it plans, preprocesses and trains on them.
- nnU-Net: default plans, configuration 2d (with `--dims 3`: 3d_fullres), the default trainer on the CPU. Its polynomial
  schedule goes by seconds of training, where by default it goes by 1,000 epochs, so that the learning rate is down to 0
  when time is up; an epoch has a tenth of the default's steps. Prediction is its own, mirrored images included, with
  the weights of the end.
- scse: preset "quick" (with `--dims 3`: that of volumes) with as many epochs as fit, by the pace of the second epoch of
  a trial that is thrown away.
- Time: of training, with what each system does meanwhile (validation, checkpoints, logs). Planning and preprocessing
  are told apart. Both compute with a thread a core; nnU-Net augments in worker processes beside them, its default.
  Precision is each system's own for the machine: nnU-Net computes in float32 on CPUs, scse in bfloat16 where the
  processor has instructions for it.
- Scores: of both systems' label maps against the references in the scans' own grid, by `scse.evaluation.score`.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from measuring import machine, markdown

from scse.allocator import keep_large_blocks
from scse.data.dataset import Case, Dataset
from scse.data.files import read_image, read_label
from scse.data.folds import Fold, make_folds
from scse.data.inspection import open_checked
from scse.data.prepared import class_values
from scse.data.recipe import Recipe
from scse.evaluation import compare, score, verdicts, write_scores
from scse.inference.segmenter import write_prediction
from scse.support.atomic import write_atomic
from scse.support.events import EpochDone, StepDone
from scse.training.run import train
from scse.training.settings import make_settings
from scse.training.setup import resolve_precision
from scse.training.task import make_task

SYSTEMS = {"nnunet": "nnU-Net", "none": "U-Net", "scse": "U-Net + scSE"}
CONFIGURATIONS = {2: "2d", 3: "3d_fullres"}
FOLDER, NUMBER = "Dataset001_beside", 1
SMOKE_SECONDS, SMOKE_TRAINING, SMOKE_TEST, SMOKE_SLICES = 10.0, 6, 2, 160


def main() -> None:
    """Run what is missing, each system in a process of its own, then compare."""
    arguments = parse()
    if arguments.inside:
        run(arguments.inside, arguments)
        return
    for name in SYSTEMS if arguments.only is None else [arguments.only]:
        if not (arguments.out / name / "scores.parquet").exists():
            print(f"\n{SYSTEMS[name]}", flush=True)
            subprocess.run([sys.executable, *sys.argv, "--inside", name], env=environment(arguments.out), check=True)
    if (arguments.out / "nnunet" / "scores.parquet").exists():
        print("\n" + "\n\n".join(parts(arguments.out)))


def parse() -> argparse.Namespace:
    """What was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder of a data set of NIfTI volumes")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything")
    parser.add_argument("--hours", type=float, default=1.0, help="of training, for each system")
    parser.add_argument("--folds", type=int, help="cross-validation folds [the data set's own test cases]")
    parser.add_argument("--fold", type=int, default=0, help="which of them")
    parser.add_argument("--dims", type=int, choices=CONFIGURATIONS, default=2, help="networks of slices or volumes")
    parser.add_argument("--spacing", type=float, help="mm per pixel or voxel, for scse [the data's own]")
    parser.add_argument("--smoke", action="store_true", help="few cases and 10 s of training")
    parser.add_argument("--only", choices=SYSTEMS, help="run this system only")
    parser.add_argument("--inside", choices=SYSTEMS, help=argparse.SUPPRESS)
    return parser.parse_args()


def environment(out: Path) -> dict[str, str]:
    """What nnU-Net reads when it is imported; all systems get the same."""
    folders = {f"nnUNet_{name}": str(out.resolve() / "nnunet" / name) for name in ("raw", "preprocessed", "results")}
    # idle threads give way: nnU-Net's workers need the cores on which its threads would wait
    return {**os.environ, **folders, "OMP_WAIT_POLICY": "passive", "PYTHONUNBUFFERED": "1"}


def run(name: str, arguments: argparse.Namespace) -> None:
    """Prepare, train, predict and score one system."""
    keep_large_blocks()
    inspection, dataset = open_checked(arguments.dataset)
    if dataset.regions:
        raise SystemExit(f"{arguments.dataset}: structures are regions of labels, which this comparison does not have")
    fold = make_folds(dataset, arguments.folds)[arguments.fold]
    if arguments.smoke:
        fold = Fold(fold.training[:SMOKE_TRAINING], fold.test[:SMOKE_TEST])
    seconds = SMOKE_SECONDS if arguments.smoke else 3600 * arguments.hours
    folder = arguments.out / name
    if name == "nnunet":
        times, predict = run_nnunet(dataset, fold, seconds, arguments)
    else:
        times, predict = run_scse(name, inspection, fold, seconds, arguments)
    tables, took = [], []
    for case in fold.test:
        began = time.perf_counter()
        labels = predict(case)
        took.append(time.perf_counter() - began)
        image = read_image(case.images)
        write_prediction(folder / "predictions", case.name, labels, case.images[0], image)
        reference = read_label(case.label, colors=dataset.colors).array
        table = score(labels, reference, spacing=image.spacing, structures=dataset.structures)
        tables.append(table.assign(case=case.name))
    about = {"network": dataset.name, "variant": name, "seed": 0, "fold": arguments.fold}
    times |= {"predicted case (s)": float(np.median(took)), "threads": str(torch.get_num_threads()), "on": machine()}
    write_atomic(folder / "times.json", json.dumps(times, indent=2).encode())
    scores = pd.concat(tables, ignore_index=True).assign(**about)
    write_scores(scores[[*about, "case", "structure", "metric", "value"]], folder)


Predict = Callable[[Case], Any]
"""From a test case to its label values, in the image's own grid."""


def run_scse(
    variant: str, inspection: Any, fold: Fold, seconds: float, arguments: argparse.Namespace
) -> tuple[dict[str, Any], Predict]:
    """U-Net of the preset "quick", with as many epochs as fit."""
    began = time.perf_counter()
    recipe = Recipe.derive(inspection.facts_of(inspection.dataset), spacing=arguments.spacing, dims=arguments.dims)
    cache = arguments.out / variant / "prepared"
    task = make_task(inspection, training=fold.training, held_out=fold.test, recipe=recipe, cache=cache)
    prepared = time.perf_counter() - began
    settings = make_settings("quick", {"variant": variant}, dims=arguments.dims)
    if arguments.smoke:
        settings = settings.model_copy(update={"slices_per_epoch": SMOKE_SLICES})
    epochs = max(1, round(seconds / trial_pace(task, settings)))
    folder = arguments.out / variant / "run"
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted call left: its time would not count
    steps: list[StepDone] = []
    began = time.perf_counter()
    segmenter = train(
        task,
        settings.model_copy(update={"epochs": epochs}),
        folder,
        on_event=lambda event: steps.append(event) if isinstance(event, StepDone) else None,
    )
    took = time.perf_counter() - began
    times = {
        "preparation (s)": prepared,
        "training (s)": took,
        "epochs": epochs,
        "steps": epochs * steps[-1].steps,
        "batch": settings.batch_size,
        "parameters": sum(weight.numel() for weight in segmenter.network.parameters()),
        "workers": 0,
        "precision": resolve_precision(settings.precision),
    }
    return times, lambda case: segmenter.predict_image(read_image(case.images))


def trial_pace(task: Any, settings: Any) -> float:
    """Seconds from the end of the first epoch to that of the second, of a training that is not used."""
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        train(
            task,
            settings.model_copy(update={"epochs": 2}),
            Path(folder),
            on_event=lambda event: ends.append(time.perf_counter()) if isinstance(event, EpochDone) else None,
        )
    return ends[1] - ends[0]


def run_nnunet(
    dataset: Dataset, fold: Fold, seconds: float, arguments: argparse.Namespace
) -> tuple[dict[str, Any], Predict]:
    """nnU-Net's own planning, preprocessing, training and prediction."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

    raw, preprocessed = (Path(os.environ[f"nnUNet_{name}"]) / FOLDER for name in ("raw", "preprocessed"))
    began = time.perf_counter()
    write_raw(raw, dataset, fold.training)
    configuration = CONFIGURATIONS[arguments.dims]
    program, cores = Path(sys.executable).parent / "nnUNetv2_plan_and_preprocess", str(os.cpu_count())
    subprocess.run([program, "-d", str(NUMBER), "-c", configuration, "-npfp", cores, "-np", cores], check=True)
    prepared = time.perf_counter() - began

    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    description = json.loads((preprocessed / "dataset.json").read_text())
    trainer = timed_trainer(seconds)(plans, configuration, "all", description, torch.device("cpu"))
    # a tenth of the default, so that the end of an epoch, with its validation, meets the end of the time
    trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 25, 5
    trainer.run_training()
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        description,
        "nnUNetTrainer",
        trainer.inference_allowed_mirroring_axes,
    )
    values = class_values(dataset.structures)
    folder = arguments.out / "nnunet" / "classes"
    folder.mkdir(parents=True, exist_ok=True)

    def predict(case: Case) -> Any:
        predictor.predict_from_files_sequential([list(map(str, case.images))], [str(folder / case.name)])
        return values[read_label(folder / f"{case.name}.nii.gz").array].astype(np.min_scalar_type(int(values.max())))

    times = {
        "preparation (s)": prepared,
        "training (s)": trainer.took,
        "epochs": trainer.current_epoch,
        "steps": trainer.steps,
        "batch": trainer.batch_size,
        "parameters": sum(weight.numel() for weight in trainer.network.parameters()),
        "workers": get_allowed_n_proc_DA(),
        "precision": "32",
    }
    return times, predict


def write_raw(folder: Path, dataset: Dataset, cases: Sequence[Case]) -> None:
    """Training cases as nnU-Net wants them: links to the images, and labels that count the structures from 1."""
    values = class_values(dataset.structures)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for case in cases:
        if any(not image.name.endswith(".nii.gz") for image in case.images):
            raise SystemExit(f"{case.images[0]}: this comparison is of volumes in .nii.gz, one file a channel")
        for channel, image in enumerate(case.images):
            link = folder / "imagesTr" / f"{case.name}_{channel:04d}.nii.gz"
            link.unlink(missing_ok=True)
            link.symlink_to(image.resolve())
        found = nib.load(case.label)
        labels = np.asanyarray(found.dataobj).astype(np.int64)
        classes = sum(np.where(labels == value, number, 0) for number, value in enumerate(values))
        nib.save(nib.Nifti1Image(classes.astype(np.uint8), found.affine), folder / "labelsTr" / f"{case.name}.nii.gz")
    description = {
        "channel_names": {str(number): name for number, name in enumerate(dataset.channels)},
        "labels": {"background": 0, **{name: number for number, name in enumerate(dataset.structures, start=1)}},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2))


def timed_trainer(seconds: float) -> type:
    """nnU-Net's default trainer, which ends after so many seconds."""
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class ByTime(PolyLRScheduler):
        """nnU-Net's schedule, over the seconds of training instead of its epochs."""

        began = math.inf

        def passed(self) -> float:
            return max(0.0, time.perf_counter() - self.began)

        def step(self, current_step: int | None = None) -> None:
            super().step(min(self.passed(), seconds))

    class TimedTrainer(nnUNetTrainer):
        """All else is nnU-Net's."""

        steps, took = 0, 0.0

        def configure_optimizers(self) -> tuple[torch.optim.Optimizer, ByTime]:
            optimizer, _ = super().configure_optimizers()
            return optimizer, ByTime(optimizer, self.initial_lr, seconds)

        def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
            self.lr_scheduler.step()
            self.steps += 1
            return super().train_step(batch)

        def run_training(self) -> None:
            # as nnU-Net's own, but for the condition
            self.on_train_start()
            clock = self.lr_scheduler
            clock.began = time.perf_counter()
            while clock.passed() < seconds:
                self.on_epoch_start()
                self.on_train_epoch_start()
                outputs = []
                while len(outputs) < self.num_iterations_per_epoch and (not outputs or clock.passed() < seconds):
                    outputs.append(self.train_step(next(self.dataloader_train)))
                self.on_train_epoch_end(outputs)
                with torch.no_grad():
                    self.on_validation_epoch_start()
                    steps = range(self.num_val_iterations_per_epoch)
                    self.on_validation_epoch_end([self.validation_step(next(self.dataloader_val)) for _ in steps])
                self.on_epoch_end()
            self.took = clock.passed()
            self.on_train_end()

    return TimedTrainer


def parts(out: Path) -> Iterator[str]:
    """Of the systems that are finished in `out`: times, means, and the comparison with nnU-Net, in Markdown."""
    systems = {name: head for name, head in SYSTEMS.items() if (out / name / "scores.parquet").exists()}
    scores = pd.concat([pd.read_parquet(out / name / "scores.parquet") for name in systems], ignore_index=True)
    times = {name: json.loads((out / name / "times.json").read_text()) for name in systems}
    yield times["nnunet"]["on"]
    rows = [key for key in times["nnunet"] if key != "on"]
    yield markdown(["", *systems.values()], [(row, *(cell(times[name][row]) for name in systems)) for row in rows])
    grouped = scores.groupby(["metric", "structure", "variant"])["value"].mean().unstack("variant")
    overall = scores.groupby(["metric", "variant"])["value"].mean().unstack("variant")
    lines = [
        (f"{metric}, {structure}", *(f"{row[name]:.3f}" for name in systems))
        for (metric, structure), row in grouped.iterrows()
    ]
    lines += [(f"{metric}, mean", *(f"{row[name]:.3f}" for name in systems)) for metric, row in overall.iterrows()]
    yield markdown([f"{scores['case'].nunique()} test cases", *systems.values()], lines)
    for metric in ("dice", "hd95", "msd"):
        for found in verdicts(compare(scores, baseline="nnunet", metric=metric)):
            yield f"{metric}: {found.text}"


def cell(value: Any) -> str:
    """A number with as many digits as matter."""
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


if __name__ == "__main__":
    main()
