"""Model cards of runs: with how they were trained, their scores on test cases, and the verdict of their study."""

from collections.abc import Iterator
from pathlib import Path

from scse.evaluation.comparison import compare
from scse.evaluation.reading import read_table, tidy
from scse.evaluation.scores import mean_rows
from scse.evaluation.verdict import verdict_text
from scse.inference.cards import card_of_segmenter, markdown_table
from scse.inference.saved import read_saved
from scse.studies.execution import SCORES
from scse.studies.grid import RUNS
from scse.support.text import counted
from scse.training.log import read_log
from scse.training.record import RECORD, RunRecord, read_record

SHOWN = (
    "epochs",
    "slices_per_epoch",
    "batch_size",
    "optimizer",
    "learning_rate",
    "loss",
    "class_weights",
    "simulate",
    "seed",
)
"""Settings in the card; the segmenter has all of them."""


def model_card(
    folder: Path | str,
    repository: str,
    *,
    license: str | None = None,  # noqa: A002 (the name of the field in the card)
) -> str:
    """The model card of a run, or of a segmenter alone.

    Args:
        folder: Folder of a run, also of one in a study, or of a segmenter.
        repository: OWNER/NAME, for the command that uses it.
        license: Licence of the weights, as the Hub abbreviates it, such as "cc-by-4.0"; None leaves it open.

    Raises:
        DataError: The folder contains no segmenter, or a file of the run or study is damaged.
    """
    folder = Path(folder)
    saved = read_saved(folder)
    sections = list(_sections(folder)) if (folder / RECORD).is_file() else []
    return card_of_segmenter(saved, repository, license=license, sections=sections)


def _sections(folder: Path) -> Iterator[tuple[str, str]]:
    record = read_record(folder)
    yield "Training", markdown_table(("", ""), _training(record))
    if (folder / SCORES).is_file():
        scores = tidy(read_table(folder / SCORES), folder / SCORES)
        headings = ("structure", "Dice", "HD95 (mm)", "MSD (mm)", "cases")
        text = "Means over test cases, which were not used in the training."
        yield "Scores", f"{text}\n\n{markdown_table(headings, mean_rows(scores))}"
    else:
        yield "Scores", _validation(folder, record)
    together = folder.parent.parent / SCORES
    if folder.parent.name == RUNS and together.is_file():
        comparison = compare(tidy(read_table(together), together))
        yield "Verdict of the study", f"```text\n{verdict_text(comparison)}\n```"


def _training(record: RunRecord) -> Iterator[tuple[str, object]]:
    simulated = record.settings.simulate
    if simulated < 1:
        yield "cases", len(record.training)
    if simulated:
        share = f"{simulated:.0%} of the training" if simulated < 1 else "all of the training"
        yield "simulated subjects", f"{share}, from {counted(len(record.sources), 'labelled image')}"
    for name in SHOWN:
        yield name, getattr(record.settings, name)
    for name, found in (record.software or {}).items():
        yield name, found
    if record.devices:
        yield "devices", ", then ".join(record.devices)


def _validation(folder: Path, record: RunRecord) -> str:
    history = read_log(folder)
    if not record.held_out or not history:
        return "It has not been tested on cases that were not used in the training."
    cases, dice = len(record.held_out), history[-1].dice
    if record.settings.simulate == 1:
        return (
            f"Mean Dice {dice:.3f} on {counted(cases, 'simulated subject')}, which says nothing about real images. "
            "It has not been tested otherwise."
        )
    return (
        f"Mean Dice {dice:.3f} on {counted(cases, 'held-out case')} after training. It has not been tested otherwise."
    )
