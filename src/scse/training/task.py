"""The data of a run: prepared cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from scse.data.dataset import Case
from scse.data.inspection import CaseFacts, Inspection
from scse.data.pieces import pieces_of
from scse.data.prepared import Prepared, prepare
from scse.data.recipe import Recipe
from scse.data.schemes import LabelScheme
from scse.data.slicing import evenly_spread
from scse.inference.appearance import Appearance
from scse.inference.known import known_of
from scse.inference.saved import Known
from scse.simulation.simulator import Simulation, Simulator
from scse.support.errors import UserError
from scse.support.events import UNWATCHED, Stage, Watch

MONITORED = 4
"""Held-out cases that are scored after every epoch; more would take longer and change the mean little."""

POPULATION = 20
"""Simulated subjects whose volumes are those that a segmenter of simulated subjects knows."""

MOST_FOR_CLEANING = 20
"""Held-out cases on which a clean-up of label maps is chosen, at most: each is predicted once."""

NO_CLEANING_OF_REGIONS = "a clean-up is chosen for exclusive structures only, and those of this data set are regions"


@dataclass(frozen=True)
class Task:
    """The data of a run.

    Attributes:
        training: Prepared training cases.
        held_out: Prepared cases for validation, which are scored after every epoch.
        recipe: How the cases were prepared.
        structures: Name -> label value.
        for_cleaning: Prepared held-out cases on which the clean-up of label maps is chosen; empty chooses none.
        regions: Name -> label values, if structures are regions of labels; empty otherwise.
        simulation: How subjects are simulated; None simulates none.
        sources: The training cases as `simulation` prepares them; empty without it.
        known: What the training cases have, for the segmenter; None if it is not known.
    """

    training: Sequence[Prepared]
    held_out: Sequence[Prepared]
    recipe: Recipe
    structures: Mapping[str, int]
    for_cleaning: Sequence[Prepared] = field(default_factory=list)
    regions: Mapping[str, Sequence[int]] = field(default_factory=dict)
    simulation: Simulation | None = None
    sources: Sequence[Prepared] = field(default_factory=list)
    known: Known | None = None

    def __post_init__(self) -> None:
        """Check that no clean-up is to be chosen for regions.

        Raises:
            UserError: It is.
        """
        if self.regions and self.for_cleaning:
            raise UserError(f"choose_cleaning: {NO_CLEANING_OF_REGIONS}; leave it out")

    @property
    def scheme(self) -> LabelScheme:
        """The meaning of labels and of the outputs of the network."""
        return LabelScheme(self.structures, self.regions)


def make_task(
    inspection: Inspection,
    *,
    training: Sequence[Case],
    held_out: Sequence[Case],
    recipe: Recipe,
    cache: Path,
    watch: Watch = UNWATCHED,
    choose_cleaning: bool = False,
    simulation: Simulation | None = None,
) -> Task:
    """Prepare cases for a run, or find them prepared.

    Args:
        inspection: Inspection of the data set that the cases are from.
        training: Training cases.
        held_out: Cases for validation, of which the first few are used.
        recipe: How to prepare them.
        cache: Folder of the prepared arrays.
        watch: Gets the `Progress`, and a `Stage` for each case whose prepared arrays are damaged; checked after every
            case.
        choose_cleaning: Whether the run chooses a clean-up of label maps. It uses up to 20 of the cases for
            validation, evenly spread; never for cases whose scores are to be reported.
        simulation: How subjects are simulated from the training cases; None simulates none. Without held-out cases, the
            validation is on simulated subjects, and what the segmenter knows about volumes is theirs.

    Raises:
        StoppedError: The watch asked to stop.
    """
    dataset = inspection.dataset
    monitored = held_out[:MONITORED]
    spread = evenly_spread(len(held_out), min(len(held_out), MOST_FOR_CLEANING)) if choose_cleaning else ()
    for_cleaning = [held_out[place] for place in spread]
    needed = [*training, *monitored, *(case for case in for_cleaning if case not in monitored)]
    prepared_by = partial(
        prepare,
        structures=dataset.scheme.labels,
        digests={fact.name: fact.digest for fact in inspection.facts},
        cache=cache,
        colors=dataset.colors,
        ignored=dataset.ignored,
        progress=watch.counter("prepare"),
        on_note=lambda note: watch.report(Stage(note)),
    )
    prepared = prepared_by(needed, recipe)
    sources = [] if simulation is None else prepared_by(training, simulation.recipe)
    after = len(training) + len(monitored)
    by_name = {case.name: case for case in prepared[len(training) :]}
    validation = prepared[len(training) : after]
    if simulation is not None and not held_out:
        simulator = Simulator(sources, simulation, recipe, dataset.scheme, torch.device("cpu"))
        subjects = simulator.held_out(POPULATION, cache, progress=watch.counter("simulate"))
        validation = subjects[:MONITORED]
        known = _known(simulator.facts(subjects), dataset.scheme, subjects, watch)
    else:
        by_case = {fact.name: fact for fact in inspection.facts}
        of_training = [by_case[case.name] for case in training]
        seen = recipe if simulation is None else None
        known = _known(of_training, dataset.scheme, prepared[: len(training)], watch, seen)
    return Task(
        prepared[: len(training)],
        validation,
        recipe,
        dataset.structures,
        [by_name[case.name] for case in for_cleaning],
        dataset.regions,
        simulation,
        sources,
        known,
    )


def _known(
    facts: Sequence[CaseFacts],
    scheme: LabelScheme,
    training: Sequence[Prepared],
    watch: Watch,
    recipe: Recipe | None = None,
) -> Known | None:
    """What training cases have; pieces are counted once for each case, and not of regions; images need a recipe."""
    if known_of(facts, scheme.scored, {}) is None:
        return None
    count, every, images = watch.counter("measure"), [], []
    names = [] if scheme.regions else list(scheme.labels)
    for done, (case, fact) in enumerate(zip(training, facts, strict=True), start=1):
        every.append(pieces_of(case, len(names) + 1) if names else [])
        if recipe is not None:
            images.append(Appearance.of_case(case, fact, recipe))
        count(done, len(training))
    return known_of(facts, scheme.scored, dict(zip(names, zip(*every, strict=True), strict=True)), images)
