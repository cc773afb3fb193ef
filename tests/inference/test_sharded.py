"""Predictions by several processes: the same files as by one, once each, also when workers are killed."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from typer.testing import CliRunner

from datasets import save_nifti
from ray_cluster import two_nodes
from scse.cli.app import app
from scse.data.recipe import Recipe as Preparation
from scse.executors.base import Here
from scse.executors.on_ray import OnRay
from scse.executors.workers import Workers
from scse.inference.saved import Known, KnownImages
from scse.inference.segmenter import Segmenter
from scse.inference.sharded import MANIFEST, SHARD, Recipe, predict_sharded
from scse.networks import NETWORKS
from scse.support.events import StoppedError

COUNT = 200
Images = dict[str, list[Path]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    arguments = {"in_channels": 1, "classes": 3, "width": 4, "depth": 1, "kernel_size": 3}
    network = NETWORKS["unet"](**arguments, recalibration="none")
    recipe = Preparation.model_validate({"view": "axial", "spacing": None, "patch": (8, 8), "channels": 1})
    segmenter = Segmenter(network, "unet", arguments, "none", recipe, {"left": 1, "right": 2})
    return segmenter.save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    names = [f"i{number:03d}" for number in range(COUNT)]
    return {
        name: [save_nifti(folder / f"{name}.nii.gz", rng.normal(size=(8, 8, 4)).astype(np.float32))] for name in names
    }


@pytest.fixture(scope="module")
def expected(model: Path, images: Images, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected")
    Segmenter.load(model).predict_files(images, out, volumes=out / "volumes.csv")
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and path.name != MANIFEST}


def recipe_of(model: Path) -> Recipe:
    return Recipe(groups=(((model, None),),))


class Killer:
    """Kills a process whose command line has a text, after the first and after the third task."""

    def __init__(self, text: str) -> None:
        self.text, self.calls, self.killed = text, 0, 0

    def __call__(self, done: int, total: int) -> None:
        self.calls += 1
        if self.calls in {1, 3}:
            for process in psutil.process_iter(["cmdline"]):
                if self.text in " ".join(process.info["cmdline"] or []) and mine(process):
                    os.kill(process.pid, signal.SIGKILL)
                    self.killed += 1
                    break


def mine(process: psutil.Process) -> bool:
    """Whether a process descends from this one."""
    return process in psutil.Process().children(recursive=True)


def sorted_rows(table: bytes) -> list[bytes]:
    return sorted(table.splitlines())


def check(out: Path, expected: dict[str, bytes]) -> None:
    found, wanted = contents(out), dict(expected)
    assert sorted_rows(found.pop("volumes.csv")) == sorted_rows(wanted.pop("volumes.csv"))
    assert found == wanted
    _, *lines = (out / MANIFEST).read_text().splitlines()
    assert sorted(json.loads(line)["image"] for line in lines) == sorted(name.partition(".")[0] for name in wanted)


@pytest.fixture
def on_ray() -> Iterator[OnRay]:
    with two_nodes():
        yield OnRay(cpus=1, gpus=0)


def test_workers_that_are_killed_lose_nothing(
    model: Path, images: Images, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    killer = Killer("scse.executors.worker")
    assert predict_elsewhere(model, images, tmp_path, Workers(2), killer) == []
    assert killer.killed == 2
    check(tmp_path, expected)


def test_a_cluster_loses_nothing_when_workers_are_killed(
    model: Path, images: Images, expected: dict[str, bytes], tmp_path: Path, on_ray: OnRay
) -> None:
    killer = Killer("ray::_do")
    assert predict_elsewhere(model, images, tmp_path, on_ray, killer) == []
    assert killer.killed >= 1  # a process between two tasks has no task's name
    check(tmp_path, expected)


def predict_elsewhere(
    model: Path, images: Images, out: Path, executor: Any, progress: Callable[[int, int], None]
) -> list[str]:
    table = out / "volumes.csv"
    return predict_sharded(recipe_of(model), images, out, executor=executor, progress=progress, volumes=table)


def test_what_is_finished_is_skipped_and_what_changed_is_done_again(
    model: Path, images: Images, expected: dict[str, bytes], tmp_path: Path
) -> None:
    calls: list[tuple[int, int]] = []

    def count(done: int, total: int) -> None:
        calls.append((done, total))

    def again(**options: Any) -> None:
        calls.clear()
        options = {"volumes": tmp_path / "volumes.csv", "progress": count, "executor": Here(), **options}
        assert predict_sharded(recipe_of(model), images, tmp_path, **options) == []

    with pytest.raises(StoppedError):
        again(stop=lambda: len(calls) == 2)
    assert [done for done, _ in calls] == [SHARD, 2 * SHARD]
    with (tmp_path / MANIFEST).open("a") as file:
        file.write('{"image": "i1')  # a line that a killed process did not finish
    again()
    assert calls[0] == (3 * SHARD, COUNT)
    check(tmp_path, expected)
    again()
    assert calls == []
    (tmp_path / "i007.nii.gz").unlink()
    (tmp_path / "volumes.csv").unlink()
    again()
    assert calls == [(COUNT, COUNT)]
    check(tmp_path, expected)


def test_another_segmenter_predicts_all_images_anew(model: Path, images: Images, tmp_path: Path) -> None:
    few = {name: images[name] for name in list(images)[:2]}
    calls: list[int] = []
    for mirror in (False, False, True):
        recipe = Recipe(groups=(((model, None),),), mirror=mirror)
        predict_sharded(
            recipe, few, tmp_path, executor=Here(), progress=lambda done, total, mirror=mirror: calls.append(mirror)
        )
    assert calls == [False, True]


def test_images_that_fail_are_named_and_tried_again(model: Path, images: Images, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.nii.gz"
    damaged.write_bytes(b"no image")
    few = {"i000": images["i000"], "damaged": [damaged]}
    for _ in range(2):
        (problem,) = predict_sharded(recipe_of(model), few, tmp_path / "out", executor=Here())
        assert str(damaged) in problem
    assert sorted(contents(tmp_path / "out")) == ["i000.nii.gz"]


def test_the_command_predicts_with_jobs(
    model: Path, images: Images, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "out"
    command = ["predict", *(str(images[name][0]) for name in ("i000", "i001")), "-m", str(model), "-o", str(out)]
    loaded, load = [], Segmenter.load
    monkeypatch.setattr(Segmenter, "load", lambda *given, **named: loaded.append(given) or load(*given, **named))
    found = CliRunner().invoke(app, [*command, "--jobs", "2", "--report"])
    assert found.exit_code == 0, found.output
    assert loaded == [(model,)]  # in this process
    assert "Label maps of 2 images" in (out / "report" / "index.html").read_text("utf-8")
    assert "predicted by: 2 worker processes of this machine" in found.stdout
    assert contents(out) == {name: expected[name] for name in ("i000.nii.gz", "i001.nii.gz")}


def test_the_command_measures_uncertainty_with_jobs(
    model: Path, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    lengths = ((9.0, 9.0),) * 3  # mm; of the images 1 and 4 to 8
    seen = KnownImages(spacing=lengths, extent=lengths, intensities=(((-1.0, 1.0),) * 5,))
    known = Known(cases=5, volumes={"left": (0.0, 1.0), "right": (0.0, 1.0)}, images=seen)
    model = replace(Segmenter.load(model), known=known).save(tmp_path / "model")
    names = list(images)[: SHARD + 2]
    files = [str(images[name][0]) for name in names]

    def predict(out: Path, *options: str) -> dict[str, bytes]:
        table = ("--volumes", str(out / "volumes.csv"))
        command = ["predict", *files, "-m", str(model), "--mirror", "--uncertainty", "-o", str(out), *table, *options]
        found = CliRunner().invoke(app, command)
        assert found.exit_code == 0, found.output
        assert f"uncertainty of structures: {out / 'uncertainty.csv'}" in found.stdout
        return contents(out)

    tables = ("volumes.csv", "uncertainty.csv")
    one, several = predict(tmp_path / "one"), predict(tmp_path / "several", "--jobs", "2")
    for table, rows in zip(tables, (3, 2), strict=True):  # the image is flagged itself
        assert len(one[table].splitlines()) == 1 + rows * len(names)
        assert sorted_rows(one[table]) == sorted_rows(several.pop(table))
    assert several == {name: found for name, found in one.items() if name not in tables}
    (tmp_path / "several" / "uncertainty.csv").unlink()
    (tmp_path / "several" / f"{names[1]}.uncertainty.nii.gz").unlink()
    again = predict(tmp_path / "several", "--jobs", "2")
    assert sorted_rows(again["uncertainty.csv"]) == sorted_rows(one["uncertainty.csv"])
    assert again[f"{names[1]}.uncertainty.nii.gz"] == one[f"{names[1]}.uncertainty.nii.gz"]
