"""Volumes whose voxels follow each other in one file, compressed or not: headers say where, and this reads them.

The voxels are read from the file directly into their array. Reading them with nibabel or SimpleITK would keep several
copies of a compressed volume in memory, would trust the sizes in a damaged header, and would not verify the checksum
at the end of compressed content; SimpleITK even returns the voxels of truncated GIPL files.
"""

import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from scse.data.file_errors import FileError, allocate, check_size, unreadable
from scse.support.errors import UserError

CHUNK = 1 << 20
"""Bytes read at a time."""

MOST_AFTER = 1 << 20
"""Most bytes after the voxels, such as padding."""

DEFLATE_RATIO = 1032
"""Upper bound of decompressed bytes per Deflate byte."""

SINGULAR = 1e-6
"""Least volume spanned by the unit vectors of an affine's axes; the volume is 1 for orthogonal axes."""

WHOLE_TOLERANCE = 1e-3
"""Allowed difference from a whole number of labels stored as floats or scaled."""

Packing = Literal["none", "gzip", "zlib"]


@dataclass(frozen=True, slots=True)
class RawVolume:
    """Checked header of a volume.

    Attributes:
        path: Path of the file, or of the header if the voxels have a file of their own.
        shape: Shape of the voxels as stored; the first axis is the fastest.
        image_shape: Shape of the image, (C, *spatial); None if the voxels do not have the axes of an image.
        dtype: Type of the voxels as stored.
        affine: Affine (4, 4) from voxel index to mm.
        data: Path of the file with the voxels.
        offset: Bytes before the first voxel: of the file, or of the decompressed content if `packed_from` is 0.
        packing: Compression of the voxels.
        packed_from: Bytes before the compressed content.
        scale: Slope and intercept of the stored values; None if the values are not scaled.
        interleaved: Whether the channels of a voxel follow each other; otherwise the channels do.
        form: nibabel's image class of the file, or None.
        header: nibabel's header, with extensions, or None.
    """

    path: Path
    shape: tuple[int, ...]
    image_shape: tuple[int, ...] | None
    dtype: np.dtype[Any]
    affine: NDArray[np.float64]
    data: Path
    offset: int
    packing: Packing = "none"
    packed_from: int = 0
    scale: tuple[float, float] | None = None
    interleaved: bool = False
    form: Any = None
    header: Any = None

    @property
    def size(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def channel_shape(self) -> tuple[int, ...]:
        """Shape of the image, (C, *spatial).

        Raises:
            FileError: The voxels do not have the axes of an image.
        """
        if self.image_shape is None:
            allowed = "save it with 2 or 3 axes, or with 4 whose last is the channels"
            message = f"has shape {self.shape}, which is not that of an image; {allowed}"
            raise FileError(self.path, "unreadable", message)
        return self.image_shape

    @property
    def map_shape(self) -> tuple[int, ...] | None:
        """Shape (*spatial) of the label map; None if the file has several channels or not the axes of an image."""
        return self.image_shape[1:] if self.image_shape is not None and self.image_shape[0] == 1 else None

    @property
    def stored(self) -> str:
        """Description of how the voxels are stored."""
        slope = "" if self.scale is None else f" with slope {self.scale[0]:g} and intercept {self.scale[1]:g}"
        return f"{self.dtype.name}{slope}"

    def check_length(self) -> None:
        """Compare the voxels that the header describes with the size of the file, before memory is allocated.

        Raises:
            FileError: The file is too small for the voxels.
        """
        claimed, length = self.size * self.dtype.itemsize, self.data.stat().st_size
        voxels = f"{' x '.join(map(str, self.shape))} voxels of {self.dtype.name}"
        most = length - self.offset if self.packing == "none" else length * DEFLATE_RATIO
        check_size(self.data, claimed, most, voxels)

    def read_into(self, array: NDArray[np.float32]) -> None:
        """Read the image into an array (*spatial, C) in Fortran order.

        The caller must have called `check_length`.
        """
        if self.interleaved:
            count = self.channel_shape[0]
            voxels = array.reshape(-1, count, order="F")
            self._read(lambda start, values: _put(voxels, start, values), multiple=count)
        else:
            self._read_flat(array.reshape(-1, order="F"), _scaled)

    def read_whole_numbers(self) -> NDArray[Any]:
        """Read the values of a label map as stored, or rounded to int32 if they are floats or scaled.

        Raises:
            FileError: A value is not a whole number.
        """
        self.check_length()
        shape = self.channel_shape[1:]
        if self.dtype.kind in "iu" and self.scale is None:
            array = allocate(self.path, shape, self.dtype.newbyteorder("="), order="F")
            self._read_flat(array.reshape(-1, order="F"), lambda stored, _: stored)
            return array
        # relative to the slope, because with a tiny slope all labels would round to 0
        rounding = Rounding(WHOLE_TOLERANCE * min(1.0, abs(self.scale[0])) if self.scale else WHOLE_TOLERANCE)
        array = allocate(self.path, shape, np.int32, order="F")
        self._read_flat(array.reshape(-1, order="F"), lambda stored, scale: rounding(_scaled(stored, scale)))
        rounding.check(self.path, self.stored)
        return array

    def _read_flat(
        self,
        flat: NDArray[Any],
        convert: Callable[[NDArray[Any], tuple[float, float] | None], NDArray[Any]],
    ) -> None:
        """Fill `flat` with the voxels, in file order, and read the file to its end."""
        if flat.dtype == self.dtype and self.scale is None:
            with self._voxels() as stream:
                _fill(stream, flat)
            return

        def put(start: int, stored: NDArray[Any]) -> None:
            flat[start : start + stored.size] = convert(stored, self.scale)

        self._read(put)

    def _read(self, put: Callable[[int, NDArray[Any]], None], multiple: int = 1) -> None:
        """Hand the stored voxels to `put` in parts, with the index of the first; parts are multiples of `multiple`."""
        part = np.empty(max(1, CHUNK // self.dtype.itemsize // multiple) * multiple, self.dtype)
        # float64 values too large for float32 become inf, which `inspect` reports; a warning would name no file
        with self._voxels() as stream, np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, self.size, part.size):
                stored = part[: self.size - start]
                _fill(stream, stored)
                put(start, stored)

    @contextmanager
    def _voxels(self) -> Iterator[io.BufferedIOBase]:
        """The bytes from the first voxel; after the block, the rest of the file is read and checked."""
        try:
            with unpacked(self.data, self.packing, self.packed_from) as stream:
                _skip(stream, self.offset)
                yield stream
                _check_end(stream)
        except Exception as error:  # decoders raise almost any exception: OSError, EOFError, zlib.error
            raise unreadable(self.data, error) from error


class Rounding:
    """Rounds labels in parts and counts those that differ from a whole number by more than `tolerance`."""

    def __init__(self, tolerance: float = WHOLE_TOLERANCE) -> None:
        self.tolerance = tolerance
        self.wrong = 0
        self.examples: list[float] = []

    def __call__(self, values: NDArray[Any]) -> NDArray[np.int32]:
        """Round values; those that are not whole numbers of 32 bits are counted and become 0."""
        nearest = np.rint(values)
        with np.errstate(invalid="ignore"):
            right = (np.abs(nearest - values) <= self.tolerance) & (np.abs(nearest) < 2**31)
        if not right.all():
            self.wrong += int(right.size - right.sum())
            found = np.unique(values[~right]).tolist()
            self.examples = sorted({*self.examples, *found})[:5]
            nearest = np.where(right, nearest, 0)
        whole: NDArray[np.int32] = nearest.astype(np.int32)
        return whole

    def check(self, path: Path, stored: str) -> None:
        """Refuse the file if values were found that are not whole numbers.

        Raises:
            FileError: At least one value is not a whole number.
        """
        if self.wrong:
            examples = ", ".join(f"{value:.6g}" for value in self.examples)
            found = f"{self.wrong} voxels are not whole numbers (such as {examples}; stored as {stored})"
            allowed = f"labels must be whole numbers below 2^31, with a tolerance of {self.tolerance:g}"
            remedy = "round them, and resample labels with nearest neighbour only"
            raise FileError(path, "fractional_label", f"{found}; {allowed}: {remedy}")


def check_voxels(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse voxels that are not real numbers, or none.

    Raises:
        FileError: The type is not that of integers or floats, or an axis is empty.
    """
    if dtype.kind not in "biuf" or not shape or min(shape) < 1:
        found = f"voxels of type {dtype}, shape {shape}"
        raise FileError(path, "unreadable", f"has {found}; save at least one voxel, as integers or floats")


def check_affine(path: Path, affine: NDArray[np.float64], remedy: str) -> None:
    """Refuse an affine (4, 4) that cannot be inverted.

    Raises:
        FileError: An entry is not finite, a voxel has no size, or axes are parallel.
    """
    with np.errstate(all="ignore"):
        sizes = voxel_sizes(affine)
        usable = np.isfinite(affine).all() and np.isfinite(sizes).all() and sizes.all()
        if usable and abs(np.linalg.det(affine[:3, :3] / sizes)) >= SINGULAR:
            return
    entries = np.array2string(affine[:3], precision=4, separator=", ").replace("\n", "")
    raise FileError(path, "affine", f"its affine {entries} cannot be inverted; {remedy}")


@contextmanager
def unpacked(path: Path, packing: Packing, start: int = 0) -> Iterator[io.BufferedIOBase]:
    """Open the decompressed content of a file from the byte `start`."""
    with path.open("rb") as file:
        file.seek(start)
        if packing == "gzip":
            with gzip.GzipFile(fileobj=file) as stream:
                yield stream
        elif packing == "zlib":
            yield io.BufferedReader(_Zlib(file), CHUNK)
        else:
            yield file


class _Zlib(io.RawIOBase):
    """Decompressed content of a zlib stream, whose checksum zlib verifies at its end."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self.file, self.decoder, self.rest = file, zlib.decompressobj(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = b""
        while not found and not self.decoder.eof:
            if not self.rest and not (chunk := self.file.read(CHUNK)):
                raise EOFError("the compressed voxels end before their checksum")
            found = self.decoder.decompress(self.rest or chunk, len(buffer))
            self.rest = self.decoder.unconsumed_tail
        buffer[: len(found)] = found
        return len(found)


def _put(voxels: NDArray[np.float32], start: int, values: NDArray[Any]) -> None:
    """Store voxels (N * C) whose channels follow each other in an array (voxels, C)."""
    count = voxels.shape[1]
    voxels[start // count : (start + values.size) // count] = values.reshape(-1, count)


def _scaled(stored: NDArray[Any], scale: tuple[float, float] | None) -> NDArray[Any]:
    """The values as stored, or scaled in 64 bits like nibabel."""
    if scale is None:
        return stored
    return np.asarray(stored, np.float64) * scale[0] + scale[1]


def _skip(stream: io.BufferedIOBase, size: int) -> None:
    while size > 0:
        size -= len(stream.read(min(size, CHUNK))) or size


def _fill(stream: io.BufferedIOBase, flat: NDArray[Any]) -> None:
    """Fill the memory of an array with the next bytes."""
    content, done = flat.view(np.uint8), 0
    while done < content.size:
        count = stream.readinto(content[done : done + CHUNK].data)
        if not count:
            raise EOFError("the file ends before its last voxel")
        done += count


def _check_end(stream: io.BufferedIOBase) -> None:
    """Read to the end, which verifies the checksum of compressed content, and refuse more than MOST_AFTER bytes."""
    after = 0
    while chunk := stream.read(CHUNK):
        after += len(chunk)
        if after > MOST_AFTER:
            raise UserError(f"more than {MOST_AFTER:,} bytes follow the voxels that its header describes")
