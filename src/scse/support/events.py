"""What training and studies report while they run, and how they are asked to stop.

Every event is a value of its own class. A function that takes long gets one `Watch`, which holds the callback for
events and the question whether to stop.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

Counted = Literal[
    "simulate",
    "inspect",
    "prepare",
    "measure",
    "cleaning",
    "score",
    "predict",
    "explain",
    "viewer",
    "gates",
    "report",
]
"""Tasks whose items are counted."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Items of a task that are done.

    Attributes:
        what: Name of the task.
        done: Finished items.
        total: Items in all.
    """

    what: Counted
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Stage:
    """Something that is beginning, or worth a line.

    Attributes:
        what: A phrase for people.
    """

    what: str


@dataclass(frozen=True, slots=True)
class Planned:
    """What will be done, before any training.

    Attributes:
        rows: Pairs (what, value) for people.
        runs: Number of training runs.
    """

    rows: Sequence[tuple[str, str]]
    runs: int


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins, goes on from its checkpoint, or was finished before.

    Attributes:
        run: Name of the run.
        folder: Folder of the run.
        number: Its place among the runs, counted from 1.
        runs: Number of runs.
        settings: The fields of `Settings`; in a study also "fold" and "train_cases".
    """

    run: str
    folder: Path
    number: int
    runs: int
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StepDone:
    """Training steps of an epoch are done.

    On a CPU this is reported after every step. Other devices compute while Python goes on, and asking them for a loss
    would make both wait: there it is reported after every tenth step (`REPORT_INTERVAL` of `scse.training.loop`) and
    after the last step of an epoch.

    Attributes:
        epoch: Number of the epoch, counted from 1.
        step: Finished steps of the epoch.
        steps: Steps of an epoch.
        loss: Loss of the last finished step.
        images_per_second: Mean rate of the run so far, without validation.
        seconds_left: Estimated time to the end of the run, without validation.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class EpochDone:
    """An epoch is done and validated: a line of the log.

    Attributes:
        epoch: Number of the epoch, counted from 1.
        loss: Mean training loss over its steps.
        dice: Mean Dice on the held-out cases; NaN without any.
        seconds: Training time since the start of the run, without validation.
        learning_rate: Learning rate after its last step.
    """

    epoch: int
    loss: float
    dice: float
    seconds: float
    learning_rate: float


@dataclass(frozen=True, slots=True)
class CleaningStep:
    """A step of clean-up that was tried, and changes the Dice of held-out cases.

    Attributes:
        what: The step, in words.
        before: Mean Dice before it of what it changes: of one structure, or of all.
        after: Mean Dice after it.
        kept: Whether it is kept, because it raises the mean Dice by at least 0.0005 and lowers that of no structure.
    """

    what: str
    before: float
    after: float
    kept: bool


@dataclass(frozen=True, slots=True)
class CleaningChosen:
    """The clean-up of label maps is chosen, after the last epoch of a run that is not part of a study.

    Attributes:
        cases: Names of the held-out cases on which it was chosen.
        before: Mean Dice of these cases without clean-up.
        after: Mean Dice with it. It is optimistic, because the clean-up was chosen on the same cases.
        steps: The steps that change Dice, in the order in which they were tried.
    """

    cases: Sequence[str]
    before: float
    after: float
    steps: Sequence[CleaningStep]


@dataclass(frozen=True, slots=True)
class Trained:
    """A run that is not part of a study is finished, and its segmenter saved.

    Attributes:
        run: Name of the run.
        folder: Folder of the run.
    """

    run: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Scored:
    """A run of a study is trained and scored.

    Attributes:
        run: Name of the run.
        folder: Folder of the run.
        scores: Metric -> mean over test cases and structures.
        skipped: Whether an earlier call had finished it.
    """

    run: str
    folder: Path
    scores: Mapping[str, float]
    skipped: bool


@dataclass(frozen=True, slots=True)
class Reported:
    """The report of a study is written.

    Attributes:
        path: The page.
        folder: Folder of the study.
    """

    path: Path
    folder: Path


@dataclass(frozen=True, slots=True)
class Within:
    """An event of one of several items that are done at the same time, each in a process of its own.

    Attributes:
        name: Name of the item, such as that of a run.
        event: What it reported.
    """

    name: str
    event: "Event"


Event = (
    Progress
    | Stage
    | Planned
    | RunStarted
    | StepDone
    | EpochDone
    | CleaningChosen
    | Trained
    | Scored
    | Reported
    | Within
)

OnEvent = Callable[[Event], None]
Stop = Callable[[], bool]


class StoppedError(Exception):
    """Work was stopped on request; what is finished is kept."""


def ignore(event: Event) -> None:
    """Do nothing with an event."""


def never() -> bool:
    """Never stop."""
    return False


@dataclass(frozen=True, slots=True)
class Watch:
    """Who watches some work, and whether it is to stop.

    The default reports to nobody and never stops.

    Attributes:
        on_event: Called with every event.
        stop: Called between steps of the work; True asks to stop.
    """

    on_event: OnEvent = ignore
    stop: Stop = never

    def report(self, event: Event) -> None:
        """Report an event."""
        self.on_event(event)

    def check(self, message: str) -> None:
        """Stop here if asked to.

        Raises:
            StoppedError: `stop` returned True; with the message.
        """
        if self.stop():
            raise StoppedError(message)

    def counter(self, what: Counted) -> Callable[[int, int], None]:
        """A progress callback (done, total) that reports `Progress` of the task `what`, and stops if asked to."""

        def count(done: int, total: int) -> None:
            self.report(Progress(what, done, total))
            self.check(f"stopped after {done} of {total} ({what})")

        return count

    def checking(self, message: str) -> Self:
        """The same watch, which also checks after every event, with this message."""

        def report(event: Event) -> None:
            self.report(event)
            self.check(message)

        return replace(self, on_event=report)


UNWATCHED = Watch()
"""Reports to nobody and never stops."""
