"""Dice, 95 % Hausdorff distance and mean surface distance of label maps, arrays and files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
)
from scipy.ndimage import gaussian_filter

from scse.data.files import write_label
from scse.evaluation import score, score_files, score_folders, write_scores
from scse.support.errors import DataError

STRUCTURES = {"caudate": 1, "putamen": 2, "pallidum": 7}
METRICS = ["dice", "hd95", "msd"]


def table(frame: pd.DataFrame) -> dict[str, list[float]]:
    assert list(frame.columns) == ["structure", "metric", "value"]
    wide = frame.pivot(index="structure", columns="metric", values="value")
    return {str(name): [float(row[m]) for m in METRICS] for name, row in wide.iterrows()}


def blobs(shape: tuple[int, ...], seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(8, *shape))
    smooth = gaussian_filter(noise, (0, *(1.5,) * len(shape)))
    return smooth.argmax(axis=0).astype(np.uint8)


# MONAI's public functions call a helper with a deprecated argument
@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((24, 31), (1.0, 1.0)), ((24, 31), (0.7, 2.5)), ((14, 17, 11), (1.0, 1.0, 1.0)), ((14, 17, 11), (0.5, 1.2, 3.0))],
)
def test_scores_are_those_of_monai(shape: tuple[int, ...], spacing: tuple[float, ...], seed: int) -> None:
    prediction, reference = blobs(shape, seed), blobs(shape, seed + 100)
    ours = table(score(prediction, reference, spacing=spacing, structures=STRUCTURES))
    for name, value in STRUCTURES.items():
        p, r = (torch.from_numpy(a == value)[None, None].float() for a in (prediction, reference))
        monai = [
            compute_dice(p, r),
            compute_hausdorff_distance(p, r, include_background=True, percentile=95, spacing=spacing),
            compute_average_surface_distance(p, r, include_background=True, symmetric=True, spacing=spacing),
        ]
        np.testing.assert_allclose(ours[name], [float(m) for m in monai], rtol=1e-5)


def test_a_point_beside_a_point_has_known_scores() -> None:
    prediction, reference = np.zeros((2, 6, 6), dtype=np.int16)
    prediction[1, 1] = reference[1, 4] = 1
    assert table(score(prediction, reference, spacing=(1, 2), structures={"a": 1}))["a"] == [0.0, 6.0, 6.0]


def test_a_line_inside_a_longer_line_has_known_scores() -> None:
    prediction, reference = np.zeros((2, 3, 9), dtype=np.int64)
    prediction[1, 2:5] = 1
    reference[1, 2:7] = 1
    # the distances are 0, 0, 0, 3 and 6 mm for 5 reference voxels, and 0 for 3 predicted ones: the mean is 9 / 8, and
    # the 95th percentile of the five is 3 + 0.8 * (6 - 3)
    dice, hd95, msd = table(score(prediction, reference, spacing=(1, 3), structures={"a": 1}))["a"]
    assert dice == pytest.approx(2 * 3 / 8)
    assert hd95 == pytest.approx(3 + 0.8 * 3)
    assert msd == pytest.approx(9 / 8)


def test_equal_maps_are_perfect_also_at_the_border() -> None:
    labels = blobs((9, 9, 9), 0)
    for values in table(score(labels, labels.copy(), spacing=(1, 1, 1), structures=STRUCTURES)).values():
        assert values == [1.0, 0.0, 0.0]


def test_a_structure_absent_from_both_is_nan() -> None:
    empty = np.zeros((4, 4), dtype=np.uint8)
    assert np.isnan(table(score(empty, empty, spacing=(1, 1), structures={"a": 1}))["a"]).all()


@pytest.mark.parametrize("swapped", [False, True])
def test_a_structure_absent_from_one_has_dice_zero_and_no_distance(swapped: bool) -> None:
    maps = [np.zeros((4, 4), dtype=np.uint8), np.eye(4, dtype=np.uint8)]
    dice, hd95, msd = table(score(*maps[:: -1 if swapped else 1], spacing=(1, 1), structures={"a": 1}))["a"]
    assert dice == 0
    assert np.isnan([hd95, msd]).all()


def test_values_that_are_no_structure_are_left_out() -> None:
    prediction = np.array([[1, 9], [0, 1]])
    reference = np.array([[1, 1], [0, 9]])
    assert table(score(prediction, reference, spacing=(1, 1), structures={"a": 1}))["a"][0] == 0.5


def test_large_and_sparse_label_values_are_scored() -> None:
    labels = np.array([[0, 2_000_000_000], [70_000, 5]])
    structures = {"far": 2_000_000_000, "near": 5, "nowhere": 77}
    scores = table(score(labels, labels, spacing=(1, 1), structures=structures))
    assert scores["far"] == scores["near"] == [1.0, 0.0, 0.0]
    assert np.isnan(scores["nowhere"]).all()


def test_rows_come_structure_by_structure_in_the_given_order() -> None:
    labels = blobs((8, 8), 0)
    frame = score(labels, labels, spacing=(1, 1), structures={"b": 2, "a": 1})
    assert list(zip(frame["structure"], frame["metric"], strict=True)) == [(s, m) for s in "ba" for m in METRICS]


@pytest.mark.parametrize(
    ("shapes", "dtype", "spacing", "message"),
    [
        (((4, 4), (4, 5)), "uint8", (1, 1), r"shape \(4, 4\), but the reference has shape \(4, 5\)"),
        (((4, 4), (4, 4)), "float32", (1, 1), "dtype float32"),
        (((4, 4), (4, 4)), "uint8", (1, 1, 1), "spacing"),
        (((4, 4), (4, 4)), "uint8", (1, 0), "positive"),
        (((4,), (4,)), "uint8", (1,), "2 or 3 axes, got 1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(shapes, dtype, spacing, message) -> None:
    prediction, reference = (np.zeros(shape, dtype=dtype) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        score(prediction, reference, spacing=spacing, structures={"a": 1})


def nifti(path: Path, labels: np.ndarray, *, spacing: float = 1.0) -> Path:
    path.parent.mkdir(exist_ok=True)
    write_label(path, labels, affine=np.diag([spacing, spacing, spacing, 1.0]))
    return path


def test_files_are_scored_in_the_millimetres_of_their_affine(tmp_path: Path) -> None:
    prediction, reference = np.zeros((2, 6, 6, 6), dtype=np.uint8)
    prediction[1, 1, 1] = reference[1, 1, 3] = 1
    p = nifti(tmp_path / "p.nii.gz", prediction, spacing=2.5)
    r = nifti(tmp_path / "r.nii.gz", reference, spacing=2.5)
    assert table(score_files(p, r, structures={"a": 1}))["a"] == pytest.approx([0, 5.0, 5.0])


def test_an_index_mask_is_scored_against_a_colour_mask(tmp_path: Path) -> None:
    from PIL import Image

    labels = np.eye(5, dtype=np.uint8)
    write_label(tmp_path / "p.png", labels)
    Image.fromarray(labels[..., None] * np.array([255, 10, 0], dtype=np.uint8)).save(tmp_path / "r.png")
    colors = {0: (0, 0, 0), 1: (255, 10, 0)}
    frame = score_files(tmp_path / "p.png", tmp_path / "r.png", structures={"a": 1}, colors=colors)
    assert table(frame)["a"] == [1.0, 0.0, 0.0]


def test_files_on_different_grids_are_refused_with_both_names(tmp_path: Path) -> None:
    labels = np.ones((4, 4, 4), dtype=np.uint8)
    p = nifti(tmp_path / "p.nii.gz", labels)
    for name, other, spacing in (("shape", labels[1:], 1.0), ("place", labels, 2.0)):
        r = nifti(tmp_path / f"{name}.nii.gz", other, spacing=spacing)
        with pytest.raises(DataError, match=r"p\.nii\.gz.*" + name):
            score_files(p, r, structures={"a": 1})


def test_folders_pair_by_name_whatever_the_ending(tmp_path: Path) -> None:
    for case, size in (("x", 2), ("y", 3)):
        labels = np.zeros((5, 5), dtype=np.uint8)
        labels[:size] = 1
        for folder, end in (("p", "png"), ("r", "tif")):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_label(tmp_path / folder / f"{case}.{end}", labels)
    (tmp_path / "p" / "notes.txt").write_text("not a label")
    frame = score_folders(tmp_path / "p", tmp_path / "r", structures={"a": 1, "b": 2})
    assert list(frame.columns) == ["case", "structure", "metric", "value"]
    assert frame.groupby("case").size().to_dict() == {"x": 6, "y": 6}


def test_all_files_without_partner_are_named(tmp_path: Path) -> None:
    labels = np.ones((3, 3), dtype=np.uint8)
    for name in ("p/only_here.png", "p/both.png", "r/both.png", "r/lost1.png", "r/lost2.png"):
        write_label(tmp_path / name, labels)
    with pytest.raises(DataError) as caught:
        score_folders(tmp_path / "p", tmp_path / "r", structures={"a": 1})
    assert all(name in str(caught.value) for name in ("only_here.png", "lost1.png", "lost2.png", "3 files"))


def test_of_many_files_without_partner_the_first_are_named(tmp_path: Path) -> None:
    write_label(tmp_path / "p/both.png", np.ones((3, 3), np.uint8))
    for index in range(40):
        write_label(tmp_path / f"r/lost{index:02d}.png", np.ones((3, 3), np.uint8))
    write_label(tmp_path / "r/both.png", np.ones((3, 3), np.uint8))
    with pytest.raises(DataError, match=r"40 files are unpaired: .*lost04.png has .* and 35 more") as caught:
        score_folders(tmp_path / "p", tmp_path / "r", structures={"a": 1})
    assert str(caught.value).count("lost") == 5
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(20, 24), (14, 12, 10)])
def test_ignored_voxels_are_not_scored_whatever_is_predicted_there(shape: tuple[int, ...]) -> None:
    reference, prediction = blobs(shape, 0).astype(np.int16), blobs(shape, 1).astype(np.int16)
    reference[:5] = -3
    expected = score(
        np.where(reference == -3, 0, prediction), reference, spacing=[1] * len(shape), structures=STRUCTURES
    )
    assert expected["value"].notna().all()
    for painted in (prediction, np.where(reference == -3, 7, prediction), np.where(reference == -3, -3, prediction)):
        found = score(painted, reference, spacing=[1] * len(shape), structures=STRUCTURES, ignored=-3)
        pd.testing.assert_frame_equal(found, expected)


def test_folders_without_labels_or_with_one_name_twice_are_refused(tmp_path: Path) -> None:
    labels = np.ones((3, 3), dtype=np.uint8)
    (tmp_path / "empty").mkdir()
    for name in ("twice/a.png", "twice/a.tif"):
        write_label(tmp_path / name, labels)
    for name, message in (("missing", "is not a folder"), ("empty", "no label file"), ("twice", "same name")):
        with pytest.raises(DataError, match=message):
            score_folders(tmp_path / name, tmp_path / name, structures={"a": 1})


def test_written_scores_read_back_equal(tmp_path: Path) -> None:
    frame = pd.DataFrame({"structure": ["a", "b"], "metric": ["dice", "dice"], "value": [0.1 + 0.2, np.nan]})
    parquet, csv = write_scores(frame, tmp_path / "new" / "folder")
    pd.testing.assert_frame_equal(pd.read_parquet(parquet), frame)
    pd.testing.assert_frame_equal(pd.read_csv(csv), frame, check_dtype=False)
    assert sorted(p.name for p in parquet.parent.iterdir()) == ["scores.csv", "scores.parquet"]


def test_a_region_is_scored_as_the_mask_of_its_labels() -> None:
    rng = np.random.default_rng(0)
    prediction, reference = (blobs((12, 14, 10), seed) + rng.integers(0, 2, (12, 14, 10)) for seed in (0, 1))
    reference[:2] = 9
    regions = {"both": (1, 2), "one": 2, "also one": (2,), "absent": (20, 21)}
    found = score(prediction, reference, spacing=(1, 2, 3), structures=regions, ignored=9)
    for name, values in (("both", (1, 2)), ("one", (2,)), ("also one", (2,)), ("absent", (20, 21))):
        masks = [np.isin(labels, values).astype(int) for labels in (prediction, reference)]
        masks[1][:2] = 9
        alone = score(*masks, spacing=(1, 2, 3), structures={name: 1}, ignored=9)
        pd.testing.assert_frame_equal(found[found["structure"] == name].reset_index(drop=True), alone)
    assert list(found["structure"].unique()) == list(regions)
    assert 0 < found["value"][0] < 1
