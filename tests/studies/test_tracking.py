"""Runs in a real MLflow store, an SQLite file: logged once, whatever happens to the run or to the store."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from scse.studies import tracking
from scse.studies.tracking import ENVIRONMENT, IDENTITY, MlflowTracker, tracked
from scse.support.events import (
    EpochDone,
    Event,
    OnEvent,
    Reported,
    RunStarted,
    Scored,
    StepDone,
    StoppedError,
    Trained,
    Within,
    ignore,
)
from scse.training.log import LOG
from scse.training.record import RECORD

# SQLAlchemy on what MLflow does with it
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

SETTINGS = {"network": "unet", "variant": "scse", "seed": 0, "fold": 0, "width": 4, "slices_per_epoch": None}
SCORES = {"dice": 0.8, "hd95": 2.5, "msd": 1.0}
STEP = StepDone(epoch=1, step=1, steps=2, loss=0.5, images_per_second=9.0, seconds_left=60.0)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # where MLflow puts the artefacts of a store that is named
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as MLflow makes it, which takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    with tracked("mlflow", folder, ignore):
        return folder / "mlflow.db"


@pytest.fixture
def study(tmp_path: Path, database: Path) -> "Study":
    return Study(tmp_path, shutil.copy(database, tmp_path / "store.db"))


def epoch(number: int) -> EpochDone:
    return EpochDone(number, loss=1 / number, dice=number / 10, seconds=2.0 * number, learning_rate=0.01)


class Study:
    """A study of one run that only reports, what it finds in the store, and a store that can fail."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.out = folder / "boxes"
        self.run = self.out / "runs" / "unet-scse-seed0-fold0"
        self.uri = f"sqlite:///{database}"
        self.told: list[Event] = []

    def track(self) -> MlflowTracker:
        return MlflowTracker(self.out, self.told.append, uri=self.uri)

    def begin(self, tell: OnEvent) -> None:
        tell(RunStarted(self.run.name, self.run, number=1, runs=1, settings=SETTINGS))

    def train(self, tell: OnEvent, *epochs: int) -> None:
        """What `train` writes and reports of some epochs."""
        (self.run / "segmenter").mkdir(parents=True, exist_ok=True)
        (self.run / "segmenter" / "weights.safetensors").touch()
        (self.run / RECORD).write_text("{}")
        for number in epochs:
            tell(STEP)
            with (self.run / LOG).open("a") as log:
                log.write(json.dumps({"event": "epoch", **asdict(epoch(number))}) + "\n")
            tell(epoch(number))

    def score(self, tell: OnEvent, *, skipped: bool = False) -> None:
        (self.run / "scores.csv").write_text("case\n")
        tell(Scored(self.run.name, self.run, SCORES, skipped))

    def end_by(self, error: Exception, *epochs: int) -> None:
        with self.track() as tell:
            self.begin(tell)
            self.train(tell, *epochs)
            raise error

    def runs(self) -> dict[str, Any]:
        """What the store has of each run."""
        client = self.track().__enter__().client
        (experiment,) = [found for found in client.search_experiments() if found.name == self.out.name]
        runs = client.search_runs([experiment.experiment_id])
        assert len({run.info.run_name for run in runs}) == len(runs)
        for run in runs:
            run.steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")]
            run.files = {file.path for file in client.list_artifacts(run.info.run_id)}
        return {run.info.run_name: run for run in runs}

    def only_run(self) -> Any:
        (run,) = self.runs().values()
        return run


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Let all that is logged fail, or work again."""
    from mlflow import MlflowClient

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("the server is gone\nand a long stack")

    def switch(off: bool) -> None:
        monkeypatch.undo()
        for name in ("log_batch", "search_runs") if off else ():
            monkeypatch.setattr(MlflowClient, name, fail)

    return switch


def test_a_run_is_logged_with_parameters_curves_scores_and_files(study):
    with study.track() as tell:
        study.begin(tell)
        study.train(tell, 1, 2, 3)
        study.score(tell)
    run = study.only_run()
    assert run.info.run_name == study.run.name
    assert run.info.status == "FINISHED"
    assert run.data.params == {name: str(value) for name, value in SETTINGS.items()}
    assert run.data.metrics == {
        **{name: getattr(epoch(3), name) for name in ("loss", "dice", "learning_rate", "seconds")},
        **{f"test_{name}": value for name, value in SCORES.items()},
    }
    assert run.steps == [1, 2, 3]
    assert run.files == {RECORD, LOG, "scores.csv", "segmenter"}
    tags = {"network": "unet", "variant": "scse", "seed": "0", "fold": "0", "scse.version": tracking.__version__}
    assert run.data.tags.items() >= tags.items()
    assert list(map(type, study.told)) == [RunStarted, *[StepDone, EpochDone] * 3, Scored]


def test_a_run_that_is_done_beside_others_is_logged_in_full_when_it_is_scored(study):
    with study.track() as tell:

        def within(event: Event) -> None:
            tell(Within(study.run.name, event))

        study.begin(within)
        tell(Within("another", RunStarted("another", study.out / "runs" / "another", 2, 2, SETTINGS)))
        study.train(within, 1, 2)
        study.score(within)
    run = study.only_run()
    assert (run.info.run_name, run.info.status, run.steps) == (study.run.name, "FINISHED", [1, 2])
    assert run.data.params == {name: str(value) for name, value in SETTINGS.items()}
    assert run.files == {RECORD, LOG, "scores.csv", "segmenter"}


def test_epochs_are_logged_while_the_run_goes_on(study):
    with study.track() as tell:
        study.begin(tell)
        study.train(tell, 1)
        found = study.only_run()
        assert (found.info.status, found.steps) == ("RUNNING", [1])


def test_a_run_that_goes_on_is_the_same_run_and_repeats_no_epoch(study):
    with pytest.raises(StoppedError):
        study.end_by(StoppedError(), 1, 2)
    assert study.only_run().info.status == "KILLED"
    with study.track() as tell:
        study.begin(tell)
        # the last epoch again: it was killed before its checkpoint
        study.train(tell, 2, 3)
        study.score(tell)
    run = study.only_run()
    assert (run.info.status, run.steps) == ("FINISHED", [1, 2, 3])


def test_a_run_that_fails_is_marked(study):
    with pytest.raises(RuntimeError):
        study.end_by(RuntimeError(), 1)
    assert study.only_run().info.status == "FAILED"


def test_a_run_of_train_ends_without_scores(study):
    with study.track() as tell:
        study.begin(tell)
        study.train(tell, 1)
        tell(Trained(study.run.name, study.run))
    run = study.only_run()
    assert run.info.status == "FINISHED"
    assert run.files == {RECORD, LOG, "segmenter"}


def test_a_second_call_logs_a_finished_run_once_and_its_report_anew(study):
    page = study.out / "report" / "index.html"
    for text in ("first", "second"):
        with study.track() as tell:
            study.begin(tell)
            if text == "first":
                study.train(tell, 1)
            study.score(tell, skipped=text == "second")
            page.parent.mkdir(exist_ok=True)
            page.write_text(text)
            for name in ("scores.csv", "costs.csv"):
                (study.out / name).touch()
            tell(Reported(page, study.out))
    runs = study.runs()
    assert set(runs) == {study.run.name, "report"}
    assert runs[study.run.name].steps == [1]
    assert runs["report"].info.status == "FINISHED"
    assert runs["report"].files == {"report", "scores.csv", "costs.csv"}
    kept = Path(runs["report"].info.artifact_uri.removeprefix("file://")) / "report" / "index.html"
    assert kept.read_text() == "second"


def test_a_finished_run_that_was_never_logged_is_logged_by_the_next_call(study):
    study.train(ignore, 1, 2)
    study.score(ignore)
    with study.track() as tell:
        study.begin(tell)
        study.score(tell, skipped=True)
    run = study.only_run()
    assert (run.info.status, run.steps, run.data.metrics["test_dice"]) == ("FINISHED", [1, 2], 0.8)


def test_what_a_failing_server_misses_is_made_up_for_at_the_end_of_the_run(study, outage, caplog):
    with study.track() as tell:
        study.begin(tell)
        study.train(tell, 1)
        outage(True)
        study.train(tell, 2, 3)
        outage(False)
        study.train(tell, 4)
        study.score(tell)
    assert study.only_run().steps == [1, 2, 3, 4]
    messages = [record.getMessage() for record in caplog.records if record.name == "scse.studies.tracking"]
    assert messages == [f"cannot log to MLflow at {study.uri}: the server is gone; training goes on"]


def test_a_server_that_stays_away_costs_no_training_and_the_next_call_logs_it(study, outage, caplog):
    with study.track() as tell:
        outage(True)
        study.begin(tell)
        study.train(tell, 1, 2)
        study.score(tell)
    assert list(map(type, study.told)) == [RunStarted, *[StepDone, EpochDone] * 2, Scored]
    first, last = (record for record in caplog.records if record.name == "scse.studies.tracking")
    assert first.levelno == last.levelno == logging.WARNING
    assert "training goes on" in first.getMessage()
    assert last.getMessage() == (
        f"not everything of {study.run.name} is in MLflow at {study.uri}; "
        "run the same command again to log what is missing"
    )
    outage(False)
    with study.track() as tell:
        study.begin(tell)
        study.score(tell, skipped=True)
    run = study.only_run()
    assert (run.info.status, run.steps) == ("FINISHED", [1, 2])


def test_a_folder_of_another_study_is_left_alone(study):
    with study.track() as tell:
        study.begin(tell)
        study.train(tell, 1)
        study.score(tell)
    with pytest.raises(ValueError, match="another study"):
        study.end_by(ValueError("another study"))  # as training does, before its first step
    assert study.only_run().info.status == "FINISHED"


def test_by_default_it_is_a_file_in_the_folder(tmp_path, database):
    out = tmp_path / "boxes"
    out.mkdir()
    shutil.copy(database, out / "mlflow.db")
    with tracked("mlflow", out, ignore) as tell:
        experiment = tell.client.get_experiment_by_name("boxes")
    assert tell.uri == f"sqlite:///{out / 'mlflow.db'}"
    assert experiment.artifact_location == (out / "mlartifacts").as_uri()


def test_an_address_that_is_given_comes_before_that_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    assert tracked("mlflow", tmp_path, ignore).uri == "http://there"
    assert tracked("mlflow:http://here:5000", tmp_path, ignore).uri == "http://here:5000"


def test_a_server_that_does_not_answer_is_told_before_any_training(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = "http://127.0.0.1:9"  # the port "discard", on which nothing listens
    with pytest.raises(ValueError, match=rf"^cannot log to MLflow at {uri}: .*; start the server or") as caught:
        tracked(f"mlflow:{uri}", tmp_path, ignore).__enter__()
    assert "\n" not in str(caught.value)


def test_a_deleted_experiment_is_told(study):
    with study.track() as tell:
        tell.client.delete_experiment(tell.experiment)
    with pytest.raises(ValueError, match="its experiment 'boxes' is deleted: restore it, or choose another folder"):
        study.track().__enter__()


def test_without_mlflow_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"not installed: pip install 'scse\[mlflow\]'"):
        tracked("mlflow", tmp_path / "boxes", ignore).__enter__()
    assert not (tmp_path / "boxes").exists()


@pytest.mark.parametrize("track", ["wandb", "mlflow:", "tensorboard:x", ""])
def test_another_way_of_tracking_is_refused(track, tmp_path):
    with pytest.raises(ValueError, match=r"track must be tensorboard, mlflow, or mlflow:URI .* got '"):
        tracked(track, tmp_path, ignore)


def test_the_default_needs_no_mlflow_and_adds_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with tracked("tensorboard", tmp_path / "run", ignore) as told:
        assert told is ignore
    assert not (tmp_path / "run").exists()


def test_the_id_of_a_folder_stays(study):
    with study.track() as tell:
        study.begin(tell)
        study.train(tell, 1)
        first = (study.run / IDENTITY).read_text()
        study.score(tell)
    assert (study.run / IDENTITY).read_text() == first
    assert study.only_run().data.tags["scse.id"] == json.loads(first)["id"]
