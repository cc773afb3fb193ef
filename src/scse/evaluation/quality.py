"""Training time until a variant reaches the final quality of the baseline."""

import numpy as np
import pandas as pd

from scse.evaluation.setups import setup_columns


def run_columns(table: pd.DataFrame) -> list[str]:
    """The columns of a table that tell runs apart."""
    return [*setup_columns(table), "variant", "seed", "fold"]


def time_to_quality(curves: pd.DataFrame, *, baseline: str = "none") -> pd.DataFrame:
    """Epochs and seconds of training that each run needs to reach the baseline's final Dice on held-out cases.

    Args:
        curves: Table with one row per epoch and the columns network, variant, seed, fold, epoch, seconds (of training
            since its start), dice (on held-out cases); in a study that varies them also epochs and train_cases.
        baseline: Variant whose Dice in the last epoch is the target for runs of the same network, seed and fold.

    Returns:
        A table with one row per run and the columns that identify the run, target, epoch and seconds. The latter two
        are those of the first epoch that reached the target; they are NaN if no epoch did, or if the baseline has no
        such run. The row of the baseline itself shows when it first reached its final Dice.
    """
    run = run_columns(curves)
    last = curves.sort_values("epoch", kind="stable").drop_duplicates(run, keep="last")
    keys = [key for key in run if key != "variant"]
    targets = last.loc[last["variant"] == baseline, [*keys, "dice"]].rename(columns={"dice": "target"})
    runs = curves[run].drop_duplicates().merge(targets, on=keys, how="left")
    rows = curves.merge(runs, on=run).sort_values("epoch", kind="stable")
    reached = rows[rows["dice"] >= rows["target"]].drop_duplicates(run)
    found = runs.merge(reached[[*run, "epoch", "seconds"]], on=run, how="left")
    return found.astype({"target": np.float64, "epoch": np.float64})
