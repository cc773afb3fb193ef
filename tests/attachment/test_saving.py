"""Saving and loading models with blocks."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import scse
from scse.support.errors import DataError


def make(width=4):
    torch.manual_seed(0)
    shared = nn.Conv2d(width, width, 1)
    return nn.ModuleDict({"net": nn.Sequential(nn.Conv2d(3, width, 1), shared), "again": shared})["net"]


X = torch.linspace(-1, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("recalibration", "options"),
    [
        ("cse", {"reduction": 1}),
        ("sse", {"identity": False}),
        ("pe", {"reduction": 1}),
        ("scse", {"aggregation": "max"}),
        (lambda channels: scse.ChannelSE(channels, hidden=3, activation="silu", gate="hard-sigmoid", bias=False), {}),
    ],
)
def test_fresh_model_gets_the_same_blocks_and_weights(tmp_path, recalibration, options):
    model = make()
    placed = scse.attach(model, recalibration, to="*", example=X, **options)
    with torch.no_grad():
        for parameter in placed.parameters():
            parameter.normal_()
    path = scse.save_attached(model, tmp_path / "deep" / "model.safetensors")
    fresh = make()
    loaded = scse.load_attached(fresh, path)
    assert [str(place.block) for place in loaded] == [str(place.block) for place in placed]
    assert loaded.names == placed.names
    assert torch.equal(fresh(X), model(X))


def test_model_in_another_memory_format_is_saved(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3)).to(memory_format=torch.channels_last)
    scse.attach(model, to="0", example=X)
    fresh = nn.Sequential(nn.Conv2d(3, 4, 3))
    scse.load_attached(fresh, scse.save_attached(model, tmp_path / "model.safetensors"))
    assert torch.equal(fresh[0].weight, model[0].weight)


def test_layout_is_kept(tmp_path):
    def tokens():
        return nn.Sequential(nn.Flatten(2), nn.Linear(16, 6))

    model = tokens()
    scse.attach(model, "cse", to="1", example=X, layout="channels-last", identity=False)
    fresh = tokens()
    scse.load_attached(fresh, scse.save_attached(model, tmp_path / "model.safetensors"))
    assert torch.equal(fresh(X), model(X))


def test_model_whose_module_has_two_names_is_saved(tmp_path):
    monai = pytest.importorskip("monai.networks.nets")

    def build():
        return monai.DynUNet(2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 4, 4])

    model = build()
    scse.attach(model, "scse", identity=False)
    fresh = build()
    scse.load_attached(fresh, scse.save_attached(model, tmp_path / "model.safetensors"))
    x = torch.randn(1, 1, 16, 16)
    assert torch.equal(fresh.eval()(x), model.eval()(x))


def test_model_without_blocks_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="Sequential has no block; save its state_dict, or attach first"):
        scse.save_attached(make(), tmp_path / "model.safetensors")


def test_blocks_of_others_are_not_saved(tmp_path):
    model = make()
    scse.attach(model, lambda channels: nn.Conv2d(channels, channels, 1), to="0", example=X)
    with pytest.raises(ValueError, match="the block at '0' is a Conv2d, none of scse's"):
        scse.save_attached(model, tmp_path / "model.safetensors")


def test_block_with_layers_that_are_not_its_own_is_not_saved(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 4, 1))
    scse.attach(model, "cse", to="0")
    block = model[0].recalibration
    block.squeeze = nn.Sequential(block.squeeze)
    with pytest.raises(ValueError, match=r"block at '0' was wrapped, parametrised or quantised \(squeeze\.weight"):
        scse.save_attached(model, tmp_path / "model.safetensors")


def test_model_with_blocks_is_not_loaded_into(tmp_path):
    model = make()
    scse.attach(model, to="0", example=X)
    path = scse.save_attached(model, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="Sequential has blocks already"):
        scse.load_attached(model, path)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: make(width=5), r"0\.weight has shape \(4, 3, 1, 1\) in the file and \(5, 3, 1, 1\) in the model"),
        (lambda: nn.Conv2d(3, 4, 1), "does not fit Conv2d"),
        (lambda: nn.Sequential(*make(), nn.BatchNorm2d(4)), r"2\.weight is missing in the file"),
        (lambda: make().double(), r"0\.weight has dtype torch\.float32 in the file and torch\.float64 in the model"),
    ],
)
def test_another_model_is_refused_and_left_as_it_was(tmp_path, other, message):
    model = make()
    scse.attach(model, to="0", example=X)
    path = scse.save_attached(model, tmp_path / "model.safetensors")
    wrong = other()
    before = {key: value.clone() for key, value in wrong.state_dict().items()}
    with pytest.raises(DataError, match=message):
        scse.load_attached(wrong, path)
    after = wrong.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"no weights"), "cannot be read"),
        (lambda path: save_file({"a": torch.zeros(1)}, path), "holds no blocks of format 1"),
        (lambda path: save_file({"a": torch.zeros(1)}, path, metadata={"scse": "{broken"}), "cannot be read"),
        (lambda path: save_file({"a": torch.zeros(1)}, path, metadata={"scse": '{"format": 9}'}), "of format 1"),
        (lambda path: None, "does not exist"),
    ],
)
def test_file_of_another_kind_is_refused_by_name(tmp_path, write, message):
    path = tmp_path / "model.safetensors"
    write(path)
    with pytest.raises(DataError, match=message) as refused:
        scse.load_attached(make(), path)
    assert str(path) in str(refused.value)


RECIPE = {
    "format": 1,
    "blocks": [
        {
            "where": "0",
            "layout": "channels-first",
            "block": "sse",
            "channels": 4,
            "options": {"bias": True, "identity": True},
        }
    ],
}


def write_recipe(path, change, weights=None):
    recipe = json.loads(json.dumps(RECIPE))
    change(recipe)
    save_file(weights or {"a": torch.zeros(1)}, path, metadata={"scse": json.dumps(recipe)})
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(blocks=None), "scse.blocks: "),
        (lambda r: r.update(blocks=[]), "scse.blocks: "),
        (lambda r: r.update(blocks=[7]), "scse.blocks.0: "),
        (lambda r: r.update(shell="ls"), "scse.shell: "),
        (lambda r: r["blocks"][0].pop("where"), "scse.blocks.0.where: Field required"),
        (lambda r: r["blocks"][0].update(layout="up"), "scse.blocks.0.layout: "),
        (lambda r: r["blocks"][0].update(block="print"), "scse.blocks.0.block: "),
        (lambda r: r["blocks"][0].update(channels="4"), "scse.blocks.0.channels: "),
        (lambda r: r["blocks"][0].update(channels=True), "scse.blocks.0.channels: "),
        (lambda r: r["blocks"][0].update(channels=4.0), "scse.blocks.0.channels: "),
        (lambda r: r["blocks"][0].update(channels=-1), "scse.blocks.0.channels: "),
        (lambda r: r["blocks"][0].update(channels=2**50), "scse.blocks.0.channels: "),
        (lambda r: r["blocks"][0].update(channels=float("nan")), "scse.blocks.0.channels: "),
        (lambda r: r["blocks"][0].update(options=None), "scse.blocks.0.options: "),
        (lambda r: r["blocks"][0]["options"].update(bias="yes"), "scse.blocks.0.options.bias: "),
        (lambda r: r["blocks"][0]["options"].update(identity=1), "scse.blocks.0.options.identity: "),
        (lambda r: r["blocks"][0]["options"].update(shell=1), "scse.blocks.0.options.shell: "),
        (lambda r: r["blocks"][0]["options"].update(reduction=2), "does not fit Sequential .*reduction"),
        (lambda r: r["blocks"][0].update(where="nowhere"), "does not fit Sequential .*nowhere"),
    ],
)
def test_wrong_field_of_the_recipe_is_named_and_the_model_left_as_it_was(tmp_path, change, message):
    path = write_recipe(tmp_path / "model.safetensors", change)
    model = make()
    with pytest.raises(DataError, match=message) as refused:
        scse.load_attached(model, path)
    assert str(refused.value).startswith(f"{path}: ")
    assert scse.placements(model).names == ()


@pytest.mark.parametrize("value", ["[" * 5000 + "]" * 5000, '{"format": 1' + "0" * 99 + "}"])
def test_recipe_beyond_what_json_holds_is_refused(tmp_path, value):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"scse": value})
    with pytest.raises(DataError, match=r"nested too deeply|beyond 64 bits"):
        scse.load_attached(make(), path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    model = make()
    scse.attach(model, to="0", example=X)
    with torch.no_grad():
        model[0].weight[0, 0] = value
    path = scse.save_attached(model, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"0\.weight holds values that are NaN or infinite"):
        scse.load_attached(make(), path)


def test_masks_of_infinities_are_loaded(tmp_path):
    def build():
        model = make()
        model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        return model

    model = build()
    scse.attach(model, to="0", example=X)
    fresh = build()
    scse.load_attached(fresh, scse.save_attached(model, tmp_path / "model.safetensors"))
    assert torch.equal(fresh.mask, model.mask)
