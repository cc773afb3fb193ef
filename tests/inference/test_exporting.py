"""Exported segmenters: their files, and equal labels in new processes without torch and in `scse predict`."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from datasets import save_nifti, scene
from scse.data.files import read_image
from scse.data.recipe import Recipe
from scse.inference.exporting import ASSETS, export
from scse.inference.saved import DESCRIPTION
from scse.inference.segmenter import Segmenter
from scse.networks import NETWORKS
from scse.support.errors import DataError, UserError

EXAMPLE = Path(__file__).parents[2] / "examples" / "keras_predict.py"
SHAPE = (24, 16, 20)  # 16 slices of 24 x 20 in batches of one size, because JAX compiles for every size
RECIPE = Recipe(view="coronal", spacing=None, patch=(24, 24), channels=1)
OF_VOLUMES = Recipe(view="volume", spacing=(2.0, 2.0, 2.0), patch=SHAPE, channels=1)
STRUCTURES = {"left": 3, "right": 300}

keras = pytest.mark.skipif(
    not all(map(find_spec, ("keras", "tensorflow", "jax"))), reason="Keras, TensorFlow or JAX is not installed"
)

PROCESS = """
import runpy
import sys
from scse.cli.app import main

def command(*arguments):
    sys.argv = ["scse", *arguments]
    try:
        main()
    except SystemExit as ended:
        return ended.code

def example(*arguments):
    sys.argv = ["keras_predict.py", *arguments]
    runpy.run_path("{example}", run_name="__main__")

def has_not_loaded(*unwanted):
    loaded = set(unwanted) & set(sys.modules)
    assert not loaded, loaded

{calls}
has_not_loaded("torch")
{resampling}
has_not_loaded("scse.networks", "scse.blocks.modules", "scse.inference.segmenter")
"""


def without_torch(backend: str, *calls: str, resampling: str = "") -> subprocess.CompletedProcess[str]:
    """Call `command` and `example` in a fresh process, which must not load the torch side of scse.

    It must not load torch either, except for resampling images in the last call.
    """
    code = PROCESS.format(example=EXAMPLE, calls="\n".join(calls), resampling=resampling)
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # it compiles sooner
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)


def call(function: str, *arguments: object) -> str:
    return f"{function}({', '.join(repr(str(argument)) for argument in arguments)})"


def segmenter(network: str, example: torch.Tensor, recipe: Recipe = RECIPE) -> Segmenter:
    """A network with random weights and running statistics, whose classes are about equally frequent."""
    arguments = {"in_channels": 1, "classes": 3, "width": 4, "depth": 1, "kernel_size": 3}
    torch.manual_seed(0)
    net = NETWORKS[network](**arguments, spatial_dims=recipe.dims, recalibration="scse").eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.3)
    with torch.no_grad():
        logits = net(example)
        by_class = logits.transpose(0, 1).flatten(1)
        mean, deviation = by_class.mean(1), by_class.std(1)
        net.classifier.weight /= deviation.reshape(-1, *(1,) * (logits.ndim - 1))
        net.classifier.bias.sub_(mean).div_(deviation)
    return Segmenter(net, network, arguments, "scse", recipe, STRUCTURES, {"epochs": 1})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan, segmenters of all networks in folders of runs, and their predicted label maps."""
    folder = tmp_path_factory.mktemp("exporting")
    scan = save_nifti(folder / "scan.nii.gz", scene(np.random.default_rng(0), SHAPE)[0][0])
    slices, _ = RECIPE.image_slices(read_image([scan]))
    for network in NETWORKS:
        made = segmenter(network, torch.from_numpy(slices))
        made.save(folder / network / "segmenter")
        assert not made.predict_files({network: [scan]}, folder / "torch")
    coarse = replace(made, recipe=RECIPE.model_copy(update={"spacing": (3.0, 2.5)}))
    coarse.save(folder / "coarse")
    assert not coarse.predict_files({"coarse": [scan]}, folder / "torch")
    volume, _ = OF_VOLUMES.image_slices(read_image([scan]))
    of_volumes = segmenter("unet", torch.from_numpy(volume), OF_VOLUMES)
    of_volumes.save(folder / "volumes")
    assert not of_volumes.predict_files({"volumes": [scan]}, folder / "torch")
    return folder


@pytest.fixture(scope="module")
def exported(folder: Path) -> subprocess.CompletedProcess[str]:
    """The process that exported all segmenters but one, which it refused."""
    other = shutil.copytree(folder / "unet" / "segmenter", folder / "other")
    edit(other, network="monai:BasicUNet")
    files = {name: folder / "keras" / f"{name}.keras" for name in (*NETWORKS, "volumes", "coarse")}
    exports = (
        # first, because it needs TensorFlow, with which Keras is imported then
        call("command", "export", folder / "unet", "--to", "saved_model", "-o", folder / "new" / "model"),
        *(call("command", "export", folder / name, "--to", "keras", "-o", file) for name, file in files.items()),
    )
    refused = call("command", "export", other, "--to", "keras", "-o", folder / "out" / "model.keras")
    ended = without_torch("jax", *(f"assert not {export}" for export in exports), f"assert {refused} == 1")
    assert ended.returncode == 0, ended.stderr
    return ended


@pytest.mark.slow
@keras
def test_what_is_exported_is_told_and_what_cannot_be_in_one_line(
    folder: Path, exported: subprocess.CompletedProcess[str]
) -> None:
    assert re.fullmatch(r"error: .*'monai:BasicUNet'.*\n", exported.stderr)
    assert not (folder / "out").exists()
    model, file = folder / "new" / "model", folder / "keras" / "unet.keras"
    assert exported.stdout.startswith(f"model: {model}\nrecipe and structures: {model / ASSETS / DESCRIPTION}\ninput: ")
    assert list(model.parent.iterdir()) == [model]
    assert (
        f"model: {file}\n"
        f"recipe and structures: {folder / 'keras' / 'unet.json'}\n"
        "input: prepared slices (N, height, width, 1), float32; trained on 24 x 24\n"
        "output: logits (N, height, width, 3), class 0 is the background\n"
    ) in exported.stdout


def assert_labels(folder: Path, network: str, found: Path) -> None:
    expected, labels = nib.load(folder / "torch" / f"{network}.nii.gz"), nib.load(found)
    assert np.array_equal(labels.affine, expected.affine)
    assert np.array_equal(labels.dataobj, expected.dataobj)
    assert set(np.unique(labels.dataobj)) == {0, *STRUCTURES.values()}


def example(folder: Path, model: str, out: Path) -> str:
    return call("example", folder / model, folder / "scan.nii.gz", out)


@pytest.mark.slow
@keras
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
@pytest.mark.usefixtures("exported")
def test_an_exported_model_gives_the_labels_of_predict(folder: Path, tmp_path: Path, backend: str) -> None:
    outs = {name: tmp_path / f"{name}.nii.gz" for name in (*NETWORKS, "volumes")}
    calls, resampling = [example(folder, f"keras/{name}.keras", out) for name, out in outs.items()], ""
    if backend == "tensorflow":
        saved_model, resampled = tmp_path / "saved_model.nii.gz", tmp_path / "resampled.nii.gz"
        calls = [example(folder, "new/model", saved_model), 'has_not_loaded("scse.keras")', *calls]
        resampling = example(folder, "keras/coarse.keras", resampled)
    ended = without_torch(backend, *calls, resampling=resampling)
    assert ended.returncode == 0, ended.stderr
    for name, out in outs.items():
        assert_labels(folder, name, out)
    if backend == "tensorflow":
        assert_labels(folder, "unet", saved_model)
        assert_labels(folder, "coarse", resampled)


# Without Keras: checks before it is imported, and failures


def edit(folder: Path, **changes: object) -> None:
    description = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps({**description, **changes}))


@pytest.mark.parametrize(
    ("to", "out", "message"),
    [
        ("coreml", "model.onnx", "to must be one of 'onnx', 'keras', 'saved_model', got 'coreml'"),
        ("onnx", "model.keras", r"model.keras: to='onnx' writes a file that ends in \.onnx; choose another name"),
        ("saved_model", "model.onnx", "model.onnx: to='saved_model' writes a folder, not a file"),
        ("keras", "model.h5", r"model.h5: to='keras' writes a file that ends in \.keras; choose another name"),
        ("keras", "folder.keras", r"folder.keras: is a folder; choose another name"),
        ("saved_model", "model.keras", r"model.keras: to='saved_model' writes a folder, not a file"),
        ("saved_model", "file", "file: already exists; choose a new folder"),
        ("saved_model", "folder.keras/..", "already exists; choose a new folder"),
    ],
)
def test_what_cannot_be_written_is_refused_first(tmp_path: Path, to: str, out: str, message: str) -> None:
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=message):
        export(tmp_path, to, tmp_path / out)


def test_a_folder_that_is_no_segmenter_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"contains no segmenter, {DESCRIPTION} is missing"):
        export(tmp_path, "keras", tmp_path / "model.keras")
    damaged = shutil.copytree(folder / "unet" / "segmenter", tmp_path / "damaged")
    edit(damaged, recipe={"view": "frontal"})
    with pytest.raises(DataError, match=r"damaged/segmenter\.json: recipe\.view: "):
        export(damaged, "keras", tmp_path / "model.keras")


class Model:
    """Stub of a Keras model, whose writing fails if it is `broken`."""

    def __init__(self, *, broken: bool) -> None:
        self.broken = broken

    def save(self, path: Path) -> None:
        path.write_text("weights")
        if self.broken:
            raise OSError("no space left on device")

    def export(self, path: Path, **options: object) -> None:
        path.mkdir()
        self.save(path / "saved_model.pb")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace Keras and the loading of models by stubs."""

    def put(*, broken: bool = False, backend: str = "tensorflow") -> None:
        keras = SimpleNamespace(backend=SimpleNamespace(backend=lambda: backend))
        weights = SimpleNamespace(from_torch=lambda *_, **__: Model(broken=broken))
        stubs = {"keras": keras, "scse.keras": ModuleType("scse.keras"), "scse.keras.weights": weights}
        for name, module in stubs.items():
            monkeypatch.setitem(sys.modules, name, module)

    return put


@pytest.mark.parametrize(("to", "out"), [("keras", "model.keras"), ("saved_model", "model")])
def test_nothing_is_left_of_a_write_that_fails(folder: Path, tmp_path: Path, stub: Any, to: str, out: str) -> None:
    stub(broken=True)
    with pytest.raises(OSError, match="no space left"):
        export(folder / "unet", to, tmp_path / out)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_and_an_empty_folder_filled(folder: Path, tmp_path: Path, stub: Any) -> None:
    stub()
    description = (folder / "unet" / "segmenter" / DESCRIPTION).read_text()
    file, model = tmp_path / "model.keras", tmp_path / "model"
    file.write_text("old")
    model.mkdir()
    assert export(str(folder / "unet"), "keras", str(file), overwrite=True).model == file
    assert export(folder / "unet", "keras", file).model == file  # the existing file was written by scse
    assert (file.read_text(), file.with_suffix(".json").read_text()) == ("weights", description)
    assert export(folder / "unet", "saved_model", model).description == model / ASSETS / DESCRIPTION
    assert (model / ASSETS / DESCRIPTION).read_text() == description
    assert {path.name for path in tmp_path.iterdir()} == {".scse-written", "model", "model.json", "model.keras"}


def test_keras_on_another_backend_is_told(folder: Path, tmp_path: Path, stub: Any) -> None:
    stub(backend="jax")
    with pytest.raises(
        ValueError,
        match="to='saved_model' needs Keras with the backend tensorflow, but it was imported with jax; export in a",
    ):
        export(folder / "unet", "saved_model", tmp_path / "model")


def test_the_example_refuses_slices_larger_than_the_patch(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.model_copy(update={"patch": (16, 16)})
    (tmp_path / "model.json").write_text(json.dumps({"recipe": recipe.model_dump(), "structures": STRUCTURES}))
    arguments = [tmp_path / "model.keras", folder / "scan.nii.gz", tmp_path / "labels.nii.gz"]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *map(str, arguments)])
    message = r"the size \(24, 20\) of its slices exceeds the patch \(16, 16\); use `scse predict`"
    with pytest.raises(SystemExit, match=message):
        runpy.run_path(str(EXAMPLE), run_name="__main__")


@pytest.mark.parametrize("name", ["model.keras", "model.json"])
def test_no_file_of_the_users_is_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name}: already there, and not written by scse"):
        export(tmp_path / "run", "keras", tmp_path / "model.keras")
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(("to", "name"), [("keras", "model.keras"), ("saved_model", "model")])
def test_regions_are_refused(tmp_path: Path, to: str, name: str) -> None:
    arguments = {"in_channels": 1, "classes": 2, "width": 4, "depth": 2, "kernel_size": 3}
    network, regions = NETWORKS["unet"](**arguments), {"left": (3, 300), "right": (300,)}
    Segmenter(network, "unet", arguments, "none", RECIPE, STRUCTURES, regions=regions).save(tmp_path / "model")
    with pytest.raises(UserError, match=r"segmenter\.json: its structures are regions of labels"):
        export(tmp_path / "model", to, tmp_path / "out" / name)
    assert not (tmp_path / "out").exists()
