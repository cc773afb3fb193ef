import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from scse.data.dataset import Dataset
from scse.simulation.brain import STRUCTURES
from scse.simulation.writing import simulate_cohort
from scse.support.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_cohort(tmp_path_factory.mktemp("data") / "cohort", cases=3, seed=5)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int]]]:
    """Return an empty folder that was filled with the first two cases of `folder`, and the progress reported."""
    seen: list[tuple[int, int]] = []
    empty = tmp_path_factory.mktemp("empty")
    out = simulate_cohort(empty, cases=2, seed=5, progress=lambda done, total: seen.append((done, total)))
    assert out == empty
    return out, seen


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_layout_is_that_of_nnunet_v2(folder: Path) -> None:
    assert set(files(folder)) == {
        "dataset.json",
        *(f"imagesTr/sim_00{i}_0000.nii.gz" for i in (0, 1)),
        *(f"labelsTr/sim_00{i}.nii.gz" for i in (0, 1)),
        "imagesTs/sim_002_0000.nii.gz",
        "labelsTs/sim_002.nii.gz",
    }
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert description["channel_names"] == {"0": "T1"}
    assert list(description["labels"].values()) == list(range(28))
    assert description["numTraining"] == 2
    assert description["file_ending"] == ".nii.gz"


def test_calls_itself_simulated_and_names_its_sources(folder: Path) -> None:
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert description["name"] == "simulated cohort"
    assert "SIMULATED" in description["description"]
    assert all(word in description["licence"] for word in ("CC BY-NC", "OASIS", "Neuromorphometrics"))


def test_opens_as_a_dataset(folder: Path) -> None:
    dataset = Dataset.open(folder)
    assert dataset.format == "nnunet"
    assert dataset.name == "simulated cohort"
    assert dataset.structures == STRUCTURES
    assert [case.name for case in dataset.cases] == ["sim_000", "sim_001"]
    assert [case.name for case in dataset.test_cases] == ["sim_002"]


def test_images_are_int16_and_labels_uint8_on_the_same_grid(folder: Path) -> None:
    image, label = nib.load(folder / "imagesTr/sim_000_0000.nii.gz"), nib.load(folder / "labelsTr/sim_000.nii.gz")
    assert image.shape == label.shape == (96, 121, 100)
    assert image.get_data_dtype() == np.int16
    assert label.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(image.affine, label.affine)
    assert nib.aff2axcodes(image.affine) == ("L", "A", "S")
    assert image.header.get_zooms() == (1.5, 1.5, 1.5)
    intensity, structure = np.asarray(image.dataobj), np.asarray(label.dataobj)
    assert 1300 < intensity.max() < 4500
    assert intensity.min() == 0
    assert np.mean(intensity[structure > 0] > 0) > 0.999
    assert np.mean(intensity == 0) > 0.4
    white, cortex, ventricle = (intensity[structure == value].mean() for value in (1, 2, 3))
    assert white > 1.2 * cortex > 1.44 * ventricle


def test_a_case_depends_only_on_the_seed_and_its_number(
    folder: Path, filled: tuple[Path, list[tuple[int, int]]]
) -> None:
    two, three = files(filled[0]), files(folder)
    for kind in ("images{}/sim_00{}_0000.nii.gz", "labels{}/sim_00{}.nii.gz"):
        assert two[kind.format("Tr", 0)] == three[kind.format("Tr", 0)]
        assert two[kind.format("Ts", 1)] == three[kind.format("Tr", 1)]


def test_cases_differ(folder: Path) -> None:
    first, second = (voxels(folder / f"labelsTr/sim_00{i}.nii.gz") for i in (0, 1))
    brain = first > 0
    assert np.mean(first[brain] != second[brain]) > 0.1
    assert not np.array_equal(*(voxels(folder / f"imagesTr/sim_00{i}_0000.nii.gz") for i in (0, 1)))


def test_every_case_has_all_structures_each_in_one_piece(folder: Path) -> None:
    for path in folder.glob("labels*/*.nii.gz"):
        label = voxels(path)
        volumes = np.bincount(label.ravel())
        assert len(volumes) == 28
        assert volumes.min() > 100
        for value, box in enumerate(ndimage.find_objects(label), start=1):
            pieces, _ = ndimage.label(label[box] == value)
            # the narrow ends of the fourth ventricle are separate in the atlas, too
            assert np.bincount(pieces.ravel())[1:].max() > 0.98 * volumes[value]


def test_left_and_right_are_where_the_affine_says(folder: Path) -> None:
    for path in folder.glob("labels*/*.nii.gz"):
        label = nib.load(path)
        for name in ("cerebral-cortex", "thalamus", "cerebellum-white-matter"):
            left, right = (
                nib.affines.apply_affine(label.affine, np.argwhere(voxels(path) == STRUCTURES[f"{side}-{name}"]))
                for side in ("left", "right")
            )
            assert left[:, 0].mean() < right[:, 0].mean()


def test_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_cohort(tmp_path / "cohort", cases=2, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_fills_an_empty_folder_and_reports_progress(filled: tuple[Path, list[tuple[int, int]]]) -> None:
    folder, seen = filled
    assert (folder / "dataset.json").is_file()
    assert seen == [(1, 2), (2, 2)]


def test_writes_over_nothing(folder: Path) -> None:
    before = files(folder)
    with pytest.raises(DataError, match="cohort: is not empty; give a new folder"):
        simulate_cohort(folder, cases=2)
    with pytest.raises(DataError, match="is a file"):
        simulate_cohort(folder / "dataset.json")
    assert files(folder) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"cases": 1}, "cases must be at least 2, .* got 1"), ({"seed": -1}, "seed must be at least 0, got -1")],
)
def test_refuses_wrong_arguments(tmp_path: Path, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate_cohort(tmp_path / "cohort", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real_data
def test_structures_are_those_of_malc(real_data: Callable[[str], Path]) -> None:
    labels = json.loads((real_data("malc") / "dataset.json").read_text(encoding="utf-8"))["labels"]
    assert labels == {"background": 0, **STRUCTURES}
