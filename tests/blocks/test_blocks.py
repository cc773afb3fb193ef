"""The test contract of a block, run for every block and number of spatial axes."""

import copy
import inspect
import os
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import reference
from scse import ChannelSE, ConcurrentSE, ProjectExcite, SpatialSE
from scse.blocks.modules import BLOCKS, VARIANTS
from scse.vocabulary.options import ACTIVATIONS, GATES

CASES = {
    "cse": ChannelSE,
    "silu-hard": partial(ChannelSE, activation="silu", gate="hard-sigmoid"),
    "leaky-relu": partial(ChannelSE, activation="leaky-relu", gate="relu"),
    "sse": SpatialSE,
    "add": ConcurrentSE,
    "max": partial(ConcurrentSE, aggregation="max"),
    "multiply": partial(ConcurrentSE, aggregation="multiply"),
    "concat": partial(ConcurrentSE, aggregation="concat"),
    "pe": ProjectExcite,
}
WITH_IDENTITY = ["cse", "silu-hard", "sse", "add", "max", "pe"]
SPACES = {"1d": (9,), "2d": (5, 7), "3d": (3, 4, 5)}
FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}

every_block = pytest.mark.parametrize("make", CASES.values(), ids=CASES)
every_block_with_identity = pytest.mark.parametrize("make", [CASES[name] for name in WITH_IDENTITY], ids=WITH_IDENTITY)
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def feature_map(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=dtype)


def seeded(make, channels, **options):
    torch.manual_seed(0)
    block = make(channels, **options)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    return block


def expected(block, x):
    """Return the output of the NumPy reference for `x` with the weights of `block`."""

    def layer(linear):
        bias = 0.0 if linear.bias is None else linear.bias.detach().double().numpy()
        return linear.weight.detach().double().numpy(), bias

    def channel(cse):
        return *layer(cse.squeeze), *layer(cse.excite)

    u = x.detach().double().numpy()
    match block:
        case ChannelSE():
            return reference.cse(u, *channel(block), activation=block.activation, gate=block.gate, scale=block.scale)
        case SpatialSE():
            return reference.sse(u, *layer(block.project), scale=block.scale)
        case ConcurrentSE():
            both = channel(block.channel), layer(block.spatial.project)
            return reference.scse(u, *both, block.aggregation, scale=block.scale)
        case ProjectExcite():
            return reference.pe(u, *channel(block), scale=block.scale)


def output_shape(block, x):
    factor = 2 if getattr(block, "aggregation", None) == "concat" else 1
    return (x.shape[0], factor * x.shape[1], *x.shape[2:])


# Construction


def test_variants_are_named_in_the_order_of_the_paper_and_then_the_others():
    assert VARIANTS == ("none", "cse", "sse", "scse", "pe")
    assert {"cse": ChannelSE, "sse": SpatialSE, "scse": ConcurrentSE, "pe": ProjectExcite} == BLOCKS


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ChannelSE(0), "channels must be a whole number of at least 1, got 0"),
        (lambda: ChannelSE(2.0), "channels must be a whole number of at least 1, got 2.0"),
        (lambda: ChannelSE(True), "channels must be a whole number of at least 1, got True"),
        (lambda: ChannelSE(4, reduction=0), "reduction must be a whole number of at least 1, got 0"),
        (lambda: ChannelSE(4, reduction=0.5), "reduction must be a whole number of at least 1, got 0.5"),
        (lambda: ChannelSE(4, hidden=0), "hidden must be a whole number of at least 1, got 0"),
        (
            lambda: ChannelSE(4, reduction=4, hidden=1),
            "reduction and hidden both set the width of the hidden layer, got reduction=4 and hidden=1; "
            "give one of them",
        ),
        (
            lambda: ChannelSE(4, activation="gelu"),
            "activation must be one of 'relu', 'silu', 'leaky-relu', got 'gelu'",
        ),
        (lambda: ChannelSE(4, gate="tanh"), "gate must be one of 'sigmoid', 'hard-sigmoid', 'relu', got 'tanh'"),
        (
            lambda: ChannelSE(4, gate="relu", identity=True),
            "gate 'relu' cannot start as the identity; use identity=False, or one of 'sigmoid', 'hard-sigmoid'",
        ),
        (lambda: SpatialSE(-3), "channels must be a whole number of at least 1, got -3"),
        (lambda: ConcurrentSE(0), "channels must be a whole number of at least 1, got 0"),
        (lambda: ConcurrentSE(4, reduction=-1), "reduction must be a whole number of at least 1, got -1"),
        (lambda: ProjectExcite(0), "channels must be a whole number of at least 1, got 0"),
        (lambda: ProjectExcite(4, reduction=0), "reduction must be a whole number of at least 1, got 0"),
        (
            lambda: ConcurrentSE(4, aggregation="mean"),
            "aggregation must be one of 'add', 'max', 'multiply', 'concat', got 'mean'",
        ),
        (
            lambda: ConcurrentSE(4, aggregation=None),
            "aggregation must be one of 'add', 'max', 'multiply', 'concat', got None",
        ),
        (
            lambda: ConcurrentSE(4, aggregation="multiply", identity=True),
            "aggregation 'multiply' cannot start as the identity; use identity=False, or one of 'add', 'max'",
        ),
        (
            lambda: ConcurrentSE(4, aggregation="concat", identity=True),
            "aggregation 'concat' cannot start as the identity; use identity=False, or one of 'add', 'max'",
        ),
    ],
)
def test_wrong_arguments_are_named_at_construction(make, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the whole message is compared)
        make()
    assert str(raised.value) == message


@every_block
def test_options_are_keyword_only(make):
    with pytest.raises(TypeError, match="positional argument"):
        make(4, 2)


@every_block
def test_extra_repr_shows_every_option_and_round_trips(make):
    block = make(6, bias=False)
    options = inspect.signature(type(block)).parameters
    shown = block.extra_repr()
    assert all(f"{name}=" in shown for name in options if name != "channels")
    again = eval(f"{type(block).__name__}({shown})")
    assert again.extra_repr() == shown
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in block.state_dict().items()
    }


@pytest.mark.parametrize(
    ("block", "shown"),
    [
        (
            ChannelSE(8, reduction=4, identity=True),
            "8, reduction=4, hidden=None, activation='relu', gate='sigmoid', bias=True, identity=True",
        ),
        (
            ChannelSE(8, hidden=3, activation="silu", gate="hard-sigmoid", bias=False),
            "8, reduction=2, hidden=3, activation='silu', gate='hard-sigmoid', bias=False, identity=False",
        ),
        (SpatialSE(8, bias=False), "8, bias=False, identity=False"),
        (
            ConcurrentSE(8, aggregation="max", identity=True),
            "8, reduction=2, aggregation='max', bias=True, identity=True",
        ),
        (ProjectExcite(8, reduction=4, bias=False), "8, reduction=4, bias=False, identity=False"),
    ],
)
def test_extra_repr_in_full(block, shown):
    assert block.extra_repr() == shown


@pytest.mark.parametrize(("bias", "count"), [(True, 64**2 + 32 + 64 + 64 + 1), (False, 64**2 + 64)])
def test_number_of_parameters_is_that_of_the_formula(bias, count):
    assert sum(p.numel() for p in ConcurrentSE(64, bias=bias).parameters()) == count


@pytest.mark.parametrize(("channels", "reduction", "hidden"), [(64, 2, 32), (5, 2, 2), (1, 2, 1), (3, 16, 1)])
def test_hidden_width_is_rounded_down_but_never_zero(channels, reduction, hidden):
    assert ChannelSE(channels, reduction=reduction).squeeze.weight.shape == (hidden, channels)


def test_hidden_width_can_be_any():
    block = ChannelSE(4, hidden=7)
    assert block.squeeze.weight.shape == (7, 4)
    assert block.excite.weight.shape == (4, 7)
    assert block.state_dict().keys() == ChannelSE(4).state_dict().keys()


# Shapes and values


@every_block
@pytest.mark.parametrize(
    "shape",
    [
        (2, 4, 8),
        (2, 4, 6, 8),
        (2, 4, 3, 4, 5),
        (1, 4, 6, 6),
        (2, 1, 6, 6),
        (2, 3, 5, 7),
        (2, 4, 1, 1),
        (2, 4, 2, 2, 2, 2),
        (0, 4, 6, 6),
    ],
    ids=["1d", "2d", "3d", "batch-1", "channels-1", "odd", "one-position", "4d", "empty-batch"],
)
def test_shape_and_finite_values(make, shape):
    block = seeded(make, shape[1], bias=True)
    x = feature_map(*shape)
    y = block(x)
    assert y.shape == output_shape(block, x)
    assert y.isfinite().all()


@pytest.mark.parametrize("name", ["cse", "add", "max", "multiply", "concat", "pe"])
def test_fewer_channels_than_the_reduction(name):
    block = seeded(CASES[name], 3, reduction=16)
    x = feature_map(2, 3, 5, 5)
    np.testing.assert_allclose(block(x).detach(), expected(block, x), rtol=1e-5, atol=1e-6)


@every_block
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 4), r"at least one spatial axis, got \(2, 4\)"),
        ((2, 3, 6, 6), r"built for 4 channels, but its input of shape \(2, 3, 6, 6\) has 3; channels are axis 1"),
        ((2, 6, 6, 4), r"built for 4 channels, but its input of shape \(2, 6, 6, 4\) has 6"),
    ],
)
def test_input_that_does_not_fit_is_refused(make, shape, message):
    with pytest.raises(ValueError, match=message):
        make(4)(torch.zeros(shape))


@every_block
@every_space
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)], ids=["f64", "f32"])
def test_value_is_that_of_the_reference(make, space, bias, dtype, tolerance):
    block = seeded(make, 6, bias=bias).to(dtype)
    x = feature_map(2, 6, *space, dtype=dtype)
    np.testing.assert_allclose(block(x).detach(), expected(block, x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gate", GATES)
def test_value_is_that_of_the_reference_with_every_activation_and_gate(activation, gate):
    block = seeded(ChannelSE, 16, activation=activation, gate=gate).double()
    x = 3 * feature_map(4, 16, 5, 7, dtype=torch.float64)
    np.testing.assert_allclose(block(x).detach(), expected(block, x), rtol=1e-13, atol=1e-13)
    gates = (block(x) / x).mean((2, 3))
    assert gates.min() < 0.01  # the values cover the flat and the sloping parts of every gate
    assert gates.max() > 0.9
    assert gates.unique().numel() > 16


@every_block_with_identity
def test_value_with_identity_once_trained_is_that_of_the_reference(make):
    block = seeded(make, 6, identity=True).double()
    x = feature_map(2, 6, 5, 7, dtype=torch.float64)
    np.testing.assert_allclose(block(x).detach(), expected(block, x), rtol=1e-13, atol=1e-13)


# Gradients


@every_block
@every_space
def test_gradients_agree_with_finite_differences(make, space):
    block = seeded(make, 4).double()
    x = feature_map(2, 4, *(min(size, 3) for size in space), dtype=torch.float64).requires_grad_()
    names, values = zip(*block.named_parameters(), strict=True)

    def run(x, *parameters):
        return torch.func.functional_call(block, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *values))


@every_block
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_every_parameter_receives_a_gradient(make, bias):
    block = seeded(make, 8, bias=bias)
    block(feature_map(4, 8, 5, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())


# Types and memory


@every_block
@every_space
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_type_of_the_block_is_the_type_of_its_output(make, space, dtype):
    block = seeded(make, 4).to(dtype)
    x = feature_map(2, 4, *space, dtype=dtype)
    y = block(x)
    assert y.dtype == dtype
    tolerance = 16 * torch.finfo(dtype).eps
    np.testing.assert_allclose(y.double().detach(), expected(block, x), rtol=tolerance, atol=tolerance)


@every_block
@every_space
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_computes_close_values_and_finite_gradients(make, space, dtype):
    block = seeded(make, 4)
    x = feature_map(2, 4, *space)
    with torch.autocast("cpu", dtype=dtype):
        y = block(x)
        loss = y.float().square().mean()
    loss.backward()
    tolerance = 16 * torch.finfo(dtype).eps
    np.testing.assert_allclose(y.double().detach(), expected(block, x), rtol=tolerance, atol=tolerance)
    assert all(p.grad.isfinite().all() for p in block.parameters())


@every_block
@pytest.mark.parametrize("space", [(5, 7), (3, 4, 5)], ids=["2d", "3d"])
def test_channels_last_is_kept_and_changes_no_value(make, space):
    block = seeded(make, 4)
    x = feature_map(2, 4, *space)
    y = block(x.to(memory_format=FORMATS[len(space)]))
    assert y.is_contiguous(memory_format=FORMATS[len(space)])
    torch.testing.assert_close(y, block(x))


@every_block
def test_strided_input_gives_the_values_of_its_copy(make):
    block = seeded(make, 4)
    x = feature_map(2, 8, 10, 7)[:, ::2, ::2].transpose(2, 3)
    torch.testing.assert_close(block(x), block(x.contiguous()))


@every_block
def test_input_is_not_modified(make):
    x = feature_map(2, 4, 5, 5)
    before = x.clone()
    make(4)(x)
    assert torch.equal(x, before)


# Identity start


@every_block_with_identity
@every_space
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_identity_start_leaves_every_bit(make, space, bias, dtype):
    block = make(6, bias=bias, identity=True).to(dtype)
    x = feature_map(2, 6, *space, dtype=dtype)
    assert torch.equal(block(x), x)


@every_block_with_identity
def test_identity_start_under_autocast_leaves_every_bit(make):
    x = feature_map(2, 6, 5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(make(6, identity=True)(x), x)


@every_block_with_identity
def test_identity_start_learns(make):
    torch.manual_seed(0)
    block = make(6, identity=True)
    x = feature_map(2, 6, 5, 5)
    optimiser = torch.optim.SGD(block.parameters(), lr=0.01)  # small, because a hard gate has flat parts
    for _ in range(2):
        optimiser.zero_grad()
        block(x).square().sum().backward()
        optimiser.step()
        assert not torch.equal(block(x), x)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())


@every_block
def test_ordinary_start_is_not_the_identity(make):
    block = make(6)
    x = feature_map(2, 6, 5, 5)
    assert not torch.equal(block(x)[:, :6], x)


# Copies and state


@every_block
def test_copy_is_equal_and_separate(make):
    block = seeded(make, 4)
    x = feature_map(2, 4, 5, 5)
    before = block(x)
    twin = copy.deepcopy(block)
    assert torch.equal(twin(x), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert torch.equal(block(x), before)


@every_block
def test_state_round_trip(make):
    block, other = seeded(make, 4), make(4)
    x = feature_map(2, 4, 5, 5)
    assert other.load_state_dict(block.state_dict()) == ([], [])
    assert torch.equal(other(x), block(x))


@every_block_with_identity
def test_identity_changes_no_key_of_the_state(make):
    assert make(4, identity=True).state_dict().keys() == make(4).state_dict().keys()


# the projections of Project & Excite depend on the axes; the test of values covers that it takes any number of them
@pytest.mark.parametrize("name", [name for name in CASES if name != "pe"])
def test_block_serves_any_number_of_axes_with_the_same_weights(name):
    block = seeded(CASES[name], 4)
    x = feature_map(2, 4, 24)
    flat = block(x)
    torch.testing.assert_close(block(x.reshape(2, 4, 4, 6)).flatten(2), flat)
    torch.testing.assert_close(block(x.reshape(2, 4, 2, 3, 4)).flatten(2), flat)


@every_block
def test_number_of_threads_changes_nothing(make):
    block = seeded(make, 16)
    x = feature_map(2, 16, 64, 64)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = block(x)
        torch.set_num_threads(2)
        two = block(x)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, two)


# Compilers and exporters


@every_block
@every_space
def test_compiles_without_graph_break(make, space):
    torch.compiler.reset()
    block = seeded(make, 4)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    x = feature_map(2, 4, *space).requires_grad_()
    values = [x, *block.parameters()]
    output, expected = compiled(x), block(x)
    torch.testing.assert_close(output, expected)
    gradients = torch.autograd.grad(output.square().sum(), values)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), values))


@every_block
def test_compiles_once_for_all_sizes(make):
    torch.compiler.reset()
    counter = torch._dynamo.testing.CompileCounter()
    block = seeded(make, 4)
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend=counter)
    for shape in [(2, 4, 5, 7), (3, 4, 9, 6), (5, 4, 12, 12)]:
        x = feature_map(*shape)
        torch.testing.assert_close(compiled(x), block(x))
    assert counter.frame_count == 1


INDUCTOR = """
import torch
from scse import ConcurrentSE
block = ConcurrentSE(4).requires_grad_(False)
x = torch.randn(2, 4, 5, 7)
torch.testing.assert_close(torch.compile(block, fullgraph=True)(x), block(x))
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcc"), reason="the default compiler of torch needs gcc")
def test_compiles_with_the_default_compiler(tmp_path):
    # a separate process, because the compiler starts workers and caches that would outlive the test
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", INDUCTOR], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def dynamic_shapes(x):
    return ({0: torch.export.Dim("batch"), **{axis: torch.export.Dim(f"size{axis}") for axis in range(2, x.ndim)}},)


@every_block
@every_space
def test_exports_with_any_batch_and_size(make, space):
    block = seeded(make, 4).eval()
    x = feature_map(2, 4, *space)
    exported = torch.export.export(block, (x,), dynamic_shapes=dynamic_shapes(x)).module()
    for shape in [x.shape, (3, 4, *(size + 3 for size in space))]:
        y = feature_map(*shape)
        torch.testing.assert_close(exported(y), block(y))


class AllBlocks(nn.Module):
    """All blocks on the same input. One export per number of axes covers them, because an export takes seconds."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(seeded(make, 4) for make in CASES.values())

    def forward(self, x):
        return tuple(block(x) for block in self.blocks)


@every_space
def test_exports_to_onnx(space):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    blocks = AllBlocks().eval()
    x = feature_map(2, 4, *space)
    program = torch.onnx.export(blocks, (x,), dynamo=True, dynamic_shapes=dynamic_shapes(x), verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for shape in [x.shape, (3, 4, *(size + 3 for size in space))]:
        y = feature_map(*shape)
        outputs = session.run(None, {session.get_inputs()[0].name: y.numpy()})
        for name, output, block in zip(CASES, outputs, blocks.blocks, strict=True):
            np.testing.assert_allclose(output, block(y).detach(), rtol=1e-5, atol=1e-5, err_msg=name)


def test_an_export_never_reshapes_the_map():
    """Engines keep maps channels-last, so that a reshape makes them copy the whole map."""
    pytest.importorskip("onnxscript")
    block, x = seeded(ConcurrentSE, 4).eval(), feature_map(2, 4, 5, 7)
    graph = torch.onnx.export(
        block, (x,), dynamo=True, dynamic_shapes=dynamic_shapes(x), verbose=False
    ).model_proto.graph
    [source] = graph.input
    readers = sorted(node.op_type for node in graph.node if source.name in node.input)
    assert readers == ["Conv", "Mul", "ReduceMean"]


@pytest.mark.parametrize("reduction", [2, 16])
def test_scse_agrees_with_segmentation_models_pytorch(reduction):
    """With the same weights, an independent implementation gives the same values and gradients."""
    from segmentation_models_pytorch.base.modules import SCSEModule

    peer = SCSEModule(32, reduction=reduction).double()
    block = ConcurrentSE(32, reduction=reduction).double()
    layers = [block.channel.squeeze, block.channel.excite, block.spatial.project]
    for ours, theirs in zip(layers, [peer.cSE[1], peer.cSE[3], peer.sSE[0]], strict=True):
        ours.load_state_dict({"weight": theirs.weight.flatten(1), "bias": theirs.bias})
    x = feature_map(2, 32, 5, 7, dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(block(x), peer(x), rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(module(x).pow(2).sum(), x)[0] for module in (block, peer))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
