"""Reading of segmenter folders, without torch, so that all front ends can use it.

Nothing that a folder names is imported, executed or downloaded here.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from scse.support.errors import DataError, UserError
from scse.support.json_files import read_json, validated

T = TypeVar("T")

FORMAT = 1
WEIGHTS, DESCRIPTION = "weights.safetensors", "segmenter.json"
REMEDY = "train or copy the segmenter again"

MOST_STRUCTURES = 255
"""Most structures of a segmenter: classes are stored in 8 bits."""

Name = Annotated[str, Field(min_length=1)]
Value = Annotated[int, Field(ge=1, le=2**32 - 1)]
Structures = Annotated[dict[Name, Value], Field(min_length=1, max_length=MOST_STRUCTURES)]
"""Label value of each structure, by name, in the files of a segmenter or run."""
Regions = dict[Name, Annotated[tuple[Value, ...], Field(min_length=1)]]
"""Label values of each structure that is a region of labels, by name; empty for exclusive classes."""


class _Arguments(BaseModel):
    """Arguments of a network; networks that are not part of scse have only the first two."""

    model_config = ConfigDict(extra="forbid")

    in_channels: int = Field(ge=1, le=1024)
    classes: int = Field(ge=1, le=MOST_STRUCTURES + 1)
    width: int = Field(default=1, ge=1, le=4096)
    depth: int = Field(default=1, ge=1, le=8)
    kernel_size: int = Field(default=1, ge=1, le=31)


class Cleaning(BaseModel):
    """The clean-up of predicted label maps, see `scse.inference.cleaning`. The default changes nothing.

    Attributes:
        largest_foreground: Keep only the largest connected component of all structures together.
        keep_largest: Structures of which only the largest connected component is kept.
        fill_holes: Structures whose holes are filled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    largest_foreground: bool = False
    keep_largest: tuple[Name, ...] = ()
    fill_holes: tuple[Name, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is any step."""
        return bool(self.largest_foreground or self.keep_largest or self.fill_holes)

    def __str__(self) -> str:
        """The steps, in the order in which they are applied."""
        steps = ["largest component of all structures together"] if self.largest_foreground else []
        if self.keep_largest:
            steps.append(f"largest component of {', '.join(self.keep_largest)}")
        if self.fill_holes:
            steps.append(f"holes filled of {', '.join(self.fill_holes)}")
        return "; ".join(steps) or "none"


NO_CLEANING = Cleaning()

Volume = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Intensity = Annotated[float, Field(allow_inf_nan=False)]

AlongAxes = tuple[tuple[Length, Length], tuple[Length, Length], tuple[Length, Length]]
"""Lowest and highest length (mm) to the right, anterior and superior."""


class KnownImages(BaseModel):
    """What the training images of a segmenter had, see `scse.inference.appearance`.

    Attributes:
        spacing: Range of the spacing.
        extent: Range of the extent.
        intensities: Mean minus and plus the standard deviation of each quantile over the images, for each channel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spacing: AlongAxes
    extent: AlongAxes
    intensities: tuple[Annotated[tuple[tuple[Intensity, Intensity], ...], Field(min_length=5, max_length=5)], ...]


class Known(BaseModel):
    """What the training cases of a segmenter had, see `scse.inference.known`.

    Attributes:
        cases: Number of training cases.
        volumes: Lowest and highest volume (ml) of each structure, by name; 0 where a case does not have it.
        single: Structures that are one connected piece in each training case.
        images: What the images had; None in files of earlier versions and of trainings with simulated subjects.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cases: int = Field(ge=1)
    volumes: dict[Name, tuple[Volume, Volume]]
    single: tuple[Name, ...] = ()
    images: KnownImages | None = None


class _Description(BaseModel):
    """The fields of `segmenter.json`; the fields of the recipe are checked when it is read."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    format: int
    network: Name
    arguments: _Arguments
    variant: Name
    recipe: dict[str, JsonValue]
    structures: Structures
    settings: dict[str, JsonValue]
    attached: list[Name] | None = None
    fitted: bool = False
    classes: list[Name] | None = None
    cleaning: Cleaning = NO_CLEANING
    regions: Regions = {}
    known: Known | None = None


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A segmenter on disk. The names of network and variant are checked when the network is built.

    Attributes:
        folder: Folder of the files.
        network: Name of the network, see `scse.zoo.catalogue.read_network`.
        arguments: Arguments of the network.
        variant: "none", "cse", "sse", "scse" or "pe", with or without options, see `scse.variants`.
        recipe: Preparation of images: the fields of `scse.data.recipe.Recipe`.
        structures: Label value of each structure, by name; class n is the n-th structure, class 0 the background.
        settings: Settings of the training.
        attached: Names of the modules that have a block; None for scse's own networks, which place their blocks
            themselves.
        cleaning: Clean-up of predicted label maps.
        fitted: Whether the network has the options that follow from the recipe, see `scse.zoo.fitting`; False in files
            of earlier versions.
        regions: Label values of each structure, by name, if structures are regions of labels: output n of the network
            is then the n-th structure, and there is no output for the background. Empty otherwise.
        known: What the training cases had; None in files of earlier versions, of pictures and of few cases.
    """

    folder: Path
    network: str
    arguments: Mapping[str, int]
    variant: str
    recipe: Mapping[str, Any]
    structures: Mapping[str, int]
    settings: Mapping[str, Any]
    attached: Sequence[str] | None
    cleaning: Cleaning = NO_CLEANING
    fitted: bool = False
    regions: Mapping[str, Sequence[int]] = field(default_factory=dict)
    known: Known | None = None

    @property
    def dims(self) -> int:
        """Number of spatial axes of the network's input, 2 or 3."""
        return 3 if self.recipe.get("view") == "volume" else 2

    @property
    def weights(self) -> Path:
        """Safetensors file of the weights; its keys are those of the torch network."""
        return self.folder / WEIGHTS

    @property
    def description(self) -> Path:
        """JSON file of all other fields."""
        return self.folder / DESCRIPTION


def read_saved(folder: Path | str) -> Saved:
    """Read the description of a segmenter, without its weights.

    Args:
        folder: Folder written by `Segmenter.save`, or folder of a run that contains it as `segmenter`.

    Raises:
        DataError: The folder contains no segmenter, or one that this version cannot read.
    """
    folder = Path(folder)
    folder = folder / "segmenter" if (folder / "segmenter" / DESCRIPTION).is_file() else folder
    for name in (DESCRIPTION, WEIGHTS):
        if not (folder / name).is_file():
            remedy = f"give the folder of a trained segmenter, with {WEIGHTS} and {DESCRIPTION}"
            raise DataError(f"{folder}: contains no segmenter, {name} is missing; {remedy}")
    path = folder / DESCRIPTION
    content = read_json(path, remedy=REMEDY)
    if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
        found = f"its format is {content['format']!r}, but this version reads format {FORMAT}"
        raise DataError(f"{path}: {found}; update scse, or train the segmenter again")
    description = validated(_Description, content, path=path, remedy=REMEDY, strict=True)
    for problem in _contradictions(description):
        raise DataError(f"{path}: {problem}; {REMEDY}")
    return Saved(
        folder=folder,
        network=description.network,
        arguments=description.arguments.model_dump(exclude_unset=True),
        variant=description.variant,
        recipe=description.recipe,
        structures=in_order(description.structures, description.classes),
        settings=description.settings,
        attached=description.attached,
        cleaning=description.cleaning,
        fitted=description.fitted,
        regions=description.regions,
        known=description.known,
    )


def refuse_regions(source: object, regions: Mapping[str, Sequence[int]]) -> None:
    """Refuse a segmenter of regions, for front ends whose users expect exclusive classes.

    Args:
        source: The segmenter in the message.
        regions: Its regions.

    Raises:
        UserError: There are any.
    """
    if regions:
        raise UserError(
            f"{source}: its structures are regions of labels, whose outputs overlap and have none for the background; "
            "Keras and TensorFlow have only exclusive structures: use scse's own prediction"
        )


def _contradictions(description: _Description) -> Generator[str]:
    """Contradictions between fields that are valid on their own."""
    structures, classes = description.structures, description.arguments.classes
    yield from _contradictions_of_regions(description)
    if not description.regions and len(structures) + 1 != classes:
        yield (
            f"it lists {len(structures)} structures and {classes} classes, but the number of classes must be that of "
            "the structures plus one for the background"
        )
    if len(set(structures.values())) < len(structures):
        yield f"structures: a label value is listed twice, got {structures}"
    if description.classes is not None and sorted(description.classes) != sorted(structures):
        yield f"classes are {description.classes}, but structures are {[*structures]}"
    for step in ("keep_largest", "fill_holes"):
        names = getattr(description.cleaning, step)
        if unknown := [name for name in names if name not in structures]:
            yield f"cleaning.{step} lists {unknown[0]!r}, but structures are {[*structures]}"
        if len(set(names)) < len(names):
            yield f"cleaning.{step} lists a structure twice, got {[*names]}"
    if (known := description.known) is not None:
        if sorted(known.volumes) != sorted(structures):
            yield f"known.volumes are of {[*known.volumes]}, but structures are {[*structures]}"
        if unknown := [name for name in known.single if name not in structures]:
            yield f"known.single lists {unknown[0]!r}, but structures are {[*structures]}"
        if wrong := [name for name, (low, high) in known.volumes.items() if low > high]:
            yield f"known.volumes of {wrong[0]!r} end below their start"
        if known.images is not None and len(known.images.intensities) != description.arguments.in_channels:
            listed = f"known.images.intensities are of {len(known.images.intensities)} channels"
            yield f"{listed}, but arguments.in_channels is {description.arguments.in_channels}"
    channels = description.recipe.get("channels", description.arguments.in_channels)
    if channels != description.arguments.in_channels:
        yield f"recipe.channels is {channels!r}, but arguments.in_channels is {description.arguments.in_channels}"


def _contradictions_of_regions(description: _Description) -> Generator[str]:
    structures, regions, classes = description.structures, description.regions, description.arguments.classes
    if not regions:
        return
    if sorted(regions) != sorted(structures):
        yield f"regions are {[*regions]}, but structures are {[*structures]}"
    elif wrong := [name for name, value in structures.items() if value not in regions[name]]:
        yield f"the label value of {wrong[0]!r} is {structures[wrong[0]]}, but its region is {[*regions[wrong[0]]]}"
    if description.cleaning:
        yield f"the clean-up is {description.cleaning}, but regions have none"
    if len(structures) != classes:
        yield f"it lists {len(structures)} regions and {classes} outputs, but each region has one output"


def in_order(entries: Mapping[str, T], names: Sequence[str] | None) -> dict[str, T]:
    """Sort the entries of a JSON object by a list of its keys, because programs may reorder the keys of objects.

    Args:
        entries: Entries as read.
        names: Keys in order; None in files of versions that wrote no list.
    """
    return {name: entries[name] for name in (entries if names is None else names)}


@contextmanager
def readable(path: Path) -> Generator[None]:
    """Convert a UserError about the content of a segmenter's file to a DataError that names the file."""
    try:
        yield
    except UserError as error:
        raise DataError(f"{path}: contains no readable segmenter ({error}); {REMEDY}") from error
