"""Data sets on disk: cases, label names, splits. No pixel is read here."""

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from scse.data.bids import is_bids, read_bids
from scse.data.descriptions import (
    BACKGROUND,
    IGNORED,
    Color,
    Labels,
    ListedCase,
    Split,
    channels_of,
    labels_of,
    listed_path,
    nnunet_labels,
    read_msd,
    read_names,
    read_nnunet,
    read_splits,
    read_table,
)
from scse.data.endings import ENDINGS, VOLUMES, ending, stem
from scse.data.schemes import LabelScheme
from scse.data.tables import ListedFiles, read_cases
from scse.support.errors import DataError, UserError
from scse.support.json_files import read_json
from scse.support.paths import check_regular_file
from scse.support.text import shortened_list

LAYOUTS = (
    "an nnU-Net v2 folder (dataset.json with channel_names, labels, file_ending; imagesTr/NAME_0000.EXT, "
    "labelsTr/NAME.EXT), a Medical Segmentation Decathlon or nnU-Net v1 folder (dataset.json with modality, labels, "
    "training), images/ and masks/ (or labels/) with files of the same names, a BIDS folder (sub-*/anat/*_T1w.nii.gz, "
    "derivatives/*/sub-*/anat/*_dseg.nii.gz), or a table cases.csv with the columns image and label"
)
FOREIGN_ENDINGS = (
    *(".hdr", ".img", ".mnc", ".dcm", ".b2nd"),
    *(".gif", ".webp", ".jp2", ".ppm", ".pgm", ".tga", ".npy", ".npz"),
)
"""Endings of image files that scse does not read."""

CHANNEL = re.compile(r"(.+)_([0-9]{4})")
"""Name of the file of one channel in nnU-Net's layout, without its ending: case name and channel index."""


@dataclass(frozen=True, slots=True)
class Case:
    """One scan or picture, with its label map.

    The files need not exist: `inspect` reports those that are missing.

    Attributes:
        name: Name of the case.
        images: Files of the image, in the order of the channels; empty for a label map without an image.
        label: File of the label map; None where no label map is expected.
        group: What the case shares with others, such as their subject: no fold has cases of a group on both sides. None
            if it shares nothing.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    group: str | None = None


@dataclass(frozen=True)
class Dataset:
    """A folder of cases, or a table that lists them.

    Attributes:
        path: Path of the folder or of the table.
        name: Name from dataset.json; without one, the name of the folder or table.
        format: Layout: "nnunet", "msd", "folders", "bids" or "table".
        channels: Names of the image channels; () in "folders" and "table" until `inspect` has read the pixels.
        structures: Label value of each structure, by name; without background (0). {} where no file names them, until
            `inspect` has read the pixels. If structures are regions, the value is that of predicted label maps.
        cases: Training cases, sorted by name.
        test_cases: Test cases of the data set, sorted by name.
        splits: Names of training and validation cases of each fold, from splits_final.json; () without this file.
        colors: (red, green, blue) of each label value, including the ignored value, if label maps are colour masks;
            otherwise None.
        ignored: Label value of voxels that are neither learned nor scored; None if there is none.
        background: Name of the label value 0.
        unused: Files and folders beside the images and label maps that look like images but belong to no case.
        regions: Labels of each structure, by name, if structures are regions of labels that may overlap, as in nnU-Net;
            {} otherwise.
        notes: Printable rows (what, text) about what the layout left open, such as columns that are not used.
    """

    path: Path
    name: str
    format: str
    channels: tuple[str, ...]
    structures: dict[str, int]
    cases: tuple[Case, ...]
    test_cases: tuple[Case, ...] = ()
    splits: tuple[Split, ...] = ()
    colors: dict[int, Color] | None = None
    ignored: int | None = None
    background: str = BACKGROUND
    unused: tuple[Path, ...] = ()
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def labels_file(self) -> Path:
        """The file that names the structures, or would name them."""
        folder = self.path.parent if self.format == "table" else self.path
        return folder / _LABELS_FILES[self.format]

    @property
    def grouped(self) -> bool:
        """Whether any group has several cases."""
        return any(len(groups_of(cases)) < len(cases) for cases in (self.cases, self.test_cases))

    @property
    def scheme(self) -> LabelScheme:
        """The meaning of label maps, and of the outputs of a network for them."""
        return LabelScheme(self.structures, self.regions)

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Detect the layout of a folder and list its cases.

        Layouts: nnU-Net v2; Medical Segmentation Decathlon, also with one file per channel as in nnU-Net v1; and plain
        folders `images/` with `masks/` or `labels/` (for test cases `test/images` and `test/masks` or `test/labels`),
        whose files are paired by their names without ending. Endings may be in upper case. For plain folders,
        `labels.csv` names the structures, in the columns `name,value` for index masks, or `name,r,g,b` or `name,color`
        (#rrggbb) for colour masks. The column `value` is optional; without it, rows are numbered from 1. A row named
        background has the value 0 (black, unless the row gives another colour).

        A table is a CSV file with a row for each case and the columns `image` (a file, or those of the channels in
        order, separated by semicolons) and `label`, relative to the folder of the table; and optionally `name`,
        `split` ("train" or "test"; only test cases may have no label) and `group`, such as the subject, whose cases
        are never divided between training and testing. The names of the structures are in `labels.csv` in the same
        folder.

        In a BIDS folder, the label maps are `derivatives/*/sub-*/[ses-*/]anat/*_dseg.nii.gz`, with names of structures
        from `*_dseg.tsv` (columns `index` and `name`), and subjects are groups. Channels are those of T1w, T2w and
        FLAIR of which each label map has exactly one, on its own grid by the headers of the first case.

        Structures of nnU-Net's dataset.json may be regions: lists of label values, with `regions_class_order`.

        Voxels of one label may be left out of training and scores: the label named ignore in nnU-Net's dataset.json
        (which must have the greatest value, as nnU-Net requires), and ignore, void, unlabelled or unlabeled in the
        other layouts, in upper or lower case.

        Args:
            path: Path of the folder, or of the table.

        Raises:
            DataError: The folder has none of these layouts, or its description or the table is invalid.
        """
        path = Path(path)
        if path.suffix.lower() == ".csv" and path.is_file():
            return cls(**_open_table(path))
        if not path.is_dir():
            found = "is a file" if path.exists() else "does not exist"
            raise DataError(f"{path}: {found}; give the folder of a data set: {LAYOUTS}")
        description = path / "dataset.json"
        if not description.is_file():
            plain = _mask_folder(path) is not None and (path / "images").is_dir()
            return cls(**(_open_bids(path) if is_bids(path) and not plain else _open_folders(path)))
        content = read_json(description)
        if not isinstance(content, dict):
            raise DataError(f"{description}: contains a {type(content).__name__}, not an object; allowed: {LAYOUTS}")
        reader = next((_READERS[key] for key in _READERS if key in content), None)
        if reader is None:
            keys = ", ".join(content) or "no keys"
            raise DataError(f"{description}: found {keys}, but neither channel_names nor modality; allowed: {LAYOUTS}")
        dataset = cls(path=path, **reader(path, content))
        if not dataset.cases:
            found = f"has a dataset.json but no training cases; found {_found(path)}"
            raise DataError(f"{path}: {found}; allowed: {LAYOUTS}")
        return replace(dataset, splits=_splits(path, dataset.cases))

    @classmethod
    def of_files(cls, image: Path, label: Path) -> Self:
        """A data set of one image and its label map.

        Structures are named by a file beside the label map: `labels.csv`, see `open`, or `labels.json`, such as
        {"liver": 1}.

        Args:
            image: Image.
            label: Label map of the image.

        Raises:
            DataError: A path is not that of a file, or the file with the names is invalid.
        """
        for path in (image, label):
            check_regular_file(path, remedy="give the files of an image and of its label map")
        table, names = label.parent / "labels.csv", label.parent / "labels.json"
        labels = read_table(table) if table.exists() else read_names(names) if names.exists() else Labels({})
        return cls(
            path=label,
            name=stem(image.name),
            format="folders",
            channels=(),
            cases=(Case(stem(image.name), (image,), label),),
            **_meaning(labels),
        )

    def select(self, names: Iterable[str]) -> Self:
        """The data set with only these training and test cases; splits are reduced to them.

        Raises:
            UserError: A name is not in the data set.
        """
        wanted = set(names)
        unknown = sorted(wanted - {case.name for case in (*self.cases, *self.test_cases)})
        if unknown:
            raise UserError(f"{self.path}: no case is named {shortened_list(unknown)}; `scse inspect` lists the names")
        return self._keep(wanted.__contains__)

    def without(self, names: Iterable[str]) -> Self:
        """The data set without these training and test cases; splits are reduced to the others."""
        unwanted = set(names)
        return self._keep(lambda name: name not in unwanted)

    def _keep(self, keep: Callable[[str], bool]) -> Self:
        return replace(
            self,
            cases=tuple(case for case in self.cases if keep(case.name)),
            test_cases=tuple(case for case in self.test_cases if keep(case.name)),
            splits=tuple((tuple(filter(keep, train)), tuple(filter(keep, val))) for train, val in self.splits),
        )


def groups_of(cases: Iterable[Case]) -> list[list[int]]:
    """Indices of the cases of each group, in the order of its first; a case without a group is one of its own."""
    groups: dict[str | int, list[int]] = {}
    for index, case in enumerate(cases):
        groups.setdefault(index if case.group is None else case.group, []).append(index)
    return list(groups.values())


def _open_nnunet(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    source = path / "dataset.json"
    described = read_nnunet(source, content)
    suffix = described.file_ending.lower()
    if suffix not in ENDINGS:
        raise DataError(f"{source}: file_ending is {described.file_ending!r}; allowed: {', '.join(ENDINGS)}")
    channels = channels_of(source, "channel_names", described.channel_names)
    labels = nnunet_labels(source, described)
    cases, unused = _nnunet_cases(path, "Tr", suffix, len(channels))
    test_cases, unused_tests = _nnunet_cases(path, "Ts", suffix, len(channels))
    return {
        "name": described.name or path.resolve().name,
        "format": "nnunet",
        "channels": channels,
        "cases": cases,
        "test_cases": test_cases,
        "unused": (*unused, *unused_tests),
        **_meaning(labels),
    }


def _nnunet_cases(path: Path, part: str, suffix: str, channels: int) -> tuple[tuple[Case, ...], tuple[Path, ...]]:
    """Cases of imagesTr and labelsTr (part "Tr") or imagesTs and labelsTs ("Ts"), and files that belong to no case."""
    images, labels = path / f"images{part}", path / f"labels{part}"
    files = _channel_files(_names(images, (suffix,)), suffix)
    if part == "Tr" and not files:
        raise DataError(
            f"{images}: found {_examples(images)}, but no NAME_0000{suffix}; rename the images to this form"
        )
    labelled = {stem(name): name for name in _preferred(_names(labels, (suffix,)), suffix)}
    expects_labels = part == "Tr" or bool(labelled)
    cases = []
    for case in sorted(labelled.keys() | files.keys()):
        found = _with_missing(case, files.get(case, {}), suffix, channels)
        label = labels / labelled.get(case, f"{case}{suffix}")
        cases.append(Case(case, tuple(images / name for name in found), label if expects_labels else None))
    used = {name for found in files.values() for name in found.values()}
    return tuple(cases), (*_unused(images, used), *_unused(labels, set(labelled.values())))


def _channel_files(names: Iterable[str], suffix: str) -> dict[str, dict[int, str]]:
    """Files NAME_0000, NAME_0001, ... of each case, by channel index."""
    files: dict[str, dict[int, str]] = {}
    for name in _preferred(names, suffix):
        if found := CHANNEL.fullmatch(stem(name)):
            files.setdefault(found[1], {})[int(found[2])] = name
    return files


def _with_missing(case: str, found: Mapping[int, str], suffix: str, channels: int) -> list[str]:
    """Files of the channels of a case in order, including expected files that are missing."""
    # one RGB picture may contain all channels; volumes have one file per channel
    expected = found.keys() if suffix not in VOLUMES or not found else found.keys() | set(range(channels))
    return [found.get(index, f"{case}_{index:04d}{suffix}") for index in sorted(expected)]


def _preferred(names: Iterable[str], suffix: str) -> list[str]:
    """Sort names; of those that differ only in the case of the ending, the one with exactly `suffix` is last."""
    return sorted(names, key=lambda name: name.endswith(suffix))


def _open_msd(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    source = path / "dataset.json"
    described = read_msd(source, content)
    channels = channels_of(source, "modality", described.modality)
    files = _ListedFiles(path, len(channels))
    cases = [_msd_case(files, listed, path / "labelsTr") for listed in described.training]
    # the folder may contain labels of test cases that the list does not name
    tests = path / "labelsTs" if _names(path / "labelsTs", ENDINGS) else None
    test_cases = [_msd_case(files, listed, tests) for listed in described.test]
    return {
        "name": described.name or path.resolve().name,
        "format": "msd",
        "channels": channels,
        "cases": tuple(sorted(cases, key=lambda case: case.name)),
        "test_cases": tuple(sorted(test_cases, key=lambda case: case.name)),
        "unused": files.unused(),
        **_meaning(labels_of(source, described.labels, values_first=True, ignored=IGNORED)),
    }


def _msd_case(files: "_ListedFiles", listed: ListedCase, labels: Path | None) -> Case:
    """A listed case; its label is looked for in the folder `labels` if the list names none."""
    image = listed_path(files.path / "dataset.json", listed.image)
    label = None if labels is None else labels / image.name
    if listed.label is not None:
        label = files.path / listed_path(files.path / "dataset.json", listed.label)
    images = files.find_channels(files.path / image)
    return Case(stem(image.name), images, None if label is None else files.find(label))


class _ListedFiles:
    """Finds the files that dataset.json lists and records which are used; each folder is read once.

    Args:
        path: Path of the data set.
        channels: Number of image channels.
    """

    def __init__(self, path: Path, channels: int) -> None:
        self.path, self.channels = path, channels
        self.by_stem: dict[Path, dict[str, list[str]]] = {}
        self.by_channel: dict[tuple[Path, str], dict[str, dict[int, str]]] = {}
        self.used: dict[Path, set[str]] = {
            path / f"{what}{part}": set() for what in ("images", "labels") for part in ("Tr", "Ts")
        }

    def find(self, listed: Path) -> Path:
        """The file as listed, or one that differs only in the case of its ending."""
        folder = listed.parent
        if folder not in self.by_stem:
            self.by_stem[folder] = _by_stem(folder)
        alike = [n for n in self.by_stem[folder].get(stem(listed.name), []) if ending(n) == ending(listed.name)]
        found = listed if listed.name in alike or not alike else folder / alike[0]
        self.used.setdefault(folder, set()).add(found.name)
        return found

    def find_channels(self, listed: Path) -> tuple[Path, ...]:
        """The file of an image as listed, or nnU-Net v1's NAME_0000, NAME_0001, ... if only these exist."""
        found, folder, name = self.find(listed), listed.parent, stem(listed.name)
        suffix = ending(listed.name) or ""
        if found.name in self.by_stem[folder].get(name, []):
            return (found,)
        if (folder, suffix) not in self.by_channel:
            self.by_channel[folder, suffix] = _channel_files(_names(folder, (suffix,)), suffix)
        files = self.by_channel[folder, suffix].get(name)
        if not files:
            return (found,)
        names = _with_missing(name, files, suffix, self.channels)
        self.used[folder].update(names)
        return tuple(folder / name for name in names)

    def unused(self) -> tuple[Path, ...]:
        """Files in the folders of used files that belong to no case."""
        folders = sorted(folder for folder in self.used if folder != self.path)
        return tuple(path for folder in folders for path in _unused(folder, self.used[folder]))


def _open_folders(path: Path) -> dict[str, Any]:
    masks, tests = _mask_folder(path), path / "test"
    if masks is None or not (path / "images").is_dir():
        raise DataError(f"{path}: found {_found(path)}; allowed: {LAYOUTS}")
    table = path / "labels.csv"
    cases = _paired_cases(path / "images", masks)
    test_images, test_masks = tests / "images", _mask_folder(tests)
    folders = [path / "images", masks, test_images, *([test_masks] if test_masks else [])]
    unread = test_masks if not test_images.is_dir() else None
    return {
        "path": path,
        "name": path.resolve().name,
        "format": "folders",
        "channels": (),
        "cases": cases,
        "test_cases": _paired_cases(test_images, test_masks) if test_images.is_dir() else (),
        "splits": _splits(path, cases),
        "unused": tuple(
            found
            for folder in folders
            for found in _unused(folder, () if folder == unread else _names(folder, ENDINGS))
        ),
        **_meaning(read_table(table) if table.exists() else Labels({})),
    }


def _open_table(path: Path) -> dict[str, Any]:
    listed, others = read_cases(path)
    names = path.parent / "labels.csv"
    if path.name == names.name:
        raise DataError(f"{path}: lists cases, but a file of this name lists structures; call it cases.csv")
    return {
        "path": path,
        "name": path.stem,
        "format": "table",
        "channels": (),
        "cases": _sorted_cases(case for case in listed if not case.is_test),
        "test_cases": _sorted_cases(case for case in listed if case.is_test),
        "notes": (("not used", f"columns of {path.name}: {', '.join(others)}"),) if others else (),
        **_meaning(read_table(names) if names.exists() else Labels({})),
    }


def _open_bids(path: Path) -> dict[str, Any]:
    listing = read_bids(path)
    return {
        "path": path,
        "name": path.resolve().name,
        "format": "bids",
        "channels": listing.channels,
        "cases": _sorted_cases(listing.cases),
        "unused": listing.unused,
        "notes": listing.notes,
        **_meaning(listing.labels),
    }


def _sorted_cases(listed: Iterable[ListedFiles]) -> tuple[Case, ...]:
    cases = (Case(case.name, case.images, case.label, case.group) for case in listed)
    return tuple(sorted(cases, key=lambda case: case.name))


def _mask_folder(path: Path) -> Path | None:
    found = [path / name for name in ("masks", "labels") if (path / name).is_dir()]
    if len(found) == 2:
        raise DataError(f"{path}: found both masks/ and labels/; only one is allowed: move or remove the other")
    return found[0] if found else None


def _paired_cases(images: Path, masks: Path | None) -> tuple[Case, ...]:
    """One case for each image and its mask; a name with two images or two masks becomes two cases."""
    pictures = _by_stem(images)
    if masks is None:
        return tuple(Case(name, (images / file,), None) for name in sorted(pictures) for file in pictures[name])
    labels = _by_stem(masks)
    if not pictures.keys() & labels.keys():
        found = " and ".join(f"{_examples(folder)} in {folder}" for folder in (images, masks))
        remedy = f"give both files of a case the same name, with one of the endings {', '.join(ENDINGS)}"
        raise DataError(f"no image and mask have the same name: found {found}; {remedy}")
    usual = ending(next(iter(labels.values()))[0])
    cases = []
    for name in sorted(pictures.keys() | labels.keys()):
        mine, theirs = pictures.get(name, []), labels.get(name, [f"{name}{usual}"])
        for k in range(max(len(mine), len(theirs))):
            files = (images / mine[min(k, len(mine) - 1)],) if mine else ()
            cases.append(Case(name, files, masks / theirs[min(k, len(theirs) - 1)]))
    return tuple(cases)


def _by_stem(folder: Path) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for name in _names(folder, ENDINGS):
        files.setdefault(stem(name), []).append(name)
    return files


def _meaning(labels: Labels) -> dict[str, Any]:
    """Fields of a data set that give the meaning of its label values."""
    return {name: getattr(labels, name) for name in ("structures", "ignored", "background", "colors", "regions")}


def _splits(path: Path, cases: Sequence[Case]) -> tuple[Split, ...]:
    return read_splits(path / "splits_final.json", [case.name for case in cases])


def _names(folder: Path, endings: Collection[str]) -> list[str]:
    """Names of the files with these endings, sorted; [] if the folder does not exist. No file is opened."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and ending(e.name) in endings)


def _unused(folder: Path, used: Collection[str]) -> list[Path]:
    """Unused image files, and folders that may contain images; sorted."""
    if not folder.is_dir():
        return []
    known = frozenset(used)
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.name not in known and not e.name.startswith(".") and _is_image_like(e)]
    return [folder / name for name in sorted(names)]


def _is_image_like(entry: os.DirEntry[str]) -> bool:
    return ending(entry.name) is not None or entry.name.lower().endswith(FOREIGN_ENDINGS) or entry.is_dir()


def _examples(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    return ", ".join(names[:3]) or "nothing"


def _found(path: Path) -> str:
    names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
    return shortened_list(names, 8) or "an empty folder"


_LABELS_FILES = {
    "nnunet": "dataset.json",
    "msd": "dataset.json",
    "folders": "labels.csv",
    "bids": "dseg.tsv",
    "table": "labels.csv",
}
_READERS = {"channel_names": _open_nnunet, "modality": _open_msd, "training": _open_msd}
