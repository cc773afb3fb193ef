"""Commands about data sets: inspect, simulate."""

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from scse.cli.printing import complain, console, end_with, say
from scse.support.text import counted
from scse.vocabulary.contrasts import Contrast


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
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[IMAGE LABELS]", help="Image and its label map [the brain atlas of the built-in cohort]."
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make; it becomes a data set.")],
    cases: Annotated[int, typer.Option(help="Subjects; the first half is for training.")] = 30,
    seed: Annotated[int, typer.Option(help="Selects the subjects.")] = 0,
    contrast: Annotated[str, typer.Option(help="Intensities: source (like those of the image), or random.")] = "source",
) -> None:
    """Write subjects with exact labels, simulated from one labelled image; by default the built-in cohort."""
    from scse.cli.console import Watcher
    from scse.support.checks import check_choice

    check_choice("contrast", contrast, get_args(Contrast))
    if files and len(files) != 2:
        raise typer.BadParameter("give an image and its label map, or neither for the built-in cohort")
    if not files and contrast != "source":
        raise typer.BadParameter(
            "--contrast needs an image and its label map; the built-in cohort has that of its atlas"
        )
    with Watcher(console()) as watch:
        progress = watch.counter("simulate")
        if files:
            from scse.simulation.writing import simulate_from

            image, labels = files
            chosen = cast("Contrast", contrast)
            simulate_from(image, labels, out, cases=cases, seed=seed, contrast=chosen, progress=progress)
        else:
            from scse.simulation.writing import simulate_cohort

            simulate_cohort(out, cases=cases, seed=seed, progress=progress)
    say(f"{counted(cases, 'simulated subject')} written to {out}")


def simulate_as_before(
    out: Annotated[Path, typer.Argument(help="Folder to make; it becomes an nnU-Net v2 data set.")],
    cases: Annotated[int, typer.Option(help="Subjects; the first half is for training.")] = 30,
    seed: Annotated[int, typer.Option(help="Selects the subjects.")] = 0,
) -> None:
    """Former form of `scse simulate -o OUT`."""
    complain("notice", "scse data simulate OUT is now scse simulate -o OUT; the next version no longer has it")
    simulate(None, out=out, cases=cases, seed=seed)
