"""Which runs a study consists of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from scse.evaluation.noise import FEWEST_TO_SPLIT
from scse.support.checks import check_positive
from scse.support.errors import UserError
from scse.vocabulary.specs import NetworkSpec
from scse.vocabulary.titles import Setup, slug, title
from scse.vocabulary.variants import OPTIONS, PLAIN, SHORT, Variant

RUNS = "runs"
"""Folder of the runs within that of the study."""

MOST_SEEDS = 1000
"""Trainings of each variant; a study of more would never end."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training and its evaluation.

    Attributes:
        network: Network to train.
        variant: Blocks of the network.
        seed: Seed of the initial weights, the order of the slices and the augmentation.
        fold: Fold, counted from 0.
        epochs: Number of epochs if the study varies it, else None.
        train_cases: Number of training cases if the study varies it, else None.
    """

    network: NetworkSpec
    variant: Variant
    seed: int
    fold: int
    epochs: int | None = None
    train_cases: int | None = None

    @property
    def setup(self) -> Setup:
        """What is compared in the scores: variants are compared with the plain variant of the same setup."""
        return Setup(self.network.text, self.epochs, self.train_cases)

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        variant = slug(str(self.variant))
        return f"{slug(self.setup.text)}-{variant}-seed{self.seed}-fold{self.fold}"

    def folder(self, study: Path) -> Path:
        """The run's folder in that of its study."""
        return study / RUNS / self.name


def expand_variants(
    variants: Sequence[Variant],
    *,
    reductions: Sequence[int] = (),
    aggregations: Sequence[str] = (),
    placements: Sequence[str] = (),
) -> list[Variant]:
    """Cross variants with values of their options; each variant occurs once.

    "none" has no options and "sse" neither a reduction nor an aggregation; they stay as they are.

    Args:
        variants: Variants to cross.
        reductions: Values of the paper's r, for "cse", "scse" and "pe".
        aggregations: "add", "max", "multiply", for "scse".
        placements: "encoder", "decoder", "both", "both+bottleneck" (or "+bottleneck"), for all but "none".

    Raises:
        UserError: A value is not allowed, or none of the variants has the option.
    """
    places = [SHORT.get(place, place) for place in placements]
    swept: dict[str, Sequence[Any]] = {"reduction": reductions, "aggregation": aggregations, "placement": places}
    if not any(swept.values()):
        return list(variants)
    for option, values in swept.items():
        if values and not any(option in OPTIONS[variant.kind] for variant in variants):
            raise UserError(f"{option}s have no effect on {', '.join(map(str, variants))}; leave them out")
    crossed = list(variants)
    for option, values in swept.items():
        crossed = [
            replace(variant, **{option: value})
            for variant in crossed
            for value in (values if values and option in OPTIONS[variant.kind] else [getattr(variant, option)])
        ]
    return list(dict.fromkeys(crossed))


def grid(
    networks: Sequence[NetworkSpec],
    variants: Sequence[Variant],
    *,
    seeds: int,
    folds: int,
    epochs: Sequence[int] = (),
    train_cases: Sequence[int] = (),
    control: bool = False,
) -> list[Run]:
    """List all runs of a study: the variants of one comparison follow each other, the control comes last.

    Args:
        networks: Networks to compare.
        variants: Variants to compare; "none" must be among them.
        seeds: Number of seeds.
        folds: Number of folds.
        epochs: Numbers of epochs to compare; a single number belongs to the settings instead.
        train_cases: Numbers of training cases to compare; a single number is compared too, because the settings do
            not contain it.
        control: Train the plain variant with as many further seeds, at least until there are 4, and compare it with
            itself.

    Raises:
        UserError: A name or number is repeated, the plain variant is missing, or the number of seeds is not between 1
            and 1,000.
    """
    if check_positive("seeds", seeds) > MOST_SEEDS:
        raise UserError(f"seeds must be at most {MOST_SEEDS}, got {seeds}")
    _check_once("networks", networks, example="unet")
    if len({title(network.text) for network in networks}) < len(networks):
        names = ", ".join(map(str, networks))
        raise UserError(f"networks must differ in more than their folder, got {names}; rename a file")
    _check_once("variants", variants, example="none")
    if PLAIN not in variants:
        names = ", ".join(map(str, variants))
        raise UserError(f"variants must include 'none', which the others are compared with, got {names}")
    for name, values in (("epochs", epochs), ("train_cases", train_cases)):
        for value in values:
            check_positive(name, value)
        if values:
            _check_once(name, values, example="3")
    varied: Sequence[int | None] = epochs if len(epochs) > 1 else [None]
    numbers: Sequence[int | None] = train_cases or [None]
    of_seeds: list[tuple[int, Sequence[Variant]]] = [(seed, variants) for seed in range(seeds)]
    if control:
        of_seeds += [(seed, [PLAIN]) for seed in range(seeds, max(2 * seeds, FEWEST_TO_SPLIT))]
    return [
        Run(network, variant, seed, fold, number, cases)
        for seed, of_seed in of_seeds
        for fold, network, cases, number, variant in product(range(folds), networks, numbers, varied, of_seed)
    ]


def _check_once(name: str, chosen: Sequence[object], *, example: str) -> None:
    if not chosen:
        raise UserError(f"{name} must name at least one, such as {example}")
    if len(set(chosen)) < len(chosen):
        raise UserError(f"{name} must be named once each, got {', '.join(map(str, chosen))}")
