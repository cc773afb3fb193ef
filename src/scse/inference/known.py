"""What the training cases of a segmenter had, and results that lie outside it.

The comparison sees gross failures: a structure that is missing, far too small or too large, or in pieces. It does not
see a wrong shape or place of the usual volume, and it says nothing where training cases differ widely.
"""

import math
from collections.abc import Mapping, Sequence

from scse.data.inspection import CaseFacts
from scse.inference.saved import Known
from scse.support.text import counted

FEWEST_CASES = 5
"""Least number of training cases whose range of volumes is kept."""

LEAST_RATIO = 1.1
"""Least ratio of the ends of a range of volumes: a narrower one would flag differences of resampling."""


def known_of(
    facts: Sequence[CaseFacts], scored: Mapping[str, int | Sequence[int]], pieces: Mapping[str, Sequence[int]]
) -> Known | None:
    """What training cases had; None if they are pictures or too few.

    Args:
        facts: Facts of the training cases.
        scored: Label value or values of each structure, by name.
        pieces: Number of pieces in each training case, by structure; structures may be absent.
    """
    if len(facts) < FEWEST_CASES or any(case.orientation is None for case in facts):
        return None
    volumes = {}
    for name, values in scored.items():
        members = values if isinstance(values, Sequence) else [values]
        found = [sum(case.voxels.get(value, 0) for value in members) * math.prod(case.spacing) / 1000 for case in facts]
        volumes[name] = (min(found), max(found))
    whole = tuple(name for name, counts in pieces.items() if max(counts) == 1)
    return Known(cases=len(facts), volumes=volumes, single=whole)


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
    )


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
    ratio = max(high / low, LEAST_RATIO) if low else 2.0
    flags = []
    if not volume and low:
        flags.append(f"absent, and all {known.cases} training cases have it")
    elif volume < low / ratio or volume > high * ratio:
        flags.append(f"{volume:.3g} ml, and training cases have {low:.3g} to {high:.3g} ml")
    if structure in known.single and pieces > 1:
        flags.append(f"{counted(pieces, 'piece')}, and all {known.cases} training cases have one")
    return "; ".join(flags)
