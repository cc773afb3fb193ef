"""A second reader of NIfTI-1 and NIfTI-2, written from the standard with struct and NumPy alone, to check the first."""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
MAGIC = {1: b"n+1\0", 2: b"n+2\0\r\n\x1a\n"}
KNOWN_FORMS = (1, 2, 3, 4, 5)


class NoNiftiError(ValueError):
    """The standard gives these bytes no meaning."""


def read_plain(content: bytes) -> tuple[NDArray[Any], NDArray[np.float64] | None]:
    """Voxels, scaled, in Fortran order, and the affine, None where the standard leaves it open.

    Raises:
        NoNiftiError: the bytes are no single-file NIfTI of real numbers.
    """
    for version, size, place, kind in ((1, 348, 40, "h"), (2, 540, 16, "q")):
        magic = content[344:348] if version == 1 else content[4:12]
        if magic == MAGIC[version] and len(content) >= size:
            for order in "<>":
                if 1 <= struct.unpack_from(order + kind, content, place)[0] <= 7:
                    return _read(content, order, version)
    raise NoNiftiError("magic or dimensions")


def _read(content: bytes, order: str, version: int) -> tuple[NDArray[Any], NDArray[np.float64] | None]:
    def numbers(kind: str, place: int, count: int) -> tuple[Any, ...]:
        return struct.unpack_from(f"{order}{count}{kind}", content, place)

    if version == 1:
        dims, (code,) = numbers("h", 40, 8), numbers("h", 70, 1)
        (offset, slope, inter), pixdim = numbers("f", 108, 3), numbers("f", 76, 8)
        (qform, sform), quaternion, rows = numbers("h", 252, 2), numbers("f", 256, 6), numbers("f", 280, 12)
        least, (units,) = 352, numbers("B", 123, 1)
    else:
        dims, (code,) = numbers("q", 16, 8), numbers("h", 12, 1)
        (offset,), (slope, inter), pixdim = numbers("q", 168, 1), numbers("d", 176, 2), numbers("d", 104, 8)
        (qform, sform), quaternion, rows = numbers("i", 344, 2), numbers("d", 352, 6), numbers("d", 400, 12)
        least, (units,) = 544, numbers("i", 500, 1)
    if min(dims[1 : dims[0] + 1]) < 1:
        raise NoNiftiError("dimensions")
    if code not in TYPES:
        raise NoNiftiError("data type")
    shape = dims[1 : dims[0] + 1]
    if not np.isfinite(offset) or (offset != 0 and offset < least):
        raise NoNiftiError("offset")
    start, dtype = int(offset) or least, np.dtype(order + TYPES[code])
    count = 1
    for size in shape:
        count *= size
    if start + count * dtype.itemsize > len(content):
        raise NoNiftiError("too short")
    voxels = np.frombuffer(content, dtype, count, start).reshape(shape, order="F")
    if slope != 0 and np.isfinite(slope) and (slope, inter) != (1, 0):
        if not np.isfinite(inter):
            raise NoNiftiError("intercept")
        voxels = voxels * float(slope) + float(inter)
    affine = _affine(qform, sform, quaternion, np.array(rows, np.float64), np.array(pixdim, np.float64))
    if affine is not None:
        affine[:3] *= {1: 1e3, 3: 1e-3}.get(units & 7, 1.0)  # metres and micrometres
    return voxels, affine


def _affine(
    qform: int, sform: int, quaternion: tuple[float, ...], rows: NDArray[np.float64], pixdim: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    result = np.eye(4)
    if sform in KNOWN_FORMS:
        result[:3] = rows.reshape(3, 4)
        return result
    if sform != 0 or qform not in KNOWN_FORMS or not (pixdim[1:4] > 0).all():
        return None
    b, c, d, *shift = quaternion
    square = 1 - (b * b + c * c + d * d)
    if not square >= -1e-7 or not np.isfinite(shift).all():
        return None
    a = np.sqrt(max(square, 0.0))
    if square < 1e-6:
        return None  # how nearly 180 degrees are told from 180 is up to the reader
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    if pixdim[0] not in (1, -1):
        return None
    result[:3, :3] = turn * pixdim[1:4] * [1, 1, pixdim[0]]
    result[:3, 3] = shift
    return result
