"""A study of regions of labels: scores by region, the report and its viewer, and predictions of its ensemble."""

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import scse
from datasets import ORDER, REGIONS, write_regions
from quick_studies import study_once
from scse.cli.app import app
from scse.data.files import read_label
from scse.evaluation.scores import score
from scse.studies.runner import StudyResult
from scse.support.errors import UserError

SETTINGS = {"width": 4, "depth": 2, "precision": "32", "learning_rate": 0.02}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_regions(tmp_path_factory.mktemp("data") / "set", cases=3, tests=2)


@pytest.fixture(scope="module")
def result(data: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return study_once(
        data, tmp_path_factory.mktemp("studies"), variants=["none", "cse"], seeds=1, epochs=[6], settings=SETTINGS
    )


def test_scores_are_those_of_the_regions(data: Path, result: StudyResult) -> None:
    assert list(result.scores["structure"].unique()) == list(REGIONS)
    run = result.folder / "runs" / "unet-cse-seed0-fold0"
    for case in ("t0", "t1"):
        reference = read_label(data / "labelsTs" / f"{case}.nii.gz")
        predicted = read_label(run / "predictions" / f"{case}.nii.gz").array
        assert set(np.unique(predicted)) <= {0, *ORDER}
        rows = result.scores[(result.scores["variant"] == "cse") & (result.scores["case"] == case)]
        for name, members in REGIONS.items():
            masks = [np.isin(labels, members).astype(int) for labels in (predicted, reference.array)]
            wanted = score(*masks, spacing=reference.spacing, structures={name: 1})
            found = rows[rows["structure"] == name][["structure", "metric", "value"]].reset_index(drop=True)
            pd.testing.assert_frame_equal(found, wanted)
    dice = result.scores[result.scores["metric"] == "dice"].groupby("structure")["value"].mean()
    assert dice["whole"] > 0.8


def test_the_report_has_the_regions_as_structures_and_shows_their_labels(data: Path, result: StudyResult) -> None:
    page = result.report.read_text()
    assert "structures are regions of labels, which may overlap: whole (1, 2, 3); core (2, 3); middle (2)" in page
    for name in REGIONS:
        assert f">{name}<" in page
    packed = json.loads((result.folder / "viewer.json").read_text())
    assert packed["regions"] is True
    assert [each["name"] for each in packed["structures"]] == ["label 1", "label 2", "label 3"]
    case = packed["cases"][0]
    shown = zlib.decompress(base64.b64decode(case["reference"]), wbits=-15)
    assert set(shown) == {0, 1, 2, 3}
    assert all(len(dice) == len(REGIONS) for dice in case["dice"].values())


def test_an_ensemble_of_regions_predicts_and_has_no_uncertainty(
    data: Path, result: StudyResult, tmp_path: Path
) -> None:
    image = str(data / "imagesTs/t0_0000.nii.gz")
    call = ["predict", "--ensemble", str(result.folder), "--variant", "cse", "--mirror", image, "-o"]
    ended = CliRunner().invoke(app, [*call, str(tmp_path / "out")])
    assert ended.exit_code == 0, ended.output
    assert set(np.unique(read_label(tmp_path / "out" / "t0.nii.gz").array)) <= {0, *ORDER}
    refused = CliRunner().invoke(app, [*call, str(tmp_path / "none"), "--uncertainty"])
    assert "uncertainty is measured for exclusive structures" in str(refused.exception)
    assert not (tmp_path / "none").exists()


def test_class_weights_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="class_weights='median-frequency': structures of this data set are regions"):
        scse.study(data, out=tmp_path / "study", settings={"class_weights": "median-frequency"})
