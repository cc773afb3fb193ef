"""Finished runs of a study, with their segmenters and test cases."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from scse.data.dataset import Case
from scse.inference.segmenter import Segmenter
from scse.vocabulary.titles import Setup
from scse.vocabulary.variants import Variant


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A finished run.

    Attributes:
        setup: Network, with what the study varies in its training, as in the scores.
        variant: Name of the variant, as in the scores.
        seed: Seed of the training, as in the scores.
        fold: Index of the fold, as in the scores.
        folder: Folder of the run, with `segmenter` and `predictions`.
        test: Test cases of the fold.
        device: Device of the network, see `choose_device`.
    """

    setup: Setup
    variant: Variant
    seed: int
    fold: int
    folder: Path
    test: Sequence[Case]
    device: str | torch.device = "cpu"

    def segmenter(self) -> Segmenter:
        """Load the trained segmenter."""
        return Segmenter.load(self.folder, network=self.setup.network, device=self.device)
