"""What the GPU kernels have to do: on an NVIDIA GPU if there is one, otherwise in Triton's interpreter.

test_gpu.py runs this file in a process of its own, because the interpreter is chosen when the kernels are imported.
"""

from functools import partial

import pytest
import torch

import kernel_cases
from kernel_cases import SHAPES, TOLERANCE, assert_close, numpy_reference
from scse import ConcurrentSE
from scse.blocks import formulas
from scse.blocks.kernels import fused, gpu, interface
from scse.blocks.kernels.interface import Options
from scse.vocabulary.options import ACTIVATIONS, GATES

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
random, feature_map, weights_of = (
    partial(make, dtype=torch.float32, device=DEVICE)
    for make in (kernel_cases.random, kernel_cases.feature_map, kernel_cases.weights_of)
)
every_kind = pytest.mark.parametrize("kind", interface.KINDS)
every_layout = pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
on_a_card = pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")


@pytest.fixture(autouse=True)
def gpu_kernels(monkeypatch):
    monkeypatch.setattr(fused, "_kernels", lambda x: gpu)


def differentiated(x, weights, grad, function, **options):
    inputs = [t if t is None else t.detach().requires_grad_() for t in (x, *weights)]
    output = function(inputs[0], *inputs[1:], **options)
    return output, torch.autograd.grad(output, [t for t in inputs if t is not None], grad)


def assert_right(x, weights, kind, *, seed=2, **options):
    """Compare the output with the NumPy reference, and the gradients with the formula in float64."""
    grad, tolerance = torch.empty_like(x).copy_(random(*x.shape, seed=seed)), TOLERANCE[x.dtype]
    assert fused.serves(x, weights)
    output, grads = differentiated(x, weights, grad, fused.recalibrate, kind=kind, **options)
    assert output.dtype == x.dtype
    assert output.stride() == torch.empty_like(x).stride()
    assert_close(output, numpy_reference(x, weights, kind, **options), tolerance)
    exact = [t if t is None else t.double() for t in (x, *weights)]
    _, expected = differentiated(exact[0], exact[1:], grad.double(), formulas.recalibrate, kind=kind, **options)
    for found, wanted in zip(grads, expected, strict=True):
        assert found.dtype == x.dtype
        assert_close(found, wanted, 10 * tolerance)


@every_kind
@every_layout
def test_values_and_gradients_are_right(kind, last):
    for shape in SHAPES:
        assert_right(feature_map(shape, last=last), weights_of(kind, shape[1]), kind, scale=2.0)


@every_kind
@every_layout
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_added_in_float32(kind, last, dtype):
    shape = (2, 20, 33, 5)
    assert_right(feature_map(shape, last=last, dtype=dtype), weights_of(kind, 20, dtype=dtype), kind, scale=2.0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gate", GATES)
def test_every_activation_and_gate_has_its_value_and_its_slope(activation, gate):
    x, weights = feature_map((3, 6, 5), last=False), weights_of("cse", 6)
    assert_right(x, weights, "cse", activation=activation, gate=gate)


@every_kind
def test_layers_without_bias(kind):
    x, weights = feature_map((2, 8, 9), last=False), weights_of(kind, 8, bias=False)
    grad = random(2, 8, 9, seed=3)
    output, grads = differentiated(x, weights, grad, fused.recalibrate, kind=kind)
    expected, wanted = differentiated(x, weights, grad, formulas.recalibrate, kind=kind)
    for found, exact in zip([output, *grads], [expected, *wanted], strict=True):
        assert_close(found, exact, 1e-5)


@every_kind
@every_layout
def test_channels_that_no_tile_holds_are_taken_tile_by_tile(kind, last, monkeypatch):
    monkeypatch.setattr(gpu, "MOST_CHANNELS", 16)
    assert_right(feature_map((2, 40, 9, 5), last=last), weights_of(kind, 40), kind, scale=2.0)


@every_kind
@every_layout
def test_items_of_several_tiles(kind, last, monkeypatch):
    monkeypatch.setattr(gpu, "MOST_PARTS", 2)
    monkeypatch.setattr(gpu, "AHEAD", 3)  # and samples that overlap
    shape = (5, 64, 31, 23)
    assert gpu.Sizes.of(gpu.Shape.of(feature_map(shape, last=last), weights_of(kind, 64))).steps > 1
    assert_right(feature_map(shape, last=last), weights_of(kind, 64), kind)


@every_layout
def test_weights_wider_than_a_tile(last):
    assert_right(feature_map((3, 70, 4), last=last), weights_of("add", 70, hidden=140), "add")


@every_kind
@every_layout
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the interpreter computes with NumPy
def test_what_is_not_finite_stays_where_the_formula_has_it(kind, last):
    x, weights = feature_map((3, 4, 20), last=last), weights_of(kind, 4)
    x[0, 1, 3], x[1, 2, 17], x[2, 0, 0] = float("nan"), float("inf"), -float("inf")
    found, expected = (f.recalibrate(x, *weights, kind=kind) for f in (fused, formulas))
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.isinf(), expected.isinf())


def test_ties_of_max_share_the_gradient():
    x, grad = torch.ones(1, 2, 4, device=DEVICE), random(1, 2, 4)
    weights = [torch.zeros(*shape, device=DEVICE) for shape in [(1, 2), (1,), (2, 1), (2,), (1, 2), (1,)]]
    _, found = differentiated(x, weights, grad, fused.recalibrate, kind="max")
    _, expected = differentiated(x, weights, grad, formulas.recalibrate, kind="max")
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@every_kind
def test_frozen_map_gets_no_gradient(kind):
    x, weights, options = feature_map((2, 6, 7), last=False), weights_of(kind, 6), Options(kind, "relu", "sigmoid", 1.0)
    _, *gates = gpu.forward(x, weights, options)
    grad = random(2, 6, 7, seed=2)
    alone = gpu.backward(grad, (x, *gates), weights, options, map_grad=None)
    _, grads = differentiated(x, weights, grad, formulas.recalibrate, kind=kind)
    for found, wanted in zip([g for g in alone if g is not None], grads[1:], strict=True):
        assert_close(found, wanted, 1e-5)


def test_gradient_in_another_layout_is_taken():
    x, weights = feature_map((2, 6, 5, 4), last=True), weights_of("add", 6)
    for grad in (random(2, 6, 5, 4), random(2, 6, 1, 1).expand(2, 6, 5, 4)):
        _, found = differentiated(x, weights, grad, fused.recalibrate, kind="add")
        _, expected = differentiated(x, weights, grad, formulas.recalibrate, kind="add")
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, 1e-5)


@on_a_card
@every_kind
@every_layout
def test_repetition_changes_no_bit(kind, last):
    x, weights = feature_map((8, 64, 96, 80), last=last, dtype=torch.bfloat16), weights_of(kind, 64)
    grad = feature_map((8, 64, 96, 80), last=last, dtype=torch.bfloat16, seed=2)
    runs = []
    for _ in range(20):
        with torch.autocast("cuda", torch.bfloat16):
            output, grads = differentiated(x, weights, grad, fused.recalibrate, kind=kind)
        runs.append([output, *grads])
    assert all(torch.equal(one, other) for run in runs[1:] for one, other in zip(runs[0], run, strict=True))


@on_a_card
def test_autocast_map_meets_float32_weights():
    block = ConcurrentSE(8).to("cuda")
    x = torch.randn(2, 8, 9, 9, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert fused.serves(x, tuple(block.parameters()))
        output = block(x)
    output.sum().backward()
    assert output.dtype == torch.bfloat16 == x.grad.dtype
    assert {p.grad.dtype for p in block.parameters()} == {torch.float32}


@on_a_card
def test_backward_keeps_the_map_and_the_gates_alone():
    block, x = ConcurrentSE(64).to("cuda"), torch.randn(4, 64, 128, 128, device="cuda", requires_grad=True)
    block(x).sum().backward()
    block.zero_grad()
    x.grad = None
    before = torch.cuda.memory_allocated()
    output = block(x)
    kept = torch.cuda.memory_allocated() - before - output.nbytes
    assert kept <= 4 * 4 * 128 * 128 * 1.1


@on_a_card
def test_compiled_and_captured_blocks_compute_the_same():
    block, x = ConcurrentSE(16).to("cuda"), random(2, 16, 24, 24)
    expected = block(x)
    torch.testing.assert_close(torch.compile(block, fullgraph=True)(x), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = block(x)
    x.copy_(random(2, 16, 24, 24, seed=5))
    graph.replay()
    torch.testing.assert_close(captured, block(x))


@on_a_card
def test_exported_programs_hold_the_formula():
    block, x = ConcurrentSE(8).to("cuda").eval(), random(2, 8, 9, 9)
    program = torch.export.export(block, (x,))
    assert "scse" not in str(program.graph)
    torch.testing.assert_close(program.module()(x), block(x))


@on_a_card
def test_double_backward_follows_the_formula():
    x, weights = feature_map((2, 5, 3, 3), last=False), weights_of("add", 5)
    inputs = [t.double().requires_grad_() for t in (x, *weights)]
    assert torch.autograd.gradgradcheck(lambda x, *w: formulas.recalibrate(x, *w, kind="add"), inputs)
    singles = [t.detach().float().requires_grad_() for t in inputs]
    found = torch.autograd.grad(_penalty(fused.recalibrate, singles), singles)
    expected = torch.autograd.grad(_penalty(formulas.recalibrate, inputs), inputs)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, 1e-4)


def _penalty(function, inputs):
    output = function(inputs[0], *inputs[1:], kind="add")
    (grad,) = torch.autograd.grad(output.square().sum(), inputs[:1], create_graph=True)
    return grad.square().sum()
