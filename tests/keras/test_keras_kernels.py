"""The layers on the fused kernels of torch: which calls use them, and the values and gradients of these calls."""

from functools import partial
from types import SimpleNamespace

import keras
import numpy as np
import pytest

if keras.config.backend() != "torch":
    pytest.skip("the kernels are those of torch", allow_module_level=True)

import torch
from keras import layers, ops
from test_keras_layers import CASES, SPACES, expected, feature_map, gradients, numpy, seeded, tensor

import scse
from scse.blocks.kernels import cpu, describe_backend
from scse.keras import ChannelSE, ConcurrentSE, SpatialSE

pytestmark = pytest.mark.skipif(cpu.LIBRARY is None, reason=describe_backend())

CHANNELS = 6
SHAPE = (2, 5, 7, CHANNELS)
KINDS = {
    "cSE": "cse",
    "cSE, SiLU and hard sigmoid": "cse",
    "cSE, leaky ReLU and ReLU": "cse",
    "sSE": "sse",
    "scSE, add": "add",
    "scSE, max": "max",
    "scSE, multiply": "multiply",
}
"""Name of a block -> kind of its kernel."""
FORMATS = ("channels_last", "channels_first")
TOLERANCES = {"float64": 1e-10, "float32": 1e-5, "mixed_float16": 2e-3, "mixed_bfloat16": 2e-2}

every_kernel = pytest.mark.parametrize("name", KINDS)


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """The calls of the kernels: the kind of block of a forward pass, "backward" for a backward pass."""
    seen, library = [], cpu.LIBRARY
    kinds = {code: kind for kind, code in cpu.KIND_CODES.items()}

    def forward(call):
        seen.append(kinds[call.kind])
        library.forward(call)

    def backward(call):
        seen.append("backward")
        library.backward(call)

    monkeypatch.setattr(cpu, "LIBRARY", SimpleNamespace(forward=forward, backward=backward))
    return seen


def shape_of(space, data_format):
    return (2, *space, CHANNELS) if data_format == "channels_last" else (2, CHANNELS, *space)


def assert_close(found, wanted, policy="float32"):
    assert tuple(found.shape) == wanted.shape
    np.testing.assert_allclose(numpy(found), wanted, rtol=0, atol=TOLERANCES[policy] * np.abs(wanted).max())


# Calls of the kernels


@pytest.mark.parametrize("policy", TOLERANCES)
@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@every_kernel
def test_values_of_the_kernels_are_those_of_the_paper(name, space, data_format, policy, calls):
    x = feature_map(*shape_of(space, data_format))
    block = seeded(CASES[name], x.shape, data_format=data_format, dtype=policy)
    y = block(tensor(x, block.compute_dtype))
    assert calls == [KINDS[name]]
    assert keras.backend.standardize_dtype(y.dtype) == block.compute_dtype
    assert y.is_contiguous()
    assert_close(y, expected(block, x), policy)


@pytest.mark.parametrize("policy", ["float64", "mixed_bfloat16"])
@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@every_kernel
def test_gradients_of_the_kernels_are_those_of_the_paper(name, space, data_format, policy, calls):
    x = feature_map(*shape_of(space, data_format))
    block = seeded(CASES[name], x.shape, data_format=data_format, dtype=policy)
    # what half precision represents, so that only the gradients are rounded
    for weight in block.weights:
        weight.assign(ops.cast(weight, block.compute_dtype))
    x, cotangent = (
        tensor(array, block.compute_dtype) for array in (x, np.random.default_rng(1).standard_normal(x.shape))
    )
    found = gradients(block, x, cotangent)
    assert calls == [KINDS[name], "backward"]
    cotangent, *values = map(numpy, (cotangent, x, *block.weights))
    relative = 1e-5 if policy == "float64" else 0.02
    for place, (value, gradient) in enumerate(zip(values, map(numpy, found), strict=True)):
        assert gradient.shape == value.shape
        # along the gradient itself the derivative is its squared length, so that a small component cannot hide an error
        step = 1e-6 * gradient / np.abs(gradient).max()

        def loss(sign, place=place, step=step):
            at = [value + sign * step if index == place else value for index, value in enumerate(values)]
            return (cotangent * expected(block, at[0], at[1:])).sum()

        assert (gradient * step).sum() == pytest.approx((loss(1) - loss(-1)) / 2, rel=relative, abs=1e-11)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [ChannelSE, SpatialSE, ConcurrentSE])
def test_blocks_without_biases_use_the_kernels(kind, bias, calls):
    x = feature_map(*SHAPE)
    block = seeded(kind, x.shape, bias=bias)
    assert_close(block(tensor(x)), expected(block, x))
    assert len(calls) == 1


def test_gradients_reach_the_variables_of_a_training_step(calls):
    x = feature_map(*SHAPE).astype("float32")
    entry = keras.Input(SHAPE[1:])
    model = keras.Model(entry, ConcurrentSE()(entry))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = model.get_weights()
    calls.clear()
    losses = model.fit(x, np.zeros_like(x), epochs=3, verbose=0).history["loss"]
    assert calls == ["add", "backward"] * 3
    assert losses[-1] < losses[0]
    assert not any(np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))


def test_frozen_weights_have_no_gradient(calls):
    block = seeded(ConcurrentSE, SHAPE)
    block.channel.squeeze.trainable = False
    block(tensor(feature_map(*SHAPE))).sum().backward()
    assert calls == ["add", "backward"]
    without = [weight.path.split("/")[-2] for weight in block.weights if weight.value.grad is None]
    assert without == ["squeeze", "squeeze"]


def test_given_weights_of_a_stateless_call_are_used(calls):
    x = feature_map(*SHAPE)
    block = seeded(ConcurrentSE, SHAPE)
    given = [2 * numpy(weight) for weight in block.weights]
    found, _ = block.stateless_call([tensor(weight) for weight in given], [], tensor(x))
    assert calls == ["add"]
    assert_close(found, expected(block, x, given))


def test_output_of_a_convolution_needs_no_copy(calls):
    # Keras returns the channels-last output of torch's convolution as a view
    x = tensor(feature_map(2, CHANNELS, 5, 7)).movedim(1, -1)
    block = seeded(ConcurrentSE, SHAPE)
    y = block(x)
    assert calls == ["add"]
    assert y.stride() == x.stride()
    assert_close(y, expected(block, numpy(x)))


# Keras reads the gradients of weights, which the compiler takes for results
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")
@pytest.mark.parametrize(("name", "compiled"), [("cSE", []), ("sSE", []), ("scSE, add", ["add"])])
def test_of_compiled_models_only_scse_uses_the_operator_of_the_kernels(name, compiled, calls):
    x = feature_map(*SHAPE).astype("float32")
    block = seeded(CASES[name], SHAPE)
    entry = keras.Input(SHAPE[1:])
    model = keras.Model(entry, block(entry))
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=True)
    assert_close(model.predict_on_batch(x), expected(block, x))
    assert calls == compiled
    calls.clear()
    eager = keras.models.clone_model(model)
    eager.set_weights(model.get_weights())
    eager.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    model.train_on_batch(x, np.zeros_like(x))
    assert calls == [*compiled, *["backward"] * len(compiled)]
    eager.train_on_batch(x, np.zeros_like(x))
    assert calls[-2:] == [KINDS[name], "backward"]
    for reached, wanted in zip(model.weights, eager.weights, strict=True):
        assert_close(reached, numpy(wanted))


# Calls of the layers' own formula


@pytest.mark.parametrize("policy", TOLERANCES)
@every_kernel
def test_values_of_the_formula_are_those_of_the_paper(name, policy, calls, monkeypatch):
    monkeypatch.setattr(scse.keras.layers, "FUNCTIONS", {})
    x = feature_map(*SHAPE)
    block = seeded(CASES[name], SHAPE, dtype=policy)
    assert_close(block(tensor(x, block.compute_dtype)), expected(block, x), policy)
    assert calls == []


@every_kernel
def test_gradients_of_the_formula_are_those_of_the_kernels(name, calls, monkeypatch):
    x, cotangent = tensor(feature_map(*SHAPE)), tensor(np.random.default_rng(1).standard_normal(SHAPE))
    block = seeded(CASES[name], SHAPE)
    of_the_kernels = gradients(block, x, cotangent)
    monkeypatch.setattr(scse.keras.layers, "FUNCTIONS", {})
    of_the_formula = gradients(block, x, cotangent)
    assert calls == [KINDS[name], "backward"]
    for found, wanted in zip(of_the_formula, of_the_kernels, strict=True):
        assert_close(found, numpy(wanted))


def hooked(block):
    block.channel.squeeze.register_forward_hook(lambda *_: None)


def hooked_gate(block):
    block.spatial.register_forward_pre_hook(lambda *_: None)


def adapted(block):
    block.spatial.project.enable_lora(1)


def quantized(block):
    block.channel.excite.quantize("int8")


def activated(block):
    block.channel.squeeze.activation = keras.activations.softsign


def regularized(block):
    block.channel.excite.activity_regularizer = keras.regularizers.L2(0.5)


def of_another_policy(block):
    block.channel.dtype_policy = "mixed_bfloat16"


def replaced(block):
    block._tracker.unlock()
    block.channel.squeeze._tracker.unlock()
    block.channel._tracker.unlock()
    block.channel.squeeze = layers.EinsumDense("nc,ch->nh", 3, bias_axes="h")


CHANGES = (hooked, hooked_gate, adapted, quantized, activated, regularized, of_another_policy, replaced)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_parts_are_not_bypassed(change, calls):
    block = seeded(ConcurrentSE, SHAPE)
    x = tensor(feature_map(*SHAPE))
    block(x)
    assert calls == ["add"]
    change(block)
    block(x)
    # a gate that is called is a block of its own
    assert calls.count("add") == 1


def test_another_channel_gate_inside_a_block_is_computed(calls):
    block = ConcurrentSE()
    block.channel = ChannelSE(activation="silu", gate="hard-sigmoid")
    x = feature_map(*SHAPE)
    block.build(SHAPE)
    found = block(tensor(x))
    assert calls == []
    assert_close(found, numpy(block.channel(tensor(x))) + numpy(block.spatial(tensor(x))))


@pytest.mark.parametrize("name", ["PE", "scSE, concat"])
def test_blocks_without_a_kernel_use_the_formula(name, calls):
    x = feature_map(*SHAPE)
    block = seeded(CASES[name], SHAPE)
    found = block(tensor(x))
    assert calls == []
    assert found.is_contiguous()
    assert_close(found, expected(block, x))


@pytest.mark.parametrize("dtype", ["bfloat16", "int32"])
def test_maps_of_another_dtype_than_the_weights_use_the_formula(dtype, calls):
    x = 3 * feature_map(*SHAPE)
    block = seeded(partial(ConcurrentSE, autocast=False), SHAPE)
    x = numpy(tensor(x, dtype))
    found = block(tensor(x, dtype))
    assert calls == []
    assert_close(found, expected(block, x), "mixed_bfloat16" if dtype == "bfloat16" else "float32")


@every_kernel
def test_shapes_are_inferred_without_the_kernels(name, calls):
    block = seeded(CASES[name], SHAPE)
    # Keras calls the function with tensors of the meta device
    found = layers.Lambda(lambda x: 2 * block(x))(keras.Input((None, 7, CHANNELS)))
    assert (found.shape, found.dtype) == ((None, None, 7, CHANNELS), "float32")
    assert calls == []


def test_transforms_of_torch_use_the_formula(calls):
    x = feature_map(3, *SHAPE)
    block = seeded(ConcurrentSE, SHAPE)
    found = torch.vmap(block.call)(tensor(x))
    assert calls == []
    for sample, of_sample in zip(x, found, strict=True):
        assert_close(of_sample, expected(block, sample))


def test_a_derived_class_may_compute_its_gates_differently(calls):
    class Half(ChannelSE):
        def gates(self, x):
            return 0.5 * super().gates(x)

    x = feature_map(*SHAPE)
    block = seeded(Half, SHAPE)
    found = block(tensor(x))
    assert calls == []
    assert_close(found, 0.5 * expected(block, x))


# Export


@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")  # of Keras' layers
@pytest.mark.parametrize("strict", [False, True])
@every_kernel
def test_exported_programs_run_without_scse(name, strict, calls, tmp_path):
    model = model_of(name)
    calls.clear()
    model.export(tmp_path / "model.pt2", format="torch", strict=strict, verbose=False)
    operators = {str(node.target) for node in torch.export.load(tmp_path / "model.pt2").graph.nodes}
    assert calls == []
    assert not [operator for operator in operators if "scse" in operator]
    # as Keras computes it, and not as the torch modules do, whose order of axes is another
    assert "aten.matmul.default" in operators
    assert not [operator for operator in operators if "permute" in operator or "conv" in operator]


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@every_kernel
def test_onnx_models_have_standard_operators(name, calls, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = model_of(name)
    calls.clear()
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    assert calls == []
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    x = feature_map(*SHAPE).astype("float32")[:1]
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    assert_close(found, expected(model.layers[1], x))


def model_of(name):
    """Build a model of one block, and call it as the exporters require."""
    entry = keras.Input((None, None, CHANNELS))
    model = keras.Model(entry, seeded(CASES[name], SHAPE)(entry))
    model(tensor(feature_map(*SHAPE)))
    return model


# The torch modules


def test_torch_modules_and_keras_layers_share_the_kernels(calls):
    module = scse.ConcurrentSE(CHANNELS)
    block = scse.keras.from_torch(module)
    x = tensor(feature_map(*SHAPE))
    theirs = module(x.movedim(-1, 1)).movedim(1, -1)
    ours = block(x)
    assert calls == ["add", "add"]
    assert torch.equal(ours, theirs)
