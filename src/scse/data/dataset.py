"""What a folder on disk holds: cases, label names, splits. Nothing here reads a pixel."""

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from scse.data.descriptions import (
    BACKGROUND,
    IGNORED,
    NNUNET_IGNORED,
    Color,
    Labels,
    ListedCase,
    Split,
    channels_of,
    labels_of,
    listed_path,
    read_msd,
    read_nnunet,
    read_splits,
    read_table,
)
from scse.data.files import ENDINGS, NIFTI, ending, stem
from scse.support.errors import DataError, UserError
from scse.support.json_files import read_json

LAYOUTS = (
    "an nnU-Net v2 folder (dataset.json with channel_names, labels, file_ending; imagesTr/NAME_0000.EXT, "
    "labelsTr/NAME.EXT), a Medical Segmentation Decathlon or nnU-Net v1 folder (dataset.json with modality, labels, "
    "training), or images/ and masks/ (or labels/) with files of equal names"
)
FOREIGN_ENDINGS = (
    *(".mha", ".mhd", ".nrrd", ".nhdr", ".gipl", ".gipl.gz", ".hdr", ".img", ".mgz", ".mgh", ".mnc", ".dcm", ".b2nd"),
    *(".gif", ".webp", ".jp2", ".ppm", ".pgm", ".tga", ".npy", ".npz"),
)
"""Of images that scse does not read."""

CHANNEL = re.compile(r"(.+)_([0-9]{4})")
"""The name of a channel's file without its ending, as nnU-Net has it."""


@dataclass(frozen=True, slots=True)
class Case:
    """One subject or picture: its name, the files of its image (channels in order) and of its label map.

    A file named here need not exist: what is missing, `inspect` reports. `images` is empty where a label
    map has no image; `label` is None where none is expected.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None


@dataclass(frozen=True)
class Dataset:
    """A folder of cases.

    Attributes:
        path: the folder.
        name: as its dataset.json says, else the folder's name.
        format: "nnunet", "msd" or "folders".
        channels: names of the image channels; () in "folders" until `inspect` has seen the pixels.
        structures: name -> label value, without background (0); {} in "folders" without labels.csv until
            `inspect` has seen the pixels.
        cases: training cases, sorted by name.
        test_cases: the data set's own test cases, sorted by name.
        splits: per fold, the names of training and of validation cases, from splits_final.json; () without.
        colors: label value -> (red, green, blue) where label maps are colour masks, else None; the ignored value too.
        ignored: label value of voxels that are neither learned nor scored; None if there is none.
        background: name of the label value 0.
        unused: files and folders beside the images and label maps that look like some, but belong to no case.
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

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Recognise a folder and list its cases.

        Layouts: nnU-Net v2; Medical Segmentation Decathlon, also with the channels in files of their own, as nnU-Net v1
        has them; and plain folders `images/` with `masks/` or `labels/` (for test cases `test/images` and `test/masks`
        or `test/labels`), files paired by their names without ending. Endings may be in upper case. Beside plain
        folders, `labels.csv` names the structures, in the columns `name,value` for index masks, or `name,r,g,b` or
        `name,color` (#rrggbb) for colour masks, where `value` is optional and otherwise counts the rows from 1; a row
        named background is 0 (black, unless a row says otherwise).

        Voxels of one label may be left out of training and scores: the one named ignore in nnU-Net's dataset.json
        (its greatest value, as nnU-Net demands), and ignore, void, unlabelled or unlabeled in the other layouts, in
        upper or lower case.

        Raises:
            DataError: the folder has none of these layouts, or its description is wrong.
        """
        path = Path(path)
        if not path.is_dir():
            found = "a file" if path.exists() else "nothing"
            raise DataError(f"{path}: found {found}; give the folder of a data set: {LAYOUTS}")
        description = path / "dataset.json"
        if not description.is_file():
            return cls(**_open_folders(path))
        content = read_json(description)
        if not isinstance(content, dict):
            raise DataError(f"{description}: holds a {type(content).__name__}, not an object; see {LAYOUTS}")
        reader = next((_READERS[key] for key in _READERS if key in content), None)
        if reader is None:
            keys = ", ".join(content) or "no keys"
            raise DataError(f"{description}: found {keys}, but neither channel_names nor modality; allowed: {LAYOUTS}")
        dataset = cls(path=path, **reader(path, content))
        if not dataset.cases:
            raise DataError(f"{path}: dataset.json is there, but no training case; found {_found(path)}; see {LAYOUTS}")
        return replace(dataset, splits=_splits(path, dataset.cases))

    def select(self, names: Iterable[str]) -> Self:
        """The data set with these cases only, training and test; splits follow.

        Raises:
            ValueError: a name is not in the data set.
        """
        wanted = set(names)
        unknown = sorted(wanted - {case.name for case in (*self.cases, *self.test_cases)})
        if unknown:
            raise UserError(f"{self.path}: no case is named {', '.join(unknown[:5])}; see scse inspect for the names")
        return self._keep(wanted.__contains__)

    def without(self, names: Iterable[str]) -> Self:
        """The data set less these cases, training and test; splits follow."""
        unwanted = set(names)
        return self._keep(lambda name: name not in unwanted)

    def _keep(self, keep: Callable[[str], bool]) -> Self:
        return replace(
            self,
            cases=tuple(case for case in self.cases if keep(case.name)),
            test_cases=tuple(case for case in self.test_cases if keep(case.name)),
            splits=tuple((tuple(filter(keep, train)), tuple(filter(keep, val))) for train, val in self.splits),
        )


def _open_nnunet(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    source = path / "dataset.json"
    described = read_nnunet(source, content)
    suffix = described.file_ending.lower()
    if suffix not in ENDINGS:
        raise DataError(f"{source}: file_ending is {described.file_ending!r}; allowed: {', '.join(ENDINGS)}")
    channels = channels_of(source, "channel_names", described.channel_names)
    labels = labels_of(source, described.labels, values_first=False, ignored=NNUNET_IGNORED)
    if labels.ignored is not None and labels.ignored < (greatest := max(labels.structures.values())):
        found = f"the ignore label has the value {labels.ignored}, and a structure {greatest}"
        raise DataError(f"{source}: {found}; nnU-Net demands that ignore has the greatest value: relabel")
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
    """The cases of imagesTr and labelsTr (part "Tr") or imagesTs and labelsTs ("Ts"), and the files of none."""
    images, labels = path / f"images{part}", path / f"labels{part}"
    files = _channel_files(_names(images, (suffix,)), suffix)
    if part == "Tr" and not files:
        raise DataError(f"{images}: found {_examples(images)}, but no NAME_0000{suffix}; rename the images so")
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
    """The files NAME_0000, NAME_0001, ... of each case, by the index of the channel."""
    files: dict[str, dict[int, str]] = {}
    for name in _preferred(names, suffix):
        if found := CHANNEL.fullmatch(stem(name)):
            files.setdefault(found[1], {})[int(found[2])] = name
    return files


def _with_missing(case: str, found: Mapping[int, str], suffix: str, channels: int) -> list[str]:
    """The files of a case's channels in order, with those that are expected and not there."""
    # one RGB picture may hold all channels; of volumes, each channel is a file
    expected = found.keys() if suffix not in NIFTI or not found else found.keys() | set(range(channels))
    return [found.get(index, f"{case}_{index:04d}{suffix}") for index in sorted(expected)]


def _preferred(names: Iterable[str], suffix: str) -> list[str]:
    """Names in an order in which the last of those that differ in the case of their ending has `suffix` itself."""
    return sorted(names, key=lambda name: name.endswith(suffix))


def _open_msd(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    source = path / "dataset.json"
    described = read_msd(source, content)
    channels = channels_of(source, "modality", described.modality)
    files = _ListedFiles(path, len(channels))
    cases = [_msd_case(files, listed, path / "labelsTr") for listed in described.training]
    # labels of test cases may be in their folder, where no list names them
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
    """A case of the list, whose label is in the folder `labels` where the list does not say."""
    image = listed_path(files.path / "dataset.json", listed.image)
    label = None if labels is None else labels / image.name
    if listed.label is not None:
        label = files.path / listed_path(files.path / "dataset.json", listed.label)
    images = files.find_channels(files.path / image)
    return Case(stem(image.name), images, None if label is None else files.find(label))


class _ListedFiles:
    """Finds the files that dataset.json lists, and keeps which are used; each folder is listed once.

    Args:
        path: of the data set.
        channels: of its images.
    """

    def __init__(self, path: Path, channels: int) -> None:
        self.path, self.channels = path, channels
        self.by_stem: dict[Path, dict[str, list[str]]] = {}
        self.by_channel: dict[tuple[Path, str], dict[str, dict[int, str]]] = {}
        self.used: dict[Path, set[str]] = {
            path / f"{what}{part}": set() for what in ("images", "labels") for part in ("Tr", "Ts")
        }

    def find(self, listed: Path) -> Path:
        """The file as listed, or one that differs in the case of its ending only."""
        folder = listed.parent
        if folder not in self.by_stem:
            self.by_stem[folder] = _by_stem(folder)
        alike = [n for n in self.by_stem[folder].get(stem(listed.name), []) if ending(n) == ending(listed.name)]
        found = listed if listed.name in alike or not alike else folder / alike[0]
        self.used.setdefault(folder, set()).add(found.name)
        return found

    def find_channels(self, listed: Path) -> tuple[Path, ...]:
        """The file of an image as listed, or, where only nnU-Net v1's NAME_0000, NAME_0001, ... are there, those."""
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
        """Files beside the used ones that belong to no case."""
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


def _mask_folder(path: Path) -> Path | None:
    found = [path / name for name in ("masks", "labels") if (path / name).is_dir()]
    if len(found) == 2:
        raise DataError(f"{path}: found both masks/ and labels/; one is allowed: move or remove the other")
    return found[0] if found else None


def _paired_cases(images: Path, masks: Path | None) -> tuple[Case, ...]:
    """A case for each image and its mask; a name that has two of either becomes two cases."""
    pictures = _by_stem(images)
    if masks is None:
        return tuple(Case(name, (images / file,), None) for name in sorted(pictures) for file in pictures[name])
    labels = _by_stem(masks)
    if not pictures.keys() & labels.keys():
        found = " and ".join(f"{_examples(folder)} in {folder}" for folder in (images, masks))
        remedy = f"name both files of a case alike, with one of the endings {', '.join(ENDINGS)}"
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
    """The fields of a data set that say what its label values mean."""
    return {name: getattr(labels, name) for name in ("structures", "ignored", "background", "colors")}


def _splits(path: Path, cases: Sequence[Case]) -> tuple[Split, ...]:
    return read_splits(path / "splits_final.json", [case.name for case in cases])


def _names(folder: Path, endings: Collection[str]) -> list[str]:
    """Names of the files with these endings, sorted; [] if there is no such folder. Never touches a file."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and ending(e.name) in endings)


def _unused(folder: Path, used: Collection[str]) -> list[Path]:
    """What looks like an image, or may hold some, and is not among the used names; sorted."""
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
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "an empty folder") + more


_READERS = {"channel_names": _open_nnunet, "modality": _open_msd, "training": _open_msd}
