"""What the training cases of a segmenter had, and images and results that lie outside it.

The comparison sees gross failures: an image of another contrast or field of view, and a structure that is missing, far
too small or too large, or in pieces. It does not see a wrong shape or place of the usual volume, and it says nothing
where training cases differ widely.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scse.data.inspection import CaseFacts
from scse.inference.appearance import QUANTILES, Appearance
from scse.inference.saved import Known, KnownImages
from scse.support.text import counted

FEWEST_CASES = 5
"""Least number of training cases whose range of volumes is kept."""

LEAST_RATIO = 1.1
"""Least ratio of the ends of a range of volumes: a narrower one would flag differences of resampling."""

LEAST_RATIO_OF_IMAGES = 1.3
"""Least ratio of the ends of a range of spacings or extents: augmentation scales images by up to 1.3 in training."""

DEVIATIONS = 4
"""Standard deviations from the mean of the training images at which a quantile is unusual: with five quantiles and few
training images, 2 or 3 would flag many usual ones."""

LEAST_DEVIATION = 0.025
"""Least standard deviation of a quantile: narrower ones, of images that are all alike, would flag any other."""

LEAST_IOU = 0.5
"""Least mean intersection over union of the passes of a prediction: below it, two passes have less of a structure in
common, on average, than only one of them has."""

Range = tuple[float, float]


def known_of(
    facts: Sequence[CaseFacts],
    scored: Mapping[str, int | Sequence[int]],
    pieces: Mapping[str, Sequence[int]],
    images: Sequence[Appearance] = (),
) -> Known | None:
    """What training cases had; None if they are pictures or too few.

    Args:
        facts: Facts of the training cases.
        scored: Label value or values of each structure, by name.
        pieces: Number of pieces in each training case, by structure; structures may be absent.
        images: How the images of the training cases look; empty if images are not to be compared.
    """
    if len(facts) < FEWEST_CASES or any(case.orientation is None for case in facts):
        return None
    volumes = {}
    for name, values in scored.items():
        members = values if isinstance(values, Sequence) else [values]
        found = [sum(case.voxels.get(value, 0) for value in members) * math.prod(case.spacing) / 1000 for case in facts]
        volumes[name] = (min(found), max(found))
    whole = tuple(name for name, counts in pieces.items() if max(counts) == 1)
    return Known(cases=len(facts), volumes=volumes, single=whole, images=_known_images(images) if images else None)


def _known_images(images: Sequence[Appearance]) -> KnownImages:
    spacings, extents, intensities = (
        np.array([getattr(image, name) for image in images]) for name in ("spacing", "extent", "intensities")
    )
    mean, deviation = intensities.mean(0), intensities.std(0, ddof=1)
    return KnownImages(
        spacing=_ranges(spacings.min(0), spacings.max(0)),
        extent=_ranges(extents.min(0), extents.max(0)),
        intensities=_ranges(mean - deviation, mean + deviation),
    )


def _ranges(low: NDArray[np.float64], high: NDArray[np.float64]) -> Any:
    """Pairs of the numbers at the same places of two arrays, as nested lists."""
    return np.stack([low, high], -1).tolist()


def shared_known(known: Sequence[Known | None]) -> Known | None:
    """What the training cases of several segmenters of the same structures had; None if that of one is not known."""
    every = [each for each in known if each is not None]
    if not every or len(every) < len(known):
        return None
    first = every[0]
    return Known(
        cases=min(each.cases for each in every),
        volumes={
            name: (min(each.volumes[name][0] for each in every), max(each.volumes[name][1] for each in every))
            for name in first.volumes
        },
        single=tuple(name for name in first.single if all(name in each.single for each in every)),
        images=_shared_images([each.images for each in every]),
    )


def _shared_images(images: Sequence[KnownImages | None]) -> KnownImages | None:
    every = [each for each in images if each is not None]
    if len(every) < len(images):
        return None
    ends = {name: np.array([getattr(each, name) for each in every]) for name in KnownImages.model_fields}
    return KnownImages(**{name: _ranges(each[..., 0].min(0), each[..., 1].max(0)) for name, each in ends.items()})


def flag_of(known: Known, structure: str, volume: float, pieces: int) -> str:
    """What is unusual about a structure in a result; "" if nothing is.

    A volume is unusual if it lies outside the range of the training cases, widened on either side by the ratio of its
    ends: from 2 to 3 ml, a volume below 1.33 or above 4.5 ml.

    Args:
        known: What the training cases had.
        structure: Name of the structure.
        volume: Its volume in ml.
        pieces: Its number of pieces, see `scse.data.pieces.count_pieces`.
    """
    low, high = known.volumes[structure]
    flags = []
    if not volume and low:
        flags.append(f"absent, and all {known.cases} training cases have it")
    elif _is_far(volume, (low, high), LEAST_RATIO):
        flags.append(f"{volume:.3g} ml, and training cases have {low:.3g} to {high:.3g} ml")
    if structure in known.single and pieces > 1:
        flags.append(f"{counted(pieces, 'piece')}, and all {known.cases} training cases have one")
    return "; ".join(flags)


def flag_of_image(known: Known, found: Appearance) -> str:
    """What is unlike the training images about an image; "" if nothing is, or if they are not known.

    A spacing or extent is unusual if it lies outside the range of the training images, widened as that of volumes in
    `flag_of`, at least by the ratio 1.3; a quantile of the intensities if it is more than 4 standard deviations from
    its mean over the training images. Of each channel, the quantile that is farthest from its mean is named.

    Args:
        known: What the training cases had.
        found: How the image looks.
    """
    if known.images is None:
        return ""
    flags = []
    for name, values, ranges in (
        ("spacing", found.spacing, known.images.spacing),
        ("field of view", found.extent, known.images.extent),
    ):
        if any(_is_far(value, ends, LEAST_RATIO_OF_IMAGES) for value, ends in zip(values, ranges, strict=True)):
            least, most = (_by([ends[side] for ends in ranges]) for side in (0, 1))
            flags.append(f"{name} of {_by(values)} mm, and training images have {least} to {most} mm")
    channels = zip(found.intensities, known.images.intensities, strict=True)
    for number, (quantiles, around) in enumerate(channels, start=1):
        low, high = np.array(around).T
        mean, deviation = (low + high) / 2, np.maximum((high - low) / 2, LEAST_DEVIATION)
        away = np.abs(quantiles - mean) / deviation
        worst = int(away.argmax())
        if away[worst] > DEVIATIONS:
            channel = f" of channel {number}" if len(found.intensities) > 1 else ""
            flags.append(
                f"intensities{channel}: quantile {QUANTILES[worst]:g} is {quantiles[worst]:.2f} after standardisation, "
                f"and training images have {mean[worst]:.2f} ± {deviation[worst]:.2f}"
            )
    return "; ".join(flags)


def flag_of_spread(iou: float) -> str:
    """What is unusual about the passes of a prediction; "" if nothing is.

    Args:
        iou: Mean intersection over union of all pairs of passes in a structure, NaN if no pass has it.
    """
    return f"passes disagree, with a mean IoU of {iou:.2f}" if iou < LEAST_IOU else ""


def _is_far(value: float, ends: Range, least: float) -> bool:
    """Whether a value is outside a range of which either side is widened by the ratio of the ends."""
    low, high = ends
    ratio = max(high / low, least) if low else 2.0
    return value < low / ratio or value > high * ratio


def _by(lengths: Sequence[float]) -> str:
    return " x ".join(f"{length:.3g}" for length in lengths)
