"""Studies whose runs are done by several processes: workers of this machine, and a Ray cluster of two nodes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch

import scse
from datasets import write_nnunet
from quick_studies import study_once
from ray_cluster import two_nodes
from scse.support.errors import DataError, UserError
from scse.support.events import Event, RunStarted, Scored, Stage, StepDone, StoppedError, Within
from scse.training.run import CHECKPOINT, LOCK

SHAPE = (12, 10, 8)
OPTIONS = {
    "variants": "none,scse",
    "seeds": 1,
    "settings": {"width": 4, "depth": 2, "epochs": 40, "batch_size": 8, "precision": "32"},
}
RUNS = ["unet-none-seed0-fold0", "unet-scse-seed0-fold0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nnunet(tmp_path_factory.mktemp("data"), cases=3, tests=2, shape=SHAPE)


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return study_once(data, tmp_path_factory.mktemp("here"), **OPTIONS).scores
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with two_nodes() as address:
        yield address


class Killer:
    """Kills a process that does a run, at its first step, for some number of times."""

    def __init__(self, out: Path, times: int = 1) -> None:
        self.out, self.times = out, times
        self.events: list[Event] = []
        self.killed: list[int] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case Within(name, StepDone()) if len(self.killed) < self.times:
                for pid in holders(self.out / "runs" / name / LOCK):
                    self.killed.append(pid)
                    os.kill(pid, signal.SIGKILL)


def holders(path: Path) -> list[int]:
    """The processes that have a file open."""
    found = []
    for process in psutil.process_iter():
        try:
            found += [process.pid for file in process.open_files() if file.path == str(path)]
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return found


def compare(result: Any, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(result.scores, expected, check_exact=True)


def test_workers_of_this_machine_give_the_same_scores_also_when_one_is_killed(
    data: Path, expected: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    killer = Killer(tmp_path / "study")
    compare(study_once(data, tmp_path, jobs=2, on_event=killer, **OPTIONS), expected)
    assert len(killer.killed) == 1
    inner = [event.event for event in killer.events if isinstance(event, Within)]
    notes = [event.what for event in inner if isinstance(event, Stage)]
    assert "its process ended by signal 9; another one continues" in notes
    assert sorted(event.run for event in inner if isinstance(event, Scored)) == RUNS
    compare(study_once(data, tmp_path, on_event=killer, **OPTIONS), expected)  # continues in this process
    assert [event.skipped for event in killer.events if isinstance(event, Scored)] == [True, True]


def test_a_stop_reaches_workers_with_a_network_of_a_file_which_keep_their_checkpoints(
    data: Path, tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mine.parent)
    trained: list[str] = []

    def follow(event: Event) -> None:
        if isinstance(event, Within) and isinstance(event.event, StepDone):
            trained.append(event.name)

    settings = {"epochs": 500, "batch_size": 8}
    options = {**OPTIONS, "networks": "mine.py:make", "attach_to": "first", "settings": settings}
    with pytest.raises(StoppedError, match="what was under way is saved"):
        study_once(data, tmp_path, jobs=2, on_event=follow, stop=lambda: len(set(trained)) == 2, **options)
    assert len(list((tmp_path / "study" / "runs").glob(f"*/{CHECKPOINT}"))) == 2


def test_an_error_of_a_run_arrives_as_it_is(data: Path, tmp_path: Path, cluster: str) -> None:
    record = tmp_path / "study" / "runs" / RUNS[0] / "run.json"
    record.parent.mkdir(parents=True)
    record.write_text("no record")
    for on in ({"jobs": 2}, {"on": f"ray:{cluster}"}):
        with pytest.raises(DataError, match=r"run\.json") as found:
            study_once(data, tmp_path, **on, **OPTIONS)
        assert "\n" not in str(found.value)


def test_a_cluster_gives_the_same_scores_also_when_a_worker_is_killed(
    data: Path, expected: pd.DataFrame, tmp_path: Path, cluster: str
) -> None:
    killer = Killer(tmp_path / "study")
    compare(study_once(data, tmp_path, on=f"ray:{cluster}", on_event=killer, **OPTIONS), expected)
    assert len(killer.killed) == 1
    inner = [event.event for event in killer.events if isinstance(event, Within)]
    assert sum(isinstance(event, RunStarted) for event in inner) == 3  # one run began twice
    assert sorted(event.run for event in inner if isinstance(event, Scored)) == RUNS


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"jobs": 0}, "jobs must be 1 or more, got 0"),
        ({"jobs": 2, "on": "ray"}, "leave one of them out"),
        ({"on": "ray://10.0.0.1:10001"}, "on must be ray, or ray:HOST:PORT .* got 'ray://10.0.0.1:10001'"),
        ({"on": "slurm"}, "on must be ray, or ray:HOST:PORT .* got 'slurm'"),
        ({"cpus_per_run": 2}, "are for a cluster"),
        ({"on": "ray", "cpus_per_run": 0}, "cpus_per_run must be 1 or more, got 0"),
        ({"on": "ray", "gpus_per_run": 1.5}, "gpus_per_run must be .* got 1.5"),
    ],
)
def test_wrong_executors_are_refused_before_any_file_is_read(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        scse.study(tmp_path / "missing", out=tmp_path / "out", **fields)


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "scse", "study", tmp_path, "-o", tmp_path / "out", "--on", "ray:127.0.0.1:1"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert found.returncode == 1
    assert found.stderr.startswith("error: there is no Ray cluster at 127.0.0.1:1 ")
    assert found.stderr.count("\n") == 1
