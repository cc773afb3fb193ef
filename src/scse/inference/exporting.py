"""Export of trained segmenters: to ONNX files, and without torch to Keras files and TensorFlow SavedModels."""

import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scse.data.recipe import Recipe
from scse.inference.saved import DESCRIPTION, Saved, read_saved, refuse_regions
from scse.inference.saved_recipe import read_recipe
from scse.support.atomic import temporary_folder, write_atomic
from scse.support.checks import check_choice
from scse.support.errors import UserError
from scse.support.extras import needing
from scse.support.keras_backend import settle_backend
from scse.support.outputs import check_outputs, marked

if TYPE_CHECKING:
    from scse.inference.onnx_file import OnnxFile

KERAS, SAVED_MODEL, ONNX = "keras", "saved_model", "onnx"
FORMATS = (ONNX, KERAS, SAVED_MODEL)

BACKENDS: Mapping[str, str | None] = {KERAS: None, SAVED_MODEL: "tensorflow"}
"""Keras backend that an export format needs; None if any backend will do."""

ENDINGS: Mapping[str, str] = {KERAS: ".keras", ONNX: ".onnx"}
"""Ending of the files of each format that is a file; Keras writes no other one."""

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


def export(
    folder: Path | str, to: str, out: Path | str, *, network: str | None = None, overwrite: bool = False
) -> "Exported | OnnxFile":
    """Export a trained segmenter to ONNX, or its network for Keras or TensorFlow.

    Keras must not have been imported with another backend than the one that the format needs.

    Args:
        folder: Folder of a segmenter, or of a run that contains one.
        to: "onnx" for one `.onnx` file from images to label values, see `scse.inference.onnx_graph`; "keras" for a
            `.keras` file for all backends, with the description in a `.json` file of the same name; or "saved_model"
            for a TensorFlow SavedModel, with the description in its folder `assets.extra`.
        out: Output file; or output folder, which must be new or empty.
        network: The factory FILE.py:FUNCTION with which the segmenter was trained, if it used your own network; only
            for "onnx".
        overwrite: Replace files that scse did not write or that were changed since.

    Raises:
        DataError: The folder contains no segmenter, or one that this version cannot read.
        UserError: `to` is unknown, `out` does not fit or exists and `overwrite` is not set, or a package is missing.
            For "onnx": the network cannot be exported, or its labels differ from torch's. For the others: the network
            is not one of scse's own, or its structures are regions of labels.
    """
    check_choice("to", to, FORMATS)
    out = _check_out(Path(out), to)
    if network is not None and to != ONNX:
        raise UserError(f"to={to!r} is for networks of scse alone; leave out network={network!r}, or choose to='onnx'")
    if to in ENDINGS:
        check_outputs([out, *([out.with_suffix(".json")] if to == KERAS else [])], overwrite=overwrite)
    saved = read_saved(folder)
    if to == ONNX:
        with needing("an export to ONNX", "export"):
            from scse.inference.onnx_file import write_onnx  # noqa: PLC0415 (imports torch)
        return write_onnx(saved, out, network=network)
    refuse_regions(saved.description, saved.regions)
    recipe = read_recipe(saved)
    _settle(to)
    from scse.keras.weights import from_torch  # noqa: PLC0415 (imports Keras, so the backend must be set before)

    model = from_torch(saved.folder, data_format="channels_last", dtype="float32")
    description = _write_keras(model, saved, out) if to == KERAS else _write_saved_model(model, saved, out)
    return Exported(out, description, recipe, len(saved.structures) + 1)


def _check_out(out: Path, to: str) -> Path:
    if ENDINGS.get(to, out.suffix) != out.suffix:
        raise UserError(f"{out}: to={to!r} writes a file that ends in {ENDINGS[to]}; choose another name")
    if to == SAVED_MODEL and out.suffix in ENDINGS.values():
        found = f"a folder, not a file that ends in {out.suffix}"
        raise UserError(f"{out}: to={to!r} writes {found}; choose another name")
    if to in ENDINGS and out.is_dir():
        raise UserError(f"{out}: is a folder; choose another name")
    if to == SAVED_MODEL and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: already exists; choose a new folder")
    return out


def _settle(to: str) -> None:
    needed = BACKENDS[to]
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
