"""Timing of actions that are compared with each other, and times in words."""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

MIN_ROUNDS = 3


def in_turn(
    actions: Sequence[Callable[[], object]],
    rounds: int,
    *,
    seconds: float = math.inf,
    before: Callable[[], object] = lambda: None,
) -> NDArray[np.float64]:
    """Time actions interleaved, so that machine drift affects all equally.

    Every other round runs the actions in reverse order, so that the caches are not always left by the same action.

    Args:
        actions: Actions to time.
        rounds: Number of rounds that are timed. One warm-up round precedes them.
        seconds: Time after which no further round starts, once 3 rounds are complete.
        before: Function that is called before each action, without being timed.

    Returns:
        Seconds of each action in each round, (rounds, actions). There may be fewer rounds if the time is limited.
    """
    found: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(found) <= rounds and (len(found) <= MIN_ROUNDS or time.perf_counter() < end):
        row = [0.0] * len(actions)
        order = range(len(actions))
        for index in order if len(found) % 2 == 0 else reversed(order):
            before()
            start = time.perf_counter()
            actions[index]()
            row[index] = time.perf_counter() - start
        found.append(row)
    return np.array(found[1:])


def in_words(seconds: float) -> str:
    """Format a time: "45 s", "12 min", "2 h 10 min"."""
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
