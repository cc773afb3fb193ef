"""A trained segmenter as a file of Keras or a SavedModel of TensorFlow; torch is not needed."""

import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scse.data.recipe import Recipe
from scse.inference.saved import DESCRIPTION, Saved, read_saved
from scse.inference.saved_recipe import read_recipe
from scse.support.atomic import temporary_folder, write_atomic
from scse.support.checks import check_choice
from scse.support.errors import UserError
from scse.support.keras_backend import settle_backend
from scse.support.outputs import check_outputs, marked

KERAS, SAVED_MODEL = "keras", "saved_model"
FORMATS: Mapping[str, str | None] = {KERAS: None, SAVED_MODEL: "tensorflow"}
"""What a segmenter can be exported to -> the backend of Keras that this needs."""

ENDING = ".keras"
"""The only one that Keras writes."""

ASSETS = "assets.extra"
"""TensorFlow's folder for what others put into a SavedModel."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        model: the file or folder.
        description: the JSON file that says how images are prepared and what the classes mean.
        recipe: how images are prepared.
        classes: that the model tells apart, the background included.
    """

    model: Path
    description: Path
    recipe: Recipe
    classes: int

    def __str__(self) -> str:
        patch = " x ".join(map(str, self.recipe.patch))
        return (
            f"model: {self.model}\n"
            f"recipe and structures: {self.description}\n"
            f"takes: prepared slices (N, height, width, {self.recipe.channels}), float32; it was trained on {patch}\n"
            f"returns: logits (N, height, width, {self.classes}), the background first"
        )


def export(folder: Path | str, to: str, out: Path | str, *, overwrite: bool = False) -> Exported:
    """Write the network of a trained segmenter for Keras or TensorFlow.

    Keras must not have been imported before with another backend than the one that is needed.

    Args:
        folder: of a segmenter, or of a run that holds one.
        to: "keras", a `.keras` file for every backend, with the description beside it as a `.json` file; or
            "saved_model", TensorFlow's SavedModel, with the description in its `assets.extra`.
        out: the file; or the folder, which must be new or empty.
        overwrite: replace files that scse did not write or that were changed since.

    Raises:
        DataError: the folder holds no segmenter, or one that this version cannot read.
        ValueError: an unknown `to`, an `out` that does not fit or is there without `overwrite`, a package that is
            missing, or a network that is not scse's own.
    """
    check_choice("to", to, FORMATS)
    out = _check_out(Path(out), to)
    if to == KERAS:
        check_outputs([out, out.with_suffix(".json")], overwrite=overwrite)
    saved = read_saved(folder)
    recipe = read_recipe(saved)
    _settle(to)
    from scse.keras.weights import from_torch  # noqa: PLC0415 (only now that its backend is settled)

    model = from_torch(saved.folder, data_format="channels_last", dtype="float32")
    description = _write_keras(model, saved, out) if to == KERAS else _write_saved_model(model, saved, out)
    return Exported(out, description, recipe, len(saved.structures) + 1)


def _check_out(out: Path, to: str) -> Path:
    if (to == KERAS) != (out.suffix == ENDING):
        allowed = f"a file that ends in {ENDING}" if to == KERAS else f"a folder, not a file that ends in {ENDING}"
        raise UserError(f"{out}: to={to!r} writes {allowed}; give another name")
    if to == KERAS and out.is_dir():
        raise UserError(f"{out}: is a folder; give another name")
    if to == SAVED_MODEL and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: is already there; give a new folder")
    return out


def _settle(to: str) -> None:
    needed = FORMATS[to]
    if "keras" not in sys.modules:
        settle_backend(needed)
    elif needed is not None and (found := _imported_backend()) != needed:
        raise UserError(f"to={to!r} needs Keras on {needed}, here it is on {found}; export in a process of its own")


def _imported_backend() -> str:
    import keras  # noqa: PLC0415 (imported before)

    return str(keras.backend.backend())


def _write_keras(model: Any, saved: Saved, out: Path) -> Path:
    description = out.with_suffix(".json")
    with _beside(out) as temporary:
        model.save(temporary)
        with marked([out, description]):
            write_atomic(description, saved.description.read_bytes())
            temporary.replace(out)
    return description


def _write_saved_model(model: Any, saved: Saved, out: Path) -> Path:
    with _beside(out) as temporary:
        model.export(temporary, format="tf_saved_model", verbose=False)
        write_atomic(temporary / ASSETS / DESCRIPTION, saved.description.read_bytes())
        temporary.replace(out)
    return out / ASSETS / DESCRIPTION


@contextmanager
def _beside(out: Path) -> Generator[Path]:
    """Where to write what is to become `out` once it is whole."""
    with temporary_folder(out.parent, becomes=out) as folder:
        yield folder / out.name
