"""Names for people: of networks, of the labels that a study gives them, and of variants."""

import re
from hashlib import sha256

from scse.vocabulary.variants import Variant

NETWORK_NAMES = {"unet": "U-Net", "sdnet": "SD-Net", "densenet": "FC-DenseNet"}
VARIANT_NAMES = {"none": "plain", "cse": "cSE", "sse": "sSE", "scse": "scSE"}
PLACEMENT_NAMES = {
    "encoder": "encoder only",
    "decoder": "decoder only",
    "both+bottleneck": "bottleneck too",
}

SLUG_LENGTH = 40

_FOLDER = re.compile(r"^[^\[]*[/\\](?=[^/\\\[]*\.py:)")
_LABEL = re.compile(
    r"(?P<network>.+)\[(?=[et])(?:epochs=(?P<epochs>\d+))?,?(?:train_cases=(?P<cases>\d+))?\]", re.DOTALL
)


def title(text: str) -> str:
    """A network's name for display: files are shown without their folder."""
    return _FOLDER.sub("", text).replace(": ", ":")


def slug(text: str) -> str:
    """A name for files and folders: letters, digits, "_" and "-"; different texts have different slugs."""
    if text.isidentifier():
        return text
    readable = re.sub(r"[^A-Za-z0-9]+", "_", title(text))[:SLUG_LENGTH].strip("_")
    return f"{readable}-{sha256(text.encode()).hexdigest()[:8]}"


def label(network: str, *, epochs: int | None = None, train_cases: int | None = None) -> str:
    """A network's name in the scores: "unet", and "unet[epochs=3,train_cases=6]" where these are varied."""
    varied = {"epochs": epochs, "train_cases": train_cases}
    told = [f"{name}={value}" for name, value in varied.items() if value is not None]
    return f"{network}[{','.join(told)}]" if told else network


def network_name(network: str) -> str:
    """The name in the literature, or as the user named it, without folders; of a label "U-Net, 3 epochs"."""
    match = _LABEL.fullmatch(network)
    if match is None:
        return NETWORK_NAMES.get(network) or title(network)
    counts = [(match["epochs"], "epoch"), (match["cases"], "training case")]
    told = [f"{count} {what}{'' if count == '1' else 's'}" for count, what in counts if count]
    return ", ".join([network_name(match["network"]), *told])


def variant_name(variant: str) -> str:
    """The name in the paper, with what differs from it: "scSE (r = 4, max, encoder only)"; others stay as they are."""
    try:
        chosen = Variant.parse(variant)
    except ValueError:
        return variant
    plain = Variant(chosen.kind)
    told = []
    if chosen.reduction != plain.reduction:
        told.append(f"r = {chosen.reduction}")
    if chosen.aggregation != plain.aggregation:
        told.append(chosen.aggregation)
    if chosen.placement != plain.placement:
        told.append(PLACEMENT_NAMES[chosen.placement])
    name = VARIANT_NAMES[chosen.kind]
    return f"{name} ({', '.join(told)})" if told else name
