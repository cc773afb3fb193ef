"""Ensembles of a study: which runs belong to one, which are missing, and messages where the choice is open."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from datasets import write_nnunet
from earlier_folders import unpack_earlier
from scse.inference.segmenter import Segmenter
from scse.studies import runner
from scse.studies.ensembles import find_ensemble
from scse.studies.runner import study
from scse.support.errors import DataError, UserError
from scse.support.events import StepDone, StoppedError

SETTINGS = {"width": 2, "depth": 1, "batch_size": 8, "precision": "32", "slices_per_epoch": 16}


@pytest.fixture(scope="module", autouse=True)
def only_trained() -> Iterator[None]:
    """Studies end once their runs are trained and scored, without costs and a report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_finish", lambda *given: None)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-validation: 2 variants, 2 seeds, 2 folds."""
    folder = tmp_path_factory.mktemp("study")
    data = write_nnunet(folder / "data", cases=4, shape=(12, 10, 8))
    options = {"variants": ["none", "scse"], "seeds": 2, "folds": 2, "epochs": [1], "settings": SETTINGS}
    study(data, out=folder / "study", cache=folder / "cache", **options)
    return folder / "study"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "study"))


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A study of scse 0.1.0 that varied the epochs, without study.json."""
    return unpack_earlier(tmp_path) / "study"


def names(variant: str = "scse") -> list[str]:
    return [f"unet-{variant}-seed{seed}-fold{fold}" for seed in (0, 1) for fold in (0, 1)]


def test_all_folds_and_seeds_of_a_variant_are_found(finished: Path) -> None:
    found = find_ensemble(finished, variant="scse")
    assert [run.name for run in found.runs] == names()
    assert found.unfinished == []
    assert found.training == {"c0", "c1", "c2", "c3"}  # each fold has seen half of them
    assert str(found) == "unet, scse: 4 of 4 runs"
    loaded = found.segmenters()
    for segmenter, name in zip(loaded, names(), strict=True):
        expected = Segmenter.load(finished / "runs" / name)
        assert segmenter.variant == "scse"
        for key, weights in expected.network.state_dict().items():
            assert torch.equal(segmenter.network.state_dict()[key], weights)


def test_an_open_choice_lists_what_there_is(finished: Path) -> None:
    with pytest.raises(DataError, match="several networks and variants") as several:
        find_ensemble(finished)
    assert str(several.value) == (
        f"{finished}: has several networks and variants; there are: --network unet --variant none, --network unet "
        "--variant scse; choose one with --network and --variant (network= and variant= in Python)"
    )
    with pytest.raises(DataError, match="no such networks and variants; there are: --network unet --variant none, "):
        find_ensemble(finished, network="sdnet")
    with pytest.raises(UserError, match="variant must be one of"):
        find_ensemble(finished, variant="se")


def test_the_only_variant_needs_no_choice(copied: Path) -> None:
    for name in names("none"):
        shutil.rmtree(copied / "runs" / name)
    assert [run.name for run in find_ensemble(copied).runs] == names()


def test_runs_that_are_not_trained_are_left_out_and_named(copied: Path) -> None:
    shutil.rmtree(copied / "runs" / names()[1] / "segmenter")  # begun
    shutil.rmtree(copied / "runs" / names()[2])  # not begun
    found = find_ensemble(copied, variant="scse")
    assert [run.name for run in found.runs] == [names()[0], names()[3]]
    assert found.unfinished == [names()[1], names()[2]]
    assert str(found) == "unet, scse: 2 of 4 runs"
    request = json.loads((copied / "study.json").read_text())
    (copied / "study.json").write_text(json.dumps({**request, "seeds": 3}))
    assert find_ensemble(copied, variant="scse").unfinished[2:] == [f"unet-scse-seed2-fold{fold}" for fold in (0, 1)]


def test_cases_that_no_trained_run_has_seen_are_no_training_cases(copied: Path) -> None:
    for name in names():
        if name.endswith("fold0"):
            shutil.rmtree(copied / "runs" / name / "segmenter")
    record = json.loads((copied / "runs" / names()[1] / "run.json").read_text())
    found = find_ensemble(copied, variant="scse").training
    assert found == set(record["training"])
    assert len(found) == 2


def test_a_study_without_a_trained_run_says_so(tmp_path: Path) -> None:
    data = write_nnunet(tmp_path / "data", cases=2, tests=1, shape=(12, 10, 8))
    steps: list[StepDone] = []
    with pytest.raises(StoppedError):
        study(
            data,
            out=tmp_path / "study",
            cache=tmp_path / "cache",
            variants=["none"],
            seeds=2,
            settings=SETTINGS,
            on_event=lambda event: steps.append(event) if isinstance(event, StepDone) else None,
            stop=lambda: bool(steps),
        )
    with pytest.raises(DataError, match="study: none of its 2 runs of unet, none is trained yet; call scse study"):
        find_ensemble(tmp_path / "study")
    with pytest.raises(DataError, match="data: contains no study, runs is missing; give the folder that"):
        find_ensemble(data)
    (tmp_path / "empty" / "runs").mkdir(parents=True)
    with pytest.raises(DataError, match="it has no runs yet"):
        find_ensemble(tmp_path / "empty")


def test_what_a_study_varies_is_part_of_the_choice(earlier: Path) -> None:
    with pytest.raises(DataError, match=r"several .*: --network unet\[epochs=1\] --variant none, "):
        find_ensemble(earlier, network="unet", variant="none")
    found = find_ensemble(earlier, network="unet[epochs=2]", variant="scse[reduction=4]")
    assert [(run.network.text, run.epochs, run.seed, run.fold) for run in found.runs] == [("unet", 2, 0, 0)]
    assert found.unfinished == []
    (segmenter,) = found.segmenters(network="unet[epochs=2]")
    assert segmenter.settings["epochs"] == 2


def test_a_renamed_run_is_refused_by_name(copied: Path) -> None:
    (copied / "runs" / names()[0]).rename(copied / "runs" / "best")
    with pytest.raises(DataError, match=r"runs/best: the name of the folder is not that of its run, of unet, scse"):
        find_ensemble(copied, variant="scse")


def test_a_network_of_ones_own_is_loaded_if_it_is_named(tmp_path: Path, mine: Path) -> None:
    data = write_nnunet(tmp_path / "data", cases=2, tests=1, shape=(12, 10, 8))
    network, settings = f"{mine}:make[width=2]", {"batch_size": 8, "precision": "32", "slices_per_epoch": 16}
    options = {"variants": ["none"], "seeds": 1, "epochs": [1, 2], "settings": settings}
    study(data, out=tmp_path / "study", cache=tmp_path / "cache", networks=[network], **options)
    found = find_ensemble(tmp_path / "study", network=f"{network}[epochs=2]")
    with pytest.raises(UserError, match="its network is a factory in a file"):
        found.segmenters()
    (segmenter,) = found.segmenters(network=f"{network}[epochs=2]")
    assert segmenter.name == network
