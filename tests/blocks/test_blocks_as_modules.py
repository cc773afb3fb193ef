"""Blocks as ordinary modules: their layers can be called, wrapped, hooked, pruned, quantised, traced and scripted."""

import copy
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from test_blocks import CASES, every_block, every_space, expected, feature_map, seeded
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic
from torch.nn.utils import parametrizations, parametrize, prune

from scse import ChannelSE, ConcurrentSE, ProjectExcite, SpatialSE
from scse.attachment.fusing import ResidualChannelSE

LAYERS = {ChannelSE: ("squeeze", "excite"), SpatialSE: ("project",), ProjectExcite: ("squeeze", "excite")}
LAYERS[ConcurrentSE] = ("channel.squeeze", "channel.excite", "spatial.project")


class LowRank(nn.Module):
    """A linear layer with an added low-rank term, as in LoRA."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def layers(block):
    return [block.get_submodule(name) for name in LAYERS[type(block)]]


def with_called_layers(block):
    """Return a copy whose layers must be called, because they are not plain nn.Linear modules."""

    class Own(nn.Linear):
        pass

    twin = copy.deepcopy(block)
    for layer in layers(twin):
        layer.__class__ = Own
    return twin


@every_block
@every_space
def test_layers_that_are_called_give_the_values_of_the_reference(make, space):
    block = with_called_layers(seeded(make, 6).double())
    x = feature_map(2, 6, *space, dtype=torch.float64)
    np.testing.assert_allclose(block(x).detach().numpy(), expected(block, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [CASES[name] for name in ("cse", "sse", "add", "max", "pe")])
def test_identity_start_leaves_every_bit_when_layers_or_gates_are_called(make):
    block = make(6, identity=True)
    x = feature_map(2, 6, 5, 7)
    assert torch.equal(with_called_layers(block)(x), x)
    if isinstance(block, ConcurrentSE):
        block.channel.register_forward_hook(lambda *_: None)
        assert torch.equal(block(x), x)


@pytest.mark.parametrize("name", ["add", "max", "multiply", "concat"])
@pytest.mark.parametrize("identity", [False, True])
def test_gates_of_scse_that_are_wrapped_are_called(name, identity):
    if identity and name not in {"add", "max"}:
        pytest.skip("has no identity")
    block = seeded(CASES[name], 6, identity=identity)
    x = feature_map(2, 6, 5, 7)
    before = block(x)
    block.channel, block.spatial = nn.Sequential(block.channel), nn.Sequential(block.spatial)
    torch.testing.assert_close(block(x), before)
    block.channel.append(nn.Dropout(1.0))
    assert not torch.allclose(block(x), before)


@every_block
def test_low_rank_terms_change_the_output_and_learn(make):
    block = seeded(make, 6)
    x = feature_map(2, 6, 5, 7)
    before = block(x)
    for name in LAYERS[type(block)]:
        block.set_submodule(name, LowRank(block.get_submodule(name)))
    after = block(x)
    assert not torch.allclose(after, before)
    after.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in block.parameters())


@every_block
def test_low_rank_terms_count_as_in_the_reference(make):
    block = seeded(make, 6).double()
    x = feature_map(2, 6, 5, 7, dtype=torch.float64)
    merged = copy.deepcopy(block)
    for name in LAYERS[type(block)]:
        layer = LowRank(block.get_submodule(name)).double()
        block.set_submodule(name, layer)
        merged.get_submodule(name).weight.data += layer.up.weight @ layer.down.weight
    np.testing.assert_allclose(block(x).detach().numpy(), expected(merged, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ],
)
def test_hooks_on_inner_layers_fire(kind, register):
    block, fired = seeded(kind, 6), []
    for layer in layers(block):
        getattr(layer, register)(lambda *_: fired.append(1))
    block(feature_map(2, 6, 5, 7).requires_grad_()).sum().backward()
    assert len(fired) == len(layers(block))


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_on_the_gates_of_scse_fire(register):
    block, fired = seeded(ConcurrentSE, 6), []
    for gate in (block.channel, block.spatial):
        getattr(gate, register)(lambda *_: fired.append(1))
    block(feature_map(2, 6, 5, 7))
    assert len(fired) == 2


def test_global_hooks_see_the_inner_layers():
    block, seen = seeded(ConcurrentSE, 6), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        block(feature_map(2, 6, 5, 7))
    finally:
        handle.remove()
    assert set(layers(block)) < set(seen)


def test_forward_that_was_replaced_on_a_layer_or_a_gate_is_called():
    x = feature_map(2, 6, 5, 7)
    block = seeded(ConcurrentSE, 6)
    block.channel.excite.forward = lambda hidden: torch.full((len(hidden), 6), -1e9)
    torch.testing.assert_close(block(x), block.spatial(x))
    block = seeded(ConcurrentSE, 6)
    block.spatial.forward = torch.zeros_like
    torch.testing.assert_close(block(x), block.channel(x))


def change_weights(block, how):
    for layer in layers(block):
        how(layer)
    return block


CHANGES = {
    "pruned": lambda layer: prune.random_unstructured(layer, "weight", amount=0.5),
    "weight-norm": parametrizations.weight_norm,
    "spectral-norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}


@every_block
@pytest.mark.parametrize("how", CHANGES.values(), ids=CHANGES)
def test_weights_that_are_pruned_or_parametrised_count(make, how):
    torch.manual_seed(0)
    block = change_weights(seeded(make, 6), how).eval()
    x = feature_map(2, 6, 5, 7)
    np.testing.assert_allclose(block(x).detach().numpy(), expected(block, x), rtol=1e-5, atol=1e-5)
    block(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
    for layer in layers(block):
        assert not parametrize.is_parametrized(layer) or type(layer) is not nn.Linear


@pytest.mark.filterwarnings(
    "ignore:.*torch.ao.quantization is deprecated", "ignore:.*quantized tensor creation functions"
)
@every_block
@every_space
def test_dynamic_quantisation_stays_close(make, space):
    block = seeded(make, 16).eval()
    x = feature_map(2, 16, *space)
    quantised = quantize_dynamic(block, {nn.Linear})
    assert not any(type(module) is nn.Linear for module in quantised.modules())
    error = (quantised(x) - block(x)).abs().mean() / block(x).abs().mean()
    assert 0 < error < 0.02
    assert repr(quantised).count("DynamicQuantizedLinear") == len(layers(block))
    assert quantised.options == block.options


EVERY = {**CASES, "residual": ResidualChannelSE, "no-bias": lambda channels: ConcurrentSE(channels, bias=False)}


@pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated")
@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
@every_space
def test_scripts(make, space):
    block = seeded(make, 6)
    scripted = torch.jit.script(block)
    for size in (space, tuple(side + 2 for side in space)):
        x = feature_map(3, 6, *size)
        torch.testing.assert_close(scripted(x), block(x))


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
@every_space
def test_traces_symbolically(make, space):
    block = seeded(make, 6)
    graph = torch.fx.symbolic_trace(block)
    x = feature_map(2, 6, *space)
    torch.testing.assert_close(graph(x), block(x))
    called = {node.target for node in graph.graph.nodes if node.op == "call_module"}
    kind = ChannelSE if isinstance(block, ChannelSE) else type(block)
    assert called == set(LAYERS[kind])


@pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated", "ignore:You are using the legacy TorchScript")
@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
@every_space
def test_exports_to_onnx_by_torchscript(make, space, tmp_path):
    block, x = seeded(make, 6).eval(), feature_map(2, 6, *space)
    path = tmp_path / "block.onnx"
    axes = {0: "batch", **{axis: f"side{axis}" for axis in range(2, x.ndim)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(block, (x,), path, dynamo=False, input_names=["x"], dynamic_axes={"x": axes})
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    other = feature_map(3, 6, *(side + 2 for side in space))
    for image in (x, other):
        (found,) = session.run(None, {"x": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), block(image).detach(), rtol=1e-4, atol=1e-5)


@every_block
def test_compiles_without_graph_break_when_layers_are_called(make):
    torch.compiler.reset()
    block, x = with_called_layers(seeded(make, 6)), feature_map(2, 6, 5, 7)
    torch.testing.assert_close(torch.compile(block, fullgraph=True, backend="eager")(x), block(x))


@every_block
def test_exports_when_layers_are_called(make):
    block, x = with_called_layers(seeded(make, 6)).eval(), feature_map(2, 6, 5, 7)
    sizes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(block, (x,), dynamic_shapes=(sizes,))
    other = feature_map(3, 6, 9, 8)
    torch.testing.assert_close(program.module()(other), block(other))


@pytest.mark.parametrize(
    ("shape", "message"), [((2, 6), "at least one spatial axis"), ((2, 5, 4, 4), "built for 6 channels")]
)
@every_block
def test_map_that_does_not_fit_is_refused_when_layers_are_called(make, shape, message):
    with pytest.raises(ValueError, match=message):
        with_called_layers(make(6))(torch.zeros(shape))


def test_values_of_wrapped_gates_are_those_of_the_reference():
    block = seeded(ConcurrentSE, 6).double()
    x = feature_map(2, 6, 5, 7, dtype=torch.float64)
    wanted = expected(block, x)
    block.spatial.register_forward_hook(lambda *_: None)
    np.testing.assert_allclose(block(x).detach().numpy(), wanted, rtol=1e-12)
