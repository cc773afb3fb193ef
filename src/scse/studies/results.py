"""What the runs of a study left, gathered: costs and learning curves."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from scse.blocks.modules import VARIANTS
from scse.data.files import read_image
from scse.evaluation.quality import RUN
from scse.inference.segmenter import Segmenter
from scse.studies.costs import measure_costs
from scse.studies.plan import Plan
from scse.support.atomic import write_atomic
from scse.support.events import Stage, Watch
from scse.training.log import read_log

COST_NAMES = ["network", "variant"]
COST_NUMBERS = ["parameters", "kept_mib", "step_seconds", "step_ratio", "predict_seconds", "predict_ratio"]
CURVE_COLUMNS = ["epoch", "seconds", "loss", "dice"]


def costs_of(plan: Plan, watch: Watch) -> pd.DataFrame:
    """Costs of every network's variants; measured once, and again only if a variant or label is added.

    Epochs and training cases do not change the costs: those of a network are repeated for all of its labels.
    """
    path = plan.out / "costs.csv"
    if path.exists():
        known = known_costs(path)
        if set(known.index) == {(run.label, str(run.variant)) for run in plan.runs}:
            return known.reset_index()
    check = partial(watch.check, "stopped while the costs were measured; all runs are finished and kept")
    watch.report(Stage("measuring the cost of each variant"))
    case = plan.folds[0].test[0]
    tables = []
    for network in plan.networks:
        runs = [run for run in plan.runs if run.network == network]
        first = {run.variant: run for run in reversed(runs)}
        variants = sorted(first, key=lambda variant: VARIANTS.index(variant.kind))
        segmenters = {
            variant: Segmenter.load(plan.folder(first[variant]), network=network.text) for variant in variants
        }
        task, settings = plan.task(runs[0], watch), plan.run_settings(runs[0])
        table = measure_costs(task, settings, segmenters, read_image(case.images), before=check)
        tables += [table.assign(network=label) for label in dict.fromkeys(run.label for run in runs)]
    costs = pd.concat(tables, ignore_index=True)
    write_atomic(path, costs.to_csv(index=False).encode())
    return costs


def known_costs(path: Path) -> pd.DataFrame:
    """Costs that were measured, by network and variant; none if the file is damaged or of an earlier version."""
    none = pd.DataFrame(index=pd.MultiIndex.from_tuples([], names=COST_NAMES))
    try:
        known = pd.read_csv(path, keep_default_na=False)
    except (OSError, ValueError):
        return none
    if not {*COST_NAMES, *COST_NUMBERS} <= set(known.columns):
        return none
    numbers = known[COST_NUMBERS].apply(pd.to_numeric, errors="coerce")
    sound = np.isfinite(numbers).all(axis=None) and (numbers >= 0).all(axis=None)
    return known.set_index(COST_NAMES) if sound and not known.duplicated(COST_NAMES).any() else none


def curves_of(plan: Plan) -> pd.DataFrame:
    """Every epoch of every run, written as `curves.csv` too."""
    tables = []
    for run in plan.runs:
        rows = pd.DataFrame(read_log(plan.folder(run)))
        tables.append(rows.assign(network=run.label, variant=str(run.variant), seed=run.seed, fold=run.fold))
    curves = pd.concat(tables, ignore_index=True)[[*RUN, *CURVE_COLUMNS]]
    write_atomic(plan.out / "curves.csv", curves.to_csv(index=False).encode())
    return curves
