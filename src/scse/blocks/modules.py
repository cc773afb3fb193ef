"""The recalibration blocks cSE, sSE, scSE and Project & Excite as modules, for any number of spatial axes.

Source: Roy, Navab, Wachinger, "Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional
Networks", MICCAI 2018 (arXiv 1803.02579); for Project & Excite, see `ProjectExcite`. One class works in 1D, 2D and 3D,
because the weights are matrices.

As long as the inner layers are plain `nn.Linear` modules without hooks, the fused kernels use their weights directly.
A layer that was wrapped, hooked, parametrised or quantised, or that is being traced, is called as a module instead.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]
from torch.nn.modules.module import _has_any_global_hook

from scse.blocks import formulas, functional
from scse.support.checks import check_positive
from scse.vocabulary.options import REDUCTION, check_aggregation, check_channel_options, hidden_width


class ChannelSE(nn.Module):
    """Spatial squeeze and channel excitation (cSE; Hu et al. 2018, section 2.1 of the paper).

    The gate of each channel is sigmoid(W2 relu(W1 z)), where z is the mean over all spatial axes.

    Args:
        channels: Number of channels C of the input and the output.
        reduction: Reduction r of the paper. The hidden layer has max(1, C // r) units.
        hidden: Width of the hidden layer, instead of a reduction.
        activation: Activation after W1: "relu" (the paper), "silu" or "leaky-relu" (slope 0.01).
        gate: Gate function after W2: "sigmoid" (the paper), "hard-sigmoid" or "relu". With "relu" the block cannot
            start as the identity.
        bias: Whether the two linear layers have biases. The paper's parameter count excludes them.
        identity: Whether the block starts as the identity, bit for bit: the last layer is initialised to zero and the
            gate is scaled by 2.

    Shape:
        (N, C, *spatial) -> (N, C, *spatial), with at least one spatial axis.

    Raises:
        UserError: At construction, `channels`, `reduction` or `hidden` is below 1, both `reduction` and `hidden` are
            given, `activation` or `gate` is unknown, or `identity=True` is combined with gate "relu". In a call, the
            input has no spatial axis or other than C channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = REDUCTION,
        hidden: int | None = None,
        activation: str = "relu",
        gate: str = "sigmoid",
        bias: bool = True,
        identity: bool = False,
    ) -> None:
        super().__init__()
        self.channels = check_positive("channels", channels)
        self.scale = check_channel_options(reduction, hidden, activation, gate, identity=identity)
        self.reduction = reduction
        self.hidden = hidden
        self.activation = activation
        self.gate = gate
        self.identity = identity
        self.with_bias = bias
        width = hidden_width(channels, reduction, hidden)
        self.squeeze = nn.Linear(channels, width, bias=bias)
        self.excite = nn.Linear(width, channels, bias=bias)
        if identity:
            _zero(self.excite)

    def forward(self, x: Tensor) -> Tensor:
        """Recalibrate the channels of `x`."""
        return self.recalibrated(x)

    def recalibrated(self, x: Tensor) -> Tensor:
        """Compute U * c."""
        if not is_scripting():
            squeeze, excite = self.squeeze, self.excite
            if _are_plain(x, squeeze, excite):
                return functional.cse(
                    x,
                    squeeze.weight,
                    squeeze.bias,
                    excite.weight,
                    excite.bias,
                    activation=self.activation,
                    gate=self.gate,
                    scale=self.scale,
                )
            _check(x, self.channels)
        return (x.flatten(2) * formulas.scaled(self.gates(x), self.scale)).view_as(x)

    def gates(self, x: Tensor) -> Tensor:
        """Compute the unscaled gates by calling the layers: (N, C, *spatial) -> (N, C, 1)."""
        hidden = formulas.activated(self.squeeze(formulas.mean_over_space(x)), self.activation)
        return formulas.gated(self.excite(hidden), self.gate).unsqueeze(2)

    __jit_unused_properties__ = ("options",)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that construct this block again."""
        return {
            "reduction": self.reduction,
            "hidden": self.hidden,
            "activation": self.activation,
            "gate": self.gate,
            "bias": self.with_bias,
            "identity": self.identity,
        }

    def extra_repr(self) -> str:
        """Return the arguments of the constructor, as source text."""
        return _arguments_text(self.channels, self.options)


class SpatialSE(nn.Module):
    """Channel squeeze and spatial excitation (sSE; section 2.2 of the paper).

    The gate of each position is sigmoid(w . x), a 1x1 convolution of all channels to one.

    Args:
        channels: Number of channels C of the input and the output.
        bias: Whether the projection has a bias. The paper's parameter count excludes it.
        identity: Whether the block starts as the identity, bit for bit: the projection is initialised to zero and the
            gate is scaled by 2.

    Shape:
        (N, C, *spatial) -> (N, C, *spatial), with at least one spatial axis.

    Raises:
        UserError: At construction, `channels` is below 1. In a call, the input has no spatial axis or other than C
            channels.
    """

    def __init__(self, channels: int, *, bias: bool = True, identity: bool = False) -> None:
        super().__init__()
        self.channels = check_positive("channels", channels)
        self.identity = identity
        self.with_bias = bias
        self.project = nn.Linear(channels, 1, bias=bias)
        self.scale = 2.0 if identity else 1.0
        if identity:
            _zero(self.project)

    def forward(self, x: Tensor) -> Tensor:
        """Recalibrate the positions of `x`."""
        if not is_scripting():
            if _are_plain(x, self.project):
                return functional.sse(x, self.project.weight, self.project.bias, scale=self.scale)
            _check(x, self.channels)
        return (x.flatten(2) * formulas.scaled(self.gates(x), self.scale)).view_as(x)

    def gates(self, x: Tensor) -> Tensor:
        """Compute the unscaled gates by calling the layer: (N, C, *spatial) -> (N, 1, positions)."""
        return torch.sigmoid(self.project(x.flatten(2).transpose(1, 2))).transpose(1, 2)

    __jit_unused_properties__ = ("options",)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that construct this block again."""
        return {"bias": self.with_bias, "identity": self.identity}

    def extra_repr(self) -> str:
        """Return the arguments of the constructor, as source text."""
        return _arguments_text(self.channels, self.options)


class ConcurrentSE(nn.Module):
    """Concurrent spatial and channel squeeze & excitation (scSE; section 2.3 of the paper).

    Both gates are computed from the same input, and `aggregation` joins the two recalibrated maps.

    Args:
        channels: Number of channels C of the input.
        reduction: Reduction r of the paper, see `ChannelSE`.
        aggregation: How the maps are joined: "add" (the paper), "max" (the authors' later code), "multiply" or
            "concat", which returns 2C channels.
        bias: Whether all linear layers have biases. The paper's parameter count excludes them.
        identity: Whether the block starts as the identity, bit for bit: the last layers are initialised to zero, and
            with "max" the gates are scaled by 2. Not possible with "multiply" and "concat".

    Shape:
        (N, C, *spatial) -> (N, C, *spatial), with "concat" (N, 2C, *spatial); at least one spatial axis.

    Raises:
        UserError: At construction, `channels` or `reduction` is below 1, `aggregation` is unknown, or `identity=True`
            is combined with "multiply" or "concat". In a call, the input has no spatial axis or other than C channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = REDUCTION,
        aggregation: str = "add",
        bias: bool = True,
        identity: bool = False,
    ) -> None:
        super().__init__()
        self.scale = check_aggregation(aggregation, identity=identity)
        self.aggregation = aggregation
        self.channels = channels
        self.identity = identity
        self.with_bias = bias
        self.channel = ChannelSE(channels, reduction=reduction, bias=bias, identity=identity)
        self.spatial = SpatialSE(channels, bias=bias, identity=identity)
        # the two inner blocks scale their maps themselves; this factor corrects these maps to `scale`
        self.factor = self.scale / self.channel.scale

    def forward(self, x: Tensor) -> Tensor:
        """Recalibrate the channels and the positions of `x`."""
        if not is_scripting():
            channel, spatial = self.channel, self.spatial
            if not (_is_unchanged(channel, ChannelSE) and _is_unchanged(spatial, SpatialSE)):
                by_channel = formulas.scaled(channel(x), self.factor)
                return formulas.join_maps(by_channel, formulas.scaled(spatial(x), self.factor), self.aggregation)
            squeeze, excite, project = channel.squeeze, channel.excite, spatial.project
            if _are_plain(x, squeeze, excite, project):
                return functional.scse(
                    x,
                    squeeze.weight,
                    squeeze.bias,
                    excite.weight,
                    excite.bias,
                    project.weight,
                    project.bias,
                    aggregation=self.aggregation,
                    scale=self.scale,
                )
            _check(x, self.channels)
        flat = x.flatten(2)
        by_channel = formulas.scaled(self.channel.gates(x), self.scale)
        by_position = formulas.scaled(self.spatial.gates(x), self.scale)
        joined: Tensor = formulas.join(flat, by_channel, by_position, self.aggregation)
        # "concat" doubles the channels, so view_as(x) would fail
        output: Tensor = joined.unflatten(2, x.shape[2:])
        return output

    __jit_unused_properties__ = ("options",)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that construct this block again."""
        return {
            "reduction": self.channel.reduction,
            "aggregation": self.aggregation,
            "bias": self.with_bias,
            "identity": self.identity,
        }

    def extra_repr(self) -> str:
        """Return the arguments of the constructor, as source text."""
        return _arguments_text(self.channels, self.options)


class ProjectExcite(nn.Module):
    """Project & Excite (PE): a gate for every channel at every position, from the means of the map along its axes.

    The map is projected onto each spatial axis: the mean over all other spatial axes, one vector per channel. Z is the
    sum of the projections, each tiled to the size of the map, and the gate is sigmoid(V2 relu(V1 Z)), where V1 and V2
    are 1x1 convolutions. The paper is about volumes, with three projections. Images have two, rows and columns; in 1D
    the map is its own projection, so that Z is the map.

    Source: Rickmann, Guha Roy, Sarasua, Navab, Wachinger, "'Project & Excite' Modules for Segmentation of Volumetric
    Medical Scans", MICCAI 2019 (arXiv 1906.04649), and "Recalibrating 3D ConvNets with Project & Excite", IEEE TMI
    39(7), 2020 (arXiv 2002.10994). Layers and biases are those of the authors' code.

    Args:
        channels: Number of channels C of the input and the output.
        reduction: Reduction r of the paper. The hidden layer has max(1, C // r) channels. The default is that of the
            other blocks and of the authors' code.
        bias: Whether the two linear layers have biases.
        identity: Whether the block starts as the identity, bit for bit: the last layer is initialised to zero and the
            gate is scaled by 2.

    Shape:
        (N, C, *spatial) -> (N, C, *spatial), with at least one spatial axis.

    Raises:
        UserError: At construction, `channels` or `reduction` is below 1. In a call, the input has no spatial axis or
            other than C channels.
    """

    def __init__(self, channels: int, *, reduction: int = REDUCTION, bias: bool = True, identity: bool = False) -> None:
        super().__init__()
        self.channels = check_positive("channels", channels)
        self.reduction = check_positive("reduction", reduction)
        self.identity = identity
        self.with_bias = bias
        width = hidden_width(channels, reduction, None)
        self.squeeze = nn.Linear(channels, width, bias=bias)
        self.excite = nn.Linear(width, channels, bias=bias)
        self.scale = 2.0 if identity else 1.0
        if identity:
            _zero(self.excite)

    def forward(self, x: Tensor) -> Tensor:
        """Recalibrate every element of `x`."""
        if not is_scripting():
            squeeze, excite = self.squeeze, self.excite
            if _are_plain(x, squeeze, excite):
                return functional.pe(x, squeeze.weight, squeeze.bias, excite.weight, excite.bias, scale=self.scale)
            _check(x, self.channels)
        return (x.flatten(2) * formulas.scaled(self.gates(x), self.scale)).view_as(x)

    def gates(self, x: Tensor) -> Tensor:
        """Compute the unscaled gates by calling the layers: (N, C, *spatial) -> (N, C, positions)."""
        # a layer that is called may be anything, so the first one gets Z itself, once
        hidden = torch.relu(self.squeeze(formulas.tiled_projections(x).flatten(2).transpose(1, 2)))
        return torch.sigmoid(self.excite(hidden)).transpose(1, 2)

    __jit_unused_properties__ = ("options",)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that construct this block again."""
        return {"reduction": self.reduction, "bias": self.with_bias, "identity": self.identity}

    def extra_repr(self) -> str:
        """Return the arguments of the constructor, as source text."""
        return _arguments_text(self.channels, self.options)


BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "cse": ChannelSE,
    "sse": SpatialSE,
    "scse": ConcurrentSE,
    "pe": ProjectExcite,
}
"""Block class of each variant. Variant "none" is the plain network and has no block."""

VARIANTS = ("none", *BLOCKS)
"""All variants, in the order in which they are listed: first those that the paper of scSE compares, in its order."""


def _arguments_text(channels: int, options: Mapping[str, Any]) -> str:
    return ", ".join([str(channels), *(f"{name}={value!r}" for name, value in options.items())])


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _are_plain(x: Tensor, *layers: nn.Module) -> bool:
    """Return whether using the weights of the layers directly equals calling the layers on `x`."""
    # torch.fx traces with proxies, which are no tensors
    return isinstance(x, Tensor) and all(_is_unchanged(layer, nn.Linear) for layer in layers)


def _is_unchanged(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether calling a module runs the forward of this class and nothing else."""
    return (
        type(module) is kind
        and "forward" not in module.__dict__
        and not (
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
            or _has_any_global_hook()
        )
    )


def _check(x: Tensor, channels: int) -> None:
    if isinstance(x, Tensor):
        functional.check_map(x, channels)
