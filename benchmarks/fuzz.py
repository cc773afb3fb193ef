"""Mutated inputs of every kind that scse reads: what becomes of each, in a process of its own.

    python benchmarks/fuzz.py --inputs 10000 --seed 0 --keep /tmp/fuzz
    python benchmarks/fuzz.py --only nifti-header:17       # one of them again; its files stay, and its place is printed

Inputs are shared out over the kinds by their weights. Input NUMBER of a KIND depends on the seed, the kind and the
number alone, not on how many others there are. An input is

    accepted    as what it says, as far as there is a second opinion: what means the same must be read the same, values
                must be those that another reader finds, what is known to be damaged must not be read;
    refused     with one message that names the file, the folder or the argument;
    unclear     refused with a message that names none of them;
    traceback   ended by any other exception, or by a signal;
    memory      took over 2 GB beyond what the process had;
    time        took over 30 s;
    wrong       accepted, but not as what it says, or refused although it means the same as one that is accepted.

The exit code is 1 if any input is of the last five kinds.
"""

import argparse
import gc
import multiprocessing
import signal
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from fuzzing.sandbox import Outcome, attempt, removed
from measuring import machine, markdown

from scse.support.tensorboard_alone import use_monai_alone, use_tensorboard_alone

use_tensorboard_alone()
use_monai_alone()

from fuzzing import kinds  # noqa: E402 (MONAI is imported by it)

COLUMNS = ("accepted", "refused", "unclear", "traceback", "memory", "time", "wrong")
FAULTS = COLUMNS[2:]


def main() -> None:
    """Run the inputs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--kinds", help=f"some of {', '.join(kinds.KINDS)}, with commas")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that are faults, each with what happened")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="one input; its files stay")
    arguments = parser.parse_args()
    if arguments.only:
        sys.exit(_one(arguments.only, arguments.seed, arguments.keep))
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that no process stays behind
    chosen = arguments.kinds.split(",") if arguments.kinds else list(kinds.KINDS)
    outcomes: list[tuple[str, int, Outcome]] = []
    try:
        with tempfile.TemporaryDirectory(prefix="scse-fuzz-") as folder:
            asked = {"seed": arguments.seed, "jobs": arguments.jobs, "keep": arguments.keep}
            for outcome in run(chosen, arguments.inputs, Path(folder), **asked):
                outcomes.append(outcome)
    finally:
        if outcomes:  # also of a run that is stopped
            print(f"{table(outcomes)}\n\n{machine()}")
    sys.exit(any(outcome.what in (*FAULTS, "harness") for _, _, outcome in outcomes))


def _one(text: str, seed: int, keep: Path | None) -> int:
    kind, _, number = text.partition(":")
    scratch = keep or Path(tempfile.mkdtemp(prefix="scse-fuzz-"))
    _prepare(scratch / "base")
    folder = scratch / f"{kind}-{number}"
    removed(folder)
    found = _attempt(kind, int(number), seed, scratch / "base", folder)
    print("\n".join(f"{name}: {value}" for name, value in asdict(found).items()), f"\nfiles: {folder}", sep="")
    return int(found.what in (*FAULTS, "harness"))


def shares(chosen: list[str], inputs: int) -> dict[str, int]:
    """Inputs of each kind, by weight; each kind has one at least."""
    weights = {name: kinds.KINDS[name].weight for name in chosen}
    return {name: max(1, round(inputs * weight / sum(weights.values()))) for name, weight in weights.items()}


def run(
    chosen: list[str], inputs: int, scratch: Path, *, seed: int, jobs: int, keep: Path | None
) -> Iterator[tuple[str, int, Outcome]]:
    """Every input's kind, number and outcome, as they end; faults are reported to stderr and kept."""
    _prepare(scratch / "base")
    tasks = [
        (name, number, seed, scratch, keep) for name, count in shares(chosen, inputs).items() for number in range(count)
    ]
    # kinds differ in time: shuffled, the processes end together
    order = np.random.default_rng(seed).permutation(len(tasks))
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for done, (name, number, outcome) in enumerate(
            pool.imap_unordered(_task, [tasks[place] for place in order], chunksize=1), start=1
        ):
            if outcome.what in (*FAULTS, "harness"):
                last = outcome.detail.strip().splitlines()[-1:] or [""]
                print(
                    f"{name}:{number} {outcome.what}: {outcome.mutation}: {last[0][:300]}", file=sys.stderr, flush=True
                )
            if done % 500 == 0:
                print(f"{done} of {len(tasks)}", file=sys.stderr, flush=True)
            yield name, number, outcome


def _prepare(base: Path) -> None:
    """Make what inputs are made from, in a process of its own, so that this one stays small and has no threads."""
    torch.set_num_threads(1)
    worker = multiprocessing.get_context("fork").Process(target=kinds.make_base, args=(base,))
    worker.start()
    worker.join()
    if worker.exitcode:
        raise SystemExit("the unmutated inputs could not be made")
    gc.collect()
    gc.freeze()


def _task(task: tuple[str, int, int, Path, Path | None]) -> tuple[str, int, Outcome]:
    name, number, seed, scratch, keep = task
    folder = (keep or scratch) / f"{name}-{number}"
    removed(folder)
    outcome = _attempt(name, number, seed, scratch / "base", folder)
    if keep and outcome.what in (*FAULTS, "harness"):
        text = "\n".join(f"{field}: {value}" for field, value in asdict(outcome).items())
        (folder / "outcome.txt").write_text(f"{name}:{number} --seed {seed}\n{text}\n")
    else:
        removed(folder)
    return name, number, outcome


def _attempt(name: str, number: int, seed: int, base: Path, folder: Path) -> Outcome:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
    return attempt(lambda place: kinds.KINDS[name].make(rng, place, base), folder)


def table(outcomes: list[tuple[str, int, Outcome]]) -> str:
    """The counts of each kind in Markdown, with the longest time and the most memory of an input."""
    rows = []
    for name in [
        *dict.fromkeys(name for name, _, _ in sorted(outcomes, key=lambda each: list(kinds.KINDS).index(each[0])))
    ]:
        of_kind = [outcome for kind, _, outcome in outcomes if kind == name]
        rows.append(_row(name, of_kind))
    rows.append(_row("all", [outcome for _, _, outcome in outcomes]))
    return markdown(("kind of input", "inputs", *COLUMNS, "longest (s)", "most memory (MB)"), rows)


def _row(name: str, outcomes: list[Outcome]) -> tuple[object, ...]:
    counts = Counter(outcome.what for outcome in outcomes)
    longest, most = max(o.seconds for o in outcomes), max(o.megabytes for o in outcomes)
    return name, len(outcomes), *(counts[what] for what in COLUMNS), f"{longest:.1f}", f"{most:.0f}"


if __name__ == "__main__":
    main()
