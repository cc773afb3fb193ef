"""Tables of images: written seldom where they are long, and whole at the end."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from scse.inference import image_table

COLUMNS = ("image", "structure", "voxels")


def test_a_long_table_is_written_seldom_and_whole_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, writes = [0.0], []

    def slow(path: Path, content: bytes) -> None:
        now[0] += 1.0
        writes.append(content)
        path.write_bytes(content)

    monkeypatch.setattr(image_table, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(image_table, "write_atomic", slow)
    with image_table.ImageTable(tmp_path / "volumes.csv", COLUMNS) as table:
        for number in range(100):
            now[0] += 0.5  # an image
            table.put({f"i{number}": [[f"i{number}", "left", "7"]]})
        within = len(writes)
    assert 2 <= within <= 5  # of 100, in 50 seconds
    assert len(writes) == within + 1
    assert len(pd.read_csv(tmp_path / "volumes.csv")) == 100


def test_a_table_that_is_interrupted_has_all_rows(tmp_path: Path) -> None:
    def interrupted() -> None:
        with image_table.ImageTable(tmp_path / "volumes.csv", COLUMNS) as table:
            for number in range(50):
                table.put({f"i{number}": [[f"i{number}", "left", "7"]]})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(pd.read_csv(tmp_path / "volumes.csv")) == 50
