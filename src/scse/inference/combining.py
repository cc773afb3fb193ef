"""One prediction of several groups of segmenters: single ones, and the ensembles of studies."""

from collections.abc import Sequence

from scse.inference.averaging import check_weights
from scse.inference.joining import joined
from scse.inference.segmenter import Segmenter
from scse.inference.uncertainty import uncertain


def combined(
    groups: Sequence[Sequence[Segmenter]],
    *,
    weights: Sequence[float] | None = None,
    mirror: bool = False,
    uncertainty: bool = False,
) -> Segmenter:
    """One segmenter that predicts as all segmenters of all groups.

    Args:
        groups: Groups of segmenters, such as a single one, or the folds and seeds of a study.
        weights: Weight of each group, which its segmenters share evenly; by default each segmenter counts once.
        mirror: Average over mirrored images, too, see `averaged`.
        uncertainty: Measure how far the predictions lie apart, see `uncertain`.

    Returns:
        What `joined` or `uncertain` returns; the segmenter itself, if there is one and nothing to be averaged.

    Raises:
        UserError: There are not as many positive weights as groups, or the reasons of `joined` and `uncertain`.
    """
    members = [segmenter for group in groups for segmenter in group]
    each = None
    if weights is not None:
        check_weights(weights, len(groups), "-m and then each --ensemble (each group, in Python)")
        each = [weight / len(group) for weight, group in zip(weights, groups, strict=True) for _ in group]
    if len(members) == 1 and not mirror and not uncertainty:
        return members[0]
    return (uncertain if uncertainty else joined)(members, weights=each, mirror=mirror)
