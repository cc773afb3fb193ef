"""What lies in a segmenter's folder: read as it was written, without torch, and refused in one line if it is not."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scse.errors import DataError
from scse.saved import DESCRIPTION, FORMAT, WEIGHTS, read_saved

WRITTEN = {
    "format": FORMAT,
    "network": "unet",
    "arguments": {"in_channels": 1, "classes": 3},
    "variant": "scse",
    "recipe": {"view": "axial"},
    "structures": {"left": 3, "right": 300},
    "settings": {"epochs": 2},
}


def write(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / DESCRIPTION).write_text(json.dumps({**WRITTEN, **changes}))
    (folder / WEIGHTS).write_bytes(b"weights")
    return folder


def test_everything_that_was_written_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    saved = read_saved(str(folder))
    found = {name: getattr(saved, name) for name in WRITTEN if name != "format"}
    assert {"format": FORMAT, **found} == WRITTEN
    assert list(saved.structures) == ["left", "right"]
    assert (saved.folder, saved.attached) == (folder, None)
    assert (saved.weights.read_bytes(), saved.description) == (b"weights", folder / DESCRIPTION)


def test_places_of_blocks_are_read_where_there_are_any(tmp_path: Path) -> None:
    assert read_saved(write(tmp_path / "model", attached=["a", "b.1"])).attached == ["a", "b.1"]
    assert read_saved(write(tmp_path / "plain", attached=[])).attached == []


def test_a_run_is_the_folder_of_its_segmenter(tmp_path: Path) -> None:
    folder = write(tmp_path / "run" / "segmenter")
    assert read_saved(tmp_path / "run") == read_saved(folder)


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"model: holds no segmenter, {name} is missing; give the folder of a trained"):
        read_saved(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "its format is 2, this version reads 1"),
        ({"structures": {"left": 3}}, "1 structures and 3 classes, where the background is one class more"),
        ({"structures": None}, "TypeError"),
        ({"arguments": {}}, "KeyError: 'classes'"),
        ({"recipe": 7}, "TypeError"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_saved(write(tmp_path / "model", **changes))
    assert str(caught.value).startswith(f"{tmp_path / 'model'}: holds no segmenter that can be read")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\x93\x00\xff", b"[]"])
def test_a_damaged_description_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = write(tmp_path / "model")
    (folder / DESCRIPTION).write_bytes(content)
    with pytest.raises(DataError, match="model: holds no segmenter that can be read"):
        read_saved(folder)


def test_torch_is_not_needed(tmp_path: Path) -> None:
    code = "import sys; from scse.saved import read_saved; read_saved(sys.argv[1]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, write(tmp_path / "model")], check=True)
