"""What lies in a segmenter's folder, and how it is read; without torch, so that every front end can.

Nothing that a folder names is imported, run or fetched here.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
"""Classes are stored in 8 bits."""

Name = Annotated[str, Field(min_length=1)]
Value = Annotated[int, Field(ge=1, le=2**32 - 1)]
Structures = Annotated[dict[Name, Value], Field(min_length=1, max_length=MOST_STRUCTURES)]
"""Name -> label value, of a segmenter or run on disk."""


class _Arguments(BaseModel):
    """What a network is built with; of others than scse's own, the first two."""

    model_config = ConfigDict(extra="forbid")

    in_channels: int = Field(ge=1, le=1024)
    classes: int = Field(ge=2, le=MOST_STRUCTURES + 1)
    width: int = Field(default=1, ge=1, le=4096)
    depth: int = Field(default=1, ge=1, le=8)
    kernel_size: int = Field(default=1, ge=1, le=31)


class _Description(BaseModel):
    """The fields of `segmenter.json`; those of the recipe are checked by what reads them."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    format: int
    network: Name
    arguments: _Arguments
    variant: Name
    recipe: dict[str, JsonValue]
    structures: Structures
    settings: dict[str, JsonValue]
    attached: list[Name] | None = None
    classes: list[Name] | None = None


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A segmenter on disk; what its words mean is checked by what builds it.

    Attributes:
        folder: holds the files.
        network: name, see `scse.zoo.catalogue.read_network`.
        arguments: that the network was built with.
        variant: "none", "cse", "sse" or "scse", with or without options, see `scse.variants`.
        recipe: how images are prepared, the fields of `scse.data.recipe.Recipe`.
        structures: name -> label value; class n is the n-th structure, class 0 the background.
        settings: of the training, as it was run.
        attached: names of the modules that have a block; None in scse's own networks, which place theirs themselves.
    """

    folder: Path
    network: str
    arguments: Mapping[str, int]
    variant: str
    recipe: Mapping[str, Any]
    structures: Mapping[str, int]
    settings: Mapping[str, Any]
    attached: Sequence[str] | None

    @property
    def weights(self) -> Path:
        """The file of the network's weights, in safetensors; keys are those of the torch network."""
        return self.folder / WEIGHTS

    @property
    def description(self) -> Path:
        """The file of everything else, in JSON."""
        return self.folder / DESCRIPTION


def read_saved(folder: Path | str) -> Saved:
    """Read what a segmenter is; its weights stay on disk.

    Args:
        folder: as `Segmenter.save` wrote it, or a run that holds it as `segmenter`.

    Raises:
        DataError: the folder holds no segmenter, or one that this version cannot read.
    """
    folder = Path(folder)
    folder = folder / "segmenter" if (folder / "segmenter" / DESCRIPTION).is_file() else folder
    for name in (DESCRIPTION, WEIGHTS):
        if not (folder / name).is_file():
            remedy = f"give the folder of a trained segmenter, with {WEIGHTS} and {DESCRIPTION}"
            raise DataError(f"{folder}: holds no segmenter, {name} is missing; {remedy}")
    path = folder / DESCRIPTION
    content = read_json(path, remedy=REMEDY)
    if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
        found = f"its format is {content['format']!r}, this version reads {FORMAT}"
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
    )


def _contradictions(description: _Description) -> Generator[str]:
    """What is wrong with fields that are sound alone."""
    structures, classes = description.structures, description.arguments.classes
    if len(structures) + 1 != classes:
        yield (
            f"it lists {len(structures)} structures and {classes} classes, where the background is one class more than "
            "the structures"
        )
    if len(set(structures.values())) < len(structures):
        yield f"structures: a label value is listed twice, got {structures}"
    if description.classes is not None and sorted(description.classes) != sorted(structures):
        yield f"classes are {description.classes}, and structures {[*structures]}"
    channels = description.recipe.get("channels", description.arguments.in_channels)
    if channels != description.arguments.in_channels:
        yield f"recipe.channels is {channels!r} and arguments.in_channels {description.arguments.in_channels}"


def in_order(entries: Mapping[str, T], names: Sequence[str] | None) -> dict[str, T]:
    """Entries of a JSON object in the order that a list beside it gives, since programs may sort the keys of objects.

    Args:
        entries: as they were read.
        names: their keys in order; None in files of versions that wrote no list.
    """
    return {name: entries[name] for name in (entries if names is None else names)}


@contextmanager
def readable(path: Path) -> Generator[None]:
    """Raise what contradicts scse in a file of a segmenter as one DataError with the file's name."""
    try:
        yield
    except UserError as error:
        raise DataError(f"{path}: holds no segmenter that can be read ({error}); {REMEDY}") from error
