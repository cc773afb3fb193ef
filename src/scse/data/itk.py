"""Headers of MetaImage (.mha, .mhd), NRRD (.nrrd, .nhdr) and GIPL files.

SimpleITK reads the geometry of NRRD and GIPL; where the voxels are is read here. All of MetaImage's headers is read
here, with the meaning that SimpleITK gives it, because its reader prints messages about damaged ones to the terminal.
"""

import gzip
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from scse.data.endings import ending
from scse.data.file_errors import FileError, check_is_file, unreadable
from scse.data.raw_volumes import Packing, RawVolume, check_affine, check_voxels, unpacked
from scse.support.atomic import open_atomic
from scse.support.errors import UserError

MOST_LINE = 1 << 16
"""Most bytes of a line of a header."""

MOST_LINES = 10_000
"""Most lines of a header."""

GIPL_HEADER = 256
"""Bytes of a GIPL header, at whose end is one of the magic numbers."""

GIPL_MAGIC = (4026526128, 719555000)

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From ITK's axes (left, posterior, superior) to those of an affine (right, anterior, superior), and back."""

DTYPES = {
    getattr(sitk, f"sitk{kind}{name}"): np.dtype(dtype)
    for kind in ("", "Vector")
    for name, dtype in {
        **{f"UInt{8 * size}": f"u{size}" for size in (1, 2, 4, 8)},
        **{f"Int{8 * size}": f"i{size}" for size in (1, 2, 4, 8)},
        **{f"Float{8 * size}": f"f{size}" for size in (4, 8)},
    }.items()
}
"""NumPy's type of each of SimpleITK's types of real numbers."""

META_SIZES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8}
"""Bytes of MetaImage's whole numbers."""

META_DTYPES = {
    **{f"MET_{name}": np.dtype(f"i{size}") for name, size in META_SIZES.items()},
    **{f"MET_U{name}": np.dtype(f"u{size}") for name, size in META_SIZES.items()},
    "MET_FLOAT": np.dtype("f4"),
    "MET_DOUBLE": np.dtype("f8"),
}
"""NumPy's type of each of MetaImage's types of real numbers."""

META_TYPES = {"u1": "MET_UCHAR", "u2": "MET_USHORT", "i2": "MET_SHORT", "i4": "MET_INT", "f4": "MET_FLOAT"}
NRRD_TYPES = {"u1": "uint8", "u2": "uint16", "i2": "int16", "i4": "int32", "f4": "float"}
GZIP_NAMES, RAW_NAME = ("gzip", "gz"), "raw"
SPATIAL_KINDS = ("domain", "space", "time", "???", "none", "")
"""Kinds of NRRD axes that SimpleITK reads as axes of the image; others are components of its voxels."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Position of the voxels in space as ITK stores it, in mm along left, posterior, superior.

    Attributes:
        spacing: Millimetres per voxel along each axis of the image.
        origin: Centre of the first voxel.
        direction: Direction (axes, axes) of each axis of the image, in columns.
    """

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: NDArray[np.float64]

    @property
    def affine(self) -> NDArray[np.float64]:
        """Affine (4, 4) from voxel index to mm along right, anterior, superior."""
        affine, axes = np.eye(4), min(3, len(self.spacing))
        with np.errstate(over="ignore", invalid="ignore"):  # infinite ones are refused with the file's name
            affine[:axes, :axes] = (self.direction * self.spacing)[:axes, :axes]
            affine[:axes, 3] = self.origin[:axes]
            return LPS @ affine

    @classmethod
    def of(cls, affine: NDArray[np.float64]) -> "Geometry":
        """The geometry of an affine (4, 4) along right, anterior, superior."""
        turned = LPS @ affine
        spacing = np.linalg.norm(turned[:3, :3], axis=0)
        return cls(tuple(spacing.tolist()), tuple(turned[:3, 3].tolist()), turned[:3, :3] / spacing)


@dataclass(frozen=True, slots=True)
class _Described:
    """What SimpleITK says of a file: size of the image, channels, type and geometry."""

    size: tuple[int, ...]
    count: int
    dtype: np.dtype[Any]
    geometry: Geometry


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a header says that the voxels are; `sizes` are those of all stored axes, the first being the fastest."""

    data: Path
    sizes: tuple[int, ...]
    packing: Packing = "none"
    offset: int = 0
    packed_from: int = 0
    big: bool = False
    components: int | None = None  # stored axis of the channels
    at_end: bool = False  # whether the voxels are the last bytes of the file
    described: _Described | None = None  # the rest of the header, where it need not be read by SimpleITK


def open_itk(path: Path) -> RawVolume:
    """Read and check the header of a MetaImage, NRRD or GIPL file, without its voxels.

    Raises:
        DataError: The file has another format, or its header is damaged or describes no voxels of real numbers.
    """
    check_is_file(path)
    place_of, reader_name = _FORMATS[(ending(path.name) or "").removesuffix(".gz")]
    # parsers and SimpleITK raise almost any exception for damaged headers
    try:
        place = place_of(path)
        if place.data != path:
            check_is_file(place.data)
        described = place.described or _by_simpleitk(path, reader_name)
    except FileError:
        raise
    except Exception as error:
        raise unreadable(path, reason(error)) from error
    size, count, dtype, geometry = described.size, described.count, described.dtype, described.geometry
    check_voxels(path, place.sizes, dtype)
    at = place.components
    spatial = place.sizes if at is None else (*place.sizes[:at], *place.sizes[at + 1 :])
    if spatial != size or math.prod(place.sizes) != math.prod(size) * count or at not in (None, 0, len(size)):
        found = f"has axes of {place.sizes} voxels, of which {count} channels of {size} voxels are read"
        raise FileError(path, "unreadable", f"{found}; save it with the channels as the first or the last axis")
    check_affine(path, geometry.affine, "write valid directions and voxel sizes")
    dtype = dtype.newbyteorder(">" if place.big else "<")
    offset = place.offset
    if place.at_end:
        offset = max(0, place.data.stat().st_size - math.prod(place.sizes) * dtype.itemsize)
    return RawVolume(
        path=path,
        shape=place.sizes,
        image_shape=_image_shape(size, count),
        dtype=dtype,
        affine=geometry.affine,
        data=place.data,
        offset=offset,
        packing=place.packing,
        packed_from=place.packed_from,
        interleaved=count > 1 and at == 0,
        header=geometry,
    )


def write_itk(path: Path, array: NDArray[Any], geometry: Geometry, *, level: int) -> None:
    """Write a volume atomically as compressed MetaImage (.mha) or NRRD (.nrrd).

    Args:
        path: Output file.
        array: Voxels (*spatial), of 2 or 3 axes.
        geometry: Position of the voxels in space.
        level: Level of compression, 1 to 9.

    Raises:
        UserError: The file has another ending.
    """
    kind, axes = ending(path.name), array.ndim
    if kind not in (".mha", ".nrrd"):
        raise UserError(f"{path.name}: volumes of this format are written as .mha or .nrrd; choose one of them")
    directions = geometry.direction[:axes, :axes]
    spacing, origin = geometry.spacing[:axes], geometry.origin[:axes]
    code = array.dtype.str[1:]
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    content = array.tobytes(order="F")
    if kind == ".mha":
        packed = zlib.compress(content, level)
        lines = {
            "ObjectType": "Image",
            "NDims": axes,
            "BinaryData": True,
            "BinaryDataByteOrderMSB": False,
            "CompressedData": True,
            "CompressedDataSize": len(packed),
            "TransformMatrix": _words(directions.T.ravel()),
            "Offset": _words(origin),
            "CenterOfRotation": _words([0] * axes),
            "ElementSpacing": _words(spacing),
            "DimSize": _words(array.shape),
            "ElementType": META_TYPES[code],
            "ElementDataFile": "LOCAL",
        }
        header = "".join(f"{name} = {value}\n" for name, value in lines.items())
    else:
        packed = gzip.compress(content, level, mtime=0)
        vectors = [f"({_words(column, ',')})" for column in (directions * spacing).T]
        space = "space: left-posterior-superior" if axes == 3 else f"space dimension: {axes}"
        header = (
            f"NRRD0004\ntype: {NRRD_TYPES[code]}\ndimension: {axes}\n{space}\nsizes: {_words(array.shape)}\n"
            f"space directions: {' '.join(vectors)}\nkinds: {' '.join(['domain'] * axes)}\nendian: little\n"
            f"encoding: gzip\nspace origin: ({_words(origin, ',')})\n\n"
        )
    with open_atomic(path) as file:
        file.write(header.encode())
        file.write(packed)


def _by_simpleitk(path: Path, reader_name: str) -> _Described:
    reader = sitk.ImageFileReader()
    reader.SetImageIO(reader_name)
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size, dtype = reader.GetSize(), DTYPES.get(reader.GetPixelID())
    if dtype is None:
        kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
        raise UserError(f"it has voxels of type {kind}; save them as integers or floats")
    direction = np.array(reader.GetDirection()).reshape(len(size), len(size))
    geometry = Geometry(reader.GetSpacing(), reader.GetOrigin(), direction)
    return _Described(size, reader.GetNumberOfComponents(), dtype, geometry)


def _image_shape(size: tuple[int, ...], count: int) -> tuple[int, ...] | None:
    while len(size) > 3 and size[-1] == 1:
        size = size[:-1]
    if len(size) == 4 and count == 1:
        return (size[3], *size[:3])
    return (count, *size) if len(size) in (2, 3) else None


def _meta_place(path: Path) -> _Place:
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        for line in _lines(file):
            match = re.fullmatch(r"\s*([^=:]+?)\s*[=:]\s*(.*?)\s*", line)
            if match is None:
                raise UserError(f"its header has the line {line[:40]!r}, where NAME = VALUE is needed")
            fields[match[1]] = match[2]
            if "ElementDataFile" in fields:
                break
        end = file.tell()
    _check_fields(fields, ("NDims", "DimSize", "ElementType", "ElementDataFile"))
    name = fields["ElementDataFile"]
    if not _true(fields, "BinaryData", default=True):
        raise UserError("its voxels are written as text; save them as binary data")
    if name.upper().startswith("LIST") or "%" in name:
        raise UserError("its voxels are in several files; save them in one")
    sizes, count = _numbers(fields["DimSize"]), int(fields.get("ElementNumberOfChannels", 1))
    if len(sizes) != int(fields["NDims"]):
        raise UserError(f"it says NDims = {fields['NDims']}, but DimSize = {fields['DimSize']}")
    if fields["ElementType"] not in META_DTYPES:
        raise UserError(f"its ElementType is {fields['ElementType']}; save it as integers or floats")
    local, before = name.upper() == "LOCAL", int(fields.get("HeaderSize", 0))
    start = before if before > 0 else end if local else 0
    packed = _true(fields, "CompressedData", default=False)
    return _Place(
        data=path if local else path.parent / name,
        sizes=sizes if count == 1 else (count, *sizes),
        packing="zlib" if packed else "none",
        offset=0 if packed else start,
        packed_from=start if packed else 0,
        big=_true(fields, "BinaryDataByteOrderMSB", default=_true(fields, "ElementByteOrderMSB", default=False)),
        components=None if count == 1 else 0,
        at_end=before < 0,
        described=_Described(sizes, count, META_DTYPES[fields["ElementType"]], _meta_geometry(fields, len(sizes))),
    )


def _meta_geometry(fields: Mapping[str, str], axes: int) -> Geometry:
    def values(names: Sequence[str], default: Sequence[float]) -> list[float]:
        text = next((fields[name] for name in names if name in fields), None)
        found = list(default) if text is None else list(map(float, text.split()))
        if len(found) != len(default):
            raise UserError(f"its {names[0]} has {len(found)} numbers; {len(default)} are needed")
        return found

    spacing = values(("ElementSpacing", "ElementSize"), [1.0] * axes)
    origin = values(("Offset", "Position", "Origin"), [0.0] * axes)
    rows = values(("TransformMatrix", "Rotation", "Orientation"), np.eye(axes).ravel().tolist())
    return Geometry(tuple(spacing), tuple(origin), np.array(rows).reshape(axes, axes).T)


def _nrrd_place(path: Path) -> _Place:
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        lines = _lines(file)
        if not next(lines, "").startswith("NRRD000"):
            raise UserError("it does not start with NRRD000")
        for line in lines:
            if not line.strip():
                break
            if not line.startswith("#") and (match := re.fullmatch(r"([^:]+?)\s*:(?!=)\s*(.*?)\s*", line)):
                fields[match[1].lower().replace(" ", "")] = match[2]
        end = file.tell()
    _check_fields(fields, ("type", "dimension", "sizes", "encoding"))
    name, encoding = fields.get("datafile"), fields["encoding"].lower()
    if encoding not in (RAW_NAME, *GZIP_NAMES):
        raise UserError(f"its encoding is {encoding}; save it as raw or gzip")
    if name is not None and (name.upper().startswith("LIST") or "%" in name):
        raise UserError("its voxels are in several files; save them in one")
    skip, packed = int(fields.get("byteskip", 0)), encoding in GZIP_NAMES
    if int(fields.get("lineskip", 0)) or (packed and skip):
        raise UserError("it skips lines, or bytes of compressed voxels; save it again without")
    sizes, kinds = _numbers(fields["sizes"]), fields.get("kinds", "").lower().split()
    if len(sizes) != int(fields["dimension"]):
        raise UserError(f"it says dimension: {fields['dimension']}, but sizes: {fields['sizes']}")
    if name is None and end >= path.stat().st_size:
        raise UserError("it ends after its header, which names no data file")
    start = 0 if name is not None else end
    return _Place(
        data=path if name is None else path.parent / name,
        sizes=sizes,
        packing="gzip" if packed else "none",
        offset=0 if packed else start + max(0, skip),
        packed_from=start if packed else 0,
        big=fields.get("endian", "little").lower() == "big",
        components=next((at for at, kind in enumerate(kinds) if kind not in SPATIAL_KINDS), None),
        at_end=skip < 0,
    )


def _gipl_place(path: Path) -> _Place:
    packing: Packing = "gzip" if path.name.lower().endswith(".gz") else "none"
    with unpacked(path, packing) as stream:
        header = stream.read(GIPL_HEADER)
    if len(header) < GIPL_HEADER or int.from_bytes(header[-4:], "big") not in GIPL_MAGIC:
        raise UserError("it has no GIPL header")
    sizes = tuple(int.from_bytes(header[at : at + 2], "big") for at in range(0, 8, 2))
    while len(sizes) > 2 and sizes[-1] <= 1:
        sizes = sizes[:-1]
    return _Place(path, sizes, packing=packing, offset=GIPL_HEADER, big=True)


_FORMATS = {
    ".mha": (_meta_place, "MetaImageIO"),
    ".mhd": (_meta_place, "MetaImageIO"),
    ".nrrd": (_nrrd_place, "NrrdImageIO"),
    ".nhdr": (_nrrd_place, "NrrdImageIO"),
    ".gipl": (_gipl_place, "GiplImageIO"),
}


def _lines(file: Any) -> Iterator[str]:
    """Lines of a header, which may be followed by voxels, without their ends."""
    for _ in range(MOST_LINES):
        line = file.readline(MOST_LINE)
        if not line:
            return
        yield line.decode("utf-8", "replace").rstrip("\r\n")


def _check_fields(fields: Mapping[str, str], needed: Iterable[str]) -> None:
    if missing := [name for name in needed if not fields.get(name)]:
        raise UserError(f"its header has no {', '.join(missing)}")


def _true(fields: Mapping[str, str], name: str, *, default: bool) -> bool:
    return fields[name][:1] in ("T", "t", "1") if name in fields else default


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


def _words(values: Iterable[Any], separator: str = " ") -> str:
    """Numbers as text that is read as the same numbers."""
    return separator.join(repr(value.item() if isinstance(value, np.generic) else value) for value in values)


def reason(error: Exception) -> str:
    """The message of an exception; of SimpleITK's, without the places in its source."""
    return re.sub(r"\w+\(0x\w+\): ", "", str(error).rsplit("ERROR: ", 1)[-1])
