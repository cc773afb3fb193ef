"""Who watches and what may stop, as one value."""

from dataclasses import FrozenInstanceError

import pytest

from scse.support.events import UNWATCHED, Event, Progress, Stage, StoppedError, Watch


def test_by_default_nobody_watches_and_nothing_stops():
    assert Watch() == UNWATCHED
    UNWATCHED.report(Stage("anything"))
    UNWATCHED.check("never raised")
    UNWATCHED.counter("inspect")(1, 1)


def test_events_are_passed_on_and_cannot_be_changed():
    seen: list[Event] = []
    event = Stage("measuring")
    Watch(seen.append).report(event)
    assert seen == [event]
    assert seen[0] is event
    with pytest.raises(FrozenInstanceError):
        event.what = "other"


def test_a_check_raises_its_message_only_when_asked_to_stop():
    answers = iter([False, True])
    watch = Watch(stop=lambda: next(answers))
    watch.check("first")
    with pytest.raises(StoppedError, match=r"^second$"):
        watch.check("second")


def test_a_counter_reports_progress_before_it_stops():
    seen: list[Event] = []
    count = Watch(seen.append, lambda: len(seen) == 2).counter("prepare")
    count(1, 3)
    with pytest.raises(StoppedError, match=r"^stopped after 2 of 3 \(prepare\)$"):
        count(2, 3)
    assert seen == [Progress("prepare", 1, 3), Progress("prepare", 2, 3)]


def test_a_checking_watch_stops_at_the_first_event_with_its_own_message():
    seen: list[Event] = []
    watch = Watch(seen.append, lambda: True).checking("stopped while the report was made")
    with pytest.raises(StoppedError, match=r"^stopped while the report was made$"):
        watch.counter("gates")(1, 3)
    assert seen == [Progress("gates", 1, 3)]
