"""How long a variant trains until it is as good as the plain network in the end."""

import numpy as np
import pandas as pd

RUN = ["network", "variant", "seed", "fold"]


def time_to_quality(curves: pd.DataFrame, *, baseline: str = "none") -> pd.DataFrame:
    """Epochs and seconds of training that each run needs to reach the baseline's final Dice on the held-out cases.

    Args:
        curves: network, variant, seed, fold, epoch, seconds (of training, since its start), dice (on held-out
            cases); one row per epoch.
        baseline: the variant whose last epoch's Dice is the target, for the runs of its network, seed and fold.

    Returns:
        A table with one row per run: network, variant, seed, fold, target, epochs, seconds, as the first epoch
        reached the target (NaN: it never did, or there is no run of the baseline). The baseline's own row says
        when it first was as good as in the end.
    """
    last = curves.sort_values("epoch", kind="stable").drop_duplicates(RUN, keep="last")
    keys = [key for key in RUN if key != "variant"]
    targets = last.loc[last["variant"] == baseline, [*keys, "dice"]].rename(columns={"dice": "target"})
    runs = curves[RUN].drop_duplicates().merge(targets, on=keys, how="left")
    rows = curves.merge(runs, on=RUN).sort_values("epoch", kind="stable")
    reached = rows[rows["dice"] >= rows["target"]].drop_duplicates(RUN)
    found = reached[[*RUN, "epoch", "seconds"]].rename(columns={"epoch": "epochs"})
    return runs.merge(found, on=RUN, how="left").astype({"target": np.float64, "epochs": np.float64})
