"""The costs of a variant: exact counts of parameters and bytes, and times relative to the plain network."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datasets import save_prepared, scene
from scse.data.files import Image
from scse.data.recipe import Recipe
from scse.inference.devices import describe_device
from scse.inference.segmenter import Segmenter
from scse.networks import NETWORKS
from scse.studies import costs
from scse.training.settings import Settings
from scse.training.task import Task
from scse.vocabulary.variants import PLAIN, Variant

SETTINGS = Settings(network="unet", width=4, depth=2, batch_size=4, precision="32", augment=False)
RECIPE = Recipe(view="coronal", spacing=None, patch=(16, 8), channels=1)
ARGUMENTS = {"in_channels": 1, "classes": 3, "width": 4, "depth": 2, "kernel_size": 3}
VARIANTS = ("none", "cse", "sse", "scse")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    image, label = scene(np.random.default_rng(0), (6, 16, 8))
    case = save_prepared(tmp_path / "case", image[0][:, None], label)
    return Task([case], [], RECIPE, {"left": 1, "right": 2})


@pytest.fixture
def segmenters() -> dict[Variant, Segmenter]:
    return {
        Variant(variant): Segmenter(
            NETWORKS["unet"](**ARGUMENTS, recalibration=variant), "unet", ARGUMENTS, variant, RECIPE, {"a": 1, "b": 2}
        )
        for variant in VARIANTS
    }


def test_costs_are_relative_to_the_plain_network(task, segmenters, monkeypatch):
    monkeypatch.setattr(costs, "STEP_ROUNDS", 2)
    monkeypatch.setattr(costs, "PREDICT_ROUNDS", 2)
    before = {v: {k: w.clone() for k, w in s.network.state_dict().items()} for v, s in segmenters.items()}
    image = Image(scene(np.random.default_rng(1), (12, 4, 8))[0], np.eye(4))
    table = costs.measure_costs(task, SETTINGS, segmenters, image)
    assert list(table.columns) == [
        *("network", "variant", "parameters", "kept_mib"),
        *("step_seconds", "step_ratio", "predict_seconds", "predict_ratio", "device"),
    ]
    assert list(table["variant"]) == list(VARIANTS)
    assert set(table["network"]) == {"unet"}
    assert set(table["device"]) == {describe_device(torch.device("cpu"))}
    assert list(table["parameters"]) == [sum(p.numel() for p in s.network.parameters()) for s in segmenters.values()]
    plain = table.set_index("variant").loc["none"]
    assert plain["step_ratio"] == plain["predict_ratio"] == 1
    # a block of scSE has the parameters of one of cSE and one of sSE
    extra = table.set_index("variant")["parameters"] - plain["parameters"]
    assert extra["scse"] == extra["cse"] + extra["sse"] > 0
    assert (table["kept_mib"] >= plain["kept_mib"]).all()
    assert (table[["step_seconds", "predict_seconds", "step_ratio", "predict_ratio"]] > 0).all(axis=None)
    for variant, segmenter in segmenters.items():
        for key, weights in segmenter.network.state_dict().items():
            torch.testing.assert_close(weights, before[variant][key], rtol=0, atol=0)


def test_bytes_kept_for_backward_are_counted_once():
    a, b = (torch.randn(1024, requires_grad=True) for _ in range(2))
    # the product keeps a and b; the sums keep nothing
    assert costs.kept_bytes(lambda: ((a * b) + 1).sum().backward()) == 2 * 4096
    assert costs.kept_bytes(lambda: (a * a).sum().backward()) == 4096


@pytest.mark.parametrize("schedule", ["one-cycle", "steps"])
def test_more_steps_are_measured_than_a_short_run_has(task, segmenters, monkeypatch, schedule):
    monkeypatch.setattr(costs, "PREDICT_ROUNDS", 1)
    settings = SETTINGS.model_copy(update={"epochs": 1, "slices_per_epoch": 4, "schedule": schedule})
    image = Image(scene(np.random.default_rng(1), (12, 4, 8))[0], np.eye(4))
    table = costs.measure_costs(task, settings, {PLAIN: segmenters[PLAIN]}, image)
    assert table["step_seconds"].item() > 0
