"""What training cases had: ranges of volumes, single pieces, and the flags of results outside them."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from datasets import save_nifti, write_nnunet, write_pictures
from scse.data.inspection import CaseFacts
from scse.inference.averaging import averaged
from scse.inference.joining import joined
from scse.inference.known import flag_of, known_of, shared_known
from scse.inference.saved import Known
from scse.inference.segmenter import Segmenter
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
    flag = table.loc[("strange", "right"), "flag"]
    assert flag
    assert f"strange: right: {flag}" in read_flags(path, ["strange", "usual"])
    assert read_flags(path, ["usual"]) == []


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
