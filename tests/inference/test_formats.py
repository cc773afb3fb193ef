"""Every verb on volumes of other formats than NIfTI, with the results of NIfTI, and on DICOM series."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from numpy.typing import NDArray
from safetensors.torch import load_file
from typer.testing import CliRunner

from datasets import write_nnunet
from dicom_series import write_series
from scse.cli.app import app
from scse.data.dataset import Dataset
from scse.data.files import read_image, read_label
from scse.data.inspection import inspect
from scse.gates.explaining import explain
from scse.inference.saved import WEIGHTS
from scse.inference.segmenter import Segmenter
from scse.inference.uncertainty import uncertain
from scse.support.errors import DataError, UserError
from scse.training.run import train_on

KINDS = (".mha", ".mhd", ".nrrd", ".nhdr", ".mgz", ".mgh")
WRITTEN = {".mhd": ".mha", ".nhdr": ".nrrd", ".mgh": ".mgz"}
SETTINGS = {"width": 4, "depth": 2, "epochs": 2, "learning_rate": 0.02, "precision": "32", "variant": "scse"}


def convert(source: Path, target: Path, suffix: str) -> Path:
    """Copy a data set with its volumes in another format."""
    for file in sorted(source.rglob("*.nii.gz")):
        path = target / file.relative_to(source).with_name(file.name.replace(".nii.gz", suffix))
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix.startswith(".mg"):
            image = nib.load(file)
            array = np.asarray(image.dataobj)
            nib.save(nib.MGHImage(array.astype("i4") if array.dtype.kind in "iu" else array, image.affine), path)
        else:
            sitk.WriteImage(sitk.ReadImage(str(file)), str(path), useCompression=True)
    description = json.loads((source / "dataset.json").read_text())
    (target / "dataset.json").write_text(json.dumps({**description, "file_ending": suffix}))
    return target


@pytest.fixture(scope="module")
def nifti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nnunet(tmp_path_factory.mktemp("nifti") / "set", cases=3, tests=1, values=(300, 3))


@pytest.fixture(scope="module")
def run(nifti: Path) -> Path:
    train_on(nifti, out=nifti.parent / "run", settings=SETTINGS, cache=nifti.parent / "cache")
    return nifti.parent / "run"


@pytest.fixture(scope="module")
def model(run: Path) -> Segmenter:
    return Segmenter.load(run)


@pytest.fixture(scope="module", params=KINDS)
def converted(
    nifti: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    return convert(nifti, tmp_path_factory.mktemp("converted") / "set", request.param), request.param


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_an_inspection_finds_the_same(converted: tuple[Path, str], nifti: Path) -> None:
    folder, suffix = converted
    dataset = Dataset.open(folder)
    assert {path.name for case in dataset.cases for path in case.images} == {f"c{n}_0000{suffix}" for n in range(3)}
    assert dataset.unused == ()
    found, expected = inspect(dataset), inspect(Dataset.open(nifti))
    assert found.problems == ()
    for mine, theirs in zip(found.facts, expected.facts, strict=True):
        if suffix.startswith(".mg"):  # the type of label maps belongs to the digest
            assert (mine.shape, mine.spacing, mine.voxels) == (theirs.shape, theirs.spacing, theirs.voxels)
        else:
            assert mine == theirs


def test_predictions_have_the_format_and_geometry_of_the_image(
    converted: tuple[Path, str], run: Path, model: Segmenter, nifti: Path, tmp_path: Path
) -> None:
    folder, suffix = converted
    found = call("predict", folder / "imagesTs", "-m", run, "-o", tmp_path)
    assert found.exit_code == 0, found.output
    written = tmp_path / f"t0{WRITTEN.get(suffix, suffix)}"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [written.name]
    image = read_image([folder / "imagesTs" / f"t0_0000{suffix}"])
    expected = model.predict_image(read_image([nifti / "imagesTs" / "t0_0000.nii.gz"]))
    np.testing.assert_array_equal(read_label(written).array, expected)
    np.testing.assert_allclose(read_label(written).affine, image.affine, atol=1e-12)
    direct = model.predict(folder / "imagesTs" / f"t0_0000{suffix}")
    np.testing.assert_array_equal(np.asarray(direct.dataobj), expected)
    np.testing.assert_allclose(direct.affine, image.affine, atol=1e-12)
    assert isinstance(direct, nib.MGHImage if suffix.startswith(".mg") else nib.Nifti1Image)
    scored = call("evaluate", tmp_path, folder / "labelsTs", "--dataset", folder, "-o", tmp_path / "scores")
    assert scored.exit_code == 0, scored.output
    table = pd.read_csv(tmp_path / "scores" / "scores.csv")
    dice = table[table["metric"] == "dice"].set_index("structure")["value"]
    reference = read_label(nifti / "labelsTs" / "t0.nii.gz").array
    for name, value in (("left", 300), ("right", 3)):
        mine, theirs = expected == value, reference == value
        assert dice[name] == pytest.approx(2 * (mine & theirs).sum() / (mine.sum() + theirs.sum()))


def test_maps_of_uncertainty_and_gates_have_the_format_of_the_image(
    converted: tuple[Path, str], run: Path, model: Segmenter, nifti: Path, tmp_path: Path
) -> None:
    folder, suffix = converted
    ending, image = WRITTEN.get(suffix, suffix), folder / "imagesTs" / f"t0_0000{suffix}"
    segmenter = uncertain([model], mirror=True)
    assert segmenter.predict_files({"t0": [image]}, tmp_path / "out") == []
    entropy = read_image([tmp_path / "out" / f"t0.uncertainty{ending}"])
    expected = segmenter.estimate(read_image([nifti / "imagesTs" / "t0_0000.nii.gz"])).entropy
    np.testing.assert_array_equal(entropy.array[0], np.rint(expected * 2**15) / 2**15)
    np.testing.assert_allclose(entropy.affine, read_image([image]).affine, atol=1e-12)
    found = call("explain", run, image, "-o", tmp_path / "gates")
    assert found.exit_code == 0, found.output
    gates = sorted((tmp_path / "gates").glob(f"spatial_*{ending}"))
    assert len(gates) == 4
    for path in gates:
        np.testing.assert_allclose(read_image([path]).affine, read_image([image]).affine, atol=1e-12)


@pytest.mark.parametrize("suffix", [".nrrd", ".mgz"])
def test_a_training_gives_the_weights_of_nifti(run: Path, nifti: Path, suffix: str, tmp_path: Path) -> None:
    folder = convert(nifti, tmp_path / "set", suffix)
    train_on(folder, out=tmp_path / "run", settings=SETTINGS, cache=tmp_path / "cache")
    expected = load_file(run / "segmenter" / WEIGHTS)
    for name, tensor in load_file(tmp_path / "run" / "segmenter" / WEIGHTS).items():
        assert tensor.equal(expected[name]), name


def test_other_layouts_hold_other_formats(nifti: Path, tmp_path: Path) -> None:
    msd = convert(nifti, tmp_path / "msd", ".mha")
    names = [f"c{n}" for n in range(3)]
    for name in names:
        (msd / "imagesTr" / f"{name}_0000.mha").rename(msd / "imagesTr" / f"{name}.mha")
    shutil.rmtree(msd / "imagesTs")
    shutil.rmtree(msd / "labelsTs")
    content = {
        "modality": {"0": "T1"},
        "labels": {"0": "background", "300": "left", "3": "right"},
        "training": [{"image": f"./imagesTr/{name}.mha", "label": f"./labelsTr/{name}.mha"} for name in names],
    }
    (msd / "dataset.json").write_text(json.dumps(content))
    plain = tmp_path / "plain"
    plain.mkdir()
    shutil.copytree(msd / "imagesTr", plain / "images")
    shutil.copytree(msd / "labelsTr", plain / "masks")
    for folder in (msd, plain):
        found = inspect(Dataset.open(folder))
        assert (found.problems, [fact.shape for fact in found.facts]) == ((), [(24, 28, 20)] * 3)


def test_a_report_shows_predictions_of_other_formats(nifti: Path, tmp_path: Path) -> None:
    from quick_studies import study_once

    folder = convert(nifti, tmp_path / "set", ".nrrd")
    options = {"variants": ("none", "scse"), "seeds": 1, "settings": {**SETTINGS, "epochs": 1}}
    del options["settings"]["variant"]
    study_once(folder, tmp_path, **options)
    predictions = sorted((tmp_path / "study" / "runs").glob("*/predictions/*.nrrd"))
    assert [path.name for path in predictions] == ["t0.nrrd", "t0.nrrd"]
    assert (tmp_path / "study" / "viewer.json").is_file()


# TIFF stacks

STACKED = np.diag([-2.0, -2.0, 2.0, 1.0])
"""The axes of a stack, and voxels of 2 mm."""


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif"])
def test_stacks_are_segmented_as_nifti_files_of_the_same_axes(
    nifti: Path, run: Path, model: Segmenter, suffix: str, tmp_path: Path
) -> None:
    array = np.asarray(nib.load(nifti / "imagesTs" / "t0_0000.nii.gz").dataobj)
    nib.save(nib.Nifti1Image(array, STACKED), tmp_path / "t0.nii.gz")
    image = tmp_path / "in" / f"t0{suffix}"
    image.parent.mkdir()
    sizes = {f"PhysicalSize{axis}": 2.0 for axis in "XYZ"} | {f"PhysicalSize{axis}Unit": "mm" for axis in "XYZ"}
    tifffile.imwrite(image, array.T, ome=True, photometric="minisblack", metadata={"axes": "ZYX", **sizes})
    out = tmp_path / "out"
    found = call("predict", image.parent, "-m", run, "-o", out, "--volumes", out / "volumes.csv")
    assert found.exit_code == 0, found.output
    expected = model.predict_image(read_image([tmp_path / "t0.nii.gz"]))
    label = read_label(out / f"t0{suffix}")
    np.testing.assert_array_equal(label.array, expected)
    np.testing.assert_allclose(label.affine, STACKED)
    table = pd.read_csv(out / "volumes.csv")
    assert table["volume_ml"].tolist() == pytest.approx([(expected == value).sum() * 8 / 1000 for value in (300, 3)])
    direct = model.predict(image)
    np.testing.assert_array_equal(np.asarray(direct.dataobj), expected)
    np.testing.assert_allclose(direct.affine, STACKED)
    (tmp_path / "references").mkdir()
    shutil.copy(out / f"t0{suffix}", tmp_path / "references")
    scored = call("evaluate", out, tmp_path / "references", "--dataset", nifti, "-o", tmp_path / "scores")
    assert scored.exit_code == 0, scored.output
    assert uncertain([model], mirror=True).predict_files({"t0": [image]}, out, overwrite=True) == []
    assert read_image([out / f"t0.uncertainty{suffix}"]).shape == array.shape
    found = call("explain", run, image, "-o", tmp_path / "gates")
    assert found.exit_code == 0, found.output
    gates = sorted((tmp_path / "gates").glob(f"spatial_*{suffix}"))
    assert len(gates) == 4
    for path in gates:
        np.testing.assert_allclose(read_image([path]).affine, STACKED)


# DICOM series


@pytest.fixture
def scan(nifti: Path, tmp_path: Path) -> tuple[Path, NDArray[np.float32], NDArray[np.float64]]:
    """The folder of a series with the rounded values of a test case, these values, and their affine."""
    image = nib.as_closest_canonical(nib.load(nifti / "imagesTs" / "t0_0000.nii.gz"))
    values = np.rint(image.get_fdata(dtype=np.float32))
    write_series(tmp_path / "scan", values + 1024, affine=image.affine, intercept=-1024)
    return tmp_path / "scan", values, image.affine


def test_a_series_is_segmented_and_written_as_nifti_and_dicom_seg(
    scan: tuple[Path, NDArray[np.float32], NDArray[np.float64]], run: Path, model: Segmenter, tmp_path: Path
) -> None:
    folder, values, affine = scan
    out = tmp_path / "out"
    found = call("predict", folder, "-m", run, "-o", out, "--dicom-seg")
    assert found.exit_code == 0, found.output
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == ["scan.dcm", "scan.nii.gz"]
    expected = model.predict(nib.Nifti1Image(values, affine))
    np.testing.assert_array_equal(read_label(out / "scan.nii.gz").array, expected.dataobj)
    np.testing.assert_allclose(read_label(out / "scan.nii.gz").affine, affine, atol=1e-5)
    segments = hd.seg.segread(out / "scan.dcm")
    assert [segments.get_segment_description(number).segment_label for number in (1, 2)] == ["left", "right"]
    again = call("predict", folder, "-m", run, "-o", out, "--dicom-seg", "--mirror", "--uncertainty")
    assert again.exit_code == 0, again.output
    names = ["scan.dcm", "scan.nii.gz", "scan.uncertainty.nii.gz", "uncertainty.csv"]
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == names
    explained = call("explain", run, folder, "-o", tmp_path / "gates")
    assert explained.exit_code == 0, explained.output
    assert len(list((tmp_path / "gates").glob("spatial_*.nii.gz"))) == 4
    for source in (folder, folder / "slice003"):
        np.testing.assert_array_equal(model.predict(source).dataobj, expected.dataobj)


def test_a_series_is_one_image_however_many_of_its_files_are_given(
    scan: tuple[Path, Any, Any], run: Path, tmp_path: Path
) -> None:
    files = sorted(scan[0].iterdir())
    found = call("predict", *files[4:9], "-m", run, "-o", tmp_path / "out")
    assert found.exit_code == 0, found.output
    assert "1 label map written" in found.stdout


def test_one_of_several_series_is_chosen(scan: tuple[Path, Any, Any], run: Path, tmp_path: Path) -> None:
    folder, values, affine = scan
    write_series(folder, values + 1000, name="b", affine=affine, description="Lung", number=2)
    model = Segmenter.load(run)
    with pytest.raises(DataError, match=r"contains 2 DICOM series(.*\n)+.*number 2, 'Lung', CT, 20 slices"):
        model.predict(folder)
    with pytest.raises(UserError, match=r"chooses among the DICOM series of a folder \('Lung'\)"):
        model.predict(folder / "b003", series="Lung")
    chosen = model.predict(folder, series="Lung")
    refused = call("predict", folder, "-m", run, "-o", tmp_path / "out").exception
    assert isinstance(refused, DataError)
    found = call("predict", folder, "-m", run, "-o", tmp_path / "out", "--series", "Lung")
    assert found.exit_code == 0, found.output
    np.testing.assert_array_equal(read_label(tmp_path / "out" / "scan.nii.gz").array, chosen.dataobj)
    explained = call("explain", run, folder, "-o", tmp_path / "gates", "--series", "Lung")
    assert explained.exit_code == 0, explained.output
    of_file = [path for path in explain(run, folder / "b003", tmp_path / "same").files if path.suffix == ".gz"]
    assert of_file
    for path in of_file:
        assert (tmp_path / "gates" / path.name).read_bytes() == path.read_bytes()


def test_options_of_dicom_are_refused_for_other_images(run: Path, nifti: Path, tmp_path: Path) -> None:
    image = nifti / "imagesTs" / "t0_0000.nii.gz"
    predict, series = ("predict", image, "-m", run), ("--series", "Lung")
    for command, option in ((predict, ("--dicom-seg",)), (predict, series), (("explain", run, image), series)):
        error = call(*command, "-o", tmp_path / "out", *option).exception
        assert isinstance(error, UserError)
        assert option[0] in str(error)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_into_the_folder_of_a_series(scan: tuple[Path, Any, Any], run: Path) -> None:
    before = sorted(scan[0].iterdir())
    for command in (("predict", scan[0], "-m", run), ("explain", run, scan[0])):
        error = call(*command, "-o", scan[0], "--overwrite").exception
        assert isinstance(error, UserError)
        assert "is the folder of the DICOM series scan; choose another one" in str(error)
    assert sorted(scan[0].iterdir()) == before


def test_a_folder_of_images_and_a_series_is_not_guessed_at(
    scan: tuple[Path, Any, Any], run: Path, nifti: Path, tmp_path: Path
) -> None:
    shutil.copy(nifti / "imagesTs" / "t0_0000.nii.gz", scan[0] / "a.nii.gz")
    error = call("predict", scan[0], "-m", run, "-o", tmp_path / "out").exception
    assert isinstance(error, DataError)
    assert "contains DICOM files (such as slice000) and images (such as a.nii.gz)" in str(error)


def test_a_series_with_a_problem_is_one_failure_among_others(
    scan: tuple[Path, Any, Any], model: Segmenter, nifti: Path, tmp_path: Path
) -> None:
    (scan[0] / "slice007").unlink()
    images = {"scan": [scan[0] / "slice000"], "t0": [nifti / "imagesTs" / "t0_0000.nii.gz"]}
    (failed,) = model.predict_files(images, tmp_path / "out")
    assert "1 slices of one DICOM series are missing" in failed
    assert (tmp_path / "out" / "t0.nii.gz").is_file()


@pytest.mark.real_data
def test_a_real_series_is_segmented(run: Path, real_data: Callable[[str], Path], tmp_path: Path) -> None:
    folder = real_data("ct") / "dicom"
    found = call("predict", folder, "-m", run, "-o", tmp_path)
    assert found.exit_code == 0, found.output
    written = read_label(tmp_path / "dicom.nii.gz")
    assert (written.shape, written.spacing) == ((512, 512, 20), (0.9765625, 0.9765625, 2.0))
    assert isinstance(call("predict", folder, "-m", run, "-o", tmp_path, "--dicom-seg").exception, UserError)
