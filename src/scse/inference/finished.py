"""A finished run of a study, whose segmenter and test cases can be shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scse.data.dataset import Case
from scse.inference.segmenter import Segmenter


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run whose cases can be shown.

    Attributes:
        network, variant, fold: as in the scores.
        seed: as in the scores; the viewer shows the first one.
        folder: of the run, with `segmenter` and `predictions`.
        test: its test cases.
        source: the network as it was asked for, without what a sweep adds to its name.
    """

    network: str
    variant: str
    seed: int
    fold: int
    folder: Path
    test: Sequence[Case]
    source: str

    def segmenter(self) -> Segmenter:
        """What was trained."""
        return Segmenter.load(self.folder, network=self.source)
