"""Model cards say how a run was trained, its scores on test cases and the verdict of its study, and name no case."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from earlier_folders import unpack_earlier
from hub_server import serving
from scse.cli.app import app
from scse.studies.cards import model_card
from scse.support.errors import DataError


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, its segmenter, and a study of two epochs and two variants with the test cases t0 and t1."""
    return unpack_earlier(tmp_path_factory.mktemp("earlier"))


def scored(earlier: Path) -> Path:
    return next((earlier / "study" / "runs").glob("*epochs_2*-scse*"))


def test_a_run_of_a_study_has_its_scores_and_the_verdict(earlier: Path) -> None:
    card, run = model_card(scored(earlier), "anna/lobes", license="mit"), scored(earlier)
    scores = pd.read_csv(run / "scores.csv")
    dice = scores[scores["metric"] == "dice"]
    for structure, values in dice.groupby("structure")["value"]:
        assert f"| {structure} | {values.mean():.3f} |" in card
    assert "## Verdict of the study" in card
    assert "scSE" in card
    settings = json.loads((run / "run.json").read_text())["settings"]
    for name in ("epochs", "batch_size", "learning_rate"):
        assert f"| {name} | {settings[name]} |" in card
    assert "| cases | 3 |" in card


def test_a_card_names_no_case(earlier: Path) -> None:
    card = model_card(scored(earlier), "anna/lobes")
    assert not [case for case in ("c0", "c1", "c2", "t0", "t1") if case in card]
    assert str(earlier) not in card


def test_a_run_without_test_cases_says_what_its_validation_was_on(earlier: Path, tmp_path: Path) -> None:
    run = shutil.copytree(scored(earlier), tmp_path / "run", ignore=shutil.ignore_patterns("scores.*"))
    card = model_card(run, "anna/lobes")
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert f"Mean Dice {last['dice']:.3f} on 2 held-out cases" in card
    assert "Verdict" not in card


def test_a_segmenter_alone_has_no_scores(earlier: Path) -> None:
    card = model_card(scored(earlier) / "segmenter", "anna/lobes")
    assert "## Structures" in card
    assert "## Scores" not in card


def test_a_folder_without_a_segmenter_has_no_card(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"contains no segmenter, segmenter\.json is missing"):
        model_card(tmp_path, "anna/lobes")


def test_publish_uploads_and_predict_takes_what_was_published(earlier: Path, tmp_path: Path) -> None:
    image = earlier / "data" / "imagesTs" / "t0_0000.nii.gz"
    with serving(tmp_path / "hub") as address:
        done = CliRunner().invoke(app, ["publish", str(scored(earlier)), "anna/lobes", "--public"])
        assert done.exit_code == 0, done.output
        assert done.stdout == (
            f"published: {address}/anna/lobes\nuse it with: scse predict -m hf:anna/lobes IMAGES -o labels\n"
        )
        for model, out in (("hf:anna/lobes", "there"), (str(scored(earlier)), "here")):
            done = CliRunner().invoke(app, ["predict", "-m", model, str(image), "-o", str(tmp_path / out), "--report"])
            assert done.exit_code == 0, done.output
    here, there = (next((tmp_path / out).glob("*.nii.gz")) for out in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()


def test_the_card_alone_can_be_written(earlier: Path, tmp_path: Path) -> None:
    command = ["publish", str(scored(earlier)), "anna/lobes", "--card", str(tmp_path / "card.md")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "card.md").read_text() == model_card(scored(earlier), "anna/lobes")
