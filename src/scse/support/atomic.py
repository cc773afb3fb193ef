"""Atomic writes, and the removal of unfinished files that killed processes left behind.

Unfinished files are called `.scse-MACHINE-RANDOM.part`. An unfinished folder has such a file next to it and the same
name, with `.d` instead of `.part`. The writer holds a lock on the `.part` file, which the system releases when the
process ends for any reason. The first write of a process into a folder removes leftovers of other processes. A file is
a leftover if no process holds its lock and, in addition, it was created on this machine since the last boot, or it has
not been modified for a day. This rule is safe if several processes, containers and machines use a folder. (Some network
file systems have locks only within a machine, or none; there, the age of a day decides.)
"""

import hashlib
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

if sys.platform != "win32":
    import fcntl

PREFIX, PART, FOLDER = ".scse-", ".part", ".d"
DAY = 24 * 60 * 60.0


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file atomically, and create its folder if necessary."""
    write_together({path: content})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write files that belong together: all are written to disk first, then moved into place in the order given.

    If the disk is full, none of them changes. If the process is killed while the files are moved, the later ones are
    unchanged, so a file that marks completion must be the last.
    """
    with ExitStack() as stack:
        parts = {path: stack.enter_context(_written(path, content)) for path, content in files.items()}
        for path, part in parts.items():
            with named(path):
                part.replace(path)


@contextmanager
def temporary_folder(parent: Path, *, becomes: Path | None = None) -> Generator[Path]:
    """Create a temporary folder inside `parent`, which is created if necessary, and delete it at the end.

    An OSError in the block names `becomes` (by default `parent`) instead of the temporary folder.
    """
    with named(becomes or parent), _part(parent) as part:
        folder = part.with_suffix(FOLDER)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # the next process removes what cannot be deleted now


def write_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write an array in the format of `numpy.save`, with an OSError that names the file and the reason."""
    whole = np.ascontiguousarray(array)
    with named(path), path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(whole))
        file.write(whole.data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def named(path: Path) -> Generator[None]:
    """Set the file name of an OSError in the block that names no file or only a temporary one."""
    try:
        yield
    except OSError as error:
        unknown = error.filename is None or f"{os.sep}{PREFIX}" in os.fsdecode(error.filename)
        if error.errno is not None and unknown:
            error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def open_atomic(path: Path) -> Generator[BinaryIO]:
    """Open a file for atomic writing in several steps. If the block raises, the file is not written."""
    with named(path), _part(path.parent) as part:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o644)  # `mkstemp` creates files that only the owner can read
        part.replace(path)


@contextmanager
def _written(path: Path, content: bytes) -> Generator[Path]:
    """Write a temporary file with this content, and delete it at the end if it still exists."""
    with ExitStack() as stack:
        with named(path):
            part = stack.enter_context(_part(path.parent))
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.chmod(0o644)  # `mkstemp` creates files that only the owner can read
        yield part


@contextmanager
def _part(folder: Path) -> Generator[Path]:
    """Create and lock a temporary file, and delete it at the end if it still exists."""
    folder.mkdir(parents=True, exist_ok=True)
    _clean(folder.absolute())
    while True:
        handle, name = tempfile.mkstemp(dir=folder, prefix=f"{PREFIX}{_machine()}-", suffix=PART)
        # another process may have removed it as a leftover before it was locked
        if _locked(handle) is not False and os.fstat(handle).st_nlink:
            break
        os.close(handle)
    with os.fdopen(handle, "wb") as holder:
        if sys.platform == "win32":
            holder.close()  # Windows cannot replace an open file
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


def _locked(handle: int) -> bool | None:
    """Lock an open file. Return False if another process holds the lock, None if the file system has no locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@cache
def _clean(folder: Path) -> None:
    """Remove the leftovers of killed processes from a folder, once per process."""
    for part in folder.glob(f"{PREFIX}*{PART}"):
        with suppress(OSError):  # another process may remove it too, or another user may own it
            handle = os.open(part, os.O_RDWR)
            try:
                if _is_leftover(part, handle):
                    shutil.rmtree(part.with_suffix(FOLDER), ignore_errors=True)
                    part.unlink()
            finally:
                os.close(handle)


def _is_leftover(part: Path, handle: int) -> bool:
    free = _locked(handle)
    own = part.name.startswith(f"{PREFIX}{_machine()}-")
    return free is not False and ((own and free is True) or time.time() - os.fstat(handle).st_mtime > DAY)


@cache
def _machine() -> str:
    """Return an identifier that all processes and containers of a machine share until its next boot."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    name = boot.read_text() if boot.is_file() else platform.node()
    return hashlib.sha256(name.encode()).hexdigest()[:8]
