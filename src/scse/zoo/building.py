"""Networks built from their names, plain or with the blocks of a variant."""

import importlib
import inspect
import re
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scse.attachment.attaching import attach
from scse.attachment.patterns import candidates, generalize
from scse.attachment.placements import placements
from scse.attachment.stages import find_stages, known_places, list_stages, suggest
from scse.networks import NETWORKS
from scse.support.checks import check_choice
from scse.support.errors import UserError, in_short
from scse.vocabulary.options import AGGREGATIONS
from scse.vocabulary.specs import NetworkSpec
from scse.vocabulary.variants import Variant
from scse.zoo.catalogue import LIBRARIES, Library, check_placement, check_supervision
from scse.zoo.fitting import Fit, Patch, fit_options
from scse.zoo.supervision import resolutions, supervised_options
from scse.zoo.user_files import load_function

MULTIPLE = 32
"""Networks of five halvings take sizes that are multiples of it; those fitted to the data have others."""


def build_network(
    spec: NetworkSpec,
    arguments: Mapping[str, int],
    *,
    variant: Variant,
    size: Sequence[int],
    spacing: Sequence[float] | None = None,
    fitted: bool = True,
    attach_to: str = "auto",
    deep_supervision: bool = False,
    pretrained: bool = True,
) -> nn.Module:
    """Build a variant of any network, which accepts images of any size.

    The paper's networks place their blocks themselves. Blocks are attached to other networks after all of the
    network's own weights are drawn: for one seed, all variants share the weights of the plain network. Attached
    blocks start as the identity, except with the aggregation "multiply", which has none.

    Args:
        spec: Network to build.
        arguments: in_channels and classes; for the paper's networks also width, depth and kernel_size.
        variant: Blocks of the network.
        size: Size of an image that the network must accept.
        spacing: Millimetres per pixel along each axis of it; None if they are equal or unknown.
        fitted: Whether networks that `scse.zoo.fitting` knows get the options that follow from size and spacing. False
            gives those of earlier versions, which were the same for all data.
        attach_to: Modules of other networks that get a block, see `to` of `scse.attach`.
        deep_supervision: Whether the network returns logits at all its resolutions in training, see `Sized`.
        pretrained: Whether the network may download weights that its options ask for.

    Raises:
        UserError: The network cannot be built, does not return logits at the size of its input, has no place for
            blocks, has no encoder and decoder that a placement could name, or offers no deep supervision.
    """
    check_placement(spec, variant)
    if deep_supervision:
        check_supervision(spec)
    if spec.is_own:
        return NETWORKS[spec.name](**arguments, spatial_dims=len(size), recalibration=variant)
    fit = fit_options(spec, Patch.of(size, spacing)) if fitted else None
    return _build_other(
        spec,
        **arguments,
        variant=variant,
        size=size,
        fit=fit,
        attach_to=attach_to,
        deep_supervision=deep_supervision,
        pretrained=pretrained,
    )


def build_plain(
    spec: NetworkSpec,
    arguments: Mapping[str, int],
    *,
    fit: Fit | None = None,
    deep_supervision: bool = False,
    pretrained: bool = True,
) -> nn.Module:
    """Build a network without blocks and without padding.

    Args:
        spec: Network to build.
        arguments: in_channels, classes and spatial_dims; for the paper's networks also their other arguments.
        fit: Options that follow from the data; None takes those of the library and of the name alone.
        deep_supervision: Whether the network returns all its resolutions in training, in the form of its library.
        pretrained: Whether the network may download weights that its options ask for.

    Raises:
        UserError: The network cannot be built.
    """
    make = find_factory(spec, fit=fit, deep_supervision=deep_supervision, pretrained=pretrained)
    try:
        network = make(**arguments)
    # other people's code may raise anything
    except Exception as error:
        told = ", ".join(f"{name}={value!r}" for name, value in {**arguments, **spec.options}.items())
        raise UserError(f"{spec.text} cannot be built with {told} ({in_short(error)}); correct its options") from error
    if not isinstance(network, nn.Module):
        raise UserError(f"{spec.text} must return a torch.nn.Module, got {type(network).__name__}")
    return network


def describe_places(network: nn.Module) -> str:
    """Patterns of the modules that have a block, in a network that `build_network` returned."""
    inner = network.network if isinstance(network, Sized) else network
    return generalize(placements(inner).names, [name for name in candidates(inner) if name])


def explain(network: nn.Module, example: Tensor) -> str:
    """Describe where blocks can be attached in a network: the places of "auto", its stages, and patterns for them."""
    names = [name for name in candidates(network) if name]
    stages, known = find_stages(network, example), known_places(network)
    auto = f"attaches to {generalize(known, names)}" if known else f"does not know {type(network).__name__}"
    lines = [f"auto {auto}"]
    if stages:
        lines += [f"stages, for an input {tuple(example.shape)}:", list_stages(stages)]
        lines += [f"all stages: {suggest(network, stages)}"]
    return "\n".join(lines)


def find_factory(
    spec: NetworkSpec, *, fit: Fit | None = None, deep_supervision: bool = False, pretrained: bool = True
) -> Callable[..., object]:
    """Import the function that builds a network from in_channels, classes and spatial_dims; a user's file is run.

    Args:
        spec: Network to build.
        fit: Options of a listed network that follow from the data.
        deep_supervision: Whether it returns all its resolutions in training.
        pretrained: Whether the network may download weights that its options ask for.

    Raises:
        UserError: The library is not installed, has no such option, or the file does not exist, fails, or has no such
            function.
    """
    if spec.is_own:
        return NETWORKS[spec.name]
    if spec.is_file:
        return partial(load_function(spec), **spec.options)
    library = LIBRARIES[spec.source]
    try:
        # imports of the libraries themselves may warn
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            make = getattr(importlib.import_module(library.module), spec.name)
    except ImportError as error:
        raise UserError(
            f"{spec.text} needs {library.module}, which cannot be imported ({error}): {library.install}"
        ) from error
    _check_options(spec, make, library)
    chosen = spec.options if fit is None else fit.options
    options = {**library.networks[spec.name], **chosen, **({} if pretrained else library.offline)}
    options = supervised_options(spec, options) if deep_supervision else options
    return partial(_make_listed, spec, library, partial(make, **options))


class Sized(nn.Module):
    """Lets a network accept any size: pads the image at its far edges to multiples, and crops the logits.

    The padding repeats the last rows and columns, because zeros would look like a dark border of the image.

    Args:
        network: Network that returns logits (N, classes, *spatial) at the size of its input.
        spec: Its name, for messages.
        classes: Number of classes that it must return.
        fit: What follows from the data; None pads to multiples of 32.
        deep_supervision: Whether the network has deep supervision.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        spec: NetworkSpec,
        classes: int,
        fit: Fit | None = None,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        self.split = partial(resolutions, spec) if deep_supervision else None
        self.network = network
        self.name = spec.text
        self.classes = classes
        self.fitted = fit is not None
        self.multiple = None if fit is None else fit.multiple

    def filled(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Size of an image after padding."""
        multiple = (MULTIPLE,) * len(sizes) if self.multiple is None else self.multiple
        return tuple(size + -size % step for size, step in zip(sizes, multiple, strict=True))

    def forward(self, x: Tensor) -> Tensor | Sequence[Tensor]:
        """Logits of every class: (N, in_channels, *spatial) -> (N, classes, *spatial).

        With deep supervision and in training, a sequence of them by resolution, the full one first, which are not cut:
        each covers the padded image.

        Raises:
            UserError: The network returns anything else.
        """
        sizes = x.shape[2:]
        pairs = list(zip(sizes, self.filled(sizes), strict=True))
        padding = [added for size, filled in reversed(pairs) for added in (0, filled - size)]
        x = F.pad(x, padding, mode="replicate") if any(padding) else x
        logits = self.network(x)
        outputs = None if self.split is None else self.split(self.network, logits)
        logits = logits if outputs is None else outputs[0]
        wanted = (x.shape[0], self.classes, *x.shape[2:])
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if found != wanted:
            mode = "training" if self.training else "evaluation"
            raise UserError(
                f"{self.name} must give one tensor of logits (N, classes, *spatial) at the size of its input, "
                f"{wanted} for an image {tuple(x.shape)}; in {mode} it gives {found}: leave out what adds outputs, "
                "or wrap it in a factory of your own that returns the logits alone"
            )
        if outputs is not None and self.training:
            return outputs
        return logits[:, :, *(slice(size) for size in sizes)]


def _build_other(
    spec: NetworkSpec,
    *,
    in_channels: int,
    classes: int,
    variant: Variant,
    size: Sequence[int],
    fit: Fit | None,
    attach_to: str,
    deep_supervision: bool,
    pretrained: bool,
) -> nn.Module:
    arguments = {"in_channels": in_channels, "classes": classes, "spatial_dims": len(size)}
    network = build_plain(spec, arguments, fit=fit, deep_supervision=deep_supervision, pretrained=pretrained)
    sized = Sized(network, spec=spec, classes=classes, fit=fit, deep_supervision=deep_supervision)
    _check_forward(sized, spec, (1, in_channels, *size))
    if variant.kind != "none":
        identity = AGGREGATIONS[variant.aggregation] is not None
        example = torch.zeros(1, in_channels, *sized.filled(size))
        try:
            attach(network, variant.kind, to=attach_to, example=example, identity=identity, **variant.block_options)
        except ValueError as error:
            look = f"`scse places --explain {shlex.quote(spec.text)}` lists its modules"
            raise UserError(f"{spec.text}: no blocks with attach_to={attach_to!r} ({look}): {error}") from error
    return sized


def _check_forward(sized: Sized, spec: NetworkSpec, shape: tuple[int, ...]) -> None:
    sized.eval()
    try:
        with torch.no_grad():
            sized(torch.zeros(shape))
    except UserError:
        raise
    # other people's code may raise anything
    except Exception as error:
        filled = sized.filled(shape[2:])
        raise UserError(
            f"{spec.text} does not take an image of {shape[1]} channels and {filled} pixels ({in_short(error)}); "
            "choose another network, or options that fit"
        ) from error
    sized.train()


def _make_listed(spec: NetworkSpec, library: Library, make: Callable[..., object], **arguments: int) -> object:
    dims = arguments["spatial_dims"]
    if dims not in library.spatial_dims:
        allowed = " or ".join(map(str, library.spatial_dims))
        raise UserError(f"{spec.source} has networks of {allowed} spatial axes only, got spatial_dims={dims}")
    network = make(**{theirs: arguments[ours] for ours, theirs in library.arguments.items()})
    if library.initialize and isinstance(network, nn.Module):
        network.apply(getattr(network, library.initialize))
    return network


def _check_options(spec: NetworkSpec, make: Callable[..., object], library: Library) -> None:
    """Allow only the class's own parameters, and no paths or URLs: options may come from a saved model's folder."""
    parameters = inspect.signature(make).parameters.values()
    left_out = {*library.arguments.values(), *library.unnamed}
    taken = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name not in left_out]
    for name, value in spec.options.items():
        if name in library.supervised.get(spec.name, ()):
            raise UserError(
                f"{spec.text}: {name} follows from the setting deep_supervision of the training, such as --set "
                "deep_supervision=true; leave it out of the brackets"
            )
        check_choice(f"an option of {spec.source}:{spec.name}", name, taken)
        if isinstance(value, str) and not re.fullmatch(r"[\w.+-]*", value):
            allowed = "a name of letters, digits and ._+-"
            raise UserError(f"{spec.text}: {name} must be {allowed}, no file or address, got {value!r}")
