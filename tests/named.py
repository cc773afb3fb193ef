"""Networks and variants by their texts, as users name them."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from scse.vocabulary.variants import Variant
from scse.zoo.building import build_network
from scse.zoo.catalogue import read_network


def build(name: str, arguments: Mapping[str, int], *, variant: str = "none", **options: Any) -> nn.Module:
    """`build_network` with names instead of values."""
    return build_network(read_network(name), arguments, variant=Variant.parse(variant), **options)
