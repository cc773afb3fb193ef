"""Gates of a segmenter's blocks for an image: on the pixels of the image, in files for viewers, with clear errors."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from datasets import save_nifti, save_picture, scene
from named import build
from scse.blocks import ChannelSE, ConcurrentSE, SpatialSE
from scse.data.files import Image, read_image
from scse.data.recipe import Recipe
from scse.gates.explaining import explain, slice_gates
from scse.inference.segmenter import Segmenter
from scse.support.errors import DataError
from scse.zoo.building import Sized
from scse.zoo.catalogue import read_network

STRUCTURES = {"left": 1, "right": 2}
RANDOM = np.random.default_rng(0)


class Gated(nn.Module):
    """A block on the image or on a copy of half the size, so that the gates follow from the image."""

    def __init__(self, block: nn.Module, *, halve: bool = False, times: int = 1) -> None:
        super().__init__()
        self.block, self.halve, self.times = block, halve, times
        for layer in (module for module in block.modules() if isinstance(module, nn.Linear)):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            self.block(F.avg_pool2d(x, 2) if self.halve else x)
        return torch.cat([x[:, :1]] * 3, 1)


class Tokens(nn.Module):
    """A block on flattened pixels, which are not a map of a slice."""

    def __init__(self) -> None:
        super().__init__()
        self.block = SpatialSE(1)

    def forward(self, x: Tensor) -> Tensor:
        self.block(x.flatten(2))
        return torch.cat([x] * 3, 1)


def segmenter(network: nn.Module, **recipe: Any) -> Segmenter:
    chosen = {"view": "coronal", "spacing": None, "patch": (16, 16), "channels": 1, **recipe}
    return Segmenter(network.eval(), "unet", {}, "scse", Recipe.model_validate(chosen), STRUCTURES)


def volume(codes: str = "LAS", shape: Sequence[int] = (12, 10, 14), *, spacing: float = 1.0) -> Image:
    """Noise that is smooth enough for downsampling by 2, stored with axes that point to `codes`."""
    noise = F.avg_pool3d(torch.from_numpy(RANDOM.normal(0, 50, shape))[None], 5, 1, 2)[0].numpy().astype(np.float32)
    turned = nib.Nifti1Image(noise, np.diag([-spacing, spacing, spacing, 1])).as_reoriented(
        nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("LAS"), nib.orientations.axcodes2ornt(codes))
    )
    return Image(np.asarray(turned.dataobj)[None], turned.affine)


def sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return 1 / (1 + np.exp(-x))


def normalized(recipe: Recipe, image: Image) -> NDArray[np.float32]:
    """The input of the network, as a volume in the orientation of the image."""
    slices, grid = recipe.image_slices(image)
    height, width = grid.plane
    return grid.restore(slices[:, 0, :height, :width])


# Gates on the pixels of an image


@pytest.mark.parametrize(("codes", "axis"), [("RAS", 1), ("LAS", 1), ("LPI", 1), ("PIR", 0), ("SLA", 2)])
def test_gates_lie_as_the_slices_of_the_stored_volume(codes: str, axis: int) -> None:
    model, image = segmenter(Gated(ConcurrentSE(1))), volume(codes)
    slices = [6, 1, 2]
    (found,) = slice_gates(model, image, slices)
    seen = normalized(model.recipe, image)
    assert found.where == "block"
    assert found.spatial is not None
    expected = [sigmoid(np.take(seen, index, axis)) for index in slices]
    np.testing.assert_allclose(found.spatial, expected, atol=1e-5)
    prepared = model.recipe.image_slices(image)[0]
    means = prepared.mean((1, 2, 3))
    means = means[::-1] if codes in ("LPI", "PIR") else means
    np.testing.assert_allclose(found.channel[:, 0], sigmoid(np.maximum(means[slices], 0)), atol=1e-5)


@pytest.mark.parametrize("sized", [False, True])
def test_coarse_gates_are_brought_to_the_pixels_where_they_were_computed(sized: bool) -> None:
    """Downsampled by the network, resampled from 1 to 2 mm, and padded to 32 pixels for networks of other libraries."""
    network = Gated(SpatialSE(1), halve=True)
    wrapped = Sized(network, spec=read_network("unet"), classes=3) if sized else network
    ramp = np.broadcast_to(np.linspace(1, 5, 40)[:, None, None] * np.linspace(1, 4, 36), (40, 3, 36)).astype(np.float32)
    image = Image(ramp[None], np.eye(4))
    model = segmenter(wrapped, spacing=(2.0, 2.0), patch=(24, 24))
    (found,) = slice_gates(model, image, [1])
    assert found.where == "block"
    expected = sigmoid(normalized(model.recipe.model_copy(update={"spacing": None}), image)[:, 1])
    assert found.spatial is not None
    # edges are excluded, because interpolation needs neighbours
    np.testing.assert_allclose(found.spatial[0, 4:-4, 4:-4], expected[4:-4, 4:-4], atol=0.02)


def test_a_slice_of_several_windows_has_one_map_and_their_mean_channel_gate() -> None:
    model, image = segmenter(Gated(ConcurrentSE(1))), volume("RAS", (24, 6, 20))
    (found,) = slice_gates(model, image, [3, 4])
    seen = normalized(model.recipe, image)
    assert found.spatial is not None
    assert found.channel is not None
    np.testing.assert_allclose(found.spatial, sigmoid(seen[:, 3:5]).swapaxes(0, 1), atol=1e-5)
    windows = [(slice(row, row + 16), slice(column, column + 16)) for row in (0, 8) for column in (0, 4)]
    for channel, plane in zip(found.channel[:, 0], seen[:, 3:5].swapaxes(0, 1), strict=True):
        gates = [sigmoid(max(plane[window].mean(), 0)) for window in windows]
        assert channel == pytest.approx(np.mean(gates), abs=1e-5)


def test_a_picture_is_one_slice() -> None:
    model = segmenter(Gated(SpatialSE(1)), view="picture")
    image = Image(RANDOM.normal(size=(1, 14, 11)).astype(np.float32), None)
    (found,) = slice_gates(model, image, [0])
    np.testing.assert_allclose(found.spatial, sigmoid(normalized(model.recipe, image))[None], atol=1e-5)


@pytest.mark.parametrize(("slices", "got"), [([3, 10], "got 10"), ([-1], "got -1"), ([], "got none")])
def test_slices_that_are_not_in_the_image_are_named(slices: list[int], got: str) -> None:
    with pytest.raises(ValueError, match=f"slices must be from 0 to 9, .*{got}"):
        slice_gates(segmenter(Gated(SpatialSE(1))), volume(), slices)


def test_gates_that_are_no_map_of_a_slice_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'block' recalibrates 3 maps of size \(256,\) for 3 slices"):
        slice_gates(segmenter(Tokens()), volume(), [0, 1, 2])


# Output of `explain`


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """An oblique scan of 12 x 10 x 14 voxels with two blank slices."""
    image, _ = scene(np.random.default_rng(1), (12, 10, 14))
    image[0, :, :2] = image.min()
    affine = np.array([[-2, 0.1, 0, 5], [0.1, 2, 0, -7], [0, 0, 1, 3], [0, 0, 0, 1.0]])
    return save_nifti(tmp_path / "data" / "scan.nii.gz", image[0], affine)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


FIGURES = ("spatial_gates.pdf", "spatial_gates.png")
CHANNELS = ("channel_gates.csv", "channel_gates.pdf", "channel_gates.png")


def test_a_scan_gets_maps_in_its_own_geometry_a_table_and_figures(scan: Path, tmp_path: Path) -> None:
    model, out = segmenter(Gated(ConcurrentSE(1), halve=True)), tmp_path / "new" / "out"
    done = []
    found = explain(model, scan, out, batch_size=4, progress=lambda *counts: done.append(counts))
    assert names(out) == sorted(["spatial_block.nii.gz", *FIGURES, *CHANNELS])
    assert sorted(path.name for path in found.files) == names(out)
    assert done == [(4, 10), (8, 10), (10, 10)]
    written: Any = nib.load(out / "spatial_block.nii.gz")
    source: Any = nib.load(scan)
    np.testing.assert_array_equal(written.affine, source.affine)
    assert written.header["sform_code"] == source.header["sform_code"]
    values = written.get_fdata()
    (gates,) = slice_gates(model, read_image([scan]), range(10))
    assert gates.spatial is not None
    assert gates.channel is not None
    np.testing.assert_allclose(values, np.moveaxis(gates.spatial, 0, 1), atol=2e-5)
    table = pd.read_csv(out / "channel_gates.csv")
    assert list(table) == ["block", "kind", "channel", "mean", "sd", "min", "max", "change", "shut"]
    (row,) = table.to_dict("records")
    assert (row["block"], row["kind"], row["channel"], row["shut"]) == ("block", "ConcurrentSE", 0, False)
    for name, value in {"mean": gates.channel.mean(), "sd": gates.channel.std(), "max": gates.channel.max()}.items():
        assert row[name] == pytest.approx(value, abs=1e-5)
    assert row["change"] == pytest.approx(row["mean"] - 0.5, abs=1e-5)
    block = found.blocks.iloc[0]
    assert block["spatial_mean"] == pytest.approx(values.mean(), abs=1e-4)
    assert block["spatial_max"] == pytest.approx(values.max(), abs=1e-4)
    with PIL.Image.open(out / "spatial_gates.png") as figure:
        assert min(figure.size) > 200


def test_a_second_call_with_other_batches_writes_the_same_bytes(scan: Path, tmp_path: Path) -> None:
    model = segmenter(Gated(ConcurrentSE(1)))
    explain(model, [str(scan)], tmp_path / "out", batch_size=3)
    before = {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")}
    explain(model, scan, tmp_path / "out", batch_size=10)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")} == before


def test_as_many_windows_of_a_volume_are_computed_at_a_time_as_asked_for(scan: Path, tmp_path: Path) -> None:
    network, sizes, results = Gated(ConcurrentSE(1)), [], []
    network.register_forward_pre_hook(lambda module, inputs: sizes[-1].append(len(inputs[0])))
    model = segmenter(network, view="volume", patch=(8, 8, 8))
    for batch_size in (None, 5):
        sizes.append([])
        found = explain(model, scan, tmp_path / "out", batch_size=batch_size)
        written = nib.load(tmp_path / "out" / "spatial_block.nii.gz").get_fdata()  # type: ignore[attr-defined]
        results.append((written, found.channels["mean"].item()))
    assert sizes == [[1] * 12, [5, 5, 2]]
    np.testing.assert_allclose(results[1][0], results[0][0], atol=2**-15)
    assert results[1][1] == pytest.approx(results[0][1], abs=1e-6)


@pytest.mark.parametrize("name", ["spatial_block.nii.gz", "channel_gates.csv", "spatial_gates.pdf"])
def test_files_of_the_user_are_replaced_only_if_asked_for(scan: Path, tmp_path: Path, name: str) -> None:
    model = segmenter(Gated(ConcurrentSE(1)))
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name}: already there"):
        explain(model, scan, tmp_path)
    assert (tmp_path / name).read_text() == "mine"
    assert tmp_path / name in explain(model, scan, tmp_path, overwrite=True).files
    assert (tmp_path / name).read_bytes() != b"mine"


def test_a_picture_gets_the_gates_laid_over_it(tmp_path: Path) -> None:
    array = RANDOM.integers(0, 256, (14, 11, 3))
    picture = save_picture(tmp_path / "cells.png", array)
    model = segmenter(Gated(SpatialSE(3)), view="picture", channels=3)
    explain(model, picture, tmp_path / "out")
    assert names(tmp_path / "out") == sorted(["spatial_block.png", *FIGURES])
    shown = np.asarray(PIL.Image.open(tmp_path / "out" / "spatial_block.png")).astype(int)
    assert shown.shape == (14, 11, 3)
    # viridis ranges from violet to yellow: open gates have more green than blue
    (gates,) = slice_gates(model, read_image([picture]), [0])
    assert gates.spatial is not None
    more_green = shown[..., 1] - shown[..., 2]
    assert np.corrcoef(more_green.ravel(), gates.spatial.ravel())[0, 1] > 0.9


def test_channel_gates_alone_make_no_maps_and_shut_channels_are_counted(scan: Path, tmp_path: Path) -> None:
    network = Gated(ChannelSE(1))
    nn.init.constant_(network.block.excite.bias, -9.0)  # type: ignore[union-attr, arg-type]
    found = explain(segmenter(network), scan, tmp_path / "out")
    assert names(tmp_path / "out") == sorted(CHANNELS)
    assert pd.read_csv(tmp_path / "out" / "channel_gates.csv")["shut"].tolist() == [True]
    assert found.rows() == [("block", "1.00", "-", "-", "-", "0.00", "1 of 1")]


def test_a_block_that_runs_twice_has_two_maps(scan: Path, tmp_path: Path) -> None:
    found = explain(segmenter(Gated(SpatialSE(1), times=2)), scan, tmp_path / "out")
    assert names(tmp_path / "out") == sorted(["spatial_block.nii.gz", "spatial_block-2.nii.gz", *FIGURES])
    assert found.blocks["block"].tolist() == ["block", "block (2)"]


def test_blocks_attached_to_a_network_of_ones_own_are_named_as_attach_has_them(
    mine: Path, scan: Path, tmp_path: Path
) -> None:
    network, arguments = f"{mine}:make", {"in_channels": 1, "classes": 3}
    built = build(network, arguments, variant="scse", size=(16, 16), attach_to="first")
    model = segmenter(built)
    replace(model, name=network, arguments=arguments).save(tmp_path / "run")
    found = explain(tmp_path / "run", scan, tmp_path / "out", network=network)
    (block,) = found.blocks.to_dict("records")
    assert (block["block"], block["channels"], block["shut"]) == ("first", 4, 0)
    assert all(block[name] == 0.5 for name in ("spatial_min", "spatial_max", "channel_mean", "identity"))
    assert np.all(nib.load(tmp_path / "out" / "spatial_first.nii.gz").get_fdata() == 0.5)  # type: ignore[attr-defined]


def test_wrong_inputs_are_named_before_anything_is_written(scan: Path, tmp_path: Path) -> None:
    model, out = segmenter(Gated(SpatialSE(1))), tmp_path / "out"
    flat = save_nifti(tmp_path / "flat.nii.gz", np.zeros((8, 8), np.float32))
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no image")
    plain = segmenter(nn.Conv2d(1, 3, 1))
    cases: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (
            lambda: explain(plain, scan, out),
            ValueError,
            "the network unet has no blocks and so no gates; give a segmenter",
        ),
        (lambda: explain(model, scan, scan), ValueError, "scan.nii.gz: is a file; give a folder"),
        (lambda: explain(model, [scan, flat], out), ValueError, "only one image .* got scan, flat"),
        (lambda: explain(model, flat, out), ValueError, "flat.nii.gz: the model expects coronal slices"),
        (lambda: explain(model, broken, out), DataError, "broken.nii.gz: cannot be read"),
        (lambda: explain(model, tmp_path / "none", out), DataError, "none: does not exist"),
        (lambda: explain(tmp_path, scan, out), DataError, "contains no segmenter"),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()
    assert not out.exists()
