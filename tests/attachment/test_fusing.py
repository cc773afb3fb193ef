"""Modules of other libraries replaced by blocks: the same values, and nothing else changed."""

import copy
import subprocess
import sys
from functools import partial
from importlib import import_module

import onnxruntime
import pytest
import torch
from torch import nn
from torch.ao.quantization import get_default_qconfig_mapping, quantize_dynamic, quantize_fx
from torch.nn.utils import parametrizations

from scse import ChannelSE, ConcurrentSE
from scse.attachment.fusing import Fused, Kept, ResidualChannelSE, Swapped, fuse

SCSE = "segmentation_models_pytorch.base.modules.SCSEModule"
SENET = "segmentation_models_pytorch.encoders._senet.SEModule"
MOBILEONE = "segmentation_models_pytorch.encoders.mobileone.SEBlock"
MONAI = "monai.networks.blocks.squeeze_and_excitation.ChannelSELayer"
RESIDUAL = "monai.networks.blocks.squeeze_and_excitation.ResidualSELayer"
TIMM = "timm.layers.squeeze_excite.SEModule"
EFFECTIVE = "timm.layers.squeeze_excite.EffectiveSEModule"
CHANNELS_LAST = "timm.layers.squeeze_excite.SqueezeExciteCl"
EFFICIENT = "timm.models._efficientnet_blocks.SqueezeExcite"
LEGACY = "timm.models.senet.SEModule"
VISION = "torchvision.ops.misc.SqueezeExcitation"
QUANTIZABLE = "torchvision.models.quantization.mobilenetv3.QuantizableSqueezeExcitation"
NNUNET = "dynamic_network_architectures.building_blocks.regularization.SqueezeExcite"

C = 16


def load(name):
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def make(name, *arguments, **options):
    """Build a module of a library, which is imported only when its test runs."""
    return load(name)(*arguments, **options)


def alive(model):
    """Set biases and batch norm statistics to random values, because zeros would hide values that were not copied."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(torch.randn(buffer.shape, generator=generator), alpha=0.1)
            if name.endswith("running_var"):
                buffer.mul_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model


def values(module, x):
    """Return the output, and the gradients of the input and of all parameters, with weights as matrices."""
    torch.manual_seed(0)  # dropout
    x = x.detach().clone().requires_grad_()
    y = module(x)
    y = y[0] if isinstance(y, list | tuple) else y
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad((y * weight).sum(), [x, *parameters], allow_unused=True)
    return [y.detach(), *(value if value is None else value.squeeze() for value in gradients)]


def assert_same(one, other, tolerance):
    """Check that tensors are equal, relative to the largest magnitude of each tensor.

    The gradients of biases before a batch norm are 0 except for rounding errors. For these, the tolerance is relative
    to a thousandth of the largest magnitude of all tensors.
    """
    least = 1e-3 * max(value.abs().max().item() for value in other if value is not None)
    for ours, theirs in zip(one, other, strict=True):
        if theirs is None:  # a parameter that the library's network does not use
            assert ours is None
        else:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * max(least, theirs.abs().max().item()))


# One module at a time

CONV1X1 = partial(nn.Conv2d, kernel_size=1)
SAME = {
    "smp": (SCSE, ConcurrentSE, (C,), {"reduction": 4}),
    "smp-odd": (SCSE, ConcurrentSE, (23,), {"reduction": 3}),
    "smp-senet": (SENET, ChannelSE, (C, 4), {}),
    "smp-mobileone": (MOBILEONE, ChannelSE, (C,), {"rd_ratio": 0.25}),
    "monai-1d": (MONAI, ChannelSE, (1, C), {}),
    "monai-2d": (MONAI, ChannelSE, (2, C), {"r": 4}),
    "monai-3d": (MONAI, ChannelSE, (3, C), {"r": 3}),
    "monai-swish": (MONAI, ChannelSE, (2, C), {"acti_type_1": "swish"}),
    "monai-memswish": (MONAI, ChannelSE, (2, C), {"acti_type_1": "memswish"}),
    "monai-residual": (RESIDUAL, ResidualChannelSE, (2, C), {}),
    "monai-residual-3d": (RESIDUAL, ResidualChannelSE, (3, C), {"acti_type_1": "relu", "acti_type_2": "sigmoid"}),
    "monai-residual-option": (MONAI, ResidualChannelSE, (2, C), {"add_residual": True}),
    "timm": (TIMM, ChannelSE, (C,), {"rd_channels": 8}),
    "timm-no-bias": (TIMM, ChannelSE, (C,), {"rd_channels": 4, "bias": False}),
    "timm-silu-hard": (TIMM, ChannelSE, (C,), {"act_layer": "silu", "gate_layer": "hard_sigmoid"}),
    "timm-wide": (TIMM, ChannelSE, (C,), {"rd_channels": 24}),
    "timm-efficientnet": (EFFICIENT, ChannelSE, (C,), {"act_layer": nn.SiLU}),
    "timm-mobilenet": (EFFICIENT, ChannelSE, (C,), {"gate_layer": "hard_sigmoid"}),
    "timm-own-classes": (
        EFFICIENT,
        ChannelSE,
        (C,),
        {"gate_layer": lambda: make("timm.layers.activations.HardSigmoid")},
    ),
    "timm-sigmoid": (EFFICIENT, ChannelSE, (C,), {"gate_layer": "sigmoid"}),
    "timm-legacy": (LEGACY, ChannelSE, (C, 4), {}),
    "torchvision": (VISION, ChannelSE, (C, 4), {}),
    "torchvision-efficientnet": (VISION, ChannelSE, (C, 4), {"activation": partial(nn.SiLU, inplace=True)}),
    "torchvision-mobilenet": (VISION, ChannelSE, (C, 5), {"scale_activation": nn.Hardsigmoid}),
    "nnunet": (NNUNET, ChannelSE, (C, nn.Conv2d), {}),
}


@pytest.mark.parametrize(("name", "block", "arguments", "options"), SAME.values(), ids=SAME)
def test_block_computes_what_the_module_computed(name, block, arguments, options):
    torch.manual_seed(0)
    model = nn.Sequential(alive(make(name, *arguments, **options)))
    channels = C if name in {MONAI, RESIDUAL} else arguments[0]
    space = {1: (35,), 3: (3, 4, 5)}.get(arguments[0], (5, 7)) if name in {MONAI, RESIDUAL} else (5, 7)
    x = torch.randn(4, channels, *space) * torch.rand(4, channels, *(1 for _ in space)) * 5 + 0.5
    expected = values(model, x)
    assert all(value.abs().max() > 0 for value in expected)  # no gradient is trivially equal
    assert fuse(model) == Fused((Swapped("0", name, block.__name__),), ())
    assert type(model[0]) is block
    assert_same(values(model, x), expected, 1e-6)
    assert_same(values(copy.deepcopy(model), x), expected, 1e-6)


# Networks of the libraries


def smp_unet(encoder, **options):
    unet = load("segmentation_models_pytorch.Unet")
    return unet(encoder, encoder_depth=3, encoder_weights=None, decoder_channels=(64, 32, 16), **options)


def timm_model(name):
    return make("timm.create_model", name, pretrained=False, num_classes=5)


def torchvision_model(name):
    return make(f"torchvision.models.{name}", weights=None, num_classes=5)


def monai_bottlenecks():
    """MONAI's own modules that use its layer, in 3D."""
    blocks = "monai.networks.blocks.squeeze_and_excitation"
    return nn.Sequential(
        make(f"{blocks}.SEBlock", 3, 8, 4, 4, 16),
        make(f"{blocks}.SEBottleneck", 3, inplanes=16, planes=4, groups=2, reduction=4),
        make(f"{blocks}.SEResNetBottleneck", 3, inplanes=16, planes=4, groups=1, reduction=2),
        make(f"{blocks}.SEResNeXtBottleneck", 3, inplanes=16, planes=4, groups=4, reduction=8, base_width=16),
    )


NETWORKS = {
    "smp-unet-scse": (lambda: smp_unet("resnet18", decoder_attention_type="scse"), (2, 3, 32, 32), SCSE, 6),
    "smp-unet-senet": (lambda: smp_unet("se_resnet50"), (2, 3, 32, 32), SENET, 16),
    "timm-seresnet18": (lambda: timm_model("seresnet18"), (2, 3, 64, 64), TIMM, 8),
    "timm-legacy-seresnet18": (lambda: timm_model("legacy_seresnet18"), (2, 3, 64, 64), LEGACY, 8),
    "timm-efficientnet-b0": (lambda: timm_model("efficientnet_b0"), (2, 3, 64, 64), EFFICIENT, 16),
    "timm-mobilenetv3": (lambda: timm_model("mobilenetv3_small_050"), (2, 3, 64, 64), EFFICIENT, 9),
    "timm-regnety": (lambda: timm_model("regnety_002"), (2, 3, 64, 64), TIMM, 13),
    "torchvision-efficientnet-b0": (lambda: torchvision_model("efficientnet_b0"), (2, 3, 64, 64), VISION, 16),
    "torchvision-mobilenetv3": (lambda: torchvision_model("mobilenet_v3_small"), (2, 3, 64, 64), VISION, 9),
    "torchvision-regnety": (lambda: torchvision_model("regnet_y_400mf"), (2, 3, 64, 64), VISION, 16),
    "monai-senet": (
        lambda: make("monai.networks.nets.SENet", 2, 1, "se_bottleneck", [1, 1, 1, 1], 8, 16, num_classes=5),
        (2, 1, 32, 32),
        MONAI,
        4,
    ),
    "monai-bottlenecks-3d": (monai_bottlenecks, (2, 8, 9, 8, 7), MONAI, 4),
    "monai-seresnet50": (
        lambda: make("monai.networks.nets.SEResNet50", spatial_dims=2, in_channels=1, num_classes=5),
        (2, 1, 64, 64),  # from 32 pixels one pixel remains, and batch normalisation of two values amplifies rounding
        MONAI,
        16,
    ),
    "monai-quicknat": (  # the same module at nine places
        lambda: make("monai.networks.nets.quicknat.Quicknat", num_filters=8, se_block="CSE"),
        (2, 1, 32, 32),
        MONAI,
        9,
    ),
}


@pytest.mark.parametrize(("build", "shape", "name", "count"), NETWORKS.values(), ids=NETWORKS)
def test_network_of_a_library_computes_the_same(build, shape, name, count):
    torch.manual_seed(0)
    network = alive(build())
    fused = copy.deepcopy(network)
    report = fuse(fused)
    assert [one.found for one in report.swapped] == [name] * count
    assert report.kept == ()
    x = torch.randn(shape)
    assert_modules_are_the_same(network.eval(), fused.eval(), report, x)
    # In float64, because a network amplifies the rounding of float32 for any change of the order of a sum. In float64,
    # torch still uses 1/6 rounded to float32 as derivative of the hard sigmoid, an error of 3e-8.
    tolerance = 1e-7 if any(getattr(block, "gate", "") == "hard-sigmoid" for block in fused.modules()) else 1e-10
    network.double(), fused.double()
    for training in (False, True):
        network.train(training), fused.train(training)
        assert_same(values(fused, x.double()), values(network, x.double()), tolerance)


def assert_modules_are_the_same(network, fused, report, x):
    """Compare each block in float32 with the library's module in float64, on the map of the module in the network.

    Gates of many channels and gradients of weights suffer from cancellation. The relative error of the library's module
    in float32 is up to 3e-6, and the error of the block must be of the same size.
    """
    seen = {}
    hooks = [
        network.get_submodule(one.where).register_forward_pre_hook(
            lambda module, inputs, where=one.where: seen.update({where: inputs[0]})
        )
        for one in report.swapped
    ]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    assert seen
    for where, inside in seen.items():
        block, module = fused.get_submodule(where), network.get_submodule(where)
        ours, theirs = values(block, inside), values(module, inside)
        exact = values(copy.deepcopy(module).double(), inside.double())
        for own, other, true in zip(ours, theirs, exact, strict=True):
            allowed = max(1e-6 * true.abs().max(), 4 * (other - true).abs().max())
            assert (own - true).abs().max() <= allowed


# Modules that are kept


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def with_part(module, path, part):
    module.set_submodule(path, part)
    return module


def subclass(name, *arguments):
    return type("Own", (load(name),), {})(*arguments)


def hooked(module):
    module.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    return module


def hooked_inside(module):
    hooked(module.fc1)
    return module


def patched(module):
    module.forward = lambda x: x
    return module


ORIGIN = "which may compute something else"
KEPT = {
    "effective": (lambda: make(EFFECTIVE, C), "it has one layer, where cSE has two"),
    "last": (lambda: make(CHANNELS_LAST, C), "its channels are the last axis"),
    "maximum": (lambda: make(TIMM, C, add_maxpool=True), "its squeeze averages the mean and the maximum (add_maxpool)"),
    "norm": (lambda: make(TIMM, C, norm_layer=nn.BatchNorm2d), "it has a BatchNorm2d between its layers"),
    "activation": (
        lambda: make(EFFICIENT, C, act_layer=nn.GELU),
        "act1 is GELU(approximate='none'), not one of leaky-relu, relu, silu",
    ),
    "slope": (
        lambda: make(RESIDUAL, 2, C, acti_type_1=("leakyrelu", {"negative_slope": 0.2})),
        "fc.1 is LeakyReLU(negative_slope=0.2), not one of leaky-relu, relu, silu",
    ),
    "gate": (
        lambda: make(VISION, C, 4, scale_activation=nn.Tanh),
        "scale_activation is Tanh(), not one of hard-sigmoid, relu, sigmoid",
    ),
    "own-activation": (lambda: make(VISION, C, 4, activation=lambda: subclass("torch.nn.ReLU")), "activation is Own()"),
    "subclass": (lambda: subclass(TIMM, C), f"a subclass of {TIMM}, {ORIGIN}"),
    "subclass-of-the-library": (lambda: make(QUANTIZABLE, C, 4), f"a subclass of {VISION}, {ORIGIN}"),
    "hook": (lambda: hooked(make(VISION, C, 4)), "it has hooks, which would be lost"),
    "hook-inside": (lambda: hooked_inside(make(VISION, C, 4)), "it has hooks, which would be lost"),
    "forward": (lambda: patched(make(TIMM, C)), "its forward was replaced"),
    "layer": (lambda: with_part(make(VISION, C, 4), "fc1", Doubled(C, 4, 1)), "fc1 is Doubled(16, 4, kernel_size="),
    "kernel": (lambda: with_part(make(VISION, C, 4), "fc2", nn.Conv2d(4, C, 3)), "neither a Linear nor a plain 1x1"),
    "parametrized": (
        lambda: with_part(make(VISION, C, 4), "fc1", parametrizations.weight_norm(nn.Conv2d(C, 4, 1))),
        "fc1 is ParametrizedConv2d(",
    ),
    "version": (lambda: with_part(make(SCSE, C), "cSE", nn.Identity()), "it has no cSE.1; this version"),
    "position": (
        lambda: with_part(make(SCSE, C), "sSE.0", nn.Conv2d(C, C, 1)),
        "its spatial excitation has 16 gates per position instead of one",
    ),
    "scse-activation": (lambda: with_part(make(SCSE, C), "cSE.2", nn.SiLU()), "its activation and gates are not ReLU"),
    "scse-gate": (lambda: with_part(make(SCSE, C), "sSE.1", nn.Hardsigmoid()), "its activation and gates are not"),
    "nnunet-3d": (lambda: make(NNUNET, C, nn.Conv3d), "its squeeze is the mean over two of the three spatial axes"),
}


@pytest.mark.parametrize(("build", "reason"), KEPT.values(), ids=KEPT)
def test_module_that_the_blocks_cannot_replace_is_kept_and_named(build, reason):
    module = build()
    model = nn.ModuleDict({"se": module})
    before = dict(model.named_modules())
    report = fuse(model)
    assert dict(model.named_modules()) == before
    assert report.swapped == ()
    [kept] = report.kept
    assert (kept.where, kept.found) == ("se", f"{type(module).__module__}.{type(module).__qualname__}")
    assert reason in kept.reason


def test_module_without_hidden_units_is_kept():
    with pytest.warns(UserWarning, match="zero-element"):
        module = make(SCSE, 8, reduction=16)
    assert [one.reason for one in fuse(nn.Sequential(module)).kept] == ["its hidden layer has width 0"]


def test_modules_that_share_a_parameter_are_kept():
    first, second, third = (make(VISION, C, 4) for _ in range(3))
    second.fc1.weight = first.fc1.weight
    report = fuse(nn.Sequential(first, second, third))
    assert [(one.where, one.reason) for one in report.kept] == [
        (where, "it shares a parameter with another module") for where in ("0", "1")
    ]
    assert [one.where for one in report.swapped] == ["2"]


@pytest.mark.parametrize(("name", "count"), [("ese_vovnet19b_dw", 4), ("fbnetv3_b", 18)])
def test_network_whose_modules_differ_is_left_as_it_was(name, count):
    network = timm_model(name)
    before = dict(network.named_modules())
    report = fuse(network)
    assert (len(report.swapped), len(report.kept)) == (0, count)
    assert dict(network.named_modules()) == before


# Properties that are kept


@pytest.mark.parametrize("name", [SCSE, TIMM])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_type_and_mode_stay(name, training, dtype):
    model = nn.Sequential(make(name, C)).to(dtype).train(not training)
    model[0].train(training)
    fuse(model)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert {module.training for module in model[0].modules()} == {training}
    assert model.training is not training
    assert model(torch.ones(2, C, 3, 4, dtype=dtype)).dtype == dtype


def test_device_stays():
    model = nn.Sequential(make(VISION, C, 4)).to("meta")
    fuse(model)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize("name", [SCSE, EFFICIENT])
def test_frozen_parameters_stay_frozen_one_by_one(name):
    model = nn.Sequential(make(name, C))
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 == 0)
    before = [parameter.requires_grad for parameter in model.parameters()]
    fuse(model)
    assert [parameter.requires_grad for parameter in model.parameters()] == before


def test_parameters_are_new_leaves_with_memory_of_their_own():
    module = make(TIMM, C)
    old = list(module.parameters())
    model = nn.Sequential(module)
    fuse(model)
    with torch.no_grad():
        for parameter in old:
            parameter.zero_()
    for parameter in model.parameters():
        assert type(parameter) is nn.Parameter
        assert parameter.is_leaf
        assert parameter.is_contiguous()
    assert model[0].squeeze.weight.abs().min() > 0
    assert not {id(parameter) for parameter in old} & {id(parameter) for parameter in model.parameters()}


def test_fused_model_trains_saves_and_compiles():
    model = nn.Sequential(nn.Conv2d(3, C, 1), make(RESIDUAL, 2, C))
    fuse(model)
    x = torch.randn(2, 3, 5, 6)
    before = model(x)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), before)
    again = nn.Sequential(nn.Conv2d(3, C, 1), make(RESIDUAL, 2, C))
    fuse(again)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), before)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    before.square().sum().backward()
    optimiser.step()
    assert not torch.equal(model(x), before)


def dynamically_quantised(model, _x, _path):
    return quantize_dynamic(model, {nn.Linear})


def exported(model, x, path):
    torch.onnx.export(model, (x,), path, dynamo=False, input_names=["x"])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def statically_quantised(model, x, _path):
    prepared = quantize_fx.prepare_fx(model, get_default_qconfig_mapping("x86"), (x,))
    prepared(x)
    return quantize_fx.convert_fx(prepared)


CONVERTERS = {
    "dynamic quantisation": (dynamically_quantised, 0.05),
    "static quantisation": (statically_quantised, 0.2),
    "scripting": (lambda model, _x, _path: torch.jit.script(model), 1e-5),
    "tracing": (lambda model, x, _path: torch.jit.trace(model, x), 1e-5),
    "symbolic tracing": (lambda model, _x, _path: torch.fx.symbolic_trace(model), 1e-5),
    "ONNX by TorchScript": (exported, 1e-5),
}


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*is deprecated",
    "ignore:You are using the legacy TorchScript",
    "ignore:.*quantized tensor creation",
    "ignore:.*torch.ao.quantization is deprecated",
    "ignore:.*reduce_range",
    "ignore::DeprecationWarning",
)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (SCSE, (C,)),
        (SENET, (C, 2)),
        (MONAI, (2, C)),
        (RESIDUAL, (2, C)),
        (TIMM, (C,)),
        (EFFICIENT, (C,)),
        (VISION, (C, 4)),
    ],
)
@pytest.mark.parametrize(("convert", "tolerance"), CONVERTERS.values(), ids=CONVERTERS)
def test_what_works_on_a_librarys_module_works_on_the_block(name, arguments, convert, tolerance, tmp_path):
    torch.manual_seed(0)
    model = alive(nn.Sequential(nn.Conv2d(3, C, 1), make(name, *arguments))).eval()
    x = torch.randn(2, 3, 8, 8)
    wanted = model(x).detach()
    fuse(model)
    error = (convert(model, x, tmp_path / "model.onnx")(x) - wanted).abs().mean() / wanted.abs().mean()
    assert error < tolerance


def test_module_at_two_places_stays_one_module():
    module, other = make(VISION, C, 4), make(VISION, C, 4)
    inner = nn.Sequential(other)
    model = nn.ModuleDict({"a": module, "b": nn.Sequential(module), "c": inner, "d": inner})
    report = fuse(model)
    assert model["a"] is model["b"][0]
    assert model["c"] is model["d"]
    assert type(model["c"][0]) is ChannelSE
    assert model["c"][0] is not model["a"]
    assert [one.where for one in report.swapped] == ["a", "b.0", "c.0", "d.0"]
    assert len(list(model.parameters())) == 2 * 4


def test_what_is_unknown_is_not_touched():
    class SEModule(nn.Module):
        """A class with the name of timm's, but from another module."""

    model = nn.Sequential(SEModule(), nn.Conv2d(3, 3, 1), nn.ReLU(), ChannelSE(3), ConcurrentSE(3), nn.BatchNorm2d(3))
    before = dict(model.named_modules())
    parameters = list(model.parameters())
    assert fuse(model) == Fused((), ())
    assert dict(model.named_modules()) == before
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))


def test_fusing_twice_finds_nothing_more():
    model = nn.Sequential(make(VISION, C, 4))
    fuse(model)
    block = model[0]
    assert fuse(model) == Fused((), ())
    assert model[0] is block


def test_random_numbers_are_not_used_up():
    model = nn.Sequential(make(SCSE, C), make(TIMM, C))
    state = torch.get_rng_state()
    fuse(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_names_and_places_around_the_module_stay():
    module = make("segmentation_models_pytorch.base.modules.Attention", "scse", in_channels=C)
    model = nn.Sequential(nn.Conv2d(3, C, 1), module, nn.Conv2d(C, 3, 1))
    fuse(model)
    assert model[1] is module
    assert [name for name, _ in model.named_modules() if name.count(".") < 2] == ["", "0", "1", "1.attention", "2"]
    assert type(module.attention) is ConcurrentSE


# Refusals, the report, and imports


@pytest.mark.parametrize(
    "build", [lambda: make(VISION, C, 4), lambda: make(EFFECTIVE, C), lambda: subclass(VISION, C, 4)]
)
def test_module_alone_cannot_be_swapped_in_place(build):
    with pytest.raises(
        ValueError, match=r"the model is a .* itself and cannot be swapped in place; put it in a module"
    ):
        fuse(build())


def test_report_is_a_table():
    report = Fused(
        (Swapped("encoder.se", VISION, "ChannelSE"), Swapped("head", SCSE, "ConcurrentSE")),
        (Kept("stem", EFFECTIVE, "it has one layer"),),
    )
    assert str(report).splitlines() == [
        "2 swapped, 1 kept",
        "encoder.se  torchvision.ops.misc.SqueezeExcitation               ChannelSE",
        "head        segmentation_models_pytorch.base.modules.SCSEModule  ConcurrentSE",
        "stem        timm.layers.squeeze_excite.EffectiveSEModule         kept: it has one layer",
    ]
    assert str(fuse(nn.Sequential())) == "no squeeze-and-excitation module of a known library found"


ALONE = """
import sys
from torch import nn
from scse.attachment.fusing import fuse
fuse(nn.Sequential(nn.Conv2d(3, 3, 1)))
libraries = ["segmentation_models_pytorch", "timm", "torchvision", "monai", "dynamic_network_architectures"]
print([name for name in libraries if name in sys.modules])
"""


def test_no_library_is_imported():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
