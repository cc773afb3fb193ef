"""Recipes: how images become the slices for a 2D network, and how labels of slices return to the grid of the image.

Only resampling needs torch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Self, TypeVar, get_args

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from scse.data.files import Image
from scse.data.inspection import CaseFacts
from scse.support.checks import check_choice
from scse.support.errors import UserError
from scse.support.text import shortened_list
from scse.vocabulary.planes import Plane

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
V = TypeVar("V", np.float32, np.uint8)
W = TypeVar("W", bound=np.generic)
SLICE_AXIS: dict[str, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Axis perpendicular to the slices, of a volume reoriented to RAS (right, anterior, superior)."""

ANISOTROPIC = 1.5
"""A volume is sliced across its coarsest axis if the coarsest spacing is at least this multiple of the finest."""

THIN = 4
"""A volume is thin along an axis if each other axis has at least this multiple of its voxels."""

SMALLEST_PLANE = 16
"""Voxels along an axis; slices with fewer voxels along a thin axis would be too narrow for a network."""

LARGEST_PATCH = 256
"""Pixels; images with longer sides are trained on crops and predicted in overlapping windows of the crop size."""

PATCH_MULTIPLE = 8
SAME_SPACING = 1e-3  # spacings whose range is below this fraction of the median are not resampled
CLIP_PERCENTILES = (0.5, 99.5)

LEAST_SPACING, GREATEST_SPACING = 1e-8, 1e8
"""Allowed millimetres per pixel: from finer than any light microscope to coarser than any scanner."""

Millimetres = Annotated[float, Field(ge=LEAST_SPACING, le=GREATEST_SPACING)]
Pixels = Annotated[int, Field(ge=1, le=4096)]
Percentile = Annotated[float, Field(ge=0, le=100)]

BLOCK = 16
"""Number of slices prepared at a time: 16 neighbouring float32 voxels fill one cache line."""

STRETCH = 2**20
"""Number of values summed at a time."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Origin of slices in an image, used to return label slices to its grid.

    Attributes:
        shape: Voxels of the image as stored.
        to_view: nibabel orientation (3, 2) that reorients the volume to RAS; None for pictures.
        axis: Slice axis of the reoriented volume; 0 for pictures.
        plane: (height, width) of a slice before resampling.
        resampled: (height, width) of a slice after resampling and before padding.
    """

    shape: tuple[int, ...]
    to_view: NDArray[np.float64] | None
    axis: int
    plane: tuple[int, int]
    resampled: tuple[int, int]

    def restore(self, slices: NDArray[W]) -> NDArray[W]:
        """Convert slices of labels or other values, (slices, *plane), to the stored shape and orientation."""
        restored = np.empty(self.shape, slices.dtype)
        self.sliced(restored)[:] = slices
        return restored

    def sliced(self, stored: NDArray[W]) -> NDArray[W]:
        """View an array of the stored shape as slices (slices, *plane)."""
        if self.to_view is None:
            return stored[None]
        return np.moveaxis(_turned(stored, self.to_view), self.axis, 0)


class Slices:
    """Slices of an image, prepared on access: `slices[3:9]` is (6, C, height, width) float32.

    The image is not copied.

    Attributes:
        grid: Origin of the slices in the image.
        shape: Shape (slices, C, height, width).
        constant: Whether each channel of the image has a single value.
        nbytes: Bytes of the image.
    """

    def __init__(self, stored: NDArray[np.generic], grid: Grid, clip: tuple[float, float], patch: tuple[int, int]):
        """Measure the intensities of `stored`, a view (slices, C, *plane) of the image."""
        self.grid = grid
        self._stored = stored
        self._scales = [_scale(stored[:, channel], clip) for channel in range(stored.shape[1])]
        self.constant = all(scale is None for scale in self._scales)
        self.nbytes = stored.nbytes
        height, width = (max(pair) for pair in zip(grid.resampled, patch, strict=True))
        self.shape: tuple[int, int, int, int] = (stored.shape[0], stored.shape[1], height, width)
        # the smallest value is the background
        self._fill = np.float32(0) if self.shape[2:] == grid.resampled else min(b.min() for b in self._blocks())

    def __len__(self) -> int:
        """Number of slices."""
        return self.shape[0]

    def __getitem__(self, chosen: slice | Sequence[int] | NDArray[np.intp]) -> NDArray[np.float32]:
        """Prepare the chosen slices."""
        return _pad(self._resized(self._stored[chosen]), self.shape[2:], fill=self._fill)

    def _blocks(self) -> Iterator[NDArray[np.float32]]:
        return (self._resized(self._stored[start : start + BLOCK]) for start in range(0, len(self), BLOCK))

    def _resized(self, block: NDArray[np.generic]) -> NDArray[np.float32]:
        normalized = np.zeros(block.shape, np.float32)
        for channel, scale in enumerate(self._scales):
            if scale is not None:
                normalized[:, channel] = scale.apply(block[:, channel])
        return _resize_array(normalized, self.grid.resampled)


class Recipe(BaseModel):
    """Preparation of images for a network, derived from the data set and stored with the model.

    Attributes:
        view: Plane of the slices; "picture" for 2D images without an orientation.
        spacing: Millimetres per pixel (rows, columns) to which slices are resampled; None keeps the spacing of the
            image.
        patch: Size (height, width) in pixels of the network's input. Smaller slices are padded; larger slices are
            cropped in training and covered by overlapping windows in prediction.
        channels: Number of image channels.
        clip: Lower and upper percentile to which each channel is clipped. Each channel is then normalised to mean 0
            and standard deviation 1. All of these are measured on the voxels above the minimum of the image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    view: Plane
    spacing: tuple[Millimetres, Millimetres] | None
    patch: tuple[Pixels, Pixels]
    channels: int = Field(ge=1, le=1024)
    clip: tuple[Percentile, Percentile] = CLIP_PERCENTILES

    @model_validator(mode="after")
    def _check_clip(self) -> Self:
        if not self.clip[0] < self.clip[1]:
            raise ValueError(f"clip must list the lower percentile first, got {self.clip}")
        return self

    @classmethod
    def derive(cls, facts: Sequence[CaseFacts], *, plane: Plane | None = None, spacing: float | None = None) -> Self:
        """Choose a recipe for a data set.

        Args:
            facts: Facts of the cases, as found by `inspect`.
            plane: Plane of the slices. By default it is chosen from the medians of the cases: across the axis with the
                fewest voxels if the volumes are thin along it (one voxel, or at most a quarter of the voxels of each
                other axis), unless they have at least 16 voxels there and the pixels of the slices would be
                anisotropic; otherwise across the coarsest axis if the volumes are anisotropic (coarsest spacing at
                least 1.5 times the finest); otherwise coronal, as in the paper.
            spacing: Millimetres per pixel in the plane. By default the spacing of the images, or the median if they
                differ.

        Raises:
            UserError: There are no facts, the plane does not fit the images, or the spacing is not positive or out of
                range.
        """
        if not facts:
            raise UserError("the data set has no readable cases to derive a recipe from; fix them, or add cases")
        if plane is not None:
            check_choice("plane", plane, get_args(Plane))
        view = _choose_plane(facts, plane)
        planes = [_plane(case, view) for case in facts]
        spacings = np.array([plane_spacing for _, plane_spacing in planes])
        target = _choose_spacing(spacings, spacing)
        for mm in target or ():
            if not LEAST_SPACING <= mm <= GREATEST_SPACING:
                allowed = f"{LEAST_SPACING:g} to {GREATEST_SPACING:g} are allowed"
                raise UserError(f"spacing must be a positive number of mm, got {mm:g}; {allowed}")
        sizes = np.array([_resampled(shape, own, target) for shape, own in planes])
        rounded = -(-sizes.max(0) // PATCH_MULTIPLE) * PATCH_MULTIPLE
        height, width = (int(min(size, LARGEST_PATCH)) for size in rounded)
        return cls(view=view, spacing=target, patch=(height, width), channels=facts[0].channels)

    def describe(self) -> list[tuple[str, str]]:
        """The recipe as printable rows (name, value)."""
        spacing = "as stored" if self.spacing is None else " x ".join(f"{mm:g} mm" for mm in self.spacing)
        low, high = self.clip
        return [
            ("plane", self.view),
            ("spacing in the plane", spacing),
            ("patch", " x ".join(map(str, self.patch)) + " pixels"),
            ("channels", str(self.channels)),
            ("intensity", f"clipped to percentiles {low:g} and {high:g}, mean 0, deviation 1, per image and channel"),
        ]

    def image_slices(self, image: Image) -> tuple[NDArray[np.float32], Grid]:
        """Prepare an image: (C, *spatial) -> (slices, C, height, width) float32, at least `patch` in size.

        Raises:
            UserError: The image has another number of channels, does not fit the plane, or is not finite.
        """
        slices = self.slices(image)
        prepared = np.empty(slices.shape, np.float32)
        for start in range(0, len(slices), BLOCK):
            prepared[start : start + BLOCK] = slices[start : start + BLOCK]
        return prepared, slices.grid

    def slices(self, image: Image) -> Slices:
        """Like `image_slices`, but slices are prepared on access, which saves memory.

        Raises:
            UserError: As for `image_slices`.
        """
        if image.array.shape[0] != self.channels:
            raise UserError(f"the image has {image.array.shape[0]} channels, but the model expects {self.channels}")
        turned, to_view = self._turn(image)
        axis = SLICE_AXIS.get(self.view, 0)
        stored = np.moveaxis(turned, axis + 1, 0)
        if not all(np.isfinite(stored[start : start + BLOCK]).all() for start in range(0, len(stored), BLOCK)):
            raise UserError("the image has voxels that are NaN or infinite; replace them, for example by 0")
        plane = (stored.shape[2], stored.shape[3])
        resampled = _resampled(plane, self.plane_spacing(image, to_view), self.spacing)
        return Slices(stored, Grid(image.array.shape[1:], to_view, axis, plane, resampled), self.clip, self.patch)

    def label_slices(self, label: Image, grid: Grid) -> NDArray[np.uint8]:
        """Prepare a label map on the grid of its image: (*spatial) -> (slices, height, width).

        A resampled pixel gets the label that covers the largest part of it.
        """
        turned, _ = self._turn(Image(label.array[None], label.affine))
        slices = np.moveaxis(turned[0], grid.axis, 0).astype(np.uint8, order="C")
        if grid.resampled != grid.plane:
            slices = np.stack([_resize_labels(plane, grid.resampled) for plane in slices])
        size = tuple(max(pair) for pair in zip(grid.resampled, self.patch, strict=True))
        return _pad(slices, size, fill=np.uint8(0))

    def restore(self, probabilities: "Tensor", grid: Grid) -> NDArray[np.uint8]:
        """Class probabilities (slices, classes, height, width) -> labels (slices, *plane) on the grid of the image.

        Probabilities are resampled rather than labels, whose staircase edges would lower Dice. Slices that were not
        resampled may be given as logits.

        Raises:
            UserError: The greatest probability of a pixel is NaN or infinite.
        """
        # max is several times as fast as argmax on CPUs
        best = self.to_plane(probabilities, grid).max(1)
        if not best.values.isfinite().all():
            raise UserError(
                "the network returned NaN or infinite probabilities: its weights are corrupted, or values overflowed; "
                "copy the model again, or train it again"
            )
        restored: NDArray[np.uint8] = best.indices.byte().cpu().numpy()
        return restored

    def to_plane(self, maps: "Tensor", grid: Grid) -> "Tensor":
        """Maps of prepared slices (slices, C, height, width) -> (slices, C, *plane) on the grid of the image."""
        height, width = grid.resampled
        return resize(maps[..., :height, :width], grid.plane)

    def _turn(self, image: Image) -> tuple[NDArray[np.generic], NDArray[np.float64] | None]:
        if self.view == "picture":
            if image.array.ndim != 3:
                raise UserError(f"the model expects 2D pictures, got an image of shape {image.array.shape[1:]}")
            return image.array[:, None], None
        if image.array.ndim != 4:
            raise UserError(f"the model expects {self.view} slices of volumes, got shape {image.array.shape[1:]}")
        affine = np.eye(4) if image.affine is None else image.affine
        to_view = nib.io_orientation(affine)
        # a view: the channel axis is moved to the end while the spatial axes are reoriented
        return np.moveaxis(_turned(np.moveaxis(image.array, 0, -1), to_view), -1, 0), to_view

    def plane_spacing(self, image: Image, to_view: NDArray[np.float64] | None) -> tuple[float, float]:
        """Millimetres per pixel (rows, columns) of the slices of an image before resampling; 1.0 each for pictures."""
        if to_view is None:
            return (1.0, 1.0)
        turned = np.empty(3)
        turned[to_view[:, 0].astype(int)] = image.spacing
        height, width = np.delete(turned, SLICE_AXIS[self.view])
        return float(height), float(width)


def _choose_plane(facts: Sequence[CaseFacts], plane: Plane | None) -> Plane:
    axes = {len(case.shape) for case in facts}
    if len(axes) > 1:
        raise UserError("the data set mixes 2D pictures and volumes; put them into separate data sets")
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
    astray = [case.name for case in facts if 1 in _plane(case, chosen)[0] and max(_plane(case, chosen)[0]) > 1]
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


def _plane(case: CaseFacts, view: Plane) -> tuple[tuple[int, int], tuple[float, float]]:
    """Size and spacing of the slices of a case."""
    if view == "picture":
        return (case.shape[0], case.shape[1]), (1.0, 1.0)
    shape, spacing = _canonical(case, case.shape), _canonical(case, case.spacing)
    del shape[SLICE_AXIS[view]], spacing[SLICE_AXIS[view]]
    return (shape[0], shape[1]), (spacing[0], spacing[1])


def _choose_spacing(spacings: NDArray[np.float64], wanted: float | None) -> tuple[float, float] | None:
    if wanted is not None:
        return (wanted, wanted)
    rows, columns = np.median(spacings, axis=0)
    if (np.ptp(spacings, axis=0) < SAME_SPACING * np.array([rows, columns])).all():
        return None
    return (float(rows), float(columns))


def _resampled(plane: tuple[int, int], own: tuple[float, float], target: tuple[float, float] | None) -> tuple[int, int]:
    """Pixels after resampling. The extent is kept, so rounding to whole pixels makes the spacing approximate."""
    if target is None:
        return plane
    height, width = (max(1, round(n * a / b)) for n, a, b in zip(plane, own, target, strict=True))
    return height, width


def _turned(stored: NDArray[W], to_view: NDArray[np.float64]) -> NDArray[W]:
    """A view of an array with its first three axes reoriented to RAS."""
    turned: NDArray[W] = nib.orientations.apply_orientation(stored, to_view)
    return turned


def _pad(slices: NDArray[V], size: tuple[int, ...], *, fill: V) -> NDArray[V]:
    """Pad slices (..., height, width) at the bottom and right up to `size`."""
    missing = [wanted - there for wanted, there in zip(size, slices.shape[-2:], strict=True)]
    if not any(missing):
        return slices
    edges = [(0, 0)] * (slices.ndim - 2) + [(0, pixels) for pixels in missing]
    return np.pad(slices, edges, constant_values=fill)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Clipping and normalisation of a channel to mean 0 and standard deviation 1."""

    low: np.float64
    high: np.float64
    mean: np.float64
    deviation: np.float64

    def apply(self, values: NDArray[np.generic]) -> NDArray[np.float64]:
        scaled: NDArray[np.float64] = np.clip(values.astype(np.float32), self.low, self.high)
        scaled -= self.mean
        scaled /= self.deviation
        return scaled


def _scale(slices: NDArray[np.generic], clip: tuple[float, float]) -> _Scale | None:
    """Measure the voxels of a channel (slices, *plane) above its minimum; None if there are none.

    Percentiles adapt to intensity ranges that differ by orders of magnitude between images and ignore single bright
    voxels. Excluding the minimum prevents a constant background from dominating the statistics.
    """
    foreground = _above_minimum(slices)
    if foreground.size == 0:
        return None
    # percentile reorders the voxels to save a copy; they are read again because a sum depends on the order of its terms
    low, high = np.percentile(foreground, clip, overwrite_input=True)
    del foreground
    foreground = _above_minimum(slices)
    mean = _sum(lambda part: np.clip(part, low, high), foreground) / foreground.size
    variance = _sum(lambda part: (np.clip(part, low, high) - mean) ** 2, foreground) / foreground.size
    # an image with two values has one foreground value and a standard deviation of 0
    return _Scale(low, high, mean, np.sqrt(variance) or np.float64(1))


def _above_minimum(slices: NDArray[np.generic]) -> NDArray[np.float32]:
    """The voxels above the minimum, as a 1D array."""
    blocks = [slices[start : start + BLOCK] for start in range(0, len(slices), BLOCK)]
    minimum = min(block.min() for block in blocks)
    foreground = np.empty(sum(np.count_nonzero(block > minimum) for block in blocks), np.float32)
    filled = 0
    for block in blocks:
        above = block[block > minimum]
        foreground[filled : filled + above.size] = above
        filled += above.size
    return foreground


def _sum(values: Callable[[NDArray[np.float32]], NDArray[np.float64]], of: NDArray[np.float32]) -> np.float64:
    """Sum of `values` applied to an array, computed in parts that halve like numpy.sum, so that the bits are equal."""
    if of.size <= STRETCH:
        return np.float64(values(of).sum())
    half = of.size // 2
    half -= half % 8
    return _sum(values, of[:half]) + _sum(values, of[half:])


def resize(slices: "Tensor", size: tuple[int, int]) -> "Tensor":
    """Resample (slices, C, height, width) to another size: bilinear, with antialiasing where pixels become coarser."""
    if slices.shape[2:] == size:
        return slices
    from torch.nn.functional import interpolate  # noqa: PLC0415 (only resampling needs torch)

    return interpolate(slices, size, mode="bilinear", antialias=True)


def _resize_array(slices: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    if slices.shape[2:] == size:
        return slices
    from torch import from_numpy  # noqa: PLC0415 (as above)

    resized: NDArray[np.float32] = resize(from_numpy(slices), size).numpy()
    return resized


def _resize_labels(plane: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resample labels (height, width) to `size`; each pixel gets the label that covers the largest part of it."""
    present = np.unique(plane)
    one_hot = (plane == present[:, None, None]).astype(np.float32)
    share = _resize_array(one_hot[None], size)[0]
    labels: NDArray[np.uint8] = present[share.argmax(0)]
    return labels
