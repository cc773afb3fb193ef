"""Score files of other programs, written by the programs themselves where possible."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.handlers import write_metrics_reports

from scse.evaluation.foreign import case_names, read_score_file
from scse.support.errors import DataError

# as written by `Evaluator.run` of mist-medical 2.3.0: pandas' to_csv of the result of compute_results_stats
MIST = """\
id,WT_dice,WT_haus95,WT_lesion_wise_dice,ET_dice,ET_haus95,ET_lesion_wise_dice
BraTS_2,0.9,2.5,0.8,0.7,3.5,0.6
BraTS_1,0.8,3.0,0.7,,173.2,0.5
Mean,0.85,2.75,0.75,0.7,88.35,0.55
Std,0.05,0.25,0.05,0.0,84.85,0.05
25th Percentile,0.825,2.625,0.725,0.7,45.925,0.525
Median,0.85,2.75,0.75,0.7,88.35,0.55
75th Percentile,0.875,2.875,0.775,0.7,130.775,0.575
"""

# a region, a region of one label outside a list, and labels that nnU-Net ignores
LABELS = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's `fold_0/validation`, evaluated by nnU-Net: `summary.json` by label, `regions.json` by region."""
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    folder = tmp_path_factory.mktemp("model") / "fold_0" / "validation"
    references = tmp_path_factory.mktemp("references")
    folder.mkdir(parents=True)
    for case, reference, prediction in (
        ("brain_7.a", [1, 1, 1, 2, 2, 0], [1, 1, 0, 2, 0, 0]),
        ("brain_8", [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0]),  # label 2 is absent
    ):
        for where, values in ((references, reference), (folder, prediction)):
            labels = np.array(values, dtype=np.uint8).reshape(3, 2, 1)
            nib.save(nib.Nifti1Image(labels, np.eye(4)), where / f"{case}.nii.gz")
    for name, keys in (("summary", [1, 2]), ("regions", [(1, 2), 2])):
        output = str(folder / f"{name}.json")
        compute_metrics_on_folder(
            str(references), str(folder), output, SimpleITKIO(), ".nii.gz", keys, ignore_label=3, num_processes=1
        )
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def scores(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    assert not table.duplicated(["case", "structure"]).any()
    return {
        (case, structure): pytest.approx(float(value), nan_ok=True)
        for case, structure, value in table[["case", "structure", "value"]].itertuples(index=False)
    }


def test_a_summary_that_nnunet_wrote_gives_dice_and_iou_of_labels(validation: Path) -> None:
    table = read_score_file(validation / "summary.json", metric="dice")
    assert table["metric"].unique().tolist() == ["dice"]
    expected = {("brain_7.a", 1): 4 / 5, ("brain_7.a", 2): 2 / 3, ("brain_8", 1): 2 / 3, ("brain_8", 2): np.nan}
    assert scores(table) == {(case, f"label_{label}"): value for (case, label), value in expected.items()}
    iou = read_score_file(validation / "summary.json", metric="iou")
    assert scores(iou)["brain_7.a", "label_1"] == 2 / 3
    with pytest.raises(
        DataError, match=r"summary.json: the metric 'hd95' does not occur; choose another with --metric: dice, iou"
    ):
        read_score_file(validation / "summary.json", metric="hd95")


def test_regions_and_labels_have_the_names_of_the_models_dataset(validation: Path) -> None:
    unnamed = read_score_file(validation / "regions.json", metric="dice")
    expected = {("brain_7.a", "label_1_2"): 3 / 4, ("brain_7.a", "label_2"): 2 / 3, ("brain_8", "label_1_2"): 2 / 3}
    assert scores(unnamed) == {**expected, ("brain_8", "label_2"): pytest.approx(np.nan, nan_ok=True)}
    dataset = validation.parents[1] / "dataset.json"
    dataset.write_text(json.dumps({"labels": LABELS}))
    try:
        named = read_score_file(validation / "regions.json", metric="dice")
    finally:
        dataset.unlink()
    assert named["structure"].tolist() == ["whole", "core"] * 2
    assert named["value"].equals(unnamed["value"])


def test_the_nearest_dataset_json_names_and_that_of_another_program_does_not(validation: Path, tmp_path: Path) -> None:
    summary = tmp_path / "model" / "crossval_results_folds_0_1" / "summary.json"
    summary.parent.mkdir(parents=True)
    summary.write_bytes((validation / "summary.json").read_bytes())

    def structures(folder: Path, content: object) -> list[str]:
        (folder / "dataset.json").write_text(json.dumps(content))
        return read_score_file(summary, metric="dice")["structure"].unique().tolist()

    decathlon = {"labels": {"0": "background", "1": "anterior", "2": "posterior"}}
    assert structures(summary.parents[1], decathlon) == ["label_1", "label_2"]
    assert structures(summary.parents[1], {"labels": {"anterior": 1}}) == ["anterior", "label_2"]
    assert structures(summary.parent, {"labels": {"back": 2, "front": 1}}) == ["front", "back"]
    assert structures(summary.parent, []) == ["label_1", "label_2"]
    (summary.parent / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset.json: cannot be read as JSON .*write the file again"):
        read_score_file(summary, metric="dice")


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_a_report_that_monai_wrote_gives_a_score_for_each_class(tmp_path: Path, separator: str) -> None:
    images = ["/data/a.nii.gz", "/data/b.nii.gz"]
    values = {"val_mean_dice": torch.tensor([[0.5, 0.25], [np.nan, 1.0]]), "hd95": np.array([[1.5, 2.0], [3.0, 4.0]])}
    write_metrics_reports(tmp_path, images, {}, values, "*", deli=separator, class_labels=["left", "right"])
    dice = read_score_file(tmp_path / "val_mean_dice_raw.csv", metric="dice")
    expected = {("a", "left"): 0.5, ("a", "right"): 0.25, ("b", "right"): 1.0}
    assert scores(dice) == {**expected, ("b", "left"): pytest.approx(np.nan, nan_ok=True)}
    as_named = read_score_file(tmp_path / "val_mean_dice_raw.csv", metric="val_mean_dice")
    pd.testing.assert_frame_equal(as_named, dice.assign(metric="val_mean_dice"))
    with pytest.raises(
        DataError, match=r"hd95_raw.csv: the metric 'dice' does not occur; choose another with --metric: hd95"
    ):
        read_score_file(tmp_path / "hd95_raw.csv", metric="dice")
    with pytest.raises(DataError, match=r"hd95_summary.csv: the columns class.* match no known format"):
        read_score_file(tmp_path / "hd95_summary.csv", metric="hd95")


def test_a_monai_report_without_names_of_images_and_metric(tmp_path: Path) -> None:
    write_metrics_reports(tmp_path, None, None, {"mean_dice": np.array([0.5, 0.75])}, None)
    (tmp_path / "mean_dice_raw.csv").rename(tmp_path / "validation.csv")
    table = read_score_file(tmp_path / "validation.csv", metric="hd95")
    assert scores(table) == {("0", "class0"): 0.5, ("1", "class0"): 0.75}
    assert table["metric"].unique().tolist() == ["hd95"]


def test_surface_dice_of_monai_is_no_dice(tmp_path: Path) -> None:
    write_metrics_reports(tmp_path, None, None, {"mean_surface_dice": np.array([0.5])}, None)
    with pytest.raises(DataError, match="choose another with --metric: mean_surface_dice"):
        read_score_file(tmp_path / "mean_surface_dice_raw.csv", metric="dice")
    assert len(read_score_file(tmp_path / "mean_surface_dice_raw.csv", metric="surface_dice")) == 1


def test_results_of_mist_give_patients_without_statistics(write: Callable[[str, str], Path]) -> None:
    path = write("results.csv", MIST)
    dice = read_score_file(path, metric="dice")
    expected = {("BraTS_2", "WT"): "0.9", ("BraTS_1", "WT"): "0.8", ("BraTS_2", "ET"): "0.7"}
    found = {(row.case, row.structure): row.value for row in dice.dropna().itertuples()}
    assert (found, len(dice)) == (expected, 4)
    assert read_score_file(path, metric="hd95")["value"].tolist() == ["2.5", "3.0", "3.5", "173.2"]
    lesions = read_score_file(path, metric="lesion_wise_dice")
    assert lesions["structure"].tolist() == ["WT", "WT", "ET", "ET"]
    with pytest.raises(
        DataError, match="'iou' does not occur; choose another with --metric: dice, hd95, lesion_wise_dice"
    ):
        read_score_file(path, metric="iou")


def test_a_long_table_keeps_its_columns_and_rows(write: Callable[[str, str], Path], tmp_path: Path) -> None:
    text = "case,variant,metric,value,seed\na,mine,dice,0.5,1\na,mine,hd95,3,1\nb,mine,dice,0.6,1\n"
    table = read_score_file(write("mine.csv", text), metric="dice")
    assert table[["case", "value", "seed"]].to_numpy().tolist() == [["a", "0.5", 1], ["b", "0.6", 1]]
    assert table.index.tolist() == [2, 4]
    table.to_parquet(tmp_path / "mine.parquet")
    assert read_score_file(tmp_path / "mine.parquet", metric="dice")["case"].tolist() == ["a", "b"]


def summary(metrics: object, **others: object) -> str:
    case = {"prediction_file": "a.nii.gz", "reference_file": "b.nii.gz", "metrics": metrics}
    return json.dumps({"metric_per_case": [case], **others})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "cannot be read as JSON .*write the file again"),
        ("a.json", "\xff", "is not a summary|cannot be read as JSON"),
        ("a.json", "[]", r"is not a summary.json of nnU-Net v2: its content: .*allowed: a CSV or Parquet"),
        ("a.json", '{"mean": {}}', "is not a summary.json of nnU-Net v2: metric_per_case: Field required"),
        (
            "a.json",
            '{"results": {"all": [], "mean": {}}}',
            "is a summary of nnU-Net v1, which is not supported; evaluate",
        ),
        ("a.json", '{"metric_per_case": []}', "contains no Dice or IoU"),
        ("a.json", summary({"1": {"FP": 3}}), "contains no Dice or IoU"),
        (
            "a.json",
            summary({"1": {"Dice": "high"}}),
            r"metric_per_case.0.metrics.1.Dice: Input should be a valid number",
        ),
        ("a.json", summary({"left": {"Dice": 1}}), r"metrics has the key 'left'; allowed: a label, such as 1, or"),
        ("a.csv", "", "cannot be read as CSV"),
        ("a.csv", "case,dice\na,0.5\n", "the columns case, dice match no known format of scores; allowed: a CSV or"),
        ("a.csv", "case;value\na;0,5\n", "cannot be read|no known format|more fields"),
        ("a.csv", "id,WT_dice,age\na,0.5,70\n", "the columns id, WT_dice, age match no known format"),
        ("a.csv", "id\na\n", "the columns id match no known format"),
        (
            "a.csv",
            "variant,case,value\nx,a,1\ny,a,1\n",
            "contains the variants x, y, but NAME=FILES expects files of one",
        ),
        ("a_raw.csv", "filename,class0,mean\n,1,1\n", "row 2: filename is empty"),
        ("a.parquet", "case,value\n", "cannot be read as Parquet"),
    ],
)
def test_files_that_are_no_scores_are_refused(
    write: Callable[[str, str], Path], name: str, text: str, message: str
) -> None:
    path = write(name, text)
    with pytest.raises(DataError, match=message) as refused:
        read_score_file(path, metric="dice")
    assert str(refused.value).startswith(str(path))


def test_a_file_that_may_not_be_read_is_refused(
    write: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write("a.csv", "case,value\na,1\n")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"a.csv: cannot be read \(PermissionError: .*; give a CSV or Parquet file"):
        read_score_file(path, metric="dice")


@pytest.mark.parametrize(
    ("files", "cases"),
    [
        (["/x/sub.01.nii.gz", "C:\\y\\b.MHA"], ["sub.01", "b"]),
        (["a/image.png", "b/image.png"], ["a/image", "b/image"]),
        (["0", "1.5"], ["0", "1.5"]),
    ],
)
def test_cases_are_named_by_their_files(files: list[str], cases: list[str]) -> None:
    assert case_names(files) == cases
