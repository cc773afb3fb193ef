"""What a path leads to, examined before it is opened: opening a named pipe would block forever."""

import stat
from pathlib import Path

from scse.support.errors import DataError, in_short

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def absence(path: Path) -> str:
    """Why no file is found at a path: it does not exist, or is a broken link."""
    if path.is_symlink():
        return f"is a link to {path.readlink()}, which does not exist"
    return "does not exist"


def file_problem(path: Path) -> str:
    """Why a path is not that of a regular file, such as "is a folder, not a file"; "" if it is one."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        return absence(path)
    except OSError as error:
        return f"cannot be read ({in_short(error)})"
    return "" if kind == stat.S_IFREG else f"is {_KINDS.get(kind, 'a special file')}, not a file"


def check_regular_file(path: Path, *, remedy: str) -> None:
    """Refuse a path that is not that of a regular file.

    Args:
        path: Path to examine.
        remedy: What to do, for the message.

    Raises:
        DataError: The path leads to nothing, or to a folder, pipe, socket or device.
    """
    if problem := file_problem(path):
        raise DataError(f"{path}: {problem}; {remedy}")
