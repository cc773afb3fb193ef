"""Passes with dropout: their mean, their spread, and what is refused."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from scse.cli.app import app
from scse.data.files import Image
from scse.data.recipe import Recipe
from scse.inference import sharded
from scse.inference.combining import combined
from scse.inference.dropout import with_dropout
from scse.inference.segmenter import Segmenter
from scse.inference.uncertainty import uncertain
from scse.networks import UNet
from scse.support.errors import UserError
from scse.vocabulary.variants import Variant
from scse.zoo.building import build_network
from scse.zoo.catalogue import read_network

NAME = "monai:UNet[channels=(4,8),strides=(2,),dropout=0.5]"
RECIPE = Recipe(view="axial", spacing=None, patch=(16, 16), channels=1)
ARGUMENTS = {"in_channels": 1, "classes": 3}


@pytest.fixture
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    network = build_network(
        read_network(NAME), ARGUMENTS, variant=Variant.parse("none"), size=(16, 16), spacing=None, pretrained=False
    )
    return Segmenter(network.eval(), NAME, ARGUMENTS, "none", RECIPE, {"left": 1, "right": 2})


@pytest.fixture
def image() -> Image:
    return Image(np.random.default_rng(0).normal(size=(1, 16, 16, 3)).astype(np.float32), np.eye(4))


def test_a_pass_is_the_network_with_dropout_and_nothing_else_in_training(segmenter: Segmenter) -> None:
    images = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    first, second = with_dropout(segmenter, 2)
    assert first.engine is not None
    with torch.inference_mode():
        found = first.run(images)
        # by hand: everything but dropout in evaluation mode, so that batch normalisation keeps its statistics
        for module in segmenter.network.modules():
            module.train(isinstance(module, nn.Dropout | nn.Dropout2d))
        torch.manual_seed(0)
        wanted = segmenter.network(images)
        segmenter.network.eval()
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
        assert not torch.equal(found, second.run(images))
        assert torch.equal(found, first.run(images))


def test_passes_leave_the_network_and_the_random_numbers_as_they_were(segmenter: Segmenter) -> None:
    images, state = torch.zeros(1, 1, 16, 16), torch.get_rng_state()
    with torch.inference_mode():
        before = segmenter.run(images)
        with_dropout(segmenter, 2)[0].run(images)
        assert torch.equal(segmenter.run(images), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in segmenter.network.modules())


def test_the_mean_of_passes_comes_close_to_their_expectation(segmenter: Segmenter, image: Image) -> None:
    images = torch.from_numpy(image.array).movedim(-1, 0)
    with torch.inference_mode():
        shares = torch.stack([each.run(images).softmax(1) for each in with_dropout(segmenter, 16)]).mean(0)
        found = combined([with_dropout(segmenter, 16)]).run(images).softmax(1)
    torch.testing.assert_close(found, shares, rtol=1e-4, atol=1e-5)


def test_the_spread_of_passes_is_the_uncertainty(segmenter: Segmenter, image: Image) -> None:
    found = uncertain(with_dropout(segmenter, 4)).estimate(image)
    assert found.structures["passes"].tolist() == [4, 4]
    assert (found.structures["iou"].dropna() < 1).any()
    assert float(found.entropy.max()) > 0


def test_what_has_no_dropout_is_refused() -> None:
    arguments = {**ARGUMENTS, "width": 4, "depth": 1, "kernel_size": 3}
    plain = Segmenter(UNet(**arguments), "unet", arguments, "none", RECIPE, {"left": 1, "right": 2})
    with pytest.raises(UserError, match="the network unet has no layers of dropout"):
        with_dropout(plain, 4)


def test_one_pass_and_other_engines_are_refused(segmenter: Segmenter) -> None:
    with pytest.raises(UserError, match="dropout must be 2 or more passes, got 1"):
        with_dropout(segmenter, 1)
    with pytest.raises(UserError, match="dropout needs the engine torch, got onnxruntime"):
        with_dropout(segmenter.with_engine("onnxruntime"), 2)


def test_predict_takes_passes_also_in_other_processes(segmenter: Segmenter, image: Image, tmp_path: Path) -> None:
    model = segmenter.save(tmp_path / "model")
    nib.save(nib.Nifti1Image(image.array[0], np.eye(4)), tmp_path / "scan.nii.gz")
    command = ["predict", "-m", str(model), str(tmp_path / "scan.nii.gz"), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*command, "--dropout", "3", "--report"])
    assert done.exit_code == 0, done.output
    assert "3 segmenters" in done.output
    assert NAME in (tmp_path / "out" / "report" / "index.html").read_text()
    labels = np.asarray(nib.load(tmp_path / "out" / "scan.nii.gz").dataobj)
    there = sharded.Recipe(groups=(((model, None),),), dropout=3).segmenter()
    np.testing.assert_array_equal(there.predict_image(image), labels)
