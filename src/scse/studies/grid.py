"""Which runs a study consists of."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from scse.blocks import VARIANTS
from scse.checks import check_choice, check_positive
from scse.networks import NETWORKS


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
        return f"{self.network}-{self.variant}-seed{self.seed}-fold{self.fold}"


def grid(networks: Sequence[str], variants: Sequence[str], *, seeds: int, folds: int) -> list[Run]:
    """All runs of a study; the variants of one comparison follow each other.

    Raises:
        ValueError: an unknown or repeated name, no plain variant to compare with, or fewer than one seed.
    """
    check_positive("seeds", seeds)
    _check_names("networks", networks, list(NETWORKS))
    _check_names("variants", variants, VARIANTS)
    if "none" not in variants:
        raise ValueError(f"variants must include 'none', which the others are compared with, got {', '.join(variants)}")
    return [
        Run(network, variant, seed, fold)
        for seed, fold, network, variant in product(range(seeds), range(folds), networks, variants)
    ]


def _check_names(name: str, chosen: Sequence[str], allowed: Sequence[str]) -> None:
    if not chosen:
        raise ValueError(f"{name} must name at least one of {', '.join(allowed)}")
    for one in chosen:
        check_choice(name, one, allowed)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"{name} must be named once each, got {', '.join(chosen)}")
