"""Reading of NIfTI files: nibabel reads the header; voxels are read from the file directly into their array.

Reading voxels with nibabel would keep several copies of a compressed volume in memory, would trust the sizes in a
damaged header, and would not verify the checksum at the end of a .nii.gz file.
"""

import gzip
import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from scse.data.file_errors import FileError, allocate, check_is_file, check_size, unreadable
from scse.support.errors import UserError

CHUNK = 1 << 20
"""Bytes read at a time."""

MOST_HEADER = 1 << 26
"""Most bytes of a header with its extensions."""

MOST_AFTER = 1 << 20
"""Most bytes after the voxels, such as padding."""

DEFLATE_RATIO = 1032
"""Upper bound of decompressed bytes per Deflate byte."""

SINGULAR = 1e-6
"""Least volume spanned by the unit vectors of an affine's axes; the volume is 1 for orthogonal axes."""

MILLIMETRES = {1: 1e3, 3: 1e-3}
"""Millimetres per unit, by code of xyzt_units: metres and micrometres. All other codes are read as millimetres."""

WHOLE_TOLERANCE = 1e-3
"""Allowed difference from a whole number of labels stored as floats or scaled."""


@dataclass(frozen=True, slots=True)
class Nifti:
    """Checked header of a NIfTI file.

    Attributes:
        path: Path of the file.
        form: nibabel's image class of the file.
        header: nibabel's header, with extensions.
        shape: Shape of the voxels as stored.
        dtype: Type of the voxels as stored.
        scale: Slope and intercept of the stored values; None if the values are not scaled.
        affine: Affine (4, 4) from voxel index to mm.
    """

    path: Path
    form: Any
    header: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: tuple[float, float] | None
    affine: NDArray[np.float64]

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
        shape = self.shape
        while len(shape) > 4 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) == 5 and shape[3] == 1:  # NIfTI stores vectors in the fifth axis, after time
            shape = (*shape[:3], shape[4])
        if len(shape) not in (2, 3, 4):
            allowed = "save it with 2 or 3 axes, or with 4 whose last is the channels"
            raise FileError(self.path, "unreadable", f"has shape {shape}, which is not that of an image; {allowed}")
        return (shape[3], *shape[:3]) if len(shape) == 4 else (1, *shape)

    @property
    def stored(self) -> str:
        """Description of how the voxels are stored."""
        slope = "" if self.scale is None else f" with slope {self.scale[0]:g} and intercept {self.scale[1]:g}"
        return f"{self.dtype.name}{slope}"


def open_nifti(path: Path) -> Nifti:
    """Read and check the header of a NIfTI file, without its voxels.

    Raises:
        DataError: The file is not a NIfTI file, or its header is damaged or describes no voxels of real numbers.
    """
    check_is_file(path)
    # decoders raise almost any exception for damaged files: OSError, EOFError, zlib.error, HeaderDataError
    try:
        form, header = _read_header(path)
        shape, dtype = tuple(map(int, header.get_data_shape())), header.get_data_dtype()
        slope, intercept = header.get_slope_inter()
        affine = header.get_best_affine()
    except Exception as error:
        raise unreadable(path, error) from error
    if dtype.kind not in "biuf" or not shape or min(shape) < 1:
        found = f"voxels of type {dtype}, shape {shape}"
        raise FileError(path, "unreadable", f"has {found}; save at least one voxel, as integers or floats")
    _check_affine(path, affine)
    scale = None if slope is None or (slope, intercept) == (1, 0) else (float(slope), float(intercept))
    return Nifti(path, form, header, shape, dtype, scale, in_millimetres(affine, header))


def in_millimetres(affine: NDArray[Any], header: Any) -> NDArray[np.float64]:
    """The affine of a nibabel image in mm; the header of a NIfTI file may give it in metres or micrometres."""
    result = np.array(affine, np.float64)
    if isinstance(header, nib.Nifti1Header):
        result[:3] *= MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    return result


def check_length(file: Nifti) -> None:
    """Compare the voxels that the header describes with the size of the file, before memory is allocated.

    Raises:
        FileError: The file is too small for the voxels.
    """
    claimed, length = file.size * file.dtype.itemsize, file.path.stat().st_size
    voxels = f"{' x '.join(map(str, file.shape))} voxels of {file.dtype.name}"
    if file.path.name.lower().endswith(".gz"):
        check_size(file.path, claimed, length * DEFLATE_RATIO, voxels)
    else:
        check_size(file.path, claimed, length - file.header.get_data_offset(), voxels)


def read_floats(files: Sequence[Nifti]) -> NDArray[np.float32]:
    """Read one or more files with equal spatial axes as (C, *spatial), with their channels concatenated.

    The caller must have called `check_length`.
    """
    spatial, channels = files[0].channel_shape[1:], sum(file.channel_shape[0] for file in files)
    # the only array of the size of the volume; its order is that of the file, channel by channel
    array = allocate(files[0].path, (*spatial, channels), np.float32, order="F")
    flat, start = array.reshape(-1, order="F"), 0
    for file in files:
        _read_into(flat[start : start + file.size], file, _scaled)
        start += file.size
    return np.moveaxis(array, -1, 0)


def read_whole_numbers(file: Nifti) -> NDArray[Any]:
    """Read the values of a label map as stored, or rounded to int32 if they are floats or scaled.

    Raises:
        FileError: A value is not a whole number.
    """
    check_length(file)
    if file.dtype.kind in "iu" and file.scale is None:
        array = allocate(file.path, file.shape, file.dtype.newbyteorder("="), order="F")
        _read_into(array.reshape(-1, order="F"), file, lambda stored, _: stored)
        return array
    # relative to the slope, because with a tiny slope all labels would round to 0
    rounding = Rounding(WHOLE_TOLERANCE * min(1.0, abs(file.scale[0])) if file.scale else WHOLE_TOLERANCE)
    array = allocate(file.path, file.shape, np.int32, order="F")
    _read_into(array.reshape(-1, order="F"), file, lambda stored, scale: rounding(_scaled(stored, scale)))
    rounding.check(file.path, file.stored)
    return array


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


def _read_header(path: Path) -> tuple[Any, Any]:
    with _opened(path) as stream:
        start = stream.read(nib.Nifti2Image.header_class.sizeof_hdr)
        forms: tuple[Any, ...] = (nib.Nifti1Image, nib.Nifti2Image)
        form = next((form for form in forms if form.header_class.may_contain_header(start)), None)
        if form is None:
            raise UserError("it has no NIfTI header")
        kind = form.header_class
        place = float(kind(start[: kind.sizeof_hdr], check=False)["vox_offset"])
        least = kind.single_vox_offset
        if not least <= place <= MOST_HEADER:
            raise UserError(f"its voxels would start at byte {place:,.0f}; {least} to {MOST_HEADER:,} is allowed")
        # nibabel gets only these bytes, because an extension may claim any size
        return form, kind.from_fileobj(io.BytesIO(start + stream.read(max(0, int(place) - len(start)))))


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open the decompressed content of a file."""
    with path.open("rb") as file:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile(fileobj=file) as stream:
                yield stream
        else:
            yield file


def _check_affine(path: Path, affine: NDArray[np.float64]) -> None:
    sizes = voxel_sizes(affine)
    if np.isfinite(affine).all() and sizes.all() and abs(np.linalg.det(affine[:3, :3] / sizes)) >= SINGULAR:
        return
    entries = np.array2string(affine[:3], precision=4, separator=", ").replace("\n", "")
    raise FileError(path, "affine", f"its affine {entries} cannot be inverted; write a valid s-form or q-form")


def _read_into(
    flat: NDArray[Any],
    file: Nifti,
    convert: Callable[[NDArray[Any], tuple[float, float] | None], NDArray[Any]],
) -> None:
    """Fill `flat` with the voxels of a file, in file order, and read the file to its end."""
    try:
        with _opened(file.path) as stream:
            _skip(stream, file.header.get_data_offset())
            if flat.dtype == file.dtype and file.scale is None:
                _fill(stream, flat)
            else:
                part = np.empty(CHUNK // file.dtype.itemsize, file.dtype)
                # float64 values too large for float32 become inf, which `inspect` reports; a warning would name no file
                with np.errstate(over="ignore", invalid="ignore"):
                    for start in range(0, flat.size, part.size):
                        stored = part[: flat.size - start]
                        _fill(stream, stored)
                        flat[start : start + stored.size] = convert(stored, file.scale)
            _check_end(stream)
    except Exception as error:  # as in open_nifti
        raise unreadable(file.path, error) from error


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
    """Read to the end, which verifies the checksum of a .nii.gz, and refuse more than MOST_AFTER surplus bytes."""
    after = 0
    while chunk := stream.read(CHUNK):
        after += len(chunk)
        if after > MOST_AFTER:
            raise UserError(f"more than {MOST_AFTER:,} bytes follow the voxels that its header describes")
