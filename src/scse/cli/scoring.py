"""Commands about scores: evaluate, compare."""

from pathlib import Path
from typing import Annotated

import typer

from scse.cli.options import Margin, Overwrite
from scse.cli.printing import console, say


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Label map, or folder of label maps.")],
    references: Annotated[Path, typer.Argument(help="Reference label map, or folder of them.")],
    dataset: Annotated[Path | None, typer.Option(help="Data set whose structures are scored [values found].")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for scores.parquet and scores.csv.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Score label maps: Dice, 95 % Hausdorff distance and mean surface distance in mm, per case and structure."""
    from scse.cli.console import rows_table
    from scse.evaluation.scores import evaluate as run_evaluation
    from scse.evaluation.scores import mean_rows, score_paths, write_scores
    from scse.support.outputs import check_outputs, marked

    if out is not None:
        check_outputs(score_paths(out), overwrite=overwrite)
    scores = run_evaluation(predictions, references, dataset=dataset)
    console().print(rows_table(mean_rows(scores), "structure", "Dice", "HD95 (mm)", "MSD (mm)", "cases"))
    if out is not None:
        with marked(score_paths(out)):
            written = write_scores(scores, out)
        for path in written:
            say(f"written: {path}")


def compare(
    scores: Annotated[
        list[str],
        typer.Argument(help="A table of scores, CSV or Parquet, of any set of runs; or NAME=FILES for each variant."),
    ],
    baseline: Annotated[str, typer.Option(help="The variant that the others are compared with.")] = "none",
    metric: Annotated[str, typer.Option(help="The metric to compare: dice, hd95, msd, or any other.")] = "dice",
    lower_is_better: Annotated[
        bool | None,
        typer.Option("--lower-is-better/--higher-is-better", help="For a metric that scse does not know."),
    ] = None,
    margin: Margin = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for the tables as CSV files.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare variants over cases and trainings: differences with intervals, tests, noise floor, ranks, a verdict.

    The table has the columns network, variant, seed, fold, case, structure, metric and value, one score a row; only
    variant, case and value are needed. Variants are compared within each network, and within each value of the columns
    epochs and train_cases if there are any.

    Instead, each variant can have files of its own, also those of nnU-Net v2 (summary.json), MONAI (METRIC_raw.csv) and
    MIST (results.csv): `scse compare "none=a/fold_*/validation" "scse=b/fold_*/validation"`. FILES are paths and
    patterns, separated by commas. Further files of the same fold are further seeds.
    """
    from scse.cli.console import rows_table
    from scse.evaluation.comparison import compare as run_comparison
    from scse.evaluation.comparison import table_paths, write_tables
    from scse.evaluation.printing import missing_lines, printed
    from scse.evaluation.ranking import ranking
    from scse.evaluation.variant_files import read_compared
    from scse.evaluation.verdict import verdict_text
    from scse.support.outputs import check_outputs, marked

    if out is not None:
        check_outputs(table_paths(out), overwrite=overwrite)
    table = read_compared(scores, metric=metric, baseline=baseline, on_note=say)
    found = run_comparison(table, baseline=baseline, metric=metric, lower_is_better=lower_is_better, margin=margin)
    ranks = ranking(table, metric=metric, lower_is_better=lower_is_better)
    for title, headings, rows in printed(found, ranks):
        say(title)
        console().print(rows_table(rows, *headings), "")
    for line in missing_lines(found):
        say(line)
    say(verdict_text(found))
    if out is not None:
        with marked(table_paths(out)):
            written = write_tables(found, ranks, out)
        for path in written:
            say(f"written: {path}")
