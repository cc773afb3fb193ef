import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from scse.data import cohort
from scse.data.dataset import Dataset
from scse.support.errors import DataError


@pytest.fixture(scope="module")
def atlas() -> cohort.Atlas:
    return cohort.load_atlas()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cohort.simulate(tmp_path_factory.mktemp("data") / "cohort", cases=3, seed=5)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int]]]:
    """Return an empty folder that was filled with the first two cases of `folder`, and the progress reported."""
    seen: list[tuple[int, int]] = []
    empty = tmp_path_factory.mktemp("empty")
    out = cohort.simulate(empty, cases=2, seed=5, progress=lambda done, total: seen.append((done, total)))
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
    assert dataset.structures == cohort.STRUCTURES
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


def test_a_subject_is_drawn_as_it_is_written(atlas: cohort.Atlas, folder: Path) -> None:
    image, label = cohort.draw_subject(atlas, seed=5, number=2)
    np.testing.assert_array_equal(image, voxels(folder / "imagesTs/sim_002_0000.nii.gz"))
    np.testing.assert_array_equal(label, voxels(folder / "labelsTs/sim_002.nii.gz"))


def test_seeds_and_cases_differ(atlas: cohort.Atlas, folder: Path) -> None:
    first, second = (voxels(folder / f"labelsTr/sim_00{i}.nii.gz") for i in (0, 1))
    image, label = cohort.draw_subject(atlas, seed=6, number=0)
    brain = first > 0
    assert np.mean(first[brain] != second[brain]) > 0.1
    assert np.mean(first[brain] != label[brain]) > 0.1
    assert not np.array_equal(image, voxels(folder / "imagesTr/sim_000_0000.nii.gz"))


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
                nib.affines.apply_affine(label.affine, np.argwhere(voxels(path) == cohort.STRUCTURES[f"{side}-{name}"]))
                for side in ("left", "right")
            )
            assert left[:, 0].mean() < right[:, 0].mean()


@pytest.mark.parametrize("seed", range(3))
def test_deformations_are_invertible_and_of_realistic_size(atlas: cohort.Atlas, seed: int) -> None:
    points = cohort.random_deformation(atlas, np.random.default_rng(seed)).astype(np.float64)
    jacobian = np.stack([np.stack(np.gradient(part)) for part in points])
    assert np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1))).min() > 0
    design = np.column_stack([np.ones(points[0].size), *(axis.ravel() for axis in np.indices(points.shape[1:]))])
    design, target = design[::50], points.reshape(3, -1).T[::50]
    beyond_affine = target - design @ np.linalg.lstsq(design, target)[0]
    distances = atlas.spacing * np.linalg.norm(beyond_affine, axis=1)
    assert 2 < np.sqrt(np.mean(distances**2)) < 6
    assert 5 < distances.max() < 16


def test_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cohort.simulate(tmp_path / "cohort", cases=2, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_fills_an_empty_folder_and_reports_progress(filled: tuple[Path, list[tuple[int, int]]]) -> None:
    folder, seen = filled
    assert (folder / "dataset.json").is_file()
    assert seen == [(1, 2), (2, 2)]


def test_writes_over_nothing(folder: Path) -> None:
    before = files(folder)
    with pytest.raises(DataError, match="cohort: is not empty; give a new folder"):
        cohort.simulate(folder, cases=2)
    with pytest.raises(DataError, match="is a file"):
        cohort.simulate(folder / "dataset.json")
    assert files(folder) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"cases": 1}, "cases must be at least 2, .* got 1"), ({"seed": -1}, "seed must be at least 0, got -1")],
)
def test_refuses_wrong_arguments(tmp_path: Path, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cohort.simulate(tmp_path / "cohort", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real_data
def test_structures_are_those_of_malc(real_data: Callable[[str], Path]) -> None:
    labels = json.loads((real_data("malc") / "dataset.json").read_text(encoding="utf-8"))["labels"]
    assert labels == {"background": 0, **cohort.STRUCTURES}
