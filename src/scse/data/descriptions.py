"""Reading of the files that describe a data set: dataset.json, labels.csv, splits_final.json. No image is opened."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from scse.data.endings import stem
from scse.support.errors import DataError
from scse.support.json_files import read_json, shortened, validated
from scse.support.paths import check_regular_file
from scse.support.text import shortened_list

Split = tuple[tuple[str, ...], tuple[str, ...]]
Color = tuple[int, int, int]
LONGEST_NAME = 255
"""Most bytes in a file name that common file systems allow."""

Name = Annotated[str, Field(min_length=1)]

BACKGROUND = "background"
NNUNET_IGNORED = ("ignore",)
IGNORED = ("ignore", "void", "unlabelled", "unlabeled")
"""Names, in upper or lower case, of the label that marks ignored voxels; nnU-Net supports only the first."""

LARGEST_LABEL = 2**31 - 1
NNUNET_REMEDY = (
    'dataset.json must be like {"channel_names": {"0": "T1"}, "labels": {"background": 0, "liver": 1}, '
    '"file_ending": ".nii.gz"}'
)
MSD_REMEDY = (
    'dataset.json must be like {"modality": {"0": "T1"}, "labels": {"0": "background", "1": "liver"}, '
    '"training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}], "test": ["./imagesTs/b.nii.gz"]}'
)
SPLITS_REMEDY = (
    'it must be a list of case names like [{"train": ["a", "b"], "val": ["c"]}, ...]; correct or remove the file'
)


@dataclass(frozen=True)
class Labels:
    """The meaning of label values.

    Attributes:
        structures: Label value of each structure, by name; without background and ignored voxels.
        ignored: Label value of voxels that are neither learned nor scored; None if there is none.
        background: Name of the label value 0.
        colors: Colour of each label value in colour masks, including the ignored value; None for index masks.
        regions: Labels of each structure, by name, if structures are regions of labels; empty otherwise.
    """

    structures: dict[str, int]
    ignored: int | None = None
    background: str = BACKGROUND
    colors: dict[int, Color] | None = None
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class NnunetDescription(_Strict):
    """The dataset.json of nnU-Net v2."""

    name: str | None = None
    channel_names: dict[str, Name]
    labels: dict[str, Any]
    file_ending: str
    regions_class_order: Any = None


class ListedCase(_Strict):
    """An entry of the lists `training` and `test` in the dataset.json of the Decathlon and of nnU-Net v1."""

    image: str
    label: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _image_alone(cls, content: Any) -> Any:
        return {"image": content} if isinstance(content, str) else content


class MsdDescription(_Strict):
    """The dataset.json of the Medical Segmentation Decathlon and of nnU-Net v1."""

    name: str | None = None
    modality: dict[str, Name] = {"0": "image"}
    labels: dict[str, Any]
    training: list[ListedCase]
    test: list[ListedCase] = []


class _ListedSplit(_Strict):
    train: list[str]
    val: list[str]


class _ListedSplits(RootModel[Annotated[list[_ListedSplit], Field(min_length=1)]]):
    pass


def read_nnunet(path: Path, content: dict[str, Any]) -> NnunetDescription:
    """Check the content of nnU-Net's dataset.json.

    Raises:
        DataError: A field is missing or has the wrong type, or the file lists its images one by one.
    """
    if "dataset" in content:
        found = 'lists its files under the key "dataset", which is not supported'
        raise DataError(f"{path}: {found}; remove this key and put the files in imagesTr and labelsTr")
    return validated(NnunetDescription, content, path=path, remedy=NNUNET_REMEDY)


def read_msd(path: Path, content: dict[str, Any]) -> MsdDescription:
    """Check the content of the Decathlon's or nnU-Net v1's dataset.json.

    Raises:
        DataError: A field is missing or has the wrong type.
    """
    return validated(MsdDescription, content, path=path, remedy=MSD_REMEDY)


def listed_path(source: Path, text: str) -> PurePosixPath:
    """Path of a file listed in dataset.json, relative to the folder of the data set, in which it must lie.

    Raises:
        DataError: The path is absolute, contains "..", names a hidden file or no file, or has a name that no file can
            have.
    """
    path = PurePosixPath(text)
    inside = not path.is_absolute() and ".." not in path.parts and "\\" not in text and text.isprintable()
    if not inside or path.name.startswith(".") or not stem(path.name):
        rule = (
            "list files inside the data set's folder, such as ./imagesTr/a.nii.gz, whose names do not start with a dot"
        )
        raise DataError(f"{source}: lists the file {text!r}; {rule}")
    if longest := [part for part in path.parts if len(part.encode()) > LONGEST_NAME]:
        found = f"{longest[0][:40]!r}..., whose name has {len(longest[0].encode())} bytes"
        raise DataError(f"{source}: lists the file {found}; at most {LONGEST_NAME} are allowed: correct the name")
    return path


def channels_of(source: Path, key: str, names: dict[str, str]) -> tuple[str, ...]:
    """Names of the channels in order.

    Raises:
        DataError: The channels are not numbered from 0.
    """
    if sorted(names) != sorted(str(index) for index in range(len(names))) or not names:
        raise DataError(f'{source}: {key} is {names!r}; it must number the channels from 0, like {{"0": "T1"}}')
    return tuple(names[str(index)] for index in range(len(names)))


def labels_of(source: Path, found: dict[str, Any], *, values_first: bool, ignored: Sequence[str]) -> Labels:
    """Labels of a dataset.json, written as name -> value or as value -> name.

    Args:
        source: Path of the file, for messages.
        found: Content of its field `labels`.
        values_first: Whether to assume value -> name where both readings are possible.
        ignored: Names of the ignored label.

    Raises:
        DataError: See `check_labels`.
    """
    pairs = list(found.items())
    keys_are_numbers = all(map(_looks_like_a_number, found))
    values_are_numbers = all(map(_looks_like_a_number, found.values()))
    if keys_are_numbers and not values_are_numbers:
        values_first = True
    elif not keys_are_numbers and (values_are_numbers or not all(isinstance(v, str) for v in found.values())):
        values_first = False
    return check_labels(source, [(b, a) for a, b in pairs] if values_first else pairs, ignored=ignored)


def nnunet_labels(source: Path, described: NnunetDescription) -> Labels:
    """Labels of nnU-Net's dataset.json, with or without regions.

    Raises:
        DataError: See `check_labels` and `check_regions`; or ignore does not have the greatest value.
    """
    listed = described.labels
    if any(isinstance(value, list) and len(value) > 1 for value in listed.values()):
        labels = check_regions(source, listed, described.regions_class_order)
    else:
        # as in nnU-Net, lists of one label alone make no regions
        single = {name: value[0] if isinstance(value, list) and value else value for name, value in listed.items()}
        labels = labels_of(source, single, values_first=False, ignored=NNUNET_IGNORED)
    greatest = max(value for values in (labels.structures.values(), *labels.regions.values()) for value in values)
    if labels.ignored is not None and labels.ignored <= greatest:
        found = f"the ignore label has the value {labels.ignored}, but a structure has the value {greatest}"
        raise DataError(f"{source}: {found}; nnU-Net requires ignore to have the greatest value: relabel")
    return labels


def check_regions(source: Path, listed: dict[str, Any], order: Any) -> Labels:
    """Check labels of which some are regions: lists of label values, as in nnU-Net.

    Args:
        source: Path of the file, for messages.
        listed: Name -> label value, or list of the label values of a region.
        order: Content of the field `regions_class_order`: the value that a predicted label map gets for each region.
            Regions are written in this order, each over those before it.

    Returns:
        Labels whose structures are the regions, with their values in `order`.

    Raises:
        DataError: A name or value is not allowed (see `check_labels`), a region has no labels or contains the
            background, the order is missing or has the wrong length, or one of its values is not a label of its region,
            or the same as that of another.
    """
    found = [(_name(source, name, value), value) for name, value in listed.items()]
    names = [name for name, _ in found]
    if len(set(names)) < len(names):
        raise DataError(f"{source}: the name {_twice(names)!r} is listed twice; give each structure its own name")
    regions: dict[str, tuple[int, ...]] = {}
    ignored, background = None, BACKGROUND
    for name, value in found:
        if name.lower() in NNUNET_IGNORED:
            ignored = _value(source, name, value)
            continue
        members = [_value(source, name, member) for member in (value if isinstance(value, list) else [value])]
        if not members:
            raise DataError(f"{source}: the region {name!r} has no labels; list at least one, or remove it")
        if {*members} == {0}:
            background = name
        elif name.lower() == BACKGROUND:
            raise DataError(f"{source}: {name!r} has the label value {value}, but background is always 0")
        elif 0 in members:
            raise DataError(f"{source}: the region {name!r} contains the background (0): remove 0 from {members}")
        else:
            regions[name] = tuple(dict.fromkeys(members))
    return Labels(_painted_values(source, regions, order), ignored, background, regions=regions)


def _painted_values(source: Path, regions: dict[str, tuple[int, ...]], order: Any) -> dict[str, int]:
    """The value of each region in predicted label maps, by name."""
    what = f"regions_class_order must list a label value for each of the regions {', '.join(regions)}, in this order"
    if order is None:
        raise DataError(f"{source}: labels has regions, but regions_class_order is missing; {what}")
    if not isinstance(order, list) or not all(type(value) is int for value in order):
        raise DataError(f"{source}: regions_class_order is {shortened(order)}; {what}")
    if len(order) != len(regions):
        raise DataError(f"{source}: regions_class_order has {len(order)} values for {len(regions)} regions; {what}")
    known = sorted({value for members in regions.values() for value in members})
    for (name, members), value in zip(regions.items(), order, strict=True):
        if value not in known:
            listed = ", ".join(map(str, known))
            raise DataError(f"{source}: regions_class_order has the value {value}, but the labels are {listed}; {what}")
        if value not in members:
            listed = ", ".join(map(str, members))
            raise DataError(
                f"{source}: regions_class_order has {value} for {name!r}, whose labels are {listed}; {what}"
            )
    if len(set(order)) < len(order):
        raise DataError(f"{source}: regions_class_order has {_twice(order)} twice; give each region its own value")
    return dict(zip(regions, order, strict=True))


def check_labels(source: Path, pairs: Sequence[tuple[Any, Any]], *, ignored: Sequence[str]) -> Labels:
    """Check names and values as written by the user, and separate background and ignored voxels from structures.

    Args:
        source: Path of the file, for messages.
        pairs: Pairs of name and value.
        ignored: Names of the ignored label.

    Raises:
        DataError: A name is not text, is empty or is listed twice; a value is not a whole number from 0, exceeds 32
            bits, is a region, or is listed twice; the background is not 0; two labels mark ignored voxels; or there is
            no structure.
    """
    if not pairs:
        raise DataError(f"{source}: lists no labels; list at least one structure with its value")
    labels = [(_name(source, name, value), _value(source, name, value)) for name, value in pairs]
    names, values = [name for name, _ in labels], [value for _, value in labels]
    if len(set(names)) < len(names):
        raise DataError(f"{source}: the name {_twice(names)!r} is listed twice; give each structure its own name")
    if len(set(values)) < len(values):
        raise DataError(f"{source}: the label value {_twice(values)} is listed twice; each value needs its own name")
    for name, value in labels:
        if name.lower() == BACKGROUND and value != 0:
            remedy = "change the value to 0, or rename the structure"
            raise DataError(f"{source}: {name!r} has the label value {value}, but background is always 0; {remedy}")
    left_out = [(name, value) for name, value in labels if name.lower() in ignored]
    if len(left_out) > 1:
        both = " and ".join(repr(name) for name, _ in left_out[:2])
        raise DataError(f"{source}: {both} both mark ignored voxels; relabel them to one value, and list only that one")
    structures = {name: value for name, value in labels if value != 0 and (name, value) not in left_out}
    if not structures:
        raise DataError(f"{source}: lists no structure besides the background; add one, such as with the value 1")
    background = next((name for name, value in labels if value == 0 and (name, value) not in left_out), BACKGROUND)
    return Labels(structures, left_out[0][1] if left_out else None, background)


def read_table(table: Path) -> Labels:
    """Labels of a labels.csv.

    Raises:
        DataError: The file cannot be read, lacks a column, or has content that `check_labels` refuses.
    """
    columns, rows = read_rows(table)
    colored = "color" in columns or {"r", "g", "b"} <= set(columns)
    if "name" not in columns or not (colored or "value" in columns):
        found = f"the columns {','.join(columns)}" if columns else "no columns"
        raise DataError(f"{table}: found {found}; allowed: name,value or name,r,g,b or name,color")
    if len(set(columns)) < len(columns):
        raise DataError(f"{table}: the column {_twice(columns)!r} appears twice; remove one of them")
    values = [row["value"] for row in rows] if "value" in columns else _counted(rows)
    labels = check_labels(
        table, [(row["name"], value) for row, value in zip(rows, values, strict=True)], ignored=IGNORED
    )
    if not colored:
        return labels
    colors = {_value(table, row["name"], value): _color(table, row) for value, row in zip(values, rows, strict=True)}
    if len(set(colors.values())) < len(colors):
        twice = _twice(list(colors.values()))
        raise DataError(f"{table}: the colour {twice} is listed twice; each value needs its own colour")
    if (0, 0, 0) not in colors.values():
        colors.setdefault(0, (0, 0, 0))
    return Labels(labels.structures, labels.ignored, labels.background, colors)


def read_names(path: Path) -> Labels:
    """Labels of a labels.json, which has the value of each structure by name, such as {"liver": 1}.

    Raises:
        DataError: The file cannot be read, is no such object, or has content that `check_labels` refuses.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f'{path}: contains a {type(content).__name__}; allowed is an object such as {{"liver": 1}}')
    return labels_of(path, content, values_first=False, ignored=IGNORED)


def read_splits(path: Path, cases: Sequence[str]) -> tuple[Split, ...]:
    """Folds of splits_final.json; () if the file does not exist.

    Args:
        path: Path of the file.
        cases: Names of the training cases.

    Raises:
        DataError: The file has another format, or it lists an unknown case, or a case twice in one fold.
    """
    if not path.exists():
        return ()
    listed = validated(_ListedSplits, read_json(path), path=path, remedy=SPLITS_REMEDY).root
    splits = tuple((tuple(split.train), tuple(split.val)) for split in listed)
    unknown = {name for split in splits for part in split for name in part} - set(cases)
    if unknown:
        names = shortened_list([shortened(name) for name in sorted(unknown)])
        found = f"lists {len(unknown)} cases that the data set does not contain"
        raise DataError(f"{path}: {found} ({names}); correct or remove the file")
    for train, val in splits:
        both = sorted(set(train) & set(val))
        if both:
            raise DataError(f"{path}: {both[0]} is in both train and val of one fold; remove it from one of them")
        for part in (train, val):
            if len(set(part)) < len(part):
                raise DataError(f"{path}: {_twice(part)} is listed twice in train or val of one fold; list it once")
    return splits


def read_rows(table: Path, *, separator: str = ",") -> tuple[list[str], list[dict[str, str]]]:
    """Columns, in lower case, and rows of a CSV file, without empty rows.

    Args:
        table: Path of the file.
        separator: What separates its columns.

    Raises:
        DataError: The file cannot be read, or a row has more cells than there are columns.
    """
    check_regular_file(table, remedy="put a CSV file there")
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            read = csv.reader(file, delimiter=separator, skipinitialspace=separator == ",", strict=True)
            lines = [line for line in read if any(map(str.strip, line))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read ({error}); save it as CSV in UTF-8") from error
    columns = [column.strip().lower() for column in lines[0]] if lines else []
    rows = []
    for line in lines[1:]:
        cells = [cell.strip() for cell in line]
        if any(cells[len(columns) :]):
            remedy = "enclose a name that contains a comma in quotation marks"
            raise DataError(f"{table}: the row {','.join(line)!r} has more cells than there are columns; {remedy}")
        rows.append(dict(zip(columns, cells + [""] * len(columns), strict=False)))
    return columns, rows


def _counted(rows: Sequence[dict[str, str]]) -> list[int]:
    """Values for labels listed without a value: 1, 2, ... in order, and 0 for the background."""
    values, count = [], 0
    for row in rows:
        is_background = row["name"].lower() == BACKGROUND
        count += not is_background
        values.append(0 if is_background else count)
    return values


def _color(table: Path, row: dict[str, str]) -> Color:
    text = row["color"].removeprefix("#") if "color" in row else ""
    try:
        red, green, blue = bytes.fromhex(text) if "color" in row else bytes(_digits(row[key]) for key in "rgb")
    except ValueError:
        found = ",".join(row.values())
        raise DataError(f"{table}: found {found!r}; a colour is #rrggbb, or r,g,b with values from 0 to 255") from None
    return red, green, blue


def _digits(text: str) -> int:
    if not re.fullmatch("[0-9]{1,3}", text):
        raise ValueError(text)
    return int(text)


def _name(source: Path, name: Any, value: Any) -> str:
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise DataError(f"{source}: the label {value!r} has the name {name!r}; a name must be one line of text")
    return name.strip()


def _value(source: Path, name: str, value: Any) -> int:
    if isinstance(value, list):
        found = f"{name!r} has a list of labels, {value}, where one value is expected"
        remedy = "give it one value; regions of labels are read from the dataset.json of nnU-Net v2"
        raise DataError(f"{source}: {found}; {remedy}")
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch("0{0,90}[0-9]{1,10}", text) or int(text) > LARGEST_LABEL:
        shown = repr(value) if len(text) <= 40 else f"{text[:40]!r}..."
        allowed = f"whole numbers from 0 to {LARGEST_LABEL}"
        raise DataError(f"{source}: {name!r} has the label value {shown}; allowed: {allowed}")
    return int(text)


def _looks_like_a_number(item: Any) -> bool:
    return re.fullmatch(r"\s*[-+]?[0-9]+(\.[0-9]*)?\s*", str(item)) is not None


def _twice(items: Sequence[Any]) -> Any:
    return next(item for item in items if items.count(item) > 1)
