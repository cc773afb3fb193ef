"""Several processes at one study: claims of runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from other_process import Other
from scse.studies import sharing
from scse.studies.sharing import claimed
from scse.training.run import StoppedError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "run.lock"


@pytest.fixture
def other(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Other]:
    monkeypatch.setattr(sharing, "POLL_SECONDS", 0.01)
    other = Other(path)
    yield other
    other.die()


def never() -> bool:
    raise AssertionError("asked to stop without having waited")


def test_what_nobody_holds_is_claimed_again_and_again(path: Path) -> None:
    for wait in (False, True, False):
        with claimed(path, never, wait=wait) as held:
            assert held


def test_what_another_process_holds_is_not_claimed(other: Other, path: Path) -> None:
    with claimed(path, never, wait=False) as held:
        assert not held


def test_a_claim_waits_until_the_other_process_ends_however_it_ends(other: Other, path: Path) -> None:
    asked = []

    def stop() -> bool:
        asked.append(other.process.poll())
        if len(asked) == 3:
            other.die()
        return False

    with claimed(path, stop, wait=True) as held:
        assert held
    assert asked[:3] == [None, None, None]


def test_waiting_can_be_stopped(other: Other, path: Path) -> None:
    with pytest.raises(StoppedError, match="another process"), claimed(path, lambda: True, wait=True):
        raise AssertionError("claimed what another process holds")


def test_an_error_gives_the_claim_up(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claimed(path, never, wait=False):
        raise ZeroDivisionError
    with claimed(path, never, wait=False) as held:
        assert held
