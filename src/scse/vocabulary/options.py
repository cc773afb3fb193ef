"""What blocks and networks can be asked for: choices, and the checks that every front end makes of them."""

from collections.abc import Callable, Sequence
from typing import Any

from scse.support.checks import check_choice, check_positive
from scse.support.errors import UserError

REDUCTION = 2
"""The paper's r."""

ACTIVATIONS = ("relu", "silu", "leaky-relu")
"""What cSE may have between its two layers: the paper's ReLU, and what other libraries have there."""

GATES = ("sigmoid", "hard-sigmoid", "relu")
"""What cSE may make its gates with: the paper's sigmoid, and what other libraries have there."""

AGGREGATIONS = ("add", "max", "multiply", "concat")
"""How scSE may join its two maps; the paper adds, its journal version (IEEE TMI 38(2), 2019) compares all four."""

IDENTITY_GATES = ("sigmoid", "hard-sigmoid")
"""The gates that are 0.5 at 0, so that twice the gate is the identity; "relu" is 0 there."""

IDENTITY_SCALE = {"add": 1.0, "max": 2.0}
"""Factor on the gates that makes gates of sigmoid(0) = 0.5 the identity; the other aggregations have none."""

ATTACH_OPTIONS = {
    "cse": ("reduction", "identity"),
    "sse": ("identity",),
    "scse": ("reduction", "aggregation", "identity"),
}
"""Which options of `attach` each variant takes."""


def check_channel_options(reduction: int, hidden: int | None, activation: str, gate: str, *, identity: bool) -> None:
    """Check the options of cSE.

    Raises:
        ValueError: `reduction` or `hidden` below 1, or both given, an unknown `activation` or `gate`, or
            `identity` with a gate that has none.
    """
    check_positive("reduction", reduction)
    if hidden is not None:
        check_positive("hidden", hidden)
        if reduction != REDUCTION:
            raise UserError(
                f"reduction and hidden both say how wide the hidden layer is, got reduction={reduction} and "
                f"hidden={hidden}; give one of them"
            )
    check_choice("activation", activation, ACTIVATIONS)
    check_choice("gate", gate, GATES)
    if identity and gate not in IDENTITY_GATES:
        raise UserError(
            f"gate {gate!r} cannot start as the identity; "
            f"use identity=False, or one of {', '.join(map(repr, IDENTITY_GATES))}"
        )


def check_aggregation(aggregation: str, *, identity: bool) -> None:
    """Check how scSE joins its maps.

    Raises:
        ValueError: an unknown `aggregation`, or `identity` with one that has none.
    """
    check_choice("aggregation", aggregation, AGGREGATIONS)
    if identity and aggregation not in IDENTITY_SCALE:
        raise UserError(
            f"aggregation {aggregation!r} cannot start as the identity; "
            f"use identity=False, or one of {', '.join(map(repr, IDENTITY_SCALE))}"
        )


def attach_options(
    recalibration: str | Callable[..., object], *, reduction: int, aggregation: str, identity: bool
) -> dict[str, Any]:
    """Choose the options of `attach` that go on to the block; a function that makes the block takes none.

    Raises:
        ValueError: `recalibration` is no known name, or an option that would do nothing is not at its default.
    """
    taken: tuple[str, ...] = ()
    told = "a function that makes the block"
    if isinstance(recalibration, str):
        taken = ATTACH_OPTIONS[check_choice("recalibration", recalibration, ATTACH_OPTIONS)]
        told = repr(recalibration)
    given = {"reduction": reduction, "aggregation": aggregation, "identity": identity}
    defaults = {"reduction": REDUCTION, "aggregation": "add", "identity": True}
    for name, value in given.items():
        if name not in taken and value != defaults[name]:
            raise UserError(f"{name}={value!r} has no effect on {told}; leave it out")
    return {name: given[name] for name in taken}


def hidden_width(channels: int, reduction: int, hidden: int | None) -> int:
    """Width of cSE's hidden layer: at least 1, so that few channels keep a live gate."""
    return hidden or max(1, channels // reduction)


TIRAMISU: dict[int, tuple[int, tuple[int, ...], int]] = {
    56: (12, (4, 4, 4, 4, 4), 4),
    67: (16, (5, 5, 5, 5, 5), 5),
    103: (16, (4, 5, 7, 10, 12), 15),
}
"""FC-DenseNet's size -> growth rate, layers of each encoder block, layers of the bottleneck."""


def check_tiramisu(size: int) -> int:
    """Return `size` if it is one of FC-DenseNet's, raise UserError otherwise."""
    if size not in TIRAMISU:
        raise UserError(f"size must be one of {', '.join(map(str, TIRAMISU))}, got {size!r}")
    return size


def check_spatial_dims(spatial_dims: int) -> int:
    """Return `spatial_dims` if it is 2 or 3, raise UserError otherwise."""
    if spatial_dims not in {2, 3}:
        raise UserError(f"spatial_dims must be 2 or 3, got {spatial_dims!r}")
    return spatial_dims


def check_kernel_size(kernel_size: int) -> int:
    """Return `kernel_size` if it is odd, so that padding keeps sizes; raise UserError otherwise."""
    if check_positive("kernel_size", kernel_size) % 2 == 0:
        raise UserError(f"kernel_size must be odd, got {kernel_size}")
    return kernel_size


def check_layers(layers: Sequence[int]) -> Sequence[int]:
    """Return the layers of FC-DenseNet's encoder blocks if there are any, raise UserError otherwise."""
    if not layers:
        raise UserError("layers must name at least one encoder block, got none")
    return layers


def check_size(network: str, depth: int, size: Sequence[int | None]) -> None:
    """Check that an image can be halved `depth` times.

    Args:
        network: its name, for the message.
        depth: number of halvings.
        size: of the spatial axes; None is one that is not known.

    Raises:
        ValueError: an axis is shorter than 2 ** depth.
    """
    if min(axis for axis in (*size, 2**depth) if axis is not None) < 2**depth:
        raise UserError(
            f"{network} of depth {depth} needs every spatial axis to be at least {2**depth}, got {tuple(size)}; "
            "pad the input or build the network with a smaller depth"
        )
