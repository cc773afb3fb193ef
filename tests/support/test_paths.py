"""Paths that do not lead to a regular file are described, and refused with the remedy."""

import os
from pathlib import Path

import pytest

from scse.support.errors import DataError
from scse.support.paths import check_regular_file, file_problem


def test_every_kind_of_path_is_described(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "link to file").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    found = {
        name: file_problem(tmp_path / name) for name in ("file", "link to file", "folder", "pipe", "link", "nothing")
    }
    assert found == {
        "file": "",
        "link to file": "",
        "folder": "is a folder, not a file",
        "pipe": "is a named pipe (FIFO), not a file",
        "link": "is a link to gone, which does not exist",
        "nothing": "does not exist",
    }
    assert file_problem(Path("/dev/null")) == "is a device, not a file"
    assert file_problem(tmp_path / "file" / "below").startswith("cannot be read (NotADirectoryError")


def test_a_path_that_is_not_a_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        check_regular_file(tmp_path, remedy="give a CSV file")
    assert str(raised.value) == f"{tmp_path}: is a folder, not a file; give a CSV file"
    (tmp_path / "file").touch()
    check_regular_file(tmp_path / "file", remedy="give a CSV file")
