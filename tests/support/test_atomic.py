"""Atomic writes: on full disks, after killed processes, and with several processes in one folder."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from scse.support import atomic
from scse.support.atomic import named, temporary_folder, write_array, write_atomic, write_together

KILLED = """
import os, signal, sys
from pathlib import Path
from scse.support import atomic
with atomic.temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_bytes(b"half")
    atomic.os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
    atomic.write_atomic(Path(sys.argv[1]) / "scores.csv", b"half")
"""

HOLDS = """
import sys
from pathlib import Path
from scse.support.atomic import temporary_folder
with temporary_folder(Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    input()
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fails(code: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_file_is_written_whole_with_its_folder_and_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "scores.csv"
    write_atomic(path, b"1,2\n")
    assert (path.read_bytes(), names(path.parent)) == (b"1,2\n", ["scores.csv"])
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG])
def test_on_a_full_disk_the_error_names_the_file_and_the_old_file_stays(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fails(code))
    with pytest.raises(OSError, match=r"scores\.csv") as raised:
        write_atomic(path, b"new")
    assert (raised.value.errno, raised.value.filename) == (code, str(path))
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["scores.csv"])


@pytest.mark.parametrize(
    ("name", "code"), [("x" * 300, errno.ENAMETOOLONG), ("folder", errno.EISDIR), ("file/below", errno.EEXIST)]
)
def test_a_path_that_cannot_be_written_is_named_as_the_user_knows_it(name: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"\[Errno") as raised:
        write_atomic(tmp_path / name, b"new")
    assert raised.value.errno == code
    assert str(raised.value.filename) == str(tmp_path / ("file" if code == errno.EEXIST else name))
    assert names(tmp_path) == ["file", "folder"]


def test_files_that_belong_together_change_all_or_none_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "weights", tmp_path / "description"
    write_together({first: b"old", second: b"old"})
    synced: list[int] = []

    def full(handle: int) -> None:
        synced.append(handle)
        if len(synced) == 2:
            fails(errno.ENOSPC)()

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="description"):
        write_together({first: b"new", second: b"new"})
    assert [path.read_bytes() for path in (first, second)] == [b"old", b"old"]
    assert names(tmp_path) == ["description", "weights"]


def test_an_array_is_written_as_numpy_saves_it(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)[:, ::-1]
    write_array(tmp_path / "a.npy", array)
    assert np.array_equal(np.load(tmp_path / "a.npy"), array)


def test_an_array_on_a_full_disk_raises_with_its_name_and_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fails(errno.ENOSPC))
    with pytest.raises(OSError, match=r"No space left on device.*a\.npy"):
        write_array(tmp_path / "a.npy", np.zeros(3))


def test_an_error_that_names_a_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="other"), named(tmp_path / "scores.csv"):
        (tmp_path / "other").read_bytes()


def test_a_temporary_folder_is_deleted_at_the_end_with_its_content(tmp_path: Path) -> None:
    with suppress(ZeroDivisionError), temporary_folder(tmp_path / "new") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").touch()
        raise ZeroDivisionError
    assert names(tmp_path / "new") == []


def kill_while_writing(folder: Path) -> list[str]:
    """Return the names of the files of a process that was killed while it wrote a file and a folder."""
    assert subprocess.run([sys.executable, "-c", KILLED, folder], check=False).returncode < 0
    return names(folder)


def test_the_next_process_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    (tmp_path / ".scse-mine").touch()
    (tmp_path / ".scores.csv.abcdefgh").touch()
    left = kill_while_writing(tmp_path)
    assert len(left) == 5, left
    write_atomic(tmp_path / "scores.csv", b"whole")
    assert names(tmp_path) == [".scores.csv.abcdefgh", ".scse-mine", "scores.csv"]


def test_what_a_living_process_writes_is_left_alone_however_old(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        folder = Path(other.stdout.readline().strip())
        old = time.time() - 2 * atomic.DAY
        os.utime(folder.with_suffix(atomic.PART), (old, old))
        write_atomic(tmp_path / "scores.csv", b"whole")
        assert folder.is_dir()
        other.communicate("\n")
    assert other.returncode == 0
    assert names(tmp_path) == ["scores.csv"]


def leave(folder: Path, *, age: float) -> None:
    """Create an unfinished file and folder of another machine, whose lock may not be visible on this one."""
    part = folder / ".scse-0123abcd-xyz.part"
    part.touch()
    part.with_suffix(".d").mkdir()
    os.utime(part, (time.time() - age,) * 2)


def test_what_another_machine_may_still_write_stays_for_a_day(tmp_path: Path) -> None:
    leave(tmp_path, age=atomic.DAY - 600)
    write_atomic(tmp_path / "scores.csv", b"whole")
    assert names(tmp_path) == [".scse-0123abcd-xyz.d", ".scse-0123abcd-xyz.part", "scores.csv"]


@pytest.mark.parametrize("locks", [True, False])
def test_what_another_machine_left_a_day_ago_is_removed(
    locks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not locks:  # as on some network file systems
        monkeypatch.setattr(atomic.fcntl, "flock", fails(errno.ENOLCK))
    leave(tmp_path, age=atomic.DAY + 600)
    write_atomic(tmp_path / "scores.csv", b"whole")
    assert names(tmp_path) == ["scores.csv"]


def test_without_locks_what_was_just_made_here_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = kill_while_writing(tmp_path)
    monkeypatch.setattr(atomic.fcntl, "flock", fails(errno.ENOLCK))
    write_atomic(tmp_path / "scores.csv", b"whole")
    assert names(tmp_path) == [*left, "scores.csv"]


def test_a_file_removed_before_it_was_locked_is_created_and_locked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = atomic.fcntl.flock
    removed: list[Path] = []

    def late(handle: int, operation: int) -> None:
        if not removed:
            removed.extend(tmp_path.glob(".scse-*.part"))
            removed[0].unlink()
        flock(handle, operation)

    monkeypatch.setattr(atomic.fcntl, "flock", late)
    with temporary_folder(tmp_path) as folder:
        assert len(removed) == 1
        with folder.with_suffix(atomic.PART).open() as part, pytest.raises(BlockingIOError):
            flock(part.fileno(), atomic.fcntl.LOCK_EX | atomic.fcntl.LOCK_NB)
    assert names(tmp_path) == []
