"""A task small enough to be trained in a second."""

from pathlib import Path

import numpy as np
import pytest

from datasets import save_prepared, scene
from scse.data.prepared import Prepared
from scse.data.recipe import Recipe
from scse.training.task import Task

PATCH = (16, 16)


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Three training cases of 7 slices, larger than the patch, and two held-out ones, in a cache folder."""
    cache, rng = tmp_path_factory.mktemp("cache"), np.random.default_rng(0)

    def case(name: str) -> Prepared:
        image, label = scene(rng, (7, 20, 24))
        return save_prepared(cache / name, (image[0, :, None] - 50) / 70, label)

    recipe = Recipe(view="axial", spacing=None, patch=PATCH, channels=1)
    structures = {"left": 3, "right": 300}
    return Task([case(name) for name in "abc"], [case(name) for name in "de"], recipe, structures)


@pytest.fixture(scope="session")
def cache(task: Task) -> Path:
    return task.training[0].folder.parent
