"""What all executors do: the protocol, this process as an executor, and the loop of those that have other processes."""

import pickle
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

from scse.support.errors import UserError, in_short
from scse.support.events import Event, StoppedError, Watch, Within

Item = TypeVar("Item")
Result = TypeVar("Result")

RETRIES = 3
"""How many times an item is done again after the process that was doing it died."""

POLL_SECONDS = 0.2
STOPPED = "stopped; what was under way is saved, and what is finished is kept"


class Executor(Protocol):
    """Does independent items; `str` describes where."""

    def each(
        self, function: Callable[[Item, Watch], Result], items: Mapping[str, Item], watch: Watch
    ) -> Iterator[tuple[str, Result]]:
        """Call a function with every item, and yield its results as they are finished, with the names of their items.

        If the process or machine that does an item dies, the item is done again, from its beginning: the function has
        to continue from what it left on disk, and must not be harmed by a first process that still lives.

        Args:
            function: Called with an item and a watch. It and its results are pickled, unless it runs in this process.
            items: The items, by names that people know.
            watch: Gets the events; those of other processes as `Within`, with the name of their item. After a stop or
                an error, no further item begins, those under way are asked to stop, and their results are yielded.

        Raises:
            StoppedError: The watch asked to stop.
            UserError: The processes that did an item died too often.
            Exception: The first that the function raised.
        """
        ...


class Here:
    """This process, one item after the other."""

    def __str__(self) -> str:
        """Where items are done."""
        return "this process"

    def each(
        self, function: Callable[[Item, Watch], Result], items: Mapping[str, Item], watch: Watch
    ) -> Iterator[tuple[str, Result]]:
        """See `Executor.each`."""
        for name, item in items.items():
            yield name, function(item, watch)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an item ended.

    Attributes:
        result: What the function returned.
        error: What it raised; None if it returned.
    """

    result: Any = None
    error: BaseException | None = None


def attempt(function: Callable[[Any, Watch], Any], item: Any, watch: Watch) -> Outcome:
    """Call the function in a process of an executor. An error keeps its traceback as a note."""
    try:
        watch.check(STOPPED)
        return Outcome(function(item, watch))
    except Exception as error:
        trace = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 (made in the line itself)
        except Exception:  # errors of other code may be anything
            return Outcome(error=RuntimeError(f"{in_short(error)}\n{trace}"))
        if not isinstance(error, UserError | StoppedError):
            error.add_note(f"In the process that did it:\n{trace}")
        return Outcome(error=error)


def died(name: str, how: str) -> Outcome:
    """The outcome of an item that is given up, because the processes that did it died."""
    return Outcome(
        error=UserError(
            f"{name}: {1 + RETRIES} processes died while doing it, the last one {how}; if memory ran out, do fewer at "
            "the same time or choose a smaller batch_size, then run the same command again"
        )
    )


class Pool(Protocol):
    """Processes that do items.

    Attributes:
        room: Most items that may be submitted and not finished.
    """

    room: int

    def submit(self, name: str, item: Any) -> None:
        """Do an item, now or when a process is free."""
        ...

    def take(self, seconds: float, *, stop: bool) -> list[tuple[str, Event | Outcome]]:
        """What items reported, with their names; wait some seconds for it. `stop` asks the items under way to stop."""
        ...


def drive(pool: AbstractContextManager[Pool], items: Mapping[str, Item], watch: Watch) -> Iterator[tuple[str, Any]]:
    """Have items done by a pool, see `Executor.each`. Leaving the generator, in any way, closes the pool."""
    waiting, under_way = iter(items.items()), 0
    problem: BaseException | None = None
    with pool as processes:
        while True:
            for name, item in islice(waiting, 0 if problem else processes.room - under_way):
                processes.submit(name, item)
                under_way += 1
            if not under_way:
                break
            if problem is None and watch.stop():
                problem = StoppedError(STOPPED)
            for name, message in processes.take(POLL_SECONDS, stop=problem is not None):
                if not isinstance(message, Outcome):
                    watch.report(Within(name, message))
                    continue
                under_way -= 1
                if message.error is None:
                    yield name, message.result
                elif problem is None or (
                    isinstance(problem, StoppedError) and not isinstance(message.error, StoppedError)
                ):
                    problem = message.error
    if problem is not None:
        raise problem
