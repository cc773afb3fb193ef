"""Scoring of files and folders, with the structures of a data set or with the label values found."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from datasets import save_nifti, write_regions, write_table
from scse.data.files import read_label, write_label
from scse.evaluation.scores import dice_scores, evaluate, mean_rows
from scse.support.errors import DataError


def label(path: Path, array: np.ndarray) -> Path:
    write_label(path, array.astype(np.uint8), affine=np.eye(4) if path.name.endswith(".nii.gz") else None)
    return path


def half(value: int, *, rows: int = 2) -> np.ndarray:
    array = np.zeros((4, 5, 6))
    array[:rows] = value
    return array


def dice(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    rows = table[table["metric"] == "dice"]
    return {(row.case, row.structure): row.value for row in rows.itertuples()}


def test_files_are_scored_by_the_values_found_in_the_reference(tmp_path: Path) -> None:
    prediction = label(tmp_path / "anything.nii.gz", half(7, rows=1))
    reference = label(tmp_path / "brain.nii.gz", half(7))
    table = evaluate(prediction, reference)
    assert list(table.columns) == ["case", "structure", "metric", "value"]
    assert dice(table) == {("brain", "structure_7"): pytest.approx(2 / 3)}


def test_a_pipe_or_a_link_to_nothing_is_no_label_file(tmp_path: Path) -> None:
    reference = label(tmp_path / "brain.nii.gz", half(7))
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to("gone.nii.gz")
    for name, message in (
        ("pipe", r"is a named pipe \(FIFO\), not a file"),
        ("link", "is a link to gone.nii.gz, which"),
    ):
        for pair in ((tmp_path / f"{name}.nii.gz", reference), (reference, tmp_path / f"{name}.nii.gz")):
            with pytest.raises(DataError, match=message):
                evaluate(*pair)


def test_folders_are_scored_by_all_values_found_in_any_reference(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 3)):
        label(tmp_path / "p" / f"{name}.nii.gz", half(value))
        label(tmp_path / "r" / f"{name}.nii.gz", half(value))
    found = dice(evaluate(tmp_path / "p", tmp_path / "r"))
    assert found["a", "structure_1"] == found["b", "structure_3"] == 1
    assert np.isnan([found["a", "structure_3"], found["b", "structure_1"]]).all()


def test_a_data_set_gives_its_structures_even_those_no_reference_has(tmp_path: Path) -> None:
    data = tmp_path / "data"
    label(data / "imagesTr" / "c_0000.nii.gz", half(1))
    reference = label(data / "labelsTr" / "c.nii.gz", half(1))
    names = {"background": 0, "liver": 1, "spleen": 2}
    description = {"channel_names": {"0": "CT"}, "labels": names, "file_ending": ".nii.gz"}
    (data / "dataset.json").write_text(json.dumps(description))
    found = dice(evaluate(reference, reference, dataset=data))
    assert found["c", "liver"] == 1
    assert np.isnan(found["c", "spleen"])


def test_names_of_an_atlas_that_no_label_map_has_are_not_listed(tmp_path: Path) -> None:
    anat, data = tmp_path / "set" / "derivatives" / "manual" / "sub-1" / "anat", tmp_path / "set"
    label(data / "sub-1" / "anat" / "sub-1_T1w.nii.gz", half(1))
    reference = label(anat / "sub-1_dseg.nii.gz", half(1))
    (anat / "dseg.tsv").write_text("index\tname\n1\tleft\n2\tright\n17\tHippocampus\n")
    predicted = label(tmp_path / "p.nii.gz", half(1) + 2 * np.flip(half(1), 0))
    assert dice(evaluate(predicted, reference, dataset=data)) == {("sub-1_dseg", "left"): 1, ("sub-1_dseg", "right"): 0}
    empty = label(tmp_path / "empty.nii.gz", half(0))
    with pytest.raises(
        DataError, match=r"empty\.nii\.gz: contains no structure that .*set names, and neither does .*p"
    ):
        evaluate(label(tmp_path / "p.nii.gz", half(0)), empty, dataset=data)


def test_a_table_of_cases_gives_its_structures(tmp_path: Path) -> None:
    table = write_table(tmp_path / "set", cases=2)
    references = tmp_path / "set" / "labelsTr"
    found = dice(evaluate(references, references, dataset=table))
    assert found == {(case, name): 1 for case in ("c0", "c1") for name in ("left", "right")}


def test_index_masks_are_scored_against_a_data_set_of_colour_masks(tmp_path: Path) -> None:
    data, index = tmp_path / "data", np.eye(5, dtype=np.uint8)
    for folder in ("images", "masks"):
        (data / folder).mkdir(parents=True)
        PIL.Image.fromarray(index[..., None] * np.array([0, 200, 9], np.uint8)).save(data / folder / "x.png")
    (data / "labels.csv").write_text("name,color\ncell,#00c809\n")
    label(tmp_path / "p" / "x.png", index)
    assert dice(evaluate(tmp_path / "p", data / "masks", dataset=data)) == {("x", "cell"): 1.0}


@pytest.mark.parametrize("missing", ["predictions", "references"])
def test_a_path_that_is_not_there_is_named(tmp_path: Path, missing: str) -> None:
    there = label(tmp_path / "there.nii.gz", half(1))
    paths = {"predictions": there, "references": there, missing: tmp_path / "nowhere"}
    with pytest.raises(DataError, match="nowhere: does not exist"):
        evaluate(**paths)


def test_a_file_and_a_folder_do_not_go_together(tmp_path: Path) -> None:
    file = label(tmp_path / "folder" / "a.nii.gz", half(1))
    with pytest.raises(DataError, match=r"a\.nii\.gz: is not a folder; give the folder of the label files"):
        evaluate(file, tmp_path / "folder")
    with pytest.raises(DataError, match="folder: has an unknown ending"):
        evaluate(tmp_path / "folder", file)


def test_references_of_background_only_are_refused(tmp_path: Path) -> None:
    empty = label(tmp_path / "empty.nii.gz", half(0))
    with pytest.raises(
        DataError, match=r"empty\.nii\.gz: contains only background \(0\); label at least one structure"
    ):
        evaluate(empty, empty)


def test_means_leave_out_nan_and_say_how_many_cases_were_scored() -> None:
    nan = float("nan")
    values = {
        ("x", "b"): (0.5, 2.0, 1.0),
        ("x", "a"): (1.0, 0.0, 0.0),
        ("x", "nowhere"): (nan, nan, nan),
        ("y", "b"): (nan, nan, nan),
        ("y", "a"): (0.0, nan, nan),
        ("y", "nowhere"): (nan, nan, nan),
    }
    rows = [
        (case, structure, metric, value)
        for (case, structure), triple in values.items()
        for metric, value in zip(("dice", "hd95", "msd"), triple, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["case", "structure", "metric", "value"])
    assert mean_rows(table) == [
        ("b", "0.500", "2.000", "1.000", "1"),
        ("a", "0.500", "0.000", "0.000", "2"),
        ("nowhere", "nan", "nan", "nan", "0"),
        ("mean of structures", "0.500", "1.000", "0.500", "2"),
    ]


def test_dice_of_values_in_one_pass() -> None:
    prediction = np.array([[1, 1, 0], [5, 5, 0]])
    reference = np.array([[1, 0, 0], [5, 5, 9]])
    found = dice_scores(prediction, reference, [1, 4, 5, 9])
    np.testing.assert_allclose(found, [2 / 3, np.nan, 1, 0])


def test_voxels_that_the_data_set_ignores_are_not_scored(tmp_path: Path) -> None:
    data = tmp_path / "data"
    reference = half(1)[:, :, 0]
    reference[:, 4] = 255
    label(data / "masks/a.png", reference)
    label(data / "images/a.png", reference)
    (data / "labels.csv").write_text("name,value\ncup,1\nvoid,255\n")
    label(tmp_path / "predictions/a.png", half(1)[:, :, 0])
    for prediction, truth in (("predictions", "masks"), ("predictions/a.png", "masks/a.png")):
        table = evaluate(tmp_path / prediction, data / truth, dataset=data)
        assert table["structure"].unique().tolist() == ["cup"]
        assert table.set_index("metric")["value"].to_dict() == {"dice": 1, "hd95": 0, "msd": 0}


def test_a_data_set_of_regions_is_scored_by_region(tmp_path: Path) -> None:
    dataset = write_regions(tmp_path, cases=1)
    reference = dataset / "labelsTr" / "c0.nii.gz"
    labels = read_label(reference).array
    # the rim of the whole as core: the whole is right, the core too large, and nothing is in the middle
    prediction = save_nifti(tmp_path / "p" / "c0.nii.gz", np.where(labels > 0, 3, 0).astype(np.uint8))
    core, whole = (labels >= 2).sum(), (labels >= 1).sum()
    assert dice(evaluate(prediction, reference, dataset=dataset)) == {
        ("c0", "whole"): 1,
        ("c0", "core"): pytest.approx(2 * core / (core + whole)),
        ("c0", "middle"): 0,
    }
