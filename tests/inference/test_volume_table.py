"""The table of volumes: a row for each image and structure, kept over calls, beside label maps of any kind."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from datasets import save_nifti, save_picture
from scse.data.files import read_image
from scse.inference.segmenter import Segmenter
from scse.inference.uncertainty import uncertain
from scse.inference.volume_table import count_voxels
from scse.support.errors import UserError
from views import SHAPE, STRUCTURES, segmenter, volume

AFFINE = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1]])
COLUMNS = ["image", "structure", "label", "voxels", "volume_ml"]


def scans(folder: Path, *names: str) -> dict[str, list[Path]]:
    return {name: [save_nifti(folder / f"{name}.nii.gz", volume(n), AFFINE)] for n, name in enumerate(names)}


def expected(out: Path, name: str) -> list[list[object]]:
    labels = np.asarray(nib.load(out / f"{name}.nii.gz").dataobj)
    counts = [int((labels == value).sum()) for value in STRUCTURES.values()]
    rows = zip(STRUCTURES.items(), counts, strict=True)
    return [[name, structure, value, count, pytest.approx(count * 0.009)] for (structure, value), count in rows]


def test_a_row_has_the_voxels_and_millilitres_of_a_structure(tmp_path: Path) -> None:
    images, out, path = scans(tmp_path, "a", "b"), tmp_path / "out", tmp_path / "tables" / "volumes.csv"
    assert segmenter("coronal").predict_files(images, out, volumes=path) == []
    table = pd.read_csv(path)
    assert list(table.columns) == [*COLUMNS, "flag"]
    assert table["flag"].isna().all()
    assert table[COLUMNS].to_numpy().tolist() == [*expected(out, "a"), *expected(out, "b")]
    assert sum(row[3] for row in expected(out, "a")) > 0


def test_rows_of_earlier_calls_stay_and_those_of_the_same_images_are_replaced(tmp_path: Path) -> None:
    images, out, path = scans(tmp_path, "a", "b", "c"), tmp_path / "out", tmp_path / "volumes.csv"
    first, second = segmenter("coronal"), segmenter("coronal", 1)
    first.predict_files({name: images[name] for name in "ab"}, out, volumes=path)
    before = pd.read_csv(path)
    second.predict_files({name: images[name] for name in "bc"}, out, volumes=path)
    after = pd.read_csv(path)
    assert list(dict.fromkeys(after["image"])) == ["a", "b", "c"]
    assert after[COLUMNS].to_numpy().tolist() == [row for name in "abc" for row in expected(out, name)]
    pd.testing.assert_frame_equal(after[after["image"] == "a"], before[before["image"] == "a"])
    assert not after[after["image"] == "b"].equals(before[before["image"] == "b"])


def test_an_image_that_fails_has_no_rows(tmp_path: Path) -> None:
    images, path = scans(tmp_path, "a"), tmp_path / "volumes.csv"
    flat = {"flat": [save_nifti(tmp_path / "flat.nii.gz", np.ones(SHAPE, np.float32))]}
    assert len(segmenter("axial").predict_files({**flat, **images}, tmp_path / "out", volumes=path)) == 1
    assert set(pd.read_csv(path)["image"]) == {"a"}


def test_files_of_others_are_replaced_only_if_asked_for(tmp_path: Path) -> None:
    images, out, path = scans(tmp_path, "a"), tmp_path / "out", tmp_path / "volumes.csv"
    path.write_text("mine\n")
    one = segmenter("axial")
    with pytest.raises(UserError, match=r"volumes\.csv: already there, and not written by scse"):
        one.predict_files(images, out, volumes=path)
    assert not out.exists()
    assert one.predict_files(images, out, volumes=path, overwrite=True) == []
    assert len(pd.read_csv(path)) == 3
    with pytest.raises(UserError, match="would be replaced by its own output"):
        one.predict_files({"volumes": [path]}, out, volumes=path)
    with pytest.raises(UserError, match=r"a\.nii\.gz: would be both a label map and the table of volumes"):
        one.predict_files(images, out, volumes=out / "a.nii.gz")


def test_tables_with_other_columns_are_not_continued(tmp_path: Path) -> None:
    images, out, path = scans(tmp_path, "a", "b"), tmp_path / "out", tmp_path / "volumes.csv"
    segmenter("axial").predict_files(images, out, volumes=path)
    both = uncertain([segmenter("axial"), segmenter("coronal", 1)])
    with pytest.raises(
        UserError, match=r"volumes\.csv: has the columns image,.*volume_ml,flag, and this call writes .*iou"
    ):
        both.predict_files(images, out, volumes=path)
    both.predict_files({"b": images["b"]}, out, volumes=path, overwrite=True)
    assert set(pd.read_csv(path)["image"]) == {"b"}


def test_the_uncertainty_of_a_structure_is_in_its_row(tmp_path: Path) -> None:
    images, out, path = scans(tmp_path, "a", "b"), tmp_path / "out", tmp_path / "volumes.csv"
    uncertain([segmenter("axial"), segmenter("coronal", 1)]).predict_files(images, out, volumes=path)
    table, spread = pd.read_csv(path), pd.read_csv(out / "uncertainty.csv")
    assert list(table.columns) == [*COLUMNS, "passes", "volume_cv", "iou", "flag"]
    assert table[COLUMNS].to_numpy().tolist() == [*expected(out, "a"), *expected(out, "b")]
    pd.testing.assert_frame_equal(table[spread.columns], spread)


def test_structures_on_which_the_passes_disagree_are_flagged(tmp_path: Path) -> None:
    images, path = scans(tmp_path, "a", "b"), tmp_path / "volumes.csv"
    uncertain([segmenter("axial"), segmenter("coronal", 1)]).predict_files(images, tmp_path / "out", volumes=path)
    table = pd.read_csv(path, keep_default_na=False)
    assert table["flag"].tolist() == [f"passes disagree, with a mean IoU of {iou:.2f}" for iou in table["iou"]]
    same = uncertain([segmenter("axial"), segmenter("axial")])
    same.predict_files(images, tmp_path / "out", volumes=path)
    assert (pd.read_csv(path)["iou"] == 1).all()
    assert pd.read_csv(path)["flag"].isna().all()


def test_pictures_have_pixels_and_no_millilitres(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8)
    images, path = {"p": [save_picture(tmp_path / "p.png", picture)]}, tmp_path / "volumes.csv"
    one = segmenter("picture", patch=(16, 16), values=(1, 2, 3))
    one.predict_files(images, tmp_path / "out", volumes=path)
    table = pd.read_csv(path)
    assert table["volume_ml"].isna().all()
    labels = one.predict_image(read_image(images["p"]))
    assert table["voxels"].tolist() == [int((labels == value).sum()) for value in (1, 2, 3)]


def test_a_region_has_the_voxels_of_all_its_labels() -> None:
    labels = np.array([[0, 1, 1], [2, 3, 3]], np.uint8)
    found = count_voxels(labels, {"whole": (1, 2, 3), "core": (2, 3), "middle": 2})
    assert found == {"whole": 5, "core": 3, "middle": 1}


def test_regions_are_named_by_their_labels(tmp_path: Path) -> None:
    plain = segmenter("axial", values=(1, 2, 3))
    regions = {"left-a": (1, 2, 3), "right-a": (2,), "b": (3,)}
    network = segmenter("axial").network
    one = Segmenter(network, plain.name, plain.arguments, "none", plain.recipe, plain.structures, regions=regions)
    network.weight.data, network.bias.data = network.weight.data[:3], network.bias.data[:3]
    path = tmp_path / "volumes.csv"
    assert one.predict_files(scans(tmp_path, "a"), tmp_path / "out", volumes=path) == []
    assert pd.read_csv(path)["label"].tolist() == ["1 2 3", "2", "3"]
