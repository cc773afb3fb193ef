"""What training cases had: ranges of volumes, single pieces, and the flags of results outside them."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from datasets import save_nifti, write_nnunet, write_pictures
from scse.data.inspection import CaseFacts
from scse.executors.base import Here
from scse.inference.appearance import Appearance
from scse.inference.averaging import averaged
from scse.inference.joining import joined
from scse.inference.known import flag_of, flag_of_image, flag_of_spread, known_of, shared_known
from scse.inference.saved import Known, KnownImages
from scse.inference.segmenter import Segmenter
from scse.inference.sharded import Recipe, predict_sharded
from scse.inference.volume_table import read_flags
from scse.training.record import read_record
from scse.training.run import resume, train_on

SETTINGS: dict[str, Any] = {"width": 4, "depth": 2, "epochs": 8, "learning_rate": 0.02, "precision": "32"}


def facts(voxels: dict[int, int], *, spacing: tuple[float, ...] = (1.0, 2.0, 5.0)) -> CaseFacts:
    return CaseFacts("a", (9, 9, 9), spacing, "RAS", 1, (0.0, 1.0), voxels, "")


def test_ranges_are_those_of_the_training_cases_in_millilitres() -> None:
    cases = [facts({0: 10, 1: 100 * n, 2: 50, 3: n}) for n in (3, 1, 2, 4)] + [facts({1: 200}, spacing=(1, 1, 1))]
    scored = {"one": 1, "both": (1, 2), "three": 3}
    found = known_of(cases, scored, {"one": [1, 1, 1, 1, 1], "three": [1, 2, 1, 0, 1]})
    assert found is not None
    assert (found.cases, found.single) == (5, ("one",))
    expected = {"one": (0.2, 4.0), "both": (0.2, 4.5), "three": (0.0, 0.04)}
    assert found.volumes == {name: pytest.approx(ends) for name, ends in expected.items()}
    assert known_of(cases[:4], scored, {}) is None
    assert known_of([CaseFacts("p", (9, 9), (1.0, 1.0), None, 1, (0, 1), {1: 3}, "")] * 5, scored, {}) is None


KNOWN = Known(cases=8, volumes={"a": (2.0, 3.0), "b": (0.0, 5.0), "c": (2.0, 2.0)}, single=("a",))


@pytest.mark.parametrize(
    ("structure", "volume", "pieces", "flag"),
    [
        ("a", 1.34, 1, ""),
        ("a", 4.49, 1, ""),
        ("a", 1.32, 1, "1.32 ml, and training cases have 2 to 3 ml"),
        ("a", 4.51, 1, "4.51 ml, and training cases have 2 to 3 ml"),
        ("a", 0.0, 0, "absent, and all 8 training cases have it"),
        ("a", 2.5, 2, "2 pieces, and all 8 training cases have one"),
        ("a", 9.0, 3, "9 ml, and training cases have 2 to 3 ml; 3 pieces, and all 8 training cases have one"),
        ("b", 0.0, 0, ""),
        ("b", 9.9, 4, ""),
        ("b", 10.1, 1, "10.1 ml, and training cases have 0 to 5 ml"),
        ("c", 2.19, 1, ""),
        ("c", 2.21, 1, "2.21 ml, and training cases have 2 to 2 ml"),
    ],
)
def test_what_lies_outside_is_flagged(structure: str, volume: float, pieces: int, flag: str) -> None:
    assert flag_of(KNOWN, structure, volume, pieces) == flag


def test_several_segmenters_know_what_all_of_them_do() -> None:
    other = Known(cases=6, volumes={"a": (1.0, 2.5), "b": (1.0, 6.0), "c": (2.0, 2.0)}, single=("a", "b"))
    expected = Known(cases=6, volumes={"a": (1.0, 3.0), "b": (0.0, 6.0), "c": (2.0, 2.0)}, single=("a",))
    assert shared_known([KNOWN, other]) == expected
    assert shared_known([KNOWN, None]) is None


def looks(spacing: float = 1.0, extent: float = 200.0, *medians: float) -> Appearance:
    quantiles = [(-1.5, -0.5, median, 0.5, 1.5) for median in medians or (0.1,)]
    return Appearance((1.0, spacing, 1.0), (150.0, 180.0, extent), tuple(quantiles))


IMAGES = Known(cases=6, volumes={}, images=known_of([facts({})] * 5, {}, {}, [looks()] * 5).images)  # type: ignore[union-attr]


def test_images_are_known_by_their_ranges_and_deviations() -> None:
    cases = [
        looks(spacing, 200, median) for spacing, median in ((1.0, 0.0), (2.0, 0.2), (1.5, 0.4), (1, 0.2), (1, 0.2))
    ]
    found = known_of([facts({})] * 5, {}, {}, cases)
    assert found is not None
    assert found.images is not None
    assert found.images.spacing == ((1, 1), (1, 2), (1, 1))
    assert found.images.extent == ((150, 150), (180, 180), (200, 200))
    deviation = np.std([0.0, 0.2, 0.4, 0.2, 0.2], ddof=1)
    assert found.images.intensities[0][2] == pytest.approx((0.2 - deviation, 0.2 + deviation))
    assert found.images.intensities[0][0] == (-1.5, -1.5)
    assert KnownImages.model_validate_json(found.images.model_dump_json(), strict=True) == found.images
    without = known_of([facts({})] * 5, {}, {})
    assert without is not None
    assert without.images is None


@pytest.mark.parametrize(
    ("found", "flag"),
    [
        (looks(), ""),
        (looks(1.25, 160.0, 0.19), ""),
        (looks(1.35), "spacing of 1 x 1.35 x 1 mm, and training images have 1 x 1 x 1 to 1 x 1 x 1 mm"),
        (looks(0.7, 200, 0.1), "spacing of 1 x 0.7 x 1 mm, and training images have 1 x 1 x 1 to 1 x 1 x 1 mm"),
        (
            looks(1.0, 100.0),
            "field of view of 150 x 180 x 100 mm, and training images have 150 x 180 x 200 to 150 x 180 x 200 mm",
        ),
        (
            looks(1.0, 200.0, 0.21),
            "intensities: quantile 0.5 is 0.21 after standardisation, and training images have 0.10 ± 0.03",
        ),
    ],
)
def test_images_unlike_the_training_images_are_flagged(found: Appearance, flag: str) -> None:
    assert flag_of_image(IMAGES, found) == flag


def test_the_farthest_quantile_of_each_channel_is_named() -> None:
    two = known_of([facts({})] * 5, {}, {}, [looks(1.0, 200.0, 0.1, 0.3)] * 5)
    assert two is not None
    strange = Appearance((1.0, 1.0, 1.0), (150.0, 180.0, 200.0), ((-1.5, 0, 0.1, 0.5, 3), (-1.5, -0.5, 0.3, 0.5, 1.5)))
    flag = flag_of_image(two, strange)
    assert flag.startswith("intensities of channel 1: quantile 0.95 is 3.00 after")
    assert ";" not in flag
    assert flag_of_image(KNOWN, strange) == ""


@pytest.mark.parametrize(("iou", "flag"), [(0.5, ""), (0.31, "passes disagree, with a mean IoU of 0.31"), (np.nan, "")])
def test_passes_that_disagree_are_flagged(iou: float, flag: str) -> None:
    assert flag_of_spread(iou) == flag


def test_images_are_usual_if_they_are_for_one_of_several_segmenters() -> None:
    other = known_of([facts({})] * 5, {}, {}, [looks(3.0, 100.0, 0.9)] * 5)
    assert other is not None
    both = shared_known([IMAGES, other])
    assert both is not None
    assert all(flag_of_image(both, found) == "" for found in (looks(), looks(3.0, 100.0, 0.9)))
    assert flag_of_image(both, looks(12.0))
    assert flag_of_image(both, looks(1.0, 200.0, 2.2))
    without = shared_known([IMAGES, Known(cases=5, volumes={})])
    assert without is not None
    assert without.images is None


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nnunet(tmp_path_factory.mktemp("data") / "set", cases=6, tests=2)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train_on(data, out=folder, settings=SETTINGS, cache=folder / "cache")
    return folder


def test_a_training_keeps_what_its_cases_had(data: Path, run: Path) -> None:
    one = Segmenter.load(run)
    assert one.known is not None
    sizes = {name: [] for name in one.structures}
    for n in range(6):
        labels = np.asarray(nib.load(data / f"labelsTr/c{n}.nii.gz").dataobj)
        for name, value in one.structures.items():
            sizes[name].append((labels == value).sum() * 0.008)
    assert one.known.volumes == {name: pytest.approx((min(found), max(found))) for name, found in sizes.items()}
    assert (one.known.cases, one.known.single) == (6, ("left", "right"))
    assert read_record(run).known == one.known
    assert resume(run, cache=run / "cache").known == one.known
    assert averaged([one, one]).known == one.known
    assert joined([one, averaged([one], mirror=False)]).known == one.known


def test_results_outside_are_flagged_in_the_table(data: Path, run: Path, tmp_path: Path) -> None:
    one, path = Segmenter.load(run), tmp_path / "volumes.csv"
    scan = nib.load(data / "imagesTs/t0_0000.nii.gz")
    image = np.asarray(scan.dataobj).copy()
    usual = save_nifti(tmp_path / "usual.nii.gz", image, scan.affine)
    image[(image > 150)] = 0
    strange = save_nifti(tmp_path / "strange.nii.gz", image, scan.affine)
    images = {"usual": [usual], "strange": [strange]}
    assert one.predict_files(images, tmp_path / "out", volumes=path) == []
    table = pd.read_csv(path, keep_default_na=False).set_index(["image", "structure"])
    assert table.columns[-1] == "flag"
    assert (table.loc["usual", "flag"] == "").all()
    flag = table.loc[("strange", "left"), "flag"]
    assert flag
    assert f"strange: left: {flag}" in read_flags(path, ["strange", "usual"])
    assert read_flags(path, ["usual"]) == []


@pytest.mark.parametrize("sharded", [False, True])
def test_images_unlike_those_of_the_training_have_a_row_of_their_own(
    data: Path, run: Path, sharded: bool, tmp_path: Path
) -> None:
    scan = nib.load(data / "imagesTs/t0_0000.nii.gz")
    image = np.asarray(scan.dataobj)
    changed = {
        "usual": (image, scan.affine),
        "inverted": (image.max() - image, scan.affine),
        "cut": (image[:, : image.shape[1] // 2], scan.affine),
        "coarse": (image, scan.affine @ np.diag([2, 2, 2, 1])),
    }
    images = {name: [save_nifti(tmp_path / f"{name}.nii.gz", *each)] for name, each in changed.items()}
    path, out = tmp_path / "volumes.csv", tmp_path / "out"
    if sharded:
        recipe = Recipe(groups=(((run, None),),))
        assert predict_sharded(recipe, images, out, executor=Here(), volumes=path) == []
    else:
        assert Segmenter.load(run).predict_files(images, out, volumes=path) == []
    table = pd.read_csv(path, keep_default_na=False)
    of_images = table[table["structure"] == ""].set_index("image")["flag"]
    assert [*of_images.index] == ["inverted", "cut", "coarse"]
    for name, start in {"inverted": "intensities: ", "cut": "field of view of ", "coarse": "spacing of "}.items():
        assert of_images[name].startswith(start)
        assert f"{name}: {of_images[name]}" in read_flags(path, images)
    assert (table[table["structure"] == ""][["label", "voxels", "volume_ml"]] == "").all(axis=None)
    assert len(table) == 2 * len(images) + len(of_images)


def test_segmenters_without_knowledge_flag_nothing(data: Path, run: Path, tmp_path: Path) -> None:
    description = run / "segmenter" / "segmenter.json"
    assert '"known"' in description.read_text()
    few = write_nnunet(tmp_path / "few", cases=4, tests=1, shape=(9, 6, 9))
    train_on(few, out=tmp_path / "run", settings={**SETTINGS, "epochs": 1, "batch_size": 4}, cache=tmp_path / "cache")
    assert Segmenter.load(tmp_path / "run").known is None
    assert '"known"' not in (tmp_path / "run" / "segmenter" / "segmenter.json").read_text()
    pictures = write_pictures(tmp_path / "pictures", cases=8)
    train_on(pictures, out=tmp_path / "p", settings={**SETTINGS, "epochs": 1}, cache=tmp_path / "cache", folds=4)
    assert Segmenter.load(tmp_path / "p").known is None
