"""Display names of networks, setups and variants."""

import re
from dataclasses import dataclass
from hashlib import sha256

from scse.support.text import counted
from scse.vocabulary.variants import Variant

NETWORK_NAMES = {"unet": "U-Net", "sdnet": "SD-Net", "densenet": "FC-DenseNet"}
VARIANT_NAMES = {"none": "plain", "cse": "cSE", "sse": "sSE", "scse": "scSE", "pe": "PE"}
PLACEMENT_NAMES = {
    "encoder": "encoder only",
    "decoder": "decoder only",
    "both+bottleneck": "bottleneck too",
}

SLUG_LENGTH = 40

_FOLDER = re.compile(r"^[^\[]*[/\\](?=[^/\\\[]*\.py:)")


def title(text: str) -> str:
    """A network's name for display: files are shown without their folder."""
    return _FOLDER.sub("", text).replace(": ", ":")


def slug(text: str) -> str:
    """A name for files and folders: letters, digits, "_" and "-"; different texts have different slugs."""
    if text.isidentifier():
        return text
    readable = re.sub(r"[^A-Za-z0-9]+", "_", title(text))[:SLUG_LENGTH].strip("_")
    return f"{readable}-{sha256(text.encode()).hexdigest()[:8]}"


def network_name(network: str) -> str:
    """Display name of a network: "U-Net", or the user's own name without its folder."""
    return NETWORK_NAMES.get(network) or title(network)


@dataclass(frozen=True, slots=True)
class Setup:
    """A network, and how it is trained where a study varies that: variants are compared within one setup.

    Attributes:
        network: Name of the network.
        epochs: Number of epochs if it is varied, else None.
        train_cases: Number of training cases if it is varied, else None.
    """

    network: str
    epochs: int | None = None
    train_cases: int | None = None

    @property
    def varied(self) -> dict[str, int]:
        """The numbers that are varied, by name."""
        numbers = {"epochs": self.epochs, "train_cases": self.train_cases}
        return {name: number for name, number in numbers.items() if number is not None}

    @property
    def text(self) -> str:
        """A unique text for keys and names of files: "unet", or "unet[epochs=3,train_cases=6]"."""
        options = ",".join(f"{name}={number}" for name, number in self.varied.items())
        return f"{self.network}[{options}]" if options else self.network

    @property
    def name(self) -> str:
        """Display name, such as "U-Net, 3 epochs, 6 training cases"."""
        what = {"epochs": "epoch", "train_cases": "training case"}
        return ", ".join([network_name(self.network), *(counted(n, what[name]) for name, n in self.varied.items())])


def variant_name(variant: str) -> str:
    """Display name of a variant, with the options that differ from the paper: "scSE (r = 4, max, encoder only)".

    A name that is not a variant of scse is returned unchanged.
    """
    try:
        chosen = Variant.parse(variant)
    except ValueError:
        return variant
    plain = Variant(chosen.kind)
    differences = []
    if chosen.reduction != plain.reduction:
        differences.append(f"r = {chosen.reduction}")
    if chosen.aggregation != plain.aggregation:
        differences.append(chosen.aggregation)
    if chosen.placement != plain.placement:
        differences.append(PLACEMENT_NAMES[chosen.placement])
    name = VARIANT_NAMES[chosen.kind]
    return f"{name} ({', '.join(differences)})" if differences else name
