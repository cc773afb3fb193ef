"""Replace squeeze-and-excitation modules of other libraries by the blocks of this package, with their weights.

Classes are identified by name, so that these libraries need not be imported.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from scse.attachment.compiled import forget_compiled, uncompiled
from scse.blocks.modules import ChannelSE, ConcurrentSE
from scse.support.errors import UserError


@dataclass(frozen=True)
class Swapped:
    """A module that was swapped: its name in the model, its class, and the class of the block that replaced it."""

    where: str
    found: str
    block: str


@dataclass(frozen=True)
class Kept:
    """A module that was recognised but kept: its name in the model, its class, and the reason."""

    where: str
    found: str
    reason: str


@dataclass(frozen=True)
class Fused:
    """Result of `fuse`, in the order of the model's modules. It prints as a table.

    A module that is used at several places is listed at each of them.
    """

    swapped: tuple[Swapped, ...]
    kept: tuple[Kept, ...]

    def __str__(self) -> str:
        rows = [(one.where, one.found, one.block) for one in self.swapped]
        rows += [(one.where, one.found, f"kept: {one.reason}") for one in self.kept]
        if not rows:
            return "no squeeze-and-excitation module of a known library found"
        place, found = (max(len(row[column]) for row in rows) for column in (0, 1))
        lines = [f"{row[0]:<{place}}  {row[1]:<{found}}  {row[2]}" for row in rows]
        return "\n".join([f"{len(self.swapped)} swapped, {len(self.kept)} kept", *lines])


class ResidualChannelSE(ChannelSE):
    """cSE plus its input, x + cse(x), as MONAI's `ResidualSELayer`. Arguments and shapes are those of `ChannelSE`."""

    def forward(self, x: Tensor) -> Tensor:
        """Recalibrate the channels of `x`, and add `x`."""
        return self.recalibrated(x) + x


def fuse(model: nn.Module) -> Fused:
    """Swap the squeeze-and-excitation modules of known libraries, in place, for blocks that compute the same.

    Known modules are `SCSEModule` and the modules of the SENet and MobileOne encoders of segmentation_models_pytorch,
    MONAI's `ChannelSELayer` and `ResidualSELayer`, timm's `SEModule` and `SqueezeExcite`, torchvision's
    `SqueezeExcitation`, and nnU-Net's `SqueezeExcite` in 2D. Subclasses of these, modules with hooks, and modules
    with options that the blocks do not have are kept, and the result gives the reason. Everything else is unchanged,
    including squeeze-and-excitation that a network computes in its own `forward`.

    The blocks keep the weights, their dtype, device and `requires_grad`, and the training mode. A module that is used
    at several places is replaced by one block. The parameters are new objects with the names of the blocks: load a
    checkpoint of the library before calling this function, and create the optimiser, compile, or wrap the model for
    distributed training after it.

    Args:
        model: Module that contains the modules to swap.

    Returns:
        Modules that were swapped, and modules that were recognised but kept.

    Raises:
        UserError: `model` itself is a known module, which cannot be replaced in place.
    """
    model = uncompiled(model)
    if found := _recognised(model):
        raise UserError(
            f"the model is a {found} itself and cannot be swapped in place; put it in a module, "
            f"for instance nn.Sequential(module), and fuse that"
        )
    places = {where: module for where, module in model.named_modules(remove_duplicate=False) if _recognised(module)}
    owners = Counter(id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False))
    blocks: dict[nn.Module, nn.Module] = {}
    reasons: dict[nn.Module, str] = {}
    for module in set(places.values()):
        try:
            blocks[module] = _block(module, owners)
        except _CannotSwapError as error:
            reasons[module] = str(error)
    for where, module in places.items():
        if module in blocks:
            model.set_submodule(where, blocks[module])
    forget_compiled()
    return Fused(
        tuple(
            Swapped(where, _name(type(module)), type(blocks[module]).__name__)
            for where, module in places.items()
            if module in blocks
        ),
        tuple(
            Kept(where, _name(type(module)), reasons[module]) for where, module in places.items() if module in reasons
        ),
    )


class _CannotSwapError(Exception):
    """The reason why a recognised module is kept."""


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _recognised(module: nn.Module) -> str | None:
    """Return the name of the known class that `module` is an instance of, or None."""
    return next((name for name in map(_name, type(module).__mro__) if name in _CONVERTERS), None)


def _block(module: nn.Module, owners: Mapping[int, int]) -> nn.Module:
    known = _recognised(module)
    if known != _name(type(module)):
        raise _CannotSwapError(f"a subclass of {known}, which may compute something else")
    if "forward" in vars(module):
        raise _CannotSwapError("its forward was replaced")
    if any(getattr(part, hooks) for part in module.modules() for hooks in _HOOKS):
        raise _CannotSwapError("it has hooks, which would be lost")
    if any(owners[id(parameter)] > 1 for parameter in module.parameters()):
        raise _CannotSwapError("it shares a parameter with another module")
    return _CONVERTERS[known](module).train(module.training)


def _channel(
    module: nn.Module, *, squeeze: str, excite: str, activation: str | None = None, gate: str | None = None
) -> ChannelSE:
    """Build cSE from the submodules with these names.

    If `activation` or `gate` is None, the module calls ReLU or the sigmoid as a function.
    """
    if getattr(module, "add_maxpool", False):
        raise _CannotSwapError("its squeeze averages the mean and the maximum (add_maxpool)")
    between = dict(module.named_children()).get("bn", nn.Identity())
    if type(between) is not nn.Identity:
        raise _CannotSwapError(f"it has a {type(between).__name__} between its layers")
    first, second = _layer(module, squeeze), _layer(module, excite)
    make = ResidualChannelSE if getattr(module, "add_residual", False) else ChannelSE
    hidden, channels = first.weight.shape[:2]
    if not hidden:
        raise _CannotSwapError("its hidden layer has width 0")
    # on the meta device, so that no random numbers are drawn for initial values that are replaced at once
    with torch.device("meta"):
        block = make(
            channels,
            hidden=hidden,
            activation=_option(module, activation, _ACTIVATIONS) if activation else "relu",
            gate=_option(module, gate, _GATES) if gate else "sigmoid",
            bias=first.bias is not None or second.bias is not None,
        )
    _copy(first, block.squeeze)
    _copy(second, block.excite)
    return block


def _concurrent(module: nn.Module) -> ConcurrentSE:
    channel = _channel(module, squeeze="cSE.1", activation="cSE.2", excite="cSE.3", gate="cSE.4")
    if (channel.activation, channel.gate, _option(module, "sSE.1", _GATES)) != ("relu", "sigmoid", "sigmoid"):
        raise _CannotSwapError("its activation and gates are not ReLU and sigmoids")
    project = _layer(module, "sSE.0")
    if len(project.weight) != 1:
        raise _CannotSwapError(f"its spatial excitation has {len(project.weight)} gates per position instead of one")
    with torch.device("meta"):
        # if any reduction gives the hidden width h, C // h is one that does
        block = ConcurrentSE(
            channel.channels,
            reduction=channel.channels // channel.squeeze.out_features,
            bias=channel.with_bias or project.bias is not None,
        )
    block.channel.squeeze, block.channel.excite = channel.squeeze, channel.excite
    _copy(project, block.spatial.project)
    return block


def _nnunet(module: nn.Module) -> ChannelSE:
    if type(_part(module, "fc1")) is nn.Conv3d:
        raise _CannotSwapError("its squeeze is the mean over two of the three spatial axes")
    return _timm(module)


def _impossible(_module: nn.Module, *, reason: str) -> nn.Module:
    raise _CannotSwapError(reason)


def _part(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise _CannotSwapError(f"it has no {path}; this version of the library is not supported") from error


def _layer(module: nn.Module, path: str) -> nn.Linear | nn.Conv2d:
    """Return the dense layer at `path`, which may be a plain 1x1 convolution."""
    layer = _part(module, path)
    # type() and not isinstance(), because a subclass may compute more, as LoRA does
    if type(layer) is nn.Linear:
        return layer
    plain = {"kernel_size": (1, 1), "stride": (1, 1), "padding": (0, 0), "groups": 1}
    if type(layer) is nn.Conv2d and all(getattr(layer, setting) == value for setting, value in plain.items()):
        return layer
    raise _CannotSwapError(f"{path} is {_describe(layer)}, neither a Linear nor a plain 1x1 Conv2d")


def _option(module: nn.Module, path: str, known: Mapping[str, tuple[str, dict[str, Any]]]) -> str:
    """Return the name of the activation or gate at `path` in the options of scse."""
    part = _part(module, path)
    name, settings = known.get(_name(type(part)), ("", {}))
    if not name or any(getattr(part, setting) != value for setting, value in settings.items()):
        ours = ", ".join(sorted({name for name, _ in known.values()}))
        raise _CannotSwapError(f"{path} is {_describe(part)}, not one of {ours}")
    return name


def _describe(part: nn.Module) -> str:
    return f"{type(part).__name__}({part.extra_repr()})"


def _copy(layer: nn.Linear | nn.Conv2d, to: nn.Linear) -> None:
    """Set the parameters of `to` to copies of those of `layer`. A 1x1 kernel becomes a matrix."""
    for name in ("weight", "bias"):
        value = getattr(layer, name)
        if value is not None:
            matrix = value.detach().reshape(value.shape[:2]).clone()
            value = nn.Parameter(matrix, requires_grad=value.requires_grad)
        setattr(to, name, value)


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

# class -> (name in the options of scse, settings of the module for which it computes the same)
_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "torch.nn.modules.activation.ReLU": ("relu", {}),
    "torch.nn.modules.activation.SiLU": ("silu", {}),
    "torch.nn.modules.activation.LeakyReLU": ("leaky-relu", {"negative_slope": 0.01}),
    "monai.networks.blocks.activation.Swish": ("silu", {"alpha": 1.0}),
    "monai.networks.blocks.activation.MemoryEfficientSwish": ("silu", {}),
}
_GATES: dict[str, tuple[str, dict[str, Any]]] = {
    "torch.nn.modules.activation.Sigmoid": ("sigmoid", {}),
    "torch.nn.modules.activation.Hardsigmoid": ("hard-sigmoid", {}),
    "torch.nn.modules.activation.ReLU": ("relu", {}),
    "timm.layers.activations.Sigmoid": ("sigmoid", {}),
    "timm.layers.activations.HardSigmoid": ("hard-sigmoid", {}),
}

_senet = partial(_channel, squeeze="fc1", activation="relu", excite="fc2", gate="sigmoid")
_monai = partial(_channel, squeeze="fc.0", activation="fc.1", excite="fc.2", gate="fc.3")
_timm = partial(_channel, squeeze="fc1", activation="act", excite="fc2", gate="gate")

_CONVERTERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "dynamic_network_architectures.building_blocks.regularization.SqueezeExcite": _nnunet,
    "monai.networks.blocks.squeeze_and_excitation.ChannelSELayer": _monai,
    "monai.networks.blocks.squeeze_and_excitation.ResidualSELayer": _monai,
    "segmentation_models_pytorch.base.modules.SCSEModule": _concurrent,
    "segmentation_models_pytorch.encoders._senet.SEModule": _senet,
    "segmentation_models_pytorch.encoders.mobileone.SEBlock": partial(_channel, squeeze="reduce", excite="expand"),
    "timm.layers.squeeze_excite.EffectiveSEModule": partial(_impossible, reason="it has one layer, where cSE has two"),
    "timm.layers.squeeze_excite.SEModule": _timm,
    "timm.layers.squeeze_excite.SqueezeExciteCl": partial(_impossible, reason="its channels are the last axis"),
    "timm.models._efficientnet_blocks.SqueezeExcite": partial(
        _channel, squeeze="conv_reduce", activation="act1", excite="conv_expand", gate="gate"
    ),
    "timm.models.senet.SEModule": _senet,
    "torchvision.ops.misc.SqueezeExcitation": partial(
        _channel, squeeze="fc1", activation="activation", excite="fc2", gate="scale_activation"
    ),
}
