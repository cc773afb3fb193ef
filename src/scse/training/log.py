"""The log of a run: its epochs as lines of JSON and as TensorBoard events."""

import json
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from scse.support.atomic import named, write_atomic
from scse.support.errors import DataError
from scse.support.events import EpochDone
from scse.support.json_files import parse_json, validated
from scse.training.state import Row

LOG = "log.jsonl"


@contextmanager
def open_log(folder: Path, history: Sequence[EpochDone]) -> Generator[Callable[[EpochDone], None]]:
    """Open the log of a run, and bring it to where the checkpoint stands.

    It may be ahead of the checkpoint, if the run was killed between writing both, or be of a run that starts again.

    Args:
        folder: Folder of the run.
        history: The epochs in the checkpoint.

    Yields:
        A function that writes an epoch to `log.jsonl` and to TensorBoard.
    """
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (takes seconds, and only a training writes)

    path = folder / LOG
    write_atomic(path, "".join(map(_line, history)).encode())
    with (
        _one_report_per_error(),
        named(folder),
        SummaryWriter(str(folder), purge_step=len(history) + 1) as board,
    ):

        def write(epoch: EpochDone) -> None:
            with named(path), path.open("a") as file:
                file.write(_line(epoch))
            board.add_scalar("loss", epoch.loss, epoch.epoch)
            board.add_scalar("dice", epoch.dice, epoch.epoch)
            board.add_scalar("learning_rate", epoch.learning_rate, epoch.epoch)
            board.add_scalar("seconds", epoch.seconds, epoch.epoch)
            board.flush()

        yield write


def read_log(folder: Path) -> list[EpochDone]:
    """The epochs in the log of a finished run.

    Raises:
        DataError: The log cannot be read, or a line is damaged.
    """
    path = folder / LOG
    remedy = "delete it with the scores beside it, and run the same command again, which writes both anew"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {remedy}") from error
    epochs = []
    for number, line in enumerate(lines, start=1):
        content = parse_json(line, path=path, remedy=remedy)
        row = validated(_LogRow, content, path=path, remedy=remedy, within=f"line {number}", strict=True)
        epochs.append(row.epoch_done())
    return epochs


class _LogRow(Row):
    """A line of the log."""

    event: Literal["epoch"]


def _line(epoch: EpochDone) -> str:
    row = {
        "event": "epoch",
        "epoch": epoch.epoch,
        "loss": epoch.loss,
        "dice": epoch.dice,
        "seconds": epoch.seconds,
        "learning_rate": epoch.learning_rate,
    }
    return json.dumps(row) + "\n"


@contextmanager
def _one_report_per_error() -> Generator[None]:
    """Keep TensorBoard's thread from printing an error that it also raises in the next write."""
    before = threading.excepthook

    def report(args: threading.ExceptHookArgs) -> None:
        if not type(args.thread).__module__.startswith("tensorboard."):
            before(args)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = before
