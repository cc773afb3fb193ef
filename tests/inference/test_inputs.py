"""Grouping of files into images: channels together, all other files alone, no two results of one name."""

import os
from pathlib import Path

import pytest

from scse.inference.inputs import find_images
from scse.support.errors import DataError


def touch(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return [folder / name for name in names]


def found(*paths: Path, channels: int = 1) -> dict[str, list[str]]:
    return {name: [file.name for file in files] for name, files in find_images(paths, channels=channels).items()}


def test_images_of_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "b.nii.gz", "a.png", "1003_3.nii", "notes.txt", ".hidden.nii.gz", "dataset.json")
    assert found(tmp_path) == {"1003_3": ["1003_3.nii"], "a": ["a.png"], "b": ["b.nii.gz"]}


def test_channels_of_one_image(tmp_path: Path) -> None:
    touch(tmp_path, "b_0001.nii.gz", "a_0000.nii.gz", "b_0000.nii.gz", "a_0001.nii.gz", "c.nii.gz")
    assert found(tmp_path, channels=2) == {
        "a": ["a_0000.nii.gz", "a_0001.nii.gz"],
        "b": ["b_0000.nii.gz", "b_0001.nii.gz"],
        "c": ["c.nii.gz"],  # one file with all channels
    }


def test_channels_are_in_order_however_they_are_named(tmp_path: Path) -> None:
    files = touch(tmp_path, "a_0001.nii.gz", "a_0000.nii.gz")
    assert found(*files, channels=2) == {"a": ["a_0000.nii.gz", "a_0001.nii.gz"]}


def test_one_channel_of_a_one_channel_model(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.nii.gz", "b_0000.nii.gz")
    assert found(tmp_path) == {"a": ["a_0000.nii.gz"], "b": ["b_0000.nii.gz"]}


def test_numbered_pictures_are_images_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "IMG_0001.png", "IMG_0002.png", "IMG_0003.png")
    expected = {f"IMG_000{n}": [f"IMG_000{n}.png"] for n in (1, 2, 3)}
    assert found(tmp_path) == expected
    assert found(tmp_path, channels=3) == expected
    touch(tmp_path, "IMG_0000.png")
    assert found(tmp_path) == {"IMG": ["IMG_0000.png"], **expected}


def test_files_and_folders_together_each_file_once(tmp_path: Path) -> None:
    touch(tmp_path / "one", "a.png", "b.png")
    touch(tmp_path / "two", "c.png")
    assert list(found(tmp_path / "two", tmp_path / "one/b.png", tmp_path / "one")) == ["c", "b", "a"]


def test_a_file_of_any_name_is_taken_when_named(tmp_path: Path) -> None:
    assert found(*touch(tmp_path, "scan.dat")) == {"scan.dat": ["scan.dat"]}  # reading it checks the ending


@pytest.mark.parametrize(
    ("names", "channels", "message"),
    [
        (["a_0000.nii.gz", "a_0002.nii.gz"], 2, "a: found .*a_0002.nii.gz, but the model expects .*a_0000, a_0001"),
        (["a_0000.nii.gz", "a_0001.nii.gz"], 3, "expects the channels a_0000, a_0001, a_0002"),
        (["a_0000.nii.gz", "a_0001.nii.gz", "a_0002.nii.gz"], 2, "expects the channels a_0000, a_0001$"),
        (["a.nii.gz", "a.png"], 1, r"2 images have the same output name, a \(.*a.nii.gz, .*a.png\); rename"),
        (["a.nii.gz", "a_0000.nii.gz"], 1, "2 images have the same output name, a"),
    ],
)
def test_files_that_do_not_fit_together(tmp_path: Path, names: list[str], channels: int, message: str) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        find_images([tmp_path], channels=channels)


@pytest.mark.parametrize("channels", [1, 2])
def test_one_name_in_two_folders(tmp_path: Path, channels: int) -> None:
    paths = [*touch(tmp_path / "one", "a.nii.gz"), *touch(tmp_path / "two", "a.nii.gz")]
    with pytest.raises(DataError, match=r"one/a.nii.gz, .*two/a.nii.gz.*different folders"):
        find_images(paths, channels=channels)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: does not exist"):
        find_images([tmp_path / "nowhere"], channels=1)
    touch(tmp_path / "empty", "notes.txt")
    with pytest.raises(DataError, match="empty: contains no images; allowed: NIfTI, MGH"):
        find_images([tmp_path / "empty"], channels=1)


def test_paths_that_are_neither_files_nor_folders(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii.gz")
    with pytest.raises(DataError, match=r"pipe\.nii\.gz: is a named pipe \(FIFO\), not a file"):
        find_images([tmp_path / "pipe.nii.gz"], channels=1)
    (tmp_path / "link.nii.gz").symlink_to("gone.nii.gz")
    with pytest.raises(
        DataError, match=r"link\.nii\.gz: is a link to gone\.nii\.gz, which does not exist; give images"
    ):
        find_images([tmp_path / "link.nii.gz"], channels=1)


def test_endings_are_known_in_upper_case(tmp_path: Path) -> None:
    touch(tmp_path, "a_0001.NII.GZ", "a_0000.NII.GZ", "b.PNG", "c.Tif")
    assert found(tmp_path, channels=2) == {"a": ["a_0000.NII.GZ", "a_0001.NII.GZ"], "b": ["b.PNG"], "c": ["c.Tif"]}
