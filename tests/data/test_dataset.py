"""Folders: three layouts are recognised; anything else is refused with one clear message."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scse.data import Case, Dataset
from scse.support.errors import DataError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def nnunet(folder: Path, **changes: Any) -> Path:
    """Write two training cases with two channels and one test case, with empty files."""
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
        ("name,color\nsky,#ff0000\nroad,#000000\n", {"sky": 1, "road": 2}, {1: RED, 2: BLACK}),
    ],
)
def test_labels_csv_names_the_structures(
    tmp_path: Path, table: str, structures: dict[str, int], colors: dict[int, Any] | None
) -> None:
    dataset = Dataset.open(folders(tmp_path, table))
    assert dataset.structures == structures
    assert dataset.colors == colors
    assert dataset.ignored is None


@pytest.mark.parametrize("name", ["ignore", "Void", "unlabelled", "Unlabeled"])
def test_labels_csv_names_the_voxels_to_be_ignored(tmp_path: Path, name: str) -> None:
    dataset = Dataset.open(folders(tmp_path / "values", f"name,value\ncup,1\n{name},255\n"))
    assert (dataset.structures, dataset.ignored, dataset.colors) == ({"cup": 1}, 255, None)
    # CamVid stores ignored voxels as black and has no background
    dataset = Dataset.open(folders(tmp_path / "colors", f"name,r,g,b\ncup,255,0,0\n{name},0,0,0\n"))
    assert (dataset.structures, dataset.ignored, dataset.colors) == ({"cup": 1}, 2, {1: RED, 2: BLACK})


def test_the_name_of_the_value_0_is_kept(tmp_path: Path) -> None:
    dataset = Dataset.open(folders(tmp_path, "name,value\nsky,0\nroad,1\n"))
    assert (dataset.background, dataset.structures) == ("sky", {"road": 1})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "found no columns; allowed: name,value or"),
        ("label,id\ncup,1\n", "found the columns label,id; allowed: name,value or"),
        ("name,value\ncup,one\n", "'cup' has the label value 'one'; allowed: whole numbers from 0"),
        ("name,value\ncup,-1\n", "'cup' has the label value '-1'"),
        ("name,value\ncup\n", "'cup' has the label value ''"),
        ("name,value\ncup,1\ncup,2\n", "'cup' is listed twice"),
        ("name,value\ncup,1\ndisc,1\n", "value 1 is listed twice"),
        ("name,value\nbackground,0\n", "no structure besides the background"),
        ("name,value\n", "list at least one structure"),
        ("name,value\n,1\n", "the label '1' has the name ''"),
        (f"name,value\ncup,{2**31}\n", "'cup' has the label value '2147483648'"),
        (f"name,value\ncup,{'9' * 5000}\n", "'cup' has the label value '9{40}'..."),
        ("name,value\ncup,1.0\n", "'cup' has the label value '1.0'"),
        ("name,value\ncup,nan\n", "'cup' has the label value 'nan'"),
        ("name,value\ncup,True\n", "'cup' has the label value 'True'"),
        ("name,value\ncup,\u0661\n", "'cup' has the label value"),
        ("name,value\nBackground,3\ncup,1\n", "'Background' has the label value 3, but background is always 0"),
        ("name,value\nvoid,3\nignore,2\ncup,1\n", "'void' and 'ignore' both mark ignored voxels"),
        ("name,value\ncup, left,1\n", "has more cells than there are columns"),
        ('name,value\n"cup,1\n', "cannot be read"),
        ("name,value,value\ncup,1,2\n", "the column 'value' appears twice"),
        ("name;value\ncup;1\n", "found the columns name;value; allowed"),
        ("name,r,g,b\ncup,1_0,0,0\n", "found 'cup,1_0,0,0'"),
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
        (
            {"labels": {"background": 0, "ignore": 1, "liver": 2}},
            "ignore label has the value 1, but a structure has the value 2",
        ),
        ({"labels": {"background": 0}}, "no structure"),
        ({"labels": {"background": 0, "ignore": 1}}, "no structure"),
        ({"labels": None}, r"labels: .*got None; .*\{\"background\": 0, \"liver\": 1\}"),
        ({"labels": {"liver": 1.5}}, "label value 1.5"),
        ({"labels": {"liver": True}}, "label value True"),
        ({"labels": {"liver": float("nan")}}, "label value nan"),
        ({"labels": {"liver": -1}}, "label value -1"),
        ({"labels": {"liver": None}}, "label value None"),
        ({"labels": {"liver": {"a": 1}}}, "label value"),
        ({"labels": {"liver": 2**31}}, "label value 2147483648; allowed: whole numbers from 0 to 2147483647"),
        ({"labels": {"liver": 2**70}}, "beyond 64 bits"),
        ({"labels": {" ": 1}}, "the label 1 has the name ' '"),
        ({"labels": {"a\n": 1}}, "the label 1 has the name"),
        ({"labels": {"background": 1, "liver": 2}}, "'background' has the label value 1, but background is always 0"),
        ({"labels": {"0": "background", "1": 7}}, "the label '1' has the name 7"),
        ({"channel_names": {"0": 7}}, r"channel_names\.0: .*got 7"),
        ({"channel_names": {"0": ""}}, r"channel_names\.0: .*got ''"),
        ({"channel_names": ["T1"]}, r"channel_names: .*got \['T1'\]"),
        ({"file_ending": [".nii.gz"]}, "file_ending: .*got"),
        ({"labels": {"liver": 1, "spleen": 1}}, "value 1 is listed twice"),
        ({"file_ending": ".mnc"}, r"file_ending is '\.mnc'; allowed: \.nii\.gz"),
        ({"file_ending": None}, "file_ending: .*got None"),
        ({"channel_names": {"1": "T1"}}, "number the channels from 0"),
        ({"channel_names": {}}, "number the channels from 0"),
        ({"dataset": {"a": {}}}, 'lists its files under the key "dataset"'),
    ],
)
def test_a_wrong_nnunet_description_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"dataset\.json: .*{message}"):
        Dataset.open(nnunet(tmp_path, **changes))


REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "core": [2, 3], "enhancing": 3}


def test_nnunet_regions(tmp_path: Path) -> None:
    dataset = Dataset.open(nnunet(tmp_path, labels=REGIONS | {"ignore": 4}, regions_class_order=[1, 2, 3]))
    assert dataset.regions == {"whole tumor": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    assert dataset.structures == {"whole tumor": 1, "core": 2, "enhancing": 3}
    assert (dataset.ignored, dataset.background) == (4, "background")
    assert dataset.scheme.outputs == 3


def test_nnunet_regions_keep_their_order_and_may_share_labels_that_none_is_painted_with(tmp_path: Path) -> None:
    labels = {"b": [2, 9, 9], "nothing": [0], "a": [9, 5, 1]}
    dataset = Dataset.open(nnunet(tmp_path, labels=labels, regions_class_order=[2, 5]))
    assert list(dataset.structures.items()) == [("b", 2), ("a", 5)]
    assert dataset.regions == {"b": (2, 9), "a": (9, 5, 1)}
    assert dataset.scheme.labels == {"label 1": 1, "label 2": 2, "label 5": 5, "label 9": 9}
    assert dataset.background == "nothing"


def test_lists_of_one_label_alone_are_no_regions_as_in_nnunet(tmp_path: Path) -> None:
    dataset = Dataset.open(nnunet(tmp_path, labels={"background": 0, "liver": [1], "spleen": 2}))
    assert (dataset.structures, dataset.regions) == ({"liver": 1, "spleen": 2}, {})


@pytest.mark.parametrize(
    ("labels", "order", "message"),
    [
        ({}, None, "labels has regions, but regions_class_order is missing; .*whole tumor, core, enhancing"),
        ({}, [1, 2], "regions_class_order has 2 values for 3 regions"),
        ({}, [1, 2, 4], "regions_class_order has the value 4, but the labels are 1, 2, 3"),
        ({}, [3, 1, 2], "regions_class_order has 1 for 'core', whose labels are 2, 3"),
        ({}, [2, 2, 3], "regions_class_order has 2 twice; give each region its own value"),
        ({}, [1, 2, True], r"regions_class_order is \[1, 2, True\]"),
        ({}, "1, 2, 3", "regions_class_order is '1, 2, 3'"),
        ({"core": []}, [1, 2, 3], "the region 'core' has no labels"),
        ({"core": [0, 2]}, [1, 2, 3], r"the region 'core' contains the background \(0\)"),
        ({"core": [2, "x"]}, [1, 2, 3], "'core' has the label value 'x'"),
        ({" core ": [2, 3]}, [1, 2, 3, 2], "the name 'core' is listed twice"),
        ({"background": [0, 1]}, [1, 2, 3], "but background is always 0"),
        ({"ignore": [4, 5]}, [1, 2, 3], "'ignore' has a list of labels"),
        ({"ignore": 3}, [1, 2, 3], "the ignore label has the value 3, but a structure has the value 3"),
    ],
)
def test_wrong_regions_are_refused(tmp_path: Path, labels: dict[str, Any], order: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"dataset\.json: .*{message}"):
        Dataset.open(nnunet(tmp_path, labels=REGIONS | labels, regions_class_order=order))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"background": 0, "whole": [1, 2]}}, r"'whole' has a list of labels, \[1, 2\].*nnU-Net v2"),
        ({"labels": ["liver"]}, r"labels: .*got \['liver'\]; .* must be like"),
        ({"labels": {"0": "liver", "1": "liver"}}, "'liver' is listed twice"),
        ({"labels": {"zero": "background", "1": "liver"}}, "label value 'zero'"),
        ({"modality": "MRI"}, "modality: .*got 'MRI'"),
        ({"training": [{"label": "a.nii.gz"}]}, r"training\.0\.image: Field required; .*imagesTr/a"),
        ({"training": 7}, "training: .*valid list, got 7"),
        ({"training": []}, "no training case"),
    ],
)
def test_a_wrong_decathlon_description_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"dataset\.json.*{message}"):
        Dataset.open(msd(tmp_path, **changes))


def assert_refused(folder: Path, message: str) -> None:
    """Assert that opening a folder raises a DataError with this message."""
    with pytest.raises(DataError, match=message):
        Dataset.open(folder)


def test_a_wrong_folder_is_refused_with_the_layouts_allowed(tmp_path: Path) -> None:
    layouts = r".*nnU-Net v2.*Medical Segmentation Decathlon.*images/ and masks/"
    assert_refused(tmp_path / "none", f"none: does not exist{layouts}")
    assert_refused(tmp_path, f"found an empty folder{layouts}")
    touch(tmp_path / "scans/a.dcm", tmp_path / "readme.txt")
    assert_refused(tmp_path, rf"found readme\.txt, scans/{layouts}")
    assert_refused(tmp_path / "readme.txt", f"is a file{layouts}")
    (tmp_path / "dataset.json").write_text("{")
    assert_refused(tmp_path, r"dataset\.json: cannot be read as JSON \(.*line 1 column 2")
    write_json(tmp_path / "dataset.json", [1])
    assert_refused(tmp_path, f"contains a list{layouts}")
    write_json(tmp_path / "dataset.json", {"title": "x"})
    assert_refused(tmp_path, f"found title, but neither channel_names nor modality{layouts}")


def test_images_named_otherwise_are_shown(tmp_path: Path) -> None:
    folder = nnunet(tmp_path / "nnunet", file_ending=".png")
    assert_refused(folder, r"imagesTr: found a_0000\.nii\.gz, .*but no NAME_0000\.png; rename")
    folder = tmp_path / "plain"
    touch(folder / "images/a.png", folder / "masks/a_mask.png")
    assert_refused(folder, r"same name: found a\.png in .*images and a_mask\.png in .*masks; give both files")
    touch(folder / "labels/a.png")
    assert_refused(folder, "both masks/ and labels/")


def test_splits_of_the_folder_are_honoured_and_checked(tmp_path: Path) -> None:
    folder = nnunet(tmp_path)
    splits = folder / "splits_final.json"
    write_json(splits, [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}])
    dataset = Dataset.open(folder)
    assert dataset.splits == ((("a",), ("b",)), (("b",), ("a",)))
    assert dataset.without(["a"]).splits == (((), ("b",)), (("b",), ()))
    for content, message in [
        ([{"train": ["a"], "val": ["z"]}], r"lists 1 cases that the data set does not contain \('z'\)"),
        ([{"train": ["a", "b"], "val": ["a"]}], "a is in both train and val"),
        ([{"train": ["a", "a"], "val": ["b"]}], "a is listed twice"),
        ([], "must be a list of case names like"),
        ({"train": ["a"], "val": ["b"]}, "must be a list of case names like"),
        ([{"train": "a", "val": ["b"]}], r"0\.train: .*must be a list of case names like"),
        ([{"train": [1], "val": ["b"]}], r"0\.train\.0: .*got 1; it must be a list of case names like"),
        ([{"train": [["a"]], "val": ["b"]}], "must be a list of case names like"),
        ([["a"]], "must be a list of case names like"),
        ([{"train": ["a"]}], "must be a list of case names like"),
    ]:
        write_json(splits, content)
        assert_refused(folder, rf"splits_final\.json: .*{message}")


def test_selecting_cases(tmp_path: Path) -> None:
    dataset = Dataset.open(nnunet(tmp_path))
    assert [case.name for case in dataset.select(["b", "t"]).cases] == ["b"]
    assert [case.name for case in dataset.select(["b", "t"]).test_cases] == ["t"]
    assert dataset.without(["b", "t"]) == dataset.select(["a"])
    with pytest.raises(ValueError, match="no case is named z"):
        dataset.select(["a", "z"])


def test_nnunet_v1_folders_have_a_file_for_each_channel_of_a_listed_image(tmp_path: Path) -> None:
    folder = msd(tmp_path)
    for case in "ab":
        touch(folder / f"imagesTr/{case}_0000.nii.gz", folder / f"imagesTr/{case}_0001.NII.gz")
    touch(folder / "imagesTr/ab_0000.nii.gz", folder / "imagesTs/t_0000.nii.gz", folder / "labelsTr/a.nii.gz")
    dataset = Dataset.open(folder)
    images = folder / "imagesTr/a_0000.nii.gz", folder / "imagesTr/a_0001.NII.gz"
    assert dataset.cases[0] == Case("a", images, folder / "labelsTr/a.nii.gz")
    # missing files are listed under their expected names
    missing = folder / "imagesTs/t_0000.nii.gz", folder / "imagesTs/t_0001.nii.gz"
    assert dataset.test_cases == (Case("t", missing, None),)
    assert dataset.unused == (folder / "imagesTr/ab_0000.nii.gz",)
    touch(folder / "imagesTr/a.nii.gz")
    assert Dataset.open(folder).cases[0].images == (folder / "imagesTr/a.nii.gz",)


@pytest.mark.parametrize("labels", [{"0": "background", "7": "liver"}, {"background": 0, "liver": 7}])
@pytest.mark.parametrize("layout", [nnunet, msd])
def test_labels_are_read_whichever_of_name_and_value_comes_first(
    tmp_path: Path, layout: Callable[..., Path], labels: dict[str, Any]
) -> None:
    assert Dataset.open(layout(tmp_path, labels=labels)).structures == {"liver": 7}


def test_numbers_as_names_are_read_as_the_layout_has_them(tmp_path: Path) -> None:
    labels = {"background": "0", "1": "2"}
    assert Dataset.open(nnunet(tmp_path / "nnunet", labels=labels)).structures == {"1": 2}
    labels = {"0": "0", "1": "2"}
    assert Dataset.open(msd(tmp_path / "msd", labels=labels)).structures == {"2": 1}


@pytest.mark.parametrize("written", [".nii.gz", ".NII.GZ"])
def test_nnunet_endings_may_be_in_upper_case(tmp_path: Path, written: str) -> None:
    folder = nnunet(tmp_path, channel_names={"0": "T1"}, file_ending=written)
    for name in ("imagesTr/a_0001", "imagesTr/b_0001", "imagesTs/t_0001"):
        (folder / f"{name}.nii.gz").unlink()
    for name in ("imagesTr/a_0000", "labelsTr/b", "imagesTs/t_0000"):
        (folder / f"{name}.nii.gz").rename(folder / f"{name}.Nii.GZ")
    dataset = Dataset.open(folder)
    assert dataset.cases == (
        Case("a", (folder / "imagesTr/a_0000.Nii.GZ",), folder / "labelsTr/a.nii.gz"),
        Case("b", (folder / "imagesTr/b_0000.nii.gz",), folder / "labelsTr/b.Nii.GZ"),
    )
    assert dataset.test_cases == (Case("t", (folder / "imagesTs/t_0000.Nii.GZ",), None),)
    assert dataset.unused == ()
    touch(folder / "labelsTs/t.NII.gz")
    assert Dataset.open(folder).test_cases[0].label == folder / "labelsTs/t.NII.gz"


def test_a_second_file_whose_ending_differs_in_case_is_unused(tmp_path: Path) -> None:
    folder = nnunet(tmp_path, channel_names={"0": "T1"})
    (folder / "imagesTr/a_0001.nii.gz").unlink()
    touch(folder / "imagesTr/b_0000.NII.GZ", folder / "labelsTr/b.NII.GZ")
    dataset = Dataset.open(folder)
    assert dataset.cases[1].images[0] == folder / "imagesTr/b_0000.nii.gz"
    assert {folder / "imagesTr/b_0000.NII.GZ", folder / "labelsTr/b.NII.GZ"} <= set(dataset.unused)


def test_decathlon_endings_may_be_in_upper_case(tmp_path: Path) -> None:
    folder = msd(tmp_path)
    touch(folder / "imagesTr/a.NII.GZ", folder / "labelsTr/a.nii.GZ", folder / "imagesTs/t.NII.gz")
    touch(folder / "labelsTs/t.nii.GZ")
    dataset = Dataset.open(folder)
    assert dataset.cases[0] == Case("a", (folder / "imagesTr/a.NII.GZ",), folder / "labelsTr/a.nii.GZ")
    assert dataset.test_cases == (Case("t", (folder / "imagesTs/t.NII.gz",), folder / "labelsTs/t.nii.GZ"),)
    assert dataset.unused == ()


def test_plain_endings_may_be_in_upper_case(tmp_path: Path) -> None:
    folder = tmp_path
    touch(folder / "images/a.JPG", folder / "masks/a.Png", folder / "test/images/x.TIFF", folder / "test/masks/x.BMP")
    dataset = Dataset.open(folder)
    assert dataset.cases == (Case("a", (folder / "images/a.JPG",), folder / "masks/a.Png"),)
    assert dataset.test_cases == (Case("x", (folder / "test/images/x.TIFF",), folder / "test/masks/x.BMP"),)
    assert dataset.unused == ()


def test_what_looks_like_an_image_but_belongs_to_no_case_is_named(tmp_path: Path) -> None:
    folder = nnunet(tmp_path / "nnunet")
    stray = ["imagesTr/d_000.nii.gz", "imagesTr/e_0000.MHA", "imagesTr/more", "labelsTr/a.png", "labelsTs/t.nii"]
    touch(*(folder / name for name in stray if name != "imagesTr/more"), folder / "imagesTr/more/f.dcm")
    touch(folder / "imagesTr/notes.txt", folder / "labelsTr/.hidden.nii.gz")
    assert Dataset.open(folder).unused == tuple(folder / name for name in stray)

    folder = msd(tmp_path / "msd")
    stray = ["imagesTr/z.nii.gz", "imagesTs/y.nii", "labelsTr/z.nii.gz"]
    touch(*(folder / name for name in (*stray, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "imagesTs/t.nii.gz")))
    assert Dataset.open(folder).unused == tuple(folder / name for name in stray)

    folder = folders(tmp_path / "plain")
    stray = ["images/c.gif", "images/more", "masks/c.webp", "test/masks/t.png"]
    touch(*(folder / name for name in stray if name != "images/more"), folder / "images/more/d.png")
    assert Dataset.open(folder).unused == tuple(folder / name for name in stray)


@pytest.mark.parametrize(
    "image",
    [
        "../a.nii.gz",
        "imagesTr/../../a.nii.gz",
        "/etc/a.nii.gz",
        "imagesTr\\a.nii.gz",
        "imagesTr/...nii.gz",
        "imagesTr/.nii.gz",
        "",
        "a\0.nii.gz",
    ],
)
@pytest.mark.parametrize("field", ["image", "label", "test"])
def test_listed_files_stay_in_the_folder(tmp_path: Path, image: str, field: str) -> None:
    listed = {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz", field: image}
    changes = {"test": [image]} if field == "test" else {"training": [listed]}
    assert_refused(
        msd(tmp_path, **changes), r"dataset\.json: lists the file .*; list files inside the data set's folder"
    )


@pytest.mark.parametrize("image", ["n" * 300 + ".nii.gz", "ä" * 200 + ".nii.gz", f"imagesTr/{'n' * 300}/a.nii.gz"])
def test_listed_names_that_no_file_can_have_are_refused_in_short(tmp_path: Path, image: str) -> None:
    path = msd(tmp_path, training=[{"image": image, "label": "labelsTr/a.nii.gz"}])
    assert_refused(
        path, r"dataset\.json: lists the file '.{40}'\.\.\., whose name has \d+ bytes; at most 255 are allowed"
    )


def test_the_name_of_a_data_set_is_text(tmp_path: Path) -> None:
    assert_refused(nnunet(tmp_path / "nnunet", name=7), r"dataset\.json: name: .*got 7")
    assert_refused(msd(tmp_path / "msd", name=["x"]), r"dataset\.json: name: .*got \['x'\]")
    assert Dataset.open(nnunet(tmp_path / "other", name=None)).name == "other"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_descriptions_may_be_written_on_any_system(tmp_path: Path, encoding: str, newline: str) -> None:
    folder = nnunet(tmp_path / "nnunet", labels={"Hüfte": 1})
    for path in (folder / "dataset.json", folders(tmp_path / "plain", "name,value\nHüfte,1\n") / "labels.csv"):
        text = path.read_text(encoding="utf-8").replace("\n", newline)
        path.write_bytes(text.encode(encoding))
        assert Dataset.open(path.parent).structures == {"Hüfte": 1}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_other_encodings_are_refused(tmp_path: Path, encoding: str) -> None:
    folder = folders(tmp_path / "plain", "name,value\n")
    (folder / "labels.csv").write_bytes("name,value\nHüfte,1\n".encode(encoding))
    assert_refused(folder, r"labels\.csv: ")
    folder = nnunet(tmp_path / "nnunet")
    (folder / "dataset.json").write_bytes('{"labels": {"Hüfte": 1}}'.encode(encoding))
    assert_refused(folder, r"dataset\.json: cannot be read as JSON")


@pytest.mark.parametrize(
    ("layout", "labels", "ignored"),
    [
        (nnunet, {"background": 0, "liver": 1, "ignore": 2}, 2),
        (nnunet, {"background": 0, "liver": 1, "void": 2}, None),
        (msd, {"0": "background", "1": "liver", "255": "Ignore"}, 255),
        (msd, {"0": "Void", "1": "liver"}, 0),
    ],
)
def test_the_ignored_label_is_no_structure(
    tmp_path: Path, layout: Callable[..., Path], labels: dict[str, Any], ignored: int | None
) -> None:
    dataset = Dataset.open(layout(tmp_path, labels=labels))
    assert dataset.ignored == ignored
    assert dataset.structures == {"liver": 1} if ignored is not None else {"liver": 1, "void": 2}


def dangling(folder: Path, names: list[str]) -> None:
    """Make broken links, so that opening a file or reading its size fails."""
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
    first = Dataset.open(tmp_path)  # its names fill Python's table of interned strings, which grows in large steps
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
