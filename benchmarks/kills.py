"""Trainings and studies that are killed at random moments and go on: is the end the same, bit for bit?

    python benchmarks/kills.py --kills 200 --seed 0

Each round runs `scse train` or `scse study` on a tiny data set, kills it again and again by SIGKILL, SIGTERM or SIGINT
(now and then twice), at moments drawn from the seed, and calls it again: the same command, or `scse train --resume`.
After its last kill a round runs to its end, and is compared with the same command that nothing interrupted:

    weights     every weights.safetensors, byte for byte;
    scores      scores.csv of a study, byte for byte; loss and Dice of every epoch in log.jsonl;
    tracebacks  in what the commands printed;
    exit codes  of those that were interrupted, or went on, other than they should be;
    leftovers   temporary files that are still there at the end, in the folder of the run and in the cache.

Processes are forked from one that has imported everything, which saves seconds each; they run the command line itself.
The moments are drawn from the seed; what the processes are at just then depends on the machine. The exit code is 1 if
anything differs.
"""

import argparse
import gc
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from measuring import machine, markdown

from scse.support.tensorboard_alone import use_monai_alone, use_tensorboard_alone

use_tensorboard_alone()
use_monai_alone()

import fuzzing.kinds  # noqa: E402, F401 (it imports all that the commands need, MONAI too)
from fuzzing.base import write_nnunet  # noqa: E402

from scse.cli.app import main as scse_main  # noqa: E402

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
KILLS_A_ROUND = 8
MOST_SECONDS = 120.0
"""That a process may take to end, by itself or after a signal."""

SIZES = ("--set", "width=2", "--set", "depth=1", "--set", "batch_size=2", "--set", "slices_per_epoch=24",
         "--set", "precision=32", "--epochs", "4")  # fmt: skip
COMMANDS = {
    "train": ("--variant", "scse"),
    "study": ("--variants", "none,scse", "--seeds", "1"),
}
INTERRUPTED = 130
TEMPORARY = (
    ".making-",
    ".weights",
    ".checkpoint",
    ".segmenter",
    ".run",
    ".scores",
    ".log",
    ".costs",
    ".curves",
    ".plan",
)


@dataclass
class Round:
    """What one round found.

    Attributes:
        command: "train" or "study".
        kills: how often each signal met a process at work.
        equal: whether the end was that of the uninterrupted command.
        faults: what was wrong, in words.
        tracebacks: in the output.
        leftovers: temporary files at the end.
    """

    command: str
    kills: Counter[str] = field(default_factory=Counter)
    equal: bool = False
    faults: list[str] = field(default_factory=list)
    tracebacks: int = 0
    leftovers: list[str] = field(default_factory=list)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="rounds at a time")
    parser.add_argument("--keep", type=Path, help="folder for the rounds that end otherwise, with all output")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that no process stays behind
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory(prefix="scse-kills-") as scratch:
        folder = Path(scratch)
        data = write_nnunet(folder / "data", cases=4, tests=2)
        seconds = {command: _uninterrupted(command, data, folder / f"whole-{command}") for command in COMMANDS}
        count = -(-arguments.kills // KILLS_A_ROUND)
        tasks = [
            ("study" if number % 3 == 2 else "train", number, arguments.seed, folder, seconds, arguments.keep)
            for number in range(count)
        ]
        with multiprocessing.get_context("fork").Pool(arguments.jobs) as pool:
            rounds = []
            for found in pool.imap_unordered(_round, tasks, chunksize=1):
                rounds.append(found)
                print(f"{len(rounds)} of {count}: {found.command}, {found.kills.total()} kills", file=sys.stderr)
                for fault in [*found.faults, *found.leftovers]:
                    print(f"  {fault}", file=sys.stderr)
    print(table(rounds))
    print(f"\nuninterrupted: {', '.join(f'{name} {each:.1f} s' for name, each in seconds.items())}; {machine()}")
    sys.exit(any(not found.equal or found.faults or found.tracebacks or found.leftovers for found in rounds))


def table(rounds: list[Round]) -> str:
    """The counts of each command in Markdown."""
    rows = []
    for command in COMMANDS:
        chosen = [found for found in rounds if found.command == command]
        kills = sum((found.kills for found in chosen), Counter())
        rows.append(
            (
                f"scse {command}",
                *(kills[name.name] for name in SIGNALS),
                f"{sum(found.equal for found in chosen)} of {len(chosen)}",
                sum(found.tracebacks for found in chosen),
                sum(len(found.faults) for found in chosen),
                sum(len(found.leftovers) for found in chosen),
            )
        )
    heading = ("command", *(name.name for name in SIGNALS), "ends equal", "tracebacks", "other faults", "leftovers")
    return markdown(heading, rows)


def _arguments(command: str, data: Path, out: Path) -> list[str]:
    return [command, str(data), "-o", str(out), *SIZES, *COMMANDS[command]]


def _uninterrupted(command: str, data: Path, folder: Path) -> float:
    """Run a command to its end; returns the seconds that it took."""
    began = time.monotonic()
    code, _ = _run(_arguments(command, data, folder / "out"), folder)
    if code != 0:
        raise SystemExit(f"scse {command} ended with {code}:\n{(folder / 'output.txt').read_text()}")
    return time.monotonic() - began


def _round(task: tuple[str, int, int, Path, dict[str, float], Path | None]) -> Round:
    command, number, seed, scratch, seconds, keep = task
    rng = np.random.default_rng([seed, zlib.crc32(command.encode()), number])
    folder = scratch / f"round-{number}"
    found = Round(command)
    out, plain = folder / "out", _arguments(command, scratch / "data", folder / "out")
    tries = 0
    while found.kills.total() < KILLS_A_ROUND and tries < 3 * KILLS_A_ROUND:
        tries += 1
        # most moments in the first part, so that a study is also met before its report
        delay = float(rng.beta(1, 2)) * seconds[command]
        chosen, twice = SIGNALS[int(rng.integers(len(SIGNALS)))], bool(rng.random() < 0.1)
        code, sent = _run(_next(rng, command, plain, out), folder, delay=delay, kill=chosen, twice=twice)
        if sent:
            found.kills[chosen.name] += 1
        _judge(found, code, chosen if sent else None, tries)
        if not sent and code == 0:
            # it came to its end: compared, and begun again
            _compare(found, out, scratch / f"whole-{command}" / "out")
            shutil.rmtree(out)
            shutil.rmtree(folder / "cache")
    code, _ = _run(plain, folder)
    _judge(found, code, None, tries + 1)
    found.equal = _compare(found, out, scratch / f"whole-{command}" / "out")
    found.leftovers = [
        str(path.relative_to(folder)) for path in sorted(folder.rglob(".*")) if path.name.startswith(TEMPORARY)
    ]
    found.tracebacks = (folder / "output.txt").read_text(errors="replace").count("Traceback (most recent call last)")
    if keep and (not found.equal or found.faults or found.tracebacks or found.leftovers):
        shutil.copytree(folder, keep / folder.name, dirs_exist_ok=True)
    shutil.rmtree(folder)
    return found


def _next(rng: np.random.Generator, command: str, plain: list[str], out: Path) -> list[str]:
    """The same command, or `--resume` where there is a training that can be gone on with."""
    resumable = command == "train" and (out / "checkpoint.safetensors").exists()
    return ["train", "--resume", str(out)] if resumable and rng.random() < 0.5 else plain


def _judge(found: Round, code: int, sent: signal.Signals | None, number: int) -> None:
    """Note an exit code that is none of those that there may be."""
    allowed = {0, -signal.SIGKILL} if sent == signal.SIGKILL else {0}
    if sent in (signal.SIGTERM, signal.SIGINT):
        # before the handlers are there, Python and the system do what they do; a second signal interrupts at once
        allowed = {0, INTERRUPTED, -signal.SIGTERM, -signal.SIGINT, 1}
    if code not in allowed:
        found.faults.append(f"call {number} ended with {code} after {sent.name if sent else 'no signal'}")


def _run(
    arguments: list[str], folder: Path, *, delay: float = 0.0, kill: signal.Signals | None = None, twice: bool = False
) -> tuple[int, bool]:
    """Run the command line in a process; returns its exit code, and whether the signal met it at work."""
    folder.mkdir(parents=True, exist_ok=True)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _child(arguments, folder, writing)
    os.close(writing)
    os.read(reading, 1)  # the fork itself is no part of what is tested
    os.close(reading)
    began, sent = time.monotonic(), False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), sent
        elapsed = time.monotonic() - began
        if kill is not None and not sent and elapsed > delay:
            os.kill(child, kill)
            sent = True
            if twice:
                time.sleep(0.01)
                os.kill(child, kill)
        if elapsed > MOST_SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -999, sent
        time.sleep(0.002)


def _child(arguments: list[str], folder: Path, ready: int) -> None:
    code = 99
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(output, f"\n$ scse {' '.join(arguments)}\n".encode())
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ["SCSE_CACHE"] = str(folder / "cache")
        sys.argv = ["scse", *arguments]
        os.write(ready, b".")
        scse_main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _compare(found: Round, out: Path, whole: Path) -> bool:
    """Compare what a round left with what the uninterrupted command left; differences are noted."""
    before = len(found.faults)
    names = [path.relative_to(whole) for path in sorted(whole.rglob("weights.safetensors"))]
    names += [path.relative_to(whole) for path in sorted(whole.rglob("scores.csv"))]
    for name in names:
        if not (out / name).is_file():
            found.faults.append(f"{name} is missing")
        elif (out / name).read_bytes() != (whole / name).read_bytes():
            found.faults.append(f"{name} differs")
    for path in sorted(whole.rglob("log.jsonl")):
        name = path.relative_to(whole)
        if not (out / name).is_file() or _epochs(out / name) != _epochs(path):
            found.faults.append(f"{name} differs")
    return len(found.faults) == before


def _epochs(log: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [{name: row[name] for name in ("epoch", "loss", "dice", "learning_rate")} for row in rows]


if __name__ == "__main__":
    main()
