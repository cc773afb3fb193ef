from pathlib import Path

import numpy as np
import pytest
import torch

from scse.data.files import read_image, read_label
from scse.data.inspection import open_checked
from scse.simulation.brain import STRUCTURES, VARIATION, brain_atlas
from scse.simulation.source import Source
from scse.simulation.subjects import draw_subject
from scse.vocabulary.sides import partners

MEAN_MILLILITRES = {
    "left-cerebral-cortex": 302,
    "right-cerebral-cortex": 300,
    "left-cerebral-white-matter": 204,
    "left-lateral-ventricle": 14.5,
    "right-thalamus": 7.5,
    "left-hippocampus": 3.5,
    "right-amygdala": 1.0,
    "third-ventricle": 1.1,
    "brain-stem": 18.6,
}
"""Means of the 15 test subjects of the MICCAI 2012 challenge."""


BRIGHTNESS = {
    "cerebral-cortex": 0.611,
    "cerebellum-white-matter": 0.965,
    "cerebellum-cortex": 0.661,
    "thalamus": 0.836,
    "caudate": 0.704,
    "putamen": 0.808,
    "pallidum": 0.964,
    "hippocampus": 0.637,
    "amygdala": 0.634,
    "ventral-dc": 0.929,
    "lateral-ventricle": 0.322,
}
"""Median intensities of the 15 training subjects of the MICCAI 2012 challenge, relative to cerebral white matter."""


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return brain_atlas(tmp_path_factory.mktemp("cache")).path


def test_the_atlas_is_a_data_set_of_one_case_without_problems(atlas: Path) -> None:
    _, dataset = open_checked(brain_atlas(atlas.parent))
    assert dataset.structures == STRUCTURES
    assert [case.name for case in dataset.cases] == ["brain_atlas"]
    written = {path: path.stat().st_mtime_ns for path in atlas.iterdir()}
    brain_atlas(atlas.parent)
    assert {path: path.stat().st_mtime_ns for path in atlas.iterdir()} == written


def test_volumes_of_simulated_brains_are_those_of_real_ones(atlas: Path) -> None:
    [case] = brain_atlas(atlas.parent).cases
    image, label = read_image(case.images), read_label(case.label)
    sides = partners(list(STRUCTURES))
    source = Source.of(image.array, label.array, spacing=image.spacing, partners=[0, *(place + 1 for place in sides)])
    counts = [
        torch.bincount(
            draw_subject(source, (seed,), variation=VARIATION, spacing=(3.0, 3.0, 3.0))[1].flatten().long(),
            minlength=28,
        )
        for seed in range(12)
    ]
    millilitres = np.stack(counts) * 27 / 1000
    for name, expected in MEAN_MILLILITRES.items():
        assert millilitres[:, STRUCTURES[name]].mean() == pytest.approx(expected, rel=0.25), name
    spread = millilitres.std(0) / millilitres.mean(0)
    assert 0.05 < spread[STRUCTURES["left-hippocampus"]] < 0.3
    assert spread[STRUCTURES["left-lateral-ventricle"]] > 0.25  # of real ones 0.70


def test_the_atlas_is_as_bright_as_real_brains(atlas: Path) -> None:
    [case] = brain_atlas(atlas.parent).cases
    image, label = read_image(case.images).array[0], read_label(case.label).array

    def median(name: str) -> float:
        return float(np.median(image[np.isin(label, [STRUCTURES[f"{side}-{name}"] for side in ("left", "right")])]))

    white = median("cerebral-white-matter")
    for name, expected in BRIGHTNESS.items():
        assert median(name) / white == pytest.approx(expected, abs=0.1), name
