"""Prepared arrays: memory-mapped slices or volume of every case, prepared once for the same inputs and recipe."""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache as cached
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, RootModel

from scse.data.dataset import Case
from scse.data.files import Image, read_image, read_label
from scse.data.recipe import Recipe
from scse.support.atomic import temporary_folder, write_array
from scse.support.errors import DataError, UserError, in_short
from scse.support.json_files import read_json, validated

IGNORED_CLASS = 255
"""Value in label slices of voxels that are neither learned nor scored."""

MOST_STRUCTURES = 254  # classes are stored in 8 bits, and background and ignored voxels take two of the values

IMAGES, LABELS = ARRAYS = ("images.npy", "labels.npy")
SUMS = "checksums.json"
REMEDY = "delete this folder: the arrays are prepared again from the data set"

FORMAT = 1
"""Version of the arrays, increased when their preparation changes, so that older arrays are not reused."""


class _Sum(BaseModel):
    """Size and checksum of a file. A CRC of 32 bits detects damage (not intent) and takes 0.25 s for 1 GB."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    crc32: int


class _Sums(RootModel[dict[str, _Sum]]):
    """Content of the `checksums.json` of a case, by names of arrays."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Prepared slices of one case, or its volume, which is a slice with three spatial axes.

    Attributes:
        name: Name of the case.
        folder: Folder with images.npy (slices, C, *spatial) float32, labels.npy (slices, *spatial) uint8, and their
            checksums.
    """

    name: str
    folder: Path

    def images(self) -> NDArray[np.float32]:
        """Image slices, memory-mapped: (slices, C, *spatial)."""
        array: NDArray[np.float32] = _mapped(self.folder / IMAGES, np.float32, axes=(4, 5))
        return array

    def labels(self) -> NDArray[np.uint8]:
        """Label slices, memory-mapped: (slices, *spatial)."""
        array: NDArray[np.uint8] = _mapped(self.folder / LABELS, np.uint8, axes=(3, 4))
        return array

    def check(self, recipe: Recipe, *, classes: int, unsummed: bool = False) -> str:
        """Check the arrays for damage.

        Args:
            recipe: Recipe with which they were prepared.
            classes: Number of classes, including the background.
            unsummed: Accept arrays without checksums, as earlier versions wrote them, if their content is plausible.

        Returns:
            Description of the damage, or "" if there is none.
        """
        summed = (self.folder / SUMS).exists()
        if not summed and not unsummed:
            return f"{self.folder} has no {SUMS}"
        try:
            if summed and (damaged := self._damaged()):
                return f"{damaged} does not match its checksum"
            images, labels = self.images(), self.labels()
        except (DataError, OSError) as error:
            return str(error)
        shape = (len(labels), recipe.channels, *labels.shape[1:])
        size = shape[2:]
        if images.shape != shape or labels.size == 0 or len(size) != recipe.dims or any(np.less(size, recipe.patch)):
            return f"{self.folder} has images of shape {images.shape} and labels of shape {labels.shape}"
        if not summed and (labels.max() >= classes or not np.isfinite(images).all()):
            return f"{self.folder} has more than {classes} label classes, or images that are not finite"
        return ""

    def _damaged(self) -> Path | None:
        """The first array that does not match its checksum."""
        path = self.folder / SUMS
        sums = validated(_Sums, read_json(path), path=path, remedy=REMEDY, strict=True).root
        return next((self.folder / name for name in ARRAYS if sums.get(name) != _sum(self.folder / name)), None)


def cache_folder() -> Path:
    """Folder for prepared arrays: $SCSE_CACHE, otherwise $XDG_CACHE_HOME/scse, otherwise ~/.cache/scse.

    Raises:
        UserError: Neither variable is set, and the user has no home folder.
    """
    if folder := os.environ.get("SCSE_CACHE"):
        return Path(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "scse"
    try:
        return Path.home() / ".cache" / "scse"
    except RuntimeError as error:  # users without a name, as in containers
        message = "no home folder was found for the cache of prepared arrays; set SCSE_CACHE to a folder"
        raise UserError(message) from error


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
    on_note: Callable[[str], None] = lambda note: None,
) -> list[Prepared]:
    """Prepare labelled cases, reusing arrays in the cache; damaged arrays are prepared again.

    Args:
        cases: Cases with images and label maps.
        recipe: Recipe of the preparation.
        structures: Label value of each structure, by name. The n-th structure becomes class n, background class 0.
        digests: Hash of the files of each case, by name, as found by `inspect`.
        cache: Folder of all prepared arrays.
        colors: Colours of colour masks, see `Dataset`.
        ignored: Label value of voxels that are neither learned nor scored; they become `IGNORED_CLASS`.
        progress: Called with the numbers of finished and of all cases after each case.
        on_note: Called with a message for each case whose arrays are damaged.

    Returns:
        One `Prepared` per case, in the order of `cases`.

    Raises:
        DataError: A file cannot be read, or a label map contains values that are not in `structures`.
        UserError: There are more than 254 structures, or a case has no label map.
    """
    if len(structures) > MOST_STRUCTURES:
        problem = f"the data set lists {len(structures)} structures, but at most {MOST_STRUCTURES} are allowed"
        raise UserError(f"{problem}; remove or merge some")
    read = partial(_read_classes, structures=structures, colors=colors, ignored=ignored)
    result = []
    for done, case in enumerate(cases, start=1):
        found = Prepared(case.name, cache / _key(digests[case.name], recipe, structures, ignored))
        if not found.folder.exists():
            _write(case, recipe, found.folder, read)
        elif problem := found.check(recipe, classes=len(structures) + 1):
            on_note(f"the prepared arrays of case {case.name} are damaged ({problem}): preparing them again")
            _write(case, recipe, found.folder, read, damaged=True)
        result.append(found)
        if progress is not None:
            progress(done, len(cases))
    return result


def class_values(structures: Mapping[str, int]) -> NDArray[np.int64]:
    """Label value of each class: background 0, then the structures in order."""
    return np.array([0, *structures.values()], dtype=np.int64)


def _key(digest: str, recipe: Recipe, structures: Mapping[str, int], ignored: int | None) -> str:
    parts = [FORMAT, digest, recipe.model_dump_json(), list(structures.values())]
    if ignored is not None:
        parts.append({"ignored": ignored})
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _write(case: Case, recipe: Recipe, folder: Path, read: Callable[[Path], Image], *, damaged: bool = False) -> None:
    """Prepare a case; `read` reads a label map as classes."""
    if case.label is None:
        raise UserError(f"case {case.name} has no label map; training needs labelled cases")
    images, grid = recipe.image_slices(read_image(case.images))
    labels = recipe.label_slices(read(case.label), grid)
    write_prepared(folder, images, labels, damaged=damaged)


def write_prepared(
    folder: Path, images: NDArray[np.float32], labels: NDArray[np.uint8], *, damaged: bool = False
) -> None:
    """Write the arrays of a case into its folder, at once.

    Args:
        folder: Folder of the case in the cache.
        images: Slices or volume, (slices, C, *spatial).
        labels: Class of each voxel, (slices, *spatial).
        damaged: Whether the folder exists and its arrays are to be replaced.
    """
    with temporary_folder(folder.parent) as scratch:
        whole = scratch / folder.name
        whole.mkdir()
        write_array(whole / IMAGES, images)
        write_array(whole / LABELS, labels)
        sums = _Sums({name: _sum(whole / name) for name in ARRAYS})
        (whole / SUMS).write_text(sums.model_dump_json(indent=2))
        if damaged:
            _replace(folder, whole)
            return
        try:
            whole.rename(folder)
        except OSError:
            # another process may have prepared the same case in the meantime
            if not folder.is_dir():
                raise


def _replace(folder: Path, made: Path) -> None:
    """Replace damaged files by those of another folder.

    Files are replaced one by one and never missing, because other processes may read or replace them at the same time.
    """
    if not folder.is_dir():
        folder.unlink()
        folder.mkdir()
    for name in (*ARRAYS, SUMS):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        (made / name).replace(folder / name)
    made.rmdir()


def _sum(path: Path) -> _Sum:
    """Checksum of a file, computed once per process unless the file changes."""
    found = path.stat()
    return _Sum(bytes=found.st_size, crc32=_crc32(path, found.st_size, found.st_mtime_ns))


@cached
def _crc32(path: Path, _size: int, _changed: int) -> int:
    value = 0
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            value = zlib.crc32(part, value)
    return value


def _mapped(path: Path, dtype: type[np.generic], *, axes: tuple[int, int]) -> NDArray[Any]:
    try:
        # unlike np.load, this reads only arrays, never pickled objects
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({in_short(error)}); {REMEDY}") from error
    if array.dtype != dtype or array.ndim not in axes:
        found, expected = f"{array.dtype} of {array.ndim} axes", f"{np.dtype(dtype)} of {axes[0]} or {axes[1]} axes"
        raise DataError(f"{path}: contains {found}, but {expected} is expected; {REMEDY}")
    return array


def _read_classes(
    path: Path,
    *,
    structures: Mapping[str, int],
    colors: Mapping[int, tuple[int, int, int]] | None,
    ignored: int | None,
) -> Image:
    label = read_label(path, colors=colors)
    return replace(label, array=numbered(path, label.array, structures, ignored))


def numbered(
    path: Path, labels: NDArray[np.integer], structures: Mapping[str, int], ignored: int | None
) -> NDArray[np.uint8]:
    """The class of each label value: background 0, then the structures in order; `IGNORED_CLASS` for ignored voxels.

    Raises:
        DataError: A value is not listed.
    """
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
        raise DataError(f"{path}: contains label values that are not listed ({some}); list or relabel them")
    return classes
