"""Logging of runs to MLflow while they train; TensorBoard events, the default, are written by training itself."""

import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import BaseModel, Field

from scse import __version__
from scse.reports.provenance import git_commit
from scse.support.atomic import write_atomic
from scse.support.errors import UserError
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
)
from scse.support.json_files import read_json, validated
from scse.training.log import LOG, read_log
from scse.training.record import CHOICE, RECORD

IDENTITY = "mlflow.json"
"""File in the folder of a run or study, with the id by which the run in MLflow is found again; it is a tag there."""

ID_TAG = "scse.id"

CURVES = ("loss", "dice", "learning_rate", "seconds")
"""Metrics of every epoch."""

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # by default a client waits 4 minutes for a server that does not answer, and training would wait too
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
"""Settings of MLflow's client, where the user's environment does not set them."""

log = logging.getLogger(__name__)


def tracked(track: str, folder: Path | str, on_event: OnEvent) -> AbstractContextManager[OnEvent]:
    """A callback for `on_event` of `study` and `train_on` that logs the events and passes them on.

    Use it around the call: `with tracked("mlflow", out, show) as show: study(..., out=out, on_event=show)`.

    Args:
        track: "tensorboard" adds nothing to the events that every run writes into its folder. "mlflow" logs to the
            server or database that MLFLOW_TRACKING_URI names, and without it to the file `mlflow.db` in `folder`, with
            artefacts in `mlartifacts` beside it. "mlflow:URI" logs to URI, whatever the variable says.
        folder: Folder of the study or run.
        on_event: Called with every event, before it is logged.

    Raises:
        ValueError: `track` has another value, or, on entering, MLflow is not installed or cannot be reached.
    """
    kind, _, uri = track.partition(":")
    if track == "tensorboard":
        return nullcontext(on_event)
    if kind != "mlflow" or track == "mlflow:":
        allowed = "tensorboard, mlflow, or mlflow:URI such as mlflow:http://localhost:5000"
        raise UserError(f"track must be {allowed}; got {track!r}")
    return MlflowTracker(folder, on_event, uri=uri or os.environ.get("MLFLOW_TRACKING_URI"))


class MlflowTracker:
    """Logs a study or a run to one MLflow experiment: an MLflow run for each run, and one for the report.

    A run that goes on, or is finished when the same command is called again, is found by its id and never logged twice.
    What a failing server misses while training goes on is made up for when the run ends, or by the next call.
    """

    def __init__(self, folder: Path | str, on_event: OnEvent, *, uri: str | None = None) -> None:
        self.folder = Path(folder).absolute()
        self.on_event = on_event
        self.own_file = not uri
        self.uri = uri or f"sqlite:///{self.folder / 'mlflow.db'}"
        self.name = ""  # of the current run, or "report"
        self.started: RunStarted | None = None  # the current run
        self.starts: dict[str, RunStarted] = {}  # of runs that are done at the same time
        self.open: str | None = None  # its id in MLflow
        self.epochs: set[int] = set()  # its epochs that are logged
        self.reachable = True
        self.missing: dict[str, None] = {}  # names of runs that are not logged in full, in order

    def __enter__(self) -> OnEvent:
        """Find or make the experiment, named as the folder."""
        if find_spec("mlflow") is None:
            raise UserError("--track mlflow needs MLflow, which is not installed: pip install 'scse[mlflow]'")
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        if self.own_file:
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            from mlflow import MlflowClient  # noqa: PLC0415 (takes seconds, and is asked for by few)

            self.client: Any = MlflowClient(tracking_uri=self.uri)
            self.experiment = self._find_experiment()
        except Exception as error:
            raise UserError(
                f"cannot log to MLflow at {self.uri}: {_first_line(error)}; start the server or correct the address, "
                "or leave out --track"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Mark a run that did not end, and warn of what is missing."""
        if self.open is not None:
            stopped = kind is not None and issubclass(kind, StoppedError | KeyboardInterrupt)
            self._guarded(lambda: self._end("KILLED" if stopped else "FAILED"))
        if self.missing:
            log.warning(
                "not everything of %s is in MLflow at %s; run the same command again to log what is missing",
                ", ".join(self.missing),
                self.uri,
            )

    def __call__(self, event: Event) -> None:
        """Pass an event on, and log it."""
        self.on_event(event)
        self._guarded(lambda: self._log(event))

    def _guarded(self, log_it: Callable[[], None]) -> None:
        try:
            log_it()
        except Exception as error:  # whatever the server or its client raises, training goes on
            if not self.missing:
                log.warning("cannot log to MLflow at %s: %s; training goes on", self.uri, _first_line(error))
            self.missing[self.name] = None
            self.open, self.reachable = None, False

    def _log(self, event: Event) -> None:
        match event:
            case RunStarted():
                self.name, self.started, self.open, self.reachable = event.run, event, None, True
            # opened at its first step, the folder is known to contain no other run; once the server has failed, the
            # next try is at the end of the run, because every step would wait for it
            case StepDone() if self.open is None and self.reachable:
                self._open()
            case EpochDone() if self.open is not None:
                self._log_epochs([event])
            case Trained():
                self._log_trained(event.folder, {})
            # a run is finished in MLflow when everything is logged
            case Scored() if not (event.skipped and self._is_finished(event.folder)):
                self._log_trained(event.folder, event.scores)
            case Within(run, RunStarted() as started):
                self.starts[run] = started
            case Within(run, Scored() as scored):  # of runs that are done at the same time, each is logged at its end
                self._log(self.starts[run])
                self._log(scored)
            case Reported():
                self._log_report(event)

    def _open(self) -> None:
        from mlflow.entities import Param  # noqa: PLC0415

        if self.started is None:
            raise RuntimeError("no RunStarted was reported")
        settings = self.started.settings
        # a run that is not part of a study has no fold in its settings
        tags = {name: str(settings[name]) for name in ("network", "variant", "seed", "fold") if name in settings}
        run = self._find_run(self.started.folder, self.started.run, tags)
        parameters = [Param(name, str(value)) for name, value in settings.items()]
        self.client.log_batch(run.info.run_id, params=parameters)
        self.client.update_run(run.info.run_id, status="RUNNING")
        self.epochs = {metric.step for metric in self.client.get_metric_history(run.info.run_id, CURVES[0])}
        self.open = run.info.run_id

    def _log_epochs(self, epochs: Iterable[EpochDone]) -> None:
        new = [epoch for epoch in epochs if epoch.epoch not in self.epochs]
        self._log_metrics([(name, getattr(epoch, name), epoch.epoch) for epoch in new for name in CURVES])
        self.epochs |= {epoch.epoch for epoch in new}

    def _log_metrics(self, values: Iterable[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415

        now = time.time_ns() // 1_000_000
        self.client.log_batch(self.open, metrics=[Metric(name, value, now, step) for name, value, step in values])

    def _log_trained(self, folder: Path, scores: Mapping[str, float]) -> None:
        """Log what the run's folder contains and MLflow does not yet, and end the run."""
        if self.open is None:
            self._open()
        self._log_epochs(read_log(folder))
        for name in (RECORD, LOG, CHOICE, "scores.csv"):
            if (folder / name).exists():
                self.client.log_artifact(self.open, str(folder / name))
        self.client.log_artifacts(self.open, str(folder / "segmenter"), "segmenter")
        self._log_metrics([(f"test_{metric}", value, 0) for metric, value in scores.items()])
        self._end("FINISHED")

    def _log_report(self, event: Reported) -> None:
        self.name = "report"
        self.open = self._find_run(event.folder, self.name, {}).info.run_id
        self.client.log_artifacts(self.open, str(event.path.parent), "report")
        for path in (event.folder / "scores.csv", event.folder / "costs.csv"):
            self.client.log_artifact(self.open, str(path))
        self._end("FINISHED")

    def _end(self, status: str) -> None:
        run, self.open = self.open, None
        self.client.set_terminated(run, status)
        if status == "FINISHED":
            self.missing.pop(self.name, None)

    def _is_finished(self, folder: Path) -> bool:
        return any(run.info.status == "FINISHED" for run in self._search(_identity(folder)))

    def _find_run(self, folder: Path, name: str, tags: Mapping[str, str]) -> Any:
        identity = _identity(folder)
        if found := self._search(identity):
            return found[0]
        commit = git_commit(Path.cwd())
        about = {ID_TAG: identity, "scse.version": __version__, **({"git.commit": commit} if commit else {})}
        return self.client.create_run(self.experiment, run_name=name, tags={**tags, **about})

    def _search(self, identity: str) -> list[Any]:
        return list(self.client.search_runs([self.experiment], f"tags.`{ID_TAG}` = '{identity}'", max_results=1))

    def _find_experiment(self) -> str:
        name = self.folder.name
        if found := self.client.get_experiment_by_name(name):
            if found.lifecycle_stage != "active":
                raise UserError(f"its experiment {name!r} is deleted: restore it, or choose another folder with -o")
            return str(found.experiment_id)
        place = (self.folder / "mlartifacts").as_uri() if self.own_file else None
        return str(self.client.create_experiment(name, artifact_location=place))


class _Identity(BaseModel):
    """The content of the file."""

    id: str = Field(pattern="^[0-9a-f]{32}$")


def _identity(folder: Path) -> str:
    """The id of a run or study, created at the first call."""
    path = folder / IDENTITY
    if not path.exists():
        write_atomic(path, json.dumps({"id": uuid.uuid4().hex}).encode())
    remedy = "delete it, which makes new runs in MLflow"
    return validated(_Identity, read_json(path, remedy=remedy), path=path, remedy=remedy, strict=True).id


def _first_line(error: Exception) -> str:
    """The first line of an error; those of clients and databases go on with whole stacks."""
    return (str(error).splitlines() or [type(error).__name__])[0]
