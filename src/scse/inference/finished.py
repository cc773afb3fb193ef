"""Finished runs of a study, with their segmenters and test cases."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scse.data.dataset import Case
from scse.inference.segmenter import Segmenter
from scse.vocabulary.specs import NetworkSpec
from scse.vocabulary.variants import Variant


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A finished run.

    Attributes:
        network: Name of the network, as in the scores.
        variant: Name of the variant, as in the scores.
        seed: Seed of the training, as in the scores.
        fold: Index of the fold, as in the scores.
        folder: Folder of the run, with `segmenter` and `predictions`.
        test: Test cases of the fold.
        source: The network as requested, without the suffix that a sweep adds to its name.
    """

    network: str
    variant: Variant
    seed: int
    fold: int
    folder: Path
    test: Sequence[Case]
    source: NetworkSpec

    def segmenter(self) -> Segmenter:
        """Load the trained segmenter."""
        return Segmenter.load(self.folder, network=self.source.text)
