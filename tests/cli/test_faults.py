"""Faults of the machine in one message: what is wrong, with which file, and how to go on."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from scse.cli import faults
from scse.cli.faults import REMEDIES, fault_text


@pytest.mark.parametrize("code", REMEDIES)
def test_every_fault_names_the_file_and_the_remedy(code: int, tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "scores.csv")
    message = fault_text(OSError(code, os.strerror(code), path))
    assert message.startswith(f"{path}: ")
    assert REMEDIES[code][1] in message
    assert "\n" not in message


def test_a_full_disk_says_how_much_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults.shutil, "disk_usage", lambda _: SimpleNamespace(free=300 * 1024))
    assert "the disk is full (0.3 MiB free)" in fault_text(OSError(errno.ENOSPC, "full", str(tmp_path / "a")))


def test_a_disk_without_inodes_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
    monkeypatch.setattr(faults.os, "statvfs", lambda _: SimpleNamespace(f_files=1000, f_favail=0))
    assert "all of its inodes are in use" in fault_text(OSError(errno.ENOSPC, "full", str(tmp_path / "a")))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_what_libraries_say_without_a_number_is_understood(code: int) -> None:
    message = fault_text(RuntimeError(f"RESOURCE_EXHAUSTED: /out/variables; {os.strerror(code)}"))
    assert REMEDIES[code][0] in message
    assert "/out/variables" in message


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("x"), OSError("without a number")])
def test_other_errors_are_no_faults(error: Exception) -> None:
    assert fault_text(error) is None


def test_an_unknown_fault_is_told_as_the_system_tells_it() -> None:
    assert fault_text(OSError(errno.ELOOP, "", "/a")) == f"/a: {os.strerror(errno.ELOOP)}"


def test_the_folder_of_prepared_arrays_names_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCSE_CACHE", str(tmp_path / "home" / "cache"))
    for path in (tmp_path / "home", tmp_path / "home" / "cache" / "0123" / "images.npy"):
        assert "SCSE_CACHE" in fault_text(PermissionError(errno.EACCES, "", str(path)))
    assert "SCSE_CACHE" not in fault_text(PermissionError(errno.EACCES, "", str(tmp_path / "out")))


def test_without_a_folder_for_temporary_files_the_variable_is_named() -> None:
    error = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")
    assert "TMPDIR" in fault_text(error)


def test_without_a_home_the_fault_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SCSE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    assert fault_text(PermissionError(errno.EACCES, "", "/out")).startswith("/out: permission denied")
