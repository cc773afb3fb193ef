"""Which runs a study consists of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from scse.evaluation.noise import FEWEST_TO_SPLIT
from scse.support.checks import check_positive
from scse.support.errors import UserError
from scse.vocabulary.specs import slug, title
from scse.vocabulary.titles import label
from scse.vocabulary.variants import OPTIONS, SHORT, Variant
from scse.zoo.library import check_network

MOST_SEEDS = 1000
"""Trainings of each variant; a study of more would never end."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training and its evaluation.

    Attributes:
        network: name of the network.
        variant: its one text, see `scse.variants`.
        seed: of initial weights, order and augmentation.
        fold: counted from 0.
        epochs: if the study varies them, else None.
        train_cases: if the study varies them, else None.
    """

    network: str
    variant: str
    seed: int
    fold: int
    epochs: int | None = None
    train_cases: int | None = None

    @property
    def label(self) -> str:
        """The network in the scores: variants are compared with the plain network of the same label."""
        return label(self.network, epochs=self.epochs, train_cases=self.train_cases)

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        variant = Variant.parse(self.variant)
        told = self.variant if self.variant == variant.kind else slug(self.variant)
        return f"{slug(self.label)}-{told}-seed{self.seed}-fold{self.fold}"


def expand_variants(
    variants: Sequence[str],
    *,
    reductions: Sequence[int] = (),
    aggregations: Sequence[str] = (),
    placements: Sequence[str] = (),
) -> list[str]:
    """Cross variants with values of the options that they have; each variant stays once.

    "none" has no options and "sse" no reduction and no aggregation, so that they stay as they are.

    Args:
        variants: as they are named, see `scse.variants`.
        reductions: values of the paper's r, for "cse" and "scse".
        aggregations: "add", "max", "multiply", for "scse".
        placements: "encoder", "decoder", "both", "both+bottleneck" (or "+bottleneck"), for all but "none".

    Raises:
        ValueError: a variant or value that is wrong, or values of an option that none of the variants has.
    """
    places = [SHORT.get(place, place) for place in placements]
    given: dict[str, Sequence[Any]] = {"reduction": reductions, "aggregation": aggregations, "placement": places}
    if not any(given.values()):
        return list(variants)
    chosen = [Variant.parse(text) for text in variants]
    for option, values in given.items():
        if values and not any(option in OPTIONS[variant.kind] for variant in chosen):
            raise UserError(f"{option}s have no effect on {', '.join(variants)}; leave them out")
    for option, values in given.items():
        chosen = [
            replace(variant, **{option: value})
            for variant in chosen
            for value in (values if values and option in OPTIONS[variant.kind] else [getattr(variant, option)])
        ]
    return list(dict.fromkeys(map(str, chosen)))


def grid(
    networks: Sequence[str],
    variants: Sequence[str],
    *,
    seeds: int,
    folds: int,
    epochs: Sequence[int] = (),
    train_cases: Sequence[int] = (),
    control: bool = False,
) -> list[Run]:
    """All runs of a study; the variants of one comparison follow each other, the control comes last.

    Args:
        networks: names.
        variants: names.
        seeds: how many.
        folds: how many.
        epochs: values to vary; none or one of them is no matter of the runs' names but of the settings.
        train_cases: values to vary; one is named too, because no setting of the training tells it.
        control: train the plain variant with as many further seeds, at least until there are 4, to compare it with
            itself.

    Raises:
        ValueError: an unknown or repeated name or number, no plain variant to compare with, or fewer than one seed or
            more than 1,000.
    """
    if check_positive("seeds", seeds) > MOST_SEEDS:
        raise UserError(f"seeds must be at most {MOST_SEEDS}, got {seeds}")
    _check_once("networks", networks, example="unet")
    for network in networks:
        check_network(network)
    if len({title(network) for network in networks}) < len(networks):
        raise UserError(f"networks must differ in more than their folder, got {', '.join(networks)}; rename a file")
    variants = [str(Variant.parse(variant, name="variants")) for variant in variants]
    _check_once("variants", variants, example="none")
    if "none" not in variants:
        raise UserError(f"variants must include 'none', which the others are compared with, got {', '.join(variants)}")
    for name, values in (("epochs", epochs), ("train_cases", train_cases)):
        for value in values:
            check_positive(name, value)
        if values:
            _check_once(name, values, example="3")
    varied: Sequence[int | None] = epochs if len(epochs) > 1 else [None]
    numbers: Sequence[int | None] = train_cases or [None]
    asked = [*product(range(seeds), [variants])]
    if control:
        asked += product(range(seeds, max(2 * seeds, FEWEST_TO_SPLIT)), [["none"]])
    return [
        Run(network, variant, seed, fold, number, cases)
        for seed, of_seed in asked
        for fold, network, cases, number, variant in product(range(folds), networks, numbers, varied, of_seed)
    ]


def _check_once(name: str, chosen: Sequence[object], *, example: str) -> None:
    if not chosen:
        raise UserError(f"{name} must name at least one, such as {example}")
    if len(set(chosen)) < len(chosen):
        raise UserError(f"{name} must be named once each, got {', '.join(map(str, chosen))}")
