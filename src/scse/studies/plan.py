"""The plan of a study: its data, settings and runs, with all choices made."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scse.data.choices import advise_dims
from scse.data.dataset import Case, Dataset
from scse.data.folds import Fold
from scse.data.inspection import Inspection, absent_row
from scse.data.recipe import Recipe
from scse.inference.devices import describe_device
from scse.simulation.simulator import Simulation
from scse.studies.grid import Run
from scse.support.errors import UserError
from scse.support.events import Watch
from scse.training.settings import OWN_SIZES, Settings
from scse.training.setup import resolve_precision
from scse.training.task import Task, make_task
from scse.vocabulary.specs import NetworkSpec
from scse.vocabulary.titles import network_name
from scse.vocabulary.variants import PLAIN
from scse.zoo.building import build_network, describe_places

CASES_SEED = 0
"""Seed of the shuffle from which training cases are taken. It is fixed, so that all studies of a data set agree."""


@dataclass(frozen=True)
class Plan:
    """A study that is ready to run.

    Attributes:
        inspection: Inspection of the data set.
        dataset: The cases that the study uses.
        recipe: Preparation of the images.
        settings: Settings of all runs, except those that a run itself contains.
        folds: Folds of the cases.
        runs: Runs in the order in which they are done.
        out: Folder of the study.
        cache: Folder of the prepared arrays.
        device: Device of the networks.
        epochs: Numbers of epochs to compare; empty if all runs have the same number.
        train_cases: Numbers of training cases to compare; empty if all cases are used.
        budget: Time to which the epochs were fitted, as the user wrote it; "" without a budget.
        margin: Differences in Dice below it do not matter; None selects the default of `compare`.
    """

    inspection: Inspection
    dataset: Dataset
    recipe: Recipe
    settings: Settings
    folds: list[Fold]
    runs: list[Run]
    out: Path
    cache: Path
    device: torch.device
    epochs: Sequence[int] = ()
    train_cases: Sequence[int] = ()
    budget: str = ""
    margin: float | None = None

    @property
    def networks(self) -> list[NetworkSpec]:
        """The networks of the study."""
        return list(dict.fromkeys(run.network for run in self.runs))

    def folder(self, run: Run) -> Path:
        """The folder of a run."""
        return run.folder(self.out)

    def run_settings(self, run: Run) -> Settings:
        """The settings of one run."""
        chosen = {"network": run.network, "variant": run.variant, "seed": run.seed}
        return self.settings.model_copy(update=chosen | ({"epochs": run.epochs} if run.epochs else {}))

    def training(self, run: Run) -> Sequence[Case]:
        """The training cases of a run."""
        cases = self.folds[run.fold].training
        return cases if run.train_cases is None else choose_cases(cases, run.train_cases, fold=run.fold)

    def absent(self, run: Run) -> list[str]:
        """The structures that no training case of a run has."""
        return self.inspection.absent(self.training(run))

    @property
    def simulation(self) -> Simulation | None:
        """How subjects are simulated; None if none are."""
        if not self.settings.simulate:
            return None
        facts, settings = self.inspection.facts_of(self.dataset), self.settings
        return Simulation.of(facts, self.recipe, contrast=settings.contrast, skull=settings.skull)

    def task(self, run: Run, watch: Watch) -> Task:
        """The prepared data of a run."""
        return make_task(
            self.inspection,
            training=self.training(run),
            held_out=self.folds[run.fold].test,
            recipe=self.recipe,
            cache=self.cache,
            watch=watch,
            simulation=self.simulation,
        )


def choose_cases(cases: Sequence[Case], count: int, *, fold: int) -> list[Case]:
    """Choose some of a fold's training cases, in their original order.

    They are the first cases of a shuffle that depends on the fold alone: all variants, networks and seeds are trained
    on the same cases, and the cases of a smaller number are a subset of those of a larger one.

    Raises:
        UserError: The fold has fewer training cases.
    """
    if count > len(cases):
        raise UserError(f"train_cases: fold {fold} has {len(cases)} training cases, asked for are {count}; take fewer")
    order = np.random.default_rng([CASES_SEED, fold]).permutation(len(cases))
    return [cases[place] for place in sorted(order[:count].tolist())]


def find_places(plan: Plan) -> list[tuple[str, str]]:
    """List the places of blocks in networks that are not scse's own, as rows (what, patterns).

    Every such network is built once, so that a wrong one is reported before others are trained for hours.
    """
    variant = next((run.variant for run in plan.runs if run.variant != PLAIN), PLAIN)
    arguments = {"in_channels": plan.recipe.channels, "classes": plan.dataset.scheme.outputs}
    rows = []
    for network in plan.networks:
        if not network.is_own:
            built = build_network(
                network,
                arguments,
                variant=variant,
                size=plan.recipe.patch,
                spacing=plan.recipe.spacing,
                attach_to=plan.settings.attach_to,
                pretrained=False,
            )
            rows.append((f"blocks of {network_name(network.text)}", describe_places(built) or "none"))
    return rows


def warnings_of(plan: Plan) -> list[tuple[str, str]]:
    """Rows about structures that some runs cannot learn, because none of their training cases contains them."""
    found: dict[tuple[int, int | None], list[tuple[str, str]]] = {}
    for run in plan.runs:
        fold = f" of fold {run.fold}" if len(plan.folds) > 1 else ""
        few = "" if run.train_cases is None else f" with train_cases={run.train_cases}"
        if (run.fold, run.train_cases) not in found:
            found[run.fold, run.train_cases] = absent_row(plan.absent(run), where=fold + few)
    return [row for rows in found.values() for row in rows]


def describe(plan: Plan, places: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Describe the study in rows (what, value), without its duration."""
    first = plan.folds[0]
    precision = resolve_precision(plan.settings.precision, plan.device)
    return [
        ("data set", f"{plan.dataset.name} ({plan.dataset.path})"),
        ("cases", f"{len(first.training)} for training, {len(first.test)} for testing, {len(plan.folds)} fold(s)"),
        *plan.inspection.left_out(),
        *plan.inspection.notices(),
        *warnings_of(plan),
        ("structures", str(len(plan.dataset.structures))),
        *plan.recipe.describe(),
        *advise_dims(plan.inspection.facts_of(plan.dataset), plan.recipe.view),
        *places,
        *shared_settings(plan),
        ("device", describe_device(plan.device)),
        ("computed in", f"{'bfloat16' if precision == 'bf16' else 'float32'} convolutions"),
        ("variants", ", ".join(dict.fromkeys(str(run.variant) for run in plan.runs))),
        ("runs", str(len(plan.runs))),
    ]


def shared_settings(plan: Plan) -> list[tuple[str, str]]:
    """The settings of all runs, and what is varied.

    Sizes of our networks say whose they are, where there are others.
    """
    own = [network_name(network.text) for network in plan.networks if network.is_own]
    label = "" if len(own) == len(plan.networks) else f" ({', '.join(own)})"
    left_out = {"network", "variant", "attach_to", "seed", "precision", *([] if own else OWN_SIZES)}
    values = plan.settings.model_dump(exclude=left_out)
    if len(plan.epochs) > 1:
        values["epochs"] = _listed(plan.epochs)
    elif plan.budget:
        values["epochs"] = (
            f"{plan.settings.epochs}, as many as the budget of {plan.budget} allows; the same in all runs"
        )
    rows = [
        (name.replace("_", " ") + (label if name in OWN_SIZES else ""), str(value)) for name, value in values.items()
    ]
    if plan.train_cases:
        rule = (
            "the first of one shuffle, so that fewer are among more; fewer have fewer slices an epoch, so fewer steps"
        )
        rows.append(("training cases", f"{_listed(plan.train_cases)} ({rule})"))
    return rows


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
