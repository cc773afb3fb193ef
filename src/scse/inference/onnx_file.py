"""ONNX files of trained segmenters: their description, and the comparison with torch before they are kept."""

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from scipy import ndimage

from scse.data.choices import SLICE_AXIS
from scse.data.files import Image
from scse.inference.onnx_graph import IMAGE, SLICES, SPACING, onnx_model
from scse.inference.saved import Saved
from scse.inference.segmenter import Segmenter
from scse.support.atomic import write_atomic
from scse.support.errors import UserError, in_short
from scse.support.outputs import marked

MOST_DIFFERING = 1e-3
"""Greatest share of voxels of the comparison with another label than by torch; almost equal scores can differ."""

SMOOTHING = 3
"""Standard deviation of the smoothing of the image of the comparison, in voxels."""


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """An exported ONNX file.

    Attributes:
        model: The file.
        segmenter: The segmenter in it.
        label_type: Type of the label values.
        compared: Number of voxels whose labels were compared with those of torch.
        differing: Number of these that differ.
    """

    model: Path
    segmenter: Segmenter
    label_type: np.dtype[np.generic]
    compared: int
    differing: int

    def __str__(self) -> str:
        recipe, picture = self.segmenter.recipe, self.segmenter.recipe.view == "picture"
        axes = "rows, columns" if picture else "x, y, z"
        spacing = "" if picture or recipe.spacing is None else f"; {SPACING} (3), float64, in mm"
        lines = [
            f"model: {self.model}",
            f"input: {IMAGE} ({recipe.channels}, {axes}), float32{spacing}",
            f"output: labels ({axes}), {self.label_type}",
            f"compared with torch: {self.differing} of {self.compared} voxels differ",
        ]
        if not picture:
            lines.insert(2, "axes: x to the right, y anterior, z superior")
        if self.segmenter.cleaning:
            lines.append(f"left out: the clean-up of label maps, {self.segmenter.cleaning}")
        return "\n".join(lines)


def write_onnx(saved: Saved, out: Path, *, network: str | None = None) -> OnnxFile:
    """Write a segmenter as one ONNX file, from the voxels of an image to label values.

    The file is checked, and its labels of a made-up image are compared with those of torch, before it is written.

    Args:
        saved: The segmenter on disk.
        out: The file.
        network: See `Segmenter.load`.

    Raises:
        UserError: The network cannot be exported, or labels differ from those of torch.
    """
    segmenter = Segmenter.load(saved.folder, network=network)
    try:
        model = onnx_model(segmenter)
        onnx.helper.set_model_props(model, _properties(saved))
        content = model.SerializeToString()
        onnx.checker.check_model(content, full_check=True)
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    # exporters and engines raise almost any exception for operations that they do not know
    except Exception as error:
        raise UserError(f"{saved.folder}: cannot be exported to ONNX ({in_short(error)})") from error
    image = _example(segmenter)
    inputs = {IMAGE: image.array, SPACING: np.array(image.spacing)}
    [found] = session.run(None, {each.name: inputs[each.name] for each in session.get_inputs()})
    expected = segmenter.with_cleaning("none").predict_image(image)
    differing = int(np.count_nonzero(found != expected))
    if differing > MOST_DIFFERING * expected.size:
        raise UserError(
            f"{saved.folder}: the exported network gives other labels than torch in {differing} of {expected.size} "
            f"voxels, so {out} is not written"
        )
    with marked([out]):
        write_atomic(out, content)
    return OnnxFile(out, segmenter, found.dtype, expected.size, differing)


def _properties(saved: Saved) -> dict[str, str]:
    """What a reader of the file needs to know, as text; `segmenter` has all of it, and the record of the training."""
    return {
        "scse": version("scse"),
        "structures": json.dumps(dict(saved.structures)),
        "spacing": json.dumps(saved.recipe.get("spacing")),
        "cleaning_left_out": str(saved.cleaning),
        "segmenter": saved.description.read_text(encoding="utf-8"),
    }


def _example(segmenter: Segmenter) -> Image:
    """A smooth random image, larger than the patch along its last axis, and with slices for two batches."""
    recipe = segmenter.recipe
    shape = [*recipe.patch[:-1], recipe.patch[-1] + 4]
    spacing = list(recipe.spacing or (1.0,) * recipe.dims)
    if recipe.view in SLICE_AXIS:
        shape.insert(SLICE_AXIS[recipe.view], SLICES + 1)
        spacing.insert(SLICE_AXIS[recipe.view], 1.0)
    noise = np.random.default_rng(0).normal(size=(recipe.channels, *shape))
    array = ndimage.gaussian_filter(noise, SMOOTHING, axes=tuple(range(1, noise.ndim))).astype(np.float32)
    return Image(array, None if recipe.view == "picture" else np.diag([*spacing, 1.0]))
