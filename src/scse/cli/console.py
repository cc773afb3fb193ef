"""Output while something runs: progress bars in a terminal, plain lines in a file."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from scse.support.events import (
    CleaningChosen,
    Counted,
    EpochDone,
    Event,
    Planned,
    Progress,
    RunStarted,
    Scored,
    Stage,
    StepDone,
    Watch,
    Within,
)
from scse.support.text import counted

SIGNALS = (signal.SIGINT, signal.SIGTERM)

WHAT: Mapping[Counted, str] = {
    "simulate": "simulating subjects",
    "inspect": "reading all files",
    "prepare": "preparing slices",
    "measure": "measuring structures",
    "cleaning": "predicting held-out cases for the clean-up",
    "score": "predicting and scoring",
    "predict": "predicting",
    "explain": "computing gates",
    "viewer": "packing cases for the report",
    "gates": "measuring channel gates",
    "report": "drawing the report",
}


class Watcher:
    """Shows the events of training and studies; use it as a context manager and call it with each event."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.tasks: dict[str, TaskID] = {}
        self.last_dice = ""

    def __enter__(self) -> Self:
        """Start the bars."""
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bars."""
        self.progress.stop()

    def __call__(self, event: Event) -> None:
        """Show one event; `Trained` and `Reported` are not shown."""
        match event:
            case Planned():
                self.console.print(rows_table(event.rows))
            case RunStarted():
                self.last_dice = ""
                self.console.print(Text(f"run {event.number} of {event.runs}: {event.run}", style="bold"))
            case Stage():
                self.console.print(Text(f"{event.what} ..."))
            case Progress():
                self._bar(WHAT[event.what], event.done, event.total)
            case StepDone():
                self._step(event)
            case EpochDone():
                self._epoch(event)
            case CleaningChosen():
                self._cleaning(event)
            case Scored():
                self.console.print(f"  {_scored(event)}")
            case Within():
                self._within(event)

    def counter(self, what: Counted) -> Callable[[int, int], None]:
        """A progress callback (done, total)."""
        return Watch(self).counter(what)

    def _within(self, event: Within) -> None:
        """Show one of several items: a bar for each that trains, and lines that begin with its name."""
        inner, training = event.event, f"{event.name}: training"
        match inner:
            case RunStarted():
                self(inner)
            case StepDone():
                self._bar(
                    training, inner.step, inner.steps, f"{event.name}: epoch {inner.epoch}  loss {inner.loss:.3f}"
                )
            case Stage():
                self.console.print(Text(f"{event.name}: {inner.what} ..."))
            case EpochDone():
                self.console.print(Text(f"{event.name}: {_epoch(inner)}"))
            case Scored():
                if training in self.tasks:
                    self.progress.remove_task(self.tasks.pop(training))
                self.console.print(Text(f"{event.name}: {_scored(inner)}"))

    def _step(self, event: StepDone) -> None:
        loss, rate = f"loss {event.loss:.3f}", f"{event.images_per_second:.0f} images/s"
        left = f"{event.seconds_left / 60:.0f} min of training left"
        text = f"epoch {event.epoch}  {loss}{self.last_dice}  {rate}  {left}"
        self._bar("training", event.step, event.steps, text)

    def _epoch(self, event: EpochDone) -> None:
        self.last_dice = f"  Dice {event.dice:.3f}"
        self.console.print(f"  {_epoch(event)}")

    def _cleaning(self, event: CleaningChosen) -> None:
        self.console.print(
            f"  clean-up chosen on {counted(len(event.cases), 'held-out case')}: mean Dice {event.before:.4f} before, "
            f"{event.after:.4f} after it (optimistic: the same cases)"
        )
        for step in event.steps:
            why = "kept: raises Dice and lowers it for no structure" if step.kept else "not kept"
            self.console.print(Text(f"    {step.what}: Dice {step.before:.4f} -> {step.after:.4f}, {why}"))
        if not event.steps:
            self.console.print("    no step changes Dice, so none is kept")

    def _bar(self, name: str, done: int, total: int, text: str = "") -> None:
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(text or name, total=total)
        self.progress.update(self.tasks[name], completed=done, total=total, description=text or name)
        if done >= total:
            self.progress.remove_task(self.tasks.pop(name))


def _epoch(event: EpochDone) -> str:
    held_out = f"Dice on held-out cases {event.dice:.3f}"
    return f"epoch {event.epoch}: loss {event.loss:.3f}, {held_out}, {event.seconds:.0f} s of training"


def _scored(event: Scored) -> str:
    means = event.scores
    before = " (was finished before)" if event.skipped else ""
    return (
        f"test cases: Dice {means['dice']:.3f}, 95 % Hausdorff distance {means['hd95']:.2f}, "
        f"mean surface distance {means['msd']:.2f} mm{before}"
    )


@contextmanager
def stop_on_signal(console: Console, *, apart: float = 0) -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop, which loops check; a second one interrupts at once.

    A third one, during the cleanup, ends the process.

    Args:
        console: Where the request is confirmed.
        apart: Seconds after the first signal in which others are taken for the same.

    Yields:
        A function that returns whether to stop.
    """
    asked: list[int] = []
    since: list[float] = []
    answered: list[int] = []
    interrupted: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        # nothing is printed here: whatever was interrupted may itself be in the middle of printing
        if asked and time.monotonic() - since[0] < apart:
            return
        if asked:
            for each in SIGNALS:
                signal.signal(each, signal.SIG_DFL)
            interrupted.append(number)
            raise KeyboardInterrupt
        asked.append(number)
        since.append(time.monotonic())

    def stop() -> bool:
        if asked and not answered:
            answered.extend(asked)
            console.print("[yellow]stopping after this step, to save where it stands ...")
        return bool(asked)

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield stop
    except Exception:
        # libraries in C may make an error of their own of an interruption
        if interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def rows_table(rows: Sequence[tuple[Any, ...]], *headings: str) -> Table:
    """A plain table of rows. `[Brackets]` in them are text, not markup, and nothing is cut off."""
    table = Table(show_header=bool(headings), box=None, pad_edge=False)
    for heading in headings:
        table.add_column(Text(heading), overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    return table
