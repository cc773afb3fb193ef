"""What all benchmarks share: interleaved timing, memory, and tables in Markdown."""

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from scse.support.timing import in_turn


def interleaved(
    actions: Mapping[str, Callable[[], object]], *, rounds: int, before: Callable[[], object] = lambda: None
) -> dict[str, NDArray[np.float64]]:
    """Seconds of each action in each round, the actions in turn, so that a drift of the machine meets all alike.

    Args:
        actions: what to time, by name.
        rounds: that count; one more before them warms up.
        before: called, untimed, before each action.
    """
    seconds = in_turn(list(actions.values()), rounds, before=before)
    return dict(zip(actions, seconds.T, strict=True))


def ratio(seconds: Mapping[str, NDArray[np.float64]], of: str, to: str) -> float:
    """Median over the rounds of how many times as long `of` takes as `to` in the same round."""
    return float(np.median(seconds[of] / seconds[to]))


def milliseconds(seconds: NDArray[np.float64]) -> float:
    """Median, in milliseconds."""
    return float(np.median(seconds) * 1e3)


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def machine() -> str:
    """One line on where the numbers are from."""
    return (
        f"{_processor()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, {platform.system()}"
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in information.read_text().splitlines() if "model name" in line]
    return names[0] if names else platform.processor()
