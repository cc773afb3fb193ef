"""The choices that a recipe makes from the facts of a data set: plane, spacing and patch."""

from collections.abc import Sequence
from typing import TypeVar

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from scse.data.inspection import CaseFacts
from scse.support.errors import UserError
from scse.support.text import shortened_list
from scse.vocabulary.planes import Plane, View

T = TypeVar("T")

SLICE_AXIS: dict[str, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Axis perpendicular to the slices, of a volume reoriented to RAS (right, anterior, superior)."""

ANISOTROPIC = 1.5
"""A volume is sliced across its coarsest axis if the coarsest spacing is at least this multiple of the finest."""

THIN = 4
"""A volume is thin along an axis if each other axis has at least this multiple of its voxels."""

SMALLEST_PLANE = 16
"""Voxels along an axis; slices with fewer voxels along a thin axis would be too narrow for a network."""

COARSE_AXIS = 3
"""An axis is coarse if its spacing exceeds this multiple of the others and it has as many times fewer voxels."""

COARSE_PERCENTILE = 10
"""Percentile of the spacings along a coarse axis that is chosen, so that few volumes lose slices, as in nnU-Net."""

LARGEST_PATCH = 256
"""Pixels; images with longer sides are trained on crops and predicted in overlapping windows of the crop size."""

LARGEST_VOLUME = 64 * 80 * 64
"""Voxels of a patch; larger volumes are trained on crops and predicted in overlapping windows of the crop size."""

PATCH_MULTIPLE = 8
SAME_SPACING = 1e-3  # spacings whose range is below this fraction of the median are not resampled


def choose_view(facts: Sequence[CaseFacts], *, plane: Plane | None, dims: int) -> View:
    """The plane of the slices, or the volumes themselves, see `Recipe.derive`.

    Raises:
        UserError: The plane or the number of dimensions does not fit the images.
    """
    if dims not in {2, 3}:
        raise UserError(f"dims must be one of 2, 3, got {dims!r}")
    axes = {len(case.shape) for case in facts}
    if len(axes) > 1:
        raise UserError("the data set mixes 2D pictures and volumes; put them into separate data sets")
    if dims == 3:
        if axes == {2}:
            raise UserError("dims=3 needs volumes, but the images are 2D; omit dims")
        if plane is not None:
            raise UserError(f"plane={plane!r} has no effect with dims=3, which has no slices; leave one of them out")
        return "volume"
    if axes == {2}:
        if plane not in {None, "picture"}:
            raise UserError(f"plane={plane!r} needs volumes, but the images are 2D; omit plane")
        return "picture"
    if plane == "picture":
        raise UserError(f"plane='picture' needs 2D images, but these are volumes; choose {', '.join(SLICE_AXIS)}")
    if plane is not None:
        return plane
    planes: list[Plane] = ["sagittal", "coronal", "axial"]
    chosen = planes[_slice_axis(facts)]
    astray = [case.name for case in facts if 1 in in_view(case, chosen)[0] and max(in_view(case, chosen)[0]) > 1]
    if astray:
        raise UserError(
            f"the {chosen} plane fits most volumes, but in its slices {len(astray)} of {len(facts)} volumes "
            f"({shortened_list(astray)}) are one voxel wide; make one data set per slice plane, or choose another plane"
        )
    return chosen


def _slice_axis(facts: Sequence[CaseFacts]) -> int:
    """The axis perpendicular to the slices (0 right, 1 anterior, 2 superior), chosen from the medians of the cases."""
    voxels = np.median([_canonical(case, case.shape) for case in facts], axis=0)
    spacings = np.median([_canonical(case, case.spacing) for case in facts], axis=0)
    short = int(voxels.argmin())
    fewest, second = np.sort(voxels)[:2]
    in_plane = np.delete(spacings, short)
    square = in_plane.max() < ANISOTROPIC * in_plane.min()
    if fewest == 1 < second or (fewest * THIN <= second and (square or fewest < SMALLEST_PLANE)):
        return short
    anisotropic = spacings.max() >= ANISOTROPIC * spacings.min()
    return int(spacings.argmax()) if anisotropic else SLICE_AXIS["coronal"]


def _canonical(case: CaseFacts, values: Sequence[T]) -> list[T]:
    """Reorder values of the stored axes to right, anterior, superior."""
    codes = case.orientation or "RAS"
    order = nib.orientations.axcodes2ornt(codes)[:, 0].astype(int)
    return [value for _, value in sorted(zip(order, values, strict=True), key=lambda pair: pair[0])]


def in_view(case: CaseFacts, view: View) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Size and spacing of the slices of a case, or of its volume."""
    if view == "picture":
        return case.shape, (1.0, 1.0)
    shape, spacing = _canonical(case, case.shape), _canonical(case, case.spacing)
    if view != "volume":
        del shape[SLICE_AXIS[view]], spacing[SLICE_AXIS[view]]
    return tuple(shape), tuple(spacing)


def advise_dims(facts: Sequence[CaseFacts], view: View) -> list[tuple[str, str]]:
    """A row for the plan if slices are chosen where volumes fit, or the other way round; none for pictures.

    Volumes fit if, by the medians of the cases, the coarsest spacing is at most three times the finest and no axis has
    fewer than 16 voxels: convolutions over all axes then see comparable distances, and there is something to see.
    """
    if view == "picture":
        return []
    voxels = np.median([case.shape for case in facts], axis=0)
    spacings = np.median([case.spacing for case in facts], axis=0)
    anisotropy = spacings.max() / spacings.min()
    fits = anisotropy <= COARSE_AXIS and voxels.min() >= SMALLEST_PLANE
    if fits == (view == "volume"):
        return []
    found = (
        f"on the median, {voxels.min():g} voxels along the shortest axis, and a coarsest spacing of {anisotropy:.3g} "
        "times the finest"
    )
    if fits:
        return [("dims", f"2; 3 fits these data, too: {found}")]
    return [("dims", f"3; 2 fits these data better: {found}")]


def choose_spacing(
    shapes: NDArray[np.integer], spacings: NDArray[np.float64], wanted: float | None
) -> tuple[float, ...] | None:
    """Millimetres per pixel along each axis, from sizes and spacings (cases, axes).

    Returns:
        The wanted or the median spacing, with a finer one along a coarse axis of volumes. None for slices whose
        spacings are equal: they keep their own.
    """
    if wanted is not None:
        return (wanted,) * len(spacings[0])
    target = np.median(spacings, axis=0)
    if len(target) == 2 and (np.ptp(spacings, axis=0) < SAME_SPACING * target).all():
        return None
    if len(target) == 3:
        coarse, sizes = int(target.argmax()), np.median(shapes, axis=0)
        finer, longer = np.delete(target, coarse).max(), np.delete(sizes, coarse).min()
        if target[coarse] > COARSE_AXIS * finer and COARSE_AXIS * sizes[coarse] < longer:
            target[coarse] = max(finer, np.percentile(spacings[:, coarse], COARSE_PERCENTILE))
    return tuple(float(mm) for mm in target)


def resampled_size(size: Sequence[int], own: Sequence[float], target: Sequence[float] | None) -> tuple[int, ...]:
    """Pixels after resampling. The extent is kept, so rounding to whole pixels makes the spacing approximate."""
    if target is None:
        return tuple(size)
    return tuple(max(1, round(n * a / b)) for n, a, b in zip(size, own, target, strict=True))


def choose_patch(sizes: NDArray[np.integer]) -> tuple[int, ...]:
    """Size of the network's input, from the sizes (cases, axes) of the resampled images.

    Slices: the largest of each axis, up to `LARGEST_PATCH`. Volumes: the median size, whose longest axis is shortened
    until the patch has at most `LARGEST_VOLUME` voxels.
    """
    if sizes.shape[1] == 2:
        return tuple(int(min(size, LARGEST_PATCH)) for size in _rounded_up(sizes.max(0)))
    patch = _rounded_up(np.ceil(np.median(sizes, axis=0)).astype(np.int64))
    while patch.prod() > LARGEST_VOLUME:
        patch[patch.argmax()] -= PATCH_MULTIPLE
    return tuple(map(int, patch))


def _rounded_up(sizes: NDArray[np.integer]) -> NDArray[np.integer]:
    rounded: NDArray[np.integer] = -(-sizes // PATCH_MULTIPLE) * PATCH_MULTIPLE
    return rounded
