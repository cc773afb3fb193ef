"""Any network by its name: the paper's, listed ones of other libraries, and a user's own factory in a file."""

import importlib
import importlib.util
import inspect
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

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
from scse.vocabulary.specs import Spec
from scse.vocabulary.variants import Variant

MULTIPLE = 32
"""Sizes that networks of five halvings take; what is smaller is filled up."""

FROM_DATA = ("in_channels", "classes", "spatial_dims")
"""What the data decide: every factory is called with these."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """Networks of another library.

    Attributes:
        package: that it comes in.
        module: where its classes are.
        install: what installs it.
        arguments: what the data decide -> what the library calls it.
        spatial_dims: that its networks can have.
        networks: class -> options that it gets unless the user gives others.
        offline: options that keep it from fetching weights.
    """

    package: str
    module: str
    install: str
    arguments: Mapping[str, str]
    spatial_dims: tuple[int, ...]
    networks: Mapping[str, Mapping[str, Any]]
    offline: Mapping[str, Any] = field(default_factory=dict)


_SMP = ("Unet", "UnetPlusPlus", "FPN", "DeepLabV3Plus", "Segformer", "MAnet", "Linknet", "PAN", "PSPNet", "UPerNet")
_LEVELS = {"channels": (32, 64, 128, 256, 320), "strides": (2, 2, 2, 2)}

LIBRARIES: dict[str, Library] = {
    "smp": Library(
        package="segmentation-models-pytorch",
        module="segmentation_models_pytorch",
        install="pip install 'scse[smp]'",
        arguments={"in_channels": "in_channels", "classes": "classes"},
        spatial_dims=(2,),
        networks={name: {"encoder_weights": None} for name in _SMP},
        offline={"encoder_weights": None},
    ),
    "monai": Library(
        package="monai",
        module="monai.networks.nets",
        install="pip install monai",
        arguments={"in_channels": "in_channels", "classes": "out_channels", "spatial_dims": "spatial_dims"},
        spatial_dims=(2, 3),
        networks={
            "BasicUNet": {},
            "UNet": {**_LEVELS, "num_res_units": 2},
            "DynUNet": {
                "kernel_size": (3, 3, 3, 3, 3),
                "strides": (1, 2, 2, 2, 2),
                "upsample_kernel_size": (2, 2, 2, 2),
            },
            "SegResNet": {},
            "AttentionUnet": _LEVELS,
        },
    ),
}
"""Networks that need no more than their name; a saved segmenter or run may name these, and no others."""


class Sized(nn.Module):
    """Lets a network take any size: fills the image at its far edges up to a multiple of 32, and cuts the logits.

    The image's last rows and columns are repeated, because the networks see what is filled up like the image.

    Args:
        network: gives logits (N, classes, *spatial) at the size of its input.
        spec: its name, for messages.
        classes: that it must give.
    """

    def __init__(self, network: nn.Module, *, spec: Spec, classes: int) -> None:
        super().__init__()
        self.network = network
        self.name = spec.text
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every class: (N, in_channels, *spatial) -> (N, classes, *spatial).

        Raises:
            ValueError: the network gives something else.
        """
        sizes = x.shape[2:]
        padding = [filled for size in reversed(sizes) for filled in (0, -size % MULTIPLE)]
        x = F.pad(x, padding, mode="replicate") if any(padding) else x
        logits = self.network(x)
        wanted = (x.shape[0], self.classes, *x.shape[2:])
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if found != wanted:
            mode = "training" if self.training else "evaluation"
            raise UserError(
                f"{self.name} must give one tensor of logits (N, classes, *spatial) at the size of its input, "
                f"{wanted} for an image {tuple(x.shape)}; in {mode} it gives {found}: leave out what adds outputs, "
                "or wrap it in a factory of your own that returns the logits alone"
            )
        cut: Tensor = logits[(..., *(slice(size) for size in sizes))]
        return cut


def check_network(text: str) -> Spec:
    """Read the name of a network; nothing is imported or run.

    Raises:
        ValueError: it is no name of the paper's networks or of a listed one, and no function in a Python file.
    """
    spec = Spec.parse(text)
    if reserved := [name for name in FROM_DATA if name in spec.options]:
        raise UserError(f"{text}: {', '.join(reserved)} come from the data; leave them out")
    if not spec.source and spec.name not in NETWORKS:
        others = f"{', '.join(f'{library}:CLASS' for library in LIBRARIES)} or FILE.py:FUNCTION"
        raise UserError(f"network must be one of {', '.join(map(repr, NETWORKS))}, {others}, got {text!r}")
    if spec.source in LIBRARIES:
        check_choice(f"the network of {spec.source}", spec.name, LIBRARIES[spec.source].networks)
    elif spec.source and not spec.is_file:
        libraries = ", ".join(map(repr, LIBRARIES))
        raise UserError(
            f"network {text!r}: {spec.source!r} is neither a library ({libraries}) nor a file that ends in .py"
        )
    return spec


def named_again(folder: Path, saved: str, network: str | None, *, fetching: bool = False) -> str:
    """Which network to build for a saved model or run: code of the user's own only if the caller names it.

    Args:
        folder: of the model or run.
        saved: name that was read there.
        network: name that the caller gives.
        fetching: whether weights that it asks for would be fetched, for which the caller must name it too.

    Raises:
        ValueError: the saved one is a factory and the caller names none, or the caller names another network.
    """
    spec = check_network(saved)
    if network is None:
        if spec.is_file:
            raise UserError(
                f"{folder}: its network is a factory in a file, {saved!r}, and what a folder names is not run; if you "
                "trust that file, name it yourself: network='FILE.py:FUNCTION' (--network on the command line)"
            )
        if fetching and fetches(spec):
            raise UserError(
                f"{folder}: its network {saved!r} would fetch weights; name it again to allow it (--network)"
            )
        return saved
    given = check_network(network)
    moved = spec.is_file and given.is_file and (given.name, given.options) == (spec.name, spec.options)
    if network != saved and not moved:
        raise UserError(f"{folder}: its network is {saved!r}, got network={network!r}; name the same one")
    return network


def fetches(spec: Spec) -> bool:
    """Whether the options of a listed network ask for weights that are fetched."""
    offline = LIBRARIES[spec.source].offline if spec.source in LIBRARIES else {}
    return any(spec.options.get(name, value) != value for name, value in offline.items())


def code_digest(text: str) -> dict[str, str]:
    """Name and SHA-256 of the file that a network is made in; nothing for the paper's and listed networks.

    Raises:
        ValueError: the file is not there.
    """
    spec = check_network(text)
    if not spec.is_file:
        return {}
    path = _file(spec)
    return {path.name: sha256(path.read_bytes()).hexdigest()[:16]}


def find_maker(spec: Spec, *, pretrained: bool = True) -> Callable[..., object]:
    """Import what builds a network, called with what the data decide; a file of the user's own is run.

    Args:
        spec: of the network.
        pretrained: whether it may fetch weights that its options ask for.

    Raises:
        ValueError: a library that is not installed, an option that it does not have, a file that is not there,
            fails, or has no such function.
    """
    if not spec.source:
        return NETWORKS[spec.name]
    if spec.is_file:
        return partial(_load_function(spec), **spec.options)
    library = LIBRARIES[spec.source]
    try:
        # of what the libraries import themselves
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            make = getattr(importlib.import_module(library.module), spec.name)
    except ImportError as error:
        raise UserError(
            f"{spec.text} needs {library.module}, which cannot be imported ({error}): {library.install}"
        ) from error
    _check_options(spec, make, library)
    options = {**library.networks[spec.name], **spec.options, **({} if pretrained else library.offline)}
    return partial(_make_listed, spec, library, partial(make, **options))


def build_network(
    text: str,
    arguments: Mapping[str, int],
    *,
    variant: str = "none",
    size: Sequence[int],
    attach_to: str = "auto",
    pretrained: bool = True,
) -> nn.Module:
    """Build a variant of any network, which takes images of any size.

    The paper's networks place their blocks themselves. Into others they are attached, after all their own weights
    are drawn: for one seed, the variants share what the plain network has. Attached blocks start as the identity, but
    for the aggregation "multiply", which has none.

    Args:
        text: name of the network.
        arguments: in_channels and classes; of the paper's networks also width, depth and kernel_size.
        variant: "none", "cse", "sse" or "scse", with or without options, see `scse.variants`.
        size: of an image that it must take.
        attach_to: where others get their blocks, see `to` of `scse.attach`.
        pretrained: whether the network may fetch weights that its options ask for.

    Raises:
        ValueError: it cannot be built, or gives no logits at the size of its input, or the blocks find no place, or
            the variant has a placement, which only the paper's networks know.
    """
    spec = check_network(text)
    check_placement(text, variant)
    if not spec.source:
        return NETWORKS[spec.name](**arguments, spatial_dims=len(size), recalibration=variant)
    return _build_other(spec, **arguments, variant=variant, size=size, attach_to=attach_to, pretrained=pretrained)


def check_placement(network: str, variant: str) -> None:
    """Refuse a placement for a network that is not ours.

    Raises:
        ValueError: the network is another one, and the variant names a placement.
    """
    chosen = Variant.parse(variant)
    if check_network(network).source and chosen.placement != "both":
        raise UserError(
            f"variant {variant}: placement has no effect on {network}, which has no encoder and decoder that scse "
            "knows; leave it out, and say where its blocks go with attach_to (--attach-to)"
        )


def build_plain(spec: Spec, arguments: Mapping[str, int], *, pretrained: bool = True) -> nn.Module:
    """Build a network as it is: any size that it can take, without blocks.

    Args:
        spec: of the network.
        arguments: in_channels, classes, spatial_dims; of the paper's networks also others of theirs.
        pretrained: whether the network may fetch weights that its options ask for.

    Raises:
        ValueError: it cannot be built.
    """
    make = find_maker(spec, pretrained=pretrained)
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
    """Patterns of the modules that have a block, in a network that `build_network` made."""
    inner = network.network if isinstance(network, Sized) else network
    return generalize(placements(inner).names, [name for name in candidates(inner) if name])


def explain(network: nn.Module, example: Tensor) -> str:
    """What there is to attach to in a network: where "auto" does, its stages, and patterns for all of them."""
    names = [name for name in candidates(network) if name]
    stages, known = find_stages(network, example), known_places(network)
    auto = f"attaches to {generalize(known, names)}" if known else f"does not know {type(network).__name__}"
    lines = [f"auto {auto}"]
    if stages:
        lines += [f"stages, for an input {tuple(example.shape)}:", list_stages(stages)]
        lines += [f"all stages: {suggest(network, stages)}"]
    return "\n".join(lines)


def _build_other(
    spec: Spec,
    *,
    in_channels: int,
    classes: int,
    variant: str,
    size: Sequence[int],
    attach_to: str,
    pretrained: bool,
) -> nn.Module:
    arguments = {"in_channels": in_channels, "classes": classes, "spatial_dims": len(size)}
    network = build_plain(spec, arguments, pretrained=pretrained)
    sized = Sized(network, spec=spec, classes=classes)
    _check_forward(sized, spec, (1, in_channels, *size))
    chosen = Variant.parse(variant)
    if chosen.kind != "none":
        filled = (size + -size % MULTIPLE for size in size)
        identity = AGGREGATIONS[chosen.aggregation] is not None
        example = torch.zeros(1, in_channels, *filled)
        try:
            attach(network, chosen.kind, to=attach_to, example=example, identity=identity, **chosen.block_options)
        except ValueError as error:
            look = f"`scse attach --explain {shlex.quote(spec.text)}` lists its modules"
            raise UserError(f"{spec.text}: no blocks with attach_to={attach_to!r} ({look}): {error}") from error
    return sized


def _check_forward(sized: Sized, spec: Spec, shape: tuple[int, ...]) -> None:
    sized.eval()
    try:
        with torch.no_grad():
            sized(torch.zeros(shape))
    except UserError:
        raise
    # other people's code may raise anything
    except Exception as error:
        filled = tuple(size + -size % MULTIPLE for size in shape[2:])
        raise UserError(
            f"{spec.text} does not take an image of {shape[1]} channels and {filled} pixels ({in_short(error)}); "
            "choose another network, or options that fit"
        ) from error
    sized.train()


def _make_listed(spec: Spec, library: Library, make: Callable[..., object], **arguments: int) -> object:
    dims = arguments["spatial_dims"]
    if dims not in library.spatial_dims:
        allowed = " or ".join(map(str, library.spatial_dims))
        raise UserError(f"{spec.source} has networks of {allowed} spatial axes only, got spatial_dims={dims}")
    return make(**{theirs: arguments[ours] for ours, theirs in library.arguments.items()})


def _check_options(spec: Spec, make: Callable[..., object], library: Library) -> None:
    """Let by what the class itself names, and no file or address: options may come from a saved model's folder."""
    parameters = inspect.signature(make).parameters.values()
    taken = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name not in library.arguments.values()]
    for name, value in spec.options.items():
        check_choice(f"an option of {spec.source}:{spec.name}", name, taken)
        if isinstance(value, str) and not re.fullmatch(r"[\w.+-]*", value):
            allowed = "a name of letters, digits and ._+-"
            raise UserError(f"{spec.text}: {name} must be {allowed}, no file or address, got {value!r}")


def _load_function(spec: Spec) -> Callable[..., object]:
    path = _file(spec)
    module_spec = importlib.util.spec_from_file_location(f"scse_network_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{path}: is no Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses and pickle look it up there
    try:
        with _beside(path):
            module_spec.loader.exec_module(module)
    # other people's code may raise anything
    except Exception as error:
        raise UserError(f"{path}: cannot be run ({in_short(error)}); correct it") from error
    function: object = getattr(module, spec.name, None)
    if not callable(function):
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        found = f"it has {', '.join(own)}" if own else "it has none"
        raise UserError(f"{path}: has no function or class {spec.name}; {found}")
    return function


def _file(spec: Spec) -> Path:
    path = Path(spec.source).expanduser()
    if not path.is_file():
        raise UserError(f"{spec.text}: there is no file {path}; give the path of a Python file, then :FUNCTION")
    return path


@contextmanager
def _beside(path: Path) -> Generator[None]:
    """Let a file import what lies beside it, as it could if it were run itself."""
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(path.parent.resolve()))
