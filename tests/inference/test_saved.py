"""Folders of segmenters: read without torch, and refused with one line if they are damaged."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scse.inference.saved import DESCRIPTION, FORMAT, NO_CLEANING, WEIGHTS, Cleaning, read_saved
from scse.support.errors import DataError

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


def test_sorted_keys_do_not_change_the_order_of_the_structures(tmp_path: Path) -> None:
    structures = {"right": 300, "left": 3}
    saved = read_saved(write(tmp_path / "model", structures=dict(sorted(structures.items())), classes=[*structures]))
    assert list(saved.structures) == ["right", "left"]
    with pytest.raises(
        DataError, match=r"segmenter\.json: classes are \['left'\], but structures are \['left', 'right'\]"
    ):
        read_saved(write(tmp_path / "other", classes=["left"]))


def test_places_of_blocks_are_read_where_there_are_any(tmp_path: Path) -> None:
    assert read_saved(write(tmp_path / "model", attached=["a", "b.1"])).attached == ["a", "b.1"]
    assert read_saved(write(tmp_path / "plain", attached=[])).attached == []


def test_the_clean_up_is_read_and_older_folders_have_none(tmp_path: Path) -> None:
    assert read_saved(write(tmp_path / "older")).cleaning == NO_CLEANING
    steps = {"largest_foreground": True, "keep_largest": ["right", "left"], "fill_holes": ["left"]}
    found = read_saved(write(tmp_path / "model", cleaning=steps)).cleaning
    assert found == Cleaning(largest_foreground=True, keep_largest=("right", "left"), fill_holes=("left",))
    assert read_saved(write(tmp_path / "part", cleaning={"fill_holes": ["left"]})).cleaning.fill_holes == ("left",)


def test_a_run_is_the_folder_of_its_segmenter(tmp_path: Path) -> None:
    folder = write(tmp_path / "run" / "segmenter")
    assert read_saved(tmp_path / "run") == read_saved(folder)


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(
        DataError, match=f"model: contains no segmenter, {name} is missing; give the folder of a trained"
    ):
        read_saved(folder)


def known(*, channels: int = 1, quantiles: int = 5, spacing: float | None = 1) -> dict[str, Any]:
    """What is known of images; as given here by default, it is right."""
    images = {
        "spacing": [[spacing, spacing]] * 3,
        "extent": [[100, 200]] * 3,
        "intensities": [[[-0.1, 0.1]] * quantiles] * channels,
    }
    return {"cases": 5, "volumes": {"left": [0, 1], "right": [0, 1]}, "images": images}


def test_what_is_known_of_images_is_read_and_older_folders_have_none(tmp_path: Path) -> None:
    found = read_saved(write(tmp_path / "model", known=known())).known
    assert found is not None
    assert found.images is not None
    assert found.images.extent == ((100, 200),) * 3
    older = read_saved(write(tmp_path / "older", known={**known(), "images": None})).known
    assert older is not None
    assert older.images is None


WRONG = {
    "format": [(2, "its format is 2, but this version reads format 1"), (True, "format: "), ("1", "its format is '1'")],
    "network": [(None, "network: "), ("", "network: "), (["unet"], "network: ")],
    "variant": [(None, "variant: "), (7, "variant: ")],
    "arguments": [
        ({}, "arguments.in_channels: Field required"),
        (None, "arguments: "),
        ({"in_channels": 1, "classes": 3, "shell": 1}, "arguments.shell: "),
        ({"in_channels": 1.7, "classes": 3}, "arguments.in_channels: .*got 1.7"),
        ({"in_channels": 1.0, "classes": 3}, "arguments.in_channels: .*got 1.0"),
        ({"in_channels": True, "classes": 3}, "arguments.in_channels: .*got True"),
        ({"in_channels": "1", "classes": 3}, "arguments.in_channels: .*got '1'"),
        ({"in_channels": 0, "classes": 3}, "arguments.in_channels: .*greater than or equal to 1"),
        ({"in_channels": 1, "classes": 3, "width": 10**9}, "arguments.width: .*less than or equal to"),
        ({"in_channels": 1, "classes": 3, "width": None}, "arguments.width: "),
        ({"in_channels": 1, "classes": 3, "depth": -1}, "arguments.depth: "),
    ],
    "structures": [
        ({"left": 3}, "1 structures and 3 classes, but the number of classes must be that of the structures plus one"),
        ({"left": 3, "right": 3}, "structures: a label value is listed twice"),
        (None, "structures: "),
        ({}, "structures: "),
        ({"left": 3, "right": 1.5}, "structures.right: .*got 1.5"),
        ({"left": 3, "right": "4"}, "structures.right: .*got '4'"),
        ({"left": 3, "right": 0}, "structures.right: "),
        ({"left": 3, "right": -1}, "structures.right: "),
        ({"left": 3, "right": 2**40}, "structures.right: "),
        ({"": 3, "right": 1}, "structures..*: "),
        ({str(n): n for n in range(1, 257)}, "structures: .*at most 255"),
    ],
    "recipe": [(7, "recipe: "), ({"channels": 4}, "recipe.channels is 4, but arguments.in_channels is 1")],
    "settings": [(None, "settings: "), ([], "settings: ")],
    "attached": [("a", "attached: "), ([1], "attached.0: .*got 1"), ([""], "attached.0: ")],
    "cleaning": [
        (None, "cleaning: "),
        ({"largest": True}, "cleaning.largest: Extra inputs"),
        ({"largest_foreground": "yes"}, "cleaning.largest_foreground: .*got 'yes'"),
        ({"keep_largest": "left"}, "cleaning.keep_largest: "),
        ({"keep_largest": [1]}, "cleaning.keep_largest.0: .*got 1"),
        ({"fill_holes": ["top"]}, r"cleaning.fill_holes lists 'top', but structures are \['left', 'right'\]"),
        ({"keep_largest": ["left", "left"]}, "cleaning.keep_largest lists a structure twice"),
    ],
    "known": [
        ({"cases": 5, "volumes": {"left": [2, 1], "right": [0, 1]}}, "known.volumes of 'left' end below their start"),
        (known(channels=2), "known.images.intensities are of 2 channels, but arguments.in_channels is 1"),
        (known(quantiles=4), "known.images.intensities.0: .*at least 5"),
        (known(spacing=0), "known.images.spacing.0.0: .*greater than 0"),
        (known(spacing=None), "known.images.spacing.0.0: "),
    ],
    "shell": [("ls", "shell: Extra inputs")],
}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [(field, value, message) for field, wrong in WRONG.items() for value, message in wrong],
)
def test_a_wrong_field_is_named_with_its_file(tmp_path: Path, field: str, value: Any, message: str) -> None:
    folder = write(tmp_path / "model", **{field: value})
    with pytest.raises(DataError, match=message) as caught:
        read_saved(folder)
    assert str(caught.value).startswith(f"{folder / DESCRIPTION}: ")
    assert str(caught.value).endswith("the segmenter again")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", [name for name in WRITTEN if name != "recipe"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    folder = write(tmp_path / "model")
    left = {name: value for name, value in WRITTEN.items() if name != field}
    (folder / DESCRIPTION).write_text(json.dumps(left))
    with pytest.raises(DataError, match=f"{field}: Field required"):
        read_saved(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\x93\x00\xff", b"[]", b"null", b"[" * 5000 + b"]" * 5000, b'{"format": 1' + b"0" * 6000 + b"}"],
    ids=["empty", "half", "binary", "list", "null", "nested", "huge"],
)
def test_a_damaged_description_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = write(tmp_path / "model")
    (folder / DESCRIPTION).write_bytes(content)
    with pytest.raises(DataError, match=r"model/segmenter\.json: .* the segmenter again") as caught:
        read_saved(folder)
    assert "\n" not in str(caught.value)


def test_torch_is_not_needed(tmp_path: Path) -> None:
    code = (
        "import sys; from scse.inference.saved import read_saved; "
        "print(read_saved(sys.argv[1]).network, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, write(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "unet False\n"


NESTED = {"arguments": {"in_channels": 1, "classes": 2}, "regions": {"left": [3, 300], "right": [300]}}


def test_regions_are_read_and_older_folders_have_none(tmp_path: Path) -> None:
    assert read_saved(write(tmp_path / "older")).regions == {}
    assert read_saved(write(tmp_path / "model", **NESTED)).regions == {"left": (3, 300), "right": (300,)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arguments": WRITTEN["arguments"]}, "it lists 2 regions and 3 outputs, but each region has one output"),
        ({"regions": {"left": [3]}}, r"regions are \['left'\], but structures are \['left', 'right'\]"),
        ({"regions": {"left": [3], "right": [3]}}, r"label value of 'right' is 300, but its region is \[3\]"),
        ({"regions": {"left": [3], "right": []}}, "regions.right: "),
        ({"cleaning": {"largest_foreground": True}}, "the clean-up is largest component .*, but regions have none"),
    ],
)
def test_wrong_regions_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_saved(write(tmp_path / "model", **NESTED | changes))
