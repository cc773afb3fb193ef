"""Export of trained segmenters to Keras files and TensorFlow SavedModels, without torch."""

import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scse.data.recipe import Recipe
from scse.inference.saved import DESCRIPTION, Saved, read_saved, refuse_regions
from scse.inference.saved_recipe import read_recipe
from scse.support.atomic import temporary_folder, write_atomic
from scse.support.checks import check_choice
from scse.support.errors import UserError
from scse.support.keras_backend import settle_backend
from scse.support.outputs import check_outputs, marked

KERAS, SAVED_MODEL = "keras", "saved_model"
FORMATS: Mapping[str, str | None] = {KERAS: None, SAVED_MODEL: "tensorflow"}
"""Keras backend that each export format needs; None if any backend will do."""

ENDING = ".keras"
"""The only file ending that Keras writes."""

ASSETS = "assets.extra"
"""TensorFlow's folder for additional files in a SavedModel."""


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported model.

    Attributes:
        model: File or folder of the model.
        description: JSON file with the preparation of images and the meaning of classes.
        recipe: Preparation of images.
        classes: Number of classes, including the background.
    """

    model: Path
    description: Path
    recipe: Recipe
    classes: int

    def __str__(self) -> str:
        patch = " x ".join(map(str, self.recipe.patch))
        what, axes = ("slices", "height, width") if self.recipe.dims == 2 else ("volumes", "x, y, z")
        return (
            f"model: {self.model}\n"
            f"recipe and structures: {self.description}\n"
            f"input: prepared {what} (N, {axes}, {self.recipe.channels}), float32; trained on {patch}\n"
            f"output: logits (N, {axes}, {self.classes}), class 0 is the background"
        )


def export(folder: Path | str, to: str, out: Path | str, *, overwrite: bool = False) -> Exported:
    """Export the network of a trained segmenter for Keras or TensorFlow.

    Keras must not have been imported with another backend than the one that the format needs.

    Args:
        folder: Folder of a segmenter, or of a run that contains one.
        to: "keras" for a `.keras` file for all backends, with the description in a `.json` file of the same name; or
            "saved_model" for a TensorFlow SavedModel, with the description in its folder `assets.extra`.
        out: Output file; or output folder, which must be new or empty.
        overwrite: Replace files that scse did not write or that were changed since.

    Raises:
        DataError: The folder contains no segmenter, or one that this version cannot read.
        UserError: `to` is unknown, `out` does not fit or exists and `overwrite` is not set, a package is missing, or
            the network is not one of scse's own, or its structures are regions of labels.
    """
    check_choice("to", to, FORMATS)
    out = _check_out(Path(out), to)
    if to == KERAS:
        check_outputs([out, out.with_suffix(".json")], overwrite=overwrite)
    saved = read_saved(folder)
    refuse_regions(saved.description, saved.regions)
    recipe = read_recipe(saved)
    _settle(to)
    from scse.keras.weights import from_torch  # noqa: PLC0415 (imports Keras, so the backend must be set before)

    model = from_torch(saved.folder, data_format="channels_last", dtype="float32")
    description = _write_keras(model, saved, out) if to == KERAS else _write_saved_model(model, saved, out)
    return Exported(out, description, recipe, len(saved.structures) + 1)


def _check_out(out: Path, to: str) -> Path:
    if (to == KERAS) != (out.suffix == ENDING):
        allowed = f"a file that ends in {ENDING}" if to == KERAS else f"a folder, not a file that ends in {ENDING}"
        raise UserError(f"{out}: to={to!r} writes {allowed}; choose another name")
    if to == KERAS and out.is_dir():
        raise UserError(f"{out}: is a folder; choose another name")
    if to == SAVED_MODEL and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: already exists; choose a new folder")
    return out


def _settle(to: str) -> None:
    needed = FORMATS[to]
    if "keras" not in sys.modules:
        settle_backend(needed)
    elif needed is not None and (found := _imported_backend()) != needed:
        found = f"to={to!r} needs Keras with the backend {needed}, but it was imported with {found}"
        raise UserError(f"{found}; export in a new process")


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
    """Path of a temporary file or folder that is moved to `out` when it is complete."""
    with temporary_folder(out.parent, becomes=out) as folder:
        yield folder / out.name
