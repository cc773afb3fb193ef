"""A study of networks that are not scse's own: from their names to the report, and what it refuses at once."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import scse
from datasets import write_nnunet
from scse.attachment.placements import placements
from scse.inference.segmenter import Segmenter
from scse.studies import costs, runner
from scse.studies.runner import StudyResult
from scse.support.events import Event, Planned, StepDone
from scse.vocabulary.titles import slug

SHAPE = (12, 10, 8)
SETTINGS = {"epochs": 1, "batch_size": 8, "precision": "32", "slices_per_epoch": 16}
BASIC = "monai:BasicUNet[features=(4,4,4,4,4,4)]"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nnunet(tmp_path_factory.mktemp("data") / "set", cases=3, tests=2, shape=SHAPE)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "STEP_ROUNDS", 1)
    monkeypatch.setattr(costs, "PREDICT_ROUNDS", 1)


def run(data: Path, out: Path, networks: list[str], told: list[Event] | None = None, **options: Any) -> StudyResult:
    chosen = {**SETTINGS, **options.pop("settings", {})}
    see = (told if told is not None else []).append
    cache = out.parent / "cache"
    return scse.study(
        data,
        networks=networks,
        variants=["none", "scse"],
        seeds=1,
        settings=chosen,
        out=out,
        cache=cache,
        on_event=see,
        **options,
    )


def test_a_study_of_ours_a_librarys_and_a_users_own_network(data, mine, tmp_path):
    networks, told = ["unet", BASIC, f"{mine}:make"], []
    sizes = {"width": 4, "depth": 2}
    with pytest.raises(ValueError, match=r"mine.py:make: no blocks with attach_to='auto'"):
        run(data, tmp_path / "out", networks, settings=sizes)
    assert not (tmp_path / "out" / "runs").exists(), "nothing is trained before all networks are known to be right"
    result = run(data, tmp_path / "out", [*networks[:2]], told, settings=sizes)
    own = run(data, tmp_path / "own", networks[2:], told, attach_to="first")

    assert list(result.scores["network"].unique()) == networks[:2]
    assert list(own.scores["network"].unique()) == networks[2:]
    folders = {path.name for path in (tmp_path / "out" / "runs").iterdir()}
    assert folders == {f"{slug(name)}-{v}-seed0-fold0" for name in networks[:2] for v in ("none", "scse")}

    rows = dict(next(event.rows for event in told if isinstance(event, Planned)))
    assert rows["width (U-Net)"] == "4"
    assert rows[f"blocks of {BASIC}"].startswith("conv_")
    others = [dict(event.rows) for event in told if isinstance(event, Planned)][1]
    assert others["blocks of mine.py:make"] == "first"
    assert not any("width" in name for name in others)

    costs_of = pd.concat([result.costs, own.costs]).set_index(["network", "variant"])["parameters"]
    for network in networks:
        folder = (own if network == networks[2] else result).folder / "runs" / f"{slug(network)}-scse-seed0-fold0"
        trained = Segmenter.load(folder, network=network).network
        blocks = sum(parameter.numel() for parameter in placements(trained).parameters())
        assert costs_of[network, "scse"] - costs_of[network, "none"] == blocks > 0

    for study in (result, own):
        page = study.report.read_text()
        assert str(mine.parent) not in page.split('id="provenance"')[0], "people see names without folders"
    assert (result.report.parent / f"boxplot_{slug(BASIC)}.png").exists()
    assert str(own).startswith("mine.py:make: ")


def test_a_second_call_trains_nothing_and_changed_code_is_refused(data, mine, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "write_report", lambda folder, **_: folder / "index.html")
    networks, told = [f"{mine}:make"], []
    first = run(data, tmp_path / "out", networks, attach_to="first")
    second = run(data, tmp_path / "out", networks, told, attach_to="first")
    assert not any(isinstance(event, StepDone) for event in told)
    pd.testing.assert_frame_equal(first.scores, second.scores)
    with pytest.raises(ValueError, match="settings attach_to='first'; you requested attach_to='last'"):
        run(data, tmp_path / "out", networks, attach_to="last")
    mine.write_text(mine.read_text().replace("relu", "tanh"))
    with pytest.raises(ValueError, match=r"code mine.py="):
        run(data, tmp_path / "out", networks, attach_to="first")


def test_a_run_keeps_the_name_of_its_network_and_the_places_of_its_blocks(data, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "write_report", lambda folder, **_: folder / "index.html")
    run(data, tmp_path / "out", [BASIC], attach_to="upcat_?")
    folder = tmp_path / "out" / "runs" / f"{slug(BASIC)}-scse-seed0-fold0"
    saved = json.loads((folder / "segmenter" / "segmenter.json").read_text())
    assert saved["network"] == BASIC
    assert saved["attached"] == ["upcat_4", "upcat_3", "upcat_2", "upcat_1"]
    assert saved["arguments"] == {"in_channels": 1, "classes": 3}


@pytest.mark.parametrize(
    ("networks", "options", "message"),
    [
        (["unet"], {"attach_to": "encoder.*"}, "attach_to has no effect on unet: they place their blocks themselves"),
        ([BASIC], {"settings": {"width": 4}}, "width have no effect on monai:BasicUNet"),
        (
            ["unet", BASIC],
            {"settings": {"attach_to": "x"}},
            "settings must not contain attach_to: networks, variants, attach",
        ),
        (["nowhere/mine.py:make"], {}, "there is no file nowhere/mine.py"),
        ([BASIC, BASIC], {}, "networks must be named once each"),
        (["smp:Unet[wide=3]"], {}, "an option of smp:Unet must be one of"),
    ],
)
def test_what_is_wrong_is_told_before_any_file_is_read(tmp_path, networks, options, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "nowhere", tmp_path / "out", networks, **options)
    assert not (tmp_path / "out").exists()
