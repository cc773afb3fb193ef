"""Prepared arrays: prepared once for the same inputs and recipe, written atomically, with classes for label values."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from datasets import AFFINE, save_nifti, write_nnunet, write_pictures
from scse.data import prepared
from scse.data.dataset import Dataset
from scse.data.files import read_image, read_label
from scse.data.inspection import inspect
from scse.data.prepared import IGNORED_CLASS, Prepared, cache_folder, class_values, prepare
from scse.data.recipe import Recipe
from scse.support.errors import DataError

SMALL = (9, 6, 10)
VALUES = (300, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_nnunet(tmp_path / "set", cases=2, shape=SMALL, values=VALUES)


def prepare_all(folder: Path, cache: Path, *, recipe: Recipe | None = None, **changes: Any) -> list[Prepared]:
    inspection = inspect(Dataset.open(folder))
    dataset = inspection.dataset
    return prepare(
        dataset.cases,
        recipe or Recipe.derive(inspection.facts),
        **{
            "structures": dataset.structures,
            "digests": {fact.name: fact.digest for fact in inspection.facts},
            "cache": cache,
            "colors": dataset.colors,
            **changes,
        },
    )


def times(cases: list[Prepared]) -> list[int]:
    return [path.stat().st_mtime_ns for case in cases for path in sorted(case.folder.iterdir())]


def test_arrays_are_those_of_the_recipe(folder: Path, tmp_path: Path) -> None:
    first, second = prepare_all(folder, tmp_path / "cache")
    assert (first.name, second.name) == ("c0", "c1")
    recipe = Recipe.derive(inspect(Dataset.open(folder)).facts)
    expected, _ = recipe.image_slices(read_image([folder / "imagesTr/c0_0000.nii.gz"]))
    assert first.images().dtype == np.float32
    assert np.array_equal(first.images(), expected)
    assert first.labels().dtype == np.uint8
    assert first.labels().shape == (6, 16, 16)


def test_arrays_are_memory_mapped(folder: Path, tmp_path: Path) -> None:
    case = prepare_all(folder, tmp_path / "cache")[0]
    for array in (case.images(), case.labels()):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


def test_label_values_become_classes_and_come_back(folder: Path, tmp_path: Path) -> None:
    classes = prepare_all(folder, tmp_path / "cache")[0].labels()
    assert set(np.unique(classes)) == {0, 1, 2}
    values = class_values({"left": 300, "right": 3})[classes]  # coronal slices of a volume stored as LAS
    stored = read_label(folder / "labelsTr/c0.nii.gz").array
    assert np.array_equal(values[:, :9, :10], np.moveaxis(stored[::-1], 1, 0))


def test_many_scattered_label_values(tmp_path: Path) -> None:
    values = [0, 3, 255, 300, 5000]
    label = np.random.default_rng(0).choice(values, SMALL).astype(np.int32)
    folder = write_nnunet(tmp_path / "set", cases=2, shape=SMALL)
    save_nifti(folder / "labelsTr/c0.nii.gz", label)
    structures = {"d": 5000, "a": 3, "c": 300, "b": 255, "left": 1, "right": 2}
    classes = prepare_all(folder, tmp_path / "cache", structures=structures)[0].labels()
    restored = class_values(structures)[classes]
    assert np.array_equal(restored[:, :9, :10], np.moveaxis(label[::-1], 1, 0))


def test_values_outside_the_list_are_refused(folder: Path, tmp_path: Path) -> None:
    for structures in ({"left": 300}, {"right": 3}):
        with pytest.raises(DataError, match=r"c0.nii.gz: contains label values that are not listed \((3|300)\)"):
            prepare_all(folder, tmp_path / "cache", structures=structures)
    assert list((tmp_path / "cache").glob("*")) == []


def test_more_structures_than_8_bits_hold_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lists 255 structures, but at most 254"):
        prepare_all(folder, tmp_path / "cache", structures={str(n): n for n in range(1, 256)})


def test_as_many_structures_as_fit_beside_ignored_voxels(folder: Path, tmp_path: Path) -> None:
    structures = {str(n): n for n in range(300, 46, -1)}
    save_nifti(folder / "labelsTr/c0.nii.gz", np.resize([0, 3, 47, 300], SMALL).astype(np.int32))
    save_nifti(folder / "labelsTr/c1.nii.gz", np.resize([0, 3, 47, 300], SMALL).astype(np.int32))
    classes = prepare_all(folder, tmp_path / "cache", structures=structures, ignored=3)[0].labels()
    assert set(np.unique(classes)) == {0, 1, 254, IGNORED_CLASS}


def test_ignored_voxels_have_a_class_of_their_own_that_resampling_keeps(folder: Path, tmp_path: Path) -> None:
    structures = {"left": 300}
    recipe = Recipe.derive(inspect(Dataset.open(folder)).facts, spacing=3.1)
    for made in (None, recipe):
        learned = prepare_all(folder, tmp_path / "cache", recipe=made)[0].labels()
        ignoring = prepare_all(folder, tmp_path / "cache", recipe=made, structures=structures, ignored=3)[0].labels()
        assert np.array_equal(ignoring, np.where(learned == 2, IGNORED_CLASS, learned))
        assert (ignoring == IGNORED_CLASS).any()


def test_background_may_be_ignored(folder: Path, tmp_path: Path) -> None:
    learned = prepare_all(folder, tmp_path / "cache")[0].labels()
    ignoring = prepare_all(folder, tmp_path / "cache", ignored=0)[0].labels()
    inside = (slice(None), slice(9), slice(10))  # slices are padded to the patch
    assert np.array_equal(ignoring[inside], np.where(learned == 0, IGNORED_CLASS, learned)[inside])


def test_arrays_without_ignored_voxels_keep_their_key(folder: Path, tmp_path: Path) -> None:
    inspection = inspect(Dataset.open(folder))
    recipe = Recipe.derive(inspection.facts)
    known = json.dumps([1, inspection.facts[0].digest, recipe.model_dump_json(), list(VALUES)])
    case = prepare_all(folder, tmp_path / "cache")[0]
    assert case.folder.name == hashlib.sha256(known.encode()).hexdigest()[:24]
    assert prepare_all(folder, tmp_path / "cache", ignored=7)[0].folder != case.folder


def test_colour_masks(tmp_path: Path) -> None:
    import PIL.Image

    folder = write_pictures(tmp_path / "set", cases=2)
    for mask in (folder / "masks").iterdir():
        colors = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 9]], np.uint8)[np.array(PIL.Image.open(mask))]
        PIL.Image.fromarray(colors).save(mask)
    (folder / "labels.csv").write_text("name,color\nleft,#ff0000\nright,#000009\n")
    assert set(np.unique(prepare_all(folder, tmp_path / "cache")[0].labels())) == {0, 1, 2}


def test_unchanged_inputs_are_not_prepared_again(folder: Path, tmp_path: Path) -> None:
    first = prepare_all(folder, tmp_path / "cache")
    before = times(first)
    (folder / "imagesTr/c0_0000.nii.gz").touch()  # the content matters, not the modification time
    again = prepare_all(folder, tmp_path / "cache")
    assert again == first
    assert times(again) == before


def test_another_recipe_makes_other_arrays(folder: Path, tmp_path: Path) -> None:
    first = prepare_all(folder, tmp_path / "cache")
    recipe = Recipe.derive(inspect(Dataset.open(folder)).facts, spacing=4)
    other = prepare_all(folder, tmp_path / "cache", recipe=recipe)
    assert {case.folder for case in first}.isdisjoint(case.folder for case in other)
    assert other[0].images().shape[2:] == recipe.patch
    assert times(prepare_all(folder, tmp_path / "cache")) == times(first)


@pytest.mark.parametrize("changed", ["image", "label"])
def test_changed_content_makes_other_arrays(folder: Path, tmp_path: Path, changed: str) -> None:
    first = prepare_all(folder, tmp_path / "cache")
    path = folder / ("imagesTr/c0_0000.nii.gz" if changed == "image" else "labelsTr/c0.nii.gz")
    array = (read_image([path]).array[0] if changed == "image" else read_label(path).array).copy()
    array[0, 0, 0] = 300
    save_nifti(path, array, AFFINE)
    again = prepare_all(folder, tmp_path / "cache")
    assert again[0].folder != first[0].folder
    assert again[1].folder == first[1].folder
    assert not np.array_equal(getattr(again[0], f"{changed}s")(), getattr(first[0], f"{changed}s")())


def test_the_order_of_structures_makes_other_arrays(folder: Path, tmp_path: Path) -> None:
    first = prepare_all(folder, tmp_path / "cache", structures={"left": 300, "right": 3})
    other = prepare_all(folder, tmp_path / "cache", structures={"right": 3, "left": 300})
    assert np.array_equal(other[0].labels() == 1, first[0].labels() == 2)


def test_several_may_prepare_the_same_case(folder: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: prepare_all(folder, tmp_path / "cache"), range(4)))
    assert all(cases == found[0] for cases in found)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == sorted(c.folder.name for c in found[0])
    assert all(len(case.images()) == 6 for case in found[0])


def test_a_slower_writer_takes_what_the_faster_one_made(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepare_all(folder, tmp_path / "cache")
    before, there = times(made), Path.exists
    asked: list[Path] = []

    def not_yet(path: Path) -> bool:
        """Pretend that the folder of a case does not exist at the first check."""
        first = path.parent == tmp_path / "cache" and path not in asked
        asked.append(path)
        return there(path) and not first

    monkeypatch.setattr(Path, "exists", not_yet)
    assert prepare_all(folder, tmp_path / "cache") == made
    assert times(made) == before
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space left"), KeyboardInterrupt()])
def test_nothing_is_left_of_an_interrupted_writing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(prepared, "write_array", fail)
        with pytest.raises(type(error)):
            prepare_all(folder, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(prepare_all(folder, tmp_path / "cache")) == 2


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def another_array(path: Path, array: NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.save(file, array)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit of the images": lambda folder: flip(folder / "images.npy", -1),
    "a bit of the labels": lambda folder: flip(folder / "labels.npy", -500),
    "a bit of the header": lambda folder: flip(folder / "images.npy", 20),
    "truncated": lambda folder: os.truncate(folder / "images.npy", 300),
    "empty": lambda folder: (folder / "labels.npy").write_bytes(b""),
    "pickle": lambda folder: another_array(folder / "labels.npy", np.array([{}], dtype=object)),
    "text": lambda folder: (folder / "images.npy").write_text("no array"),
    "another type": lambda folder: another_array(folder / "images.npy", np.zeros((6, 1, 16, 16))),
    "another shape": lambda folder: another_array(folder / "images.npy", np.zeros((3, 1, 16, 16), np.float32)),
    "zeros": lambda folder: another_array(folder / "images.npy", np.zeros((6, 1, 16, 16), np.float32)),
    "gone": lambda folder: (folder / "images.npy").unlink(),
    "a folder": lambda folder: ((folder / "labels.npy").unlink(), (folder / "labels.npy").mkdir()),
    "all gone": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "a file": lambda folder: (shutil.rmtree(folder), folder.write_text("no folder")),
    "no checksums": lambda folder: (folder / "checksums.json").unlink(),
    "empty checksums": lambda folder: (folder / "checksums.json").write_text(""),
    "no checksum": lambda folder: (folder / "checksums.json").write_text("{}"),
    "wrong checksums": lambda folder: (folder / "checksums.json").write_text('{"images.npy": {"bytes": true}}'),
    "nested checksums": lambda folder: (folder / "checksums.json").write_text("[" * 5000 + "]" * 5000),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_arrays_are_made_again_and_named(folder: Path, tmp_path: Path, kind: str) -> None:
    first, second = prepare_all(folder, tmp_path / "cache")
    images, labels = np.array(first.images()), np.array(first.labels())
    before, notes = times([second]), []
    DAMAGE[kind](first.folder)
    assert prepare_all(folder, tmp_path / "cache", on_note=notes.append) == [first, second]
    assert np.array_equal(first.images(), images)
    assert np.array_equal(first.labels(), labels)
    assert times([second]) == before
    (note,) = notes
    assert note.startswith("the prepared arrays of case c0 are damaged (")
    assert str(first.folder) in note
    assert "pickle" not in note
    assert sorted(path.name for path in first.folder.iterdir()) == ["checksums.json", "images.npy", "labels.npy"]
    assert sorted((tmp_path / "cache").iterdir()) == sorted([first.folder, second.folder])
    prepare_all(folder, tmp_path / "cache", on_note=notes.append)
    assert len(notes) == 1


def test_content_is_read_once_in_a_process(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_all(folder, tmp_path / "cache")
    checked = prepare_all(folder, tmp_path / "cache")
    monkeypatch.setattr("scse.data.prepared.zlib", None)  # so that no checksum can be computed
    assert prepare_all(folder, tmp_path / "cache", on_note=pytest.fail) == checked


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((2, 8, 8), np.float64), "contains float64 of 3 axes, but uint8 of 3 or 4 axes is expected"),
        (np.zeros(4, np.uint8), "contains uint8 of 1 axes"),
        (np.array([{}], dtype=object), "cannot be read"),
        (b"", "cannot be read"),
        (b"PK\x03\x04", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_arrays_that_cannot_be_used_are_named_where_they_are_read(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "labels.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        another_array(path, content)
    with pytest.raises(DataError, match=message) as caught:
        Prepared("a", tmp_path).labels()
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith("the arrays are prepared again from the data set")


def test_progress_and_unlabelled_cases(folder: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    prepare_all(folder, tmp_path / "cache", progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
    inspection = inspect(Dataset.open(write_nnunet(tmp_path / "more", cases=1, tests=1, shape=SMALL)))
    case = replace(inspection.dataset.test_cases[0], label=None)
    digests = {fact.name: fact.digest + "new" for fact in inspection.facts}
    with pytest.raises(ValueError, match="case t0 has no label map"):
        prepare([case], Recipe.derive(inspection.facts), structures={"a": 1}, digests=digests, cache=tmp_path / "cache")


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCSE_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("SCSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b" / "scse"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "scse"
