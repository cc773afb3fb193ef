"""Folders: three layouts are recognised, everything else is refused with one clear message."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scse.data import Case, Dataset
from scse.errors import DataError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def nnunet(folder: Path, **changes: Any) -> Path:
    """Two training cases of two channels and one test case, all files empty."""
    for case in "ab":
        touch(folder / f"imagesTr/{case}_0000.nii.gz", folder / f"imagesTr/{case}_0001.nii.gz")
        touch(folder / f"labelsTr/{case}.nii.gz")
    touch(folder / "imagesTs/t_0000.nii.gz", folder / "imagesTs/t_0001.nii.gz")
    description = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "liver": 1, "spleen": 5},
        "file_ending": ".nii.gz",
    }
    write_json(folder / "dataset.json", {**description, **changes})
    return folder


def msd(folder: Path, **changes: Any) -> Path:
    description = {
        "name": "Liver",
        "modality": {"0": "T1", "1": "T2"},
        "labels": {"0": "background", "1": "liver"},
        "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in "ba"],
        "test": ["./imagesTs/t.nii.gz"],
    }
    folder.mkdir(exist_ok=True)
    write_json(folder / "dataset.json", {**description, **changes})
    return folder


def folders(folder: Path, table: str | None = None, *, masks: str = "masks") -> Path:
    touch(*(folder / f"images/{case}.jpg" for case in "ab"), *(folder / f"{masks}/{case}.png" for case in "ab"))
    if table is not None:
        (folder / "labels.csv").write_text(table)
    return folder


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def test_nnunet_folders(tmp_path: Path) -> None:
    folder = nnunet(tmp_path / "Dataset001_X")
    dataset = Dataset.open(str(folder))
    assert (dataset.name, dataset.format, dataset.channels) == ("Dataset001_X", "nnunet", ("T1", "T2"))
    assert dataset.structures == {"liver": 1, "spleen": 5}
    assert [case.name for case in dataset.cases] == ["a", "b"]
    images = folder / "imagesTr/a_0000.nii.gz", folder / "imagesTr/a_0001.nii.gz"
    assert dataset.cases[0] == Case("a", images, folder / "labelsTr/a.nii.gz")
    assert [(case.name, case.label) for case in dataset.test_cases] == [("t", None)]
    assert (dataset.splits, dataset.colors) == ((), None)


def test_nnunet_test_labels_are_found(tmp_path: Path) -> None:
    folder = nnunet(tmp_path)
    touch(folder / "labelsTs/t.nii.gz")
    assert Dataset.open(folder).test_cases[0].label == folder / "labelsTs/t.nii.gz"


def test_nnunet_cases_that_lack_a_file_are_kept_for_inspection(tmp_path: Path) -> None:
    folder = nnunet(tmp_path)
    (folder / "imagesTr/a_0001.nii.gz").unlink()
    (folder / "labelsTr/b.nii.gz").unlink()
    touch(folder / "labelsTr/c.nii.gz", folder / "imagesTr/.hidden_0000.nii.gz", folder / "imagesTr/notes.txt")
    a, b, c = Dataset.open(folder).cases
    assert [path.name for path in a.images] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert b.label == folder / "labelsTr/b.nii.gz"
    assert c == Case("c", (), folder / "labelsTr/c.nii.gz")


def test_one_nnunet_picture_may_hold_all_channels(tmp_path: Path) -> None:
    folder = nnunet(tmp_path, file_ending=".png", channel_names={"0": "R", "1": "G", "2": "B"})
    touch(folder / "imagesTr/a_0000.png", folder / "labelsTr/a.png")
    assert Dataset.open(folder).cases == (Case("a", (folder / "imagesTr/a_0000.png",), folder / "labelsTr/a.png"),)


def test_decathlon_folders(tmp_path: Path) -> None:
    dataset = Dataset.open(msd(tmp_path))
    assert (dataset.name, dataset.format, dataset.channels) == ("Liver", "msd", ("T1", "T2"))
    assert dataset.structures == {"liver": 1}
    assert dataset.cases[0] == Case("a", (tmp_path / "imagesTr/a.nii.gz",), tmp_path / "labelsTr/a.nii.gz")
    assert [case.name for case in dataset.cases] == ["a", "b"]
    assert dataset.test_cases == (Case("t", (tmp_path / "imagesTs/t.nii.gz",), None),)
    touch(tmp_path / "labelsTs/t.nii.gz")
    assert Dataset.open(tmp_path).test_cases[0].label == tmp_path / "labelsTs/t.nii.gz"


@pytest.mark.parametrize("masks", ["masks", "labels"])
def test_plain_folders_are_paired_by_name(tmp_path: Path, masks: str) -> None:
    folder = folders(tmp_path, masks=masks)
    touch(folder / "images/c.png", folder / f"{masks}/d.png", folder / "images/a.txt")
    dataset = Dataset.open(folder)
    assert (dataset.format, dataset.channels, dataset.structures) == ("folders", (), {})
    a, b, c, d = dataset.cases
    assert a == Case("a", (folder / "images/a.jpg",), folder / f"{masks}/a.png")
    assert (b.name, c.label, d.images) == ("b", folder / f"{masks}/c.png", ())
    assert dataset.test_cases == ()


def test_plain_test_folders(tmp_path: Path) -> None:
    folder = folders(tmp_path)
    touch(folder / "test/images/x.nii.gz")
    assert Dataset.open(folder).test_cases == (Case("x", (folder / "test/images/x.nii.gz",), None),)
    touch(folder / "test/masks/x.nii.gz")
    assert Dataset.open(folder).test_cases[0].label == folder / "test/masks/x.nii.gz"


def test_a_name_that_is_there_twice_becomes_two_cases(tmp_path: Path) -> None:
    folder = folders(tmp_path)
    touch(folder / "images/a.png", folder / "masks/b.tif")
    files = [(case.name, case.images[0].name, case.label.name) for case in Dataset.open(folder).cases if case.label]
    assert files == [
        ("a", "a.jpg", "a.png"),
        ("a", "a.png", "a.png"),
        ("b", "b.jpg", "b.png"),
        ("b", "b.jpg", "b.tif"),
    ]


BLACK, RED, GREEN = (0, 0, 0), (255, 0, 0), (0, 128, 0)


@pytest.mark.parametrize(
    ("table", "structures", "colors"),
    [
        ("name,value\nforeground,255\n", {"foreground": 255}, None),
        ("\ufeffName, Value\nbackground,0\ncup,2\ndisc,1\n", {"cup": 2, "disc": 1}, None),
        ("name,r,g,b\ncup,255,0,0\ndisc,0,128,0\n", {"cup": 1, "disc": 2}, {0: BLACK, 1: RED, 2: GREEN}),
        ("name,color\nbackground,#008000\ncup,#ff0000\n", {"cup": 1}, {0: GREEN, 1: RED}),
        ("name,value,color\ncup,7,FF0000\n", {"cup": 7}, {0: BLACK, 7: RED}),
    ],
)
def test_labels_csv_names_the_structures(
    tmp_path: Path, table: str, structures: dict[str, int], colors: dict[int, Any] | None
) -> None:
    dataset = Dataset.open(folders(tmp_path, table))
    assert dataset.structures == structures
    assert dataset.colors == colors


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "found the columns nothing; allowed: name,value or"),
        ("label,id\ncup,1\n", "found the columns label,id; allowed: name,value or"),
        ("name,value\ncup,one\n", "'cup' has the label value 'one'; allowed: whole numbers from 0"),
        ("name,value\ncup,-1\n", "'cup' has the label value '-1'"),
        ("name,value\ncup\n", "'cup' has the label value ''"),
        ("name,value\ncup,1\ncup,2\n", "'cup' is listed twice"),
        ("name,value\ncup,1\ndisc,1\n", "value 1 is listed twice"),
        ("name,value\nbackground,0\n", "no structure besides the background"),
        ("name,value\n", "list at least one structure"),
        ("name,color\ncup,red\n", "found 'cup,red'; a colour is #rrggbb"),
        ("name,r,g,b\ncup,256,0,0\n", "found 'cup,256,0,0'"),
        ("name,r,g,b\ncup,1,1,1\ndisc,1,1,1\n", r"colour \(1, 1, 1\) is listed twice"),
    ],
)
def test_a_wrong_labels_csv_is_refused(tmp_path: Path, table: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"labels\.csv: .*{message}"):
        Dataset.open(folders(tmp_path, table))


def test_a_labels_csv_in_another_encoding_is_refused(tmp_path: Path) -> None:
    folder = folders(tmp_path)
    (folder / "labels.csv").write_bytes("name,value\nbü,1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"labels\.csv: cannot be read .*UTF-8"):
        Dataset.open(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"background": 0, "whole": [1, 2]}}, r"'whole' is a region of labels \[1, 2\]"),
        ({"labels": {"background": 0, "liver": 1, "ignore": 2}}, "ignore label"),
        ({"labels": {"background": 0}}, "no structure"),
        ({"labels": None}, "found the labels None"),
        ({"labels": {"liver": 1.5}}, "label value 1.5"),
        ({"labels": {"liver": True}}, "label value True"),
        ({"labels": {"liver": 1, "spleen": 1}}, "value 1 is listed twice"),
        ({"file_ending": ".mha"}, r"file_ending is '\.mha'; allowed: \.nii\.gz"),
        ({"file_ending": None}, r"file_ending is 'None'; allowed"),
        ({"channel_names": {"1": "T1"}}, "number the channels from 0"),
        ({"channel_names": {}}, "number the channels from 0"),
        ({"dataset": {"a": {}}}, "lists its files under dataset"),
    ],
)
def test_a_wrong_nnunet_description_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"dataset\.json: .*{message}"):
        Dataset.open(nnunet(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["liver"]}, r"labels is \['liver'\]; it must be like"),
        ({"labels": {"0": "liver", "1": "liver"}}, "the same name"),
        ({"labels": {"zero": "background", "1": "liver"}}, "label value 'zero'"),
        ({"modality": "MRI"}, "modality is 'MRI'; it must number"),
        ({"training": [{"label": "a.nii.gz"}]}, "a case is written like"),
        ({"training": 7}, "found the case 7"),
        ({"training": []}, "no training case"),
    ],
)
def test_a_wrong_decathlon_description_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"dataset\.json.*{message}"):
        Dataset.open(msd(tmp_path, **changes))


def refused(folder: Path, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Dataset.open(folder)


def test_a_wrong_folder_is_told_what_was_found_and_what_is_allowed(tmp_path: Path) -> None:
    layouts = r".*nnU-Net v2.*Medical Segmentation Decathlon.*images/ and masks/"
    refused(tmp_path / "none", f"none: found nothing{layouts}")
    refused(tmp_path, f"found an empty folder{layouts}")
    touch(tmp_path / "scans/a.dcm", tmp_path / "readme.txt")
    refused(tmp_path, rf"found readme\.txt, scans/{layouts}")
    refused(tmp_path / "readme.txt", f"found a file{layouts}")
    (tmp_path / "dataset.json").write_text("{")
    refused(tmp_path, r"dataset\.json: cannot be read as JSON \(.*line 1 column 2")
    write_json(tmp_path / "dataset.json", [1])
    refused(tmp_path, f"holds a list{layouts}")
    write_json(tmp_path / "dataset.json", {"title": "x"})
    refused(tmp_path, f"found title, but neither channel_names nor modality{layouts}")


def test_images_named_otherwise_are_shown(tmp_path: Path) -> None:
    folder = nnunet(tmp_path / "nnunet", file_ending=".png")
    refused(folder, r"imagesTr: found a_0000\.nii\.gz, .*but no NAME_0000\.png; rename")
    folder = tmp_path / "plain"
    touch(folder / "images/a.png", folder / "masks/a_mask.png")
    refused(folder, r"same name: found a\.png in .*images and a_mask\.png in .*masks; name both files")
    touch(folder / "labels/a.png")
    refused(folder, "both masks/ and labels/")


def test_splits_of_the_folder_are_honoured_and_checked(tmp_path: Path) -> None:
    folder = nnunet(tmp_path)
    splits = folder / "splits_final.json"
    write_json(splits, [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}])
    dataset = Dataset.open(folder)
    assert dataset.splits == ((("a",), ("b",)), (("b",), ("a",)))
    assert dataset.without(["a"]).splits == (((), ("b",)), (("b",), ()))
    for content, message in [
        ([{"train": ["a"], "val": ["z"]}], r"names 1 cases that are not there \(z\)"),
        ([{"train": ["a", "b"], "val": ["a"]}], "a is in train and in val"),
        ([["a"]], "must be a list like"),
        ([{"train": ["a"]}], "must be a list like"),
    ]:
        write_json(splits, content)
        refused(folder, rf"splits_final\.json: .*{message}")


def test_selecting_cases(tmp_path: Path) -> None:
    dataset = Dataset.open(nnunet(tmp_path))
    assert [case.name for case in dataset.select(["b", "t"]).cases] == ["b"]
    assert [case.name for case in dataset.select(["b", "t"]).test_cases] == ["t"]
    assert dataset.without(["b", "t"]) == dataset.select(["a"])
    with pytest.raises(ValueError, match="no case is named z"):
        dataset.select(["a", "z"])


def dangling(folder: Path, names: list[str]) -> None:
    """Links to nothing: whoever opens one, or asks for its size, fails."""
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to("nothing")


@pytest.mark.parametrize(("layout", "count"), [("nnunet", 1000), ("folders", 1000)])
def test_many_cases_open_without_touching_a_file_and_in_little_memory(tmp_path: Path, layout: str, count: int) -> None:
    if layout == "nnunet":
        dangling(tmp_path / "imagesTr", [f"c{index:06d}_0000.nii.gz" for index in range(count)])
        dangling(tmp_path / "labelsTr", [f"c{index:06d}.nii.gz" for index in range(count)])
        keys = {"channel_names": {"0": "T1"}, "labels": {"x": 1}, "file_ending": ".nii.gz"}
        write_json(tmp_path / "dataset.json", keys)
    else:
        for folder in ("images", "masks"):
            dangling(tmp_path / folder, [f"c{index:06d}.png" for index in range(count)])
    first = Dataset.open(tmp_path)  # its names fill Python's table of interned strings, which grows in leaps
    tracemalloc.start()
    dataset = Dataset.open(tmp_path)
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert dataset == first
    assert len(dataset.cases) == count
    assert kept / count < 1500
    assert most / count < 2500


@pytest.mark.real_data
def test_the_real_sets_open(real_data: Callable[[str], Path]) -> None:
    malc, hippocampus = Dataset.open(real_data("malc")), Dataset.open(real_data("hippocampus"))
    assert (len(malc.cases), len(malc.test_cases), len(malc.structures)) == (15, 15, 27)
    assert all(case.label for case in malc.test_cases)
    assert (len(hippocampus.cases), hippocampus.channels) == (200, ("MRI",))
    assert hippocampus.structures == {"Anterior": 1, "Posterior": 2}
