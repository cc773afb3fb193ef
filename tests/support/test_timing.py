"""Actions are timed interleaved, for the requested rounds or as many as the time allows."""

from collections.abc import Callable

import numpy as np
import pytest

from scse.support import timing


class Clock:
    """A clock that only actions advance."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def action(self, name: str, first: float, later: float) -> Callable[[], None]:
        def act() -> None:
            self.now += later if name in self.calls else first
            self.calls.append(name)

        return act


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    return clock


def test_actions_are_timed_in_turn_after_a_round_to_warm_up(clock: Clock) -> None:
    seconds = timing.in_turn([clock.action("plain", 50.0, 2.0), clock.action("scse", 90.0, 3.0)], 3)
    assert clock.calls == ["plain", "scse", "scse", "plain"] * 2  # every other round runs in reverse order
    np.testing.assert_array_equal(seconds, [[2.0, 3.0]] * 3)


def test_what_runs_before_an_action_is_not_timed(clock: Clock) -> None:
    seconds = timing.in_turn([clock.action("step", 1.0, 1.0)], 2, before=clock.action("before", 10.0, 10.0))
    assert clock.calls == ["before", "step"] * 3
    np.testing.assert_array_equal(seconds, [[1.0]] * 2)


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 3), (11.0, 3), (12.5, 4), (40.0, 18), (1e9, 50)])
def test_no_round_starts_after_the_time_but_three_are_complete(clock: Clock, seconds: float, rounds: int) -> None:
    assert timing.in_turn([clock.action("step", 5.0, 2.0)], 50, seconds=seconds).shape == (rounds, 1)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (45.4, "45 s"), (100, "100 s"), (720, "12 min"), (7800, "2 h 10 min"), (36300, "10 h 05 min")],
)
def test_a_time_is_formatted_in_words(seconds, words):
    assert timing.in_words(seconds) == words
