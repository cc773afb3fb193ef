"""Scores in separate files of each variant: finding the files, assigning seeds and folds, and checking the pairing."""

import glob
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from scse.evaluation.foreign import FORMATS, read_score_file
from scse.evaluation.pairing import check_scores
from scse.evaluation.reading import fill, read_scores, tidy
from scse.evaluation.setups import per_setup, setups
from scse.support.errors import DataError
from scse.support.paths import absence
from scse.support.text import shortened_list

# names of variants may contain = in brackets, as in scse[reduction=4]
NAME_AND_FILES = re.compile(r"((?:[^=\[]|\[[^\]]*\])*)=(.*)", re.DOTALL)
FOLD = re.compile(r"fold_(\d+)")
SUMMARY = "summary.json"

Cell = tuple[str, str, str]
"""Setup, case and structure of a score."""
Assigned = dict[tuple[object, object], list[tuple[Path, set[Cell]]]]
"""Files of a variant, with their cells, by seed and fold."""


def read_compared(
    arguments: Sequence[str], *, metric: str, baseline: str, on_note: Callable[[str], None] = lambda note: None
) -> pd.DataFrame:
    """Read the arguments of `scse compare`: one table of all variants, or NAME=FILES for each variant.

    Args:
        arguments: Path of one table, or texts NAME=FILES. FILES are paths and patterns, separated by commas.
        metric: Metric to be compared.
        baseline: Variant with which the others will be compared.
        on_note: Called with a message for each assumption.

    Returns:
        The tidy table of `read_scores`.

    Raises:
        DataError: An argument or a file is invalid.
    """
    named = [NAME_AND_FILES.fullmatch(argument) for argument in arguments]
    if len(arguments) == 1 and (named[0] is None or _exists(arguments[0])):
        return read_scores(arguments[0], metric=metric, baseline=baseline, on_note=on_note)
    files: dict[str, list[Path]] = {}
    for argument, match in zip(arguments, named, strict=True):
        if match is None:
            raise DataError(
                f"{argument}: has no variant name, but {len(arguments)} arguments were given; give only one table of "
                "all variants, or NAME=FILES for each variant, such as none=a.csv scse=b.csv"
            )
        name = match[1].strip()
        if name in files:
            raise DataError(
                f"{argument}: the variant {name} is given twice; put all its files into one argument, separated by "
                f"commas: {name}=FILE,FILE"
            )
        files[name] = _find_files(argument, name, match[2])
    if len(files) == 1:
        raise DataError(
            f"{arguments[0]}: is not a file, but a single variant; give one table of all variants, or NAME=FILES for "
            "at least two, such as none=a.csv scse=b.csv"
        )
    return read_score_files(files, metric=metric, baseline=baseline, on_note=on_note)


def read_score_files(
    files: Mapping[str, Path | str | Sequence[Path | str]],
    *,
    metric: str = "dice",
    baseline: str | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> pd.DataFrame:
    """Read the scores of variants from separate files, as other programs write them.

    Known formats are the `summary.json` of nnU-Net v2 (or its folder), the `METRIC_raw.csv` of MONAI, the
    `results.csv` of MIST, and CSV or Parquet tables with the columns case and value and, optionally, network,
    epochs, train_cases, structure, metric, seed and fold.

    Without a column fold, the fold of a file is N of the last part `fold_N` of its path, otherwise 0. Without a column
    seed, files of one variant and fold are trainings with the seeds 0, 1, 2, ... in order.

    Args:
        files: File or files of each variant, by name.
        metric: Metric to read; also the metric of tables without a column metric.
        baseline: Variant with which the others will be compared; by default the first.
        on_note: Called with a message about the seeds and folds of each variant, and for each assumption.

    Returns:
        The tidy table of `read_scores`, with scores of this metric only.

    Raises:
        DataError: A file cannot be read or is given twice, or a variant cannot be paired with the baseline.
    """
    given = {name: [paths] if isinstance(paths, Path | str) else paths for name, paths in files.items()}
    _check_variants(given, baseline)
    paths = {name: [_score_file(Path(path)) for path in chosen] for name, chosen in given.items()}
    _check_files_differ(paths)
    notes: dict[str, None] = {}  # an ordered set
    tables = {name: _read_variant(name, chosen, metric, notes) for name, chosen in paths.items()}
    for note in notes:
        on_note(note)
    reference = baseline if baseline is not None else next(iter(tables))
    for name, table in tables.items():
        _check_pairs(f"{reference} ({paths[reference][0]})", tables[reference], f"{name} ({paths[name][0]})", table)
    return tidy(pd.concat(tables.values(), ignore_index=True), paths[reference][0])


def _find_files(argument: str, name: str, paths: str) -> list[Path]:
    """The files of one argument NAME=FILES. An existing file whose name contains commas is one file."""
    texts = [text.strip() for text in ([paths] if paths and _exists(paths) else paths.split(","))]
    if not name or not all(texts):
        raise DataError(
            f"{argument}: a {'path' if name else 'name'} is empty; write NAME=FILE, or NAME=FILE,FILE for several files"
        )
    return [path for text in texts for path in _expand(text)]


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:  # a list of many files may be too long for a path
        return False


def _expand(text: str) -> list[Path]:
    path = Path(text).expanduser()
    if path.exists() or not glob.has_magic(text):
        return [path]
    found = sorted(map(Path, glob.glob(_pattern(path), recursive=True)))  # noqa: PTH207 # Path.glob would find hidden files
    if not found:
        raise DataError(f"{text}: no file matches this pattern; correct it, and quote it to protect * from the shell")
    return found


def _pattern(path: Path) -> str:
    """Convert a path to a pattern, escaping the parts that exist literally, as in `scse[reduction=4]/fold_*`."""
    pattern, literal = Path(), Path()
    for part in path.parts:
        literal /= part
        pattern /= glob.escape(part) if literal.exists() else part
    return str(pattern)


def _score_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{path}: {absence(path)}; give {FORMATS}")
    if not (path / SUMMARY).is_file():
        raise DataError(
            f"{path}: is a folder without {SUMMARY}; give a folder with the {SUMMARY} of nnU-Net v2, such as "
            f"fold_0/validation, or a file: {FORMATS}"
        )
    return path / SUMMARY


def _check_variants(files: Mapping[str, Sequence[Path | str]], baseline: str | None) -> None:
    names = ", ".join(files)
    if len(files) < 2:
        raise DataError(f"a comparison needs at least two variants, got {names or 'none'}; give files of each")
    for name, chosen in files.items():
        if not chosen:
            raise DataError(f"{name}: has no files; give {FORMATS}")
    if baseline is not None and baseline not in files:
        raise DataError(f"the baseline {baseline!r} is not one of the variants {names}; choose one with --baseline")


def _check_files_differ(files: Mapping[str, Sequence[Path]]) -> None:
    owners: dict[Path, str] = {}
    for name, path in ((name, path) for name, chosen in files.items() for path in chosen):
        if owner := owners.get(path.resolve()):
            raise DataError(f"{path}: is given for {owner} and again for {name}; give each file only once")
        owners[path.resolve()] = name


def _read_variant(name: str, files: Sequence[Path], metric: str, notes: dict[str, None]) -> pd.DataFrame:
    assigned: Assigned = {}
    tables = [_read_training(name, file, metric, assigned, notes) for file in files]
    notes[_seeds_and_folds(name, len(files), assigned)] = None
    return pd.concat(tables, ignore_index=True)


def _read_training(name: str, file: Path, metric: str, assigned: Assigned, notes: dict[str, None]) -> pd.DataFrame:
    table = read_score_file(file, metric=metric).assign(variant=name)
    filled = fill(table, metric=metric, fold=_fold(file))
    notes |= dict.fromkeys(
        f"no column {column}: using {filled[column]} for all scores"
        for column in ("structure", "metric")
        if column in filled
    )
    table = tidy(table, file)
    _check(table, metric, file)
    if "seed" in filled:
        table["seed"] = _next_seed(name, file, table, assigned)
    _assign(file, table, assigned)
    return table


def _check(table: pd.DataFrame, metric: str, file: Path) -> None:
    try:
        check_scores(table, metric, name=str(file))
    except ValueError as error:
        raise DataError(str(error)) from None


def _fold(path: Path) -> int:
    numbers = [int(match[1]) for part in path.parts if (match := FOLD.fullmatch(part))]
    return numbers[-1] if numbers else 0


def _next_seed(name: str, file: Path, table: pd.DataFrame, assigned: Assigned) -> int:
    """The first seed that is not yet assigned to any fold of this file."""
    cells = _cells(table)
    for (_, fold), others in assigned.items():
        for other, known in others:
            if fold in cells and known.isdisjoint(cells[fold]):
                raise DataError(
                    f"{file}: belongs to fold {fold} of {name}, like {other}, but they have no common case and "
                    "structure, so they cannot be two trainings of this fold; put folds into folders fold_0, fold_1, "
                    "..., or write one table with the columns case, structure, fold and value"
                )
    return next(seed for seed in itertools.count() if not any((seed, fold) in assigned for fold in cells))


def _assign(file: Path, table: pd.DataFrame, assigned: Assigned) -> None:
    for seed, rows in table.groupby("seed", sort=False):
        for fold, cells in _cells(rows).items():
            for other, known in assigned.setdefault((seed, fold), []):
                if both := known & cells:
                    _, case, structure = min(both)
                    raise DataError(
                        f"{file}: contains seed {seed}, fold {fold}, case {case}, structure {structure}, like {other}; "
                        "correct the column seed, or omit one of the files"
                    )
            assigned[seed, fold].append((file, cells))


def _cells(table: pd.DataFrame) -> dict[object, set[Cell]]:
    """Setup, case and structure of all scores, by fold."""
    return {
        fold: {
            (s.text, *cell) for s, own in per_setup(rows) for cell in zip(own["case"], own["structure"], strict=True)
        }
        for fold, rows in table.groupby("fold", sort=False)
    }


def _seeds_and_folds(name: str, files: int, assigned: Assigned) -> str:
    seeds, folds = (list(dict.fromkeys(key[axis] for key in assigned)) for axis in (0, 1))
    found = ", ".join(
        f"{what}{'s' if len(values) > 1 else ''} {', '.join(map(str, values))}"
        for what, values in (("seed", seeds), ("fold", folds))
    )
    whole = len(seeds) * len(folds)
    lacking = f", {len(assigned)} of {whole} pairs of seed and fold" if len(assigned) < whole else ""
    return f"{name}: {files} file{'s' if files > 1 else ''}, read as {found}{lacking}"


def _check_pairs(reference: str, plain: pd.DataFrame, variant: str, other: pd.DataFrame) -> None:
    for column in ("network", "case", "structure", "seed"):
        ours, theirs = (
            [setup.text for setup in setups(table)] if column == "network" else [*map(str, table[column].unique())]
            for table in (plain, other)
        )
        if not set(ours) & set(theirs):
            raise DataError(
                f"{variant} has no {column} in common with {reference}, so nothing can be paired: "
                f"{_listed(theirs)} and {_listed(ours)}; give files with the same {column}s, under the same names"
            )
    folds, others = (table.groupby("case")["fold"].agg(set) for table in (plain, other))
    for case in folds.index.intersection(others.index):
        if not folds[case] & others[case]:
            raise DataError(
                f"{variant} has case {case} in fold {_listed(others[case])}, but {reference} in fold "
                f"{_listed(folds[case])}, so it cannot be paired; give files of the same folds, or of the whole "
                "cross-validation, for every variant"
            )


def _listed(values: Sequence[object] | set[object]) -> str:
    return shortened_list(sorted(map(str, values)), 3)
