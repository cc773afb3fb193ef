"""The choice of a segmenter's clean-up on held-out cases, after its last epoch.

As in nnU-Net, a step is kept only if it raises the mean Dice of these cases and lowers that of no structure. Here it
has to raise it by at least `LEAST_GAIN`, because less is a matter of single voxels. The cases are those of the
validation, so the Dice with the clean-up is that of cases on which it was chosen: it is optimistic, and no score.
Studies, whose held-out cases are scored, choose none.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from scse.data.prepared import IGNORED_CLASS, Prepared
from scse.data.slicing import evenly_spread
from scse.evaluation.scores import dice_scores
from scse.inference.cleaning import clean
from scse.inference.saved import NO_CLEANING, Cleaning
from scse.inference.segmenter import Segmenter
from scse.inference.windows import blended_rows, channels_last, in_windows
from scse.support.atomic import write_atomic
from scse.support.errors import UserError
from scse.support.events import CleaningChosen, CleaningStep, Progress, Watch
from scse.training.record import CHOICE
from scse.training.validation import OVERLAP, VALIDATION_SHARE

LEAST_GAIN = 0.0005
"""Least rise of the mean Dice, of all structures or of the one that a step changes, for which the step is kept."""

Classes = NDArray[np.uint8]
Scores = NDArray[np.float64]


def affordable(cases: Sequence[Prepared], trained: int) -> list[Prepared]:
    """The cases on which a clean-up is chosen: at least one, evenly spread.

    Their voxels are at most a quarter of those that the run was trained on, for the reason of `VALIDATION_SHARE`:
    predicting them takes less than a tenth of the time of the training, and up to a fifth where windows overlap.

    Args:
        cases: Prepared cases.
        trained: Pixels or voxels in all training batches of the run.
    """
    in_order = sorted(cases, key=lambda case: case.name)
    total = sum(case.labels().size for case in in_order)
    count = max(1, min(len(in_order), len(in_order) * trained // (VALIDATION_SHARE * max(total, 1))))
    return [in_order[place] for place in evenly_spread(len(in_order), count)]


def choose_cleaning(
    segmenter: Segmenter, cases: Sequence[Prepared], *, batch_size: int, watch: Watch
) -> tuple[Cleaning, CleaningChosen]:
    """Choose the clean-up of a segmenter.

    The steps are tried in the order in which they are applied: first the largest component of all structures together,
    if there is more than one; then, on its result, that of each structure; then the holes of each. The last two change
    no other structure, so that all structures are tried at once.

    The label maps are those on the prepared grid. Voxels that are ignored in the reference are not scored.

    Args:
        segmenter: Trained segmenter; its own clean-up is not used, and its network is left in evaluation mode.
        cases: Prepared held-out cases.
        batch_size: Slices per batch.
        watch: Gets the `Progress`; checked after every batch.

    Returns:
        The clean-up, and what it changes.

    Raises:
        StoppedError: The watch asked to stop.
        UserError: The structures of the segmenter are regions of labels.
    """
    if segmenter.regions:
        raise UserError("a clean-up is chosen for exclusive structures only, and those of this segmenter are regions")
    predicted = []
    for done, case in enumerate(cases, start=1):
        predicted.append(_Predicted.of(case, _classes(segmenter, case, batch_size, watch)))
        watch.report(Progress("cleaning", done, len(cases)))
    names = list(segmenter.structures)

    def scores(cleaning: Cleaning) -> Scores:
        rows = []
        for each in predicted:
            watch.check(STOPPED)
            rows.append(each.dice(cleaning, names))
        return np.array(rows)

    before = current = scores(NO_CLEANING)
    chosen, steps = NO_CLEANING, []
    if len(names) > 1:
        trial = Cleaning(largest_foreground=True)
        after = scores(trial)
        kept = _mean(after) - _mean(current) >= LEAST_GAIN and not (_means(after) < _means(current)).any()
        steps.append(CleaningStep(str(trial), _mean(current), _mean(after), kept))
        if kept:
            chosen, current = trial, after
    for field in ("keep_largest", "fill_holes"):
        after = scores(chosen.model_copy(update={field: tuple(names)}))
        better = _means(after) - _means(current) >= LEAST_GAIN
        for index, name in enumerate(names):
            what = str(Cleaning.model_validate({field: (name,)}))
            steps.append(CleaningStep(what, _mean(current[:, index]), _mean(after[:, index]), kept=bool(better[index])))
        chosen = chosen.model_copy(update={field: tuple(np.array(names)[better].tolist())})
        current = np.where(better, after, current)
    told = tuple(step for step in steps if step.after != step.before and not np.isnan(step.after))
    return chosen, CleaningChosen(tuple(case.name for case in cases), _mean(before), _mean(current), told)


STOPPED = "stopped while the clean-up of label maps was chosen; all epochs are done and kept"


def write_choice(folder: Path, choice: CleaningChosen) -> None:
    """Write the choice as `cleaning.json` into the folder of a run."""
    write_atomic(folder / CHOICE, json.dumps(asdict(choice), indent=2).encode())


@dataclass(frozen=True)
class _Predicted:
    """A predicted case. Its classes are compressed: label maps of many large volumes take gigabytes, but compress well.

    Attributes:
        case: The case.
        packed: Compressed classes of the shape of its labels.
    """

    case: Prepared
    packed: bytes

    @classmethod
    def of(cls, case: Prepared, classes: Classes) -> Self:
        """Compress the classes of a case."""
        return cls(case, zlib.compress(np.ascontiguousarray(classes).data, level=1))

    def dice(self, cleaning: Cleaning, names: Sequence[str]) -> Scores:
        """Dice of each structure with a clean-up; NaN where it is in neither map."""
        labels = self.case.labels()
        classes = np.frombuffer(bytearray(zlib.decompress(self.packed)), np.uint8).reshape(labels.shape)
        clean(classes, cleaning, names)
        # background in both maps counts for no structure, and is most of them
        counted = (labels != IGNORED_CLASS) & ((labels != 0) | (classes != 0))
        return dice_scores(classes[counted], labels[counted], range(1, len(names) + 1))


def _classes(segmenter: Segmenter, case: Prepared, batch_size: int, watch: Watch) -> Classes:
    """Predicted classes (slices, *spatial) of a prepared case, in windows as in validation."""
    network, patch = segmenter.network.eval(), segmenter.recipe.patch
    device = next(network.parameters()).device
    images, parts = case.images(), []
    with torch.inference_mode():
        if segmenter.recipe.dims == 3:
            rows = blended_rows(
                lambda place: torch.from_numpy(np.array(images[0][(slice(None), *place)])).to(device),
                images.shape[2:],
                patch,
                network,
                overlap=OVERLAP,
                progress=lambda done, total: watch.check(STOPPED),
            )
            parts = [_best(part, axis=0) for part in rows]
            return np.concatenate(parts)[None]
        for start in range(0, len(images), batch_size):
            batch = torch.from_numpy(np.array(images[start : start + batch_size])).to(device)
            parts.append(_best(in_windows(channels_last(batch), patch, network, overlap=OVERLAP), axis=1))
            watch.check(STOPPED)
    return np.concatenate(parts)


def _best(scores: torch.Tensor, *, axis: int) -> Classes:
    """The class of the greatest score, without the check for NaN of predictions: training does not fail here."""
    classes: Classes = scores.max(axis).indices.byte().cpu().numpy()
    return classes


def _mean(scores: Scores) -> float:
    """Mean of the values that are not NaN; NaN without any."""
    found = scores[~np.isnan(scores)]
    return float(found.mean()) if found.size else float("nan")


def _means(scores: Scores) -> Scores:
    """Mean of each structure over the cases that have it: (cases, structures) -> (structures,)."""
    return np.array([_mean(column) for column in scores.T])
