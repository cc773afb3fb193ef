"""Reading of score files of other programs: one reader for each format, and detection of the format."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel, ValidationError

from scse.data.endings import ENDINGS
from scse.evaluation.reading import read_table
from scse.support.errors import DataError, in_short
from scse.support.json_files import read_json
from scse.support.text import shortened_list

FORMATS = (
    "a CSV or Parquet file with the columns case and value (and optionally structure, metric, seed and fold), "
    "the summary.json of nnU-Net v2, a METRIC_raw.csv of MONAI, or the results.csv of MIST"
)
JSON_REMEDY = "write the file again"
IMAGE_ENDINGS = (*ENDINGS, ".b2nd")

NNUNET_METRICS = {"Dice": "dice", "IoU": "iou"}
MONAI_PREFIX = re.compile(r"(val_|test_|train_)?(mean_)?")
MIST_METRICS = {
    # as in MIST, the longest name at the end of a column counts: WT_lesion_wise_dice is not dice
    "lesion_wise_surf_dice": "lesion_wise_surf_dice",
    "lesion_wise_haus95": "lesion_wise_haus95",
    "lesion_wise_dice": "lesion_wise_dice",
    "lesion_wise_f1": "lesion_wise_f1",
    "surf_dice": "surf_dice",
    "avg_surf": "avg_surf",
    "haus95": "hd95",
    "dice": "dice",
}
Labels = tuple[int, ...]
MIST_SUMMARIES = frozenset({"Mean", "Std", "25th Percentile", "Median", "75th Percentile"})


def read_score_file(path: Path, *, metric: str) -> pd.DataFrame:
    """Read the scores of one metric from a file of any known format.

    Args:
        path: nnU-Net's `summary.json`, MONAI's `METRIC_raw.csv`, MIST's `results.csv`, or a long CSV or Parquet table.
        metric: Metric to read. It is also the metric of a table without a column metric, and of a MONAI file whose
            name contains no metric.

    Returns:
        A table with one score per row and the columns case and value, and network, structure, seed, fold and metric if
        the format has them. The index is the row in the file.

    Raises:
        DataError: The file cannot be read, has an unknown format, or does not contain the metric.
    """
    table = read_nnunet(path) if path.suffix.lower() == ".json" else _read_columns(path, metric)
    if "metric" not in table.columns or table["metric"].isna().all():
        return table
    if not table["metric"].eq(metric).any():
        known = ", ".join(map(str, table["metric"].dropna().unique()))
        raise DataError(f"{path}: the metric {metric!r} does not occur; choose another with --metric: {known}")
    return table[table["metric"].eq(metric) | table["metric"].isna()].copy()


def _read_columns(path: Path, metric: str) -> pd.DataFrame:
    table = read_table(path, separator="," if path.suffix == ".parquet" else _separator(path))
    columns = list(map(str, table.columns))
    if {"case", "value"} <= set(columns):
        return read_long(path, table)
    if columns[0] == "filename" and columns[-1] == "mean":
        return read_monai(path, table, metric)
    if columns[0] == "id" and len(columns) > 1 and all(map(_mist_metric, columns[1:])):
        return read_mist(table)
    raise DataError(
        f"{path}: the columns {shortened_list(columns, 8)} match no known format of scores; allowed: {FORMATS}"
    )


def _separator(path: Path) -> str:
    """The separator of a CSV file: a comma, or what follows `filename` in files of MONAI."""
    try:
        with path.open("rb") as file:
            start = re.match(rb"filename([;\t| ])", file.readline())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({in_short(error)}); give {FORMATS}") from None
    return start[1].decode() if start else ","


def read_long(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Check that a table in scse's long format has at most one variant, whose name does not matter.

    Raises:
        DataError: The table has several variants.
    """
    variants = list(map(str, table["variant"].dropna().unique())) if "variant" in table.columns else []
    if len(variants) > 1:
        raise DataError(
            f"{path}: contains the variants {shortened_list(variants, 8)}, but NAME=FILES expects files of one variant "
            "each; give only the table, without NAME=, or write one file for each variant"
        )
    return table


class _Case(BaseModel):
    prediction_file: str
    metrics: dict[str, dict[str, float | None]]


class _Summary(BaseModel):
    metric_per_case: list[_Case]


def read_nnunet(path: Path) -> pd.DataFrame:
    """Read a `summary.json` of nnU-Net v2: Dice and IoU of each case and each label or region.

    The format is that of `save_summary_json` in `nnunetv2.evaluation.evaluate_predictions`, nnU-Net 2.8.1, which writes
    the summaries of the validation of a fold, of a cross-validation and of `nnUNetv2_evaluate_folder`. Structures get
    their names from the nearest `dataset.json`; without one, they are called `label_1`, or `label_1_2` for the region
    of labels 1 and 2.

    Raises:
        DataError: The file is not such a summary.
    """
    entries = _read_summary(path)
    names = _label_names(path)
    cases = case_names([entry.prediction_file for entry in entries])
    rows = [
        (case, _structure(path, key, names), NNUNET_METRICS[metric], value)
        for case, entry in zip(cases, entries, strict=True)
        for key, found in entry.metrics.items()
        for metric, value in found.items()
        if metric in NNUNET_METRICS
    ]
    if not rows:
        raise DataError(f"{path}: contains no Dice or IoU; evaluate the predictions again with nnU-Net v2")
    table = pd.DataFrame(rows, columns=["case", "structure", "metric", "value"], index=range(1, len(rows) + 1))
    return table.astype({"value": np.float64})


def _read_summary(path: Path) -> list[_Case]:
    content = read_json(path, remedy=JSON_REMEDY)
    if isinstance(content, dict) and "metric_per_case" not in content and "results" in content:
        raise DataError(
            f"{path}: is a summary of nnU-Net v1, which is not supported; evaluate the predictions with "
            "nnUNetv2_evaluate_simple, or give a table with the columns case, structure and value"
        )
    try:
        return _Summary.model_validate(content, strict=True).metric_per_case
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its content"
        raise DataError(
            f"{path}: is not a summary.json of nnU-Net v2: {where}: {first['msg']}; allowed: {FORMATS}"
        ) from None


def _structure(path: Path, key: str, names: Mapping[Labels, str]) -> str:
    """The structure of a key, which is a label such as "1" or a region such as "(1, 2)"."""
    if not re.fullmatch(r"\d+|\(\d+,\)|\(\d+(, ?\d+)+\)", key):
        allowed = "a label, such as 1, or a region, such as (1, 2)"
        raise DataError(f"{path}: metrics has the key {key!r}; allowed: {allowed}: evaluate again with nnU-Net v2")
    labels = tuple(sorted(map(int, re.findall(r"\d+", key))))
    return names.get(labels, "_".join(["label", *map(str, labels)]))


def _label_names(path: Path) -> dict[Labels, str]:
    """Structure names by label, from a `dataset.json` in the folder of the summary or up to two folders above it.

    nnU-Net writes this file into the folder of a trained model, two folders above the validation of a fold, and into
    the folder of the summary of a cross-validation. Labels that are not numbers, as in files of other programs, are
    ignored.
    """
    folders = path.resolve().parents[:3]
    found = next((folder / "dataset.json" for folder in folders if (folder / "dataset.json").is_file()), None)
    content = read_json(found, remedy=JSON_REMEDY) if found is not None else None
    labels = content.get("labels") if isinstance(content, dict) else None
    named: dict[Labels, str] = {}
    for name, label in labels.items() if isinstance(labels, dict) else ():
        values = label if isinstance(label, list) else [label]
        if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
            named.setdefault(tuple(sorted(values)), str(name))
    return named


def read_monai(path: Path, table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Read a `METRIC_raw.csv` of MONAI: one row per image, one column per class, and their mean, which is ignored.

    The format is that of `monai.handlers.write_metrics_reports`, MONAI 1.6.1, which `MetricsSaver` calls. The metric is
    taken from the name of the file, without prefixes as in `val_mean_dice_raw.csv`.
    """
    written = path.stem.removesuffix("_raw").lower() if path.stem.endswith("_raw") else metric
    plain = MONAI_PREFIX.sub("", written, count=1)
    table = table.drop(columns="mean").assign(filename=_cases_of_column(path, table["filename"]))
    long = table.melt(id_vars="filename", var_name="structure", ignore_index=False)
    return long.rename(columns={"filename": "case"}).assign(metric=metric if metric in (written, plain) else written)


def _cases_of_column(path: Path, files: pd.Series) -> list[str]:
    if files.isna().any():
        row = files.index[files.isna()][0]
        raise DataError(f"{path}, row {row}: filename is empty; fill it in, or remove the row")
    return case_names(files.tolist())


def read_mist(table: pd.DataFrame) -> pd.DataFrame:
    """Read a `results.csv` of MIST: one row per patient, columns `CLASS_METRIC`, and ignored rows of statistics.

    The format is that of `mist.evaluation.evaluator` and `compute_results_stats`, mist-medical 2.3.0. The metric haus95
    becomes hd95; other metrics keep their names.
    """
    cases = table[~table["id"].isin(MIST_SUMMARIES)]
    long = cases.rename(columns={"id": "case"}).melt(id_vars="case", var_name="column", ignore_index=False)
    ends = long["column"].map(_mist_metric)
    structures = [column.removesuffix(f"_{end}") for column, end in zip(long["column"], ends, strict=True)]
    return long.drop(columns="column").assign(structure=structures, metric=ends.map(MIST_METRICS))


def _mist_metric(column: str) -> str | None:
    return next((metric for metric in MIST_METRICS if column.endswith(f"_{metric}") and column != f"_{metric}"), None)


def case_names(files: Sequence[str]) -> list[str]:
    """Case names from the names of files, without folders and endings.

    Folders are kept if they distinguish files of the same name, as in `case1/image.nii.gz` and `case2/image.nii.gz`.
    """
    paths = [_without_ending(file) for file in files]
    stems = [re.split(r"[/\\]", path)[-1] for path in paths]
    return stems if len(set(stems)) == len(set(paths)) else paths


def _without_ending(name: str) -> str:
    ending = next((known for known in IMAGE_ENDINGS if name.lower().endswith(known)), "")
    return name[: len(name) - len(ending)]
