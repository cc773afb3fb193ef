"""Files that are there whole or not at all, and the removal of what killed processes left half written.

Unfinished files are called `.scse-MACHINE-RANDOM.part`; an unfinished folder has the same name with `.d` in place of
`.part`, beside such a file. Whoever writes holds a lock on the `.part` file, which the system releases when the process
ends, however it ends. The first write of a process into a folder removes what others left there, by a rule that is safe
with several processes, containers and machines at one folder: nobody holds the lock, and the file was made on this
machine since it was started, or has not been touched for a day. (Some network file systems keep locks within a machine,
or have none; there the day decides.)
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
    """Write a file so that it is there whole or not at all, and make its folder if need be."""
    write_together({path: content})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write files that belong together: all are on disk before the first takes its place, in the order given.

    On a full disk none of them changes. A process killed between two of them leaves the later ones as they were, so the
    one that says that all is done goes last.
    """
    with ExitStack() as stack:
        parts = {path: stack.enter_context(_written(path, content)) for path, content in files.items()}
        for path, part in parts.items():
            with named(path):
                part.replace(path)


@contextmanager
def temporary_folder(parent: Path, *, becomes: Path | None = None) -> Generator[Path]:
    """A folder inside `parent`, which is made if need be, for what is not finished; it is deleted at the end.

    Faults of the machine in it name what it becomes, `parent` by default.
    """
    with named(becomes or parent), _part(parent) as part:
        folder = part.with_suffix(FOLDER)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # what stays is removed by the next process


def write_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write an array as `numpy.save` does, which does not say why it could not."""
    whole = np.ascontiguousarray(array)
    with named(path), path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(whole))
        file.write(whole.data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def named(path: Path) -> Generator[None]:
    """Make an OSError name this file where it names none, or the temporary one that it is written as."""
    try:
        yield
    except OSError as error:
        unknown = error.filename is None or f"{os.sep}{PREFIX}" in os.fsdecode(error.filename)
        if error.errno is not None and unknown:
            error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def open_atomic(path: Path) -> Generator[BinaryIO]:
    """Open a file to be written in parts, as `write_atomic` does; if the block raises, there is no file."""
    with named(path), _part(path.parent) as part:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o644)  # `mkstemp` makes files that only the owner can read
        part.replace(path)


@contextmanager
def _written(path: Path, content: bytes) -> Generator[Path]:
    """A temporary file with this content; deleted at the end if it is still there."""
    with ExitStack() as stack:
        with named(path):
            part = stack.enter_context(_part(path.parent))
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.chmod(0o644)  # `mkstemp` makes files that only the owner can read
        yield part


@contextmanager
def _part(folder: Path) -> Generator[Path]:
    """A new temporary file, held while it is in use; deleted at the end if it is still there."""
    folder.mkdir(parents=True, exist_ok=True)
    _clean(folder.absolute())
    while True:
        handle, name = tempfile.mkstemp(dir=folder, prefix=f"{PREFIX}{_machine()}-", suffix=PART)
        # another process may have taken it for a leftover before it was locked
        if _locked(handle) is not False and os.fstat(handle).st_nlink:
            break
        os.close(handle)
    with os.fdopen(handle, "wb") as holder:
        if sys.platform == "win32":
            holder.close()  # no open file is replaced there
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


def _locked(handle: int) -> bool | None:
    """Lock an open file; False if another process holds it, None where the file system has no locks."""
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
    """Remove what killed processes left in a folder, once a process."""
    for part in folder.glob(f"{PREFIX}*{PART}"):
        with suppress(OSError):  # another process removes it too, or it belongs to somebody else
            handle = os.open(part, os.O_RDWR)
            try:
                if _is_left(part, handle):
                    shutil.rmtree(part.with_suffix(FOLDER), ignore_errors=True)
                    part.unlink()
            finally:
                os.close(handle)


def _is_left(part: Path, handle: int) -> bool:
    free = _locked(handle)
    own = part.name.startswith(f"{PREFIX}{_machine()}-")
    return free is not False and ((own and free is True) or time.time() - os.fstat(handle).st_mtime > DAY)


@cache
def _machine() -> str:
    """The same in all processes and containers of a machine until it is started again, and nowhere else."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    name = boot.read_text() if boot.is_file() else platform.node()
    return hashlib.sha256(name.encode()).hexdigest()[:8]
