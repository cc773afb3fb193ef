"""What it costs that large blocks of memory go back to the system, and what keeps them.

    python benchmarks/allocator.py

About 5 minutes on 2 cores; `--rounds`, `--steps`, `--width` and `--size` bound it (width 64 takes 15 minutes).
Every setting trains and predicts with a plain float32 U-Net (4 halvings, 3x3 kernels) on a batch of 4 x 1 x 256 x 256,
in a process of its own, the settings in turn. "In a thread" does so in a second thread, as a server might.

jemalloc is measured where it is found, or give its file with `--jemalloc`. Linux with glibc only.
"""

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from ctypes.util import find_library
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from measuring import machine, markdown
from torch.nn import functional as F

from scse.allocator import keep_large_blocks
from scse.networks import UNet

THRESHOLDS = "thresholds"
MALLOPT: dict[str, list[tuple[int, int]]] = {
    THRESHOLDS: [(-3, 1 << 30), (-1, (1 << 31) - 1)],  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
}
KEPT_TUNABLES = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=0xffffffffffffffff:glibc.malloc.arena_max=1"
HUGE_PAGES = "glibc.malloc.hugetlb=1"  # asks for transparent huge pages
JEMALLOC_KEEPS = "dirty_decay_ms:-1,muzzy_decay_ms:-1,oversize_threshold:0"


@dataclass(frozen=True)
class Setting:
    """How a process is started.

    Attributes:
        environment: variables that are set.
        calls: what it calls first: nothing, "keep" (`scse.allocator.keep_large_blocks`) or "thresholds".
        thread: whether the work is done in a second thread.
    """

    environment: dict[str, str] = field(default_factory=dict)
    calls: str = ""
    thread: bool = False


@dataclass(frozen=True)
class Cost:
    """Medians over the steps of one process: seconds, and pages faulted in."""

    seconds: float
    user: float
    system: float
    faults: float


def main() -> None:
    """Print the table, and where the time of the default goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each setting")
    parser.add_argument("--steps", type=int, default=5, help="that count, in each process; two before them warm up")
    parser.add_argument("--width", type=int, default=32, help="channels of the network")
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--jemalloc", default=find_library("jemalloc"), help="libjemalloc.so.2")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        print(json.dumps(child(Setting(**arguments.child), arguments)))
        return
    settings = all_settings(arguments.jemalloc)
    found: dict[str, list[dict[str, Cost]]] = {name: [] for name in settings}
    peaks: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(arguments.rounds):
        for name, setting in settings.items():
            answer = json.loads(start(setting))
            peaks[name].append(answer.pop("peak"))
            found[name].append({action: Cost(**cost) for action, cost in answer.items()})
    print(f"{machine()}; width {arguments.width}, {arguments.size} x {arguments.size} pixels\n")
    print(table(found, peaks))
    print("\n" + explanation(found))


def all_settings(jemalloc: str | None) -> dict[str, Setting]:
    """The settings by name; the first is what the others are compared with."""
    settings = {
        "default": Setting(),
        "scse.allocator": Setting(calls="keep"),
        "mmap and trim thresholds raised": Setting(calls=THRESHOLDS),
        "GLIBC_TUNABLES, as scse.allocator": Setting({"GLIBC_TUNABLES": KEPT_TUNABLES}),
        "huge pages by GLIBC_TUNABLES": Setting({"GLIBC_TUNABLES": HUGE_PAGES}),
        "huge pages by torch": Setting({"THP_MEM_ALLOC_ENABLE": "1"}),
        "scse.allocator, huge pages by GLIBC_TUNABLES": Setting({"GLIBC_TUNABLES": HUGE_PAGES}, "keep"),
        "scse.allocator, huge pages by torch": Setting({"THP_MEM_ALLOC_ENABLE": "1"}, "keep"),
        "in a thread: default": Setting(thread=True),
        "in a thread: scse.allocator": Setting(calls="keep", thread=True),
        "in a thread: thresholds raised": Setting(calls=THRESHOLDS, thread=True),
    }
    if jemalloc:
        settings["jemalloc"] = Setting({"LD_PRELOAD": jemalloc})
        settings["jemalloc that keeps"] = Setting({"LD_PRELOAD": jemalloc, "MALLOC_CONF": JEMALLOC_KEEPS})
    return settings


def start(setting: Setting) -> str:
    """Run one process; returns what it printed."""
    command = [sys.executable, *sys.argv, "--child", json.dumps(asdict(setting))]
    environment = {**os.environ, **setting.environment}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def child(setting: Setting, arguments: argparse.Namespace) -> dict[str, object]:
    """Measure in this process: costs of "step" and "predict", and the peak of its memory in MiB."""
    if setting.calls == "keep" and not keep_large_blocks():
        raise SystemExit("this system's allocator cannot be told to keep large blocks: glibc on Linux is needed")
    for parameter, value in MALLOPT.get(setting.calls, []):
        ctypes.CDLL(None).mallopt(parameter, value)
    answer: dict[str, object] = {}

    def work() -> None:
        actions = make_actions(arguments.width, arguments.size)
        answer.update({name: asdict(measure(action, arguments.steps)) for name, action in actions.items()})

    if setting.thread:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    else:
        work()
    return answer | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def make_actions(width: int, size: int) -> dict[str, Callable[[], object]]:
    """A training step and a prediction of one batch."""
    torch.manual_seed(0)
    network = UNet(1, width=width, kernel_size=3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters())
    images = torch.randn(4, 1, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(28, (4, size, size))

    def step() -> None:
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    @torch.inference_mode()
    def predict() -> torch.Tensor:
        return network(images).argmax(1)

    return {"step": step, "predict": predict}


def measure(action: Callable[[], object], steps: int) -> Cost:
    """Medians over so many calls, after two to warm up."""
    rows = []
    for _ in range(2 + steps):
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        action()
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
        used = (after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, after.ru_minflt - before.ru_minflt)
        rows.append((seconds, *used))
    return Cost(*np.median(rows[2:], axis=0).tolist())


def table(found: dict[str, list[dict[str, Cost]]], peaks: dict[str, list[float]]) -> str:
    """One row a setting: medians over its processes, ratios to the default's process of the same round."""
    [default, *_] = found.values()
    rows = []
    for name, rounds in found.items():
        times = {
            action: np.median(
                [one[action].seconds / other[action].seconds for one, other in zip(rounds, default, strict=True)]
            )
            for action in ("step", "predict")
        }
        step = {part: np.median([getattr(one["step"], part) for one in rounds]) for part in vars(rounds[0]["step"])}
        rows.append(
            (
                name,
                f"{step['seconds']:.2f}",
                f"{times['step']:.2f}",
                f"{step['user']:.2f}",
                f"{step['system']:.2f}",
                f"{step['faults']:,.0f}",
                f"{times['predict']:.2f}",
                f"{np.median(peaks[name]):,.0f}",
            )
        )
    header = ["setting", "step (s)", "to default", "user (s)", "system (s)", "page faults", "prediction to default"]
    return markdown([*header, "peak memory (MiB)"], rows)


def explanation(found: dict[str, list[dict[str, Cost]]]) -> str:
    """Where the processor time goes that a step needs more when its blocks go back to the system."""
    default, kept = (
        {part: np.median([getattr(one["step"], part) for one in found[name]]) for part in ("user", "system", "faults")}
        for name in ("default", "scse.allocator")
    )
    more = {part: default[part] - kept[part] for part in default}
    return (
        f"A step by default needs {more['user'] + more['system']:.2f} s more of processor time than with blocks kept: "
        f"{more['system']:.2f} s in the kernel and {more['user']:.2f} s outside it, for {more['faults']:,.0f} more "
        f"page faults, {1e6 * more['system'] / max(more['faults'], 1):.1f} microseconds of the kernel each."
    )


if __name__ == "__main__":
    main()
