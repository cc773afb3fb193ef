"""`scse predict` with several segmenters: ensembles of studies, planes that are joined, weights and uncertainty."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from earlier_folders import unpack_earlier
from scse.cli import models
from scse.cli.app import app
from scse.data.files import read_image
from scse.data.recipe import Recipe
from scse.inference.averaging import averaged
from scse.inference.joining import joined
from scse.inference.saved import Known
from scse.inference.segmenter import Segmenter
from scse.inference.uncertainty import uncertain
from scse.networks import NETWORKS
from scse.support.errors import DataError, UserError

STRUCTURES = {"left": 1, "right": 2}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with the cases c0, c1, c2, t0, t1, and a study of two epochs and two variants, each trained once."""
    return unpack_earlier(tmp_path_factory.mktemp("earlier"))


@pytest.fixture(scope="module")
def planes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An untrained segmenter of each plane."""
    folder, arguments = tmp_path_factory.mktemp("planes"), {"in_channels": 1, "classes": 3, "width": 4, "depth": 1}
    arguments["kernel_size"] = 3
    found = {}
    for seed, plane in enumerate(("coronal", "axial", "sagittal")):
        torch.manual_seed(seed)
        network = NETWORKS["unet"](**arguments, recalibration="none")
        recipe = Recipe.model_validate({"view": plane, "spacing": None, "patch": (16, 16), "channels": 1})
        found[plane] = Segmenter(network, "unet", arguments, "none", recipe, STRUCTURES).save(folder / plane)
    return found


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def labels(path: Path) -> Any:
    return np.asarray(nib.load(path).dataobj)


IMPORTED = """
import atexit
import sys

atexit.register(lambda: print({"monai", "lightning_fabric", "torch._dynamo", "torchvision"} & sys.modules.keys()))
import scse.cli.app

scse.cli.app.main()
"""


def test_a_prediction_starts_without_what_only_trainings_need(planes: dict[str, Path], tmp_path: Path) -> None:
    """Each of these libraries takes as long to import as torch itself, or longer."""
    image = np.random.default_rng(0).normal(size=(20, 18, 24)).astype(np.float32)  # larger than the patch
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "image.nii.gz")
    arguments = ("predict", "-m", planes["axial"], tmp_path / "image.nii.gz", "-o", tmp_path / "labels")
    done = subprocess.run([sys.executable, "-c", IMPORTED, *arguments], capture_output=True, text=True, check=True)
    assert labels(tmp_path / "labels" / "image.nii.gz").shape == image.shape
    assert done.stdout.splitlines()[-1] == "set()"


def test_an_ensemble_is_all_trained_runs_of_a_network_and_variant(earlier: Path, tmp_path: Path) -> None:
    study, images = earlier / "study", earlier / "data" / "imagesTs"
    chosen = ("--ensemble", study, "--network", "unet[epochs=2]", "--variant", "none")
    found = call(images, *chosen, "-o", tmp_path)
    assert found.exit_code == 0, found.output
    assert "ensemble: unet[epochs=2], none: 1 of 1 runs" in found.stdout
    assert found.stderr == ""
    expected = Segmenter.load(study / "runs" / "unet_epochs_2-8f9d6798-none-seed0-fold0")
    image = read_image([images / "t0_0000.nii.gz"])
    np.testing.assert_array_equal(labels(tmp_path / "t0.nii.gz"), expected.predict_image(image))


def test_several_ensembles_and_segmenters_are_averaged(earlier: Path, tmp_path: Path) -> None:
    study, images = earlier / "study", earlier / "data" / "imagesTs"
    several = study / "runs" / "unet_epochs_2-8f9d6798-none-seed0-fold0"
    single = study / "runs" / "unet_epochs_1-87a330f9-scse_reduction_4-9a56db06-seed0-fold0"
    chosen = ("--ensemble", study, "--network", "unet[epochs=2]", "--variant", "none", "-m", single)
    found = call(images, *chosen, "--weights", "1,3", "--mirror", "-o", tmp_path / "out")
    assert found.exit_code == 0, found.output
    assert "averaged (2 segmenters, 4 passes each)" in found.stdout
    members = [Segmenter.load(path) for path in (single, several)]
    expected = averaged(members, weights=[1, 3], mirror=True)
    image = read_image([images / "t0_0000.nii.gz"])
    np.testing.assert_array_equal(labels(tmp_path / "out" / "t0.nii.gz"), expected.predict_image(image))


def test_unfinished_runs_and_training_cases_are_reported(earlier: Path, tmp_path: Path) -> None:
    only = tmp_path / "study"
    (only / "runs").mkdir(parents=True)
    name = "unet_epochs_2-8f9d6798-none-seed0-fold0"
    (only / "runs" / name).symlink_to(earlier / "study" / "runs" / name)
    (only / "study.json").write_text(json.dumps({"seeds": 2, "folds": None}))
    images = [earlier / "data" / "imagesTr" / "c1_0000.nii.gz", earlier / "data" / "imagesTs"]
    found = call(*images, "--ensemble", only, "-o", tmp_path / "out")
    assert found.exit_code == 0, found.output
    missing, training = found.stderr.splitlines()
    assert missing == f"notice: {only}: left out, because not trained yet: unet_epochs_2-8f9d6798-none-seed1-fold0"
    assert training.startswith("notice: c1: training cases of the ensemble have these names")


def test_planes_are_joined_with_weights(planes: dict[str, Path], earlier: Path, tmp_path: Path) -> None:
    members = [word for folder in planes.values() for word in ("-m", folder)]
    images = earlier / "data" / "imagesTs"
    found = call(images, *members, "--weights", "0.4,0.4,0.2", "-o", tmp_path)
    assert found.exit_code == 0, found.output
    one = "1 segmenter, 1 pass each"
    assert f"joined (coronal: {one}; axial: {one}; sagittal: {one})" in found.stdout
    expected = joined([Segmenter.load(folder) for folder in planes.values()], weights=(0.4, 0.4, 0.2))
    image = read_image([images / "t1_0000.nii.gz"])
    np.testing.assert_array_equal(labels(tmp_path / "t1.nii.gz"), expected.predict_image(image))


def test_uncertainty_is_written_beside_the_label_maps(planes: dict[str, Path], earlier: Path, tmp_path: Path) -> None:
    images, coronal = earlier / "data" / "imagesTs", planes["coronal"]
    found = call(images, "-m", coronal, "-m", planes["axial"], "--mirror", "--uncertainty", "-o", tmp_path)
    assert found.exit_code == 0, found.output
    assert "uncertainty of 8 passes" in found.stdout
    assert found.stdout.splitlines()[-1] == f"uncertainty of structures: {tmp_path / 'uncertainty.csv'}"
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {*(f"t{n}{end}.nii.gz" for n in (0, 1) for end in ("", ".uncertainty")), "uncertainty.csv"}
    one = uncertain([Segmenter.load(folder) for folder in (coronal, planes["axial"])], mirror=True)
    table = pd.read_csv(tmp_path / "uncertainty.csv")
    expected = one.estimate(read_image([images / "t0_0000.nii.gz"])).structures
    pd.testing.assert_frame_equal(table[table["image"] == "t0"].drop(columns="image"), expected)
    single = call(images, "-m", coronal, "--uncertainty", "-o", tmp_path / "single")
    assert isinstance(single.exception, UserError)
    assert "give several segmenters (-m A -m B, or --ensemble STUDY)" in str(single.exception)


def test_volumes_are_written_for_all_images_of_all_calls(
    planes: dict[str, Path], earlier: Path, tmp_path: Path
) -> None:
    images, path = earlier / "data" / "imagesTs", tmp_path / "volumes.csv"
    for image in ("t0_0000.nii.gz", "t1_0000.nii.gz"):
        found = call(images / image, "-m", planes["axial"], "--volumes", path, "-o", tmp_path / "out")
        assert found.exit_code == 0, found.output
        *_, told, flags = found.stdout.splitlines()
        assert told == f"volumes of structures: {path}"
        assert (
            flags
            == "volumes are not compared with those of the training cases: the segmenter does not know their ranges"
        )
    table = pd.read_csv(path)
    assert list(zip(table["image"], table["structure"], strict=True)) == [
        (t, s) for t in ("t0", "t1") for s in STRUCTURES
    ]
    sizes = [int((labels(tmp_path / "out" / f"{t}.nii.gz") == value).sum()) for t in ("t0", "t1") for value in (1, 2)]
    assert table["voxels"].tolist() == sizes
    both = call(images, "-m", planes["axial"], "--mirror", "--uncertainty", "--volumes", path, "-o", tmp_path / "out")
    assert "has the columns" in str(both.exception)


def test_structures_unlike_the_training_cases_are_printed(
    planes: dict[str, Path], earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known(cases=9, volumes={"left": (0.0, 1e6), "right": (1e6, 2e6)})
    model = replace(Segmenter.load(planes["axial"]), known=known).save(tmp_path / "model")
    arguments = (earlier / "data" / "imagesTs", "-m", model, "--volumes", tmp_path / "v.csv", "-o", tmp_path / "out")
    found = call(*arguments)
    assert found.stdout.splitlines()[-1] == f"volumes of structures: {tmp_path / 'v.csv'}"
    first, second = found.stderr.splitlines()[-2:]
    for line, image in ((first, "t0"), (second, "t1")):
        assert line.startswith(f"notice: {image}: right: ")
    monkeypatch.setattr(models, "MOST_FLAGS", 1)
    assert call(*arguments).stderr.splitlines()[-2:] == [
        first,
        f"notice: 1 more flag in {tmp_path / 'v.csv'}",
    ]


def test_a_report_shows_the_label_maps_of_the_call(planes: dict[str, Path], earlier: Path, tmp_path: Path) -> None:
    images, page = earlier / "data" / "imagesTs", tmp_path / "out" / "report" / "index.html"
    flat = tmp_path / "flat.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), np.float32), np.eye(4)), flat)
    found = call(images, flat, "-m", planes["axial"], "--report", "-o", tmp_path / "out")
    assert found.exit_code == 1
    assert found.stdout.splitlines()[-1] == f"report: {page}"
    html = page.read_text("utf-8")
    assert "Label maps of 2 images" in html
    assert f"<li>{flat}: all voxels have the same value" in html
    assert f"<dd>{planes['axial']}: U-Net, plain, axial</dd>" in html
    assert not list(tmp_path.rglob("*.csv"))


def test_a_report_is_made_of_joined_segmenters_with_uncertainty_and_volumes(
    planes: dict[str, Path], earlier: Path, tmp_path: Path
) -> None:
    images, members = earlier / "data" / "imagesTs", ("-m", planes["axial"], "-m", planes["coronal"])
    options = ("--uncertainty", "--volumes", tmp_path / "volumes.csv", "--report", "-o", tmp_path / "out")
    found = call(images / "t0_0000.nii.gz", *members, *options)
    assert found.exit_code == 0, found.output
    html = (tmp_path / "out" / "report" / "index.html").read_text("utf-8")
    table = pd.read_csv(tmp_path / "volumes.csv")
    assert table["flag"].str.startswith("passes disagree").all()
    cells = [f'<td class="number flagged">⚑ {volume:.3g}</td>' for volume in table["volume_ml"]]
    assert "".join(cells) in html
    assert "<dt>combination</dt>" in html


def test_a_page_that_scse_did_not_write_is_kept(planes: dict[str, Path], earlier: Path, tmp_path: Path) -> None:
    page = tmp_path / "report" / "index.html"
    page.parent.mkdir()
    page.write_text("mine")
    arguments = (earlier / "data" / "imagesTs" / "t0_0000.nii.gz", "-m", planes["axial"], "--report", "-o", tmp_path)
    refused = call(*arguments)
    assert isinstance(refused.exception, UserError)
    assert str(page) in str(refused.exception)
    assert page.read_text() == "mine"
    assert not (tmp_path / "t0.nii.gz").exists()
    assert call(*arguments, "--overwrite").exit_code == 0
    assert call(*arguments).exit_code == 0  # its own page is replaced


def test_options_that_have_no_meaning_are_refused(planes: dict[str, Path], earlier: Path, tmp_path: Path) -> None:
    images, model = earlier / "data" / "imagesTs", ("-m", planes["coronal"])
    assert "give the folders of segmenters with -m" in call(images, "-o", tmp_path).stderr
    assert "--variant chooses among" in call(images, *model, "--variant", "none", "-o", tmp_path).stderr
    for weights in ("x", ""):
        refused = call(images, *model, "--weights", weights, "-o", tmp_path)
        assert (refused.exit_code, "--weights must be numbers with commas" in refused.stderr) == (2, True)
    for weights in ("1,1", "0", "inf"):
        refused = call(images, *model, "--weights", weights, "-o", tmp_path)
        assert isinstance(refused.exception, UserError)
        assert "weights must be a positive number, one for each -m and then each --ensemble" in str(refused.exception)
    refused = call(images, "--ensemble", earlier / "data", "-o", tmp_path)
    assert isinstance(refused.exception, DataError)
    assert "contains no study" in str(refused.exception)
