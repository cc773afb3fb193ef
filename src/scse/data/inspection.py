"""Inspection of a data set: one pass over all files that collects facts and problems."""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scse.data.dataset import Case, Dataset, groups_of
from scse.data.descriptions import BACKGROUND
from scse.data.endings import LOSSY, PICTURES, ending
from scse.data.file_errors import FileError
from scse.data.files import Image, geometry_errors, outline, read_image, read_label
from scse.support.errors import DataError
from scse.support.paths import absence
from scse.support.text import counted, shortened_list

SHOWN_PROBLEMS = 10
"""Number of problems in an error message; `scse inspect` lists all."""

USUAL_IGNORED = 255
"""Value of ignored voxels in index masks of VOC, Cityscapes and others."""

THREADS = min(4, os.cpu_count() or 1)
MOST_BINS = 1024
"""Label maps with all values below this are counted with bincount, without sorting their voxels."""

PART = 1 << 16
"""Number of voxels counted at a time."""

ROWS = 16
"""Number of rows of voxels copied at a time."""

CHANNEL_NAMES = {1: ("intensity",), 3: ("red", "green", "blue")}


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with one file.

    Attributes:
        case: Name of the case.
        file: File with the problem.
        kind: "missing_image", "missing_label", "missing_channel", "extra_channel", "unreadable", "shape",
            "affine", "axes" (2D among 3D), "values" (not in the label list), "mask_255" (foreground is 255),
            "undeclared_255" (255 with other values, but not in a label list), "fractional_label", "colors" (not in
            labels.csv), "empty_label", "not_finite", "duplicate_image" or "duplicate_name".
        message: One line with the file, what was found, what is allowed, and what to do.
    """

    case: str
    file: Path
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class CaseFacts:
    """Facts about one case.

    Attributes:
        name: Name of the case.
        shape: Number of voxels along each spatial axis.
        spacing: Millimetres per voxel along each spatial axis; 1.0 for pictures.
        orientation: Orientation, such as "LAS"; None for pictures.
        channels: Number of image channels.
        intensity: Least and greatest finite value of the image; NaN if there is none.
        voxels: Number of voxels of each label value, including background (0); {} without a readable label map.
        digest: SHA-256 of the voxels and affines of image and label map, independent of compression.
    """

    name: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str | None
    channels: int
    intensity: tuple[float, float]
    voxels: dict[int, int]
    digest: str


@dataclass(frozen=True)
class Inspection:
    """Result of `inspect`.

    Attributes:
        dataset: The data set. Channels and structures that no file lists are taken from the pixels.
        facts: Facts about all readable training and test cases.
        problems: Problems found; () if there are none.
    """

    dataset: Dataset
    facts: tuple[CaseFacts, ...]
    problems: tuple[Problem, ...]

    def good(self) -> Dataset:
        """The data set without the cases that have problems; of duplicate images, the first case is kept."""
        return self.dataset.without({problem.case for problem in self.problems})

    def left_out(self) -> list[tuple[str, str]]:
        """A printable row (quantity, names) of the cases that `good` leaves out; [] if there are none."""
        names = sorted({problem.case for problem in self.problems})
        return [("left out", ", ".join(names))] if names else []

    def absent(self, cases: Iterable[Case]) -> list[str]:
        """Structures that occur in none of the cases."""
        names = {case.name for case in cases}
        present = {value for fact in self.facts if fact.name in names for value in fact.voxels}
        return [name for name, values in self._labels_of().items() if present.isdisjoint(values)]

    def _labels_of(self) -> dict[str, Sequence[int]]:
        """Label values of each structure, by name."""
        return {name: [at] if isinstance(at, int) else at for name, at in self.dataset.scheme.scored.items()}

    def notices(self) -> list[tuple[str, str]]:
        """Printable rows (quantity, text) about voxels and files that are not used but are not problems."""
        dataset, rows = self.dataset, []
        if dataset.background.lower() != BACKGROUND:
            rows.append(("background", f"voxels of {dataset.background} (0) are not a structure and are not scored"))
        if dataset.regions:
            listed = "; ".join(f"{name} ({', '.join(map(str, at))})" for name, at in dataset.regions.items())
            rows.append(("regions", f"structures are regions of labels, which may overlap: {listed}"))
        if dataset.ignored is not None:
            rows.append(("ignored", f"voxels of value {dataset.ignored} are left out of training and scores"))
        if dataset.unused:
            names = shortened_list([path.relative_to(dataset.path) for path in dataset.unused])
            rows.append(("not used", f"{names}: belongs to no case, but looks like an image or a folder of images"))
        if dataset.grouped:
            cases = [*dataset.cases, *dataset.test_cases]
            kept = "which folds keep together and statistics count as one each"
            rows.append(("groups", f"{len(cases)} cases in {counted(len(groups_of(cases)), 'group')}, {kept}"))
        return [*rows, *dataset.notes]

    def facts_of(self, dataset: Dataset) -> list[CaseFacts]:
        """Facts about the cases of `dataset`, which may be a part of the inspected cases."""
        names = {case.name for case in (*dataset.cases, *dataset.test_cases)}
        return [fact for fact in self.facts if fact.name in names]

    def summary(self) -> list[tuple[str, str]]:
        """Printable rows (quantity, text) that describe the data set; empty quantities are left out."""
        dataset, facts = self.dataset, self.facts
        rows = [("cases", str(len(dataset.cases)))]
        if dataset.test_cases:
            labelled = sum(case.label is not None for case in dataset.test_cases)
            rows.append(("test cases", f"{len(dataset.test_cases)}, {labelled} with labels"))
        if dataset.splits:
            rows.append(("folds", f"{len(dataset.splits)}, from splits_final.json"))
        rows.append(("channels", ", ".join(dataset.channels) or "unknown"))
        if facts:
            low, high = (np.array(column) for column in zip(*(fact.intensity for fact in facts), strict=True))
            rows += [
                ("size (voxels)", _range([fact.shape for fact in facts], "{:.0f}")),
                ("spacing (mm)", _range([fact.spacing for fact in facts], "{:.4g}")),
                ("orientation", _counts(fact.orientation for fact in facts)),
                ("intensity", f"{_spread(low)} (least) to {_spread(high)} (greatest)"),
            ]
        return [*rows, *self._structure_rows(), *self.notices(), ("problems", self._problem_text())]

    def _structure_rows(self) -> list[tuple[str, str]]:
        total: Counter[int] = Counter()
        present: Counter[int] = Counter()
        for fact in self.facts:
            total.update(fact.voxels)
            present.update(fact.voxels.keys())
        labelled = sum(bool(fact.voxels) for fact in self.facts)
        foreground = sum(total[value] for value in self.dataset.scheme.labels.values()) or 1
        absent = absent_row(self.absent(self.dataset.cases)) if self.facts else []
        rows = []
        for name, values in self._labels_of().items():
            voxels = sum(total[value] for value in values)
            share = f"{voxels:,} voxels, {voxels / foreground:.2%} of all structures"
            cases = sum(not fact.voxels.keys().isdisjoint(values) for fact in self.facts)
            rows.append((f"{name} ({', '.join(map(str, values))})", f"{share}, present in {cases} of {labelled} cases"))
        if (ignored := self.dataset.ignored) is not None:
            everything = sum(total.values()) or 1
            share = (
                f"{total[ignored] / everything:.2%} of all voxels, present in {present[ignored]} of {labelled} cases"
            )
            rows.append((f"ignored ({ignored})", f"{total[ignored]:,} voxels, {share}"))
        return [*rows, *absent]

    def _problem_text(self) -> str:
        if not self.problems:
            return "none"
        cases = len({problem.case for problem in self.problems})
        return f"{len(self.problems)} in {cases} cases: {_counts(problem.kind for problem in self.problems)}"


def absent_row(names: Sequence[str], *, where: str = "") -> list[tuple[str, str]]:
    """A printable row (quantity, text) that warns of structures without training cases; [] if there are none.

    Args:
        names: Names of the structures.
        where: Text that limits the training cases, such as " of fold 0".
    """
    if not names:
        return []
    text = f"{', '.join(names)}: absent from all training cases{where}, so it cannot be learned and its scores are NaN"
    return [("warning", text)]


@dataclass(frozen=True, slots=True)
class _Findings:
    """Facts and problems of one case; their size does not depend on that of the images."""

    facts: CaseFacts | None
    problems: list[Problem]
    image_digest: str


def inspect(dataset: Dataset, *, progress: Callable[[int, int], None] | None = None) -> Inspection:
    """Read every file of a data set once and report facts and problems.

    Memory does not grow with the number of cases, because only their facts are kept.

    Args:
        dataset: Data set, as returned by `Dataset.open`.
        progress: Called with the numbers of finished and of all cases after each case.
    """
    cases = (*dataset.cases, *dataset.test_cases)
    findings = []
    pool = ThreadPoolExecutor(THREADS)
    try:
        for found in pool.map(partial(_examine, dataset), cases):
            findings.append(found)
            if progress:
                progress(len(findings), len(cases))
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for queued cases
    problems = [problem for found in findings for problem in found.problems]
    problems += _duplicates(cases, findings)
    facts = tuple(found.facts for found in findings if found.facts)
    files = {case.name: case.images[0] for case in cases if case.images}
    problems += _unlike_the_rest(facts, files, "axes", lambda fact: len(fact.shape))
    if not dataset.channels:
        problems += _unlike_the_rest(facts, files, "channels", lambda fact: fact.channels)
    return Inspection(_complete(dataset, facts, problems), facts, tuple(problems))


def _examine(dataset: Dataset, case: Case) -> _Findings:
    problems = _missing(case)
    images, ranges, of_image = _read_images(case, problems)
    label = _read_label(dataset, case, problems)
    voxels = _count(label)
    if label is not None and case.label is not None:
        problems += _label_problems(dataset, case, case.label, voxels)
    if not images:
        return _Findings(None, problems, "")
    problems += _geometry_problems(case, images, label)
    problems += _channel_problems(dataset, case, images)
    reference = next(iter(images.values()))
    of_case = of_image.copy()
    if label is not None:
        _add(of_case, label)
    facts = CaseFacts(
        name=case.name,
        shape=reference.shape,
        spacing=reference.spacing,
        orientation=reference.orientation,
        channels=sum(len(image.array) for image in images.values()),
        intensity=_joined(ranges),
        voxels=voxels,
        digest=of_case.hexdigest(),
    )
    return _Findings(facts, problems, of_image.hexdigest())


def _missing(case: Case) -> list[Problem]:
    """Problems for missing files of a case. No file is opened."""
    problems = []
    absent = [path for path in case.images if not path.exists()]
    if len(absent) == len(case.images):
        place = case.label or absent[0]
        found = f"the image {absent[0]} {absence(absent[0])}" if absent else "has no image"
        remedy = f"add the image of case {case.name}, or remove the case"
        problems.append(_problem(case, place, "missing_image", f"{found}; {remedy}"))
    else:
        for path in absent:
            found = f"this channel {absence(path)}, while {len(case.images) - len(absent)} of {len(case.images)} do"
            problems.append(_problem(case, path, "missing_channel", f"{found}; add the file, or remove the case"))
    if case.label is not None and not case.label.exists():
        owner = case.images[0] if case.images else case.name
        message = f"this label map {absence(case.label)}, but its image {owner} does; add it, or remove the case"
        problems.append(_problem(case, case.label, "missing_label", message))
    return problems


def _read_images(
    case: Case, problems: list[Problem]
) -> tuple[dict[Path, Image], list[tuple[float, float]], "hashlib._Hash"]:
    """Read the images of a case, one file at a time, and append problems of unreadable files to `problems`.

    Returns:
        Outlines of the readable images, their intensity ranges, and the digest of all.
    """
    outlines: dict[Path, Image] = {}
    ranges = []
    digest = hashlib.sha256()
    for path in case.images:
        if path.exists():
            try:
                image = read_image([path])
            except FileError as error:
                problems.append(_as_problem(case, error))
                continue
            ranges.append(_intensity(case, path, image, problems))
            _add(digest, image)
            outlines[path] = outline(image.array.shape, image.affine, is_sized=image.is_sized)
    return outlines, ranges, digest


def _read_label(dataset: Dataset, case: Case, problems: list[Problem]) -> Image | None:
    """The label map, or None after appending a problem if it cannot be read."""
    if case.label is not None and case.label.exists():
        try:
            return read_label(case.label, colors=dataset.colors)
        except FileError as error:
            problems.append(_as_problem(case, error))
    return None


def _geometry_problems(case: Case, images: dict[Path, Image], label: Image | None) -> list[Problem]:
    """Differences in geometry of the other channels and the label map from the first channel."""
    (path, reference), *others = images.items()
    if label is not None and case.label is not None:
        others.append((case.label, label))
    errors = [error for file, image in others for error in geometry_errors(file, image, path, reference)]
    return [_as_problem(case, error) for error in errors]


def _channel_problems(dataset: Dataset, case: Case, images: dict[Path, Image]) -> list[Problem]:
    listed, found = len(dataset.channels), sum(len(image.array) for image in images.values())
    # missing and damaged files are reported elsewhere
    if not listed or listed == found or len(images) < len(case.images):
        return []
    kind = "missing_channel" if found < listed else "extra_channel"
    in_bids = dataset.format == "bids"
    source = "the data set has" if in_bids else "dataset.json lists"
    message = f"the case has {found} channels, but {source} {listed} ({', '.join(dataset.channels)})"
    remedy = "add or remove channels" + ("" if in_bids else ", or correct dataset.json")
    return [_problem(case, case.images[-1], kind, f"{message}; {remedy}")]


def _intensity(case: Case, path: Path, image: Image, problems: list[Problem]) -> tuple[float, float]:
    """Least and greatest finite value, computed in parts because a mask of the whole takes a quarter of its memory."""
    flat = image.array.ravel(order="K")
    ranges, wrong = [], 0
    for start in range(0, flat.size, PART):
        part = flat[start : start + PART]
        finite = np.isfinite(part)
        if not finite.all():
            wrong += int(part.size - finite.sum())
            part = part[finite]
        if part.size:
            ranges.append((float(part.min()), float(part.max())))
    if wrong:
        found = f"{wrong} of {flat.size} voxels are NaN or infinite"
        message = f"{found}; all must be finite: replace them, for example by 0"
        problems.append(_problem(case, path, "not_finite", message))
    return _joined(ranges)


def _joined(ranges: list[tuple[float, float]]) -> tuple[float, float]:
    """The union of intensity ranges; NaN if there are none."""
    low, high = zip(*ranges, strict=True) if ranges else ((math.nan,), (math.nan,))
    return float(np.fmin.reduce(low)), float(np.fmax.reduce(high))


def _count(label: Image | None) -> dict[int, int]:
    if label is None:
        return {}
    least, greatest = int(label.array.min()), int(label.array.max())
    if least < 0 or greatest >= MOST_BINS:
        values, counts = np.unique(label.array, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))
    # in parts, because bincount converts its input to 64-bit integers
    flat = label.array.ravel(order="K")
    found = np.zeros(greatest + 1, np.int64)
    for start in range(0, flat.size, PART):
        found += np.bincount(flat[start : start + PART].astype(np.int64), minlength=greatest + 1)
    return {value: count for value, count in enumerate(found.tolist()) if count}


def _label_problems(dataset: Dataset, case: Case, path: Path, voxels: dict[int, int]) -> list[Problem]:
    without = {0} if dataset.ignored is None else {0, dataset.ignored}
    allowed = without | set(dataset.scheme.labels.values())
    foreground = voxels.keys() - without
    source = dataset.labels_file.name
    if not foreground:
        ignored = "" if dataset.ignored is None else f" and ignored voxels ({dataset.ignored})"
        message = f"contains only background (0){ignored}; a label map needs at least one structure"
        remedy = "label it, or remove the case" if len(dataset.cases) + len(dataset.test_cases) > 1 else "label it"
        return [_problem(case, path, "empty_label", f"{message}: {remedy}")]
    ignoring = "" if dataset.ignored is not None or USUAL_IGNORED not in foreground else _how_to_ignore(dataset)
    if foreground == {USUAL_IGNORED} and USUAL_IGNORED not in allowed:
        if dataset.structures:
            listed = ", ".join(map(str, sorted(allowed)))
            remedy = f"{source} lists {listed}: divide the mask by 255, or change the structure's value to 255 there"
        else:
            remedy = f"no {source} lists 255 as a structure: write {dataset.labels_file} with the lines "
            tabs = dataset.format == "bids"
            remedy += '"index TAB name" and "255 TAB foreground"' if tabs else '"name,value" and "foreground,255"'
        message = f"is a mask with the values 0 and 255 ({voxels[USUAL_IGNORED]} voxels), but {remedy}{ignoring}"
        return [_problem(case, path, "mask_255", message)]
    lossy = ending(path.name) in LOSSY
    if dataset.structures:
        outside = sorted(foreground - allowed)
        rule = f"{source} lists {', '.join(map(str, sorted(allowed)))}: add them there, or relabel these voxels"
    else:
        outside = sorted(value for value in foreground if lossy or value < 0)
        rule = "label values must be whole numbers from 0: relabel these voxels, or list the values in labels.csv"
    if not outside and not dataset.structures and ending(path.name) in PICTURES and _may_be_ignored(voxels):
        found = f"has {voxels[USUAL_IGNORED]} voxels of value {USUAL_IGNORED}, which often marks ignored voxels"
        remedy = f"list all values in {dataset.labels_file}, including {USUAL_IGNORED} if it is a structure{ignoring}"
        return [_problem(case, path, "undeclared_255", f"{found}; {remedy}")]
    if not outside:
        return []
    some = shortened_list([f"{value} in {voxels[value]} voxels" for value in outside], 8)
    hint = "; JPEG alters values, so export masks as PNG" if lossy else ""
    ignoring = ignoring if USUAL_IGNORED in outside else ""
    return [_problem(case, path, "values", f"contains {some}, but {rule}{ignoring}{hint}")]


def _may_be_ignored(voxels: dict[int, int]) -> bool:
    """Whether 255 is the greatest value and 254 does not occur, which suggests a mark rather than a structure."""
    return max(voxels) == USUAL_IGNORED and USUAL_IGNORED - 1 not in voxels


def _how_to_ignore(dataset: Dataset) -> str:
    """How to declare that voxels of value 255 are ignored."""
    if dataset.labels_file.suffix == ".csv":
        line = f'the line "ignore,{USUAL_IGNORED}" in labels.csv'
    elif dataset.format == "bids":
        line = f'the line "{USUAL_IGNORED} TAB ignore" in dseg.tsv'
    else:
        example = f'"ignore": {USUAL_IGNORED}' if dataset.format == "nnunet" else f'"{USUAL_IGNORED}": "ignore"'
        line = f"{example} among the labels in dataset.json"
    return f"; or, if {USUAL_IGNORED} marks ignored voxels, declare it with {line}"


def _duplicates(cases: Iterable[Case], findings: Iterable[_Findings]) -> list[Problem]:
    """Duplicate names, and duplicate images under two names; reported for the later case."""
    problems = []
    names: dict[str, Path] = {}
    images: dict[str, tuple[str, Path]] = {}
    for case, found in zip(cases, findings, strict=True):
        path = case.images[0] if case.images else case.label or Path()
        if case.name in names:
            message = f"case {case.name} already exists as {names[case.name]}"
            remedy = "rename or remove one of them"
            problems.append(_problem(case, path, "duplicate_name", f"{message}; {remedy}"))
        elif found.image_digest in images:
            name, other = images[found.image_digest]
            message = f"contains the same image as case {name} ({other}), so one subject would count twice"
            problems.append(_problem(case, path, "duplicate_image", f"{message}; remove one of them"))
        names.setdefault(case.name, case.label or path)
        if found.image_digest:
            images.setdefault(found.image_digest, (case.name, path))
    return problems


def _unlike_the_rest(
    facts: tuple[CaseFacts, ...], files: dict[str, Path], what: str, measure: Callable[[CaseFacts], int]
) -> list[Problem]:
    """Cases whose number of axes or channels differs from that of most cases."""
    counts = Counter(map(measure, facts))
    usual = counts.most_common(1)[0][0] if counts else 0
    problems = []
    for fact in facts:
        number = measure(fact)
        if number != usual:
            kind = what if what == "axes" else "missing_channel" if number < usual else "extra_channel"
            message = f"has {number} {what}, but most cases ({counts[usual]} of {len(facts)}) have {usual}"
            file = files[fact.name]
            remedy = "convert it, or remove the case"
            problems.append(Problem(fact.name, file, kind, f"{file}: {message}; {remedy}"))
    return problems


def _complete(dataset: Dataset, facts: tuple[CaseFacts, ...], problems: list[Problem]) -> Dataset:
    """Complete channels and structures that no file lists from the cases without problems."""
    bad = {problem.case for problem in problems}
    sound = [fact for fact in facts if fact.name not in bad]
    channels, structures = dataset.channels, dataset.structures
    if not channels and sound:
        number = sound[0].channels
        channels = CHANNEL_NAMES.get(number) or tuple(f"channel_{index}" for index in range(number))
    if not structures:
        values = sorted({value for fact in sound for value in fact.voxels} - {0})
        structures = {f"structure_{value}": value for value in values}
    elif dataset.format == "bids" and sound:  # a dseg.tsv may name all labels of an atlas
        present = {value for fact in sound for value in fact.voxels}
        structures = {name: value for name, value in structures.items() if value in present}
    return replace(dataset, channels=channels, structures=structures)


def _add(digest: "hashlib._Hash", image: Image) -> None:
    """Add an image to a digest."""
    affine = None
    if image.affine is not None:
        # rounded to 1e-6 mm, or more finely for voxels below 1 mm
        places = max(6, 6 - math.ceil(math.log10(min(image.spacing))))
        affine = image.affine.round(places).tolist()
    digest.update(f"{image.array.shape} {image.array.dtype} {affine}".encode())
    # arrays of NIfTI files are in Fortran order; their transpose needs no copy
    array = image.array.T if image.array.flags.f_contiguous else image.array
    for part in [array] if image.is_label else array:
        # copy few rows at a time, but enough to use whole cache lines
        rows = len(part) if part.flags.c_contiguous else ROWS
        for start in range(0, len(part), rows):
            digest.update(np.ascontiguousarray(part[start : start + rows]).data)


def _problem(case: Case, file: Path, kind: str, message: str) -> Problem:
    return Problem(case.name, file, kind, f"{file}: {message}")


def _as_problem(case: Case, error: FileError) -> Problem:
    return Problem(case.name, error.file, error.kind, str(error))


def _range(rows: list[tuple[int, ...]] | list[tuple[float, ...]], pattern: str) -> str:
    """Least, median and greatest of each axis, or their common value."""
    columns = list(zip(*rows, strict=False))
    parts = [" x ".join(pattern.format(pick(column)) for column in columns) for pick in (min, np.median, max)]
    return parts[0] if len(set(parts)) == 1 else f"{parts[0]} (least), {parts[1]} (median), {parts[2]} (greatest)"


def _spread(values: NDArray[Any]) -> str:
    low, high = np.fmin.reduce(values), np.fmax.reduce(values)
    return f"{low:.6g}" if low == high else f"{low:.6g} .. {high:.6g}"


def _counts(items: Iterable[str | None]) -> str:
    return ", ".join(f"{item or 'none'}: {count}" for item, count in Counter(items).most_common())


def open_checked(
    data: Dataset | Path | str, *, skip_bad: bool = False, progress: Callable[[int, int], None] | None = None
) -> tuple[Inspection, Dataset]:
    """Open and inspect a data set, and refuse it if it has problems.

    Args:
        data: Data set, or its path.
        skip_bad: Leave out cases with problems instead of refusing the data set.
        progress: See `inspect`.

    Returns:
        The result of the inspection, and the data set to use.

    Raises:
        DataError: Problems were found and are not skipped, or no training case is left.
    """
    opened = isinstance(data, Dataset)
    inspection = inspect(data if isinstance(data, Dataset) else Dataset.open(data), progress=progress)
    path, problems = inspection.dataset.path, inspection.problems
    if problems and not skip_bad:
        shown = "".join(f"\n  {problem.message}" for problem in problems[:SHOWN_PROBLEMS])
        more = f"\n  and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        listed = f"fix them (`scse inspect {path}` lists all), or skip these cases with --skip-bad"
        remedy = "fix them" if opened else listed
        raise DataError(f"{path}: {len(problems)} problem{'s' * (len(problems) > 1)} found; {remedy}:{shown}{more}")
    dataset = inspection.good()
    if not dataset.cases:
        raise DataError(f"{path}: no training case is left; fix the {len(problems)} problems (`scse inspect {path}`)")
    return inspection, dataset
