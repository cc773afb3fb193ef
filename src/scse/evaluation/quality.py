"""Training time until a variant reaches the final quality of the baseline."""

import numpy as np
import pandas as pd

RUN = ["network", "variant", "seed", "fold"]


def time_to_quality(curves: pd.DataFrame, *, baseline: str = "none") -> pd.DataFrame:
    """Epochs and seconds of training that each run needs to reach the baseline's final Dice on held-out cases.

    Args:
        curves: Table with one row per epoch and the columns network, variant, seed, fold, epoch, seconds (of training
            since its start), dice (on held-out cases).
        baseline: Variant whose Dice in the last epoch is the target for runs of the same network, seed and fold.

    Returns:
        A table with one row per run and the columns network, variant, seed, fold, target, epochs, seconds. Epochs and
        seconds are those of the first epoch that reached the target; they are NaN if no epoch did, or if the baseline
        has no such run. The row of the baseline itself shows when it first reached its final Dice.
    """
    last = curves.sort_values("epoch", kind="stable").drop_duplicates(RUN, keep="last")
    keys = [key for key in RUN if key != "variant"]
    targets = last.loc[last["variant"] == baseline, [*keys, "dice"]].rename(columns={"dice": "target"})
    runs = curves[RUN].drop_duplicates().merge(targets, on=keys, how="left")
    rows = curves.merge(runs, on=RUN).sort_values("epoch", kind="stable")
    reached = rows[rows["dice"] >= rows["target"]].drop_duplicates(RUN)
    found = reached[[*RUN, "epoch", "seconds"]].rename(columns={"epoch": "epochs"})
    return runs.merge(found, on=RUN, how="left").astype({"target": np.float64, "epochs": np.float64})
