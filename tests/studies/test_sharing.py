"""Several processes at one study: claims of runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from other_process import Other
from scse.studies import sharing
from scse.studies.sharing import claimed
from scse.support.events import StoppedError, Watch


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "run.lock"


@pytest.fixture
def other(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Other]:
    monkeypatch.setattr(sharing, "POLL_SECONDS", 0.01)
    other = Other(path)
    yield other
    other.die()


def fail() -> bool:
    raise AssertionError("checked without having waited")


UNCHECKED = Watch(stop=fail)


def test_what_nobody_holds_is_claimed_again_and_again(path: Path) -> None:
    for wait in (False, True, False):
        with claimed(path, UNCHECKED, wait=wait) as held:
            assert held


def test_what_another_process_holds_is_not_claimed(other: Other, path: Path) -> None:
    with claimed(path, UNCHECKED, wait=False) as held:
        assert not held


def test_a_claim_waits_until_the_other_process_ends_however_it_ends(other: Other, path: Path) -> None:
    asked = []

    def stop() -> bool:
        asked.append(other.process.poll())
        if len(asked) == 3:
            other.die()
        return False

    with claimed(path, Watch(stop=stop), wait=True) as held:
        assert held
    assert asked[:3] == [None, None, None]


def test_waiting_can_be_stopped(other: Other, path: Path) -> None:
    with pytest.raises(StoppedError, match="another process"), claimed(path, Watch(stop=lambda: True), wait=True):
        raise AssertionError("claimed what another process holds")


def test_an_error_gives_the_claim_up(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claimed(path, UNCHECKED, wait=False):
        raise ZeroDivisionError
    with claimed(path, UNCHECKED, wait=False) as held:
        assert held
