"""A whole study of tiny networks on tiny volumes: its table, its files, going on, and what it refuses."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from io import StringIO
from itertools import pairwise, product
from pathlib import Path
from typing import Any, get_args

import nibabel as nib
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from rich.console import Console

import scse
from datasets import AFFINE, save_nifti, write_nnunet, write_pictures
from other_process import Other
from scse.cli.console import Watcher
from scse.data.inspection import inspect
from scse.evaluation.pairing import SCORE_COLUMNS
from scse.evaluation.quality import time_to_quality
from scse.evaluation.reading import read_scores
from scse.evaluation.scores import score_files
from scse.evaluation.setups import setup_of, setups
from scse.inference.devices import choose_device, describe_device
from scse.inference.segmenter import Segmenter
from scse.networks import NETWORKS
from scse.simulation.writing import COHORT_NAME
from scse.studies import costs, estimate, results, runner
from scse.studies.execution import SCORES
from scse.studies.facts import FEW_SEEDS_NOTE, SIMULATED_NOTE
from scse.studies.plan import choose_cases
from scse.studies.runner import StudyResult
from scse.support.errors import DataError
from scse.support.events import (
    CleaningChosen,
    Event,
    Planned,
    Progress,
    Reported,
    RunStarted,
    Scored,
    Stage,
    StepDone,
    StoppedError,
    Trained,
    Within,
)
from scse.training.log import LOG, read_log
from scse.training.run import CHECKPOINT
from scse.vocabulary.titles import Setup

SHAPE = (12, 10, 8)
SETTINGS = {"width": 4, "depth": 2, "epochs": 2, "batch_size": 8, "precision": "32"}
RUNS = [f"{network}-{variant}-seed0-fold0" for network in ("unet", "sdnet") for variant in ("none", "scse")]


WITHOUT_EPOCHS = {name: value for name, value in SETTINGS.items() if name != "epochs"}


@dataclass
class Finished:
    """The one study that is trained in full: data, folder, result, and every event."""

    data: Path
    cache: Path
    out: Path
    result: StudyResult
    events: list[Event] = field(default_factory=list)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("study")
    data, cache, out = write_nnunet(folder / "data", cases=3, tests=2, shape=SHAPE), folder / "cache", folder / "out"
    events: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "STEP_ROUNDS", 3)
        patch.setattr(costs, "PREDICT_ROUNDS", 3)
        result = scse.study(
            data,
            networks=["unet", "sdnet"],
            variants=["none", "scse"],
            seeds=1,
            settings=SETTINGS,
            out=out,
            cache=cache,
            notes=["Boxes are no brains."],
            on_event=events.append,
        )
    return Finished(data, cache, out, result, events)


class Quick:
    """Studies without their slow end: costs are invented, and what the report is given is kept instead."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.events: list[Event] = []
        self.measured: list[list[str]] = []
        self.reported: dict[str, Any] = {}

    def __call__(self, data: Path | None, out: Path, **options: Any) -> StudyResult:
        self.events.clear()
        settings = {**SETTINGS, **options.pop("settings", {})}
        options = {"seeds": 1, **options}
        return scse.study(data, out=out, settings=settings, cache=self.cache, on_event=self.events.append, **options)

    def of(self, kind: type) -> list[Any]:
        """The events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def measure(self, task: object, settings: Any, segmenters: Any, image: object, *, before: Any) -> pd.DataFrame:
        before()
        self.measured.append(list(map(str, segmenters)))
        names = ("parameters", "kept_mib", "step_seconds", "step_ratio", "predict_seconds", "predict_ratio")
        return pd.DataFrame(
            {"network": str(settings.network), "variant": list(map(str, segmenters)), **dict.fromkeys(names, 1)}
        )

    def report(self, folder: Path, **given: Any) -> Path:
        self.reported = given
        return folder / "index.html"

    def trained(self) -> list[str]:
        """Names of the runs that took at least one step."""
        names, current = [], ""
        for event in self.events:
            current = event.run if isinstance(event, RunStarted) else current
            names += [current] if isinstance(event, StepDone) else []
        return list(dict.fromkeys(names))


@pytest.fixture
def quick(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> Quick:
    quick = Quick(finished.cache)
    monkeypatch.setattr(results, "measure_costs", quick.measure)
    monkeypatch.setattr(runner, "write_report", quick.report)
    return quick


def test_a_study_scores_every_case_and_structure_of_every_run(finished):
    scores = finished.result.scores
    assert list(scores.columns) == list(SCORE_COLUMNS)
    keys = {name: list(scores[name].unique()) for name in SCORE_COLUMNS[:-1]}
    assert keys == {
        "network": ["unet", "sdnet"],
        "variant": ["none", "scse"],
        "seed": [0],
        "fold": [0],
        "case": ["t0", "t1"],
        "structure": ["left", "right"],
        "metric": ["dice", "hd95", "msd"],
    }
    assert len(scores) == 2 * 2 * 2 * 2 * 3
    assert not scores.duplicated(list(SCORE_COLUMNS[:-1])).any()
    assert scores[scores["metric"] == "dice"]["value"].between(0, 1).all()
    assert len(finished.result.comparison.summary) == 4


def test_a_study_leaves_its_tables_runs_and_report(finished):
    out = finished.out
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    wanted = {"study.json", "scores.csv", SCORES, "costs.csv", "curves.csv", "viewer.json", "gates.parquet"}
    wanted |= {f"report/{name}" for name in ("index.html", "table.csv", "table.tex")}
    wanted |= {f"report/boxplot_{network}.{end}" for network in ("unet", "sdnet") for end in ("png", "pdf", "svg")}
    for run in RUNS:
        files = ("run.json", LOG, CHECKPOINT, "segmenter/segmenter.json", "segmenter/weights.safetensors")
        wanted |= {f"runs/{run}/{name}" for name in (*files, SCORES, "scores.csv")}
        wanted |= {f"runs/{run}/predictions/{case}.nii.gz" for case in ("t0", "t1")}
    assert wanted <= found
    left = [name for name in found - wanted if not name.startswith("locks/") and not name.endswith("/.lock")]
    assert all("events.out.tfevents" in name for name in left)
    assert sorted(path.name for path in (out / "runs").iterdir()) == sorted(RUNS)
    assert finished.result.report == out / "report" / "index.html"
    page = finished.result.report.read_text()
    assert "Boxes are no brains." in page
    assert SIMULATED_NOTE not in page
    pd.testing.assert_frame_equal(pd.read_parquet(out / SCORES), finished.result.scores)
    assert str(finished.result).splitlines()[0].startswith("U-Net")


@pytest.mark.parametrize("run", RUNS)
def test_scores_are_those_of_the_label_maps_that_were_written(finished, run):
    scores = finished.result.scores
    scores = scores[scores["network"] + "-" + scores["variant"] == run.removesuffix("-seed0-fold0")]
    for case in ("t0", "t1"):
        written = finished.out / "runs" / run / "predictions" / f"{case}.nii.gz"
        reference = finished.data / "labelsTs" / f"{case}.nii.gz"
        ours, theirs = nib.load(written), nib.load(reference)
        assert ours.shape == theirs.shape
        np.testing.assert_array_equal(ours.affine, theirs.affine)
        again = score_files(written, reference, structures={"left": 1, "right": 2})
        found = scores[scores["case"] == case][["structure", "metric", "value"]].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, again)


def test_costs_count_the_parameters_of_the_networks_that_were_trained(finished):
    table = finished.result.costs
    assert list(zip(table["network"], table["variant"], strict=True)) == [
        *(("unet", "none"), ("unet", "scse"), ("sdnet", "none"), ("sdnet", "scse"))
    ]
    for row in table.itertuples():
        network = NETWORKS[row.network](
            in_channels=1, classes=3, width=4, depth=2, kernel_size=3, recalibration=row.variant
        )
        assert row.parameters == sum(p.numel() for p in network.parameters())
    plain = table[table["variant"] == "none"]
    assert (plain[["step_ratio", "predict_ratio"]] == 1).all(axis=None)
    assert (table[["step_seconds", "step_ratio", "predict_seconds", "predict_ratio"]] > 0).all(axis=None)
    read = pd.read_csv(finished.out / "costs.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(read, table)


def test_curves_hold_every_epoch_of_every_run(finished):
    curves = pd.read_csv(finished.out / "curves.csv", keep_default_na=False)
    assert list(curves["network"] + "-" + curves["variant"]) == [
        name.removesuffix("-seed0-fold0") for name in RUNS for _ in range(SETTINGS["epochs"])
    ]
    for run, rows in curves.groupby(["network", "variant"]):
        log = pd.read_json(finished.out / "runs" / f"{'-'.join(run)}-seed0-fold0" / LOG, lines=True)
        names = ["epoch", "seconds", "loss", "dice"]
        pd.testing.assert_frame_equal(rows[names].reset_index(drop=True), log[names], check_dtype=False)
    assert time_to_quality(curves)["target"].notna().all()


@pytest.mark.parametrize("terminal", [False, True])
def test_the_console_shows_every_event_of_a_study(finished, terminal):
    shown = Console(file=StringIO(), force_terminal=terminal, width=200, soft_wrap=True, highlight=False)
    with Watcher(shown) as watch:
        for event in finished.events:
            watch(event)
        assert watch.tasks == {}
    assert {type(event) for event in finished.events} == set(get_args(Event)) - {CleaningChosen, Trained, Within}
    text = shown.file.getvalue()
    assert all(run in text for run in RUNS)
    assert text.count("Dice on held-out cases") == len(RUNS) * SETTINGS["epochs"]
    assert ("images/s" in text) == terminal


def test_no_run_of_a_study_chooses_a_clean_up_on_the_cases_that_it_scores(finished):
    for run in RUNS:
        folder = finished.out / "runs" / run
        assert json.loads((folder / "run.json").read_text())["for_cleaning"] == {}
        assert "cleaning" not in json.loads((folder / "segmenter" / "segmenter.json").read_text())
        assert not (folder / "cleaning.json").exists()


def test_a_second_call_trains_nothing_and_finds_the_same(finished, quick):
    before = {path: path.stat().st_mtime_ns for path in (finished.out / "runs").rglob("*")}
    result = quick(finished.data, finished.out, networks=["unet", "sdnet"], variants=["none", "scse"])
    assert quick.trained() == []
    assert quick.measured == []
    assert {path: path.stat().st_mtime_ns for path in (finished.out / "runs").rglob("*")} == before
    pd.testing.assert_frame_equal(result.scores, finished.result.scores)
    pd.testing.assert_frame_equal(result.costs, finished.result.costs)
    assert FEW_SEEDS_NOTE in quick.reported["facts"].caveats
    assert quick.reported["facts"].training_cases == 3
    assert quick.reported["facts"].test_cases == 2
    assert len(quick.reported["curves"]) == len(RUNS) * SETTINGS["epochs"]


def test_the_device_is_in_plan_costs_and_report(finished, quick):
    device = describe_device(choose_device())
    assert dict(next(event.rows for event in finished.events if isinstance(event, Planned)))["device"] == device
    assert set(finished.result.costs["device"]) == {device}
    quick(finished.data, finished.out, networks=["unet", "sdnet"], variants=["none", "scse"])
    facts = quick.reported["facts"]
    assert dict(facts.settings)["trained on"] == device
    assert not [caveat for caveat in facts.caveats if "several devices" in caveat]


def test_runs_on_several_devices_have_a_caveat(finished, quick, tmp_path):
    shutil.copytree(finished.out, tmp_path / "out")
    for run, devices in zip(RUNS, ([], ["GPU"], ["GPU"], ["GPU", "CPU"]), strict=True):
        path = tmp_path / "out" / "runs" / run / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "devices": devices}))
    quick(finished.data, tmp_path / "out", networks=["unet", "sdnet"], variants=["none", "scse"])
    assert quick.trained() == []
    facts, listed = quick.reported["facts"], "not recorded (1 run), GPU (2 runs), GPU, then CPU (1 run)"
    assert dict(facts.settings)["trained on"] == listed
    (caveat,) = (text for text in facts.caveats if text.startswith("The runs were trained on several devices"))
    assert caveat.startswith(f"The runs were trained on several devices: {listed}. Their training times cannot be")


DAMAGED_TABLES = {
    "text": lambda path: path.write_text("no table"),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "column": lambda path: pd.read_parquet(path).drop(columns="value").to_parquet(path),
    "type": lambda path: pd.read_parquet(path).assign(value="high").to_parquet(path),
    "list": lambda path: pd.read_parquet(path).assign(seed=[[0]] * len(pd.read_parquet(path))).to_parquet(path),
    "variant": lambda path: pd.read_parquet(path).assign(variant="cse").to_parquet(path),
    "seed": lambda path: pd.read_parquet(path).assign(seed=7).to_parquet(path),
}


@pytest.mark.parametrize("kind", DAMAGED_TABLES)
def test_damaged_scores_of_a_finished_run_are_named(finished, quick, tmp_path, kind):
    shutil.copytree(finished.out, tmp_path / "out")
    path = tmp_path / "out" / "runs" / RUNS[0] / SCORES
    DAMAGED_TABLES[kind](path)
    with pytest.raises(DataError, match=r"scores\.parquet.*delete it, and run the same command again") as raised:
        quick(finished.data, tmp_path / "out", networks=["unet"], variants=["none", "scse"])
    assert str(raised.value).startswith(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no JSON\n", "cannot be read as JSON"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        ('{"event": "epoch"}\n', "line 1.epoch: Field required"),
        (
            '{"event": "epoch", "epoch": true, "loss": 1, "dice": 1, "seconds": 1, "learning_rate": 1}\n',
            "line 1.epoch: ",
        ),
        ('{"event": "epoch", "epoch": 1, "loss": NaN, "dice": 1, "seconds": 1, "learning_rate": 1}\n', "line 1.loss: "),
        (
            '{"event": "epoch", "epoch": 1, "loss": 1, "dice": 1, "seconds": -1, "learning_rate": 1}\n',
            "line 1.seconds: ",
        ),
        ("\xff", "cannot be read"),
    ],
)
def test_a_damaged_log_of_a_finished_run_is_named(tmp_path, content, message):
    (tmp_path / LOG).write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=message) as raised:
        read_log(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path / LOG}: ")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_text("network,variant,kept_mib\nunet,none,1\nunet,scse,1\n"),
        lambda path: path.write_text(path.read_text().replace("scse,", "scse,x", 1)),
        lambda path: path.write_text(path.read_text().replace("scse,", "scse,-", 1)),
    ],
    ids=["empty", "binary", "columns", "text", "negative"],
)
def test_damaged_costs_are_measured_again(finished, tmp_path, damage):
    path = tmp_path / "costs.csv"
    shutil.copy(finished.out / "costs.csv", path)
    assert len(results.known_costs(path)) == len(finished.result.costs)
    damage(path)
    assert results.known_costs(path).empty


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "the whole: "),
        ('{"budget": "1h", "seconds": 3600}', "epochs: Field required"),
        ('{"budget": "1h", "seconds": 3600, "epochs": "3"}', "epochs: .*got '3'"),
        ('{"budget": "1h", "seconds": 3600, "epochs": 1.5}', "epochs: "),
        ('{"budget": "1h", "seconds": 3600, "epochs": 0}', "epochs: "),
        ('{"budget": "1h", "seconds": 3600, "epochs": 100000000000}', "epochs: "),
        ('{"budget": "1h", "seconds": null, "epochs": 3}', "seconds: "),
        ('{"budget": 1, "seconds": 3600, "epochs": 3}', "budget: "),
    ],
)
def test_a_damaged_budget_is_named(finished, tmp_path, content, message):
    (tmp_path / estimate.BUDGET).write_text(content)
    with pytest.raises(DataError, match=message) as raised:
        scse.study(
            finished.data,
            out=tmp_path,
            cache=finished.cache,
            settings=WITHOUT_EPOCHS,
            variants=["none", "cse"],
            seeds=1,
            budget="1h",
        )
    assert str(raised.value).startswith(f"{tmp_path / estimate.BUDGET}: ")


def test_a_run_of_another_process_comes_last_and_is_taken_over(finished, quick, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished.out, out)
    (out / "runs" / RUNS[1] / SCORES).unlink()
    other = Other(out / "locks" / f"{RUNS[1]}.lock")

    def stop() -> bool:
        if len(quick.of(Scored)) == len(RUNS) - 1:
            other.die()
        return False

    result = quick(finished.data, out, networks=["unet", "sdnet"], variants=["none", "scse"], stop=stop)
    runs = [event.run for event in quick.of(RunStarted)]
    assert runs == [RUNS[0], *RUNS[2:], RUNS[1]]
    assert Stage(f"{RUNS[1]} is left to another process") in quick.events
    pd.testing.assert_frame_equal(result.scores, finished.result.scores, check_exact=True)


def test_a_subset_can_be_reported_from_a_larger_study(finished, quick, tmp_path):
    shutil.copytree(finished.out, tmp_path / "out")
    result = quick(finished.data, tmp_path / "out", networks=["sdnet"], variants=["none", "scse"])
    assert quick.trained() == []
    expected = finished.result.scores.query("network == 'sdnet'").reset_index(drop=True)
    pd.testing.assert_frame_equal(result.scores, expected)


class StopAt:
    """Asks to stop once an event of a kind, or the progress of a task, was seen so many times."""

    def __init__(self, quick: Quick, kind: type | str, count: int) -> None:
        self.quick, self.kind, self.count = quick, kind, count

    def __call__(self) -> bool:
        seen = Counter(event.what if isinstance(event, Progress) else type(event) for event in self.quick.events)
        return seen[self.kind] >= self.count


def test_an_interrupted_study_goes_on_to_exactly_the_same_scores(finished, quick, tmp_path):
    steps = 3 * SHAPE[1] // SETTINGS["batch_size"]
    stops = [
        ("inspect", 2, "stopped after 2 of 5"),
        ("prepare", 1, "stopped after 1 of 5"),
        (StepDone, 1, "stopped in epoch 1 of 2"),
        (StepDone, steps + 1, "stopped in epoch 2 of 2"),
        ("score", 1, "stopped after 1 of 2"),
        (StepDone, steps, "stopped in epoch 1 of 2"),
    ]
    options = {"networks": ["unet"], "variants": ["none", "scse"]}
    for kind, count, message in stops:
        with pytest.raises(StoppedError, match=message):
            quick(finished.data, tmp_path, **options, stop=StopAt(quick, kind, count))
    result = quick(finished.data, tmp_path, **options)
    assert quick.trained() == [RUNS[1]]
    expected = finished.result.scores.query("network == 'unet'").reset_index(drop=True)
    pd.testing.assert_frame_equal(result.scores, expected, check_exact=True)
    for run in RUNS[:2]:
        logs = [pd.read_json(folder / "runs" / run / LOG, lines=True) for folder in (tmp_path, finished.out)]
        pd.testing.assert_frame_equal(*(log[["epoch", "loss", "dice", "learning_rate"]] for log in logs))


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"settings": {"width": 8}}, "settings width=4; you requested width=8"),
        ({"settings": {"epochs": 3}}, "settings epochs=2; you requested epochs=3"),
        ({"plane": "axial"}, "recipe view='coronal'; you requested view='axial'"),
        ({"spacing": 3.0}, "recipe spacing=None; you requested spacing="),
        ({"folds": 3}, "training c"),
    ],
)
def test_a_folder_of_another_study_is_refused_with_the_difference(finished, quick, options, difference):
    before = (finished.out / "runs" / RUNS[0] / "run.json").read_bytes()
    with pytest.raises(
        DataError, match=f"{RUNS[0]}: already contains a run with {difference}.*choose another folder with -o"
    ):
        quick(finished.data, finished.out, variants=["none", "scse"], **options)
    assert quick.trained() == []
    assert (finished.out / "runs" / RUNS[0] / "run.json").read_bytes() == before


def test_a_variant_that_is_added_later_is_trained_alone(finished, quick, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished.out, out)
    result = quick(finished.data, out, variants=["scse", "cse", "none"])
    assert quick.trained() == ["unet-cse-seed0-fold0"]
    assert quick.measured == [["none", "cse", "scse"]]
    kept = result.scores.query("variant != 'cse'").sort_values(list(SCORE_COLUMNS[:-1]), ignore_index=True)
    expected = finished.result.scores.query("network == 'unet'").sort_values(
        list(SCORE_COLUMNS[:-1]), ignore_index=True
    )
    pd.testing.assert_frame_equal(kept, expected)
    assert len(result.scores.query("variant == 'cse'")) == 2 * 2 * 3


def test_folds_test_every_case_once_for_every_seed(finished, quick, tmp_path):
    result = quick(finished.data, tmp_path, variants=["none"], folds=3, seeds=2, settings={"epochs": 1})
    assert FEW_SEEDS_NOTE not in quick.reported["facts"].caveats, "there is no variant to be decided on"
    assert len(quick.trained()) == 6
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        f"unet-none-seed{seed}-fold{fold}" for seed in (0, 1) for fold in (0, 1, 2)
    }
    dice = result.scores.query("metric == 'dice' and structure == 'left'")
    for seed in (0, 1):
        rows = dice[dice["seed"] == seed]
        assert sorted(rows["case"]) == ["c0", "c1", "c2"]
        assert sorted(rows["fold"]) == [0, 1, 2]
    first, second = (
        json.loads((tmp_path / "runs" / f"unet-none-seed0-fold{n}" / "run.json").read_text()) for n in "01"
    )
    assert len(first["training"]) == len(second["training"]) == 2
    assert set(first["held_out"]).isdisjoint(first["training"])
    assert quick.reported["facts"].test_cases == 3
    losses = [
        pd.read_json(tmp_path / "runs" / f"unet-none-seed{seed}-fold0" / LOG, lines=True)["loss"].item()
        for seed in (0, 1)
    ]
    assert losses[0] != losses[1]


def test_pictures_with_a_label_value_of_255_go_from_end_to_end(quick, tmp_path):
    data = write_pictures(tmp_path / "data", cases=4, shape=(16, 18), values=(128, 255))
    result = quick(data, tmp_path / "out", variants=["none", "cse"], folds=2)
    assert sorted(result.scores["case"].unique()) == ["p0", "p1", "p2", "p3"]
    assert list(result.scores["structure"].unique()) == ["left", "right"]
    written = list((tmp_path / "out").glob("runs/unet-cse-*/predictions/*.png"))
    assert sorted(path.stem for path in written) == ["p0", "p1", "p2", "p3"]
    for path in written:
        array = np.asarray(PIL.Image.open(path))
        assert array.shape == (16, 18)
        assert set(np.unique(array)) <= {0, 128, 255}


def test_broken_data_is_refused_before_anything_is_trained(quick, tmp_path):
    data = write_nnunet(tmp_path / "data", cases=3, tests=1, shape=SHAPE)
    bad = save_nifti(data / "labelsTr" / "c1.nii.gz", np.zeros(SHAPE, np.uint8))
    problem = inspect(scse.Dataset.open(data)).problems[0]
    with pytest.raises(DataError, match="problem found") as refused:
        quick(data, tmp_path / "out")
    assert problem.file == bad
    assert problem.message in str(refused.value)
    assert "--skip-bad" in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_skipped_cases_are_left_out_and_named(quick, tmp_path):
    data = write_nnunet(tmp_path / "data", cases=3, tests=2, shape=SHAPE)
    save_nifti(data / "labelsTr" / "c1.nii.gz", np.zeros(SHAPE, np.uint8))
    (data / "labelsTs" / "t0.nii.gz").write_bytes(b"damaged")
    result = quick(data, tmp_path / "out", variants=["none"], settings={"epochs": 1}, skip_bad=True)
    assert set(result.scores["case"]) == {"t1"}
    record = json.loads((tmp_path / "out" / "runs" / RUNS[0] / "run.json").read_text())
    assert set(record["training"]) == {"c0", "c2"}
    [plan] = quick.of(Planned)
    assert ("left out", "c1, t0") in plan.rows
    assert any("c1, t0" in caveat for caveat in quick.reported["facts"].caveats)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"networks": ["vnet"]}, "network must be one of"),
        ({"variants": ["scse"]}, "variants must include 'none'"),
        ({"seeds": 0}, "seeds must be"),
        ({"preset": "slow"}, "preset must be one of"),
        ({"settings": {"seed": 3, "variant": "cse"}}, "settings must not contain seed, variant"),
        ({"settings": {"wide": 3}}, "wide"),
        ({"epochs": [3], "budget": "1h"}, "epochs, settings, budget each determine the number of epochs"),
        ({"budget": "1h"}, "settings, budget each determine the number of epochs; give one of them"),
        ({"aggregations": ["max"], "variants": ["none", "cse"]}, "aggregations have no effect on none, cse"),
        ({"networks": ["monai:BasicUNet"], "placements": ["encoder"]}, "placement has no effect on monai:BasicUNet"),
    ],
)
def test_wrong_arguments_are_told_before_any_file_is_read(quick, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        quick(tmp_path / "nowhere", tmp_path / "out", **options)
    assert quick.events == []
    assert not (tmp_path / "out").exists()


def test_events_report_settings_and_scores_of_every_run(finished, quick):
    result = quick(finished.data, finished.out, networks=["unet", "sdnet"], variants=["none", "scse"])
    for events, skipped in ((finished.events, False), (quick.events, True)):
        runs = [event for event in events if isinstance(event, RunStarted)]
        scored = [event for event in events if isinstance(event, Scored)]
        assert [event.run for event in runs] == [event.run for event in scored] == RUNS
        assert all(event.folder == finished.out / "runs" / event.run for event in runs + scored)
        assert [(event.number, event.runs) for event in runs] == [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert {event.skipped for event in scored} == {skipped}
        assert [(event.settings["network"], event.settings["variant"]) for event in runs] == [
            (network, variant) for network in ("unet", "sdnet") for variant in ("none", "scse")
        ]
        assert {(event.settings["fold"], event.settings["train_cases"]) for event in runs} == {(0, 3)}
        for event in scored:
            table = pd.read_csv(event.folder / "scores.csv")
            assert event.scores == pytest.approx(table.groupby("metric")["value"].mean().to_dict(), nan_ok=True)
        assert events[-1] == Reported(result.report, finished.out)


# What is varied


def rows_of(quick: Quick) -> dict[str, str]:
    """What the plan showed."""
    return dict(quick.of(Planned)[0].rows)


def test_epochs_and_training_cases_are_varied_in_columns_of_their_own(finished, quick, tmp_path):
    result = scse.study(
        finished.data,
        out=tmp_path,
        cache=finished.cache,
        settings=WITHOUT_EPOCHS,
        variants=["none", "scse"],
        seeds=1,
        placements=["encoder"],
        reductions=[4],
        epochs=[1, 2],
        train_cases=[1, 2],
        on_event=quick.events.append,
    )
    varied = [Setup("unet", epochs, cases) for cases in (1, 2) for epochs in (1, 2)]
    variants = ["none", "scse[reduction=4,placement=encoder]"]
    columns = ["network", "epochs", "train_cases", "variant"]
    assert list(result.scores.columns) == [*columns, *SCORE_COLUMNS[2:]]
    assert result.scores.dtypes[["epochs", "train_cases"]].tolist() == ["int64"] * 2
    assert setups(result.scores) == varied
    assert list(result.scores["variant"].unique()) == variants
    assert quick.measured == [variants], "what costs nothing more is not measured again"
    assert list(result.costs.columns[:4]) == columns
    assert [(setup_of(row), row["variant"]) for row in result.costs.to_dict("records")] == [*product(varied, variants)]
    pd.testing.assert_frame_equal(result.costs, pd.read_csv(tmp_path / "costs.csv", keep_default_na=False))
    for name in ("curves", "gates"):
        assert list(quick.reported[name].columns[:4]) == columns
        assert setups(quick.reported[name]) == varied
    pd.testing.assert_frame_equal(quick.reported["curves"], pd.read_csv(tmp_path / "curves.csv"))
    pd.testing.assert_frame_equal(result.scores, read_scores(tmp_path / "scores.csv"))
    assert setups(result.comparison.tests) == varied
    assert [entry["id"] for entry in json.loads(quick.reported["viewer"])["networks"]] == [s.text for s in varied]
    rows = rows_of(quick)
    assert rows["epochs"] == "1, 2"
    assert rows["training cases"].startswith("1, 2 (the first of one shuffle")
    assert rows["runs"] == "8"
    assert "for 8 of 8 runs (measured: U-Net " in rows["estimated time"]

    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "runs").glob("*/run.json"))]
    few, more = ({tuple(r["training"]) for r in records if len(r["training"]) == number} for number in (1, 2))
    assert len(few) == len(more) == 1, "all variants and epochs learn from the same cases"
    assert set(*few) < set(*more)
    epochs = {len((tmp_path / "runs" / run.run / LOG).read_text().splitlines()) for run in quick.of(RunStarted)}
    assert epochs == {1, 2}


def test_more_training_cases_than_there_are_are_refused(finished, quick, tmp_path):
    with pytest.raises(ValueError, match="train_cases: fold 0 has 3 training cases, asked for are 4; take fewer"):
        quick(finished.data, tmp_path, train_cases=[2, 4])
    assert quick.trained() == []


def test_fewer_training_cases_are_always_among_more_and_keep_their_order():
    cases = list("abcdefghijklmno")
    chosen = [choose_cases(cases, count, fold=0) for count in range(16)]
    for fewer, more in pairwise(chosen):
        assert set(fewer) < set(more)
        assert more == sorted(more)
    assert chosen[-1] == cases
    assert choose_cases(cases, 5, fold=0) != choose_cases(cases, 5, fold=1)


def test_a_budget_fits_the_epochs_of_all_runs_and_is_kept(finished, quick, tmp_path, monkeypatch):
    rates = estimate.Rates(start=1.0, step=1.0, validate=0.5, save=0.0, predict=2.0)

    def measured(plan: Any, runs: Any, *_: object) -> Any:
        return {(run.network, run.variant): rates for run in runs}

    monkeypatch.setattr(estimate, "measure_rates", measured)
    monkeypatch.setattr(estimate, "scoring_seconds", lambda plan: 1.0)
    steps, watched = 3 * SHAPE[1] // SETTINGS["batch_size"], 3 * SHAPE[1] // 8 * 8 // 4
    cases, costs_too = 2 * (2.0 + 1.0), 16 * 1.0 + 6 * 2.0
    once = 2 * (1.0 + cases + costs_too)
    budget = f"{int(once + 3 * 2 * (steps + watched * 0.5))}s"

    def again(budget: str) -> StudyResult:
        return scse.study(
            finished.data,
            out=tmp_path,
            cache=finished.cache,
            settings=WITHOUT_EPOCHS,
            variants=["none", "cse"],
            seeds=1,
            budget=budget,
            on_event=quick.events.append,
        )

    with pytest.raises(ValueError, match=r"budget 10s: 2 runs of 1 epoch take about .*; request fewer runs"):
        again("10s")
    again(budget)
    assert rows_of(quick)["epochs"] == f"3, as many as the budget of {budget} allows; the same in all runs"
    assert ("epochs", rows_of(quick)["epochs"]) in quick.reported["facts"].settings
    logs = [(tmp_path / "runs" / f"unet-{v}-seed0-fold0" / LOG).read_text().splitlines() for v in ("none", "cse")]
    assert [len(log) for log in logs] == [3, 3]

    shutil.rmtree(tmp_path / "runs" / "unet-cse-seed0-fold0")
    rates = estimate.Rates(start=0.1, step=0.1, validate=0.05, save=0.0, predict=0.2)
    quick.events.clear()
    again(budget)
    assert quick.trained() == ["unet-cse-seed0-fold0"], "on a faster machine it goes on with the same epochs"
    assert "for 1 of 2 runs" in rows_of(quick)["estimated time"]
    with pytest.raises(
        DataError, match=rf"plan.json: the study began with a budget of {budget} \(3 epochs\); you requested"
    ):
        again("2h")


def test_a_control_trains_plain_alone_with_further_seeds(finished, quick, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished.out, out)
    result = quick(finished.data, out, variants=["none", "scse"], control=True, margin=0.02)
    assert quick.trained() == [f"unet-none-seed{seed}-fold0" for seed in (1, 2, 3)]
    assert result.comparison.margin == quick.reported["margin"] == 0.02
    assert result.comparison.summary["seeds"].tolist() == [1, 1]
    (noise,) = result.comparison.noise.to_dict("records")
    assert (noise["trainings"], noise["against"], noise["splits"], noise["exact"]) == (4, 2, 6, True)
    assert FEW_SEEDS_NOTE in quick.reported["facts"].caveats


@pytest.fixture
def cohort(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[int, int], None]]:
    """Boxes instead of simulated subjects; the list grows with every simulation."""
    calls: list[Callable[[int, int], None]] = []

    def simulate(folder: Path, *, cases: int, seed: int, progress: Callable[[int, int], None]) -> Path:
        assert (cases, seed) == (30, 0)
        calls.append(progress)
        write_nnunet(folder, cases=2, tests=1, shape=SHAPE, affine=AFFINE)
        content = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps({**content, "name": COHORT_NAME}))
        progress(1, 1)
        return folder

    monkeypatch.setattr(runner, "simulate_cohort", simulate)
    return calls


def test_without_a_data_set_the_cohort_is_simulated_once_and_named_so(quick, cohort, tmp_path):
    for _ in range(2):
        quick(None, tmp_path, variants=["none"], settings={"epochs": 1})
    assert len(cohort) == 1
    facts = quick.reported["facts"]
    assert facts.simulated
    assert facts.dataset == f"the {COHORT_NAME}"
    assert facts.caveats[0] == SIMULATED_NOTE
    assert ("spacing in the plane", "3 mm x 3 mm") in facts.recipe
    assert ("slices per epoch", "1000") in facts.settings
    assert ("epochs", "1") in facts.settings, "what is asked for goes first"


def test_ignored_voxels_and_structures_without_a_training_case_have_no_score(quick: Quick, tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", cases=3, shape=(16, 16))
    for name in ("p0", "p1", "p2"):
        path = data / "masks" / f"{name}.png"
        mask = np.array(PIL.Image.open(path))
        mask[:, :3] = 255
        if name == "p0":
            mask[0, 8:] = 3
        PIL.Image.fromarray(mask).save(path)
    (data / "labels.csv").write_text("name,value\nleft,1\nright,2\nrare,3\nvoid,255\n")
    result = quick(data, tmp_path / "out", variants=["none"], folds=3, settings={"epochs": 1})
    [plan] = quick.of(Planned)
    rows = plan.rows
    assert ("ignored", "voxels of value 255 are left out of training and scores") in rows
    [warning] = [text for what, text in rows if what == "warning"]
    [without] = [fold for fold in range(3) if f"of fold {fold}," in warning]
    assert warning.startswith("rare: absent from all training cases of fold")
    caveats = quick.reported["facts"].caveats
    assert any(warning in caveat for caveat in caveats)
    assert any("left out of training and scores" in caveat for caveat in caveats)
    rare = result.scores.query("structure == 'rare' and metric == 'dice'").set_index("fold")["value"]
    assert np.isnan(rare[without])
    tested = next(iter(result.scores.query(f"fold == {without}")["case"]))
    assert tested == "p0"
    record = json.loads((tmp_path / f"out/runs/unet-none-seed0-fold{without}/run.json").read_text())
    assert record["structures"] == {"left": 1, "right": 2, "rare": 3}
    segmenter = Segmenter.load(tmp_path / f"out/runs/unet-none-seed0-fold{without}")
    assert segmenter.arguments["classes"] == 4
