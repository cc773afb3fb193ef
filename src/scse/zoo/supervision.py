"""Networks that return logits at several resolutions in training, and how each library returns them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Any

from torch import Tensor, nn

from scse.support.errors import UserError
from scse.vocabulary.specs import NetworkSpec
from scse.zoo.catalogue import check_supervision

FEWEST = 3
"""Resolutions that deep supervision needs to have an effect: the first is the output itself, the lowest is left out."""


@dataclass(frozen=True)
class _Form:
    """How a class is told to return logits at all its resolutions, and what it returns.

    Attributes:
        count: Number of resolutions, from the options of the class.
        options: Options that turn them on, from their number.
        split: What the network returned in training -> logits by resolution, the full one first.
    """

    count: Callable[[Mapping[str, Any]], int]
    options: Callable[[int], Mapping[str, Any]]
    split: Callable[[nn.Module, Any], Sequence[Tensor]]


def supervised_options(spec: NetworkSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with which a listed network returns logits at all its resolutions.

    Args:
        spec: Name of the network.
        options: All options of its class.

    Raises:
        UserError: The network offers no deep supervision, or has too few resolutions for it.
    """
    check_supervision(spec)
    form = _FORMS[spec.name]
    count = form.count(options)
    if count < FEWEST:
        raise UserError(
            f"{spec.text}: deep_supervision has no effect on a network of {count} resolutions, because the lowest is "
            "left out; leave it out, or choose more stages or larger images"
        )
    return {**options, **form.options(count)}


def resolutions(spec: NetworkSpec, network: nn.Module, returned: Any) -> Sequence[Tensor]:
    """Logits (N, classes, *spatial) by resolution, the full one first, from what a network returned.

    Args:
        spec: Name of the network, which was built with `supervised_options`.
        network: The network; in evaluation mode it has the full resolution alone.
        returned: What it returned.
    """
    outputs = _FORMS[spec.name].split(network, returned)
    return outputs if network.training else outputs[:1]


def _stages(options: Mapping[str, Any]) -> int:
    """Resolutions of a decoder: all but that of the bottleneck."""
    return len(options.get("strides", ())) - 1


def _split_dynunet(network: nn.Module, returned: Tensor) -> Sequence[Tensor]:
    """Take the lower resolutions out of the stack (N, resolutions, classes, *spatial) that MONAI returns.

    It repeats their voxels as often as the strides say, up to the full size; here, each is taken once.
    """
    if not network.training:
        return [returned]
    axes = returned.ndim - 3
    strides: Any = network.strides
    along = [(stride,) * axes if isinstance(stride, int) else tuple(stride) for stride in strides]
    steps = accumulate(along, lambda total, stride: tuple(map(mul, total, stride)))
    return [
        logits[:, :, *(slice(None, None, step) for step in each)]
        for logits, each in zip(returned.unbind(1), steps, strict=False)
    ]


def _dynunet_count(options: Mapping[str, Any]) -> int:
    """As many as its decoder has, or one more than the user asks for, as MONAI does not count the output itself."""
    asked = options.get("deep_supr_num", _stages(options) - 1)
    if not isinstance(asked, int):
        raise UserError(f"deep_supr_num must be a number of lower resolutions, got {asked!r}")
    return asked + 1


def _as_returned(network: nn.Module, returned: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [returned] if isinstance(returned, Tensor) else returned


_NNUNET = _Form(count=_stages, options=lambda count: {"deep_supervision": True}, split=_as_returned)
_FORMS: Mapping[str, _Form] = {
    "DynUNet": _Form(
        count=_dynunet_count,
        options=lambda count: {"deep_supervision": True, "deep_supr_num": count - 1},
        split=_split_dynunet,
    ),
    "SegResNetDS": _Form(
        count=lambda options: len(options.get("blocks_down", (1, 2, 2, 4))) - 1,
        options=lambda count: {"dsdepth": count},
        split=_as_returned,
    ),
    "PlainConvUNet": _NNUNET,
    "ResidualEncoderUNet": _NNUNET,
}
"""Class -> its form; the classes are those of `Library.supervised`."""
