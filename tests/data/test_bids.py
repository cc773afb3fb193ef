"""BIDS folders: label maps of derivatives with their images, subjects as groups, names of structures from tsv files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from datasets import AFFINE, SHAPE, save_nifti, scene
from scse.data.dataset import Dataset
from scse.data.folds import make_folds
from scse.data.inspection import inspect, open_checked
from scse.support.errors import DataError

NAMES = "index\tname\tabbreviation\n0\tBackground\tBG\n1\tleft part\tL\n2\tright\tR\n"
MANUAL = "derivatives/manual"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def scan(subject: str, *, session: str = "", suffixes: Sequence[str] = ("T1w",), more: str = "") -> list[str]:
    """Paths of the images of a session, and of its label map, in that order."""
    place = f"sub-{subject}/" + (f"ses-{session}/" if session else "")
    name = f"sub-{subject}" + (f"_ses-{session}" if session else "") + more
    images = [f"{place}anat/{name}_{suffix}.nii.gz" for suffix in suffixes]
    return [*images, f"{MANUAL}/{place}anat/{name}_dseg.nii.gz"]


def names_of(dataset: Dataset) -> list[str]:
    return [case.name for case in dataset.cases]


def test_label_maps_have_the_images_of_their_session_and_the_subject_is_the_group(tmp_path: Path) -> None:
    touch(tmp_path, *scan("01", session="a"), *scan("01", session="b"), *scan("02"), "sub-03/anat/sub-03_T1w.nii.gz")
    touch(tmp_path, "sub-02/anat/sub-02_T1w.json", "sub-02/func/sub-02_task-rest_bold.nii.gz", "participants.tsv")
    (tmp_path / MANUAL / "dseg.tsv").write_text(NAMES)
    dataset = Dataset.open(tmp_path)
    assert (dataset.format, dataset.name, dataset.channels) == ("bids", tmp_path.name, ("T1w",))
    assert dataset.structures == {"left part": 1, "right": 2}
    first, second, third = dataset.cases
    assert names_of(dataset) == ["sub-01_ses-a", "sub-01_ses-b", "sub-02"]
    assert first.images == (tmp_path / "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",)
    assert first.label == tmp_path / MANUAL / "sub-01/ses-a/anat/sub-01_ses-a_dseg.nii.gz"
    assert (first.group, second.group, third.group) == ("sub-01", "sub-01", "sub-02")
    assert dataset.unused == (tmp_path / "sub-03/anat/sub-03_T1w.nii.gz",)
    assert [[case.group for case in fold.test] for fold in make_folds(dataset, 2)] == [["sub-01"] * 2, ["sub-02"]]


def test_the_images_that_every_session_has_are_channels(tmp_path: Path) -> None:
    touch(tmp_path, *scan("01", suffixes=("FLAIR", "T1w")), *scan("02", suffixes=("T1w", "T2w", "FLAIR")))
    dataset = Dataset.open(tmp_path)
    assert dataset.channels == ("T1w", "FLAIR")
    assert [path.name for path in dataset.cases[0].images] == ["sub-01_T1w.nii.gz", "sub-01_FLAIR.nii.gz"]
    assert dataset.notes == (("not used", "T2w images: there is not exactly one for sub-01"),)
    touch(tmp_path, "sub-02/anat/sub-02_run-1_FLAIR.nii.gz", "sub-02/anat/sub-02_run-2_FLAIR.nii.gz")
    (tmp_path / "sub-02/anat/sub-02_FLAIR.nii.gz").unlink()
    assert Dataset.open(tmp_path).channels == ("T1w",)


def test_images_on_another_grid_than_the_label_map_are_no_channels(tmp_path: Path) -> None:
    for subject in ("01", "02"):
        t1, flair, label = (tmp_path / name for name in scan(subject, suffixes=("T1w", "FLAIR")))
        save_nifti(t1, np.zeros(SHAPE, np.float32))
        save_nifti(flair, np.zeros(SHAPE, np.float32), AFFINE * 2)
        save_nifti(label, np.zeros(SHAPE, np.uint8), AFFINE * 2)
    dataset = Dataset.open(tmp_path)
    assert dataset.channels == ("FLAIR",)
    assert dataset.notes == (("not used", "T1w images: on another grid than the label map of sub-01"),)


def test_runs_and_acquisitions_are_told_apart(tmp_path: Path) -> None:
    touch(tmp_path, *scan("01", more="_run-1"), *scan("01", more="_run-2"))
    touch(tmp_path, "sub-02/anat/sub-02_acq-mprage_T1w.nii", f"{MANUAL}/sub-02/anat/sub-02_desc-manual_dseg.nii")
    dataset = Dataset.open(tmp_path)
    assert names_of(dataset) == ["sub-01_run-1", "sub-01_run-2", "sub-02"]
    assert [case.images[0].name for case in dataset.cases] == [
        *("sub-01_run-1_T1w.nii.gz", "sub-01_run-2_T1w.nii.gz"),
        "sub-02_acq-mprage_T1w.nii",
    ]


def test_several_images_of_a_label_map_are_refused_and_listed(tmp_path: Path) -> None:
    touch(tmp_path, *scan("01"), "sub-02/anat/sub-02_run-1_T1w.nii.gz", "sub-02/anat/sub-02_run-2_T1w.nii.gz")
    touch(tmp_path, scan("02")[-1])
    message = r"sub-02_dseg\.nii\.gz: 2 images could be its own, sub-02_run-1_T1w\.nii\.gz, sub-02_run-2_T1w\.nii\.gz; "
    with pytest.raises(DataError, match=message + r"name the label map after its image .*cases\.csv"):
        Dataset.open(tmp_path)


def test_label_maps_without_a_common_kind_of_image_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, *scan("01", suffixes=("T1w",)), *scan("02", suffixes=("FLAIR",)))
    why = r"T1w images: there is not exactly one for sub-02; FLAIR images: there is not exactly one for sub-01"
    with pytest.raises(DataError, match=rf"no kind of image in common \({why}\); add images, or .*cases\.csv"):
        Dataset.open(tmp_path)


def test_several_label_maps_of_an_image_are_refused_and_listed(tmp_path: Path) -> None:
    touch(tmp_path, *scan("01"), "derivatives/auto/sub-01/anat/sub-01_desc-aseg_dseg.nii.gz")
    found = r"derivatives/auto/sub-01/anat/sub-01_desc-aseg_dseg\.nii\.gz, derivatives/manual/sub-01/anat/sub-01_dseg"
    with pytest.raises(DataError, match=rf"sub-01 has 2 label maps, {found}.*; keep one .*cases\.csv"):
        Dataset.open(tmp_path)


def test_label_maps_in_standard_space_are_not_used(tmp_path: Path) -> None:
    mni = f"{MANUAL}/sub-01/anat/sub-01_space-MNI152NLin2009cAsym_res-1_dseg.nii.gz"
    touch(tmp_path, *scan("01")[:1], mni, f"{MANUAL}/sub-01/anat/sub-01_space-T1w_dseg.nii.gz")
    dataset = Dataset.open(tmp_path)
    assert dataset.cases[0].label == tmp_path / MANUAL / "sub-01/anat/sub-01_space-T1w_dseg.nii.gz"
    assert dataset.unused == (tmp_path / mni,)


def test_without_label_maps_the_folders_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    where = r"derivatives/\*/sub-\*/\[ses-\*/\]anat/\*_dseg\.nii\.gz"
    with pytest.raises(DataError, match=rf"{tmp_path.name}: has sub-01/, but no label maps {where}"):
        Dataset.open(tmp_path)
    touch(tmp_path, scan("02")[-1])
    with pytest.raises(DataError, match=r"no label map has a T1w, T2w or FLAIR image"):
        Dataset.open(tmp_path)


def test_names_are_those_of_the_nearest_table_that_applies(tmp_path: Path) -> None:
    touch(tmp_path, *scan("01"), *scan("02"))
    assert Dataset.open(tmp_path).structures == {}
    (tmp_path / MANUAL / "desc-other_dseg.tsv").write_text("index\tname\n1\tother\n")
    (tmp_path / MANUAL / "dseg.tsv").write_text("index\tname\n1\tone\n")
    near = tmp_path / MANUAL / "sub-02/anat/sub-02_dseg.tsv"
    near.write_text("index\tname\n1\tone\n3\tthree\n")
    assert Dataset.open(tmp_path).structures == {"one": 1, "three": 3}
    near.write_text("index\tname\n1\tuno\n")
    with pytest.raises(DataError, match=r"sub-02_dseg\.tsv: names 1 'uno', but .*manual/dseg\.tsv names it 'one'"):
        Dataset.open(tmp_path)
    near.write_text("value\tname\n1\tuno\n")
    with pytest.raises(DataError, match=r"sub-02_dseg\.tsv: found the columns value, name; needed: index, name"):
        Dataset.open(tmp_path)


def written(folder: Path, subjects: int = 4) -> Path:
    rng = np.random.default_rng(0)
    for number in range(subjects):
        for session in ("a", "b"):
            image, label = scene(rng)
            first, last = scan(f"{number:02d}", session=session)
            save_nifti(folder / first, image[0])
            save_nifti(folder / last, label.astype(np.uint8))
    (folder / MANUAL / "dseg.tsv").write_text(NAMES + "17\tHippocampus\tHC\n")
    return folder


def test_names_without_a_voxel_in_any_label_map_are_no_structures(tmp_path: Path) -> None:
    inspection, dataset = open_checked(written(tmp_path))
    assert inspection.dataset.structures == dataset.structures == {"left part": 1, "right": 2}
    rows = dict(inspection.summary())
    assert rows["groups"] == "8 cases in 4 groups, which folds keep together and statistics count as one each"
    assert "warning" not in rows


def test_a_case_without_an_image_and_values_without_a_name_are_problems(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / scan("00", session="a")[0]).unlink()
    (tmp_path / MANUAL / "dseg.tsv").write_text("index\tname\n1\tleft\n")
    found = inspect(Dataset.open(tmp_path))
    assert {problem.case: problem.kind for problem in found.problems if problem.kind != "values"} == {
        "sub-00_ses-a": "missing_image"
    }
    assert "dseg.tsv lists 0, 1" in next(p.message for p in found.problems if p.kind == "values")


@pytest.mark.parametrize(("values", "words"), [((255,), "255 TAB foreground"), ((1, 255), "255 TAB ignore")])
def test_the_value_255_is_named_in_the_form_of_the_tables(tmp_path: Path, values: Sequence[int], words: str) -> None:
    first, last = scan("01")
    save_nifti(tmp_path / first, np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE))
    label = np.zeros(SHAPE, np.uint8)
    label[0, 0, : len(values)] = values
    save_nifti(tmp_path / last, label)
    if 1 in values:
        (tmp_path / "dseg.tsv").write_text("index\tname\n1\tleft\n")
    [problem] = inspect(Dataset.open(tmp_path)).problems
    assert words in problem.message


def test_channels_are_counted_against_the_kinds_of_images(tmp_path: Path) -> None:
    written(tmp_path, subjects=1)
    image = tmp_path / scan("00", session="a")[0]
    save_nifti(image, np.random.default_rng(0).normal(size=(*SHAPE, 2)).astype(np.float32))
    [problem] = inspect(Dataset.open(tmp_path)).problems
    assert "the case has 2 channels, but the data set has 1 (T1w); add or remove channels" in problem.message
