"""Scores of label maps against references: Dice and surface distances, per structure and case."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from scse.data.dataset import Dataset
from scse.data.endings import ENDINGS, ending, stem
from scse.data.file_errors import check_is_file
from scse.data.files import geometry_errors, read_label
from scse.support.atomic import write_together
from scse.support.errors import DataError, UserError
from scse.support.paths import absence
from scse.support.text import shortened_list

METRICS = ("dice", "hd95", "msd")

Labels = NDArray[np.integer]
Structures = Mapping[str, int | Sequence[int]]
"""Label value of each structure, or the label values of a region, by name."""


def score(
    prediction: Labels,
    reference: Labels,
    *,
    spacing: Sequence[float],
    structures: Structures,
    ignored: int | None = None,
) -> pd.DataFrame:
    """Score one predicted label map against its reference.

    Args:
        prediction: Integer label map of shape (H, W) or (X, Y, Z).
        reference: Integer label map of the same shape.
        spacing: Millimetres per pixel or voxel along each spatial axis.
        structures: Label value of each structure, by name; several values for a region of labels, which is scored as
            one mask in each map and may overlap others.
        ignored: Label value in the reference of voxels that count as no structure in both maps.

    Returns:
        A table with the columns structure, metric and value. Metrics: ``dice`` (0 to 1), ``hd95`` (mm; the larger of
        the two directed 95th percentiles of the surface distance) and ``msd`` (mm; mean surface distance over the
        surface voxels of both maps), as defined by MONAI's ``compute_hausdorff_distance(percentile=95)`` and
        ``compute_average_surface_distance(symmetric=True)``. All metrics of a structure that is absent from both maps
        are NaN. A structure that is absent from one map has Dice 0 and NaN distances, because one surface is missing.

    Raises:
        UserError: The label maps differ in shape, are not 2D or 3D or not integer, or ``spacing`` does not fit them.
    """
    _check(prediction, reference, spacing)
    left_out = None if ignored is None else reference == ignored
    regions = {name: members for name, members in structures.items() if isinstance(members, Sequence)}
    single = {name: value for name, value in structures.items() if not isinstance(value, Sequence)}
    found: dict[str, tuple[float, ...]] = {}
    if single:
        values = np.unique(np.array(list(single.values()), dtype=np.int64))
        a, b = _indices(prediction, values), _indices(reference, values)
        scores = _scores(a, b, len(values), left_out, spacing)
        found = {name: scores[np.searchsorted(values, value)] for name, value in single.items()}
    for name, members in regions.items():
        a, b = (np.isin(labels, members).astype(np.int32) for labels in (prediction, reference))
        (found[name],) = _scores(a, b, 1, left_out, spacing)
    rows = [(name, metric, value) for name in structures for metric, value in zip(METRICS, found[name], strict=True)]
    return pd.DataFrame(rows, columns=["structure", "metric", "value"])


def _scores(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    count: int,
    left_out: NDArray[np.bool_] | None,
    spacing: Sequence[float],
) -> list[tuple[float, ...]]:
    """The values of `METRICS` of the indices 1..count in two maps, which are set to 0 where they are left out."""
    if left_out is not None:
        a[left_out] = b[left_out] = 0
    dice = _dice(a, b, count)
    boxes = zip(_boxes(a, count), _boxes(b, count), strict=True)
    return [(dice[i], *_surface(a, b, i + 1, box, spacing)) for i, box in enumerate(boxes)]


def _check(prediction: Labels, reference: Labels, spacing: Sequence[float]) -> None:
    if prediction.shape != reference.shape:
        raise UserError(
            f"the prediction has shape {prediction.shape}, but the reference has shape {reference.shape}; resample one "
            "of them to the grid of the other"
        )
    for name, array in (("prediction", prediction), ("reference", reference)):
        if not np.issubdtype(array.dtype, np.integer):
            raise UserError(f"{name} must be a label map of integers, got the dtype {array.dtype}")
    if reference.ndim not in (2, 3):
        raise UserError(f"label maps must have 2 or 3 axes, got {reference.ndim}; score one map per call")
    if len(spacing) != reference.ndim:
        raise UserError(f"spacing must have one value for each of the {reference.ndim} axes, got {tuple(spacing)}")
    if not all(np.isfinite(s) and s > 0 for s in spacing):
        raise UserError(f"spacing must be positive numbers of mm, got {tuple(spacing)}")


def _indices(labels: Labels, values: NDArray[np.int64]) -> NDArray[np.int32]:
    """Replace each label value by 1 + its index in the sorted `values`, and any other value by 0."""
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if high - low > 1 << 20:  # search, because a lookup table of the whole range would be too large
        place = np.searchsorted(values, labels).clip(max=max(len(values) - 1, 0))
        return np.where(values[place] == labels, place + 1, 0).astype(np.int32)
    table = np.zeros(high - low + 1, dtype=np.int32)
    inside = (values >= low) & (values <= high)
    table[values[inside] - low] = 1 + np.flatnonzero(inside)
    return table[labels.astype(np.int64) - low]


def _dice(a: NDArray[np.int32], b: NDArray[np.int32], count: int) -> NDArray[np.float64]:
    """Dice of the indices 1..count, computed from the joint histogram of both maps."""
    size = count + 1
    return dice_of_counts(np.bincount(a.ravel() * size + b.ravel(), minlength=size * size).reshape(size, size))


def dice_of_counts(joint: NDArray[np.integer]) -> NDArray[np.float64]:
    """Dice (classes - 1,) of all classes but the first; NaN if a class is absent from both maps.

    Args:
        joint: How many voxels have each class in one map and each class in the other, (classes, classes).
    """
    total = (joint.sum(axis=0) + joint.sum(axis=1))[1:]
    both = 2 * np.diagonal(joint)[1:]
    dice = np.full(len(joint) - 1, np.nan)
    np.divide(both, total, out=dice, where=total > 0)
    return dice


def dice_of_regions(
    joint: NDArray[np.integer], rows: NDArray[np.bool_], columns: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Dice (regions,) of regions of classes, which may overlap; NaN if a region is absent from both maps.

    Args:
        joint: How many voxels have each class in one map and each class in the other, (classes, other classes).
        rows: Which region contains which class of the first map, (regions, classes).
        columns: Which region contains which class of the other map, (regions, other classes).
    """
    total = rows @ joint.sum(axis=1) + columns @ joint.sum(axis=0)
    both = 2 * ((rows @ joint) * columns).sum(axis=1)
    dice = np.full(len(rows), np.nan)
    np.divide(both, total, out=dice, where=total > 0)
    return dice


def _boxes(labels: NDArray[np.int32], count: int) -> list[tuple[slice, ...] | None]:
    return list(ndimage.find_objects(labels, max_label=count))


def _surface(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    index: int,
    boxes: tuple[tuple[slice, ...] | None, tuple[slice, ...] | None],
    spacing: Sequence[float],
) -> tuple[float, float]:
    """hd95 and msd of one structure, measured inside the box that contains it in both maps."""
    # imported here because it takes seconds and the comparison of existing scores does not need it
    from monai.metrics.utils import get_mask_edges, get_surface_distance  # noqa: PLC0415

    first, second = boxes
    if first is None or second is None:
        return np.nan, np.nan
    # the box needs no margin, because edges are computed with background outside it
    box = tuple(slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(first, second, strict=True))
    edges = get_mask_edges(a[box] == index, b[box] == index, crop=False)
    there, back = (
        np.asarray(get_surface_distance(of, to, spacing=tuple(spacing)), dtype=np.float64)
        for of, to in (edges, edges[::-1])
    )
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return float(hd95), float(np.concatenate([there, back]).mean())


def score_files(
    prediction: Path,
    reference: Path,
    *,
    structures: Structures,
    colors: Mapping[int, tuple[int, int, int]] | None = None,
    ignored: int | None = None,
) -> pd.DataFrame:
    """Score a predicted label file against its reference file; see `score`.

    Args:
        prediction: Volume or picture of labels.
        reference: File on the same grid, whose spacing is used; that of the prediction if it stores none.
        structures: Label value or values of each structure, by name; see `score`.
        colors: RGB of each label value, if the reference is a colour mask. Predictions are index masks.
        ignored: See `score`.

    Raises:
        DataError: A file cannot be read, or the files differ in shape or affine.
    """
    ours, theirs = read_label(prediction), read_label(reference, colors=colors)
    for error in geometry_errors(prediction, ours, reference, theirs):
        raise error
    spacing = (theirs if theirs.is_sized else ours).spacing
    return score(ours.array, theirs.array, spacing=spacing, structures=structures, ignored=ignored)


def score_folders(
    predictions: Path,
    references: Path,
    *,
    structures: Structures,
    colors: Mapping[int, tuple[int, int, int]] | None = None,
    ignored: int | None = None,
) -> pd.DataFrame:
    """Score every label file of a folder against the file of the same name in another; see `score_files`.

    Names are compared without their endings, so `a.png` is paired with `a.nii.gz`.

    Returns:
        A table with the columns case, structure, metric and value.

    Raises:
        DataError: A folder has no label files, or files are unpaired.
    """
    ours, theirs = _label_files(predictions), _label_files(references)
    unpaired = [f"{theirs[n]} has no prediction in {predictions}" for n in sorted(theirs.keys() - ours.keys())]
    unpaired += [f"{ours[n]} has no reference in {references}" for n in sorted(ours.keys() - theirs.keys())]
    if unpaired:
        found = f"{len(unpaired)} file{'s are' if len(unpaired) > 1 else ' is'} unpaired"
        remedy = "Add the missing files, or remove these"
        raise DataError(f"{found}: {shortened_list(unpaired, separator='; ')}. {remedy}")
    tables = [
        score_files(ours[name], theirs[name], structures=structures, colors=colors, ignored=ignored).assign(case=name)
        for name in sorted(theirs)
    ]
    return pd.concat(tables, ignore_index=True)[["case", "structure", "metric", "value"]]


def _label_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder; give the folder of the label files")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if ending(path.name) is None or path.name.startswith("."):
            continue
        name = stem(path.name)
        if name in found:
            raise DataError(f"{found[name]} and {path} have the same name; keep one of them")
        found[name] = path
    if not found:
        raise DataError(f"{folder}: contains no label files; allowed endings: {', '.join(ENDINGS)}")
    return found


def score_paths(folder: Path) -> tuple[Path, Path]:
    """Paths of the files that `write_scores` writes."""
    return folder / "scores.parquet", folder / "scores.csv"


def write_scores(scores: pd.DataFrame, folder: Path) -> tuple[Path, Path]:
    """Write a table of scores as `scores.parquet` and `scores.csv` into `folder`, and return both paths.

    `scores.parquet` marks a run as finished, so it is moved into place last.
    """
    parquet, table = score_paths(folder)
    write_together({table: scores.to_csv(index=False).encode(), parquet: scores.to_parquet(index=False)})
    return parquet, table


def evaluate(predictions: Path, references: Path, *, dataset: Path | None = None) -> pd.DataFrame:
    """Score a label file, or a folder of label files, against its reference.

    Args:
        predictions: Label file or folder.
        references: Label file or folder, like `predictions`.
        dataset: Data set that defines the structures, mask colours and ignored voxels; of a BIDS folder, whose tables
            may name all labels of an atlas, structures count that occur in a prediction or a reference. Without it, all
            label values in the references are scored as `structure_<value>`.

    Returns:
        A table with the columns case, structure, metric and value; see `score`.

    Raises:
        DataError: A path does not exist, a file cannot be read, files are unpaired, or there is no structure.
    """
    for path in (predictions, references):
        if not path.exists() and not path.is_symlink():
            raise DataError(f"{path}: {absence(path)}; give label files or folders of label files")
        if not path.is_dir():
            check_is_file(path)
    known = None if dataset is None else Dataset.open(dataset)
    structures = known.scheme.scored if known and known.structures else _values_found(references)
    colors, ignored = (known.colors, known.ignored) if known else (None, None)
    if not structures:
        raise DataError(f"{references}: contains only background (0); label at least one structure")
    if references.is_file():
        table = score_files(predictions, references, structures=structures, colors=colors, ignored=ignored)
        table = table.assign(case=stem(references.name))[["case", "structure", "metric", "value"]]
    else:
        table = score_folders(predictions, references, structures=structures, colors=colors, ignored=ignored)
    if known and known.format == "bids":
        table = table[table.groupby("structure")["value"].transform("count") > 0].reset_index(drop=True)
        if table.empty:
            found = f"contains no structure that {dataset} names, and neither does {predictions}"
            raise DataError(f"{references}: {found}; give label maps of this data set")
    return table


def mean_rows(scores: pd.DataFrame) -> list[tuple[str, ...]]:
    """Means over cases as text rows (structure, metrics, number of scored cases), with their mean last.

    NaN is ignored.
    """
    # dropna=False keeps the rows of structures that are absent everywhere
    table = scores.pivot_table(
        index="structure", columns="metric", values="value", aggfunc="mean", sort=False, dropna=False
    )
    counts = scores[scores["metric"] == "dice"].dropna().groupby("structure").size()
    rows = [
        (str(name), *(f"{row.get(metric, np.nan):.3f}" for metric in METRICS), str(counts.get(name, 0)))
        for name, row in table.iterrows()
    ]
    means = table.mean()
    overall = (f"{means.get(metric, np.nan):.3f}" for metric in METRICS)
    return [*rows, ("mean of structures", *overall, str(scores["case"].nunique()))]


def _values_found(references: Path) -> dict[str, int]:
    files = [references] if references.is_file() else list(_label_files(references).values())
    values = {int(value) for file in files for value in np.unique(read_label(file).array)}
    return {f"structure_{value}": value for value in sorted(values - {0})}


def dice_scores(prediction: Labels, reference: Labels, values: Sequence[int]) -> NDArray[np.float64]:
    """Dice (values,) of each label value in two integer label maps; NaN if a value is absent from both.

    Args:
        prediction: Integer label map of any shape.
        reference: Integer label map of the same shape.
        values: Label values in ascending order.
    """
    wanted = np.asarray(values, dtype=np.int64)
    return _dice(_indices(prediction, wanted), _indices(reference, wanted), len(wanted))
