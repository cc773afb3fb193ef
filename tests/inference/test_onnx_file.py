"""ONNX files: the labels of prediction from the voxels of an image, in two engines and without torch and scse."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from datasets import scene
from named import build
from scse.cli.app import app
from scse.data.files import Image
from scse.data.recipe import Recipe
from scse.inference.exporting import export
from scse.inference.onnx_file import OnnxFile
from scse.inference.saved import Cleaning
from scse.inference.segmenter import Segmenter
from scse.networks import NETWORKS
from scse.support.errors import UserError

STRUCTURES = {"left": 3, "right": 300}
REGIONS = {"left": (3, 300), "right": (300,)}
MOST_DIFFERING = 1e-5

Shape = tuple[int, ...]
Spacing = tuple[float, ...]


@dataclass(frozen=True)
class Case:
    """A recipe, and the shapes and spacings of images that its segmenter labels."""

    recipe: Recipe
    images: tuple[tuple[Shape, Spacing | None], ...]
    regions: bool = False


CASES = {
    "slices that are padded": Case(
        Recipe(view="coronal", spacing=None, patch=(24, 24), channels=1),
        (((20, 9, 24), (1, 1, 1)), ((24, 3, 24), (1, 1, 1))),
    ),
    "slices in windows": Case(
        Recipe(view="axial", spacing=None, patch=(16, 16), channels=2, clip=(2, 100)), (((40, 27, 11), (1, 1, 1)),)
    ),
    "slices that are resampled": Case(
        Recipe(view="sagittal", spacing=(1.5, 0.8), patch=(24, 24), channels=1),
        (((13, 36, 20), (1, 0.9, 1.2)), ((5, 20, 33), (3, 1.5, 0.8))),
    ),
    "a picture": Case(
        Recipe(view="picture", spacing=None, patch=(24, 24), channels=3), (((50, 37), None), ((16, 24), None))
    ),
    "regions in a picture that is resampled": Case(
        Recipe(view="picture", spacing=(1.5, 1.5), patch=(24, 24), channels=3), (((50, 37), None),), regions=True
    ),
    "a volume that fits the patch": Case(
        Recipe(view="volume", spacing=None, patch=(16, 16, 24), channels=1),
        (((12, 16, 20), (1, 1, 1)), ((16, 16, 24), (1, 1, 1))),
    ),
    "a volume in windows": Case(
        Recipe(view="volume", spacing=(1.0, 1.0, 1.0), patch=(16, 16, 8), channels=2),
        (((30, 20, 26), (1, 1.1, 0.7)), ((9, 15, 21), (2.0, 1.0, 0.4)), ((18, 16, 8), (1, 1, 1))),
    ),
}


def image_of(shape: Shape, spacing: Spacing | None, channels: int, *, seed: int = 0) -> Image:
    array, _ = scene(np.random.default_rng(seed), shape, channels=channels)
    return Image(array - 50, None if spacing is None else np.diag([*spacing, 1.0]))


def segmenter(recipe: Recipe, image: Image, *, regions: bool = False) -> Segmenter:
    """A network with random weights whose outputs are about equally frequent."""
    arguments = {"in_channels": recipe.channels, "classes": 3 - regions, "width": 4, "depth": 1, "kernel_size": 3}
    torch.manual_seed(0)
    net = NETWORKS["unet"](**arguments, spatial_dims=recipe.dims, recalibration="scse").eval()
    with torch.no_grad():
        logits = net(torch.from_numpy(recipe.image_slices(image)[0]))
        by_class = logits.transpose(0, 1).flatten(1)
        net.classifier.weight /= by_class.std(1).reshape(-1, *(1,) * (logits.ndim - 1))
        net.classifier.bias.sub_(by_class.mean(1)).div_(by_class.std(1))
    found = REGIONS if regions else {}
    return Segmenter(net, "unet", arguments, "scse", recipe, STRUCTURES, {"epochs": 1}, regions=found)


@dataclass(frozen=True)
class Exported:
    """A segmenter, its file, and images."""

    segmenter: Segmenter
    file: OnnxFile
    images: tuple[Image, ...]


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    case: Case = request.param
    folder = tmp_path_factory.mktemp("onnx")
    images = tuple(image_of(*image, case.recipe.channels, seed=seed) for seed, image in enumerate(case.images))
    made = segmenter(case.recipe, images[0], regions=case.regions)
    file = export(made.save(folder / "model"), "onnx", folder / "model.onnx")
    assert isinstance(file, OnnxFile)
    return Exported(made, file, images)


Run = Callable[[Mapping[str, NDArray[np.generic]]], NDArray[np.generic]]


def on_onnxruntime(path: Path) -> Run:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["labels"], dict(inputs))[0]


def on_openvino(path: Path) -> Run:
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: model(dict(inputs))["labels"]


def inputs_of(image: Image, recipe: Recipe) -> dict[str, NDArray[np.generic]]:
    spacing = {"spacing": np.array(image.spacing)} if image.affine is not None and recipe.spacing else {}
    return {"image": image.array, **spacing}


def assert_labels(run: Run, exported: Exported, image: Image) -> None:
    expected = exported.segmenter.predict_image(image)
    found = run(inputs_of(image, exported.segmenter.recipe))
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert np.count_nonzero(found != expected) <= MOST_DIFFERING * expected.size


@pytest.mark.parametrize("engine", [on_onnxruntime, on_openvino])
def test_labels_are_those_of_predict(exported: Exported, engine: Callable[[Path], Run]) -> None:
    run = engine(exported.file.model)
    for image in exported.images:
        assert_labels(run, exported, image)
    labels = np.unique(run(inputs_of(exported.images[0], exported.segmenter.recipe)))
    assert set(labels) == {0, *STRUCTURES.values()}


def test_images_with_few_values_are_standardised_as_in_predict(exported: Exported) -> None:
    run, image = on_onnxruntime(exported.file.model), exported.images[0]
    two_values = np.where(image.array > 20, np.float32(0.3), np.float32(-0.1))
    assert_labels(run, exported, Image(two_values, image.affine))
    if len(image.array) > 1:
        constant = image.array.copy()
        constant[-1] = 7
        assert_labels(run, exported, Image(constant, image.affine))


ALONE = """
import sys
for name in ("torch", "scse", "monai", "onnx", "onnxscript"):
    sys.modules[name] = None
import json
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
inputs = np.load(sys.argv[2])
labels = session.run(["labels"], {each.name: inputs[each.name] for each in session.get_inputs()})[0]
print(json.dumps(session.get_modelmeta().custom_metadata_map))
np.save(sys.argv[3], labels)
"""


def test_a_file_needs_neither_torch_nor_scse_nor_another_file(exported: Exported, tmp_path: Path) -> None:
    [image, *_] = exported.images
    copy, inputs, labels = tmp_path / "alone" / "model.onnx", tmp_path / "inputs.npz", tmp_path / "labels.npy"
    copy.parent.mkdir()
    copy.write_bytes(exported.file.model.read_bytes())
    np.savez(inputs, **inputs_of(image, exported.segmenter.recipe))
    command = [sys.executable, "-c", ALONE, copy, inputs, labels]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert_labels(lambda _: np.load(labels), exported, image)
    described = json.loads(ended.stdout)
    assert json.loads(described["structures"]) == STRUCTURES
    assert json.loads(described["segmenter"])["recipe"] == exported.segmenter.recipe.model_dump(mode="json")


# One small segmenter of pictures

RECIPE = Recipe(view="picture", spacing=None, patch=(16, 16), channels=1)
IMAGE = image_of((16, 16), None, 1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return segmenter(RECIPE, IMAGE).save(tmp_path / "model")


def test_the_command_says_what_is_left_out(tmp_path: Path) -> None:
    cleaned = replace(segmenter(RECIPE, IMAGE), cleaning=Cleaning(keep_largest=("left",)))
    cleaned.save(tmp_path / "model")
    out = tmp_path / "new" / "model.onnx"
    ended = CliRunner().invoke(app, ["export", str(tmp_path / "model"), "--to", "onnx", "-o", str(out)])
    assert ended.exit_code == 0, ended.output
    assert ended.stdout == (
        f"model: {out}\n"
        "input: image (1, rows, columns), float32\n"
        "output: labels (rows, columns), uint16\n"
        "compared with torch: 0 of 320 voxels differ\n"
        "left out: the clean-up of label maps, largest component of left\n"
    )
    props = {each.key: each.value for each in onnx.load(out).metadata_props}
    assert props["cleaning_left_out"] == "largest component of left"
    assert [path.name for path in out.parent.iterdir() if not path.name.startswith(".")] == ["model.onnx"]


OWN = """
import torch
from torch import nn

class Net(nn.Conv2d):
    def forward(self, x):
        logits = super().forward(x)
        return {changed} if torch.compiler.is_exporting() else logits

def make(in_channels, classes, spatial_dims):
    torch.manual_seed(0)
    return Net(in_channels, classes, 3, padding=1)
"""


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("-logits", r"gives other labels than torch in \d+ of 320 voxels, so .*model\.onnx is not written"),
        ("logits if logits.sum() > 0 else -logits", r"cannot be exported to ONNX \("),
    ],
)
def test_a_file_with_other_labels_is_not_kept(tmp_path: Path, changed: str, message: str) -> None:
    source = tmp_path / "mine.py"
    source.write_text(OWN.format(changed=changed))
    network, arguments = f"{source}:make", {"in_channels": 1, "classes": 3}
    built = build(network, arguments, variant="none", size=RECIPE.patch, pretrained=False)
    Segmenter(built, network, arguments, "none", RECIPE, STRUCTURES).save(tmp_path / "model")
    with pytest.raises(UserError, match=message):
        export(tmp_path / "model", "onnx", tmp_path / "out" / "model.onnx", network=network)
    assert not (tmp_path / "out").exists()


def test_no_file_of_the_users_is_replaced(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    out.write_text("mine")
    with pytest.raises(ValueError, match=r"model\.onnx: already there, and not written by scse"):
        export(model, "onnx", out)
    assert out.read_text() == "mine"
    assert export(model, "onnx", out, overwrite=True).model == out
    onnx.checker.check_model(out)
