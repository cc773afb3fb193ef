"""What lies in a segmenter's folder, and how it is read; without torch, so that every front end can.

Nothing that a folder names is imported, run or fetched here.
"""

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scse.errors import DataError, UserError, in_short

FORMAT = 1
WEIGHTS, DESCRIPTION = "weights.safetensors", "segmenter.json"


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A segmenter on disk; what its words mean is checked by what builds it.

    Attributes:
        folder: holds the files.
        network: name, see `scse.networks.library.check_network`.
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
    with readable(folder):
        description = json.loads((folder / DESCRIPTION).read_text())
        if description["format"] != FORMAT:
            raise UserError(f"its format is {description['format']}, this version reads {FORMAT}")
        saved = Saved(
            folder=folder,
            network=description["network"],
            arguments=dict(description["arguments"]),
            variant=description["variant"],
            recipe=dict(description["recipe"]),
            structures=dict(description["structures"]),
            settings=dict(description["settings"]),
            attached=description.get("attached"),
        )
        if len(saved.structures) + 1 != saved.arguments["classes"]:
            found = f"{len(saved.structures)} structures and {saved.arguments['classes']} classes"
            raise UserError(f"it lists {found}, where the background is one class more than the structures")
    return saved


@contextmanager
def readable(folder: Path) -> Generator[None]:
    """Tell what a damaged file leads to, which can be almost any error, as one DataError."""
    try:
        yield
    except Exception as error:
        raise DataError(
            f"{folder}: holds no segmenter that can be read ({in_short(error)}); train or copy it again"
        ) from error
