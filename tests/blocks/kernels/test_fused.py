"""The fused kernels: values and gradients for every layout, dtype and instruction set, and integration with torch."""

import gc
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from kernel_cases import SHAPES, TOLERANCE, assert_close, feature_map, numpy_reference, random, weights_of
from scse import ConcurrentSE
from scse.blocks import formulas
from scse.blocks.kernels import cpu, fused, interface, library
from scse.vocabulary.options import ACTIVATIONS, GATES

every_kind = pytest.mark.parametrize("kind", interface.KINDS)
every_layout = pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def built():
    """Return the libraries that this processor can run: its own and those for older processors."""
    assert cpu.LIBRARY is not None, fused.describe_backend()
    known = ["baseline", "avx2", "avx512"]
    paths = [cpu.LIBRARY.path.with_name(f"scse_{name}.so") for name in known]
    return [path for path in paths[: known.index(library.instruction_set()) + 1] if path.is_file()]


@pytest.fixture(params=built(), ids=lambda path: path.stem)
def every_instruction_set(request, monkeypatch):
    monkeypatch.setattr(cpu, "LIBRARY", library.Library(request.param))


def differentiated(x, weights, grad, function, **options):
    inputs = [t for t in (x, *weights) if t is not None]
    output = function(x, *weights, **options)
    return output, torch.autograd.grad(output, inputs, grad)


# ----------------------------------------------------------------------------------------------------------------
# Numbers
# ----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("every_instruction_set")
@every_kind
@every_layout
@every_dtype
def test_output_is_that_of_the_reference(kind, last, dtype):
    for shape in SHAPES:
        x, weights = feature_map(shape, last=last, dtype=dtype), weights_of(kind, shape[1], dtype=dtype)
        assert fused.serves(x, weights)
        output = fused.recalibrate(x, *weights, kind=kind, scale=2.0)
        assert output.dtype == dtype
        assert output.stride() == torch.empty_like(x).stride()
        assert_close(output, numpy_reference(x, weights, kind, scale=2.0), TOLERANCE[dtype])


@pytest.mark.usefixtures("every_instruction_set")
@every_kind
@every_layout
@every_dtype
def test_gradients_are_those_of_the_formula_in_float64(kind, last, dtype):
    for shape in SHAPES:
        x = feature_map(shape, last=last, dtype=dtype).requires_grad_()
        weights = weights_of(kind, shape[1], dtype=dtype, grad=True)
        grad = feature_map(shape, last=last, dtype=dtype, seed=2)
        _, grads = differentiated(x, weights, grad, fused.recalibrate, kind=kind, scale=2.0)
        exact = [t if t is None else t.detach().double().requires_grad_() for t in (x, *weights)]
        _, expected = differentiated(exact[0], exact[1:], grad.double(), formulas.recalibrate, kind=kind, scale=2.0)
        for found, wanted in zip(grads, expected, strict=True):
            assert found.dtype == dtype
            assert_close(found, wanted, 10 * TOLERANCE[dtype])


@every_kind
@every_layout
def test_gradients_are_the_slopes_of_the_output(kind, last):
    x, weights = feature_map((2, 5, 3, 3), last=last).requires_grad_(), weights_of(kind, 5, grad=True)
    inputs = [t for t in (x, *weights) if t is not None]
    present = [w is not None for w in weights]

    def run(x, *values):
        values = iter(values)
        return fused.recalibrate(x, *(next(values) if use else None for use in present), kind=kind, scale=2.0)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gate", GATES)
def test_every_activation_and_gate_has_its_value_and_its_slope(activation, gate):
    x, weights = feature_map((3, 6, 5), last=False).requires_grad_(), weights_of("cse", 6, grad=True)
    options = {"activation": activation, "gate": gate}
    output = fused.recalibrate(x, *weights, kind="cse", **options)
    assert_close(output, numpy_reference(x, weights, "cse", **options), 1e-12)

    def run(x, *channel):
        return fused.recalibrate(x, *channel, None, None, kind="cse", **options)

    assert torch.autograd.gradcheck(run, (x, *weights[:4]))


@every_kind
def test_layers_without_bias(kind):
    x, weights = feature_map((2, 8, 9), last=False).requires_grad_(), weights_of(kind, 8, grad=True, bias=False)
    grad = random(2, 8, 9, seed=3)
    output, grads = differentiated(x, weights, grad, fused.recalibrate, kind=kind)
    expected, wanted = differentiated(x, weights, grad, formulas.recalibrate, kind=kind)
    for found, exact in zip([output, *grads], [expected, *wanted], strict=True):
        assert_close(found, exact, 1e-12)


@every_layout
@pytest.mark.parametrize("shape", [(2, 1100, 3, 3), (1, 16, 460, 512), (300, 2, 8)], ids=["wide", "streamed", "many"])
def test_sizes_that_take_other_ways_through_memory(shape, last):
    x = feature_map(shape, last=last, dtype=torch.float32).requires_grad_()
    weights = weights_of("add", shape[1], dtype=torch.float32, grad=True)
    grad = feature_map(shape, last=last, dtype=torch.float32, seed=2)
    output, grads = differentiated(x, weights, grad, fused.recalibrate, kind="add")
    assert_close(output, numpy_reference(x, weights, "add"), 3e-6)
    exact = [t.detach().double().requires_grad_() for t in (x, *weights)]
    _, expected = differentiated(exact[0], exact[1:], grad.double(), formulas.recalibrate, kind="add")
    for found, wanted in zip(grads, expected, strict=True):
        assert_close(found, wanted, 1e-4)


@every_kind
@every_layout
def test_number_of_threads_and_repetition_change_no_bit(kind, last):
    # 7 samples of several tiles: every number of threads divides the samples and tiles differently
    x = feature_map((7, 24, 61, 67), last=last, dtype=torch.float32).requires_grad_()
    weights = weights_of(kind, 24, dtype=torch.float32, grad=True)
    grad, threads = feature_map((7, 24, 61, 67), last=last, dtype=torch.float32, seed=2), torch.get_num_threads()
    runs = []
    try:
        for count in (1, 2, 3, 5, 2):
            torch.set_num_threads(count)
            output, grads = differentiated(x, weights, grad, fused.recalibrate, kind=kind)
            runs.append([output.detach().clone(), *grads])
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(runs[0], run, strict=True))


@every_kind
@every_layout
def test_what_is_not_finite_stays_where_the_formula_has_it(kind, last):
    x, weights = feature_map((3, 4, 20), last=last, dtype=torch.float32), weights_of(kind, 4, dtype=torch.float32)
    x[0, 1, 3], x[1, 2, 17], x[2, 0, 0] = float("nan"), float("inf"), -float("inf")
    found = fused.recalibrate(x, *weights, kind=kind)
    expected = formulas.recalibrate(x, *weights, kind=kind)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.isinf(), expected.isinf())


def test_gates_far_out_are_zero_and_one():
    x, weight = torch.tensor([[[-1e4, -100.0, 100.0, 1e4]]]), torch.ones(1, 1)
    output = fused.recalibrate(x, None, None, None, None, weight, None, kind="sse")
    torch.testing.assert_close(output, torch.tensor([[[0.0, 0.0, 100.0, 1e4]]]))


def test_every_half_precision_number_survives():
    for dtype in (torch.bfloat16, torch.float16):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        # a gate of 2 * sigmoid(0) leaves its input unchanged
        output = fused.recalibrate(
            every.reshape(1, 1, -1), None, None, None, None, torch.zeros(1, 1, dtype=dtype), None, kind="sse", scale=2.0
        )
        same = every[every.isfinite()]
        assert torch.equal(output.flatten()[every.isfinite()], same)


def test_ties_of_max_share_the_gradient():
    x = torch.ones(1, 2, 4, dtype=torch.float64, requires_grad=True)
    weights = [torch.zeros(1, 2), torch.zeros(1), torch.zeros(2, 1), torch.zeros(2), torch.zeros(1, 2), torch.zeros(1)]
    weights = [w.double().requires_grad_() for w in weights]
    grad = random(1, 2, 4)
    _, found = differentiated(x, weights, grad, fused.recalibrate, kind="max")
    _, expected = differentiated(x, weights, grad, formulas.recalibrate, kind="max")
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


# ----------------------------------------------------------------------------------------------------------------
# Autograd
# ----------------------------------------------------------------------------------------------------------------


def test_backward_keeps_the_map_and_the_gates_alone():
    block, x = ConcurrentSE(16), torch.randn(2, 16, 32, 32, requires_grad=True)
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        block(x)
    weights = {p.data_ptr() for p in block.parameters()}
    others = sum(size for pointer, size in kept.items() if pointer not in weights)
    assert others == x.numel() + 2 * 32 * 32 + 2 * (16 + 8 + 16)


@pytest.mark.parametrize("frozen", ["map", "weights"])
def test_frozen_inputs_get_no_gradient(frozen):
    x = feature_map((2, 6, 7), last=False).requires_grad_(frozen != "map")
    weights = weights_of("add", 6, grad=frozen != "weights")
    fused.recalibrate(x, *weights, kind="add").sum().backward()
    assert (x.grad is None) == (frozen == "map")
    assert all((w.grad is None) == (frozen == "weights") for w in weights)


def test_gradient_in_another_layout_is_taken():
    x, weights = feature_map((2, 6, 5, 4), last=True).requires_grad_(), weights_of("add", 6, grad=True)
    for grad in (random(2, 6, 5, 4), random(2, 6, 1, 1).expand(2, 6, 5, 4)):
        _, found = differentiated(x, weights, grad, fused.recalibrate, kind="add")
        _, expected = differentiated(x, weights, grad, formulas.recalibrate, kind="add")
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


def test_weight_that_depends_on_the_map_is_differentiated_once():
    x = random(2, 4, 5).requires_grad_()

    def run(x):
        weight = x.mean((0, 2)).reshape(1, 4)
        return fused.recalibrate(x, None, None, None, None, weight, None, kind="sse")

    assert torch.autograd.gradcheck(run, (x,))
    assert torch.autograd.gradgradcheck(run, (x,))


def test_map_that_is_changed_before_the_backward_pass_is_noticed():
    x, weights = random(2, 4, 5).requires_grad_(), weights_of("add", 4)
    between = x * 1
    output = fused.recalibrate(between, *weights, kind="add")
    between.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_memory_is_given_back_after_the_backward_pass():
    block, x = ConcurrentSE(8), torch.randn(1, 8, 16, 16, requires_grad=True)
    block(x).sum().backward()
    gc.collect()
    before = sum(type(o) is torch.Tensor for o in gc.get_objects())
    for _ in range(5):
        block(x).sum().backward()
    gc.collect()
    assert sum(type(o) is torch.Tensor for o in gc.get_objects()) <= before


def test_inference_mode_and_no_grad_agree_with_training():
    block, x = ConcurrentSE(8).eval(), torch.randn(2, 8, 9, 9)
    expected = block(x)
    with torch.no_grad():
        assert torch.equal(block(x), expected)
    with torch.inference_mode():
        output = block(x)
    assert output.is_inference()
    assert torch.equal(output, expected)


def test_autocast_map_meets_float32_weights():
    block = ConcurrentSE(8)
    x = torch.randn(2, 8, 9, 9, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fused.serves(x, tuple(block.parameters()))
        output = block(x)
    output.sum().backward()
    assert output.dtype == torch.bfloat16 == x.grad.dtype
    assert {p.grad.dtype for p in block.parameters()} == {torch.float32}


def test_dtypes_that_do_not_fit_are_refused_as_by_torch():
    with pytest.raises(RuntimeError, match="dtype"):
        ConcurrentSE(8)(torch.randn(2, 8, 9, dtype=torch.bfloat16))


# ----------------------------------------------------------------------------------------------------------------
# Calls without a kernel
# ----------------------------------------------------------------------------------------------------------------

UNSERVED = {
    "strided": lambda: torch.randn(2, 4, 12, 5)[:, :, ::2],
    "empty": lambda: torch.randn(0, 4, 5),
    "meta": lambda: torch.randn(2, 4, 5, device="meta"),
    "integer": lambda: torch.ones(2, 4, 5, dtype=torch.int32),
}


@pytest.mark.parametrize("make", UNSERVED.values(), ids=UNSERVED)
def test_maps_without_a_kernel_are_left_to_the_formula(make):
    assert not fused.serves(make(), weights_of("add", 4, dtype=torch.float32))


def test_strided_map_is_right_all_the_same():
    x, weights = random(2, 4, 12, 5)[:, :, ::2], weights_of("add", 4)
    assert_close(fused.recalibrate(x, *weights, kind="add"), numpy_reference(x, weights, "add"), 1e-12)


def test_transforms_of_torch_func_see_the_formula():
    x, weights = random(3, 2, 4, 5), weights_of("add", 4)

    def run(x):
        return fused.recalibrate(x, *weights, kind="add")

    expected = torch.stack([run(one) for one in x])
    torch.testing.assert_close(torch.func.vmap(run)(x), expected)
    first = x[0].clone().requires_grad_()
    slope = torch.func.grad(lambda x: run(x).sum())(x[0])
    torch.testing.assert_close(slope, torch.autograd.grad(run(first).sum(), first)[0])
    _, tangent = torch.func.jvp(run, (x[1],), (torch.ones_like(x[1]),))
    step = 1e-6
    torch.testing.assert_close(tangent, (run(x[1] + step) - run(x[1] - step)) / (2 * step), rtol=1e-6, atol=1e-6)


def test_forward_mode_sees_the_formula():
    x, weights = random(2, 4, 5), weights_of("add", 4)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        output = torch.autograd.forward_ad.unpack_dual(fused.recalibrate(dual, *weights, kind="add"))
    assert output.tangent is not None


def test_tracers_see_every_operation():
    x, weights = random(2, 4, 5), weights_of("add", 4)

    def run(x):
        return fused.recalibrate(x, *weights, kind="add")

    traced = make_fx(run)(x)
    scripted = torch.jit.trace(run, x)
    for other in (random(2, 4, 5, seed=5), random(2, 4, 5, seed=6)):
        torch.testing.assert_close(traced(other), run(other))
        torch.testing.assert_close(scripted(other), run(other))


def test_fake_tensors_have_the_right_shape():
    with FakeTensorMode():
        output = ConcurrentSE(4)(torch.randn(2, 4, 5, 6))
    assert output.shape == (2, 4, 5, 6)


# ----------------------------------------------------------------------------------------------------------------
# Compilers and exporters
# ----------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck itself reads it
@every_kind
@every_layout
def test_operator_keeps_the_rules_of_torch(kind, last):
    x = feature_map((2, 6, 5, 4), last=last, dtype=torch.float32).requires_grad_()
    weights = weights_of(kind, 6, dtype=torch.float32, grad=True)
    rules = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    call = (x, *weights, kind, "relu", "sigmoid", 1.0)
    found = torch.library.opcheck(fused.recalibrate_op, call, test_utils=rules)
    assert found == dict.fromkeys(rules, "SUCCESS")


def test_compiled_block_calls_the_kernel_in_both_directions():
    torch.compiler.reset()
    called = []

    def backend(module, _):
        called.append({str(node.target) for node in module.graph.nodes})
        return make_boxed_func(module.forward)

    compiler = aot_autograd(fw_compiler=backend, bw_compiler=backend)
    block, x = ConcurrentSE(8), torch.randn(2, 8, 9, 9, requires_grad=True)
    expected = torch.autograd.grad(block(x).square().sum(), [x, *block.parameters()])
    output = torch.compile(block, fullgraph=True, backend=compiler)(x)
    found = torch.autograd.grad(output.square().sum(), [x, *block.parameters()])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert [targets & {"scse.recalibrate.default", "scse.recalibrate_backward.default"} for targets in called] == [
        {"scse.recalibrate.default"},
        {"scse.recalibrate_backward.default"},
    ]


def test_exported_programs_need_no_scse():
    x = torch.randn(2, 8, 9, 9)
    program = torch.export.export(ConcurrentSE(8), (x,))
    assert not any("scse" in str(node.target) for node in program.graph.nodes if node.op == "call_function")


class Direct(nn.Module):
    """A user's module that calls the operator directly."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(random(1, 8, dtype=torch.float32))

    def forward(self, x):
        return torch.ops.scse.recalibrate(x, None, None, None, None, self.weight, None, "sse", "relu", "sigmoid", 1.0)[
            0
        ]


def test_operator_itself_can_be_exported():
    x = torch.randn(2, 8, 9, 9)
    module = Direct()
    torch.testing.assert_close(torch.export.export(module, (x,)).module()(x), module(x))


# ----------------------------------------------------------------------------------------------------------------
# Processes
# ----------------------------------------------------------------------------------------------------------------

WORKERS = """
import multiprocessing, sys, torch
from scse import ConcurrentSE
from scse.blocks.kernels import cpu, fused

# created before the fork: in a forked child, torch operations that use threads deadlock
torch.manual_seed(0)
block, x = ConcurrentSE(16), torch.randn(4, 16, 64, 64, requires_grad=True)
grad = torch.randn_like(x)


def work(queue):
    x.grad = None
    block(x).backward(grad)
    queue.put(float(x.grad.numpy().sum()))


if __name__ == "__main__":
    assert cpu.LIBRARY is not None
    context = multiprocessing.get_context(sys.argv[1])
    torch.set_num_threads(2)
    queue = context.SimpleQueue()
    work(queue)  # the parent's threads are running when the children start
    children = [context.Process(target=work, args=(queue,), daemon=True) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0, child.exitcode
    first, *others = [queue.get() for _ in range(3)]
    assert others == [first, first]
"""


@pytest.mark.parametrize("method", [m for m in multiprocessing.get_all_start_methods() if m != "forkserver"])
def test_workers_compute_what_their_parent_computes(method, tmp_path):
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    done = subprocess.run([sys.executable, script, method], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_kernels_share_the_threads_of_torch():
    script = (
        "import torch, pathlib; from scse import ConcurrentSE; torch.set_num_threads(2);"
        "ConcurrentSE(64)(torch.randn(4, 64, 64, 64));"
        "maps = pathlib.Path('/proc/self/maps').read_text().splitlines();"
        "print(len({line.split()[-1] for line in maps if 'libgomp' in line}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "1"


def test_numbers_of_numpy_are_those_of_the_article():
    """The kernels equal the formulas of the article, written here once more in NumPy."""
    x, weights = random(1, 2, 3), weights_of("add", 2)
    w1, b1, w2, b2, w, b = (t.numpy() for t in weights)
    u = x.numpy()
    c = 1 / (1 + np.exp(-(w2 @ np.maximum(w1 @ u[0].mean(1) + b1, 0) + b2)))
    s = 1 / (1 + np.exp(-(w @ u[0] + b)))
    assert_close(fused.recalibrate(x, *weights, kind="add"), (u[0] * (c[:, None] + s))[None], 1e-12)
