"""Several processes at one study: a run is done by one of them at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from scse.support.events import Watch

POLL_SECONDS = 1.0

LOCKS = "locks"
"""Folder of the lock files within that of the study."""


@contextmanager
def claimed(path: Path, watch: Watch, *, wait: bool) -> Iterator[bool]:
    """Hold a lock file, so that no other process on this machine or file system holds it.

    The lock ends with the process, however that ends; the file may stay.

    Args:
        path: The lock file; its folder is created.
        watch: Checked every second while waiting.
        wait: Wait until another process releases it.

    Yields:
        Whether it is held; always True with `wait`.

    Raises:
        StoppedError: The watch asked to stop.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    while not (held := _acquired(lock, POLL_SECONDS if wait else 0)) and wait:
        watch.check("stopped while another process was at work on the study; what it does is kept")
    try:
        yield held
    finally:
        lock.release()


def _acquired(lock: FileLock, seconds: float) -> bool:
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    return True
