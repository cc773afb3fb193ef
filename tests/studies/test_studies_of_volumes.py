"""Networks of volumes: a study, its report, gates, engines and averaged predictions, from a folder of scans."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

import scse
from datasets import write_nnunet
from quick_studies import study_once
from scse.cli.app import app
from scse.data.files import read_image
from scse.gates.explaining import slice_gates
from scse.inference.segmenter import Segmenter
from scse.studies.runner import StudyResult

SETTINGS = {"width": 4, "depth": 2, "slices_per_epoch": 20, "precision": "32", "learning_rate": 0.02}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nnunet(tmp_path_factory.mktemp("data") / "set", cases=3, tests=2)


@pytest.fixture(scope="module")
def result(data: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return study_once(
        data,
        tmp_path_factory.mktemp("studies"),
        variants=["none", "scse"],
        dims=3,
        spacing=2.5,
        seeds=2,
        epochs=[3],
        settings=SETTINGS,
    )


@pytest.fixture(scope="module")
def run(result: StudyResult) -> Path:
    return result.folder / "runs" / "unet-scse-seed0-fold0"


def test_a_study_of_volumes_has_scores_costs_and_a_report(result: StudyResult) -> None:
    dice = result.scores[result.scores["metric"] == "dice"]
    assert len(dice) == 2 * 2 * 2 * 2  # variants, seeds, cases, structures
    assert dice["value"].notna().all()
    assert set(result.costs["variant"]) == {"none", "scse"}
    page = result.report.read_text()
    assert "2.5 mm x 2.5 mm x 2.5 mm" in page
    assert "coronal" in page
    study = json.loads((result.folder / "study.json").read_text())
    assert study["dims"] == 3
    assert "dims=3" in page


def test_gates_of_a_volume_lie_on_its_slices(data: Path, run: Path, tmp_path: Path) -> None:
    path = data / "imagesTs/t0_0000.nii.gz"
    found = scse.explain(run, path, tmp_path / "gates")
    assert (tmp_path / "gates" / "spatial_gates.png").is_file()
    last = found.blocks["block"].iloc[-1]
    written = nib.load(tmp_path / "gates" / f"spatial_{last}.nii.gz")
    image = read_image([path])
    assert written.shape == image.shape
    blocks = slice_gates(Segmenter.load(run), image, [3, 20])
    assert blocks[-1].spatial is not None
    stored = np.asarray(written.dataobj)
    np.testing.assert_allclose(blocks[-1].spatial, np.moveaxis(stored[:, [3, 20]], 1, 0), atol=1e-3)
    assert blocks[-1].channel is not None
    assert blocks[-1].channel.shape == (2, 4)


def test_another_engine_gives_the_same_labels_of_a_volume(data: Path, run: Path) -> None:
    segmenter, image = Segmenter.load(run), read_image([data / "imagesTs/t0_0000.nii.gz"])
    expected = segmenter.predict_image(image)
    labels = segmenter.with_engine("onnxruntime").predict_image(image)
    assert (labels == expected).mean() > 0.999
    assert set(np.unique(expected)) == {0, 1, 2}


def test_the_command_line_averages_runs_and_mirrored_images(data: Path, result: StudyResult, tmp_path: Path) -> None:
    runs = [str(result.folder / "runs" / f"unet-scse-seed{seed}-fold0") for seed in (0, 1)]
    image = data / "imagesTs/t0_0000.nii.gz"
    call = ["predict", "-m", runs[0], "-m", runs[1], "--mirror", str(image), "-o", str(tmp_path / "out")]
    ended = CliRunner().invoke(app, call)
    assert ended.exit_code == 0, ended.output
    assert "averaged (2 segmenters, 8 passes each)" in ended.output
    written = nib.load(tmp_path / "out" / "t0.nii.gz")
    assert written.shape == read_image([image]).shape
    assert set(np.unique(np.asarray(written.dataobj))) == {0, 1, 2}
