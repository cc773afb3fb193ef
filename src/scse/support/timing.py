"""Times of actions that are compared with each other, and how a time is told."""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

LEAST_ROUNDS = 3


def in_turn(
    actions: Sequence[Callable[[], object]],
    rounds: int,
    *,
    seconds: float = math.inf,
    before: Callable[[], object] = lambda: None,
) -> NDArray[np.float64]:
    """Seconds of each action in each round, the actions in turn, so that a drift of the machine meets all alike.

    Every other round goes backwards, so that none always finds the caches as the same other one leaves them.

    Args:
        actions: what to time.
        rounds: that count; one more before them warms up.
        seconds: after which no further round begins, once 3 are done.
        before: called, untimed, before each action.

    Returns:
        (rounds, actions), with fewer rounds where the time ended them.
    """
    found: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(found) <= rounds and (len(found) <= LEAST_ROUNDS or time.perf_counter() < end):
        row = [0.0] * len(actions)
        order = range(len(actions))
        for index in order if len(found) % 2 == 0 else reversed(order):
            before()
            began = time.perf_counter()
            actions[index]()
            row[index] = time.perf_counter() - began
        found.append(row)
    return np.array(found[1:])


def in_words(seconds: float) -> str:
    """A time for people: "45 s", "12 min", "2 h 10 min"."""
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
