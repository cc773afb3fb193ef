"""Which runs a study consists of."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from scse.blocks import VARIANTS
from scse.checks import check_choice, check_positive
from scse.networks.library import check_network
from scse.networks.specs import slug, title


@dataclass(frozen=True, slots=True)
class Run:
    """One training and its evaluation."""

    network: str
    variant: str
    seed: int
    fold: int

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return f"{slug(self.network)}-{self.variant}-seed{self.seed}-fold{self.fold}"


def grid(networks: Sequence[str], variants: Sequence[str], *, seeds: int, folds: int) -> list[Run]:
    """All runs of a study; the variants of one comparison follow each other.

    Raises:
        ValueError: an unknown or repeated name, no plain variant to compare with, or fewer than one seed.
    """
    check_positive("seeds", seeds)
    _check_names("networks", networks, example="unet")
    for network in networks:
        check_network(network)
    if len({title(network) for network in networks}) < len(networks):
        raise ValueError(f"networks must differ in more than their folder, got {', '.join(networks)}; rename a file")
    _check_names("variants", variants, example="none")
    for variant in variants:
        check_choice("variants", variant, VARIANTS)
    if "none" not in variants:
        raise ValueError(f"variants must include 'none', which the others are compared with, got {', '.join(variants)}")
    return [
        Run(network, variant, seed, fold)
        for seed, fold, network, variant in product(range(seeds), range(folds), networks, variants)
    ]


def _check_names(name: str, chosen: Sequence[str], *, example: str) -> None:
    if not chosen:
        raise ValueError(f"{name} must name at least one, such as {example}")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"{name} must be named once each, got {', '.join(chosen)}")
