"""What keeps an image or label file from being used, and the checks that come before any of it is read."""

import math
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from numpy.typing import DTypeLike, NDArray

from scse.support.errors import DataError

NOT_FILES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class FileError(DataError):
    """A file that cannot be used: which one, and of what kind the damage is (see `inspection.Problem`)."""

    def __init__(self, file: Path, kind: str, message: str) -> None:
        super().__init__(f"{file}: {message}")
        self.file = file
        self.kind = kind


def unreadable(path: Path, error: Exception | str) -> FileError:
    """The error for a file whose decoder failed with `error`."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return FileError(
        path,
        "unreadable",
        f"cannot be read ({reason[:200]}); it is truncated, damaged or no such file: copy or export it again",
    )


def absence(path: Path) -> str:
    """How a path that leads to no file is described: it does not exist, or is a link to nothing."""
    if path.is_symlink():
        return f"is a link to {path.readlink()}, which does not exist"
    return "does not exist"


def check_is_file(path: Path) -> None:
    """Refuse what is no file before it is opened: opening a named pipe would wait for ever.

    Raises:
        FileError: there is nothing, or a folder, pipe, socket or device.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError as error:
        message = f"{absence(path)}; put the file there, or remove its case"
        raise FileError(path, "unreadable", message) from error
    except OSError as error:
        raise unreadable(path, error) from error
    if kind != stat.S_IFREG:
        found = NOT_FILES.get(kind, "no regular file")
        raise FileError(path, "unreadable", f"is {found}, not a file; put the file itself there, or remove its case")


def check_size(path: Path, claimed: int, most: int, what: str) -> None:
    """Refuse a file whose header claims more bytes than the file can hold.

    Args:
        path: the file.
        claimed: bytes of the pixels that the header describes.
        most: bytes that a file of this size can hold at most.
        what: the pixels in words, such as "4 x 5 x 6 voxels of int16".
    """
    if claimed > most:
        raise unreadable(
            path,
            f"its header describes {what}, {claimed:,} bytes, but the file of {path.stat().st_size:,} bytes "
            f"holds at most {max(most, 0):,}",
        )


def check_memory(path: Path, needed: int) -> None:
    """Refuse a file whose content does not fit into the memory that is free."""
    free = psutil.virtual_memory().available
    if needed > free:
        found = f"takes {needed / 1e9:.1f} GB of memory, but {free / 1e9:.1f} GB are free"
        raise FileError(path, "unreadable", f"{found}; crop or resample it, or use a machine with more memory")


def allocate(path: Path, shape: Sequence[int], dtype: DTypeLike, *, order: Literal["C", "F"] = "C") -> NDArray[Any]:
    """An empty array for what a file holds, if that fits into the memory that is free.

    Raises:
        FileError: it does not fit.
    """
    check_memory(path, math.prod(shape) * np.dtype(dtype).itemsize)
    return np.empty(shape, dtype, order=order)
