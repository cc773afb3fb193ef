"""A finished run of a study, whose segmenter and test cases can be shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scse.data.dataset import Case
from scse.inference.segmenter import Segmenter
from scse.vocabulary.specs import NetworkSpec
from scse.vocabulary.variants import Variant


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
    variant: Variant
    seed: int
    fold: int
    folder: Path
    test: Sequence[Case]
    source: NetworkSpec

    def segmenter(self) -> Segmenter:
        """What was trained."""
        return Segmenter.load(self.folder, network=self.source.text)
