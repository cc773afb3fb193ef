"""Recipes: how images become the input of a network, and how its labels return to the grid of the image.

A network sees slices of a volume, pictures, or whole volumes. In arrays, a volume is a slice with three spatial axes:
`(slices, C, *spatial)` is (slices, C, height, width), or (1, C, x, y, z) with x to the right, y anterior, z superior.

Only resampling needs torch.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Self, TypeVar, get_args

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from scse.data.choices import SLICE_AXIS, choose_patch, choose_spacing, choose_view, in_view, resampled_size
from scse.data.files import Image
from scse.data.inspection import CaseFacts
from scse.data.resampling import cropped, padded, resampled_rows, resized, resized_array, resized_labels
from scse.data.schemes import EXCLUSIVE, LabelScheme
from scse.support.checks import check_choice
from scse.support.errors import UserError
from scse.vocabulary.planes import Plane, View

if TYPE_CHECKING:
    from torch import Tensor

W = TypeVar("W", bound=np.generic)
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
        axis: Slice axis of the reoriented volume; None for pictures and whole volumes.
        plane: Size of a slice or volume before resampling.
        resampled: Size of a slice or volume after resampling and before padding.
    """

    shape: tuple[int, ...]
    to_view: NDArray[np.float64] | None
    axis: int | None
    plane: tuple[int, ...]
    resampled: tuple[int, ...]

    def restore(self, slices: NDArray[W]) -> NDArray[W]:
        """Convert slices of labels or other values, (slices, *plane), to the stored shape and orientation."""
        restored = np.empty(self.shape, slices.dtype)
        self.sliced(restored)[:] = slices
        return restored

    def sliced(self, stored: NDArray[W]) -> NDArray[W]:
        """View an array of the stored shape as slices (slices, *plane)."""
        turned = stored if self.to_view is None else _turned(stored, self.to_view)
        return turned[None] if self.axis is None else np.moveaxis(turned, self.axis, 0)

    def rows(self, stored: NDArray[W]) -> NDArray[W]:
        """View an array of the stored shape as its slices, or a whole volume as its rows along x: (rows, *plane).

        The array may have further axes at its end.
        """
        slices = self.sliced(stored)
        return slices[0] if self.axis is None and self.to_view is not None else slices


class Slices:
    """Slices of an image, or its volume, prepared on access: `slices[3:9]` is (6, C, height, width) float32.

    The image is not copied.

    Attributes:
        grid: Origin of the slices in the image.
        shape: Shape (slices, C, *spatial).
        constant: Whether each channel of the image has a single value.
        nbytes: Bytes of the image.
    """

    def __init__(self, stored: NDArray[np.generic], grid: Grid, clip: tuple[float, float], patch: tuple[int, ...]):
        """Measure the intensities of `stored`, a view (slices, C, *plane) of the image."""
        self.grid = grid
        self._stored = stored
        self._volume: NDArray[np.float32] | None = None
        # intensities of a volume are measured by planes too, because that takes little memory
        of_channel = [
            stored[0, channel] if stored.ndim == 5 else stored[:, channel] for channel in range(stored.shape[1])
        ]
        self._scales = [_scale(planes, clip) for planes in of_channel]
        self.constant = all(scale is None for scale in self._scales)
        self.nbytes = stored.nbytes
        size = (max(pair) for pair in zip(grid.resampled, patch, strict=True))
        self.shape: tuple[int, ...] = (*stored.shape[:2], *size)
        # the smallest value is the background
        self._fill = np.float32(0) if self.shape[2:] == grid.resampled else min(b.min() for b in self._blocks())

    def __len__(self) -> int:
        """Number of slices."""
        return self.shape[0]

    def __getitem__(self, chosen: slice | Sequence[int] | NDArray[np.intp]) -> NDArray[np.float32]:
        """Prepare the chosen slices."""
        return padded(self._resized(self._stored[chosen]), self.shape[2:], fill=self._fill)

    def rows(self, chosen: NDArray[np.intp]) -> NDArray[np.float32]:
        """Prepare rows of a volume along x, without padding: (C, rows, y, z).

        A volume that is resampled is kept for the next call of `windows`.
        """
        if self.grid.resampled == self.grid.plane:
            rows = self._normalized(self._stored[:, :, chosen])
        else:
            self._volume = self._resized(self._stored)
            rows = self._volume[:, :, chosen]
        prepared: NDArray[np.float32] = rows[0]
        return prepared

    def windows(self) -> Callable[[tuple[slice, ...]], NDArray[np.float32]]:
        """Function from a place in a volume to its prepared part (C, *spatial).

        A volume that is not resampled is prepared window by window, which saves a copy of it.
        """
        resampled = self.grid.resampled != self.grid.plane
        kept, self._volume = self._volume, None
        volume = (self._resized(self._stored) if kept is None else kept) if resampled else self._stored

        def window(place: tuple[slice, ...]) -> NDArray[np.float32]:
            part = volume[(slice(None), slice(None), *place)]  # without what is padding
            prepared = part.astype(np.float32, copy=False) if resampled else self._normalized(part)
            whole: NDArray[np.float32] = padded(prepared, [axis.stop - axis.start for axis in place], fill=self._fill)[
                0
            ]
            return whole

        return window

    def _blocks(self) -> Iterator[NDArray[np.float32]]:
        """The image in parts, resampled and not padded."""
        if self._stored.ndim == 5:
            if self.grid.resampled == self.grid.plane:
                return (self._normalized(rows) for rows in _row_blocks(self._stored))
            return iter([self._resized(self._stored)])
        return (self._resized(self._stored[start : start + BLOCK]) for start in range(0, len(self), BLOCK))

    def _resized(self, block: NDArray[np.generic]) -> NDArray[np.float32]:
        if block.ndim == 5:  # row by row, because normalisation takes three times the memory of its input
            in_plane = np.empty((*block.shape[:3], *self.grid.resampled[1:]), np.float32)
            for rows, found in zip(_row_blocks(block), _row_blocks(in_plane), strict=True):
                found[...] = resized_array(self._normalized(rows), found.shape[2:])
            return resized_array(in_plane, self.grid.resampled)
        return resized_array(self._normalized(block), self.grid.resampled)

    def _normalized(self, block: NDArray[np.generic]) -> NDArray[np.float32]:
        normalized = np.zeros(block.shape, np.float32)
        for channel, scale in enumerate(self._scales):
            if scale is not None:
                normalized[:, channel] = scale.apply(block[:, channel])
        return normalized


class Recipe(BaseModel):
    """Preparation of images for a network, derived from the data set and stored with the model.

    Attributes:
        view: Plane of the slices; "picture" for 2D images without an orientation; "volume" for networks of volumes.
        spacing: Millimetres per pixel along each spatial axis, to which images are resampled; None keeps the spacing
            of the image.
        patch: Size in pixels of the network's input. Smaller images are padded; larger ones are cropped in training
            and covered by overlapping windows in prediction.
        channels: Number of image channels.
        clip: Lower and upper percentile to which each channel is clipped. Each channel is then normalised to mean 0
            and standard deviation 1. All of these are measured on the voxels above the minimum of the image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    view: View
    spacing: Annotated[tuple[Millimetres, ...], Field(min_length=2, max_length=3)] | None
    patch: Annotated[tuple[Pixels, ...], Field(min_length=2, max_length=3)]
    channels: int = Field(ge=1, le=1024)
    clip: tuple[Percentile, Percentile] = CLIP_PERCENTILES

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        if not self.clip[0] < self.clip[1]:
            raise ValueError(f"clip must list the lower percentile first, got {self.clip}")
        axes = 3 if self.view == "volume" else 2
        for name, values in (("spacing", self.spacing), ("patch", self.patch)):
            if values is not None and len(values) != axes:
                raise ValueError(f"{name} must have {axes} values for view {self.view!r}, got {values}")
        return self

    @classmethod
    def derive(
        cls, facts: Sequence[CaseFacts], *, plane: Plane | None = None, spacing: float | None = None, dims: int = 2
    ) -> Self:
        """Choose a recipe for a data set.

        Args:
            facts: Facts of the cases, as found by `inspect`.
            plane: Plane of the slices. By default it is chosen from the medians of the cases: across the axis with the
                fewest voxels if the volumes are thin along it (one voxel, or at most a quarter of the voxels of each
                other axis), unless they have at least 16 voxels there and the pixels of the slices would be
                anisotropic; otherwise across the coarsest axis if the volumes are anisotropic (coarsest spacing at
                least 1.5 times the finest); otherwise coronal, as in the paper.
            spacing: Millimetres per pixel in the plane, or in all three directions. By default the spacing of the
                images, or the median if they differ; for volumes with a coarse axis, its 10th percentile.
            dims: 2 for slices or pictures, 3 for whole volumes.

        Raises:
            UserError: There are no facts, the plane or the number of dimensions does not fit the images, or the
                spacing is not positive or out of range.
        """
        if not facts:
            raise UserError("the data set has no readable cases to derive a recipe from; fix them, or add cases")
        if plane is not None:
            check_choice("plane", plane, get_args(Plane))
        view = choose_view(facts, plane=plane, dims=dims)
        shapes, spacings = (np.array(values) for values in zip(*(in_view(case, view) for case in facts), strict=True))
        target = choose_spacing(shapes, spacings, spacing)
        for mm in target or ():
            if not LEAST_SPACING <= mm <= GREATEST_SPACING:
                allowed = f"{LEAST_SPACING:g} to {GREATEST_SPACING:g} are allowed"
                raise UserError(f"spacing must be a positive number of mm, got {mm:g}; {allowed}")
        sizes = [
            resampled_size(shape, own, target) for shape, own in zip(shapes.tolist(), spacings.tolist(), strict=True)
        ]
        patch = choose_patch(np.array(sizes))
        return cls(view=view, spacing=target, patch=patch, channels=facts[0].channels)

    @property
    def dims(self) -> int:
        """Number of spatial axes of the network's input, 2 or 3."""
        return len(self.patch)

    def describe(self) -> list[tuple[str, str]]:
        """The recipe as printable rows (name, value)."""
        spacing = "as stored" if self.spacing is None else " x ".join(f"{mm:g} mm" for mm in self.spacing)
        low, high = self.clip
        return [
            ("plane", self.view) if self.dims == 2 else ("network input", "volumes"),
            ("spacing in the plane" if self.dims == 2 else "spacing", spacing),
            ("patch", " x ".join(map(str, self.patch)) + (" pixels" if self.dims == 2 else " voxels")),
            ("channels", str(self.channels)),
            ("intensity", f"clipped to percentiles {low:g} and {high:g}, mean 0, deviation 1, per image and channel"),
        ]

    def image_slices(self, image: Image) -> tuple[NDArray[np.float32], Grid]:
        """Prepare an image (C, *spatial) as slices or a volume (slices, C, *spatial) float32, at least `patch` in size.

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
        axis = SLICE_AXIS.get(self.view)
        planes = np.moveaxis(turned, 1 if axis is None else axis + 1, 0)
        if not all(np.isfinite(planes[start : start + BLOCK]).all() for start in range(0, len(planes), BLOCK)):
            raise UserError("the image has voxels that are NaN or infinite; replace them, for example by 0")
        stored = turned[None] if axis is None else planes
        plane = stored.shape[2:]
        resampled = resampled_size(plane, self.plane_spacing(image, to_view), self.spacing)
        return Slices(stored, Grid(image.array.shape[1:], to_view, axis, plane, resampled), self.clip, self.patch)

    def label_slices(self, label: Image, grid: Grid) -> NDArray[np.uint8]:
        """Prepare a label map on the grid of its image: (*spatial) -> (slices, *spatial of a slice).

        A resampled pixel gets the label that covers the largest part of it.
        """
        turned, _ = self._turn(Image(label.array[None], label.affine))
        slices = turned if grid.axis is None else np.moveaxis(turned[0], grid.axis, 0)
        slices = slices.astype(np.uint8, order="C")
        if grid.resampled != grid.plane:
            slices = np.stack([resized_labels(plane, grid.resampled) for plane in slices])
        size = tuple(max(pair) for pair in zip(grid.resampled, self.patch, strict=True))
        return padded(slices, size, fill=np.uint8(0))

    def restore(self, probabilities: "Tensor", grid: Grid, scheme: LabelScheme = EXCLUSIVE) -> NDArray[np.uint8]:
        """Probabilities (slices, outputs, *spatial) -> numbers (slices, *plane) of structures on the grid of the image.

        Probabilities are resampled rather than labels, whose staircase edges would lower Dice. Slices that were not
        resampled may be given as logits, except of regions.

        Raises:
            UserError: The greatest probability of a pixel is NaN or infinite.
        """
        return scheme.decide(self.to_plane(probabilities, grid), axis=1)

    def restore_volume(
        self,
        parts: "Iterable[Tensor]",
        grid: Grid,
        labels: NDArray[W],
        values: NDArray[W],
        *,
        scheme: LabelScheme = EXCLUSIVE,
        band: slice = slice(None),
    ) -> None:
        """Write the label values of a volume to `labels` on the grid of the image, from class scores in parts.

        Args:
            parts: Consecutive rows (classes, rows, y, z) of logits on the prepared grid.
            grid: Origin of the volume.
            labels: Array of the stored shape, to be filled.
            values: Label value of each number of structures, background 0.
            scheme: The meaning of the outputs.
            band: Voxels along z that the rows have; all by default, and of volumes that are resampled.

        Raises:
            UserError: As for `restore`.
        """
        rows, done = grid.rows(labels)[..., band], 0
        for part in self.volume_rows(parts, grid, scheme):
            rows[done : done + part.shape[1]] = values[scheme.decide(part, axis=0)]
            done += part.shape[1]

    def volume_rows(self, parts: "Iterable[Tensor]", grid: Grid, scheme: LabelScheme = EXCLUSIVE) -> "Iterator[Tensor]":
        """Class scores of a volume in parts, from its prepared grid to that of the image.

        Args:
            parts: Consecutive rows (classes, rows, y, z) of logits on the prepared grid.
            grid: Origin of the volume.
            scheme: The meaning of the outputs.

        Returns:
            Consecutive rows (classes, rows, y, z): probabilities if the volume is resampled or `scheme` has regions,
            else logits.
        """
        size = grid.resampled
        scores: Iterator[Tensor] = (part[:, :, : size[1], : size[2]] for part in parts)
        if size != grid.plane:  # row by row, because resampling takes several times the memory of its rows
            scores = (row for part in scores for row in part.split(1, 1))
        if size != grid.plane or scheme.regions:
            scores = map(partial(scheme.probabilities, axis=0), scores)
        if size != grid.plane:
            scores = resampled_rows(_first_rows(scores, size[0]), size, grid.plane)
        return _first_rows(scores, grid.plane[0])

    def to_plane(self, maps: "Tensor", grid: Grid) -> "Tensor":
        """Maps of prepared slices (slices, C, *spatial) -> (slices, C, *plane) on the grid of the image."""
        return resized(cropped(maps, grid.resampled), grid.plane)

    def _turn(self, image: Image) -> tuple[NDArray[np.generic], NDArray[np.float64] | None]:
        """Reorient an image to (C, right, anterior, superior); pictures (C, rows, columns) have no orientation."""
        if self.view == "picture":
            if image.array.ndim != 3:
                raise UserError(f"the model expects 2D pictures, got an image of shape {image.array.shape[1:]}")
            return image.array, None
        if image.array.ndim != 4:
            expected = "volumes" if self.view == "volume" else f"{self.view} slices of volumes"
            raise UserError(f"the model expects {expected}, got shape {image.array.shape[1:]}")
        affine = np.eye(4) if image.affine is None else image.affine
        to_view = nib.io_orientation(affine)
        # a view: the channel axis is moved to the end while the spatial axes are reoriented
        return np.moveaxis(_turned(np.moveaxis(image.array, 0, -1), to_view), -1, 0), to_view

    def plane_spacing(self, image: Image, to_view: NDArray[np.float64] | None) -> tuple[float, ...]:
        """Millimetres per pixel of the slices or the volume of an image before resampling; 1.0 each for pictures."""
        if to_view is None:
            return (1.0, 1.0)
        turned = np.empty(3)
        turned[to_view[:, 0].astype(int)] = image.spacing
        return tuple(map(float, turned if self.view == "volume" else np.delete(turned, SLICE_AXIS[self.view])))


def _first_rows(parts: "Iterable[Tensor]", count: int) -> "Iterator[Tensor]":
    """The first rows of a volume in parts (classes, rows, y, z), without the padding at its end."""
    for part in parts:
        if count <= 0:
            return
        yield part[:, :count]
        count -= part.shape[1]


def _row_blocks(volume: NDArray[W]) -> Iterator[NDArray[W]]:
    """Views of a volume (N, C, x, y, z) that follow each other along x."""
    return (volume[:, :, start : start + BLOCK] for start in range(0, volume.shape[2], BLOCK))


def _turned(stored: NDArray[W], to_view: NDArray[np.float64]) -> NDArray[W]:
    """A view of an array with its first three axes reoriented to RAS."""
    turned: NDArray[W] = nib.orientations.apply_orientation(stored, to_view)
    return turned


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
    blocks = [slices[start : start + BLOCK] for start in range(0, len(slices), BLOCK)]
    minimum = min(block.min() for block in blocks)

    def foreground() -> Iterator[NDArray[np.float32]]:
        # adding 0 makes -0 a 0; in parts, because a copy would take as much memory as the image
        return (block[block > minimum].astype(np.float32) + np.float32(0) for block in blocks)

    counts = sum(np.bincount(_keys(part) >> 16, minlength=1 << 16) for part in foreground())
    size = int(np.sum(counts))
    if size == 0:
        return None
    low, high = _percentiles(foreground, np.asarray(counts), clip)
    mean = _sum(lambda part: np.clip(part, low, high), _reader(foreground()), size) / size
    variance = _sum(lambda part: (np.clip(part, low, high) - mean) ** 2, _reader(foreground()), size) / size
    # an image with two values has one foreground value and a standard deviation of 0
    return _Scale(low, high, mean, np.sqrt(variance) or np.float64(1))


def _percentiles(
    values: Callable[[], Iterator[NDArray[np.float32]]], counts: NDArray[np.integer], wanted: Sequence[float]
) -> list[np.float64]:
    """Percentiles of values in parts, with the bits of `numpy.percentile`, which would reorder a copy of all of them.

    Args:
        values: Function that begins the values anew.
        counts: Number of values for each upper half of `_keys`.
        wanted: Percentiles.
    """
    size = int(counts.sum())
    places = [(size - 1) * (percent / 100) for percent in wanted]
    ranks = sorted({min(int(place) + step, size - 1) for place in places for step in (0, 1)})
    ends = counts.cumsum()
    upper = np.searchsorted(ends, ranks, side="right")
    lower = {half: np.zeros(1 << 16, np.int64) for half in map(int, upper)}
    for part in values():
        keys = _keys(part)
        for half in lower:
            lower[half] += np.bincount(keys[keys >> 16 == half] & 0xFFFF, minlength=1 << 16)
    at: dict[int, np.float32] = {}
    for rank, half in zip(ranks, map(int, upper), strict=True):
        before = int(ends[half] - counts[half])
        rest = int(np.searchsorted(lower[half].cumsum(), rank - before, side="right"))
        at[rank] = _value(half << 16 | rest)
    results = []
    for place in places:
        first, second = at[int(place)], at[min(int(place) + 1, size - 1)]
        share = place - int(place)
        step = np.float64(second - first)
        results.append(first + step * share if share < 0.5 else second - step * (1 - share))
    return results


def _keys(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Whole numbers of 32 bits in the order of the values."""
    bits = values.view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _value(key: int) -> np.float32:
    """The value of a key, see `_keys`."""
    bits = key ^ (1 << 31) if key >> 31 else ~key & 0xFFFFFFFF
    return np.uint32(bits).view(np.float32)


def _reader(parts: Iterator[NDArray[np.float32]]) -> Callable[[int], NDArray[np.float32]]:
    """Function that returns the next values, as many as it is asked for, from parts of any size."""
    rest = np.empty(0, np.float32)

    def take(count: int) -> NDArray[np.float32]:
        nonlocal rest
        found, there = [rest], rest.size
        while there < count:
            found.append(next(parts))
            there += found[-1].size
        joined = np.concatenate(found)
        rest = joined[count:]
        return joined[:count]

    return take


def _sum(
    values: Callable[[NDArray[np.float32]], NDArray[np.float64]], take: Callable[[int], NDArray[np.float32]], size: int
) -> np.float64:
    """Sum of `values` applied to the next values, computed in parts that halve like numpy.sum, with the same bits."""
    if size <= STRETCH:
        return np.float64(values(take(size)).sum())
    half = size // 2
    half -= half % 8
    return _sum(values, take, half) + _sum(values, take, size - half)
