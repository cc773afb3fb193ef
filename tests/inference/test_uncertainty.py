"""Uncertainty of passes, compared with what NumPy computes from the probabilities of each pass."""

from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from datasets import save_nifti, save_picture, scene, write_nnunet
from scse.data.files import Image, read_image
from scse.inference import image_table
from scse.inference.joining import joined
from scse.inference.segmenter import Segmenter
from scse.inference.uncertainty import Uncertain, shared_voxels, spread, uncertain
from scse.support.errors import UserError
from scse.training.run import train_on
from views import SHAPE, STRUCTURES, normalised, segmenter, shares, volume

AFFINE = np.diag([-2.0, 1.5, 1.0, 1.0])
SETTINGS: dict[str, Any] = {"width": 4, "depth": 2, "epochs": 8, "learning_rate": 0.02, "precision": "32"}


def passes_of(one: Segmenter, image: NDArray[np.float64], flips: list[tuple[int, ...]]) -> list[NDArray[np.float64]]:
    """Probabilities (classes, x, y, z) of mirrored copies; axis 0 exchanges the classes 1 and 2."""
    found = [np.flip(shares(one, np.flip(image, axes)), [axis + 1 for axis in axes]) for axes in flips]
    return [part[[0, 2, 1, 3]] if 0 in axes else part for part, axes in zip(found, flips, strict=True)]


def table_of(passes: list[NDArray[np.float64]], labels: NDArray[np.integer], voxel: float) -> pd.DataFrame:
    """The table from its definition, structure by structure and pair by pair."""
    classes, rows = [found.argmax(0) for found in passes], []
    for number, (name, value) in enumerate(STRUCTURES.items(), start=1):
        masks = [found == number for found in classes]
        sizes = [int(mask.sum()) for mask in masks]
        pairs = [((a & b).sum(), (a | b).sum()) for a, b in combinations(masks, 2)]
        ratios = [both / either for both, either in pairs if either]
        cv = np.std(sizes, ddof=1) / np.mean(sizes) if any(sizes) else np.nan
        row = (name, len(passes), (labels == value).sum() * voxel, cv, np.mean(ratios) if ratios else np.nan)
        rows.append(row)
    return pd.DataFrame(rows, columns=["structure", "passes", "volume_ml", "volume_cv", "iou"])


@pytest.mark.parametrize("mirror", [False, True])
def test_map_and_table_are_those_of_the_definition(mirror: bool) -> None:
    members, weights, stored = [segmenter("coronal"), segmenter("axial", 1)], (1, 3), volume()
    image = normalised(np.flip(stored, 0))  # stored to the left, the network sees it to the right
    flips: list[list[tuple[int, ...]]] = [[(), (0,), (2,), (0, 2)], [(), (0,), (1,), (0, 1)]]
    each = [passes_of(one, image, axes if mirror else [()]) for one, axes in zip(members, flips, strict=True)]
    mean = np.average([np.mean(passes, 0) for passes in each], axis=0, weights=weights)
    found = uncertain(members, weights=weights, mirror=mirror).estimate(Image(stored[None], AFFINE))
    entropy = -(mean * np.log(mean)).sum(0) / np.log(4)
    np.testing.assert_allclose(found.entropy, np.flip(entropy, 0), atol=5e-4)
    assert found.entropy.dtype == np.float32
    first, second = np.sort(mean, 0)[::-1][:2]
    clear = np.flip(first - second > 2e-4, 0)
    labels = np.flip(np.array([0, *STRUCTURES.values()])[mean.argmax(0)], 0)
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found.labels[clear], labels[clear])
    expected = table_of([part for passes in each for part in passes], found.labels, 0.003)
    assert expected["iou"].between(0.01, 0.99).all()
    pd.testing.assert_frame_equal(found.structures, expected, rtol=1e-6)


def test_labels_are_those_without_uncertainty() -> None:
    members, image = [segmenter("coronal", seed) for seed in range(3)], Image(volume()[None], AFFINE)
    plain, found = joined(members, mirror=True).predict_image(image), uncertain(members, mirror=True)
    agree = plain == found.estimate(image).labels  # probabilities in 16 bits may decide a tie in another way
    assert agree.mean() > 0.995
    np.testing.assert_array_equal(found.predict_image(image), found.estimate(image).labels)


def test_passes_that_agree_are_certain() -> None:
    one = segmenter("coronal")
    found = uncertain([one, one]).estimate(Image(volume()[None], AFFINE))
    assert (found.structures[["volume_cv", "iou"]] == [0, 1]).all(axis=None)
    sure = segmenter("coronal")
    with torch.no_grad():
        sure.network.get_parameter("bias").copy_(torch.tensor([100.0, 0, 0, 0]))
    empty = uncertain([sure, sure]).estimate(Image(volume()[None], AFFINE))
    assert empty.entropy.max() < 1e-3
    assert (empty.structures["volume_ml"] == 0).all()
    assert empty.structures[["volume_cv", "iou"]].isna().all(axis=None)


def test_a_pair_without_the_structure_has_no_say() -> None:
    passes = np.zeros((3, 2, 4), np.uint8)
    passes[0, 0, :2] = passes[1, 0, 1:3] = 1
    passes[0, 1, 0] = 2
    table = spread(shared_voxels(passes, 3)[1:], ["a", "b"], [0.5, 0.25])
    assert table["iou"].tolist() == [pytest.approx(1 / 9), 0]
    assert table["volume_cv"].tolist() == [pytest.approx(np.std([2, 2, 0], ddof=1) / (4 / 3)), pytest.approx(3**0.5)]


def test_trained_segmenters_are_less_sure_where_they_disagree(tmp_path: Path) -> None:
    data = write_nnunet(tmp_path / "set", cases=3, tests=1)
    runs = (("coronal", 0), ("axial", 1))
    members = [
        train_on(data, out=tmp_path / plane, settings={**SETTINGS, "seed": seed}, plane=plane, cache=tmp_path / "cache")
        for plane, seed in runs
    ]
    array, _ = scene(np.random.default_rng(7))
    array += np.random.default_rng(8).normal(0, 30, array.shape).astype(np.float32)  # harder than in training
    image = Image(array, np.diag([-2.0, 2, 2, 1]))
    found = uncertain(members).estimate(image)
    first, second = (member.predict_image(image) for member in members)
    differ = first != second
    assert differ.sum() > 50
    assert found.entropy[differ].mean() > 1.5 * found.entropy[~differ].mean()
    masks = [(first == value, second == value) for value in members[0].structures.values()]
    iou = [(a & b).sum() / (a | b).sum() for a, b in masks]
    np.testing.assert_allclose(found.structures["iou"], iou, atol=1e-6)


def test_maps_and_table_are_written_and_a_failure_loses_no_other(tmp_path: Path) -> None:
    paths = {name: [save_nifti(tmp_path / f"{name}.nii.gz", volume(seed), AFFINE)] for seed, name in enumerate("ab")}
    flat = save_nifti(tmp_path / "flat.nii.gz", np.ones(SHAPE, np.float32))
    one, out, calls = uncertain([segmenter("coronal"), segmenter("volume", 1)]), tmp_path / "out", []
    images = {"a": paths["a"], "flat": [flat], "b": paths["b"]}
    (failed,) = one.predict_files(images, out, progress=lambda done, total: calls.append((done, total)))
    assert failed.startswith(f"{flat}: all voxels have the same value")
    assert calls == [(1, 3), (2, 3), (3, 3)]
    names = ["a.nii.gz", "a.uncertainty.nii.gz", "b.nii.gz", "b.uncertainty.nii.gz", "uncertainty.csv"]
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == names
    table = pd.read_csv(out / "uncertainty.csv")
    for name, (path,) in paths.items():
        expected = one.estimate(read_image([path]))
        written, labels = (nib.load(out / f"{name}{end}.nii.gz") for end in (".uncertainty", ""))
        assert written.get_data_dtype() == np.uint16
        np.testing.assert_allclose(written.get_fdata(), expected.entropy, atol=2**-16)
        np.testing.assert_array_equal(written.affine, nib.load(path).affine)
        np.testing.assert_array_equal(labels.dataobj, expected.labels)
        rows = table[table["image"] == name].drop(columns="image").reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, expected.structures)
    assert one.predict_files(paths, out) == []  # its own files are replaced
    (out / "a.uncertainty.nii.gz").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"a\.uncertainty\.nii\.gz: already there, and not written by scse"):
        one.predict_files(paths, out)
    both = {"a": paths["a"], "a.uncertainty": paths["b"]}
    with pytest.raises(UserError, match=r"a\.uncertainty\.nii\.gz: would be both a label map and an uncertainty map"):
        one.predict_files(both, out, overwrite=True)


def test_a_long_table_is_written_seldom_and_whole_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, writes = [0.0], []

    def slow(path: Path, content: bytes) -> None:
        now[0] += 1.0
        writes.append(path.name)
        path.write_bytes(content)

    monkeypatch.setattr(image_table, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(image_table, "write_atomic", slow)
    image = [save_nifti(tmp_path / "a.nii.gz", volume(), AFFINE)]
    one = uncertain([segmenter("coronal"), segmenter("coronal", 1)])
    assert one.predict_files({f"i{number}": image for number in range(5)}, tmp_path / "out") == []
    assert writes == ["uncertainty.csv"] * 2
    table = pd.read_csv(tmp_path / "out" / "uncertainty.csv")
    assert table["image"].unique().tolist() == [f"i{number}" for number in range(5)]


def test_pictures_have_maps_of_8_bits_and_no_volume(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8)
    path = save_picture(tmp_path / "p.png", picture)
    members = [segmenter("picture", seed, patch=(16, 16), values=(1, 2, 3)) for seed in range(2)]
    one = uncertain(members)
    assert one.predict_files({"p": [path]}, tmp_path / "out") == []
    found = one.estimate(read_image([path]))
    written = read_image([tmp_path / "out" / "p.uncertainty.png"]).array[0]
    np.testing.assert_allclose(written / 255, found.entropy, atol=1 / 500)
    assert found.structures["volume_ml"].isna().all()
    assert found.structures["iou"].notna().all()


def test_one_pass_has_no_spread() -> None:
    with pytest.raises(UserError, match=r"give several segmenters \(-m A -m B, or --ensemble STUDY\), or predict mirr"):
        uncertain([segmenter("coronal")])
    assert str(uncertain([segmenter("coronal")], mirror=True)) == "uncertainty of 4 passes"
    assert isinstance(uncertain([segmenter("coronal"), segmenter("coronal")]), Uncertain)
    with pytest.raises(UserError, match="pictures and of volumes"):
        uncertain([segmenter("coronal"), segmenter("picture")])
