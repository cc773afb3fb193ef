"""Several processes at one study: a run is done by one of them at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from scse.training.run import Stop, StoppedError

POLL_SECONDS = 1.0


@contextmanager
def claimed(path: Path, stop: Stop, *, wait: bool) -> Iterator[bool]:
    """Hold what a file stands for, so that no other process on this machine or file system holds it.

    The claim ends with the process, however that ends; the file may stay.

    Args:
        path: of the file; its folder is made.
        stop: asked every second while waiting.
        wait: until another process gives it up.

    Yields:
        Whether it is held; always, with `wait`.

    Raises:
        StoppedError: `stop` said so.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    while not (held := _acquired(lock, POLL_SECONDS if wait else 0)) and wait:
        if stop():
            raise StoppedError("stopped while another process was at work on the study; what it does is kept")
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
