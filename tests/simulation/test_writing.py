import json
from pathlib import Path

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
from test_source import scan

from scse.data.dataset import Dataset
from scse.data.files import read_image, read_label
from scse.data.inspection import open_checked
from scse.simulation.writing import simulate_from
from scse.support.errors import DataError, UserError

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 0, 2, -12], [0, 2, 0, 7], [0, 0, 0, 1]])


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A scan in Hounsfield units, stored in an orientation of its own, with two named balls of values 5 and 300."""
    image, labels = scan(noise=5.0)
    units = np.where(image[0] == 0, -1000, image[0]).astype(np.int16)
    values = np.select([labels == 1, labels == 2], [5, 300], 0).astype(np.int16)
    paths = tmp_path / "scan.nii.gz", tmp_path / "scan_seg.nii.gz"
    for path, array in zip(paths, (units, values), strict=True):
        nib.save(nib.Nifti1Image(array, AFFINE), path)
    (tmp_path / "labels.json").write_text(json.dumps({"background": 0, "left ball": 5, "right ball": 300}))
    return paths


def test_subjects_of_a_volume_are_an_nnunet_data_set_like_the_source(files: tuple[Path, Path], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    out = simulate_from(*files, tmp_path / "out", cases=3, progress=lambda *counts: seen.append(counts))
    _, dataset = open_checked(out)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert dataset.format == "nnunet"
    assert dataset.name == "simulated from scan.nii.gz"
    assert dataset.structures == {"left ball": 5, "right ball": 300}
    assert [len(dataset.cases), len(dataset.test_cases)] == [2, 1]
    for case in (*dataset.cases, *dataset.test_cases):
        stored = nib.load(case.images[0])
        assert stored.get_data_dtype() == np.int16
        image, label = read_image(case.images), read_label(case.label)
        np.testing.assert_allclose(image.affine, AFFINE)
        assert image.shape == label.shape == read_image([files[0]]).shape
        assert set(np.unique(label.array)) == {0, 5, 300}
        assert image.array.min() == -1000
        assert np.median(image.array[0][label.array == 5]) == pytest.approx(50, abs=20)


def test_a_subject_depends_on_seed_and_number_alone(files: tuple[Path, Path], tmp_path: Path) -> None:
    def content(cases: int, seed: int) -> list[bytes]:
        out = simulate_from(*files, tmp_path / f"{cases}-{seed}", cases=cases, seed=seed)
        return [np.asarray(nib.load(path).dataobj).tobytes() for path in sorted(out.rglob("sim_00[01]*_0000.nii.gz"))]

    few = content(2, 4)
    assert sorted(few) == sorted(content(4, 4))
    assert few != content(2, 5)


def test_subjects_of_a_picture_are_pictures_and_masks(tmp_path: Path) -> None:
    rng, labels = np.random.default_rng(0), np.zeros((30, 40), np.uint8)
    labels[8:20, 10:25] = 2
    colors = np.where(labels[..., None] == 2, (200, 40, 90), (30, 160, 60)) + rng.normal(0, 5, (30, 40, 3))
    PIL.Image.fromarray(colors.clip(0, 255).astype(np.uint8)).save(tmp_path / "leaf.png")
    PIL.Image.fromarray(labels).save(tmp_path / "leaf_mask.png")
    (tmp_path / "labels.csv").write_text("name,value\nspot,2\n")
    out = simulate_from(tmp_path / "leaf.png", tmp_path / "leaf_mask.png", tmp_path / "out", cases=3)
    _, dataset = open_checked(out)
    assert dataset.format == "folders"
    assert dataset.structures == {"spot": 2}
    assert [len(dataset.cases), len(dataset.test_cases)] == [2, 1]
    image, label = read_image(dataset.cases[0].images), read_label(dataset.cases[0].label)
    assert image.array.shape == (3, 30, 40)
    inside = [np.median(channel[label.array == 2]) for channel in image.array]
    assert inside[0] > inside[2] > inside[1]


def test_channels_are_files_of_their_own(tmp_path: Path) -> None:
    image, labels = scan()
    both = np.stack([image[0], 100 - image[0]], axis=-1).astype(np.float32)
    nib.save(nib.Nifti1Image(both, np.eye(4)), tmp_path / "both.nii.gz")
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "both_seg.nii.gz")
    out = simulate_from(tmp_path / "both.nii.gz", tmp_path / "both_seg.nii.gz", tmp_path / "out", cases=2)
    [case] = Dataset.open(out).cases
    assert [path.name for path in case.images] == ["sim_000_0000.nii.gz", "sim_000_0001.nii.gz"]
    assert read_image(case.images).array.shape == (2, *labels.shape)


def test_bad_input_is_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    image, label = files
    with pytest.raises(DataError, match=r"gone\.nii\.gz: does not exist"):
        simulate_from(tmp_path / "gone.nii.gz", label, tmp_path / "out")
    shifted = nib.load(label)
    nib.save(nib.Nifti1Image(np.asarray(shifted.dataobj)[1:], AFFINE), tmp_path / "other.nii.gz")
    with pytest.raises(DataError, match=r"other.nii.gz: has shape \(23, 20, 18\), but .*scan.nii.gz has"):
        simulate_from(image, tmp_path / "other.nii.gz", tmp_path / "out")
    nib.save(nib.Nifti1Image(np.asarray(shifted.dataobj) * 0, AFFINE), tmp_path / "none.nii.gz")
    with pytest.raises(DataError, match=r"none\.nii\.gz: "):
        simulate_from(image, tmp_path / "none.nii.gz", tmp_path / "out")
    with pytest.raises(UserError, match="cases must be at least 2"):
        simulate_from(image, label, tmp_path / "out", cases=1)
    assert not (tmp_path / "out").exists()
    (tmp_path / "labels.json").write_text("[1, 2]")
    with pytest.raises(DataError, match=r"labels.json: contains a list; allowed is an object such as"):
        simulate_from(image, label, tmp_path / "out")
