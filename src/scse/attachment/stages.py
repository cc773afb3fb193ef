"""The encoder and decoder blocks of a model: found by name in known families, and by their outputs in other models."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from scse.attachment.examples import Example, Output, run, spatial_axes
from scse.attachment.patterns import candidates, generalize
from scse.vocabulary.patterns import matches

_SMP = "segmentation_models_pytorch.decoders"
_RESNET = ("encoder.layer?", 0)

_FAMILIES: dict[str, tuple[tuple[tuple[str, int], ...], ...]] = {
    "scse.networks.base.EncoderDecoder": ((("encoder.*", 0), ("decoder.*", 0)),),
    **{
        f"{_SMP}.{name.lower()}.model.{name}": ((_RESNET, ("decoder.blocks.*", 0)),)
        for name in ("Unet", "UnetPlusPlus", "MAnet", "Linknet")
    },
    f"{_SMP}.fpn.model.FPN": ((_RESNET, ("decoder.seg_blocks.*", 0)),),
    f"{_SMP}.deeplabv3.model.DeepLabV3Plus": ((_RESNET, ("decoder.aspp", 0), ("decoder.block?", 0)),),
    f"{_SMP}.segformer.model.Segformer": ((_RESNET, ("decoder.mlp_stage.*", 0), ("decoder.fuse_stage", 0)),),
    "torchvision.models.segmentation.fcn.FCN": ((("backbone.layer?", 0), ("classifier.2", 0)),),
    "torchvision.models.segmentation.deeplabv3.DeepLabV3": (
        (("backbone.layer?", 0), ("classifier.0", 0), ("classifier.3", 0)),
    ),
    # the last block of each resolution
    "torchvision.models.segmentation.lraspp.LRASPP": (
        (*((f"backbone.{block}", 0) for block in (1, 3, 6, 12, 15)), ("classifier.cbr", 0)),
    ),
    "timm.models._features.FeatureListNet": ((("layer?", 0),), (("stages_?", 0),)),
    "monai.networks.nets.basic_unet.BasicUNet": ((("conv_0", 0), ("down_?", 1), ("upcat_?", 0)),),
    # its last transposed convolution computes the logits
    "monai.networks.nets.unet.UNet": ((("model.0", 0), ("**.submodule.0", 0), ("**.submodule.2", 0)),),
    "monai.networks.nets.attentionunet.AttentionUnet": (
        (("model.0", 0), ("model.1", 0), ("**.submodule.0", 0), ("**.submodule.1", 0)),
    ),
    "monai.networks.nets.dynunet.DynUNet": ((("input_block", 0), ("downsamples.*", 0), ("upsamples.*", 0)),),
    "monai.networks.nets.segresnet.SegResNet": ((("down_layers.*", 1), ("up_layers.*", 0)),),
    # its levels are dictionaries, which do not run; what runs are the blocks in them
    "monai.networks.nets.segresnet_ds.SegResNetDS": ((("encoder.layers.*.blocks", 1), ("up_layers.*.blocks", 0)),),
    "dynamic_network_architectures.architectures.unet.PlainConvUNet": (
        (("encoder.stages.*", 1), ("decoder.stages.*", 0)),
    ),
    "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet": (
        (("encoder.stages.*", 1), ("decoder.stages.*", 0)),
    ),
}
"""Class -> alternatives, each a tuple of (pattern, number of last matches to omit).

The omitted modules are the bottleneck, after which the paper places no block (MICCAI 2018, section 3). The encoders of
pretrained classifiers have no bottleneck: their deepest stage is an encoder block like the others.
"""


MAX_RESOLUTIONS = 2
"""Most resolutions in an encoder or decoder block: that of its input and that of its output."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a model that returns one feature map.

    Attributes:
        name: Name in `named_modules`.
        kind: Name of the class.
        shape: Shape of the output, (N, C, *spatial).
    """

    name: str
    kind: str
    shape: tuple[int, ...]


def known_places(model: nn.Module) -> list[str] | None:
    """Return the names of the encoder and decoder blocks of a known family, None for other models."""
    names = [name for name in candidates(model) if name]
    for kind in type(model).__mro__:
        for alternative in _FAMILIES.get(f"{kind.__module__}.{kind.__qualname__}", ()):
            groups = [_matches_without_last(names, pattern, omitted) for pattern, omitted in alternative]
            if any(groups[0]):
                return [name for group in groups for name in group]
    return None


def _matches_without_last(names: Sequence[str], pattern: str, omitted: int) -> list[str]:
    matched = [name for name in names if matches(name, pattern)]
    return matched[: len(matched) - omitted]


def find_stages(model: nn.Module, example: Example | None = None) -> list[Stage]:
    """List the parts of a model that return one feature map each, in the order in which they ran.

    A part is listed as a whole if its convolutions have the resolution of its output and at most one other, as in the
    blocks of an encoder or a decoder. Otherwise the parts inside it are listed.

    Args:
        model: Model to search.
        example: Input of the model. Default: a guess, see `scse.attach`.

    Raises:
        UserError: The example does not run through the model.
    """
    modules = candidates(model)
    outputs = run(model, example, modules.values())
    axes = spatial_axes(model, example)
    found: dict[nn.Module, Stage] = {}

    def visit(name: str, module: nn.Module) -> None:
        parts = _running_parts(name, module, outputs)
        containers = [(name, part) for name, part in parts if any(True for _ in part.children())]
        shape = _map_shape(outputs.get(module, []), axes)
        if name and shape and _is_one_block(shape, module, [part for _, part in parts], outputs):
            found[module] = Stage(name, type(module).__name__, shape)
            return
        for part_name, part in containers or parts:
            visit(part_name, part)

    visit("", model)
    ordered = [found[module] for module in outputs if module in found]
    return ordered[:-1] if _is_head(ordered, outputs.get(model, []), axes) else ordered


def suggest(model: nn.Module, stages: Sequence[Stage]) -> str:
    """Return patterns that match exactly these stages."""
    return generalize([stage.name for stage in stages], [name for name in candidates(model) if name])


def list_stages(stages: Sequence[Stage]) -> str:
    """Format a line for each stage with its name, class and output shape."""
    widths = [max(len(getattr(stage, field)) for stage in stages) for field in ("name", "kind")]
    return "\n".join(f"  {s.name:<{widths[0]}}  {s.kind:<{widths[1]}}  {tuple(s.shape)}" for s in stages)


def _running_parts(name: str, module: nn.Module, outputs: dict[nn.Module, list[Output]]) -> list[tuple[str, nn.Module]]:
    """Return the direct submodules that ran. Those that did not run, such as lists, are replaced by their children."""
    parts = []
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}" if name else child_name
        parts += [(path, child)] if child in outputs else _running_parts(path, child, outputs)
    return parts


def _map_shape(outputs: Sequence[Output], axes: int) -> tuple[int, ...] | None:
    """Return the shape of the feature map that a module returned, None if its outputs are not exactly one map."""
    if len(outputs) != 1 or outputs[0].shape is None or len(outputs[0].shape) != axes + 2:
        return None
    return outputs[0].shape


def _is_one_block(
    shape: tuple[int, ...], module: nn.Module, parts: Sequence[nn.Module], outputs: dict[nn.Module, list[Output]]
) -> bool:
    if any(output.shape is None for part in parts for output in outputs[part]):
        return False
    # only convolutions, because their outputs have the channels first; modules between them may have another layout
    convolutions = [inner for inner in module.modules() if isinstance(inner, _ConvNd)]
    shapes = [output.shape for inner in convolutions for output in outputs.get(inner, []) if output.shape is not None]
    # maps of one voxel are ignored, because they belong to gates
    resolutions = {inner[2:] for inner in shapes if any(size > 1 for size in inner[2:])}
    return len(resolutions | {shape[2:]}) <= MAX_RESOLUTIONS


def _is_head(stages: Sequence[Stage], result: Sequence[Output], axes: int) -> bool:
    """Return whether the last stage computes the logits."""
    logits = _map_shape(result, axes)
    return bool(stages) and logits is not None and stages[-1].shape[1] == logits[1]
