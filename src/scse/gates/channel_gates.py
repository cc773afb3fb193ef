"""Channel gates of the networks of a study, block by block."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pyarrow import ArrowException

from scse.data.files import read_image
from scse.data.slicing import spread, view_axis
from scse.evaluation.setups import setup_columns, stack, with_setups
from scse.gates.computing import SHUT
from scse.gates.explaining import slice_gates
from scse.inference.finished import FinishedRun
from scse.support.atomic import write_atomic
from scse.support.events import UNWATCHED, Stage, Watch

MOST_CASES = 24
SLICES = 16
"""Number of slices of a case, spread evenly; the gates of a case are the mean over them."""

GATE_COLUMNS = ["network", "variant", "block", "identity", "channel", "case", "gate"]


def channel_gates(runs: Sequence[FinishedRun], *, cache: Path, watch: Watch = UNWATCHED) -> pd.DataFrame:
    """Measure the channel gates of the first run of each variant, or read them from the cache.

    Args:
        runs: Runs of the study. Those of the first seed and fold are measured, on at most 24 of their test cases.
        cache: Parquet file that stores the table for later calls with the same runs.
        watch: Receives a `Stage` before the measurement, and `Progress`; checked after every run.

    Returns:
        A table with the columns network (and epochs and train_cases if varied), variant, block (its position in the
        network), identity (the gate that leaves a channel unchanged, see `BlockGates`), channel, case and gate (0 to 1,
        the mean over 16 evenly spread slices), with blocks in the order of execution. It is empty if no variant has
        channel gates.
    """
    first = [run for run in runs if (run.seed, run.fold) == (runs[0].seed, runs[0].fold)]
    measured = [run for run in first if run.variant.has_channel_gate]
    key = _key(measured)
    if (kept := _kept(cache)).attrs.get("key") == key:
        return kept
    if measured:
        watch.report(Stage("measuring channel gates"))
    count, tables = watch.counter("gates"), []
    for done, run in enumerate(measured, start=1):
        tables += [(run.setup, table) for table in _run_tables(run)]
        count(done, len(measured))
    gates = stack(tables) if tables else pd.DataFrame(columns=GATE_COLUMNS)
    gates.attrs["key"] = key
    write_atomic(cache, gates.to_parquet(index=False))
    return gates


def _kept(cache: Path) -> pd.DataFrame:
    """The table of an earlier call; an empty table if it does not exist or cannot be read."""
    try:
        return with_setups(pd.read_parquet(cache), str(cache))
    except (OSError, ValueError, KeyError, ArrowException):
        return pd.DataFrame()


def _run_tables(run: FinishedRun) -> list[pd.DataFrame]:
    segmenter = run.segmenter()
    tables = []
    for place in sorted(spread(len(run.test))[:MOST_CASES]):
        case = run.test[place]
        image = read_image(case.images)
        axis = view_axis(image, segmenter.recipe)
        count = 1 if axis is None else image.shape[axis]
        slices = sorted({int(i) for i in np.linspace(0, count - 1, SLICES + 2)[1:-1].round()})
        for gates in slice_gates(segmenter, image, slices):
            if gates.channel is not None:
                mean = gates.channel.mean(axis=0)
                same = (str(run.variant), gates.where, gates.identity)
                rows = [(*same, channel, case.name, gate) for channel, gate in enumerate(mean)]
                tables.append(pd.DataFrame(rows, columns=GATE_COLUMNS[1:]))
    return tables


def shut_channels(gates: pd.DataFrame) -> pd.DataFrame:
    """Count shut channels of each block.

    Returns:
        A table with the columns network (and epochs and train_cases if varied), variant, block, channels (number of
        channels), shut (number of channels whose gate is below 0.1 in all cases), change (mean distance of the gates
        from the identity; NaN for blocks without identity), and which (indices of the shut channels).
    """
    keys = [*setup_columns(gates), "variant", "block"]
    highest = gates.groupby([*keys, "channel"], sort=False)["gate"].max().reset_index()
    highest["shut"] = highest["gate"] < SHUT
    counts = highest.groupby(keys, sort=False)["shut"].agg(["size", "sum"])
    which = highest[highest["shut"]].groupby(keys, sort=False)["channel"].agg(list).rename("which")
    change = (gates["gate"] - gates["identity"]).abs().rename("change")
    change = gates[keys].join(change).groupby(keys, sort=False)["change"].mean()
    table = counts.rename(columns={"size": "channels", "sum": "shut"}).join(change).join(which)
    return table.reset_index()


def _key(runs: Sequence[FinishedRun]) -> str:
    digest = hashlib.sha256(f"{GATE_COLUMNS} {MOST_CASES} {SLICES}".encode())
    for run in runs:
        digest.update(f"{run.folder.name} {' '.join(case.name for case in run.test)}".encode())
        digest.update((run.folder / "scores.parquet").read_bytes())
    return digest.hexdigest()[:24]
