"""Options of networks that follow from the patch and its spacing, by the rule of nnU-Net."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from scse.support.errors import UserError
from scse.vocabulary.specs import NetworkSpec

SMALLEST_MAP = 4
"""Voxels along an axis below which nnU-Net pools no map."""

FEWEST_STAGES = 3
"""Stages that a network has also where patches are small: MONAI's DynUNet takes no fewer."""

FILLED = 4 * SMALLEST_MAP
"""Multiple to which smaller patches are filled."""

FEATURES = 32
MOST_FEATURES = {2: 512, 3: 320}
"""Channels of the first stage, which double from stage to stage up to these, by number of axes."""


@dataclass(frozen=True)
class Patch:
    """Input of a network.

    Attributes:
        size: Pixels along each axis.
        spacing: Millimetres per pixel along each axis, or anything proportional to it.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]

    @classmethod
    def of(cls, size: Sequence[int], spacing: Sequence[float] | None = None) -> "Patch":
        """A patch whose pixels are as long along all axes, unless a spacing is given."""
        return cls(tuple(size), (1.0,) * len(size) if spacing is None else tuple(spacing))


@dataclass(frozen=True)
class Stages:
    """Resolutions of a network, from the finest to the coarsest.

    Attributes:
        strides: Stride of each stage along each axis; 1 in the first.
        kernels: Size of the convolutions of each stage along each axis.
    """

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]


def nnunet_stages(patch: Patch) -> Stages:
    """Choose strides and kernels as nnU-Net does (Isensee et al. 2021, supplementary note 2).

    Every stage halves the axes whose spacing is below twice the smallest, while their maps keep at least 4 voxels. An
    axis has kernels of 1 until its spacing is below twice the smallest, and of 3 from then on. This is
    `get_pool_and_conv_props` of nnunetv2.experiment_planning with its smallest map of 4 voxels.
    """
    axes = range(len(patch.size))
    size, spacing = list(patch.size), list(patch.spacing)
    strides, kernels = [(1,) * len(axes)], list[tuple[int, ...]]()
    kernel = [1] * len(axes)
    while large := [axis for axis in axes if size[axis] >= 2 * SMALLEST_MAP]:
        finest = min(spacing[axis] for axis in large)
        pooled = [axis for axis in large if spacing[axis] / finest < 2]
        if len(pooled) == 1 and size[pooled[0]] < 3 * SMALLEST_MAP:
            break
        kernel = [3 if spacing[axis] / min(spacing) < 2 else kernel[axis] for axis in axes]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in pooled else 1 for axis in axes))
        for axis in pooled:
            size[axis], spacing[axis] = math.ceil(size[axis] / 2), spacing[axis] * 2
    return Stages(tuple(strides), (*kernels, (3,) * len(axes)))


@dataclass(frozen=True)
class Fit:
    """What a network needs for a patch.

    Attributes:
        options: Options of its class.
        multiple: Numbers along each axis to multiples of which its input is filled.
    """

    options: Mapping[str, Any]
    multiple: tuple[int, ...]


def fit_options(spec: NetworkSpec, patch: Patch) -> Fit | None:
    """Options of a listed network for a patch, those of its name included; None for classes that need none.

    Raises:
        UserError: An option of the name has another form than one entry for each stage, or another number of them.
    """
    fit = _FITS.get(f"{spec.source}:{spec.name}")
    return fit(spec, patch) if fit else None


def _dynunet(spec: NetworkSpec, patch: Patch) -> Fit:
    stages, multiple = _stages(spec, patch, counted=("filters", "strides", "kernel_size"))
    options = {
        "kernel_size": stages.kernels,
        "strides": stages.strides,
        "upsample_kernel_size": stages.strides[1:],
    }
    return Fit({**options, **spec.options}, multiple)


def _segresnet_ds(spec: NetworkSpec, patch: Patch) -> Fit:
    levels = len(_entries(spec, "blocks_down") if "blocks_down" in spec.options else _SEGRESNET_BLOCKS)
    uneven = max(patch.spacing) >= 2 * min(patch.spacing)
    resolution = {"resolution": patch.spacing} if uneven else {}
    return Fit({**resolution, **spec.options}, (2 ** (levels - 1),) * len(patch.size))


_SEGRESNET_BLOCKS = (1, 2, 2, 4)
"""Default of SegResNetDS."""


def _nnunet(blocks: str, encoder: Sequence[int], decoder: int) -> Callable[[NetworkSpec, Patch], Fit]:
    """Fit of a network of nnU-Net, as its planners choose it.

    Args:
        blocks: Option of the blocks or convolutions of each encoder stage.
        encoder: Their number in the first stages; all further stages have as many as the last.
        decoder: Number of convolutions of each decoder stage.
    """

    def fit(spec: NetworkSpec, patch: Patch) -> Fit:
        stages, multiple = _stages(
            spec, patch, counted=("n_stages", "features_per_stage", "strides", "kernel_sizes", blocks)
        )
        axes, count = len(patch.size), len(stages.strides)
        options = {
            "n_stages": count,
            "features_per_stage": tuple(min(FEATURES * 2**stage, MOST_FEATURES[axes]) for stage in range(count)),
            "kernel_sizes": stages.kernels,
            "strides": stages.strides,
            blocks: tuple(encoder[min(stage, len(encoder) - 1)] for stage in range(count)),
            "n_conv_per_stage_decoder": (decoder,) * (count - 1),
            "conv_op": {2: nn.Conv2d, 3: nn.Conv3d}[axes],
            "conv_bias": True,
            "norm_op": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[axes],
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": nn.LeakyReLU,
            "nonlin_kwargs": {"inplace": True},
        }
        return Fit({**options, **spec.options}, multiple)

    return fit


_FITS: Mapping[str, Callable[[NetworkSpec, Patch], Fit]] = {
    "monai:DynUNet": _dynunet,
    "monai:SegResNetDS": _segresnet_ds,
    "nnunet:PlainConvUNet": _nnunet("n_conv_per_stage", (2,), 2),
    "nnunet:ResidualEncoderUNet": _nnunet("n_blocks_per_stage", (1, 3, 4, 6), 1),
}
"""Network -> function of its name and patch."""


def _stages(spec: NetworkSpec, patch: Patch, *, counted: Sequence[str]) -> tuple[Stages, tuple[int, ...]]:
    """Stages of a network, and the multiples to which its input is filled.

    Args:
        spec: Its name. Strides that it gives replace those of the rule.
        patch: Its input.
        counted: Options with an entry for each stage, or that number. The rule gives no more stages than any of them.
    """
    axes, fewest = len(patch.size), 1
    stages = nnunet_stages(patch)
    if len(stages.strides) < FEWEST_STAGES:
        fewest = FILLED
        stages = nnunet_stages(Patch(tuple(max(size, FILLED) for size in patch.size), patch.spacing))
    if "strides" in spec.options:
        fewest = 1
        strides = tuple(_along(axes, spec, stride) for stride in _entries(spec, "strides"))
        stages = Stages(strides, ((3,) * axes,) * len(strides))
    counts = {name: _count(spec, name) for name in counted if name in spec.options}
    count = min([len(stages.strides), *(count for count in counts.values() if count is not None)])
    for name, given in counts.items():
        # a further filter is ignored by MONAI, as documented there
        if given is not None and given > count and name != "filters":
            raise UserError(
                f"{spec.text}: {name} is for {given} stages, and the network has {count}; give {count}, or give "
                "strides=(1,2,2,...) with as many"
            )
    strides = stages.strides[:count]
    product = (math.prod(stride[axis] for stride in strides) for axis in range(axes))
    return Stages(strides, stages.kernels[:count]), tuple(math.lcm(fewest, factor) for factor in product)


def _entries(spec: NetworkSpec, name: str) -> Sequence[Any]:
    value = spec.options[name]
    if not isinstance(value, list | tuple) or not value:
        raise UserError(f"{spec.text}: {name} must list an entry for each stage, such as {name}=(1,2,2), got {value!r}")
    return value


def _along(axes: int, spec: NetworkSpec, stride: object) -> tuple[int, ...]:
    values = (stride,) * axes if isinstance(stride, int) else stride
    if not isinstance(values, tuple | list) or len(values) != axes or not all(_is_count(value) for value in values):
        raise UserError(
            f"{spec.text}: an entry of strides must be a number, or one for each of {axes} axes, got {stride!r}"
        )
    return tuple(values)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 1


def _count(spec: NetworkSpec, name: str) -> int | None:
    """Number of stages that an option is for; None for one value for all stages."""
    value = spec.options[name]
    if name == "n_stages":
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{spec.text}: n_stages must be a positive number, got {value!r}")
        return value
    return len(value) if isinstance(value, list | tuple) else None
