"""The executor that a user asks for."""

from collections.abc import Generator
from contextlib import contextmanager

from scse.executors.base import Executor, Here
from scse.executors.workers import Workers
from scse.support.errors import UserError


@contextmanager
def open_executor(
    on: str | None, jobs: int, *, cpus: int | None = None, gpus: float | None = None, device: str = "auto"
) -> Generator[Executor]:
    """The executor for `--on` and `--jobs`; a connection to a cluster ends with the block.

    Args:
        on: "ray" or "ray:HOST:PORT"; None is this machine.
        jobs: Worker processes of this machine; 1 is this process.
        cpus: CPUs of each item on a cluster, by default 1.
        gpus: GPUs of each item on a cluster; by default 1 if it has GPUs and `device` may be one.
        device: Device of the items, as the user named it.

    Raises:
        MissingLibraryError: Ray is not installed.
        UserError: A value is not allowed, or there is no such cluster.
    """
    if on is None:
        if cpus is not None or gpus is not None:
            raise UserError("cpus_per_run and gpus_per_run are for a cluster; name it with --on ray, or leave them out")
        if jobs < 1:
            raise UserError(f"jobs must be 1 or more, got {jobs}")
        yield Here() if jobs == 1 else Workers(jobs)
        return
    kind, _, address = on.partition(":")
    if kind != "ray" or on == "ray:":
        raise UserError(f"on must be ray, or ray:HOST:PORT of a cluster such as ray:10.0.0.1:6379, got {on!r}")
    if jobs != 1:
        raise UserError("jobs are processes of this machine, and on names a cluster; leave one of them out")
    if cpus is not None and cpus < 1:
        raise UserError(f"cpus_per_run must be 1 or more, got {cpus}")
    if gpus is not None and not (gpus >= 0 and (gpus <= 1 or gpus == int(gpus))):
        raise UserError(f"gpus_per_run must be a share from 0 to 1 or a whole number, got {gpus}")
    from scse.executors.on_ray import OnRay, connected, gpus_there  # noqa: PLC0415 (an optional package)

    with connected(address or None):
        if gpus is None:
            gpus = float(device != "cpu" and gpus_there() > 0)
        yield OnRay(cpus=cpus or 1, gpus=gpus)
