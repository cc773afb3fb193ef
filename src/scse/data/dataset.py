"""What a folder on disk holds: cases, label names, splits. Nothing here reads a pixel."""

import csv
import json
import os
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from scse.data.files import ENDINGS, NIFTI, ending, stem
from scse.errors import DataError, UserError

Split = tuple[tuple[str, ...], tuple[str, ...]]
Color = tuple[int, int, int]

LAYOUTS = (
    "an nnU-Net v2 folder (dataset.json with channel_names, labels, file_ending; imagesTr/NAME_0000.EXT, "
    "labelsTr/NAME.EXT), a Medical Segmentation Decathlon folder (dataset.json with modality, labels, training), "
    "or images/ and masks/ (or labels/) with files of equal names"
)


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
        colors: label value -> (red, green, blue) where label maps are colour masks, else None.
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

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Recognise a folder and list its cases.

        Layouts: nnU-Net v2; Medical Segmentation Decathlon; and plain folders `images/` with `masks/` or
        `labels/` (for test cases `test/images` and `test/masks` or `test/labels`), files paired by their names
        without ending. Beside plain folders, `labels.csv` names the structures, in the columns `name,value`
        for index masks, or `name,r,g,b` or `name,color` (#rrggbb) for colour masks, where `value` is optional
        and otherwise counts the rows from 1; a row named background is 0 (black, unless it says otherwise).

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
        content = _read_json(description)
        if not isinstance(content, dict):
            raise DataError(f"{description}: holds a {type(content).__name__}, not an object; see {LAYOUTS}")
        reader = next((_READERS[key] for key in _READERS if key in content), None)
        if reader is None:
            keys = ", ".join(content) or "no keys"
            raise DataError(f"{description}: found {keys}, but neither channel_names nor modality; allowed: {LAYOUTS}")
        dataset = cls(path=path, name=str(content.get("name") or path.resolve().name), **reader(path, content))
        if not dataset.cases:
            raise DataError(f"{path}: dataset.json is there, but no training case; found {_found(path)}; see {LAYOUTS}")
        return replace(dataset, splits=_read_splits(path / "splits_final.json", dataset.cases))

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
    description = path / "dataset.json"
    if "dataset" in content:
        raise DataError(
            f"{description}: lists its files under dataset; remove that key and put them in imagesTr, labelsTr"
        )
    suffix = str(content.get("file_ending"))
    if ending(suffix) != suffix:
        raise DataError(f"{description}: file_ending is {suffix!r}; allowed: {', '.join(ENDINGS)}")
    channels = _channels(description, "channel_names", content["channel_names"])
    return {
        "format": "nnunet",
        "channels": channels,
        "structures": _structures(description, content.get("labels")),
        "cases": _nnunet_cases(path, "Tr", suffix, len(channels)),
        "test_cases": _nnunet_cases(path, "Ts", suffix, len(channels)),
    }


def _nnunet_cases(path: Path, part: str, suffix: str, channels: int) -> tuple[Case, ...]:
    """The cases of imagesTr and labelsTr (part "Tr") or imagesTs and labelsTs ("Ts")."""
    images, labels = path / f"images{part}", path / f"labels{part}"
    indices: dict[str, set[int]] = {}
    for name in _names(images, (suffix,)):
        case, _, index = name.removesuffix(suffix).rpartition("_")
        if case and len(index) == 4 and index.isdecimal():
            indices.setdefault(case, set()).add(int(index))
    labelled = {name.removesuffix(suffix) for name in _names(labels, (suffix,))}
    if part == "Tr" and not indices:
        raise DataError(f"{images}: found {_examples(images)}, but no NAME_0000{suffix}; rename the images so")
    expects_labels = part == "Tr" or bool(labelled)
    cases = []
    for case in sorted(labelled | indices.keys()):
        found = indices.get(case, set())
        # one RGB picture may hold all channels; of volumes, each channel is a file
        expected = found if suffix not in NIFTI or not found else found | set(range(channels))
        files = tuple(images / f"{case}_{index:04d}{suffix}" for index in sorted(expected))
        cases.append(Case(case, files, labels / f"{case}{suffix}" if expects_labels else None))
    return tuple(cases)


def _open_msd(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    description = path / "dataset.json"
    names = content.get("labels")
    if not isinstance(names, dict):
        raise DataError(f'{description}: labels is {names!r}; it must be like {{"0": "background", "1": "liver"}}')
    labels = {str(name): value for value, name in names.items()}
    if len(labels) < len(names):
        raise DataError(f"{description}: two labels have the same name in {names}; give each its own")
    return {
        "format": "msd",
        "channels": _channels(description, "modality", content.get("modality", {"0": "image"})),
        "structures": _structures(description, labels),
        "cases": _msd_cases(path, content.get("training", []), None),
        "test_cases": _msd_cases(path, content.get("test", []), path / "labelsTs"),
    }


def _msd_cases(path: Path, entries: Any, labels: Path | None) -> tuple[Case, ...]:
    """Cases of a list of {"image", "label"}, or of image paths whose labels may be in the folder `labels`."""
    description = path / "dataset.json"
    labelled = _names(labels, ENDINGS) if labels else []
    cases = []
    for entry in entries if isinstance(entries, list) else [entries]:
        files = entry if isinstance(entry, dict) else {"image": entry}
        image, label = files.get("image"), files.get("label")
        if not isinstance(image, str) or not isinstance(label, str | None):
            example = '{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}'
            raise DataError(f"{description}: found the case {entry!r}; a case is written like {example}")
        name = Path(image).name
        if label is not None:
            place: Path | None = path / label
        elif labels is None or labelled:
            place = (labels or path / "labelsTr") / name
        else:
            place = None
        cases.append(Case(stem(name), (path / image,), place))
    return tuple(sorted(cases, key=lambda case: case.name))


def _open_folders(path: Path) -> dict[str, Any]:
    masks, test = _mask_folder(path), path / "test"
    if masks is None or not (path / "images").is_dir():
        raise DataError(f"{path}: found {_found(path)}; allowed: {LAYOUTS}")
    table = path / "labels.csv"
    structures, colors = _read_table(table) if table.is_file() else ({}, None)
    cases = _paired_cases(path / "images", masks)
    return {
        "path": path,
        "name": path.resolve().name,
        "format": "folders",
        "channels": (),
        "structures": structures,
        "cases": cases,
        "test_cases": _paired_cases(test / "images", _mask_folder(test)) if (test / "images").is_dir() else (),
        "splits": _read_splits(path / "splits_final.json", cases),
        "colors": colors,
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


def _read_table(table: Path) -> tuple[dict[str, int], dict[int, Color] | None]:
    """Structures and, if labels.csv lists colours, the colour of every value."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [(column or "").strip().lower() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [{key: (row[key] or "").strip() for key in columns} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read ({error}); save it as CSV in UTF-8") from error
    colored = "color" in columns or {"r", "g", "b"} <= set(columns)
    if "name" not in columns or not (colored or "value" in columns):
        found = ",".join(columns) or "nothing"
        raise DataError(f"{table}: found the columns {found}; allowed: name,value or name,r,g,b or name,color")
    names, values = [row["name"] for row in rows], _row_values(table, rows)
    if len(set(names)) < len(names):
        raise DataError(f"{table}: the name {_twice(names)!r} is listed twice; give each structure one row")
    structures = _structures(table, dict(zip(names, values, strict=True)))
    if not colored:
        return structures, None
    colors = {int(value): _row_color(table, row) for value, row in zip(values, rows, strict=True)}
    colors.setdefault(0, (0, 0, 0))
    if len(set(colors.values())) < len(colors):
        raise DataError(
            f"{table}: the colour {_twice(list(colors.values()))} is listed twice; each value needs its own"
        )
    return structures, colors


def _row_values(table: Path, rows: list[dict[str, str]]) -> list[Any]:
    if rows and "value" in rows[0]:
        return [row["value"] for row in rows]
    values, count = [], 0
    for row in rows:
        count += row["name"].lower() != "background"
        values.append(0 if row["name"].lower() == "background" else count)
    return values


def _row_color(table: Path, row: dict[str, str]) -> Color:
    text = row.get("color", "").removeprefix("#")
    try:
        red, green, blue = bytes.fromhex(text) if "color" in row else bytes(int(row[key]) for key in "rgb")
    except ValueError:
        found = ",".join(row.values())
        raise DataError(f"{table}: found {found!r}; a colour is #rrggbb, or r,g,b from 0 to 255 each") from None
    return red, green, blue


def _structures(source: Path, labels: Any) -> dict[str, int]:
    """Check name -> value as written by the user, and leave the background out."""
    if not isinstance(labels, dict) or not labels:
        raise DataError(f"{source}: found the labels {labels!r}; list at least one structure with its value")
    if "ignore" in labels:
        raise DataError(f"{source}: found an ignore label, which scse does not know; paint it as background or drop it")
    structures = {str(name): _label_value(source, name, value) for name, value in labels.items()}
    values = list(structures.values())
    if len(set(values)) < len(values):
        raise DataError(f"{source}: the label value {_twice(values)} is listed twice; each value needs its own name")
    structures = {name: value for name, value in structures.items() if value != 0}
    if not structures:
        raise DataError(f"{source}: lists no structure besides the background; add one, such as 1")
    return structures


def _label_value(source: Path, name: Any, value: Any) -> int:
    if isinstance(value, list):
        raise DataError(
            f"{source}: {name!r} is a region of labels {value}; scse learns one value per structure: relabel"
        )
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal():
        raise DataError(f"{source}: {name!r} has the label value {value!r}; allowed: whole numbers from 0")
    return int(text)


def _channels(source: Path, key: str, names: Any) -> tuple[str, ...]:
    if not isinstance(names, dict) or sorted(names) != sorted(str(index) for index in range(len(names))) or not names:
        raise DataError(f'{source}: {key} is {names!r}; it must number the channels from 0, like {{"0": "T1"}}')
    return tuple(str(names[str(index)]) for index in range(len(names)))


def _read_splits(path: Path, cases: tuple[Case, ...]) -> tuple[Split, ...]:
    if not path.is_file():
        return ()
    content = _read_json(path)
    try:
        splits = tuple((tuple(map(str, fold["train"])), tuple(map(str, fold["val"]))) for fold in content)
    except (TypeError, KeyError):
        example = '[{"train": ["a", "b"], "val": ["c"]}, ...]'
        raise DataError(f"{path}: must be a list like {example}; correct or remove the file") from None
    unknown = {name for split in splits for part in split for name in part} - {case.name for case in cases}
    if unknown:
        some = ", ".join(sorted(unknown)[:5])
        raise DataError(f"{path}: names {len(unknown)} cases that are not there ({some}); correct or remove the file")
    for train, val in splits:
        both = sorted(set(train) & set(val))
        if both:
            raise DataError(f"{path}: {both[0]} is in train and in val of one fold; leave it in one of them")
    return splits


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); correct it there") from error


def _names(folder: Path, endings: Container[str]) -> list[str]:
    """Names of the files with these endings, sorted; [] if there is no such folder. Never touches a file."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and ending(e.name) in endings)


def _examples(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    return ", ".join(names[:3]) or "nothing"


def _found(path: Path) -> str:
    names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "an empty folder") + more


def _twice(items: list[Any]) -> Any:
    return next(item for item in items if items.count(item) > 1)


_READERS = {"channel_names": _open_nnunet, "modality": _open_msd, "training": _open_msd}
