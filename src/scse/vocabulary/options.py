"""The options of blocks and networks: allowed values, and the checks that all front ends share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scse.support.checks import check_choice, check_positive
from scse.support.errors import UserError

REDUCTION = 2
"""Default reduction, the r of the paper."""

ACTIVATIONS = ("relu", "silu", "leaky-relu")
"""Activations between the two layers of cSE: the paper's ReLU, and those of other libraries."""

GATES: dict[str, float | None] = {"sigmoid": 2.0, "hard-sigmoid": 2.0, "relu": None}
"""Gate functions of cSE: the paper's sigmoid, and those of other libraries.

The value is the factor on the gates with which a block whose last layer is zero is the identity. "relu" has none,
because it is 0 at 0.
"""

AGGREGATIONS: dict[str, float | None] = {"add": 1.0, "max": 2.0, "multiply": None, "concat": None}
"""Ways in which scSE joins its two maps. The paper uses "add"; its journal version (IEEE TMI 38(2), 2019) compares all.

The value is the factor on both gates with which a block whose last layers are zero is the identity, if there is one.
"""

ATTACH_OPTIONS = {
    "cse": ("reduction", "identity"),
    "sse": ("identity",),
    "scse": ("reduction", "aggregation", "identity"),
    "pe": ("reduction", "identity"),
}
"""Options of `attach` that each variant accepts."""


def check_channel_options(reduction: int, hidden: int | None, activation: str, gate: str, *, identity: bool) -> float:
    """Check the options of cSE.

    Returns:
        Factor on the gates.

    Raises:
        UserError: `reduction` or `hidden` is below 1, both are given, `activation` or `gate` is unknown, or
            `identity` is set and the gate cannot start as the identity.
    """
    check_positive("reduction", reduction)
    if hidden is not None:
        check_positive("hidden", hidden)
        if reduction != REDUCTION:
            raise UserError(
                f"reduction and hidden both set the width of the hidden layer, got reduction={reduction} and "
                f"hidden={hidden}; give one of them"
            )
    check_choice("activation", activation, ACTIVATIONS)
    return _gate_scale("gate", gate, GATES, identity=identity)


def check_aggregation(aggregation: str, *, identity: bool) -> float:
    """Check the aggregation of scSE.

    Returns:
        Factor on both gates.

    Raises:
        UserError: `aggregation` is unknown, or `identity` is set and the aggregation cannot start as the identity.
    """
    return _gate_scale("aggregation", aggregation, AGGREGATIONS, identity=identity)


def _gate_scale(name: str, value: str, identity_scales: Mapping[str, float | None], *, identity: bool) -> float:
    """Check a choice, and return the factor on the gates: 1, or the one that makes the block start as the identity."""
    scale = identity_scales[check_choice(name, value, identity_scales)]
    if not identity:
        return 1.0
    if scale is None:
        allowed = ", ".join(repr(choice) for choice, known in identity_scales.items() if known is not None)
        raise UserError(f"{name} {value!r} cannot start as the identity; use identity=False, or one of {allowed}")
    return scale


def attach_options(
    recalibration: str | Callable[..., object], *, reduction: int, aggregation: str, identity: bool
) -> dict[str, Any]:
    """Select the options of `attach` that are passed on to the block. A function that makes the block accepts none.

    Raises:
        UserError: `recalibration` is an unknown name, or an option that has no effect differs from its default.
    """
    accepted: tuple[str, ...] = ()
    block = "a function that makes the block"
    if isinstance(recalibration, str):
        accepted = ATTACH_OPTIONS[check_choice("recalibration", recalibration, ATTACH_OPTIONS)]
        block = repr(recalibration)
    options = {"reduction": reduction, "aggregation": aggregation, "identity": identity}
    defaults = {"reduction": REDUCTION, "aggregation": "add", "identity": True}
    for name, value in options.items():
        if name not in accepted and value != defaults[name]:
            raise UserError(f"{name}={value!r} has no effect on {block}; leave it out")
    return {name: options[name] for name in accepted}


def hidden_width(channels: int, reduction: int, hidden: int | None) -> int:
    """Return the width of the hidden layer: at least 1, so that blocks of few channels still have a hidden unit."""
    return hidden or max(1, channels // reduction)


TIRAMISU: dict[int, tuple[int, tuple[int, ...], int]] = {
    56: (12, (4, 4, 4, 4, 4), 4),
    67: (16, (5, 5, 5, 5, 5), 5),
    103: (16, (4, 5, 7, 10, 12), 15),
}
"""Sizes of FC-DenseNet: growth rate, layers of each encoder block, and layers of the bottleneck."""


def check_tiramisu(size: int) -> int:
    """Return `size` if it is a size of FC-DenseNet, raise UserError otherwise."""
    if size not in TIRAMISU:
        raise UserError(f"size must be one of {', '.join(map(str, TIRAMISU))}, got {size!r}")
    return size


def check_spatial_dims(spatial_dims: int) -> int:
    """Return `spatial_dims` if it is 2 or 3, raise UserError otherwise."""
    if spatial_dims not in {2, 3}:
        raise UserError(f"spatial_dims must be 2 or 3, got {spatial_dims!r}")
    return spatial_dims


def check_kernel_size(kernel_size: int) -> int:
    """Return `kernel_size` if it is odd, so that padding keeps the image size; raise UserError otherwise."""
    if check_positive("kernel_size", kernel_size) % 2 == 0:
        raise UserError(f"kernel_size must be odd, got {kernel_size}")
    return kernel_size


def check_layers(layers: Sequence[int]) -> Sequence[int]:
    """Return the number of layers of each encoder block of FC-DenseNet, raise UserError if there is no block."""
    if not layers:
        raise UserError("layers must name at least one encoder block, got none")
    return layers


def check_size(network: str, depth: int, size: Sequence[int | None]) -> None:
    """Check that an image can be halved `depth` times.

    Args:
        network: Name of the network for the message.
        depth: Number of halvings.
        size: Lengths of the spatial axes; None where unknown.

    Raises:
        UserError: An axis is shorter than 2 ** depth.
    """
    if min(axis for axis in (*size, 2**depth) if axis is not None) < 2**depth:
        raise UserError(
            f"{network} of depth {depth} needs every spatial axis to be at least {2**depth}, got {tuple(size)}; "
            "pad the input or build the network with a smaller depth"
        )
