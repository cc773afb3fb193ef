"""Listing of the cases of a BIDS folder, with the rules of the Brain Imaging Data Structure for names and inheritance.

Images are `sub-*/[ses-*/]anat/*_SUFFIX.nii.gz`, label maps `derivatives/*/sub-*/[ses-*/]anat/*_dseg.nii.gz`, and the
names of their structures are in the `*_dseg.tsv` beside them or in a folder above. No voxel is read.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scse.data.descriptions import IGNORED, Labels, check_labels, read_rows
from scse.data.endings import NIFTI, ending, stem
from scse.data.files import geometry_errors, outline
from scse.data.nifti import open_nifti
from scse.data.tables import ListedFiles
from scse.support.errors import DataError
from scse.support.text import shortened_list

SUFFIXES = ("T1w", "T2w", "FLAIR")
"""Kinds of images that can be channels, in their order."""

MAP, NAMES = "dseg", ".tsv"
PLACE = "derivatives/*/sub-*/[ses-*/]anat/*_dseg.nii.gz"
OWN_SPACES = (*SUFFIXES, "orig", "individual", "scanner")
"""Values of the entity `space` of label maps in the space of the images; others are templates."""

DERIVED = frozenset({"space", "res", "den", "label", "desc", "hemi", "seg", "atlas", "scale", "cohort"})
"""Entities that derivatives add to those of their images."""

ENTITY = re.compile(r"([a-zA-Z]+)-([a-zA-Z0-9+]+)")


@dataclass(frozen=True)
class BidsFile:
    """A file whose name has the form of BIDS: entities and a suffix, `sub-01_ses-a_T1w.nii.gz`.

    Attributes:
        path: Path of the file.
        entities: Values of the entities, by their keys.
        suffix: The last part of the name.
    """

    path: Path
    entities: Mapping[str, str]
    suffix: str

    @cached_property
    def source(self) -> dict[str, str]:
        """Entities without those that derivatives add."""
        return {key: value for key, value in self.entities.items() if key not in DERIVED}

    @property
    def case(self) -> str:
        """Name of the case."""
        return "_".join(f"{key}-{value}" for key, value in self.source.items())

    def may_show(self, other: "BidsFile") -> bool:
        """Whether an image can be that of a label map, because no entity that both have differs."""
        return all(other.source.get(key, value) == value for key, value in self.source.items())


@dataclass(frozen=True)
class Listing:
    """The content of a BIDS folder.

    Attributes:
        channels: Suffixes of the images.
        cases: A case for each label map.
        labels: The meaning of label values.
        unused: Images without a label map, and label maps in the space of a template.
        notes: Rows (what, text) about images that are not used.
    """

    channels: tuple[str, ...]
    cases: list[ListedFiles]
    labels: Labels
    unused: tuple[Path, ...]
    notes: tuple[tuple[str, str], ...]


def is_bids(path: Path) -> bool:
    """Whether a folder has subjects as in BIDS."""
    return any(folder.is_dir() for folder in path.glob("sub-*"))


def read_bids(path: Path) -> Listing:
    """List the label maps of a BIDS folder with their images.

    Channels are those of T1w, T2w and FLAIR of which each label map has exactly one, and whose first image lies on the
    grid of its label map.

    Raises:
        DataError: There are no label maps, several of one image, or several images of one; or tables of names are
            invalid or contradict each other.
    """
    images = [file for file in _anatomical(path) if file.suffix in SUFFIXES]
    every = [file for folder in sorted(path.glob("derivatives/*/")) for file in _anatomical(folder)]
    every = [file for file in every if file.suffix == MAP]
    maps = [file for file in every if file.entities.get("space", "orig") in OWN_SPACES]
    if not maps:
        found = shortened_list([f"{folder.name}/" for folder in sorted(path.glob("sub-*"))])
        remedy = "put the label maps there, or list the cases in a table cases.csv"
        raise DataError(f"{path}: has {found}, but no label maps {PLACE}; {remedy}")
    _check_single(path, maps)
    by_subject: dict[str, list[BidsFile]] = {}
    for image in images:
        by_subject.setdefault(image.entities.get("sub", ""), []).append(image)
    found_images = [_images_of(file, by_subject.get(file.entities.get("sub", ""), [])) for file in maps]
    channels, notes = _channels(path, maps, found_images)
    cases = [
        ListedFiles(
            file.case, tuple(own[suffix][0].path for suffix in channels if own[suffix]), file.path, _group(file)
        )
        for file, own in zip(maps, found_images, strict=True)
    ]
    used = {image for case in cases for image in case.images} | {file.path for file in maps}
    unused = [file.path for file in (*images, *every) if file.path not in used and file.suffix in {*channels, MAP}]
    return Listing(channels, cases, _labels(path, maps), tuple(unused), notes)


def _group(file: BidsFile) -> str:
    return f"sub-{file.entities['sub']}"


def _anatomical(folder: Path) -> Iterator[BidsFile]:
    """NIfTI files of all subjects in the folders anat, sorted by subject and session."""
    for subject in sorted(folder.glob("sub-*")):
        for anat in (subject / "anat", *sorted(subject.glob("ses-*/anat"))):
            yield from (file for file in _named(anat, NIFTI) if "sub" in file.entities)


def _named(folder: Path, endings: Sequence[str]) -> Iterator[BidsFile]:
    """Files of a folder whose names have the form of BIDS, sorted; none if the folder does not exist."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = path.name.removesuffix(NAMES) if ending(path.name) is None else stem(path.name)
        *entities, suffix = name.split("_")
        pairs = [ENTITY.fullmatch(entity) for entity in entities]
        if path.name.lower().endswith(tuple(endings)) and all(pairs):
            yield BidsFile(path, dict(pair.groups() for pair in pairs if pair), suffix)  # type: ignore[misc]


def _check_single(path: Path, maps: Sequence[BidsFile]) -> None:
    """Refuse several label maps of one case."""
    by_case: dict[str, list[Path]] = {}
    for file in maps:
        by_case.setdefault(file.case, []).append(file.path.relative_to(path))
    for case, files in by_case.items():
        if len(files) > 1:
            remedy = "keep one of them in this folder, or list the cases in a table cases.csv"
            raise DataError(f"{path}: {case} has {len(files)} label maps, {shortened_list(files)}; {remedy}")


def _images_of(file: BidsFile, images: Sequence[BidsFile]) -> dict[str, list[BidsFile]]:
    """Images of a label map by their suffix: those with its own entities, or else those that contradict none."""
    found = {}
    for suffix in SUFFIXES:
        some = [image for image in images if image.suffix == suffix and image.may_show(file)]
        same = [image for image in some if image.source == file.source]
        found[suffix] = same or some
    return found


def _channels(
    path: Path, maps: Sequence[BidsFile], found: Sequence[Mapping[str, Sequence[BidsFile]]]
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The suffixes of the channels, and rows about those that are not used."""
    # a label map without any image is a problem of its case, which `inspect` reports
    some = [(file, own) for file, own in zip(maps, found, strict=True) if any(own.values())]
    if not some:
        kinds = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise DataError(f"{path}: no label map has a {kinds} image in sub-*/[ses-*/]anat; found {maps[0].path}")
    channels, notes = [], []
    for suffix in SUFFIXES:
        without = [file for file, own in some if len(own[suffix]) != 1]
        if not without:
            channels.append(suffix)
        elif any(own[suffix] for _, own in some):
            missing = shortened_list([file.case for file in without])
            notes.append(("not used", f"{suffix} images: there is not exactly one for {missing}"))
    if not channels:
        raise _no_channel(path, some, [text for _, text in notes])
    file, own = some[0]
    apart = [suffix for suffix in channels if not _on_grid(file.path, own[suffix][0].path)]
    if len(apart) < len(channels):
        channels = [suffix for suffix in channels if suffix not in apart]
        notes += [
            ("not used", f"{suffix} images: on another grid than the label map of {file.case}") for suffix in apart
        ]
    return tuple(channels), tuple(notes)


def _no_channel(
    path: Path, found: Sequence[tuple[BidsFile, Mapping[str, Sequence[BidsFile]]]], why: Sequence[str]
) -> DataError:
    """The error for label maps that have no kind of image in common."""
    table = "list the cases in a table cases.csv"
    for file, own in found:
        for images in own.values():
            if len(images) > 1:
                listed = shortened_list([image.path.name for image in images])
                remedy = f"name the label map after its image (sub-01_run-1_dseg.nii.gz), or {table}"
                return DataError(f"{file.path}: {len(images)} images could be its own, {listed}; {remedy}")
    return DataError(f"{path}: label maps have no kind of image in common ({'; '.join(why)}); add images, or {table}")


def _on_grid(label: Path, image: Path) -> bool:
    """Whether two files have the same grid by their headers; True if one cannot be read, which `inspect` reports."""
    try:
        first, second = open_nifti(label), open_nifti(image)
    except DataError:
        return True
    of_label, of_image = (outline((1, *file.shape[:3]), file.affine) for file in (first, second))
    return not geometry_errors(image, of_image, label, of_label)


def _labels(path: Path, maps: Sequence[BidsFile]) -> Labels:
    """The names of all tables that apply to label maps; none without tables."""
    folders: dict[Path, list[BidsFile]] = {}
    tables = dict.fromkeys(table for file in maps if (table := _table_of(path, file, folders)))
    pairs: dict[str, tuple[str, Path]] = {}
    for table in tables:
        for index, name in _pairs(table):
            known, where = pairs.setdefault(index, (name, table))
            if known != name:
                remedy = "give each value one name"
                raise DataError(f"{table}: names {index} {name!r}, but {where} names it {known!r}; {remedy}")
    if not pairs:
        return Labels({})
    last = next(reversed(tables))
    return check_labels(last, [(name, index) for index, (name, _) in pairs.items()], ignored=IGNORED)


def _pairs(table: Path) -> list[tuple[str, str]]:
    columns, rows = read_rows(table, separator="\t")
    if not {"index", "name"} <= {*columns}:
        raise DataError(f"{table}: found the columns {', '.join(columns) or 'none'}; needed: index, name")
    return [(row["index"], row["name"]) for row in rows]


def _table_of(path: Path, file: BidsFile, folders: dict[Path, list[BidsFile]]) -> Path | None:
    """The table of a label map: that with most of its entities, in the nearest folder that has one."""
    for folder in file.path.parents:
        if folder not in folders:
            folders[folder] = [table for table in _named(folder, (NAMES,)) if table.suffix == MAP]
        fits = [table for table in folders[folder] if table.entities.items() <= file.entities.items()]
        if fits:
            return max(fits, key=lambda table: len(table.entities)).path
        if folder == path:
            break
    return None
