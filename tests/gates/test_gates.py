"""Gates of a model's blocks: values of the formulas, names of the places, and an unchanged model."""

from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer, ResidualSELayer
from numpy.typing import NDArray
from torch import Tensor, nn

import reference
import scse
from scse.attachment.attaching import attach
from scse.attachment.fusing import ResidualChannelSE, fuse
from scse.attachment.placements import placements
from scse.blocks import ChannelSE, ConcurrentSE, ProjectExcite, SpatialSE
from scse.gates import gates_of


def array(value: Tensor | None) -> Any:
    return 0.0 if value is None else value.detach().double().numpy()


def channel_gate(x: Tensor, block: ChannelSE) -> NDArray[np.float64]:
    layers = (block.squeeze.weight, block.squeeze.bias, block.excite.weight, block.excite.bias)
    return reference.channel_gate(array(x), *map(array, layers), activation=block.activation, gate=block.gate)


def spatial_gate(x: Tensor, block: SpatialSE) -> NDArray[np.float64]:
    return reference.spatial_gate(array(x), array(block.project.weight), array(block.project.bias))


class Twice(nn.Module):
    """Runs one block at two resolutions, the second time with a keyword argument."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"shared": block})

    def forward(self, image: Tensor) -> Tensor:
        first = self.inner["shared"](image)
        return self.inner["shared"](x=nn.functional.avg_pool2d(first, 2))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("shape", [(2, 6, 11), (2, 6, 5, 7), (1, 6, 3, 4, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_gates_are_those_of_the_formulas(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    cse = ChannelSE(6, bias=bias, activation="silu", gate="hard-sigmoid")
    sse, both = SpatialSE(6, bias=bias), ConcurrentSE(6, aggregation="max", bias=bias)
    for block, channel, spatial in ((cse, cse, None), (sse, None, sse), (both, both.channel, both.spatial)):
        (found,) = gates_of(nn.Sequential(block), x)
        assert (found.where, found.block) == ("0", type(block).__name__)
        assert (found.channel is None, found.spatial is None) == (channel is None, spatial is None)
        if channel is not None:
            np.testing.assert_allclose(found.channel, channel_gate(x, channel), atol=1e-6)
        if spatial is not None:
            np.testing.assert_allclose(found.spatial, spatial_gate(x, spatial), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 6, 11), (2, 6, 5, 7), (1, 6, 3, 4, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_gates_of_project_and_excite_are_means_over_positions_and_over_channels(
    shape: tuple[int, ...], bias: bool
) -> None:
    torch.manual_seed(0)
    x, block = torch.randn(shape), ProjectExcite(6, bias=bias, identity=True)
    nn.init.normal_(block.excite.weight)
    layers = map(array, (block.squeeze.weight, block.squeeze.bias, block.excite.weight, block.excite.bias))
    every = reference.pe(array(x), *layers) / array(x)
    (found,) = gates_of(nn.Sequential(block), x)
    assert (found.where, found.block, found.identity) == ("0", "ProjectExcite", 0.5)
    np.testing.assert_allclose(found.channel, every.mean(tuple(range(2, x.ndim))), atol=1e-6)
    np.testing.assert_allclose(found.spatial, every.mean(1), atol=1e-6)


def test_blocks_are_named_by_their_places_in_the_order_in_which_they_run() -> None:
    model = scse.networks.UNet(classes=2, width=4, depth=2, recalibration="scse")
    places = placements(model)
    found = gates_of(model, torch.randn(1, 1, 32, 32))
    assert [gates.where for gates in found] == list(places.names)
    sizes = [gates.spatial.shape[-1] for gates in found if gates.spatial is not None]
    assert sizes == sorted(sizes[: len(sizes) // 2], reverse=True) + sorted(sizes[len(sizes) // 2 :])


def test_a_block_of_ones_own_is_found_by_name_in_each_of_its_runs() -> None:
    first, second = gates_of(Twice(ConcurrentSE(3)), {"image": torch.randn(2, 3, 8, 8)})
    assert first.where == second.where == "inner.shared"
    assert first.spatial is not None
    assert second.spatial is not None
    assert (first.spatial.shape, second.spatial.shape) == ((2, 8, 8), (2, 4, 4))


def test_tokens_have_a_gate_each() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.Identity())
    attach(model, "scse", to="0", example=torch.zeros(1, 7, 5), layout="channels-last", identity=False)
    x = torch.randn(2, 7, 5)
    (found,) = gates_of(model, x)
    block = model[0].recalibration
    assert found.where == "0"
    tokens = nn.functional.linear(x, model[0].weight, model[0].bias).movedim(-1, 1)
    np.testing.assert_allclose(found.spatial, spatial_gate(tokens, block.spatial), atol=1e-6)
    assert found.channel is not None
    assert found.channel.shape == (2, 6)


def test_blocks_that_replaced_those_of_a_library_are_found() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(ChannelSELayer(2, 4, r=2), ResidualSELayer(2, 4, r=2))
    x = torch.randn(1, 4, 6, 6)
    expected = model[0].fc(x.mean((2, 3)))
    fuse(model)
    plain, residual = gates_of(model, x)
    np.testing.assert_allclose(plain.channel, array(expected), atol=1e-6)
    assert (plain.identity, residual.identity) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("block", "identity"),
    [
        (ChannelSE(4), 1.0),
        (ChannelSE(4, identity=True), 0.5),
        (ResidualChannelSE(4), 0.0),
        (SpatialSE(4), 1.0),
        (SpatialSE(4, identity=True), 0.5),
        (ConcurrentSE(4), 0.5),
        (ConcurrentSE(4, identity=True), 0.5),
        (ConcurrentSE(4, aggregation="max"), 1.0),
        (ConcurrentSE(4, aggregation="max", identity=True), 0.5),
        (ProjectExcite(4), 1.0),
        (ProjectExcite(4, identity=True), 0.5),
    ],
)
def test_gates_at_the_identity_leave_the_input_as_it_was(block: nn.Module, identity: float) -> None:
    logit = {0.0: -40.0, 0.5: 0.0, 1.0: 40.0}[identity]
    for name, layer in block.named_modules():
        if name.endswith(("excite", "project")):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, logit)
    x = torch.randn(1, 4, 3, 3)
    (found,) = gates_of(nn.Sequential(block), x)
    assert found.identity == identity
    for gate in (found.channel, found.spatial):
        assert gate is None or np.allclose(gate, identity)
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize("aggregation", ["multiply", "concat"])
def test_what_has_no_identity_says_so(aggregation: str) -> None:
    (found,) = gates_of(nn.Sequential(ConcurrentSE(4, aggregation=aggregation)), torch.randn(1, 4, 3, 3))
    assert np.isnan(found.identity)


def test_the_model_stays_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), ConcurrentSE(4), nn.Dropout(0.5))
    model.train()
    model[3].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    first, again = gates_of(model, x), gates_of(model, x)
    np.testing.assert_array_equal(first[0].spatial, again[0].spatial)
    assert [module.training for module in model] == [True, True, True, False]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert x.grad is None
    assert hooks(model) == 0


def test_an_input_that_does_not_fit_leaves_no_hook() -> None:
    model = nn.Sequential(ConcurrentSE(4), ChannelSE(5)).train()
    with pytest.raises(ValueError, match="built for 5 channels"):
        gates_of(model, torch.zeros(1, 4, 3, 3))
    assert hooks(model) == 0
    assert model.training


@pytest.mark.parametrize("how", ["bfloat16", "autocast"])
def test_low_precision_gives_float32(how: str) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(2, 4, 3), ConcurrentSE(4)), torch.randn(1, 2, 9, 9)
    (expected,) = gates_of(model, x)
    if how == "bfloat16":
        (found,) = gates_of(model.bfloat16(), x.bfloat16())
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (found,) = gates_of(model, x)
    for gate, wanted in ((found.channel, expected.channel), (found.spatial, expected.spatial)):
        assert gate is not None
        assert gate.dtype == np.float32
        np.testing.assert_allclose(gate, wanted, atol=0.02)


def test_a_model_without_blocks_is_told_how_to_get_them() -> None:
    with pytest.raises(ValueError, match=r"Sequential has no scse blocks.*scse\.attach"):
        gates_of(nn.Sequential(nn.Conv2d(1, 1, 1)), torch.zeros(1, 1, 4, 4))


def test_blocks_that_do_not_run_are_an_error() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1))
    model[0].unused = SpatialSE(1)
    with pytest.raises(ValueError, match="has 1 blocks, but none of them ran"):
        gates_of(model, torch.zeros(1, 1, 4, 4))


def test_gates_are_those_of_wrapped_and_quantised_layers() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 7)
    block = ConcurrentSE(6)
    (before,) = gates_of(nn.Sequential(block), x)
    block.channel.excite = nn.Sequential(block.channel.excite, nn.Hardtanh(max_val=-1e9, min_val=-2e9))
    block.spatial.project.register_forward_hook(lambda _module, _inputs, output: output + 3)
    (after,) = gates_of(nn.Sequential(block), x)
    np.testing.assert_array_equal(after.channel, 0)
    expected = 1 / (1 + np.exp(-3) * (1 / before.spatial - 1))
    np.testing.assert_allclose(after.spatial, expected, rtol=1e-5)
