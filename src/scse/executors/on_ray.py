"""A Ray cluster whose machines share a file system: data and results go by path."""

import logging
import os
import platform
import signal
import socket
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scse.executors.base import RETRIES, Item, Outcome, Result, attempt, died, drive
from scse.executors.process import settle
from scse.support.errors import DataError, UserError, in_short
from scse.support.events import Event, StoppedError, Watch
from scse.support.extras import needing

ROOM = 1000
"""Items that are submitted to the cluster at a time; more wait in this process."""

POST_SECONDS = 1.0
"""Seconds between two messages of an item: it brings its events, and learns whether to stop."""

CONNECT_SECONDS = 10.0

REMEDY = "start it with `ray start --head` on one machine and `ray start --address=HEAD:6379` on the others"


@dataclass(frozen=True)
class OnRay:
    """A Ray cluster that this process is connected to.

    Attributes:
        cpus: CPUs of each item, which are its threads.
        gpus: GPUs of each item; a share such as 0.25 lets 4 items use one.
    """

    cpus: int
    gpus: float

    def __str__(self) -> str:
        """Where items are done."""
        import ray  # noqa: PLC0415 (an optional package, which takes seconds)

        there: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        nodes = sum(bool(node["Alive"]) for node in ray.nodes())  # type: ignore[no-untyped-call]
        have = f"machines: {nodes}, CPUs: {there.get('CPU', 0):g}, GPUs: {there.get('GPU', 0):g}"
        return f"Ray ({have}), with {self.cpus} CPU and {self.gpus:g} GPU each"

    def each(
        self, function: Callable[[Item, Watch], Result], items: Mapping[str, Item], watch: Watch
    ) -> Iterator[tuple[str, Result]]:
        """See `scse.executors.base.Executor`."""
        return drive(_ray_pool(function, self), items, watch)


@contextmanager
def connected(address: str | None) -> Generator[None]:
    """Connect this process to a cluster, unless it is connected.

    Args:
        address: HOST:PORT of its head; None is the cluster of RAY_ADDRESS or of this machine, which is started if there
            is none.

    Raises:
        MissingLibraryError: Ray is not installed.
        UserError: There is no such cluster.
    """
    with needing("--on ray", "ray"):
        import ray  # noqa: PLC0415 (an optional package, which takes seconds)
    place = None if address is None else _parsed(address)
    if ray.is_initialized():
        yield
        return
    if place is not None:
        _reach(*place)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"cannot connect to the Ray cluster ({in_short(error)}); {REMEDY}") from error
    signal.signal(signal.SIGTERM, handler)  # Ray's own would end this process without saving anything
    try:
        yield
    finally:
        ray.shutdown()


def _parsed(address: str) -> tuple[str, int]:
    """Host and port of an address."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise UserError(f"on must be ray, or ray:HOST:PORT of a cluster such as ray:10.0.0.1:6379, got 'ray:{address}'")
    return host, int(port)


def _reach(host: str, port: int) -> None:
    """Check that there is a server; Ray itself would try for minutes."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"there is no Ray cluster at {host}:{port} ({in_short(error)}); {REMEDY}") from error


def gpus_there() -> float:
    """GPUs of the cluster."""
    import ray  # noqa: PLC0415

    return float(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]


class _Desk:
    """Where items post their events, and learn whether to stop: an actor on the machine of the driver."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, Event]] = []
        self.stopped = False

    def post(self, name: str, events: list[Event]) -> bool:
        """Add events of an item; returns whether it is to stop."""
        self.posted += [(name, event) for event in events]
        return self.stopped

    def take(self, stop: bool) -> list[tuple[str, Event]]:
        """Remove all events, and set whether items are to stop."""
        posted, self.posted, self.stopped = self.posted, [], stop
        return posted


class _Poster:
    """The watch of an item in its process: events wait up to a second for the next message to the desk."""

    def __init__(self, desk: Any, name: str) -> None:
        self.desk, self.name = desk, name
        self.waiting: list[Event] = []
        self.stopped, self.last = False, 0.0

    def report(self, event: Event) -> None:
        """Post an event, soon."""
        self.waiting.append(event)
        self.stop()

    def stop(self) -> bool:
        """Whether to stop, as known a second ago."""
        if time.monotonic() - self.last >= POST_SECONDS:
            self.flush()
        return self.stopped

    def flush(self) -> None:
        """Post what waits."""
        import ray  # noqa: PLC0415

        self.stopped = ray.get(self.desk.post.remote(self.name, self.waiting))
        self.waiting, self.last = [], time.monotonic()


def _do(function: list[Any], name: str, item: Any, *, desk: Any, folder: Path, threads: int) -> Outcome:
    """Do an item, in a process of the cluster. Relative paths mean what they mean for the driver."""
    import ray  # noqa: PLC0415

    settle()
    call = ray.get(function[0])  # in a list, because it imports what `settle` has to come before
    import torch  # noqa: PLC0415

    try:
        os.chdir(folder)
    except OSError as error:
        where = f"on the machine {platform.node()}"
        remedy = "run the command in a folder that all machines of the cluster share"
        return Outcome(error=DataError(f"{folder}: cannot be opened {where} ({in_short(error)}); {remedy}"))
    torch.set_num_threads(threads)
    poster = _Poster(desk, name)
    outcome = attempt(call, item, Watch(poster.report, poster.stop))
    poster.flush()
    return outcome


class _RayPool:
    """Items as tasks of a cluster; see `scse.executors.base.Pool`."""

    def __init__(self, task: Any, function: Any, desk: Any, threads: int) -> None:
        self.room, self.task, self.function, self.desk, self.threads = ROOM, task, function, desk, threads
        self.names: dict[Any, str] = {}  # of the items that are submitted, by the reference to their outcome

    def submit(self, name: str, item: Any) -> None:
        """Do an item when the cluster has room."""
        reference = self.task.remote(self.function, name, item, desk=self.desk, folder=Path.cwd(), threads=self.threads)
        self.names[reference] = name

    def take(self, seconds: float, *, stop: bool) -> list[tuple[str, Event | Outcome]]:
        """What items reported, and the outcomes of those that ended, after their events."""
        import ray  # noqa: PLC0415

        ended, _ = ray.wait(list(self.names), num_returns=len(self.names), timeout=seconds)
        messages: list[tuple[str, Event | Outcome]] = list(ray.get(self.desk.take.remote(stop)))
        for reference in ended:
            name = self.names.pop(reference)
            try:
                outcome = ray.get(reference)
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError as error:
                how = f"with {in_short(error)}"
                outcome = Outcome(error=StoppedError(f"{name}: ended {how}")) if stop else died(name, how)
            messages.append((name, outcome))
        return messages


@contextmanager
def _ray_pool(function: object, executor: OnRay) -> Generator[_RayPool]:
    """The tasks of one call; those that are not finished end with it."""
    import ray  # noqa: PLC0415
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote  # its types know no keywords
    desk = remote(_Desk).options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here).remote()
    task = remote(_do).options(num_cpus=executor.cpus, num_gpus=executor.gpus, max_retries=RETRIES)
    pool = _RayPool(task, [ray.put(function)], desk, executor.cpus)
    try:
        yield pool
    finally:
        for reference in pool.names:
            ray.cancel(reference, force=True)
        ray.kill(desk)
