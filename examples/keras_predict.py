"""A segmenter that `scse export` wrote, on Keras with any backend or on TensorFlow alone.

torch is imported only where the recipe resamples images, and nothing of scse that needs it.

scse export RUN --to keras -o model.keras
KERAS_BACKEND=jax python examples/keras_predict.py model.keras scan.nii.gz labels.nii.gz

scse export RUN --to saved_model -o model
python examples/keras_predict.py model scan.nii.gz labels.nii.gz
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scse.data.files import read_image, write_label
from scse.data.prepared import class_values
from scse.data.recipe import Grid, Recipe

BATCH = 8


def load(model: Path) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The network: a batch of slices or volumes (N, *patch, C) -> logits (N, *patch, classes)."""
    if model.suffix == ".keras":
        import keras  # noqa: PLC0415 (a SavedModel needs no Keras)

        import scse.keras  # noqa: PLC0415, F401 (so that Keras knows the blocks)

        return keras.saving.load_model(model).predict_on_batch
    import tensorflow as tf  # noqa: PLC0415 (a file of Keras needs no TensorFlow)

    network = tf.saved_model.load(model)
    return lambda slices: network.serve(slices).numpy()


def choose(logits: NDArray[np.float32], recipe: Recipe, grid: Grid) -> NDArray[np.uint8]:
    """The class of every pixel of the image's own slices, or of its volume: (N, *patch, classes) -> (N, *plane)."""
    if grid.resampled == grid.plane:
        return logits[:, *map(slice, grid.plane)].argmax(-1).astype(np.uint8)
    import torch  # noqa: PLC0415 (as the recipe does)

    return recipe.restore(torch.from_numpy(logits).movedim(-1, 1).softmax(1), grid)


def main(model: Path, source: Path, out: Path) -> None:
    """Segment an image, and write its label map in the image's own geometry."""
    beside = model.with_suffix(".json") if model.suffix == ".keras" else model / "assets.extra" / "segmenter.json"
    description = json.loads(beside.read_text())
    recipe = Recipe.model_validate(description["recipe"])
    image = read_image([source])
    slices, grid = recipe.image_slices(image)
    if slices.shape[2:] != recipe.patch:
        size, what = slices.shape[2:], "slices" if recipe.dims == 2 else "volume"
        sys.exit(f"{source}: the size {size} of its {what} exceeds the patch {recipe.patch}; use `scse predict`")
    network, images = load(model), np.moveaxis(slices, 1, -1)
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    classes = np.concatenate([choose(network(batch), recipe, grid) for batch in batches])
    labels = grid.restore(class_values(description["structures"])[classes])
    write_label(out, labels, like=None if image.affine is None else source)
    print(f"{out}: label values {', '.join(map(str, np.unique(labels)))}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: keras_predict.py MODEL IMAGE OUT")
    main(*map(Path, sys.argv[1:]))
