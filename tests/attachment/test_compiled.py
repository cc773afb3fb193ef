"""Models that were compiled and called before blocks are attached or detached."""

import pytest
import torch
from torch import nn

import scse
from scse.gates import gates_of

X = torch.linspace(-1, 1, 2 * 3 * 64).reshape(2, 3, 8, 8)


@pytest.fixture
def model():
    torch.compiler.reset()
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Conv2d(4, 2, 1)).eval()


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


def compiled_by_parts(model):
    model[0].compile(backend="eager")
    return model


def parts_wrapped(model):
    model[0] = torch.compile(model[0], backend="eager")
    return model


COMPILE = {
    "in place": compiled_in_place,
    "wrapped": lambda model: torch.compile(model, backend="eager"),
    "parts in place": compiled_by_parts,
    "parts wrapped": parts_wrapped,
}
every_way = pytest.mark.parametrize("compile_", COMPILE.values(), ids=COMPILE)


@every_way
@pytest.mark.parametrize("to_wrapper", [False, True])
def test_blocks_run_in_what_was_compiled_and_called_before(model, compile_, to_wrapper):
    compiled = compile_(model)
    plain = compiled(X)
    placed = scse.attach(compiled if to_wrapper else model, "scse", to="0|1", example=X, identity=False)
    assert [name.removesuffix("._orig_mod") for name in placed.names] == ["0", "1"]
    attached = compiled(X)
    assert not torch.allclose(attached, plain)
    with torch.compiler.set_stance("force_eager"):
        torch.testing.assert_close(compiled(X), attached)
    scse.detach(compiled if to_wrapper else model)
    torch.testing.assert_close(compiled(X), plain)


def test_wrapper_has_the_places_and_gates_of_its_model_and_is_saved_as_it(model, tmp_path):
    compiled = COMPILE["wrapped"](model)
    compiled(X)
    scse.attach(compiled, "scse", to="0", example=X, identity=False)
    assert scse.placements(compiled).names == scse.placements(model).names == ("0",)
    assert [gates.where for gates in gates_of(compiled, X)] == ["0"]
    scse.save_attached(compiled, tmp_path / "model.safetensors")
    torch.manual_seed(1)
    other = torch.compile(
        nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Conv2d(4, 2, 1)).eval(), backend="eager"
    )
    other(X)
    scse.load_attached(other, tmp_path / "model.safetensors")
    torch.testing.assert_close(other(X), model(X))


def test_fused_blocks_run_in_what_was_compiled_and_called_before():
    from monai.networks.blocks import ChannelSELayer

    torch.compiler.reset()
    model = nn.Sequential(nn.Conv2d(3, 16, 3), ChannelSELayer(2, 16)).eval()
    compiled = torch.compile(model, backend="eager")
    before = compiled(X)
    assert len(scse.fuse(compiled).swapped) == 1
    torch.testing.assert_close(compiled(X), before)
    with torch.no_grad():
        model[1].excite.bias.add_(10)
    assert not torch.allclose(compiled(X), before)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@pytest.mark.parametrize("convert", [torch.jit.script, lambda model: torch.jit.trace(model, X)])
@pytest.mark.parametrize("part", [False, True])
def test_torchscript_is_refused(model, convert, part):
    if part:
        model[0] = torch.jit.trace(model[0], X)
    target = model if part else convert(model)
    with pytest.raises(ValueError, match="is TorchScript, which cannot be changed; change the model that it was made"):
        scse.attach(target, "scse", to="1", example=X)
