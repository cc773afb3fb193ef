"""The segmenter: equal labels after saving and loading, and labels in the geometry of the input."""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.inferers import sliding_window_inference
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from datasets import save_nifti, save_picture, scene, write_nnunet
from named import build
from scse.attachment import stages
from scse.attachment.placements import placements
from scse.data.files import Image, read_image, read_label
from scse.data.recipe import Recipe
from scse.inference.cleaning import clean
from scse.inference.engines import Engine
from scse.inference.saved import DESCRIPTION, NO_CLEANING, WEIGHTS, Cleaning
from scse.inference.segmenter import Segmenter, write_prediction
from scse.networks import NETWORKS
from scse.support.errors import DataError, UserError
from scse.training.run import train_on

STRUCTURES = {"left": 300, "right": 3}
CODES = ("RAS", "LAS", "PIR", "SLA", "IPR")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    """A segmenter trained on volumes of 24 x 28 x 20 voxels stored as LAS, which it segments well."""
    folder = tmp_path_factory.mktemp("data")
    write_nnunet(folder / "set", cases=3, tests=1, values=(300, 3))
    settings = {"width": 4, "depth": 2, "epochs": 8, "learning_rate": 0.02, "precision": "32", "variant": "scse"}
    return train_on(folder / "set", out=folder / "run", settings=settings, cache=folder / "cache")


@pytest.fixture(scope="module")
def case() -> tuple[NDArray[np.float32], NDArray[np.integer]]:
    """A volume (24, 28, 20) with axes left, anterior, superior, and its label map."""
    image, label = scene(np.random.default_rng(7), values=(300, 3))
    return image[0], label


class Reader(torch.nn.Module):
    """A network that classifies pixels as dark, medium or bright; later channels have more weight."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = torch.nn.Parameter(torch.tensor([-1.0, 0.0, 1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, axes = torch.arange(1.0, x.shape[1] + 1), (1,) * (x.ndim - 2)
        mean = (x * weights.reshape(-1, *axes)).sum(1, keepdim=True) / weights.sum()
        return -((mean - self.levels.reshape(-1, *axes)) ** 2)


def reader(*, structures: dict[str, int] | None = None, **recipe: Any) -> Segmenter:
    chosen = Recipe.model_validate({"view": "picture", "spacing": None, "patch": (16, 16), "channels": 1, **recipe})
    return Segmenter(Reader(), "unet", {}, "none", chosen, structures or STRUCTURES)


def untrained(network: str = "unet") -> Segmenter:
    recipe = Recipe(view="picture", spacing=None, patch=(16, 16), channels=1)
    arguments = {"in_channels": 1, "classes": 3, "width": 4, "depth": 2, "kernel_size": 3}
    torch.manual_seed(0)
    net = NETWORKS[network](**arguments, recalibration="scse").eval()
    return Segmenter(net, network, arguments, "scse", recipe, STRUCTURES, {"epochs": 3})


def picture(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def stored_as(codes: str, volume: NDArray[Any], *, spacing: float = 2.0) -> nib.Nifti1Image:
    """Store a LAS volume with axes that point to `codes`, at the same position."""
    affine = np.diag([-spacing, spacing, spacing, 1])
    affine[:3, 3] = [31.7, -18.3, 5.1]
    image = nib.Nifti1Image(volume, affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes))
    return image.as_reoriented(turn)


def back_to_las(image: nib.Nifti1Image) -> NDArray[Any]:
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("LAS"))
    return np.asanyarray(image.as_reoriented(turn).dataobj)


def agreement(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """The lower Dice of the two structures."""
    pairs = [(found == value, expected == value) for value in STRUCTURES.values()]
    return min(2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs)


# Saving and loading


@pytest.mark.parametrize("network", ["unet", "sdnet", "densenet"])
def test_a_saved_segmenter_is_the_same_one(tmp_path: Path, network: str) -> None:
    first = untrained(network)
    assert first.save(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    second = Segmenter.load(str(tmp_path / "a" / "b"))
    weights, others = first.network.state_dict(), second.network.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[key], others[key]) for key in weights)
    for name in ("name", "arguments", "variant", "recipe", "structures", "settings"):
        assert getattr(second, name) == getattr(first, name)
    assert list(second.structures) == list(first.structures)
    assert not second.network.training


def test_a_saved_segmenter_gives_the_same_labels(
    trained: Segmenter, case: tuple[NDArray[np.float32], Any], tmp_path: Path
) -> None:
    found = Segmenter.load(trained.save(tmp_path)).predict(case[0], spacing=(2, 2, 2))
    assert len(np.unique(found)) == 3
    assert np.array_equal(found, trained.predict(case[0], spacing=(2, 2, 2)))


def test_the_clean_up_is_saved_and_a_folder_without_one_is_written_as_before(tmp_path: Path) -> None:
    plain = untrained()
    plain.save(tmp_path / "plain")
    assert "cleaning" not in json.loads((tmp_path / "plain" / DESCRIPTION).read_text())
    assert Segmenter.load(tmp_path / "plain").cleaning == NO_CLEANING
    cleaning = Cleaning(largest_foreground=True, keep_largest=("right",), fill_holes=("right", "left"))
    replace(plain, cleaning=cleaning).save(tmp_path / "cleaned")
    assert Segmenter.load(tmp_path / "cleaned").cleaning == cleaning
    assert (tmp_path / "plain" / WEIGHTS).read_bytes() == (tmp_path / "cleaned" / WEIGHTS).read_bytes()


def test_saving_again_changes_no_byte(tmp_path: Path) -> None:
    untrained().save(tmp_path / "a")
    Segmenter.load(tmp_path / "a").save(tmp_path / "b")
    for name in (WEIGHTS, DESCRIPTION):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_folder_of_a_run_is_understood(tmp_path: Path) -> None:
    untrained().save(tmp_path / "segmenter")
    assert Segmenter.load(tmp_path).structures == STRUCTURES


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    description = json.loads((folder / DESCRIPTION).read_text())
    change(description)
    (folder / DESCRIPTION).write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(network="vnet"), "network must be one of 'unet', 'sdnet', 'densenet', .*, got 'vnet'"),
        (lambda d: d.update(network="torch.nn.Module"), "network must have the form"),
        (lambda d: d.update(network="os:system"), "'os' is neither a library"),
        (lambda d: d.update(network="monai:utils"), "the network of monai must be one of"),
        (lambda d: d.update(network=None), "network: Input should be a valid string"),
        (lambda d: d.update(variant="os.system"), "os.system"),
        (lambda d: d.update(format=99), "its format is 99, but this version reads format 1"),
        (lambda d: d.pop("format"), "format"),
        (lambda d: d.pop("structures"), "structures"),
        (lambda d: d.pop("settings"), "settings"),
        (lambda d: d["structures"].pop("left"), "1 structures and 3 classes"),
        (lambda d: d["recipe"].update(view="frontal"), "view"),
        (lambda d: d["recipe"].update(flip=True), "flip"),
        (lambda d: d["arguments"].update(width=5), r"has shape \(4, .*\) in the file and \(5, .*\) in the model"),
        (lambda d: d["arguments"].update(width=4096, depth=8, kernel_size=31), "in the model"),
        (lambda d: d["arguments"].update(kernel_size=4), "kernel_size must be odd"),
        (lambda d: d["arguments"].update(shell="ls"), "shell"),
        (lambda d: d["recipe"].update(spacing=[0, 0]), "recipe.spacing.0: .*got 0"),
        (lambda d: d["recipe"].update(spacing=[None, None]), "recipe.spacing.0: "),
        (lambda d: d["recipe"].update(spacing=[1e9, 1e9]), "recipe.spacing.0: "),
        (lambda d: d["recipe"].update(spacing=[1.0]), "recipe.spacing"),
        (lambda d: d["recipe"].update(spacing=[1, float("nan")]), "recipe.spacing.1: .*finite"),
        (lambda d: d["recipe"].update(spacing=[1, float("inf")]), "recipe.spacing.1: .*finite"),
        (lambda d: d["recipe"].update(spacing="2"), "recipe.spacing: "),
        (lambda d: d["recipe"].update(spacing=["2", 2]), "recipe.spacing.0: "),
        (lambda d: d["recipe"].pop("spacing"), "recipe.spacing: Field required"),
        (lambda d: d["recipe"].update(patch=[0, 16]), "recipe.patch.0: "),
        (lambda d: d["recipe"].update(patch=[16.5, 16]), "recipe.patch.0: "),
        (lambda d: d["recipe"].update(patch=[2**40, 16]), "recipe.patch.0: "),
        (lambda d: d["recipe"].update(patch=None), "recipe.patch: "),
        (lambda d: d["recipe"].update(patch=[1, 16]), "needs every spatial axis to be at least"),
        (lambda d: d["recipe"].update(clip=[99.5, 0.5]), "lower percentile first"),
        (lambda d: d["recipe"].update(clip=[-1, 101]), "recipe.clip.0: "),
        (lambda d: d["recipe"].update(clip=[float("nan"), 99]), "recipe.clip.0: "),
        (lambda d: d["recipe"].update(channels="1"), "recipe.channels"),
        (lambda d: d["recipe"].update(channels=True), "recipe.channels"),
    ],
)
def test_wrong_descriptions_are_refused(tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    folder = untrained().save(tmp_path / "model")
    edit(folder, change)
    with pytest.raises(DataError, match=message) as caught:
        Segmenter.load(folder)
    assert str(caught.value).startswith((f"{folder / DESCRIPTION}: ", f"{folder / WEIGHTS}: "))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION])
def test_damaged_and_missing_files_are_named(tmp_path: Path, name: str) -> None:
    folder = untrained().save(tmp_path / "model")
    content = (folder / name).read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"\x93\x00\xff"):
        (folder / name).write_bytes(damaged)
        with pytest.raises(DataError, match=f"model/{name}: cannot be read .* train or copy the segmenter again"):
            Segmenter.load(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"model: contains no segmenter, {name} is missing; give the folder"):
        Segmenter.load(folder)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    folder = untrained().save(tmp_path / "model")
    weights = load_file(folder / WEIGHTS)
    weights.popitem()
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(DataError, match=r"weights\.safetensors: .*is missing in the file"):
        Segmenter.load(folder)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)
    return folder


KERNEL, COUNTER = "bottleneck.first.0.weight", "bottleneck.first.1.num_batches_tracked"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w[KERNEL].flatten()[0:1].fill_(float("nan")), f"{KERNEL} holds values that are NaN or infinite"),
        (lambda w: w[KERNEL].flatten()[0:1].fill_(float("inf")), f"{KERNEL} holds values that are NaN or infinite"),
        (lambda w: w["bottleneck.first.1.running_var"].fill_(float("nan")), "running_var holds values that are NaN"),
        (lambda w: w.update({KERNEL: w[KERNEL].half()}), f"{KERNEL} has dtype torch.float16 in the file and"),
        (lambda w: w.update({KERNEL: w[KERNEL].double()}), f"{KERNEL} has dtype torch.float64 in the file"),
        (lambda w: w.update({KERNEL: w[KERNEL].long()}), f"{KERNEL} has dtype torch.int64 in the file"),
        (lambda w: w.update({COUNTER: w[COUNTER].float()}), f"{COUNTER} has dtype torch.float32 in the file"),
        (lambda w: w.update({KERNEL: w[KERNEL][:1].clone()}), f"{KERNEL} has shape"),
        (lambda w: w.update(extra=torch.zeros(1)), "extra is in the file, and the model has no such tensor"),
        (lambda w: w.clear(), "is missing in the file"),
    ],
)
def test_weights_that_are_not_those_of_the_network_are_refused(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any], message: str
) -> None:
    folder = change_weights(untrained().save(tmp_path / "model"), change)
    with pytest.raises(DataError, match=message) as caught:
        Segmenter.load(folder)
    assert str(caught.value).startswith(f"{folder / WEIGHTS}: ")


def header(content: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The bytes of a safetensors file with a changed header."""
    size = int.from_bytes(content[:8], "little")
    fields = json.loads(content[8 : 8 + size])
    change(fields)
    text = json.dumps(fields).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: (2**62).to_bytes(8, "little") + content[8:],
        lambda content: header(content, lambda f: f[KERNEL].update(data_offsets=[0, 2**50])),
        lambda content: header(content, lambda f: f[KERNEL].update(shape=[2**40, 2**40])),
        lambda content: header(content, lambda f: f[KERNEL].update(data_offsets=f[COUNTER]["data_offsets"])),
        lambda content: header(content, lambda f: f[KERNEL].update(dtype="F33")),
        lambda content: content[:-1],
        lambda content: content + b"0",
        lambda content: content[:4],
    ],
    ids=["header size", "offset", "shape", "overlap", "type", "truncated", "longer", "start"],
)
def test_a_damaged_header_of_the_weights_is_one_error(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    folder = untrained().save(tmp_path / "model")
    (folder / WEIGHTS).write_bytes(damage((folder / WEIGHTS).read_bytes()))
    with pytest.raises(DataError, match=r"model/weights\.safetensors: cannot be read") as caught:
        Segmenter.load(folder)
    assert "\n" not in str(caught.value)


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_on_disk_is_executed(tmp_path: Path) -> None:
    folder = untrained().save(tmp_path / "model")
    for name in (WEIGHTS, DESCRIPTION):
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / name).write_bytes(pickle.dumps(Evil(tmp_path / "executed")))
        with pytest.raises(DataError, match=f"{name}/{name}: cannot be read"):
            Segmenter.load(tmp_path / name)
    assert not (tmp_path / "executed").exists()
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, DESCRIPTION}


# Networks that are not part of scse

BASIC = "monai:BasicUNet[features=(4,4,4,4,4,4)]"


def of_others(name: str, *, variant: str = "scse", attach_to: str = "auto") -> Segmenter:
    recipe = Recipe(view="picture", spacing=None, patch=(24, 16), channels=1)
    arguments = {"in_channels": 1, "classes": 3}
    torch.manual_seed(0)
    network = build(name, arguments, variant=variant, size=recipe.patch, attach_to=attach_to)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # otherwise the blocks are the identity
    return Segmenter(network.eval(), name, arguments, variant, recipe, STRUCTURES, {"epochs": 3})


def assert_same(first: Segmenter, second: Segmenter) -> None:
    weights, others = first.network.state_dict(), second.network.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[key], others[key]) for key in weights)
    x = torch.randn(2, 1, 24, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, again = first.network(x), second.network(x)
    assert (found - again).abs().max() < 1e-3 * found.std()  # the memory formats differ
    assert second.predict(picture(1, 24, 16)).shape == (24, 16)
    assert placements(first.network).names == placements(second.network).names


@pytest.mark.parametrize("variant", ["none", "cse", "scse"])
@pytest.mark.parametrize("name", [BASIC, "monai:DynUNet[filters=(4,4,4,4,4)]", "smp:Unet[encoder_name=resnet18]"])
def test_a_listed_network_is_built_again_by_its_name(tmp_path: Path, name: str, variant: str) -> None:
    first = of_others(name, variant=variant)
    second = Segmenter.load(first.save(tmp_path))
    assert_same(first, second)
    assert (second.name, second.arguments, second.variant) == (name, {"in_channels": 1, "classes": 3}, variant)


def test_blocks_come_back_where_they_were_not_where_auto_would_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = of_others(BASIC, attach_to="upcat_*|conv_0")
    folder = first.save(tmp_path)
    assert json.loads((folder / DESCRIPTION).read_text())["attached"] == [
        *("conv_0", "upcat_4", "upcat_3", "upcat_2", "upcat_1")
    ]
    monkeypatch.setattr(stages, "_FAMILIES", {})
    assert_same(first, Segmenter.load(folder))


def test_weights_are_never_fetched_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoders = pytest.importorskip("segmentation_models_pytorch.encoders")
    monkeypatch.setattr(encoders, "hf_hub_download", lambda *_, **__: pytest.fail("fetched"))
    first = of_others("smp:Unet[encoder_name=resnet18]")
    name = "smp:Unet[encoder_name=resnet18,encoder_weights=imagenet]"
    folder = replace(first, name=name).save(tmp_path)
    assert_same(first, Segmenter.load(folder))


def test_a_factory_in_a_file_runs_only_if_the_caller_names_it(tmp_path: Path, mine: Path) -> None:
    first = of_others(f"{mine}:make[width=6]", attach_to="first")
    folder = first.save(tmp_path / "model")
    moved = mine.rename(tmp_path / "moved.py")
    mine.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{moved.read_text()}")  # the file at the path in the folder
    message = r"model: its network is a factory in a file, '.*mine\.py:make\[width=6\]', .* name it yourself"
    with pytest.raises(ValueError, match=message):
        Segmenter.load(folder)
    assert_same(first, Segmenter.load(folder, network=f"{moved}:make[width=6]"))
    for other in (f"{moved}:make", f"{moved}:make[width=7]", "unet", BASIC):
        with pytest.raises(ValueError, match="name the same one"):
            Segmenter.load(folder, network=other)
    with pytest.raises(ValueError, match=r"there is no file nowhere\.py"):
        Segmenter.load(folder, network="nowhere.py:make[width=6]")
    assert not (tmp_path / "ran").exists()


def test_another_network_than_the_saved_one_is_refused(tmp_path: Path, mine: Path) -> None:
    folder = untrained().save(tmp_path / "model")
    assert Segmenter.load(folder, network="unet").name == "unet"
    with pytest.raises(ValueError, match=r"model: its network is 'unet', got network='.*mine.py:make'; name the same"):
        Segmenter.load(folder, network=f"{mine}:make")


def test_a_missing_library_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = of_others("smp:Unet[encoder_name=resnet18]").save(tmp_path)
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ValueError, match=r"pip install 'scse\[smp\]'") as caught:
        Segmenter.load(folder)
    assert not isinstance(caught.value, DataError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(attached=["nowhere"]), "matches no module"),
        (lambda d: d.update(attached=[]), "no blocks with attach_to=''"),
        (lambda d: d.update(attached=[1]), "attached.0: "),
        (lambda d: d.update(variant="se"), "'se'"),
        (lambda d: d["arguments"].update(shell="ls"), "shell"),
        (lambda d: d["arguments"].update(in_channels=7), "recipe.channels is 1, but arguments.in_channels is 7"),
        (lambda d: d["arguments"].update(classes=7), "2 structures and 7 classes"),
        (lambda d: d.update(network="smp:Unet[encoder_name=/tmp/x]"), "no file or address"),
        (lambda d: d.update(network="smp:Unet[checkpoint_path=x.pth]"), "got 'checkpoint_path'"),
    ],
)
def test_wrong_descriptions_of_others_networks_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    folder = of_others(BASIC).save(tmp_path / "model")
    edit(folder, change)
    with pytest.raises(ValueError, match=message):
        Segmenter.load(folder)


def test_a_segmenter_of_ours_is_written_as_ever(tmp_path: Path) -> None:
    description = json.loads((untrained().save(tmp_path) / DESCRIPTION).read_text())
    assert list(description) == [
        *("format", "network", "arguments", "variant", "recipe", "structures", "classes", "settings")
    ]


# Volumes


@pytest.mark.parametrize("codes", CODES)
def test_labels_lie_in_the_geometry_of_the_file(
    trained: Segmenter, case: tuple[Any, Any], tmp_path: Path, codes: str
) -> None:
    volume, label = case
    path = tmp_path / "scan.nii.gz"
    image = stored_as(codes, volume)
    image.header.set_xyzt_units("mm", "sec")
    image.header["cal_max"] = 200
    image.set_sform(image.affine, code=4)
    image.set_qform(image.affine, code=2)
    nib.save(image, path)
    source, found = nib.load(path), trained.predict(path)
    assert found.shape == source.shape
    assert np.array_equal(found.affine, source.affine)
    assert "".join(nib.aff2axcodes(found.affine)) == codes
    assert (int(found.header["sform_code"]), int(found.header["qform_code"])) == (4, 2)
    assert found.header.get_xyzt_units() == ("mm", "sec")
    assert float(found.header["cal_max"]) == 0
    assert found.get_data_dtype() == np.uint16
    labels = back_to_las(found)
    assert set(np.unique(labels)) == {0, 3, 300}
    assert agreement(labels, label) > 0.7
    # the same volume stored in another orientation gets the same labels
    assert np.array_equal(labels, back_to_las(trained.predict(stored_as("LAS", volume))))


def test_labels_survive_saving(trained: Segmenter, case: tuple[Any, Any], tmp_path: Path) -> None:
    image = stored_as("PIR", case[0])
    image.header.set_slope_inter(0.5, 3)  # applies to the image, not to its labels
    nib.save(image, tmp_path / "scan.nii.gz")
    found = trained.predict(tmp_path / "scan.nii.gz")
    nib.save(found, tmp_path / "labels.nii.gz")
    again = nib.load(tmp_path / "labels.nii.gz")
    assert np.array_equal(np.asanyarray(again.dataobj), np.asanyarray(found.dataobj))
    assert np.array_equal(again.affine, nib.load(tmp_path / "scan.nii.gz").affine)


def test_an_oblique_affine_comes_back_exactly(trained: Segmenter, case: tuple[Any, Any], tmp_path: Path) -> None:
    angle = np.deg2rad(17)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-2.0, 2.0, 2.0])
    affine[:3, 3] = [1 / 3, -7.1, 1e3]
    save_nifti(tmp_path / "scan.nii.gz", case[0], affine)
    for source in (tmp_path / "scan.nii.gz", nib.Nifti1Image(case[0], affine)):
        found = trained.predict(source)
        assert np.array_equal(found.affine, (nib.load(source) if isinstance(source, Path) else source).affine)
        assert agreement(np.asanyarray(found.dataobj), case[1]) > 0.7


def test_files_images_and_arrays_give_the_same_labels(
    trained: Segmenter, case: tuple[Any, Any], tmp_path: Path
) -> None:
    volume = np.ascontiguousarray(case[0][::-1])  # with axes right, anterior, superior
    image = nib.Nifti1Image(volume, np.diag([2.0, 2, 2, 1]))
    nib.save(image, tmp_path / "scan.nii.gz")
    nib.save(nib.Nifti2Image(volume, image.affine), tmp_path / "two.nii")
    expected = trained.predict(volume, spacing=(2, 2, 2))
    assert expected.shape == volume.shape
    assert expected.dtype == np.uint16
    assert agreement(expected, case[1][::-1]) > 0.7
    sources = [tmp_path / "scan.nii.gz", str(tmp_path / "scan.nii.gz"), [tmp_path / "scan.nii.gz"], image]
    for source in [*sources, tmp_path / "two.nii"]:
        assert np.array_equal(np.asanyarray(trained.predict(source).dataobj), expected)
    assert np.array_equal(trained.predict(volume[None], spacing=[2, 2, 2]), expected)
    assert isinstance(trained.predict(tmp_path / "two.nii"), nib.Nifti2Image)


def test_the_spacing_of_an_array_is_used(case: tuple[Any, Any]) -> None:
    segmenter = reader(view="axial", spacing=(2, 2))
    volume = case[0][:, :, :3]
    plain = segmenter.predict(volume)
    assert plain.shape == volume.shape
    assert np.array_equal(plain, segmenter.predict(volume, spacing=(1, 1, 1)))
    assert not np.array_equal(plain, segmenter.predict(volume, spacing=(2, 2, 1)))


@pytest.mark.parametrize("shape", [(5, 9, 4), (24, 3, 20), (61, 4, 50), (16, 2, 40)])
def test_smaller_and_larger_volumes_than_the_patch(shape: tuple[int, ...]) -> None:
    volume = np.random.default_rng(0).normal(size=shape)
    found = reader(view="coronal").predict(volume)
    # the label of a voxel depends only on its own brightness, not on windows and padding
    values = (volume - volume.mean()) / volume.std()
    expected = np.select([values < -0.5, values < 0.5], [0, 300], 3)
    assert found.shape == shape
    assert (found == expected).mean() > 0.95


def test_resampled_volumes_come_back_to_their_own_grid() -> None:
    ramp = np.broadcast_to(np.linspace(-1, 1, 23), (3, 17, 23)).copy()  # dark below, bright above
    found = reader(view="sagittal", spacing=(1.5, 0.7)).predict(ramp, spacing=(4, 1, 2))
    assert found.shape == ramp.shape
    assert (found == found[0, 0]).all()
    below, between = (found[0, 0] == 0).sum(), (found[0, 0] == 300).sum()
    assert found[0, 0].tolist() == [0] * below + [300] * between + [3] * (23 - below - between)
    assert (below, between) == (pytest.approx(8, abs=1), pytest.approx(7, abs=1))


def test_micrometres_are_the_same_in_a_file_and_in_a_nibabel_image(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(-1, 1, 23, dtype=np.float32), (3, 17, 23)).copy()
    image = nib.Nifti1Image(ramp, np.diag([4, 1, 2, 1]))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "a.nii.gz")
    segmenter = reader(view="sagittal", spacing=(0.0015, 0.0007))
    expected = segmenter.predict(ramp, spacing=(0.004, 0.001, 0.002))
    for source in (image, tmp_path / "a.nii.gz"):
        np.testing.assert_array_equal(np.asarray(segmenter.predict(source).dataobj), expected)


def test_several_channels(tmp_path: Path) -> None:
    segmenter = reader(view="axial", channels=2)
    volume = np.random.default_rng(0).normal(size=(2, 18, 14, 3)).astype(np.float32)
    files = [save_nifti(tmp_path / f"s_{n:04d}.nii.gz", volume[n], np.diag([1.0, 1, 3, 1])) for n in (0, 1)]
    both = save_nifti(tmp_path / "both.nii.gz", np.moveaxis(volume, 0, -1), np.diag([1.0, 1, 3, 1]))
    expected = segmenter.predict(volume, spacing=(1, 1, 3))
    for source in (files, both, nib.load(both)):
        found = segmenter.predict(source)
        assert found.shape == (18, 14, 3)
        assert np.array_equal(np.asanyarray(found.dataobj), expected)
    assert not np.array_equal(segmenter.predict(volume[::-1], spacing=(1, 1, 3)), expected)


def test_the_batch_size_changes_nothing(case: tuple[Any, Any]) -> None:
    segmenter, calls = reader(view="axial"), []
    assert np.array_equal(segmenter.predict(case[0], batch_size=3), segmenter.predict(case[0], batch_size=50))
    image = Image(case[0][None], np.eye(4))
    segmenter.predict_image(image, batch_size=8, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(8, 20), (16, 20), (20, 20)]
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1, got 0"):
        segmenter.predict_image(image, batch_size=0)


@pytest.mark.parametrize(("free", "at_a_time"), [(1, 1), (2**17, 7), (2**40, 16)])
def test_slices_at_a_time_are_chosen_by_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, case: tuple[Any, Any], free: int, at_a_time: int
) -> None:
    # the outputs of a window, 16 x 16 pixels of 3 classes, take 3 KiB; the sum of windows, their weights and the
    # quotient, 24 x 28 pixels of 3 classes, take 23.6 KiB
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free * 3))
    segmenter, calls = reader(view="axial"), []
    expected = segmenter.predict(case[0], batch_size=20)
    found = segmenter.predict_image(
        Image(case[0][None], np.eye(4)), progress=lambda done, total: calls.append((done, total))
    )
    assert calls[0] == (at_a_time, 20)
    assert calls[-1] == (20, 20)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("spacing", [None, (1.5, 1.5)])
@pytest.mark.parametrize("patch", [(24, 32), (16, 16)])
def test_a_label_is_the_class_of_the_greatest_probability(
    trained: Segmenter, case: tuple[Any, Any], patch: tuple[int, int], spacing: tuple[float, float] | None
) -> None:
    recipe = Recipe(view="axial", spacing=spacing, patch=patch, channels=1)
    slices, grid = recipe.image_slices(Image(case[0][None], np.eye(4)))
    with torch.inference_mode():
        logits = sliding_window_inference(
            torch.from_numpy(slices), patch, 16, trained.network, overlap=0.5, mode="gaussian"
        )
        height, width = grid.resampled
        probabilities = torch.as_tensor(logits).softmax(1)[..., :height, :width]
        if grid.resampled != grid.plane:
            probabilities = F.interpolate(probabilities, grid.plane, mode="bilinear", antialias=True)
    expected = grid.restore(np.array([0, *STRUCTURES.values()])[probabilities.argmax(1).numpy()])
    found = replace(trained, recipe=recipe).predict(case[0])
    assert len(np.unique(found)) > 1
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
def test_every_engine_gives_the_same_labels(trained: Segmenter, case: tuple[Any, Any], engine: str) -> None:
    if engine != "torch":
        pytest.importorskip(engine)
        pytest.importorskip("onnxscript")
    other = trained.with_engine(engine)
    assert other.engine is not None
    assert other.engine.name == engine
    assert (other.predict(case[0]) == trained.predict(case[0])).mean() > 0.999


def test_engines_are_measured_on_request_and_for_volumes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def make(name: str, network: torch.nn.Module, example: torch.Tensor, *, volumes: int) -> Engine:
        asked.append((name, tuple(example.shape[1:]), volumes))
        return Engine("torch", "", network)

    monkeypatch.setattr("scse.inference.segmenter.make_engine", make)
    reader(view="axial", channels=2).with_engine("auto", images=7)
    reader(view="picture").with_engine("auto", images=7)
    reader(view="axial").with_engine(images=7)
    assert asked == [("auto", (2, 16, 16), 7), ("auto", (1, 16, 16), 0), ("torch", (1, 16, 16), 7)]


@pytest.mark.parametrize("view", ["axial", "volume"])
def test_networks_run_in_the_precision_of_their_training_on_gpus(
    view: Any, case: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dims = 3 if view == "volume" else 2
    torch.manual_seed(0)
    network = NETWORKS["unet"](1, classes=3, width=4, depth=1, kernel_size=3, spatial_dims=dims, recalibration="scse")
    chosen = Recipe(view=view, spacing=None, patch=(16,) * dims, channels=1)
    one = Segmenter(network, "unet", {}, "scse", chosen, STRUCTURES, {"precision": "bf16"})
    assert one.run is network, "on a CPU, networks run in float32"
    window = torch.randn(2, 1, *chosen.patch)
    exact = network(window)
    # bfloat16 of a CPU, as no GPU is needed for it
    monkeypatch.setattr(Segmenter, "_in_bfloat16", property(lambda self: self.settings.get("precision") == "bf16"))
    rounded = one.run(window)
    assert (rounded.dtype, exact.dtype) == (torch.float32, torch.float32)
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0.05)
    assert torch.equal(one.with_engine("torch").run(window), rounded)
    assert torch.equal(replace(one, settings={"precision": "32"}).run(window), exact)
    for squeeze in ("window", "local", "volume") if dims == 3 else ("window",):
        slices = chosen.slices(Image(case[0][None], np.eye(4)))
        found = torch.stack(list(one.with_squeeze(squeeze).probabilities(slices)))
        expected = torch.stack(list(replace(one, settings={}).with_squeeze(squeeze).probabilities(slices)))
        assert (found.dtype, torch.equal(found, expected)) == (torch.float32, False)
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


# Pictures


@pytest.mark.parametrize("shape", [(16, 16), (9, 30), (70, 41)])
def test_pictures(tmp_path: Path, shape: tuple[int, int]) -> None:
    segmenter = reader(structures={"a": 7, "b": 255})
    path = save_picture(tmp_path / "p.png", picture(*shape))
    found = segmenter.predict(path)
    assert isinstance(found, np.ndarray)
    assert (found.shape, found.dtype) == (shape, np.uint8)
    assert set(np.unique(found)) == {0, 7, 255}
    assert np.array_equal(found, segmenter.predict(picture(*shape)))
    assert np.array_equal(found, segmenter.predict(picture(*shape)[None]))


CLEANED = Cleaning(keep_largest=("b",), fill_holes=("a", "b"))


def cleaned_here(labels: NDArray[Any], structures: dict[str, int]) -> NDArray[Any]:
    """A label map of structures a and b, cleaned up."""
    classes = np.select([labels == value for value in structures.values()], [1, 2], 0).astype(np.uint8)
    clean(classes, CLEANED, ["a", "b"])
    return np.array([0, *structures.values()])[classes]


@pytest.mark.parametrize("structures", [{"a": 1, "b": 2}, {"a": 255, "b": 7}, {"a": 2**31, "b": 3}])
@pytest.mark.parametrize(
    ("recipe", "shape"),
    [
        ({"view": "picture"}, (30, 21)),
        ({"view": "axial"}, (20, 17, 6)),
        ({"view": "coronal", "spacing": (0.7, 1.6)}, (20, 6, 17)),
        ({"view": "volume", "patch": (8, 8, 8)}, (9, 7, 12)),
    ],
)
def test_a_label_map_is_cleaned_as_a_whole_on_the_grid_of_its_image(
    recipe: dict[str, Any], shape: tuple[int, ...], structures: dict[str, int]
) -> None:
    plain, image = reader(structures=structures, **recipe), picture(*shape)
    before = plain.predict(image)
    cleaned = replace(plain, cleaning=CLEANED)
    after = cleaned.predict(image)
    assert (after.dtype, after.shape) == (before.dtype, before.shape)
    np.testing.assert_array_equal(after, cleaned_here(before, structures))
    assert (after != before).any()
    np.testing.assert_array_equal(cleaned.with_cleaning("learned").predict(image), after)
    np.testing.assert_array_equal(cleaned.with_cleaning("none").predict(image), before)


def test_label_maps_of_files_are_cleaned(tmp_path: Path) -> None:
    structures = {"a": 1, "b": 2}
    plain = reader(structures=structures, view="axial")
    path = save_nifti(tmp_path / "scan.nii.gz", picture(20, 17, 6))
    before, after = (np.asarray(each.predict(path).dataobj) for each in (plain, replace(plain, cleaning=CLEANED)))
    np.testing.assert_array_equal(after, cleaned_here(before, structures))
    assert replace(plain, cleaning=CLEANED).predict_files({"scan": [path]}, tmp_path / "out") == []
    np.testing.assert_array_equal(read_label(tmp_path / "out" / "scan.nii.gz").array, after)


def test_largest_keeps_one_component_of_every_structure() -> None:
    one = replace(reader(structures={"a": 1, "b": 2}), cleaning=CLEANED).with_cleaning("largest")
    assert one.cleaning == Cleaning(keep_largest=("a", "b"))
    with pytest.raises(UserError, match="cleaning must be one of 'learned', 'none', 'largest', got 'all'"):
        one.with_cleaning("all")


def test_colour_pictures(tmp_path: Path) -> None:
    segmenter = reader(channels=3)
    path = save_picture(tmp_path / "p.png", picture(20, 18, 3))
    assert np.array_equal(segmenter.predict(path), segmenter.predict(np.moveaxis(picture(20, 18, 3), -1, 0)))


def test_pictures_stored_as_nifti(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "flat.nii.gz", picture(20, 18), np.diag([-3.0, 2, 1, 1]))
    found = reader().predict(path)
    assert found.shape == (20, 18)
    assert np.array_equal(found.affine, nib.load(path).affine)


# Invalid input


def test_sources_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    flat, deep = reader(), reader(view="axial")
    save_picture(tmp_path / "p.png", picture(20, 18))
    for call, message in (
        (lambda: flat.predict(picture(20, 18, 3)), "the image has 20 channels, but the model expects 1"),
        (
            lambda: flat.predict(picture(2, 2, 2, 2)),
            r"arrays of 2 spatial axes, with or without a channel axis first, got shape \(2, 2, 2",
        ),
        (
            lambda: deep.predict(picture(20, 18)),
            r"arrays of 3 spatial axes, with or without a channel axis first, got shape \(20, 18\)",
        ),
        (lambda: deep.predict(picture(9, 9, 9), spacing=(1, 1)), r"spacing must be 3 positive numbers of mm, got \(1"),
        (lambda: deep.predict(picture(9, 9, 9), spacing=(1, 0, 1)), "spacing must be 3 positive"),
        (lambda: flat.predict(picture(9, 9), spacing=(1, 1)), "pictures, which have no spacing"),
        (lambda: flat.predict(tmp_path / "p.png", spacing=(1, 1)), "spacing is allowed for arrays only"),
        (lambda: deep.predict(tmp_path / "p.png"), r"p\.png: .* axial slices of volumes, got shape"),
        (lambda: flat.predict([]), "at least one path"),
        (lambda: flat.predict(np.full((9, 9), np.nan)), "NaN or infinite"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    for name in ("bad.nii.gz", "gone.png", "odd.dat"):
        with pytest.raises(DataError, match=name):
            reader().predict(tmp_path / name)
    blank = save_picture(tmp_path / "blank.png", np.full((16, 16), 3, np.uint8))
    with pytest.raises(UserError, match=r"blank\.png: all voxels have the same value, 3"):
        reader().predict(blank)


def test_an_image_of_one_value_is_refused() -> None:
    with pytest.raises(ValueError, match="all voxels have the same value, 7; the image is empty or damaged"):
        reader(view="axial").predict(np.full((9, 9, 9), 7))


@pytest.mark.parametrize("shape", [(16, 16), (9, 30)])
@pytest.mark.parametrize("spacing", [None, (1.5, 1.5)])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_scores_that_are_no_numbers_have_no_label(
    wrong: float, spacing: tuple[float, float] | None, shape: tuple[int, int]
) -> None:
    segmenter = reader(view="axial", spacing=spacing)
    with torch.no_grad():
        segmenter.network.levels[1] = wrong
    volume = np.random.default_rng(0).normal(size=(*shape, 3))
    if wrong == np.inf:  # a class with the score -inf is never chosen
        assert set(np.unique(segmenter.predict(volume))) == {0, 3}
        with torch.no_grad():
            segmenter.network.levels[:] = wrong
    with pytest.raises(ValueError, match="the network returned NaN or infinite probabilities"):
        segmenter.predict(volume)


# Memory


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize(("squeeze", "regions"), [("window", {}), ("volume", {}), ("window", {"a": (1, 5), "b": (5,)})])
def test_a_volume_that_is_blended_in_bands_gets_the_same_labels(
    monkeypatch: pytest.MonkeyPatch, squeeze: str, regions: dict[str, tuple[int, ...]], batch_size: int | None
) -> None:
    torch.manual_seed(0)
    arguments = {"in_channels": 1, "classes": 2 if regions else 3, "width": 4, "depth": 1, "kernel_size": 3}
    network = NETWORKS["unet"](**arguments, spatial_dims=3, recalibration="cse")
    with torch.no_grad():  # each class is the best one somewhere
        for weights in network.parameters():
            weights.normal_() if weights.ndim > 1 else weights.mul_(0.1)
    recipe = Recipe(view="volume", spacing=None, patch=(8, 8, 8), channels=1)
    segmenter = Segmenter(network, "unet", arguments, "cse", recipe, {"a": 1, "b": 5}, regions=regions)
    segmenter = segmenter.with_squeeze(squeeze)
    array = np.random.default_rng(0).normal(size=(1, 20, 12, 60)).astype(np.float32)
    image = Image(array, np.diag([-1.0, 1, 1, 1]))
    whole = segmenter.predict_image(image, batch_size=batch_size)
    assert len(np.unique(whole)) == 3
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr("scse.inference.segmenter.LEAST_MEMORY", 0)
    found = segmenter.predict_image(
        image, batch_size=batch_size, progress=lambda done, total: calls.append((done, total))
    )
    assert np.array_equal(found, whole)
    # 4 x 2 windows for each of 14 places along z, and again for some of them
    assert calls[-1][0] == calls[-1][1] > 4 * 2 * 14
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


@pytest.mark.slow
def test_a_volume_is_segmented_in_three_times_its_memory() -> None:
    code = """
from pathlib import Path

from scse.support.tensorboard_alone import use_monai_alone, use_tensorboard_alone

use_tensorboard_alone()  # as the command line does: TensorFlow takes seconds to import
use_monai_alone()

import numpy as np

from scse.data.recipe import Recipe
from scse.networks import NETWORKS
from scse.inference.segmenter import Segmenter

def peak():
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

arguments = {"in_channels": 1, "classes": 3, "width": 2, "depth": 1, "kernel_size": 3}
network = NETWORKS["unet"](**arguments)
small = np.random.default_rng(0).random((64, 64, 64), np.float32)
segmenters = []
for view, spacing in (("axial", None), ("sagittal", None), ("coronal", (1.5, 1.5))):
    recipe = Recipe(view=view, spacing=spacing, patch=(64, 64), channels=1)
    segmenters.append(Segmenter(network, "unet", arguments, "none", recipe, {"a": 1, "b": 2}))
    segmenters[-1].predict(small)
volume = np.empty((192, 192, 128), np.float32, order="F")
for start in range(0, 128, 64):
    volume[:64, :64, start : start + 64] = small
    volume[64:128, :64, start : start + 64] = volume[128:, :64, start : start + 64] = small
    volume[:, 64:128, start : start + 64] = volume[:, 128:, start : start + 64] = volume[:, :64, start : start + 64]
before = peak()
for segmenter in segmenters:
    segmenter.predict(volume, batch_size=2)  # else the slices at a time would count on a volume as small as this
# the volume itself was there before
print((peak() - before) / volume.nbytes + 1)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout.splitlines()[-1]) < 3


@pytest.mark.slow
def test_a_network_of_volumes_takes_three_times_the_memory_of_the_volume() -> None:
    code = """
from pathlib import Path

from scse.support.tensorboard_alone import use_monai_alone, use_tensorboard_alone

use_tensorboard_alone()
use_monai_alone()

import numpy as np

from scse.allocator import keep_large_blocks
from scse.data.recipe import Recipe
from scse.inference import segmenter as module
from scse.networks import NETWORKS

keep_large_blocks()  # as the command line does
module.LEAST_MEMORY = 0  # else the class scores would count on a volume as small as this

def memory(what):
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1]) * 1024

arguments = {"in_channels": 1, "classes": 28, "width": 2, "depth": 1, "kernel_size": 3}
network = NETWORKS["unet"](**arguments, spatial_dims=3)
recipe = Recipe(view="volume", spacing=None, patch=(16, 16, 16), channels=1)
names = {f"s{n}": n for n in range(1, 28)}
segmenter = module.Segmenter(network, "unet", arguments, "none", recipe, names)
small = np.random.default_rng(0).random((64, 64, 64), np.float32)
segmenter.predict(small)
volume = np.asfortranarray(np.tile(small, (3, 3, 2)))
before = memory("VmHWM")
segmenter.predict(volume)
# the volume itself was there before
print((memory("VmHWM") - before) / volume.nbytes + 1)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout.splitlines()[-1]) < 3


# Many files


def test_one_bad_image_does_not_stop_the_others(trained: Segmenter, case: tuple[Any, Any], tmp_path: Path) -> None:
    good = tmp_path / "good.nii.gz"
    nib.save(stored_as("PIR", case[0]), good)
    (tmp_path / "bad.nii.gz").write_bytes(good.read_bytes()[:200])
    save_nifti(tmp_path / "two.nii.gz", np.zeros((8, 8, 8, 2), np.float32))
    names = ("bad", "gone", "two", "good")
    calls: list[tuple[int, int]] = []
    failed = trained.predict_files(
        {name: [tmp_path / f"{name}.nii.gz"] for name in names},
        tmp_path / "out",
        progress=lambda done, total: calls.append((done, total)),
    )
    assert len(failed) == 3
    for name, message in zip(names, failed, strict=False):
        assert message.startswith(str(tmp_path / f"{name}.nii.gz"))
    assert "has 2 channels, but the model expects 1" in failed[2]
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    [written] = (tmp_path / "out").glob("*.*z")
    found, source = nib.load(written), nib.load(good)
    assert written.name == "good.nii.gz"
    assert np.array_equal(found.affine, source.affine)
    assert np.array_equal(np.asanyarray(found.dataobj), np.asanyarray(trained.predict(good).dataobj))
    assert agreement(back_to_las(found), case[1]) > 0.7


def test_pictures_are_written_as_index_masks(tmp_path: Path) -> None:
    segmenter = reader(structures={"a": 7, "b": 255})
    paths = [save_picture(tmp_path / f"{name}.bmp", picture(20, 18, seed=n)) for n, name in enumerate("ab")]
    assert segmenter.predict_files({path.stem: [path] for path in paths}, tmp_path / "out") == []
    assert sorted(path.name for path in (tmp_path / "out").glob("*.*")) == [".scse-written", "a.png", "b.png"]
    assert np.array_equal(read_label(tmp_path / "out/b.png").array, segmenter.predict(paths[1]))
    assert len(np.unique(read_label(tmp_path / "out/a.png").array)) == 3


class Waiting(Reader):
    """A network that calls a function each time before it runs."""

    def __init__(self, wait: Callable[[], object]) -> None:
        super().__init__()
        self.wait = wait

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.wait()
        return super().forward(x)


def pictures(folder: Path, count: int) -> dict[str, list[Path]]:
    return {f"p{n}": [save_picture(folder / f"p{n}.png", picture(16, 16, seed=n))] for n in range(count)}


def test_images_are_read_and_written_while_the_network_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, written, flying = [Event() for _ in range(6)], [Event() for _ in range(6)], []
    images, runs = pictures(tmp_path, 6), count()

    def reading(paths: list[Path]) -> Image:
        image = read_image(paths)
        read[int(paths[0].stem[1:])].set()
        flying.append(sum(event.is_set() for event in read) - sum(event.is_set() for event in written))
        return image

    def writing(folder: Path, name: str, *others: Any) -> None:
        write_prediction(folder, name, *others)
        written[int(name[1:])].set()

    def wait() -> None:
        n = next(runs)
        assert n == 5 or read[n + 1].wait(30)
        assert n == 0 or written[n - 1].wait(30)

    monkeypatch.setattr("scse.inference.segmenter.read_image", reading)
    monkeypatch.setattr("scse.inference.segmenter.write_prediction", writing)
    segmenter = replace(reader(), network=Waiting(wait))
    assert segmenter.predict_files(images, tmp_path / "out") == []
    assert all(event.is_set() for event in written)
    assert max(flying) <= 4  # one is read, one waits, one is predicted, one is written
    for name, paths in images.items():
        assert np.array_equal(read_label(tmp_path / "out" / f"{name}.png").array, reader().predict(paths[0]))


def test_an_interruption_leaves_whole_label_maps_only(tmp_path: Path) -> None:
    runs = count()

    def interrupt() -> None:
        if next(runs) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(reader(), network=Waiting(interrupt)).predict_files(pictures(tmp_path, 6), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["p0.png", "p1.png"]
    assert reader().predict_files(pictures(tmp_path, 6), tmp_path / "out") == []
    for n in range(2):
        expected = reader().predict(tmp_path / f"p{n}.png")
        assert np.array_equal(read_label(tmp_path / "out" / f"p{n}.png").array, expected)


def test_a_label_map_corrected_by_hand_is_not_replaced(tmp_path: Path) -> None:
    images, out = pictures(tmp_path, 2), tmp_path / "out"
    for _ in range(2):
        assert reader().predict_files(images, out) == []
    corrected = save_picture(out / "p1.png", picture(16, 16, seed=9)).read_bytes()
    with pytest.raises(ValueError, match=r"out/p1\.png: already there, and not written by scse or changed since"):
        reader().predict_files(images, out)
    assert (out / "p1.png").read_bytes() == corrected
    assert reader().predict_files(images, out, overwrite=True) == []
    assert np.array_equal(read_label(out / "p1.png").array, reader().predict(tmp_path / "p1.png"))


def test_a_label_map_never_replaces_another_image(tmp_path: Path) -> None:
    images = pictures(tmp_path, 2)
    (tmp_path / "other").mkdir()
    images["p0"] = [save_picture(tmp_path / "other" / "p0.png", picture(16, 16))]
    before = (tmp_path / "p1.png").read_bytes()
    with pytest.raises(ValueError, match=r"p1\.png: would be replaced by its own output"):
        reader().predict_files(images, tmp_path, overwrite=True)
    assert (tmp_path / "p1.png").read_bytes() == before


@pytest.mark.parametrize(
    "error", [MemoryError(), ValueError("a wrong size"), torch.OutOfMemoryError("CUDA out of memory")], ids=type
)
def test_an_image_that_the_network_cannot_take_loses_no_other(tmp_path: Path, error: Exception) -> None:
    runs = count()

    def fail() -> None:
        if next(runs) == 1:
            raise error

    [message] = replace(reader(), network=Waiting(fail)).predict_files(pictures(tmp_path, 3), tmp_path / "out")
    assert message.startswith(f"{tmp_path / 'p1.png'}: ")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["p0.png", "p2.png"]


def test_images_without_usable_values_and_broken_networks_are_one_line_by_name(tmp_path: Path) -> None:
    images = pictures(tmp_path, 2)
    images["blank"] = [save_picture(tmp_path / "blank.png", np.full((16, 16), 3, np.uint8))]
    [blank] = reader().predict_files(images, tmp_path / "out")
    assert blank == f"{tmp_path / 'blank.png'}: all voxels have the same value, 3; the image is empty or damaged"
    broken = reader()
    with torch.no_grad():
        broken.network.levels[0] = np.nan
    messages = broken.predict_files({"p0": images["p0"]}, tmp_path / "none")
    assert len(messages) == 1
    assert messages[0].startswith(f"{tmp_path / 'p0.png'}: the network returned NaN or infinite probabilities")
    assert not (tmp_path / "none").exists()


def test_what_is_no_fault_of_an_image_ends_it_all(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where a folder should be")
    with pytest.raises(OSError, match="out"):
        reader().predict_files(pictures(tmp_path, 3), tmp_path / "out")


# Regions

NESTED = {"whole": (1, 4, 70), "core": (4, 70), "middle": (4,)}
PAINTED = {"whole": 1, "core": 70, "middle": 4}


def of_regions(view: str, patch: tuple[int, ...], spacing: tuple[float, ...] | None = None) -> Segmenter:
    """Random convolutions to the logits of three regions."""
    torch.manual_seed(0)
    network = (torch.nn.Conv3d if len(patch) == 3 else torch.nn.Conv2d)(1, 3, 3, padding=1)
    with torch.no_grad():
        network.bias.zero_()
    recipe = Recipe.model_validate({"view": view, "spacing": spacing, "patch": patch, "channels": 1})
    return Segmenter(network, "unet", {"in_channels": 1, "classes": 3}, "none", recipe, PAINTED, regions=NESTED)


@pytest.mark.parametrize("spacing", [None, 1.5])
@pytest.mark.parametrize(("view", "patch"), [("axial", (24, 28)), ("axial", (16, 16)), ("volume", (12, 16, 8))])
def test_label_maps_of_regions_are_those_of_nnunet(
    case: tuple[Any, Any], view: str, patch: tuple[int, ...], spacing: float | None
) -> None:
    segmenter = of_regions(view, patch, None if spacing is None else (spacing,) * len(patch))
    slices, grid = segmenter.recipe.image_slices(Image(case[0][None], np.eye(4)))
    with torch.inference_mode():
        logits = sliding_window_inference(
            torch.from_numpy(slices), patch, 16, segmenter.network, overlap=0.5, mode="gaussian"
        )
    probabilities = segmenter.recipe.to_plane(torch.as_tensor(logits).sigmoid(), grid)
    manager = LabelManager({"background": 0, **NESTED}, list(PAINTED.values()))
    expected = [manager.convert_probabilities_to_segmentation(each).numpy() for each in probabilities]
    found = segmenter.predict(case[0])
    assert set(np.unique(found)) == {0, *PAINTED.values()}
    wanted = grid.restore(np.stack(expected))
    # blended and resampled in another order, single voxels may fall on the other side of 0.5
    assert (found != wanted).mean() < 1e-3
    near = np.abs(probabilities.numpy() - 0.5).min(1) < 1e-5
    assert not ((found != wanted) & ~grid.restore(near)).any()


def test_a_saved_segmenter_of_regions_is_the_same_one(tmp_path: Path) -> None:
    plain = untrained()
    plain.save(tmp_path / "plain")
    assert "regions" not in json.loads((tmp_path / "plain" / DESCRIPTION).read_text())
    regions = {"left": (300, 3, 8), "right": (3,)}
    arguments = {**plain.arguments, "classes": 2}
    network = NETWORKS["unet"](**arguments, recalibration="scse").eval()
    segmenter = replace(plain, network=network, arguments=arguments, regions=regions)
    segmenter.save(tmp_path / "model")
    loaded = Segmenter.load(tmp_path / "model")
    assert (loaded.regions, loaded.scheme) == (regions, segmenter.scheme)
    image = picture(40, 30)
    np.testing.assert_array_equal(loaded.predict(image), segmenter.predict(image))
    np.testing.assert_array_equal(loaded.with_engine("onnxruntime").predict(image), segmenter.predict(image))


def test_regions_are_not_cleaned_up() -> None:
    segmenter = of_regions("picture", (16, 16))
    assert segmenter.with_cleaning("none").with_cleaning("learned").cleaning == NO_CLEANING
    with pytest.raises(UserError, match=r"largest component of whole, core, middle\) is for exclusive"):
        segmenter.with_cleaning("largest")
