"""Costs and learning curves of all runs of a study."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from scse.blocks.modules import VARIANTS
from scse.data.files import read_image
from scse.evaluation.setups import setup_columns, setup_of, stack, with_setups
from scse.inference.segmenter import Segmenter
from scse.studies.costs import measure_costs
from scse.studies.plan import Plan
from scse.support.atomic import write_atomic
from scse.support.events import Stage, Watch
from scse.training.log import read_log

COST_NUMBERS = ["parameters", "kept_mib", "step_seconds", "step_ratio", "predict_seconds", "predict_ratio"]
CURVE_COLUMNS = ["variant", "seed", "fold", "epoch", "seconds", "loss", "dice"]


def costs_of(plan: Plan, watch: Watch) -> pd.DataFrame:
    """Costs of every network's variants; measured once, and again only if a variant or setup is added.

    Epochs and training cases do not change the costs: those of a network are repeated for all of its setups.
    """
    path = plan.out / "costs.csv"
    if path.exists():
        known = known_costs(path)
        found = {(setup_of(row), row["variant"]) for row in known.to_dict("records")}
        if found == {(run.setup, str(run.variant)) for run in plan.runs}:
            return known
    check = partial(watch.check, "stopped while the costs were measured; all runs are finished and kept")
    watch.report(Stage("measuring the cost of each variant"))
    case = plan.folds[0].test[0]
    tables = []
    for network in plan.networks:
        runs = [run for run in plan.runs if run.network == network]
        first = {run.variant: run for run in reversed(runs)}
        variants = sorted(first, key=lambda variant: VARIANTS.index(variant.kind))
        segmenters = {
            variant: Segmenter.load(plan.folder(first[variant]), network=network.text, device=plan.device)
            for variant in variants
        }
        task, settings = plan.task(runs[0], watch), plan.run_settings(runs[0])
        table = measure_costs(task, settings, segmenters, read_image(case.images), before=check)
        tables += [(setup, table) for setup in dict.fromkeys(run.setup for run in runs)]
    costs = stack(tables)
    write_atomic(path, costs.to_csv(index=False).encode())
    return costs


def known_costs(path: Path) -> pd.DataFrame:
    """Costs that were measured; an empty table if the file is damaged or of an earlier version."""
    try:
        known = pd.read_csv(path, keep_default_na=False)
        if not {"network", "variant", *COST_NUMBERS} <= set(known.columns):
            return pd.DataFrame()
        known = with_setups(known, str(path))
    except (OSError, ValueError):
        return pd.DataFrame()
    numbers = known[COST_NUMBERS].apply(pd.to_numeric, errors="coerce")
    sound = np.isfinite(numbers).all(axis=None) and (numbers >= 0).all(axis=None)
    return known if sound and not known.duplicated([*setup_columns(known), "variant"]).any() else pd.DataFrame()


def curves_of(plan: Plan) -> pd.DataFrame:
    """Every epoch of every run, written as `curves.csv` too."""
    tables = []
    for run in plan.runs:
        rows = pd.DataFrame(read_log(plan.folder(run))).assign(variant=str(run.variant), seed=run.seed, fold=run.fold)
        tables.append((run.setup, rows[CURVE_COLUMNS]))
    curves = stack(tables)
    write_atomic(plan.out / "curves.csv", curves.to_csv(index=False).encode())
    return curves
