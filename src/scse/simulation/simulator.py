"""Subjects for a training: simulated from prepared cases, and prepared like real ones."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from scse.data.choices import SLICE_AXIS, in_view
from scse.data.files import Image
from scse.data.inspection import CaseFacts
from scse.data.prepared import Prepared, class_values, write_prepared
from scse.data.recipe import Recipe
from scse.data.schemes import LabelScheme
from scse.simulation.head import HEADS, mean_size
from scse.simulation.source import Source
from scse.simulation.subjects import IN_PART, LIKELY, Variation, draw_subject
from scse.support.errors import UserError
from scse.vocabulary.contrasts import Contrast
from scse.vocabulary.sides import partner_classes

HELD_OUT = (1, 1, 1, 1)
"""First numbers of the keys of subjects for validation, which no training has: its keys have three numbers, and those
that a key lacks count as 0."""

FORMAT = 2
"""Version of the subjects for validation, increased when they change, so that older ones are not reused."""


class Simulation(BaseModel):
    """How subjects are simulated.

    Attributes:
        recipe: How the cases from which they are simulated are prepared: whole and in their own resolution.
        variation: How much shapes differ.
        contrast: Intensities like those of the cases, or any.
        calibrated: Whether intensities have a unit, see `is_calibrated`.
        skull: Whether most subjects have a skull and a scalp around the brain, see `scse.simulation.head`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    variation: Variation = LIKELY
    contrast: Contrast = "source"
    calibrated: bool = False
    skull: bool = False

    @classmethod
    def of(
        cls,
        facts: Sequence[CaseFacts],
        recipe: Recipe,
        *,
        contrast: Contrast,
        variation: Variation = IN_PART,
        skull: bool = False,
    ) -> Self:
        """The simulation for a data set.

        Args:
            facts: Facts of the cases.
            recipe: Recipe of the run.
            contrast: Intensities like those of the cases, or any.
            variation: How much shapes differ.
            skull: Whether most subjects have a skull and a scalp.

        Raises:
            UserError: `skull` for pictures.
        """
        if skull and recipe.view == "picture":
            raise UserError("skull=true needs volumes of brains, and the images are pictures; leave it out")
        if recipe.view == "picture":
            whole = recipe.model_copy(update={"spacing": (1.0, 1.0), "patch": (1, 1)})
        else:
            derived = Recipe.derive(facts, dims=3)
            # without a spacing to which volumes are resampled, all have that of the first
            spacing = derived.spacing or in_view(facts[0], "volume")[1]
            whole = derived.model_copy(update={"spacing": spacing, "patch": (1, 1, 1)})
        calibrated = all(is_calibrated(case.intensity[0]) for case in facts)
        return cls(recipe=whole, variation=variation, contrast=contrast, calibrated=calibrated, skull=skull)

    def describe(self, share: float) -> list[tuple[str, str]]:
        """What is simulated as printable rows (name, value).

        Args:
            share: Share of the training that is of simulated subjects.
        """
        contrast = "the contrast of the images" if self.contrast == "source" else "any contrast"
        skull = f", {HEADS:.0%} of them with skull and scalp" if self.skull else ""
        return [("simulated subjects", f"{share:.0%} of the training, new ones in every epoch, with {contrast}{skull}")]


def is_calibrated(least: float) -> bool:
    """Whether intensities have a unit in which tissues are the same in all subjects, as Hounsfield units of CT.

    Args:
        least: Least intensity of an image. Scanners write negative ones only in such a unit.
    """
    return least < 0


class Simulator:
    """Simulates subjects from prepared cases.

    Args:
        cases: Cases, prepared by the recipe of `simulation`.
        simulation: How to simulate.
        recipe: Recipe of the run, by which subjects are prepared.
        scheme: The meaning of the labels.
        device: Where subjects are made.
    """

    def __init__(
        self,
        cases: Sequence[Prepared],
        simulation: Simulation,
        recipe: Recipe,
        scheme: LabelScheme,
        device: torch.device,
    ) -> None:
        spacing = self.source_spacing = simulation.recipe.spacing or (1.0,) * simulation.recipe.dims
        self.cases, self.simulation, self.recipe, self.scheme = cases, simulation, recipe, scheme
        self.device = device
        self.spacing = [*(recipe.spacing or spacing)]
        if recipe.view in SLICE_AXIS:
            across = SLICE_AXIS[recipe.view]
            in_plane = recipe.spacing or np.delete(spacing, across)
            self.spacing = [*map(float, np.insert(in_plane, across, spacing[across]))]

    @cached_property
    def sources(self) -> list[Source]:
        """What is learned from the cases; only when subjects are made, because it takes seconds.

        Raises:
            UserError: Subjects are to have a skull, and the background of a case is not empty.
        """
        found = [
            Source.of(
                case.images()[0],
                case.labels()[0],
                spacing=self.source_spacing,
                partners=partner_classes(list(self.scheme.labels)),
                calibrated=self.simulation.calibrated,
            ).to(self.device)
            for case in self.cases
        ]
        for case, source in zip(self.cases, found, strict=True):
            if self.simulation.skull and source.empty is None:
                raise UserError(
                    f"skull=true simulates a skull around a brain without one, but the background of {case.name} is "
                    "not empty (the same value in at least a fifth of its voxels); leave it out, or mask the brain"
                )
        return found

    def subject(self, key: Sequence[int], *, whole: bool = False) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """One subject as prepared arrays: images (slices, C, *spatial) and labels (slices, *spatial).

        Args:
            key: Whole numbers that select the subject. The last selects the case, one after the other.
            whole: With the whole field of view of the source.
        """
        variation = self.simulation.variation
        source = self.sources[key[-1] % len(self.sources)]
        image, labels = draw_subject(
            source,
            key,
            contrast=self.simulation.contrast,
            variation=variation.model_copy(update={"cut": 0.0}) if whole else variation,
            spacing=self.spacing,
            skull=self.simulation.skull,
        )
        affine = None if self.recipe.view == "picture" else np.diag([*self.spacing, 1.0])
        images, grid = self.recipe.image_slices(Image(image.cpu().numpy(), affine))
        return images, self.recipe.label_slices(Image(labels.cpu().numpy(), affine, is_label=True), grid)

    def share_of_subject(self) -> float:
        """Voxels of a slice or patch of the run as a share of those of a subject, at most 1."""
        sizes = np.array([mean_size(source) if self.simulation.skull else source.size for source in self.sources])
        if self.recipe.view in SLICE_AXIS:
            return float(1 / np.mean(sizes[:, SLICE_AXIS[self.recipe.view]]))
        whole = np.mean(sizes.prod(1) * [math.prod(source.spacing) for source in self.sources])
        return min(1.0, math.prod(self.recipe.patch) * math.prod(self.spacing) / float(whole))

    def held_out(
        self, count: int, cache: Path, *, progress: Callable[[int, int], None] | None = None
    ) -> list[Prepared]:
        """Subjects for validation, the same in every run with this simulation, kept in the cache.

        They are whole, so that the volumes of their structures are those of subjects.

        Args:
            count: Number of subjects.
            cache: Folder of all prepared arrays.
            progress: Called with the numbers of finished and of all subjects after each subject.
        """
        found = []
        for number in range(count):
            # what has no effect on them is left out, so that those of earlier versions are found
            unused = {"variation": {"cut"}} | ({} if self.simulation.skull else {"skull": True})
            simulation = self.simulation.model_dump(mode="json", exclude=unused)
            parts = [FORMAT, [case.folder.name for case in self.cases], simulation]
            text = json.dumps([*parts, self.recipe.model_dump(mode="json"), number])
            case = Prepared(f"simulated {number + 1}", cache / hashlib.sha256(text.encode()).hexdigest()[:24])
            if not case.folder.exists():
                write_prepared(case.folder, *self.subject((*HELD_OUT, number), whole=True))
            found.append(case)
            if progress is not None:
                progress(number + 1, count)
        return found

    def facts(self, subjects: Sequence[Prepared]) -> list[CaseFacts]:
        """Facts about subjects for validation, without intensities and digest."""
        values = class_values(self.scheme.labels)
        orientation = None if self.recipe.view == "picture" else "RAS"
        found = []
        for case in subjects:
            labels = case.labels()
            voxels = {int(values[n]): int((labels == n).sum()) for n in np.unique(labels) if n < len(values)}
            shape, spacing = labels.shape[-len(self.spacing) :], tuple(self.spacing)
            found.append(
                CaseFacts(case.name, shape, spacing, orientation, self.recipe.channels, (np.nan, np.nan), voxels, "")
            )
        return found
