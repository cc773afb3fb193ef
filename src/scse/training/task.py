"""What a run learns from: prepared cases."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scse.data.dataset import Case
from scse.data.inspection import Inspection
from scse.data.prepared import Prepared, prepare
from scse.data.recipe import Recipe

MONITORED = 4
"""Held-out cases that are scored after every epoch; more would cost more than they tell."""


@dataclass(frozen=True)
class Task:
    """What a run learns from.

    Attributes:
        training: prepared training cases.
        held_out: prepared cases that are only watched: they are scored after every epoch.
        recipe: how they were prepared.
        structures: name -> label value.
    """

    training: Sequence[Prepared]
    held_out: Sequence[Prepared]
    recipe: Recipe
    structures: Mapping[str, int]

    @property
    def classes(self) -> int:
        """Classes of the network, the background included."""
        return len(self.structures) + 1


def make_task(
    inspection: Inspection,
    *,
    training: Sequence[Case],
    held_out: Sequence[Case],
    recipe: Recipe,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Task:
    """Prepare cases for a run, or find them prepared.

    Args:
        inspection: of the data set that the cases are from.
        training: to learn from.
        held_out: to watch; the first few are used.
        recipe: how to prepare them.
        cache: folder of the prepared arrays.
        progress: called with (done, of how many).
        on_note: called with a line for each case whose prepared arrays are damaged.
    """
    dataset = inspection.dataset
    watched = held_out[:MONITORED]
    prepared = prepare(
        [*training, *watched],
        recipe,
        structures=dataset.structures,
        digests={fact.name: fact.digest for fact in inspection.facts},
        cache=cache,
        colors=dataset.colors,
        ignored=dataset.ignored,
        progress=progress,
        on_note=on_note,
    )
    return Task(prepared[: len(training)], prepared[len(training) :], recipe, dataset.structures)
