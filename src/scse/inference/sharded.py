"""Many images, predicted by the processes of an executor; what is done is written down, and skipped by a later call."""

import csv
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

from pydantic import BaseModel, ValidationError

from scse.executors.base import Executor
from scse.inference.combining import combined
from scse.inference.devices import choose_device
from scse.inference.dropout import with_dropout
from scse.inference.image_table import ImageTable
from scse.inference.saved import read_saved
from scse.inference.segmenter import Segmenter, prediction_paths
from scse.inference.uncertainty import COLUMNS, SPREAD, TABLE, Uncertain, spread_rows, uncertainty_paths
from scse.inference.volume_table import check_table, open_table
from scse.support.atomic import write_atomic
from scse.support.events import Stop, Watch, never
from scse.support.outputs import check_outputs, is_marked, marked_digest

SHARD = 16
"""Images of a task: the work that is done again if its process dies."""

MANIFEST = ".scse-predicted.jsonl"
"""File in the folder of label maps: what they are predicted with, then a line for each finished image."""

Rows = Mapping[str, Sequence[Sequence[str]]]
"""The rows of each finished image in a table of volumes."""


@dataclass(frozen=True)
class Recipe:
    """How every process makes the same segmenter.

    Attributes:
        groups: Folder of each segmenter of each group, see `combined`, and its factory FILE.py:FUNCTION, if it needs
            one.
        weights: Weight of each group.
        mirror: Whether to average over mirrored images.
        engine: Engine, not "auto": the processes could choose different ones.
        squeeze: See `Segmenter.with_squeeze`.
        cleaning: See `Segmenter.with_cleaning`.
        device: Name of the device, which each process chooses on its machine.
        dropout: Passes with dropout, see `with_dropout`; 0 makes none.
        uncertainty: Whether to measure how far the predictions lie apart, see `uncertain`.
    """

    groups: tuple[tuple[tuple[Path, str | None], ...], ...]
    weights: tuple[float, ...] | None = None
    mirror: bool = False
    engine: str = "torch"
    squeeze: str = "window"
    cleaning: str = "learned"
    device: str = "auto"
    dropout: int = 0
    uncertainty: bool = False

    def segmenter(self) -> Segmenter:
        """Load the segmenters and combine them."""
        device = choose_device(self.device)
        groups = [
            [
                Segmenter.load(folder, network=network, device=device)
                .with_engine(self.engine)
                .with_squeeze(self.squeeze)
                for folder, network in group
            ]
            for group in self.groups
        ]
        groups = [[one for each in group for one in with_dropout(each, self.dropout)] for group in groups]
        whole = combined(groups, weights=self.weights, mirror=self.mirror, uncertainty=self.uncertainty)
        return whole.with_cleaning(self.cleaning)

    def key(self) -> str:
        """A digest of all that label maps depend on, the files of the segmenters included."""
        digest = hashlib.sha256(json.dumps(asdict(self), default=str).encode())
        for folder, _ in (member for group in self.groups for member in group):
            saved = read_saved(folder)
            for path in (saved.description, saved.weights):
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def predict_sharded(
    recipe: Recipe,
    images: Mapping[str, Sequence[Path]],
    out: Path,
    *,
    executor: Executor,
    segmenter: Segmenter | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: Stop = never,
    batch_size: int | None = None,
    overwrite: bool = False,
    volumes: Path | None = None,
    dicom_seg: bool = False,
) -> list[str]:
    """Segment many images as `predict_files` of the segmenter does, in tasks of `SHARD` images.

    Images are skipped that an earlier call finished with the same recipe, if neither their files nor their label maps
    have changed since. A task whose process died is done again: label maps replace each other as a whole.

    Args:
        recipe: The segmenter.
        images: Files of the channels of each image in order, by image name.
        out: Folder of the label maps.
        executor: Does the tasks.
        segmenter: What `recipe` makes, if it is loaded already.
        progress: Called with the numbers of finished and of all images after each task.
        stop: Called after every image; True stops.
        batch_size: See `Segmenter.predict_files`, as the following.
        overwrite: Replace files that scse did not write.
        volumes: CSV file of the volumes.
        dicom_seg: Write DICOM-SEG, too.

    Returns:
        A message for each image that failed.

    Raises:
        UserError: As by `predict_files`, or the processes died too often.
        StoppedError: `stop` returned True; call again to continue.
    """
    targets = prediction_paths(images, out, dicom_seg=dicom_seg)
    maps = uncertainty_paths(images, out, targets) if recipe.uncertainty else {}
    targets |= {name: [*targets[name], path] for name, path in maps.items()}
    spreads = ImageTable(out / TABLE, COLUMNS) if recipe.uncertainty else None
    written = [path for paths in targets.values() for path in paths] + ([spreads.path] if spreads else [])
    tables = check_table(volumes, written)
    check_outputs(
        [*written, *tables], inputs=(path for paths in images.values() for path in paths), overwrite=overwrite
    )
    segmenter = segmenter or recipe.segmenter()
    more = SPREAD if recipe.uncertainty else ()
    opened = open_table(volumes, segmenter.scheme.scored, known=segmenter.known, more=more, overwrite=overwrite)
    manifest = _Manifest(out / MANIFEST, recipe.key(), targets)
    done = manifest.read(images)
    left = [name for name in images if name not in done]
    shards = {
        f"images {start + 1} to {start + len(names)}": {name: images[name] for name in names}
        for start in range(0, len(left), SHARD)
        for names in [left[start : start + SHARD]]
    }
    finished = len(done)
    failed: list[str] = []
    function = partial(_predict_shard, recipe, out, batch_size=batch_size, dicom_seg=dicom_seg)
    with opened as table, spreads or nullcontext():

        def put(rows: Rows) -> None:
            if table is not None:
                table.put(rows)
            if spreads is not None:
                spreads.put(spread_rows(rows))

        put(done)
        for name, (rows, problems) in executor.each(function, shards, Watch(stop=stop)):
            put(rows)
            manifest.add(rows, images)
            failed += problems
            finished += len(shards[name])
            if progress is not None:
                progress(finished, len(images))
    return failed


def _predict_shard(
    recipe: Recipe,
    out: Path,
    images: Mapping[str, Sequence[Path]],
    watch: Watch,
    *,
    batch_size: int | None,
    dicom_seg: bool,
) -> tuple[dict[str, list[list[str]]], list[str]]:
    """Predict some images; returns the rows of those that are finished, and a message for each that failed."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "volumes.csv"
        segmenter = _loaded(recipe)
        predict_files: Callable[..., list[str]] = segmenter.predict_files
        if isinstance(segmenter, Uncertain):
            predict_files = partial(predict_files, table=Path(folder) / TABLE)
        failed = predict_files(
            images,
            out,
            batch_size=batch_size,
            overwrite=True,  # what may be replaced is checked for all tasks at once
            volumes=table,
            dicom_seg=dicom_seg,
            progress=lambda done, total: watch.check("stopped between two images"),
        )
        rows: dict[str, list[list[str]]] = {}
        if table.exists():
            with table.open(newline="", encoding="utf-8") as file:
                _, *lines = csv.reader(file)
            for line in lines:
                rows.setdefault(line[0], []).append(line)
    return rows, failed


@lru_cache(maxsize=1)
def _loaded(recipe: Recipe) -> Segmenter:
    """The segmenter of this process, which does many tasks."""
    return recipe.segmenter()


class _Entry(BaseModel):
    """A line of the manifest: an image that is finished."""

    image: str
    files: list[tuple[str, int, int]]
    digests: list[str]
    rows: list[list[str]]


class _Manifest:
    """The images that are finished, with the state of their files and label maps, and their rows.

    Only the process that was called writes it. A line that cannot be read, such as the last one of a process that was
    killed, counts as an image that is not finished.
    """

    def __init__(self, path: Path, key: str, targets: Mapping[str, Sequence[Path]]) -> None:
        self.path, self.targets = path, targets
        self.header = json.dumps({"key": key}).encode() + b"\n"

    def read(self, images: Mapping[str, Sequence[Path]]) -> dict[str, list[list[str]]]:
        """Rows of the images that are finished and have not changed; starts a new file for another recipe."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
        entries: dict[str, _Entry] = {}
        for line in lines[1:] if lines[:1] == [self.header] else []:
            with suppress(ValidationError):
                entry = _Entry.model_validate_json(line)
                entries[entry.image] = entry
        # those of other images are of other calls
        kept = {
            name: entry for name, entry in entries.items() if name not in images or self._holds(entry, images[name])
        }
        write_atomic(self.path, self.header + b"".join(map(_line, kept.values())))
        return {name: entry.rows for name, entry in kept.items() if name in images}

    def _holds(self, entry: _Entry, paths: Sequence[Path]) -> bool:
        """Whether the files of an image and its label maps are as they were."""
        targets = self.targets[entry.image]
        same = len(targets) == len(entry.digests) and entry.files == _states(paths)
        return same and all(map(is_marked, targets, entry.digests))

    def add(self, rows: Rows, images: Mapping[str, Sequence[Path]]) -> None:
        """Add finished images."""
        with self.path.open("ab") as file:
            for name, each in rows.items():
                digests = [marked_digest(path) or "" for path in self.targets[name]]
                entry = {"image": name, "files": _states(images[name]), "digests": digests, "rows": each}
                file.write(_line(_Entry.model_validate(entry)))


def _line(entry: _Entry) -> bytes:
    return entry.model_dump_json().encode() + b"\n"


def _states(paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Path, size and time of change of files."""
    return [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
