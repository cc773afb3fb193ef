"""The names of networks: the paper's, those of other libraries, and functions in files; nothing is imported or run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from scse.support.checks import check_choice
from scse.support.errors import UserError
from scse.vocabulary.specs import NetworkSpec
from scse.vocabulary.titles import NETWORK_NAMES
from scse.vocabulary.variants import Variant

RESERVED = ("in_channels", "classes", "spatial_dims")
"""Arguments that every network gets from the data."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """Networks of another library.

    Attributes:
        package: Name of its distribution.
        module: Module with its classes.
        install: Command that installs it.
        arguments: Argument of scse -> name of the same argument in the library.
        spatial_dims: Numbers of spatial axes that its networks support.
        networks: Class -> options that scse sets unless the user gives others, or `scse.zoo.fitting` does for the data.
        offline: Options with which no weights are downloaded.
        unnamed: Options that take classes or functions, which no name can hold.
        supervised: Class -> options of deep supervision, for those that offer it; the setting `deep_supervision` sets
            them.
        initialize: Method of the networks that draws the weights of a module, and is applied to all of them; "" for
            networks that draw theirs when they are built.
    """

    package: str
    module: str
    install: str
    arguments: Mapping[str, str]
    spatial_dims: tuple[int, ...]
    networks: Mapping[str, Mapping[str, Any]]
    offline: Mapping[str, Any] = field(default_factory=dict)
    unnamed: tuple[str, ...] = ()
    supervised: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    initialize: str = ""


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
            "SegResNetDS": {"norm": "instance"},
            "AttentionUnet": _LEVELS,
        },
        supervised={"DynUNet": ("deep_supervision",), "SegResNetDS": ("dsdepth",)},
    ),
    "nnunet": Library(
        package="dynamic-network-architectures",
        module="dynamic_network_architectures.architectures.unet",
        install="pip install 'scse[nnunet]'",
        arguments={"in_channels": "input_channels", "classes": "num_classes"},
        spatial_dims=(2, 3),
        networks={"PlainConvUNet": {}, "ResidualEncoderUNet": {}},
        unnamed=("conv_op", "norm_op", "dropout_op", "nonlin", "block"),
        supervised=dict.fromkeys(("PlainConvUNet", "ResidualEncoderUNet"), ("deep_supervision",)),
        initialize="initialize",
    ),
}
"""Libraries by their prefix; a saved segmenter or run may name these networks, the paper's, and no others."""


def read_network(text: str) -> NetworkSpec:
    """Parse the name of a network and check that there is such a network; nothing is imported or run.

    Raises:
        UserError: The name is neither of the paper's networks, nor listed in `LIBRARIES`, nor a function in a Python
            file.
    """
    spec = NetworkSpec.parse(text)
    if reserved := [name for name in RESERVED if name in spec.options]:
        raise UserError(f"{text}: {', '.join(reserved)} come from the data; leave them out")
    if spec.is_own and spec.name not in NETWORK_NAMES:
        others = f"{', '.join(f'{library}:CLASS' for library in LIBRARIES)} or FILE.py:FUNCTION"
        raise UserError(f"network must be one of {', '.join(map(repr, NETWORK_NAMES))}, {others}, got {text!r}")
    if spec.source in LIBRARIES:
        check_choice(f"the network of {spec.source}", spec.name, LIBRARIES[spec.source].networks)
    elif spec.source and not spec.is_file:
        libraries = ", ".join(map(repr, LIBRARIES))
        raise UserError(
            f"network {text!r}: {spec.source!r} is neither a library ({libraries}) nor a file that ends in .py"
        )
    return spec


def check_placement(network: NetworkSpec, variant: Variant) -> None:
    """Refuse a placement for a network that is not scse's own.

    Raises:
        UserError: The network is another one, and the variant names a placement.
    """
    if not network.is_own and variant.placement != "both":
        raise UserError(
            f"variant {variant}: placement has no effect on {network}, which has no encoder and decoder that scse "
            "knows; leave it out, and say where its blocks go with attach_to (--attach-to)"
        )


def check_supervision(network: NetworkSpec) -> None:
    """Refuse deep supervision for a network that returns logits at one resolution alone.

    Raises:
        UserError: The network is none of those that offer it.
    """
    offering = [f"{source}:{name}" for source, library in LIBRARIES.items() for name in library.supervised]
    if f"{network.source}:{network.name}" not in offering:
        raise UserError(
            f"deep_supervision has no effect on {network}, which returns logits at one resolution; leave it out, or "
            f"take one of {', '.join(offering)}"
        )


def confirm_network(folder: Path, saved: NetworkSpec, network: str | None, *, downloading: bool = False) -> NetworkSpec:
    """Decide which network to build for a saved model or run: the user's own code only if the caller names it.

    Args:
        folder: Folder of the model or run.
        saved: Network that was read there.
        network: Name of the network that the caller gives.
        downloading: Whether weights would be downloaded, which requires that the caller names the network too.

    Raises:
        UserError: The saved network is a factory in a file and the caller names none, or the caller names another one.
    """
    if network is None:
        if saved.is_file:
            raise UserError(
                f"{folder}: its network is a factory in a file, {saved.text!r}, and what a folder names is not run; if "
                "you trust that file, name it yourself: network='FILE.py:FUNCTION' (--network on the command line)"
            )
        if downloading and downloads_weights(saved):
            raise UserError(
                f"{folder}: its network {saved.text!r} would fetch weights; name it again to allow it (--network)"
            )
        return saved
    given = read_network(network)
    moved = saved.is_file and given.is_file and (given.name, given.options) == (saved.name, saved.options)
    if given != saved and not moved:
        raise UserError(f"{folder}: its network is {saved.text!r}, got network={given.text!r}; name the same one")
    return given


def downloads_weights(spec: NetworkSpec) -> bool:
    """Whether the options of a listed network ask for weights that are downloaded."""
    offline = LIBRARIES[spec.source].offline if spec.source in LIBRARIES else {}
    return any(spec.options.get(name, value) != value for name, value in offline.items())


def code_digest(spec: NetworkSpec) -> dict[str, str]:
    """File that defines a network -> the start of its SHA-256; empty for the paper's and listed networks.

    Raises:
        UserError: The file does not exist.
    """
    if not spec.is_file:
        return {}
    path = file_of(spec)
    return {path.name: sha256(path.read_bytes()).hexdigest()[:16]}


def file_of(spec: NetworkSpec) -> Path:
    """The Python file that defines a network.

    Raises:
        UserError: The file does not exist.
    """
    path = Path(spec.source).expanduser()
    if not path.is_file():
        raise UserError(f"{spec.text}: there is no file {path}; give the path of a Python file, then :FUNCTION")
    return path
