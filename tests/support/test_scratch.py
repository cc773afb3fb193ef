"""Arrays in temporary files."""

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from scse.support import scratch as module
from scse.support.scratch import scratch


def test_an_array_of_zeros_takes_values_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "PART", 64)  # so that the array is written in several parts
    with scratch((3, 5, 7), np.uint16) as array:
        assert array.shape == (3, 5, 7)
        assert array.dtype == np.uint16
        assert not array.any()
        array[1, 2] += np.arange(7, dtype=np.uint16)
        assert array.sum() == 21
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def write(self, content: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(OSError, match="No space left") as full, scratch((2,), np.uint8):
        pass
    assert full.value.filename == str(tmp_path)
