"""Prepared arrays: slices of every case on disk, memory-mapped, made once for the same inputs and recipe."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scse.data.dataset import Case
from scse.data.files import Image, read_image, read_label
from scse.data.recipe import Recipe
from scse.errors import DataError, UserError

IGNORED_CLASS = 255
"""Stands in label slices for voxels that are neither learned nor scored."""

MOST_STRUCTURES = 254  # classes are stored in 8 bits, of which the background and ignored voxels take two

FORMAT = 1
"""Raised when the arrays are made in another way, so that older ones are not taken for new."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The prepared slices of one case.

    Attributes:
        name: of the case.
        folder: holds images.npy (slices, C, height, width) float32 and labels.npy (slices, height, width) uint8.
    """

    name: str
    folder: Path

    def images(self) -> NDArray[np.float32]:
        """The image slices, memory-mapped: (slices, C, height, width)."""
        array: NDArray[np.float32] = np.load(self.folder / "images.npy", mmap_mode="r")
        return array

    def labels(self) -> NDArray[np.uint8]:
        """The label slices, memory-mapped: (slices, height, width)."""
        array: NDArray[np.uint8] = np.load(self.folder / "labels.npy", mmap_mode="r")
        return array


def cache_folder() -> Path:
    """Where prepared arrays are kept: $SCSE_CACHE, else $XDG_CACHE_HOME/scse, else ~/.cache/scse."""
    if folder := os.environ.get("SCSE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scse"


def prepare(
    cases: Sequence[Case],
    recipe: Recipe,
    *,
    structures: Mapping[str, int],
    digests: Mapping[str, str],
    cache: Path,
    colors: Mapping[int, tuple[int, int, int]] | None = None,
    ignored: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prepared]:
    """Prepare labelled cases, or find them prepared.

    Args:
        cases: with images and label maps.
        recipe: how.
        structures: name -> label value; the n-th structure becomes class n, background class 0.
        digests: case name -> hash of its files, as `inspect` found it.
        cache: the folder of all prepared arrays.
        colors: of colour masks, see `Dataset`.
        ignored: label value of voxels that are neither learned nor scored; they become `IGNORED_CLASS`.
        progress: called with (done, of how many) after each case.

    Returns:
        One `Prepared` a case, in the order of `cases`.

    Raises:
        DataError: a file cannot be read, or a label map holds other values than `structures`.
        ValueError: more than 254 structures, which the arrays cannot hold.
    """
    if len(structures) > MOST_STRUCTURES:
        raise UserError(f"{len(structures)} structures are listed; at most {MOST_STRUCTURES} can be learned at once")
    read = partial(_read_classes, structures=structures, colors=colors, ignored=ignored)
    result = []
    for done, case in enumerate(cases, start=1):
        folder = cache / _key(digests[case.name], recipe, structures, ignored)
        if not folder.is_dir():
            _write(case, recipe, folder, read)
        result.append(Prepared(case.name, folder))
        if progress is not None:
            progress(done, len(cases))
    return result


def class_values(structures: Mapping[str, int]) -> NDArray[np.int64]:
    """Label value of every class: background 0, then the structures in their order."""
    return np.array([0, *structures.values()], dtype=np.int64)


def _key(digest: str, recipe: Recipe, structures: Mapping[str, int], ignored: int | None) -> str:
    parts = [FORMAT, digest, recipe.model_dump_json(), list(structures.values())]
    if ignored is not None:
        parts.append({"ignored": ignored})
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _write(case: Case, recipe: Recipe, folder: Path, read: Callable[[Path], Image]) -> None:
    """Prepare a case; `read` reads its label map as classes."""
    if case.label is None:
        raise UserError(f"case {case.name} has no label map; only labelled cases can be prepared for training")
    images, grid = recipe.image_slices(read_image(case.images))
    labels = recipe.label_slices(read(case.label), grid)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
    try:
        np.save(temporary / "images.npy", images)
        np.save(temporary / "labels.npy", labels)
        temporary.chmod(0o755)  # mkdtemp makes folders that only the owner can read
        temporary.rename(folder)
    except BaseException as error:
        shutil.rmtree(temporary)
        # another process may have prepared the same case meanwhile
        if not (isinstance(error, OSError) and folder.is_dir()):
            raise


def _read_classes(
    path: Path,
    *,
    structures: Mapping[str, int],
    colors: Mapping[int, tuple[int, int, int]] | None,
    ignored: int | None,
) -> Image:
    label = read_label(path, colors=colors)
    return replace(label, array=_classes(path, label.array, structures, ignored))


def _classes(
    path: Path, labels: NDArray[np.integer], structures: Mapping[str, int], ignored: int | None
) -> NDArray[np.uint8]:
    values = class_values(structures)
    order = values.argsort()
    places = np.searchsorted(values[order], labels).clip(max=len(values) - 1)
    classes: NDArray[np.uint8] = order[places].astype(np.uint8)
    wrong = values[classes] != labels
    if ignored is not None:
        left_out = labels == ignored
        classes[left_out] = IGNORED_CLASS
        wrong &= ~left_out
    if wrong.any():
        some = ", ".join(map(str, np.unique(labels[wrong])[:5]))
        raise DataError(f"{path}: holds label values that are not listed ({some}); list or relabel them")
    return classes
