"""Batches of subjects that are simulated anew for every epoch, alone or mixed with those of real cases."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scse.data.prepared import Prepared
from scse.simulation.simulator import Simulator
from scse.training.batches import Batches, Draw


class FreshBatches(Batches):
    """Batches in which a share of the slices or patches is of simulated subjects, which no other epoch has.

    A subject depends only on (seed, epoch, number), so that a run that continues sees the same ones.

    Args:
        cases: Training cases.
        simulator: Simulates subjects.
        share: Share of the slices or patches that are of simulated subjects, above 0 up to 1.
        arguments: Further arguments of `Batches`.
    """

    fixed = False

    def __init__(
        self, cases: Sequence[Prepared], *, simulator: Simulator, share: float, limit: int | None, **arguments: Any
    ) -> None:
        super().__init__(cases, limit=limit, **arguments)
        # a few cases give any number of subjects
        self.limit = limit or len(self.slices)
        self.batch_size = min(arguments["batch_size"], self.limit)
        self.simulator, self.share = simulator, share
        self.subjects = math.ceil(share * self.limit * simulator.share_of_subject())
        self._real = self.images, self.labels
        self._epoch: int | None = None

    def draws(self, epoch: int, *, start: int = 0) -> Iterator[Draw]:
        """What is drawn for the batches of an epoch from step `start` on, whose subjects are simulated first."""
        self._begin(epoch)
        yield from super().draws(epoch, start=start)

    def _begin(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        made = [self.simulator.subject((self.seed, epoch, number)) for number in range(self.subjects)]
        images, labels = self._real if self.share < 1 else ([], [])
        self.images = [*(image for image, _ in made), *images]
        self.labels = [*(label for _, label in made), *labels]
        self.slices = [(case, index) for case, images in enumerate(self.images) for index in range(len(images))]
        self._positions.clear()
        self._epoch = epoch

    def _order(self, rng: np.random.Generator) -> NDArray[np.integer]:
        simulated = sum(len(images) for images in self.images[: self.subjects])
        count = round(self.share * self.limit)
        chosen = [
            _repeated(np.arange(simulated), count, rng),
            _repeated(np.arange(simulated, len(self.slices)), self.limit - count, rng),
        ]
        return rng.permutation(np.concatenate(chosen))


def _repeated(places: NDArray[np.integer], count: int, rng: np.random.Generator) -> NDArray[np.integer]:
    """`count` of the places in random order, each as often as the others or once more."""
    if not count:
        return places[:0]
    return np.concatenate([rng.permutation(places) for _ in range(-(-count // len(places)))])[:count]
