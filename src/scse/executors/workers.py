"""Worker processes of this machine."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Self

from scse.executors.base import RETRIES, Item, Outcome, Result, died, drive
from scse.support.events import Event, Stage, StoppedError, Watch

STOP = "stop"
"""What a worker receives in place of an item, to end the item that it is doing."""

THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Workers:
    """Processes that each do one item at a time and share the cores.

    Attributes:
        jobs: Number of processes.
    """

    jobs: int

    @property
    def threads(self) -> int:
        """Threads of each process: its share of the cores, unless OMP_NUM_THREADS says how many."""
        given = os.environ.get(THREADS, "")
        return int(given) if given.isdecimal() else max(1, _cores() // self.jobs)

    def __str__(self) -> str:
        """Where items are done."""
        return f"{self.jobs} worker processes of this machine, threads of each: {self.threads}"

    def each(
        self, function: Callable[[Item, Watch], Result], items: Mapping[str, Item], watch: Watch
    ) -> Iterator[tuple[str, Result]]:
        """See `scse.executors.base.Executor`."""
        return drive(_LocalPool(min(self.jobs, len(items)), self.threads, function), items, watch)


class _Worker:
    """One process. A thread of ours puts what it sends into a queue, and None when it has ended."""

    def __init__(self, threads: int, function: object, inbox: "SimpleQueue[tuple[_Worker, Any]]") -> None:
        self.name, self.item = "", None
        self.process = subprocess.Popen(
            # -P: files of the current folder do not shadow modules, as in the command scse
            [sys.executable, "-P", "-m", "scse.executors.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, THREADS: str(threads)},
            start_new_session=True,  # Ctrl-C reaches this process alone, which asks the workers to stop
        )
        self.send(function)
        Thread(target=self._listen, args=(inbox,), daemon=True).start()

    def send(self, value: object) -> None:
        """Send a value; of a process that has ended, the reading thread knows."""
        if self.process.stdin is not None:
            with suppress(OSError):
                pickle.dump(value, self.process.stdin)
                self.process.stdin.flush()

    def start(self, name: str, item: Any) -> None:
        """Send an item to be done."""
        self.name, self.item = name, item
        self.send((item,))

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):  # what waits to be sent has no reader any more
                    stream.close()

    def _listen(self, inbox: "SimpleQueue[tuple[_Worker, Any]]") -> None:
        try:
            while self.process.stdout is not None:
                inbox.put((self, pickle.load(self.process.stdout)))  # noqa: S301 (our own process wrote it)
        except (
            EOFError,
            OSError,
            ValueError,
            pickle.UnpicklingError,
        ):  # it has ended, perhaps in the middle of a value
            inbox.put((self, None))


class _LocalPool:
    """Workers that are started as they are needed, and replaced when they die."""

    def __init__(self, jobs: int, threads: int, function: object) -> None:
        self.room, self.threads, self.function = jobs, threads, function
        self.inbox: SimpleQueue[tuple[_Worker, Any]] = SimpleQueue()
        self.idle: list[_Worker] = []
        self.busy: list[_Worker] = []
        self.deaths: dict[str, int] = {}
        self.stopping = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in (*self.idle, *self.busy):
            worker.end()

    def submit(self, name: str, item: Any) -> None:
        """See `scse.executors.base.Pool`."""
        worker = self.idle.pop() if self.idle else _Worker(self.threads, self.function, self.inbox)
        self.busy.append(worker)
        worker.start(name, item)

    def take(self, seconds: float, *, stop: bool) -> list[tuple[str, Event | Outcome]]:
        """See `scse.executors.base.Pool`."""
        if stop and not self.stopping:
            for worker in self.busy:
                worker.send(STOP)
        self.stopping = stop
        try:
            arrived = [self.inbox.get(timeout=seconds)]
        except Empty:
            return []
        arrived += [self.inbox.get() for _ in range(self.inbox.qsize())]
        return [named for worker, message in arrived for named in self._receive(worker, message, stop=stop)]

    def _receive(self, worker: _Worker, message: Any, *, stop: bool) -> list[tuple[str, Event | Outcome]]:
        if message is None:
            return self._replace(worker, stop=stop)
        if isinstance(message, Outcome):
            self.busy.remove(worker)
            self.idle.append(worker)
        return [(worker.name, message)]

    def _replace(self, worker: _Worker, *, stop: bool) -> list[tuple[str, Event | Outcome]]:
        """Do the item of a dead worker again."""
        worker.end()
        if worker not in self.busy:
            self.idle.remove(worker)
            return []
        self.busy.remove(worker)
        name, code = worker.name, worker.process.returncode
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        if stop:
            return [(name, Outcome(error=StoppedError(f"{name}: its process ended {how}")))]
        self.deaths[name] = self.deaths.get(name, 0) + 1
        if self.deaths[name] > RETRIES:
            return [(name, died(name, how))]
        self.submit(name, worker.item)
        return [(name, Stage(f"its process ended {how}; another one continues"))]


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
