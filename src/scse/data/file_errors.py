"""The error for an image or label file that cannot be used, and the checks before its content is read."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from numpy.typing import DTypeLike, NDArray

from scse.data.endings import VOLUME_KINDS, ending
from scse.support.errors import DataError
from scse.support.paths import file_problem


class FileError(DataError):
    """An image or label file that cannot be used.

    Attributes:
        file: Path of the file.
        kind: Kind of the problem, see `inspection.Problem`.
    """

    def __init__(self, file: Path, kind: str, message: str) -> None:
        super().__init__(f"{file}: {message}")
        self.file = file
        self.kind = kind


def unreadable(path: Path, error: Exception | str) -> FileError:
    """The error for a file whose decoder failed with `error`."""
    reason = " ".join(str(error).split()) or type(error).__name__
    known = ending(path.name)
    cause = "it is truncated or corrupted"  # such as the file of the voxels of a detached header
    if known is not None:
        kind = VOLUME_KINDS[known].name if known in VOLUME_KINDS else "a PNG, JPEG, BMP or TIFF"
        cause = f"it is truncated, corrupted, or not {kind} file"
    return FileError(path, "unreadable", f"cannot be read ({reason[:200]}); {cause}: copy or export it again")


def check_is_file(path: Path) -> None:
    """Refuse a path that is not that of a regular file.

    Raises:
        FileError: The path leads to nothing, or to a folder, pipe, socket or device.
    """
    if problem := file_problem(path):
        raise FileError(path, "unreadable", f"{problem}; put the file there, or remove its case")


def check_size(path: Path, claimed: int, most: int, what: str) -> None:
    """Refuse a file whose header describes more bytes than the file can hold.

    Args:
        path: Path of the file.
        claimed: Bytes of the pixels that the header describes.
        most: Most bytes of pixels that a file of this size can hold.
        what: Description of the pixels, such as "4 x 5 x 6 voxels of int16".

    Raises:
        FileError: `claimed` exceeds `most`.
    """
    if claimed > most:
        raise unreadable(
            path,
            f"its header describes {what}, {claimed:,} bytes, but the file of {path.stat().st_size:,} bytes "
            f"holds at most {max(most, 0):,}",
        )


def check_memory(path: Path, needed: int) -> None:
    """Refuse a file whose content does not fit into the free memory.

    Raises:
        FileError: `needed` bytes exceed the free memory.
    """
    free = psutil.virtual_memory().available
    if needed > free:
        found = f"needs {needed / 1e9:.1f} GB of memory, but only {free / 1e9:.1f} GB are free"
        raise FileError(path, "unreadable", f"{found}; crop or resample it, or use a machine with more memory")


def allocate(path: Path, shape: Sequence[int], dtype: DTypeLike, *, order: Literal["C", "F"] = "C") -> NDArray[Any]:
    """Allocate an array for the content of a file, if it fits into the free memory.

    Raises:
        FileError: The array does not fit.
    """
    check_memory(path, math.prod(shape) * np.dtype(dtype).itemsize)
    return np.empty(shape, dtype, order=order)
