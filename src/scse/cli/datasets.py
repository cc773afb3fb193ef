"""Commands about data sets: inspect, data simulate."""

from pathlib import Path
from typing import Annotated

import typer

from scse.cli.printing import console, end_with, say
from scse.support.text import counted


def inspect(
    dataset: Annotated[
        Path,
        typer.Argument(help="Data set: a folder (nnU-Net v2, MSD, BIDS, or images/ and masks/), or a table cases.csv."),
    ],
) -> None:
    """Read every file of a data set, report its content and every problem; exit code 1 if there is any."""
    from scse.cli.console import Watcher, rows_table
    from scse.data.dataset import Dataset
    from scse.data.inspection import inspect as run_inspection

    with Watcher(console()) as watch:
        found = run_inspection(Dataset.open(dataset), progress=watch.counter("inspect"))
    console().print(rows_table(found.summary()))
    end_with([problem.message for problem in found.problems])


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to make; it becomes an nnU-Net v2 data set.")],
    cases: Annotated[int, typer.Option(help="Subjects; the first half is for training.")] = 30,
    seed: Annotated[int, typer.Option(help="Chooses the subjects.")] = 0,
) -> None:
    """Write the built-in cohort: subjects simulated from an atlas, with the paper's 27 structures."""
    from scse.cli.console import Watcher
    from scse.data.cohort import simulate as run_simulation

    with Watcher(console()) as watch:
        run_simulation(out, cases=cases, seed=seed, progress=watch.counter("simulate"))
    say(f"{counted(cases, 'simulated subject')} written to {out}")
