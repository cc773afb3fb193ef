"""Predictions and studies on a local Ray cluster, and a simulation of large ones. For docs/scale-out.md.

python benchmarks/scale_out.py predict --cases 10000    # 2 nodes; a worker is killed twice
python benchmarks/scale_out.py study                    # 1 and 2 workers on the same study
python benchmarks/scale_out.py dispatch                 # empty tasks a second through one driver
python benchmarks/scale_out.py simulate                 # no cluster: 1,000 runs and 1 million scans
"""

import argparse
import heapq
import os
import resource
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import torch
from measuring import markdown

import scse
from scse.data.recipe import Recipe as Preparation
from scse.executors.on_ray import OnRay, connected
from scse.inference.segmenter import Segmenter
from scse.inference.sharded import SHARD, Recipe, predict_sharded
from scse.networks import UNet
from scse.simulation.writing import simulate_cohort
from scse.support.events import UNWATCHED, Watch

OBJECT_STORE = 80 * 2**20


@contextmanager
def local_cluster() -> Iterator[OnRay]:
    """A cluster of two nodes of one CPU on this machine."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415 (an optional package, which takes seconds)

    # by default 15: other work of the machine would come first
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (the name that Ray reads)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": OBJECT_STORE})
    nodes.add_node(num_cpus=1, object_store_memory=OBJECT_STORE)
    with connected(nodes.address):
        yield OnRay(cpus=1, gpus=0)
    nodes.shutdown()


def kill_a_task() -> int:
    """Kill one process of this cluster that does a task; returns how many were killed."""
    for process in psutil.Process().children(recursive=True):
        if "ray::_do" in " ".join(process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
            return 1
    return 0


def predict(cases: int) -> None:
    """Predict tiny volumes, with workers killed at a third and at two thirds."""
    with tempfile.TemporaryDirectory() as name:
        folder, rng = Path(name), np.random.default_rng(0)
        (folder / "images").mkdir()
        images = {f"i{number:06d}": [folder / "images" / f"i{number:06d}.nii.gz"] for number in range(cases)}
        for (path,) in images.values():
            nib.save(nib.Nifti1Image(rng.normal(size=(8, 8, 4)).astype(np.float32), np.eye(4)), path)
        arguments = {"in_channels": 1, "classes": 3, "width": 4, "depth": 1, "kernel_size": 3}
        torch.manual_seed(0)
        preparation = Preparation.model_validate({"view": "axial", "spacing": None, "patch": (8, 8), "channels": 1})
        segmenter = Segmenter(UNet(**arguments), "unet", arguments, "none", preparation, {"left": 1, "right": 2})
        segmenter.save(folder / "model")
        killed = [0]
        peaks: list[int] = []

        def progress(done: int, total: int) -> None:
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
            if done * 3 >= total * (1 + killed[0]) and killed[0] < 2:
                killed[0] += kill_a_task()

        recipe = Recipe(groups=(((folder / "model", None),),))
        with local_cluster() as executor:
            began = time.perf_counter()
            failed = predict_sharded(recipe, images, folder / "out", executor=executor, progress=progress)
            seconds = time.perf_counter() - began
        began = time.perf_counter()
        segmenter.predict_files(images, folder / "alone")
        alone = time.perf_counter() - began
        written = sorted((folder / "out").glob("*.nii.gz"))
        equal = sum(path.read_bytes() == (folder / "alone" / path.name).read_bytes() for path in written)
        row = {
            "cases": cases,
            "workers killed": killed[0],
            "label maps": len(written),
            "equal to those of one process": equal,
            "failed": len(failed),
            "seconds": f"{seconds:.0f}",
            "seconds of one process": f"{alone:.0f}",
            "peak MiB of the driver, first tenth, end": f"{peaks[len(peaks) // 10]}, {peaks[-1]}",
        }
        print(markdown(list(row), [list(row.values())]))


def study(executors: dict[str, dict[str, object]]) -> None:
    """Time the same small study in this process and with workers."""
    settings = {"width": 8, "depth": 2, "epochs": 4, "batch_size": 8, "slices_per_epoch": 200}
    print("| runs are done by | seconds |\n|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = simulate_cohort(folder / "data", cases=6, seed=0)
        for what, options in executors.items():
            began = time.perf_counter()
            scse.study(
                data, out=folder / what, cache=folder / "cache", seeds=2, spacing=4.0, settings=settings, **options
            )
            print(f"| {what} | {time.perf_counter() - began:.0f} |")


def nothing(item: int, watch: Watch) -> int:
    """An empty task."""
    return item


def dispatch(tasks: int) -> None:
    """Empty tasks a second, with their messages to the driver."""
    with local_cluster() as executor:
        items = {str(number): number for number in range(tasks)}
        list(executor.each(nothing, {"warm": 0, "up": 1}, UNWATCHED))
        began = time.perf_counter()
        done = len(list(executor.each(nothing, items, UNWATCHED)))
        print(f"{done} empty tasks: {done / (time.perf_counter() - began):.0f} a second")


@dataclass(frozen=True)
class Load:
    """Work for a cluster.

    Attributes:
        name: What it is.
        tasks: Number of tasks.
        seconds: Mean time of a task on its worker; a third of it is the standard deviation.
        megabytes: What a task reads from and writes to the file system.
        survives: Part of a task's work that is on disk when its machine dies: 1 with checkpoints, 0 without.
    """

    name: str
    tasks: int
    seconds: float
    megabytes: float
    survives: float


LOADS = (
    Load("1,000 runs of 1 h", 1000, 3600, 3000, 1.0),
    Load(f"1 million scans of 20 s, {SHARD} a task", 1_000_000 // SHARD, 20.0 * SHARD, 20.0 * SHARD, 0.0),
    Load(f"1 million scans of 0.2 s, {SHARD} a task", 1_000_000 // SHARD, 0.2 * SHARD, 20.0 * SHARD, 0.0),
)


def simulate(rate: float, bandwidth: float, hours: float) -> None:
    """Simulate loads on clusters.

    Args:
        rate: Tasks that the driver hands out, a second.
        bandwidth: Megabytes that the file system moves, a second.
        hours: Mean time between failures of a worker.
    """
    print("| load | workers | hours | workers are busy | driver is busy | file system is busy | tasks done again |")
    print("|---|---|---|---|---|---|---|")
    for load in LOADS:
        for workers in (8, 64, 512, 4096):
            total, busy, driver, files, again = run(load, workers, rate, bandwidth, hours)
            shares = " | ".join(f"{100 * part / total:.0f} %" for part in (busy / workers, driver, files))
            print(f"| {load.name} | {workers} | {total / 3600:.1f} | {shares} | {again} |")


def run(
    load: Load, workers: int, rate: float, bandwidth: float, hours: float
) -> tuple[float, float, float, float, int]:
    """One driver and one file system serve one task after the other; workers compute at the same time.

    Returns:
        Seconds until the last task ends; busy seconds of all workers, of the driver, and of the file system; and the
        number of tasks that were done again.
    """
    rng = np.random.default_rng(0)
    free = [0.0] * workers
    driver_free = files_free = busy = files = end = 0.0
    handed_out = again = 0
    waiting = [1.0] * load.tasks  # the part of each task that is left
    while waiting:
        part = waiting.pop()
        driver_free += 1 / rate
        handed_out += 1
        start = max(heapq.heappop(free), driver_free)
        moving = load.megabytes / bandwidth
        files_free = max(files_free, start) + moving
        files += moving
        seconds = max(0.1, rng.normal(1, 1 / 3)) * load.seconds * part
        fails = rng.exponential(hours * 3600)
        if fails < seconds:
            waiting.append(part * (1 - load.survives * fails / seconds))
            again += 1
        used = min(seconds, fails)
        busy += used
        finished = files_free + used
        end = max(end, finished)
        heapq.heappush(free, finished)
    return end, busy, handed_out / rate, files, again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("predict", "study", "dispatch", "simulate"))
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=100.0, help="tasks a second of the driver")
    parser.add_argument("--bandwidth", type=float, default=1000.0, help="MB/s of the file system")
    parser.add_argument("--hours", type=float, default=500.0, help="between failures of a worker")
    chosen = parser.parse_args()
    match chosen.what:
        case "predict":
            predict(chosen.cases)
        case "study":
            study({"this process": {}, "2 workers": {"jobs": 2}})
        case "dispatch":
            dispatch(chosen.tasks)
        case "simulate":
            simulate(chosen.rate, chosen.bandwidth, chosen.hours)


if __name__ == "__main__":
    main()
