"""The data of a run: prepared cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scse.data.dataset import Case
from scse.data.inspection import Inspection
from scse.data.prepared import Prepared, prepare
from scse.data.recipe import Recipe
from scse.support.events import UNWATCHED, Stage, Watch

MONITORED = 4
"""Held-out cases that are scored after every epoch; more would take longer and change the mean little."""


@dataclass(frozen=True)
class Task:
    """The data of a run.

    Attributes:
        training: Prepared training cases.
        held_out: Prepared cases for validation, which are scored after every epoch.
        recipe: How the cases were prepared.
        structures: Name -> label value.
    """

    training: Sequence[Prepared]
    held_out: Sequence[Prepared]
    recipe: Recipe
    structures: Mapping[str, int]

    @property
    def classes(self) -> int:
        """Classes of the network, including the background."""
        return len(self.structures) + 1


def make_task(
    inspection: Inspection,
    *,
    training: Sequence[Case],
    held_out: Sequence[Case],
    recipe: Recipe,
    cache: Path,
    watch: Watch = UNWATCHED,
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

    Raises:
        StoppedError: The watch asked to stop.
    """
    dataset = inspection.dataset
    prepared = prepare(
        [*training, *held_out[:MONITORED]],
        recipe,
        structures=dataset.structures,
        digests={fact.name: fact.digest for fact in inspection.facts},
        cache=cache,
        colors=dataset.colors,
        ignored=dataset.ignored,
        progress=watch.counter("prepare"),
        on_note=lambda note: watch.report(Stage(note)),
    )
    return Task(prepared[: len(training)], prepared[len(training) :], recipe, dataset.structures)
