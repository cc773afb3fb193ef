"""Inspection: each kind of damage is reported with a remedy; valid data passes."""

import gzip
import hashlib
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import PIL.Image
import pytest

from datasets import write_regions
from scse.data import Dataset, Inspection, inspect

SHAPE = (6, 7, 8)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".nii.gz"):
        nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    else:
        PIL.Image.fromarray(array).save(path)


def edit(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the voxels of a file in place."""
    if path.name.endswith(".nii.gz"):
        image = nib.load(path)
        save(path, change(np.asanyarray(image.dataobj).copy()), image.affine)
    else:
        save(path, change(np.array(PIL.Image.open(path))))


def put(value: float | tuple[int, int, int], *, dtype: type | None = None) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(dtype or array.dtype)
        array[(0,) * (array.ndim - np.ndim(value))] = value
        return array

    return change


def describe(folder: Path, content: dict[str, object]) -> None:
    (folder / "dataset.json").write_text(json.dumps(content))


@pytest.fixture
def nnunet(tmp_path: Path) -> Path:
    """Three training cases and a labelled test case, with two channels and structures 1 and 2."""
    rng = np.random.default_rng(0)
    for name, part in (("a", "Tr"), ("b", "Tr"), ("c", "Tr"), ("t", "Ts")):
        for channel in range(2):
            save(tmp_path / f"images{part}/{name}_000{channel}.nii.gz", rng.normal(size=SHAPE).astype(np.float32))
        save(tmp_path / f"labels{part}/{name}.nii.gz", rng.integers(0, 3, SHAPE).astype(np.uint8))
    labels = {"background": 0, "liver": 1, "spleen": 2}
    describe(tmp_path, {"channel_names": {"0": "T1", "1": "T2"}, "labels": labels, "file_ending": ".nii.gz"})
    return tmp_path


@pytest.fixture
def msd(tmp_path: Path) -> Path:
    """Three cases with two channels along the fourth axis."""
    rng = np.random.default_rng(0)
    for name in "abc":
        save(tmp_path / f"imagesTr/{name}.nii.gz", rng.normal(size=(*SHAPE, 2)).astype(np.float32))
        save(tmp_path / f"labelsTr/{name}.nii.gz", rng.integers(0, 2, SHAPE).astype(np.uint8))
    training = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in "abc"]
    labels = {"0": "background", "1": "liver"}
    describe(tmp_path, {"modality": {"0": "T1", "1": "T2"}, "labels": labels, "training": training})
    return tmp_path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Three RGB pictures with index masks of the values 0 to 2, without labels.csv."""
    rng = np.random.default_rng(0)
    for name in "abc":
        save(tmp_path / f"images/{name}.png", rng.integers(0, 255, (9, 8, 3)).astype(np.uint8))
        save(tmp_path / f"masks/{name}.png", rng.integers(0, 3, (9, 8)).astype(np.uint8))
    return tmp_path


def inspected(folder: Path) -> Inspection:
    return inspect(Dataset.open(folder))


def assert_only_problem(folder: Path, kind: str, file: str, *words: str) -> None:
    """Assert that there is exactly one problem, of this kind and file, whose message contains all words."""
    problems = inspected(folder).problems
    assert [(problem.kind, problem.file.name) for problem in problems] == [(kind, Path(file).name)]
    assert problems[0].message.startswith(f"{folder / file}: ")
    assert "\n" not in problems[0].message
    for word in words:
        assert word in problems[0].message


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_checksum(path: Path) -> None:
    content = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), 0))
    content[-20] ^= 1
    path.write_bytes(content)


def shift(path: Path) -> None:
    image = nib.load(path)
    affine = image.affine + np.eye(4, k=3) * 5
    save(path, np.asanyarray(image.dataobj).copy(), affine)


def no_place(path: Path) -> None:
    image = nib.Nifti1Image(np.asanyarray(nib.load(path).dataobj).copy(), None)
    image.header["sform_code"] = 1
    nib.save(image, path)


DAMAGE = {
    "image truncated": ("imagesTr/a_0000.nii.gz", truncate, "unreadable", ["copy or export it again"]),
    "image empty": ("imagesTr/a_0001.nii.gz", lambda p: p.write_bytes(b""), "unreadable", ["export it again"]),
    "image altered": ("imagesTr/a_0000.nii.gz", flip_checksum, "unreadable", ["CRC", "export it again"]),
    "label truncated": ("labelsTr/b.nii.gz", truncate, "unreadable", ["copy or export it again"]),
    "label no NIfTI": ("labelsTr/b.nii.gz", lambda p: p.write_text("hello"), "unreadable", ["export it again"]),
    "label missing": ("labelsTr/c.nii.gz", Path.unlink, "missing_label", ["c_0000.nii.gz", "add it, or remove"]),
    "test label truncated": ("labelsTs/t.nii.gz", truncate, "unreadable", ["export it again"]),
    "channel missing": ("imagesTr/a_0001.nii.gz", Path.unlink, "missing_channel", ["1 of 2", "add the file"]),
    "test channel missing": ("imagesTs/t_0000.nii.gz", Path.unlink, "missing_channel", ["1 of 2", "add the file"]),
    "label of another shape": (
        "labelsTr/a.nii.gz",
        lambda p: edit(p, lambda array: array[:-1]),
        "shape",
        ["(5, 7, 8)", "(6, 7, 8)", "a_0000.nii.gz", "resample"],
    ),
    "channel of another shape": (
        "imagesTr/a_0001.nii.gz",
        lambda p: edit(p, lambda array: array[:, :-1]),
        "shape",
        ["(6, 6, 8)", "(6, 7, 8)", "a_0000.nii.gz", "resample"],
    ),
    "label elsewhere": (
        "labelsTr/a.nii.gz",
        shift,
        "affine",
        ["[0, 3] is 5, but 0 in that file", "a_0000", "resample"],
    ),
    "channel elsewhere": (
        "imagesTr/b_0001.nii.gz",
        shift,
        "affine",
        ["is 5, but 0 in that file", "b_0000", "resample"],
    ),
    "label without a place": ("labelsTr/a.nii.gz", no_place, "affine", ["cannot be inverted", "s-form"]),
    "unlisted value": (
        "labelsTr/a.nii.gz",
        lambda p: edit(p, put(7)),
        "values",
        ["7 in 1 voxels", "dataset.json lists 0, 1, 2", "relabel"],
    ),
    "negative value": (
        "labelsTr/a.nii.gz",
        lambda p: edit(p, put(-1, dtype=np.int16)),
        "values",
        ["-1 in 1 voxels", "lists 0, 1, 2"],
    ),
    "0/255 mask": (
        "labelsTr/a.nii.gz",
        lambda p: edit(p, lambda array: (array > 0).astype(np.uint8) * 255),
        "mask_255",
        ["0 and 255", "dataset.json lists 0, 1, 2", "divide the mask by 255"],
    ),
    "fractional label": (
        "labelsTr/a.nii.gz",
        lambda p: edit(p, put(0.5, dtype=np.float32)),
        "fractional_label",
        ["1 voxels", "0.5", "nearest neighbour"],
    ),
    "empty label": ("labelsTr/a.nii.gz", lambda p: edit(p, np.zeros_like), "empty_label", ["label it, or remove"]),
    "NaN": ("imagesTr/a_0000.nii.gz", lambda p: edit(p, put(np.nan)), "not_finite", ["1 of 336", "replace them"]),
    "infinity": ("imagesTs/t_0001.nii.gz", lambda p: edit(p, put(np.inf)), "not_finite", ["1 of 336", "replace"]),
    "all NaN": (
        "imagesTr/a_0000.nii.gz",
        lambda p: edit(p, lambda array: array * np.nan),
        "not_finite",
        ["336 of 336", "replace them"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_each_kind_of_damage_is_named_with_its_remedy(nnunet: Path, damage: str) -> None:
    file, harm, kind, words = DAMAGE[damage]
    harm(nnunet / file)
    assert_only_problem(nnunet, kind, file, *words)


def test_sound_data_has_no_problems(nnunet: Path) -> None:
    inspection = inspected(nnunet)
    assert inspection.problems == ()
    assert inspection.good() == inspection.dataset == Dataset.open(nnunet)
    assert [fact.name for fact in inspection.facts] == ["a", "b", "c", "t"]


def test_facts_are_those_of_the_files(nnunet: Path) -> None:
    image = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    affine = np.diag([-2, 1, 3, 1])
    for channel in range(2):
        save(nnunet / f"imagesTr/a_000{channel}.nii.gz", image - channel, affine)
    label = np.zeros(SHAPE, np.uint8)
    label[0, 0, :3] = 2
    save(nnunet / "labelsTr/a.nii.gz", label, affine)
    fact = inspected(nnunet).facts[0]
    assert (fact.name, fact.shape, fact.spacing, fact.orientation) == ("a", SHAPE, (2, 1, 3), "LAS")
    assert (fact.channels, fact.intensity, fact.voxels) == (2, (-1.0, 335.0), {0: 333, 2: 3})


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint64, np.float32, ">i2"])
@pytest.mark.parametrize("greatest", [2, 100])
def test_voxels_are_counted_whatever_type_they_are_stored_in(nnunet: Path, dtype: type, greatest: int) -> None:
    label = np.random.default_rng(0).choice([0, 1, greatest], (70, 40, 30)).astype(dtype)
    nib.save(nib.Nifti1Image(label, np.eye(4), dtype=label.dtype), nnunet / "labelsTr/a.nii.gz")
    values, counts = np.unique(label, return_counts=True)
    assert inspected(nnunet).facts[0].voxels == {int(v): int(n) for v, n in zip(values, counts, strict=True)}


def test_large_and_negative_values_are_counted(nnunet: Path) -> None:
    label = np.zeros(SHAPE, np.int32)
    label[0, 0, :3] = -7, 2_000_000_000, -7
    save(nnunet / "labelsTr/a.nii.gz", label)
    assert inspected(nnunet).facts[0].voxels == {-7: 2, 0: 333, 2_000_000_000: 1}


def test_the_digest_is_of_voxels_and_affines_in_the_order_of_storage(msd: Path) -> None:
    image, label = nib.load(msd / "imagesTr/a.nii.gz"), nib.load(msd / "labelsTr/a.nii.gz")
    channels = np.moveaxis(np.asarray(image.dataobj), -1, 0)
    sha = hashlib.sha256()
    for array, order in ((channels, "C"), (np.asarray(label.dataobj), "F")):
        sha.update(f"{array.shape} {array.dtype} {np.eye(4).tolist()}".encode())
        sha.update(array.tobytes(order=order))
    assert inspected(msd).facts[0].digest == sha.hexdigest()


def test_the_digest_is_of_the_contents_not_of_the_compression(nnunet: Path) -> None:
    before = [fact.digest for fact in inspected(nnunet).facts]
    path = nnunet / "imagesTr/a_0000.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
    assert [fact.digest for fact in inspected(nnunet).facts] == before
    edit(nnunet / "labelsTr/b.nii.gz", lambda array: array[::-1])
    shift(nnunet / "imagesTr/c_0000.nii.gz")
    after = [fact.digest for fact in inspected(nnunet).facts]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, False, True]


def test_the_digest_tells_affines_apart_however_small_the_voxels_are(folders: Path) -> None:
    digests = set()
    for size in (1e-6, 1.0001e-6, 1.0, 1.0001, 1e6):
        image = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
        for folder in ("images", "masks"):
            shutil.rmtree(folders / folder)
            save(folders / folder / "a.nii.gz", image, np.diag([size, size, size, 1]))
        digests.add(inspected(folders).facts[0].digest)
    assert len(digests) == 5


def test_a_link_to_nothing_and_a_pipe_are_named_and_not_waited_for(nnunet: Path) -> None:
    for name, change in (("imagesTr/a_0000", "link"), ("labelsTr/b", "link"), ("imagesTr/c_0001", "pipe")):
        path = nnunet / f"{name}.nii.gz"
        path.unlink()
        if change == "link":
            path.symlink_to("gone.nii.gz")
        else:
            os.mkfifo(path)
    found = {problem.file.name: (problem.kind, problem.message) for problem in inspected(nnunet).problems}
    assert {name: kind for name, (kind, _) in found.items()} == {
        "a_0000.nii.gz": "missing_channel",
        "b.nii.gz": "missing_label",
        "c_0001.nii.gz": "unreadable",
    }
    assert "this channel is a link to gone.nii.gz, which does not exist" in found["a_0000.nii.gz"][1]
    assert "this label map is a link to gone.nii.gz, which does not exist" in found["b.nii.gz"][1]
    assert "is a named pipe (FIFO), not a file" in found["c_0001.nii.gz"][1]


def test_a_label_without_an_image(nnunet: Path) -> None:
    for channel in range(2):
        (nnunet / f"imagesTr/b_000{channel}.nii.gz").unlink()
    assert_only_problem(nnunet, "missing_image", "labelsTr/b.nii.gz", "has no image", "add the image of case b")


def test_a_channel_too_many(nnunet: Path) -> None:
    shutil.copy(nnunet / "imagesTr/a_0001.nii.gz", nnunet / "imagesTr/a_0002.nii.gz")
    assert_only_problem(nnunet, "extra_channel", "imagesTr/a_0002.nii.gz", "3 channels", "lists 2 (T1, T2)", "remove")


def test_a_training_image_copied_into_the_test_set(nnunet: Path) -> None:
    for channel in range(2):
        shutil.copy(nnunet / f"imagesTr/b_000{channel}.nii.gz", nnunet / f"imagesTs/t_000{channel}.nii.gz")
    assert_only_problem(nnunet, "duplicate_image", "imagesTs/t_0000.nii.gz", "case b", "b_0000.nii.gz", "remove one")
    good = inspected(nnunet).good()
    assert ([case.name for case in good.cases], good.test_cases) == (["a", "b", "c"], ())


def test_a_training_name_used_again_in_the_test_set(nnunet: Path) -> None:
    for folder, old, new in (("images", "t_0000", "a_0000"), ("images", "t_0001", "a_0001"), ("labels", "t", "a")):
        (nnunet / f"{folder}Ts/{old}.nii.gz").rename(nnunet / f"{folder}Ts/{new}.nii.gz")
    assert_only_problem(nnunet, "duplicate_name", "imagesTs/a_0000.nii.gz", "case a", "labelsTr/a.nii.gz", "rename")


def test_flat_images_among_volumes(nnunet: Path) -> None:
    for file in ("imagesTr/a_0000", "imagesTr/a_0001", "labelsTr/a"):
        edit(nnunet / f"{file}.nii.gz", lambda array: array[:, :, 0])
    assert_only_problem(nnunet, "axes", "imagesTr/a_0000.nii.gz", "has 2 axes", "3 of 4", "have 3", "convert")


def test_test_cases_need_labels_only_if_some_have_them(nnunet: Path) -> None:
    for channel in range(2):
        image = np.random.default_rng(channel).normal(size=SHAPE)
        save(nnunet / f"imagesTs/u_000{channel}.nii.gz", image + 9)
    assert_only_problem(nnunet, "missing_label", "labelsTs/u.nii.gz", "u_0000.nii.gz", "add it")
    shutil.rmtree(nnunet / "labelsTs")
    inspection = inspected(nnunet)
    assert inspection.problems == ()
    assert inspection.facts[-1].voxels == {}


def test_orientations_may_differ_between_cases(nnunet: Path) -> None:
    for file in ("imagesTr/a_0000", "imagesTr/a_0001", "labelsTr/a"):
        image = nib.load(nnunet / f"{file}.nii.gz")
        save(nnunet / f"{file}.nii.gz", np.asanyarray(image.dataobj).copy(), np.diag([-1, -1, 1, 1]))
    inspection = inspected(nnunet)
    assert inspection.problems == ()
    assert ("orientation", "RAS: 3, LPS: 1") in inspection.summary()


def test_everything_wrong_is_found_in_one_pass(nnunet: Path) -> None:
    truncate(nnunet / "imagesTr/a_0000.nii.gz")
    edit(nnunet / "imagesTr/a_0001.nii.gz", put(np.nan))
    edit(nnunet / "labelsTr/a.nii.gz", put(9))
    (nnunet / "labelsTr/b.nii.gz").unlink()
    shift(nnunet / "labelsTs/t.nii.gz")
    edit(nnunet / "labelsTs/t.nii.gz", np.zeros_like)
    inspection = inspected(nnunet)
    found = {(problem.case, problem.kind) for problem in inspection.problems}
    kinds = {"a": ["unreadable", "not_finite", "values"], "b": ["missing_label"], "t": ["affine", "empty_label"]}
    assert found == {(case, kind) for case in kinds for kind in kinds[case]}
    assert len(inspection.problems) == 6
    assert [case.name for case in inspection.good().cases] == ["c"]
    assert dict(inspection.summary())["problems"].startswith("6 in 3 cases: ")


def test_progress_counts_all_cases(nnunet: Path) -> None:
    calls: list[tuple[int, int]] = []
    inspect(Dataset.open(nnunet), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_failure_of_progress_ends_the_inspection(nnunet: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inspect(Dataset.open(nnunet), progress=interrupt)


def test_the_summary_describes_the_data(nnunet: Path) -> None:
    (nnunet / "splits_final.json").write_text('[{"train": ["a", "b"], "val": ["c"]}]')
    rows = dict(inspected(nnunet).summary())
    assert rows["cases"] == "3"
    assert rows["test cases"] == "1, 1 with labels"
    assert rows["folds"] == "1, from splits_final.json"
    assert rows["channels"] == "T1, T2"
    assert rows["size (voxels)"] == "6 x 7 x 8"
    assert rows["spacing (mm)"] == "1 x 1 x 1"
    assert rows["liver (1)"].endswith("of all structures, present in 4 of 4 cases")
    assert rows["problems"] == "none"


def test_decathlon_data(msd: Path) -> None:
    inspection = inspected(msd)
    assert inspection.problems == ()
    assert (inspection.facts[0].channels, inspection.facts[0].shape) == (2, SHAPE)


def test_a_decathlon_volume_that_lacks_a_channel(msd: Path) -> None:
    edit(msd / "imagesTr/b.nii.gz", lambda array: array[..., 0])
    assert_only_problem(
        msd, "missing_channel", "imagesTr/b.nii.gz", "1 channels", "lists 2 (T1, T2)", "correct dataset.json"
    )


def test_a_listed_image_that_is_not_there(msd: Path) -> None:
    (msd / "imagesTr/b.nii.gz").unlink()
    assert_only_problem(msd, "missing_image", "labelsTr/b.nii.gz", "imagesTr/b.nii.gz does not exist", "add the image")


def test_a_case_listed_twice(msd: Path) -> None:
    description = json.loads((msd / "dataset.json").read_text())
    description["training"].append(description["training"][0])
    describe(msd, description)
    assert_only_problem(msd, "duplicate_name", "imagesTr/a.nii.gz", "case a already exists as", "rename or remove")


def test_plain_folders_get_their_channels_and_structures_from_the_pixels(folders: Path) -> None:
    inspection = inspected(folders)
    assert inspection.problems == ()
    assert inspection.dataset.channels == ("red", "green", "blue")
    assert inspection.dataset.structures == {"structure_1": 1, "structure_2": 2}
    assert inspection.facts[0].orientation is None
    for name in "abc":
        edit(folders / f"images/{name}.png", lambda array: array[..., 0])
    assert inspected(folders).dataset.channels == ("intensity",)


def test_masks_of_0_and_255_need_a_line_in_labels_csv(folders: Path) -> None:
    edit(folders / "masks/b.png", lambda array: (array > 0).astype(np.uint8) * 255)
    words = ["0 and 255", f"write {folders / 'labels.csv'}", '"name,value" and "foreground,255"']
    assert_only_problem(folders, "mask_255", "masks/b.png", *words)
    assert inspected(folders).dataset.structures == {"structure_1": 1, "structure_2": 2}
    for name in "ac":
        edit(folders / f"masks/{name}.png", lambda array: (array > 0).astype(np.uint8) * 255)
    (folders / "labels.csv").write_text("name,value\nforeground,255\n")
    inspection = inspected(folders)
    assert inspection.problems == ()
    assert inspection.dataset.structures == {"foreground": 255}


def test_a_value_that_labels_csv_does_not_list(folders: Path) -> None:
    (folders / "labels.csv").write_text("name,value\ncup,1\ndisc,2\n")
    edit(folders / "masks/a.png", put(9))
    assert_only_problem(folders, "values", "masks/a.png", "9 in 1 voxels", "labels.csv lists 0, 1, 2", "add them")


def test_a_colour_that_labels_csv_does_not_list(folders: Path) -> None:
    palette = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], dtype=np.uint8)
    for name in "abc":
        edit(folders / f"masks/{name}.png", lambda array: palette[array])
    assert {problem.kind for problem in inspected(folders).problems} == {"colors"}
    (folders / "labels.csv").write_text("name,color\ncup,#ff0000\ndisc,#00ff00\n")
    inspection = inspected(folders)
    assert inspection.problems == ()
    assert inspection.facts[0].voxels.keys() == {0, 1, 2}
    edit(folders / "masks/a.png", put((17, 17, 17)))
    assert_only_problem(folders, "colors", "masks/a.png", "#111111: 1", "#ff0000", "add them to labels.csv")


def test_a_mask_saved_as_jpeg(folders: Path) -> None:
    mask = np.array(PIL.Image.open(folders / "masks/c.png")) * 100
    (folders / "masks/c.png").unlink()
    PIL.Image.fromarray(mask).save(folders / "masks/c.jpg")
    assert_only_problem(
        folders, "values", "masks/c.jpg", " more, but label values", "JPEG alters values", "export masks as PNG"
    )


def test_a_grey_picture_among_colour_pictures(folders: Path) -> None:
    edit(folders / "images/b.png", lambda array: array[..., 0])
    assert_only_problem(folders, "missing_channel", "images/b.png", "has 1 channels", "2 of 3", "have 3", "convert it")


def test_one_picture_name_in_two_formats(folders: Path) -> None:
    PIL.Image.open(folders / "images/b.png").save(folders / "images/b.bmp")
    problems = inspected(folders).problems
    assert [(problem.kind, problem.case) for problem in problems] == [("duplicate_name", "b")]
    assert "rename or remove one" in problems[0].message


def test_missing_partners_in_plain_folders(folders: Path) -> None:
    (folders / "images/a.png").unlink()
    (folders / "masks/b.png").unlink()
    found = [(problem.kind, problem.file) for problem in inspected(folders).problems]
    assert found == [("missing_image", folders / "masks/a.png"), ("missing_label", folders / "masks/b.png")]


def test_nothing_of_a_case_outlives_its_reading(tmp_path: Path) -> None:
    for index in range(12):
        picture = np.random.default_rng(index).integers(0, 255, (300, 300)).astype(np.uint8)
        save(tmp_path / f"images/{index}.png", picture)
        save(tmp_path / f"masks/{index}.png", picture // 128)
    dataset = Dataset.open(tmp_path)
    inspect(dataset)  # fill the permanent caches of libraries before measuring
    tracemalloc.start()
    inspection = inspect(dataset)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(inspection.facts) == 12
    assert kept / 12 < 10_000  # a single picture has 90,000 bytes


@pytest.mark.real_data
def test_damage_to_real_scans_is_found(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    source = real_data("hippocampus")
    description = json.loads((source / "dataset.json").read_text())
    description["training"] = description["training"][:5]
    for entry in description["training"]:
        for file in entry.values():
            (tmp_path / file).parent.mkdir(exist_ok=True)
            shutil.copy(source / file, tmp_path / file)
    describe(tmp_path, description)
    assert inspected(tmp_path).problems == ()
    images = [tmp_path / entry["image"] for entry in description["training"]]
    labels = [tmp_path / entry["label"] for entry in description["training"]]
    truncate(images[0])
    edit(labels[1], put(3))
    edit(labels[2], lambda array: array[:-1])
    labels[3].unlink()
    shutil.copy(images[3], images[4])
    kinds = {(problem.kind, problem.file) for problem in inspected(tmp_path).problems}
    expected = {("unreadable", images[0]), ("values", labels[1]), ("shape", labels[2]), ("missing_label", labels[3])}
    assert expected < kinds
    assert ("duplicate_image", images[4]) in kinds


@pytest.mark.real_data
def test_the_real_sets_are_sound(real_data: Callable[[str], Path]) -> None:
    inspection = inspected(real_data("hippocampus"))
    assert inspection.problems == ()
    assert max(fact.intensity[1] for fact in inspection.facts) > 1e6


@pytest.mark.parametrize("table", ["name,value\ncup,1\ndisc,2\n", None])
def test_an_undeclared_255_is_named_with_how_to_declare_it(folders: Path, table: str | None) -> None:
    edit(folders / "masks/b.png", put(255))
    kind = "undeclared_255"
    if table is not None:
        (folders / "labels.csv").write_text(table)
        kind = "values"
    words = [
        "255",
        'if 255 marks ignored voxels, declare it with the line "ignore,255" in labels.csv',
    ]
    assert_only_problem(folders, kind, "masks/b.png", *words)
    (folders / "labels.csv").write_text("name,value\ncup,1\ndisc,2\nignore,255\n")
    inspection = inspected(folders)
    assert inspection.problems == ()
    assert inspection.dataset.structures == {"cup": 1, "disc": 2}
    assert inspection.facts[1].voxels[255] == 1
    rows = dict(inspection.summary())
    assert rows["ignored (255)"] == "1 voxels, 0.46% of all voxels, present in 1 of 3 cases"
    assert rows["ignored"] == "voxels of value 255 are left out of training and scores"


@pytest.mark.parametrize(("layout", "declared"), [("nnunet", '"ignore": 255'), ("msd", '"255": "ignore"')])
def test_an_undeclared_255_in_other_layouts(layout: str, declared: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(layout)
    edit(folder / "labelsTr/b.nii.gz", put(255))
    assert_only_problem(
        folder, "values", "labelsTr/b.nii.gz", "255 in 1 voxels", f"declare it with {declared} among the labels"
    )


def test_255_as_one_of_many_values_needs_no_declaration(folders: Path) -> None:
    edit(
        folders / "masks/b.png", lambda array: np.where(array == 2, 255, np.where(array == 1, 254, 0)).astype(np.uint8)
    )
    assert inspected(folders).problems == ()


def test_a_label_map_of_ignored_voxels_alone_has_no_structure(folders: Path) -> None:
    (folders / "labels.csv").write_text("name,value\ncup,1\ndisc,2\nignore,255\n")
    edit(folders / "masks/b.png", lambda array: np.full_like(array, 255))
    assert_only_problem(folders, "empty_label", "masks/b.png", "contains only background (0) and ignored voxels (255)")


def test_colours_may_be_ignored(folders: Path) -> None:
    palette = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], dtype=np.uint8)
    for name in "abc":
        edit(folders / f"masks/{name}.png", lambda array: palette[array])
    (folders / "labels.csv").write_text("name,r,g,b\ncup,255,0,0\ndisc,0,255,0\nVoid,0,0,0\n")
    inspection = inspected(folders)
    assert inspection.problems == ()
    assert (inspection.dataset.structures, inspection.dataset.ignored) == ({"cup": 1, "disc": 2}, 3)
    assert all(fact.voxels.keys() == {1, 2, 3} for fact in inspection.facts)


def test_structures_without_a_training_case_are_warned_of(nnunet: Path) -> None:
    for name in "abc":
        edit(nnunet / f"labelsTr/{name}.nii.gz", lambda array: np.where(array == 2, 0, array).astype(np.uint8))
    inspection = inspected(nnunet)
    assert inspection.absent(inspection.dataset.cases) == ["spleen"]
    assert inspection.absent(inspection.dataset.test_cases) == []
    warning = "spleen: absent from all training cases, so it cannot be learned and its scores are NaN"
    assert dict(inspection.summary())["warning"] == warning


def test_unused_files_and_the_name_of_the_background_are_reported(folders: Path) -> None:
    assert inspected(folders).notices() == []
    for index in range(7):
        (folders / f"images/x{index}.gif").touch()
    (folders / "labels.csv").write_text("name,value\nsky,0\ncup,1\ndisc,2\n")
    rows = dict(inspected(folders).summary())
    assert rows["background"] == "voxels of sky (0) are not a structure and are not scored"
    assert rows["not used"].startswith(
        "images/x0.gif, images/x1.gif, images/x2.gif, images/x3.gif, images/x4.gif and 2"
    )
    assert rows["problems"] == "none"


def test_regions_are_counted_by_all_their_labels(tmp_path: Path) -> None:
    inspection = inspect(Dataset.open(write_regions(tmp_path, cases=2, ignore=True)))
    assert inspection.problems == ()
    voxels = {value: sum(fact.voxels[value] for fact in inspection.facts) for value in (1, 2, 3)}
    total = sum(voxels.values())
    rows = dict(inspection.summary())
    assert rows["whole (1, 2, 3)"] == f"{total:,} voxels, 100.00% of all structures, present in 2 of 2 cases"
    core = voxels[2] + voxels[3]
    assert rows["core (2, 3)"] == f"{core:,} voxels, {core / total:.2%} of all structures, present in 2 of 2 cases"
    assert rows["middle (2)"].startswith(f"{voxels[2]:,} voxels")
    assert inspection.absent(inspection.dataset.cases) == []
    assert inspection.absent([]) == ["whole", "core", "middle"]
