"""One input at a time in a process of its own: what came of it, how long it took, and how much memory it needed."""

import contextlib
import faulthandler
import io
import json
import os
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from scse.support.errors import UserError

MOST_SECONDS = 30.0
MOST_BYTES = 2 * 2**30
"""Of memory that the process has beyond what it had when the input was ready."""

LONGEST_REFUSAL = 3000
"""Characters; what is longer is no message for a person."""

POLL_SECONDS = 0.01
PAGE = os.sysconf("SC_PAGE_SIZE")

Must = Literal["accept", "refuse", "either"]


@dataclass
class Trial:
    """One mutated input, ready to be used.

    Attributes:
        mutation: what was done to it.
        run: uses it, in the way of a user; returns what it was taken for.
        names: a refusal must name one of these: files, folders, arguments.
        must: whether it must be accepted, must be refused, or may be either.
        wrong: what is wrong with the result of `run`, None if it is right.
    """

    mutation: str
    run: Callable[[], Any]
    names: Sequence[str]
    must: Must = "either"
    wrong: Callable[[Any], str | None] = lambda result: None


@dataclass
class Outcome:
    """What came of one input.

    Attributes:
        what: "accepted", "refused", "traceback", "memory", "time", "wrong", "unclear" (refused in words that name
            neither file nor argument) or "harness" (the input could not be made: a fault of this script).
        mutation: what was done.
        detail: the message, the traceback, or what is wrong.
        seconds: that it took.
        megabytes: of memory that it took beyond what was there.
        resident: bytes that the process had before.
    """

    what: str = "harness"
    mutation: str = ""
    detail: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0
    resident: int = 0


class RefusedError(Exception):
    """The command line refused something with a message."""


def command_line(*arguments: str) -> str:
    """Run `scse` in this process, as its entry point would; returns what it printed.

    Raises:
        RefusedError: exit code 1 or 2, with what was printed to stderr.
        Exception: what the command line shows as a traceback.
    """
    from scse.cli.app import main  # noqa: PLC0415 (it must be imported after the process is set up)

    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with (
        mock.patch.object(sys, "argv", ["scse", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    if code in (0, None):
        return out.getvalue()
    if code in (1, 2) and err.getvalue().strip():
        raise RefusedError(err.getvalue())
    raise RuntimeError(f"exit code {code!r} with stderr {err.getvalue()!r}")


def attempt(make: Callable[[Path], Trial], folder: Path) -> Outcome:
    """Make one input in `folder` and use it, in a child process."""
    folder.mkdir(parents=True)
    reading, writing = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(make, folder, writing)
    os.close(writing)
    outcome = Outcome()
    lines, killed = _listen(child, reading, began)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    outcome.seconds = time.monotonic() - began
    for line in lines:
        told = json.loads(line)
        outcome = Outcome(**{**told, "seconds": outcome.seconds})
    if killed:
        outcome.what = killed
        outcome.detail = _tail(folder / "stack.txt") or "killed"
    elif os.WIFSIGNALED(status):
        outcome.what = "traceback"
        outcome.detail = f"died of signal {os.WTERMSIG(status)}: {_tail(folder / 'stack.txt')}"
    if outcome.what in ("accepted", "refused", "unclear") and outcome.megabytes * 2**20 > MOST_BYTES:
        outcome.what = "memory"
    return outcome


def _listen(child: int, reading: int, began: float) -> tuple[list[str], str]:
    """What the child tells, and "time" or "memory" if it had to be killed."""
    content, base, killed = b"", None, ""
    while True:
        ready, _, _ = select.select([reading], [], [], POLL_SECONDS)
        if ready:
            part = os.read(reading, 1 << 16)
            if not part:
                break
            content += part
        resident = _resident(child)
        if base is None and b"\n" in content:
            base = json.loads(content.split(b"\n", 1)[0])["resident"]
        if base is not None and resident - base > MOST_BYTES:
            killed = "memory"
        elif time.monotonic() - began > MOST_SECONDS:
            killed = "time"
        if killed:
            os.kill(child, signal.SIGKILL)
            break
    return content.decode().splitlines(), killed


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _child(make: Callable[[Path], Trial], folder: Path, writing: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        quiet = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(quiet, number)
        with (folder / "stack.txt").open("w") as stack:
            faulthandler.enable(stack)
            faulthandler.dump_traceback_later(MOST_SECONDS - 1, file=stack)
            _tell(writing, _used(make, folder, writing))
    finally:
        os._exit(0)


def _used(make: Callable[[Path], Trial], folder: Path, writing: int) -> Outcome:
    outcome = Outcome()
    try:
        trial = make(folder)
    except BaseException:
        outcome.detail = traceback.format_exc()
        return outcome
    outcome.mutation = trial.mutation
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    outcome.resident = _resident(os.getpid())
    _tell(writing, outcome)
    outcome.what, outcome.detail = _judged(trial)
    outcome.megabytes = max(0, _peak() - outcome.resident) / 2**20
    return outcome


def _judged(trial: Trial) -> tuple[str, str]:  # noqa: PLR0911 (an outcome each)
    try:
        result = trial.run()
    except (UserError, OSError, RefusedError) as error:
        message = str(error)
        if trial.must == "accept":
            return "wrong", f"refused, though it means the same: {message}"
        if "Traceback" in message or not any(name in message.replace("\n", "") for name in trial.names):
            return "unclear", f"{type(error).__name__} names none of {list(trial.names)}: {message[:LONGEST_REFUSAL]}"
        if len(message) > LONGEST_REFUSAL:
            return "unclear", f"{len(message)} characters: {message[:300]}"
        return "refused", message
    except BaseException:
        return "traceback", traceback.format_exc()
    if trial.must == "refuse":
        return "wrong", "accepted"
    wrong = trial.wrong(result)
    return ("accepted", "") if wrong is None else ("wrong", wrong)


def _tell(writing: int, outcome: Outcome) -> None:
    os.write(writing, json.dumps(asdict(outcome)).encode() + b"\n")


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-4000:] if path.is_file() else ""


def removed(folder: Path) -> None:
    """Remove the folder of an input."""
    shutil.rmtree(folder, ignore_errors=True)
