"""TIFF files of several pages as volumes: plain stacks, ImageJ's hyperstacks and OME-TIFF.

tifffile says which page is which slice and channel; pages are checked and read one by one like those of pictures, so
that no copy of the volume is in memory. No orientation is stored: columns, rows and slices are taken as ITK takes them,
as axes that point left, posterior and superior.
"""

import hashlib
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scse.data.endings import TIFF, ending
from scse.data.file_errors import FileError, allocate, check_is_file, check_size, unreadable
from scse.data.itk import LPS, Geometry
from scse.data.raw_volumes import Rounding
from scse.data.tiff_pages import (
    ORIENTATION,
    PALETTE,
    Keep,
    channel_samples,
    check_directories,
    check_samples,
    count_images,
    full_pages,
    open_tiff,
    read_page,
)
from scse.support.atomic import open_atomic
from scse.support.errors import UserError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

SLICES = frozenset("ZIQ")
"""tifffile's letters of slices, and of pages whose meaning the file does not say."""

DESCRIBED = ("ome", "imagej", "shaped")
"""Kinds of series whose metadata give the number of pages."""

TURNED = (5, 6, 7, 8)
"""Values of TIFF's orientation that exchange rows and columns."""

MICROMETRES = ("µm", "μm", "\\u00b5m", "um", "micron", "microns", "micrometer", "micrometre")
"""Names of micrometres: with the micro sign, the Greek letter, and ImageJ's way to write the former."""

MILLIMETRES = {
    "nm": 1e-6,
    **dict.fromkeys(MICROMETRES, 1e-3),
    "mm": 1.0,
    "cm": 10.0,
    "m": 1e3,
    "inch": 25.4,
}
"""Millimetres per unit of OME and ImageJ."""

NO_UNITS = ("", "pixel", "pixels", "reference frame")
"""Units of sizes that are not lengths."""


@dataclass(frozen=True, slots=True)
class TiffVolume:
    """The checked headers of a stack.

    Attributes:
        path: Path of the file.
        size: Number of columns, rows and slices.
        channels: Channels of each voxel, without alpha; 1 for a palette.
        dtype: Type of the samples as stored.
        pages: Number of the page of each slice and channel (slices, channels stored as pages).
        packed: Whether only the first page has a header, and the pixels of the others follow its own.
        colored: Whether the values are indices into a palette.
        header: Position of the voxels in space, a `Geometry`.
        is_sized: Whether the file gives the lengths of voxels; otherwise they are taken as 1 mm.
        form: None, because it is not of a class of nibabel.
    """

    path: Path
    size: tuple[int, int, int]
    channels: int
    dtype: np.dtype[Any]
    pages: NDArray[np.intp]
    packed: bool
    colored: bool
    header: Any
    is_sized: bool
    form: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the voxels, with the channels last if there are several."""
        return self.size if self.channels == 1 else (*self.size, self.channels)

    @property
    def channel_shape(self) -> tuple[int, ...]:
        """Shape of the image, (C, *spatial); palettes are read as the three channels of their colours."""
        return (3 * self.channels if self.colored else self.channels, *self.size)

    @property
    def map_shape(self) -> tuple[int, ...] | None:
        """Shape (*spatial) of the label map; None if the file has several channels."""
        return self.size if self.channels == 1 else None

    @property
    def affine(self) -> NDArray[np.float64]:
        """Affine (4, 4) from voxel index to mm along right, anterior, superior."""
        affine: NDArray[np.float64] = self.header.affine
        return affine

    def check_length(self) -> None:
        """Compare the pixels that the headers of all pages describe with the size of the file.

        Raises:
            FileError: A page is unlike the first one, is not read, or describes more than the file can hold.
        """
        with _reading(self.path) as tiff:
            if self.packed:
                page: Any = tiff.pages.first
                check_samples(self.path, page)
                most = self.path.stat().st_size - page.dataoffsets[0]
                check_size(self.path, self.pages.size * page.nbytes, most, f"{self.pages.size} pages")
                return
            for index in self.pages.flat:
                page = tiff.pages[int(index)]
                check_samples(self.path, page)
                if (found := _kind(page)) != self._kind:
                    message = f"its page {index + 1} has {found}, but the first has {self._kind}"
                    raise FileError(self.path, "unreadable", f"{message}; save pages of one kind")

    def read_into(self, array: NDArray[np.float32]) -> None:
        """Read the image into an array (*spatial, C).

        The caller must have called `check_length`.
        """
        # float64 values too large for float32 become inf, which `inspect` reports; a warning would name no file
        with np.errstate(over="ignore", invalid="ignore"):
            for place, channel, values in self._read("values"):
                array[:, :, place, channel : channel + values.shape[-1]] = values.swapaxes(0, 1)

    def read_whole_numbers(self) -> NDArray[Any]:
        """Read the values of a label map as stored, or rounded to int32 if they are floats.

        Raises:
            FileError: A value is not a whole number.
        """
        self.check_length()
        whole = self.dtype.kind in "iu"
        dtype = self.dtype.newbyteorder("=") if whole else np.uint8 if self.dtype.kind == "b" else np.int32
        array = allocate(self.path, self.size, dtype, order="F")
        rounding = Rounding()
        for place, _, values in self._read("indices"):
            plane = values[..., 0].T
            array[:, :, place] = rounding(plane) if self.dtype.kind == "f" else plane
        rounding.check(self.path, self.dtype.name)
        return array

    @property
    def _kind(self) -> str:
        return _described(self.size[:2], self.channels // self.pages.shape[1], self.dtype, self.colored)

    def _read(self, keep: Keep) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Slice, first channel and values (rows, columns, channels) of each page."""
        with _reading(self.path) as tiff:
            for (place, part), number in np.ndenumerate(self.pages):
                page: Any = tiff.pages[0 if self.packed else int(number)]
                decoded = _following(tiff, page, int(number)) if self.packed else None
                values = read_page(self.path, page, keep, decoded)
                values = values.reshape(*values.shape[:2], -1)
                yield place, part * values.shape[-1], values


def is_stack(path: Path) -> bool:
    """Whether a file with the ending of a TIFF has several pages, not counting reduced copies and masks."""
    if ending(path.name) not in TIFF or not path.is_file():
        return False
    try:
        with open_tiff(path) as tiff:
            # of many pages, only two are read
            return len(list(islice(full_pages(tiff), 2))) > 1 or count_images(tiff) > 1
    except Exception:  # decoders raise almost any exception for damaged files, of which `read_picture` says more
        return False


def open_stack(path: Path) -> TiffVolume:
    """Read and check the headers of a TIFF of several pages, without its pixels.

    Raises:
        FileError: The file is damaged, or its pages are not the slices of one volume.
    """
    check_is_file(path)
    with _reading(path) as tiff:
        check_directories(path, tiff)
        full = list(full_pages(tiff))
        described = _ome(path, tiff.ome_metadata, len(full)) if tiff.is_ome else {}
        series = _only_series(path, tiff, len(full))
        first = full[0]
        check_samples(path, first)
        pages = _slices_and_channels(path, series)
        samples = len(channel_samples(first))
        spacing = _spacing(path, *(_ome_sizes(described) if described else _imagej_sizes(tiff)))
        return TiffVolume(
            path=path,
            size=(*_size(first), len(pages)),
            channels=pages.shape[1] * samples,
            dtype=first.dtype,
            pages=pages,
            packed=series.is_truncated,
            colored=first.photometric == PALETTE,
            header=Geometry(spacing or (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3)),
            is_sized=spacing is not None,
        )


def write_stack(path: Path, array: NDArray[Any], affine: NDArray[np.float64] | None, *, level: int) -> None:
    """Write a volume atomically as an OME-TIFF stack, compressed with Deflate.

    Args:
        path: Output file.
        array: Voxels (columns, rows, slices).
        affine: Affine (4, 4) from voxel index to mm, of which a stack stores the voxel sizes; None for no sizes.
        level: Level of compression, 1 to 9.

    Raises:
        UserError: The array is no volume, or the affine has other directions or another origin than stacks.
    """
    import tifffile  # noqa: PLC0415 (importing it takes 0.3 s)

    if array.ndim != 3:
        raise UserError(f"{path.name}: a TIFF stack has 3 axes, but the map has shape {array.shape}; write .nii.gz")
    stored = np.ascontiguousarray(array.T)
    # an identifier of the content, so that equal label maps give equal files
    metadata: dict[str, Any] = {"axes": "ZYX", "UUID": str(uuid.UUID(bytes=hashlib.sha256(stored.data).digest()[:16]))}
    options: dict[str, Any] = {}
    if affine is not None:
        sizes = _sizes_of(path, affine)
        for axis, size in zip("XYZ", sizes, strict=True):
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "mm"}
        # for programs that do not read OME
        options = {"resolution": (10 / sizes[0], 10 / sizes[1]), "resolutionunit": "CENTIMETER"}
    with open_atomic(path) as file:
        tifffile.imwrite(
            file,
            stored,
            ome=True,
            photometric="minisblack",
            compression="zlib",
            compressionargs={"level": level},
            metadata=metadata,
            **options,
        )


def _sizes_of(path: Path, affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Millimetres per column, row and slice of an affine (4, 4) that a stack can store."""
    columns, rows, slices = (float(size) for size in np.diag(LPS @ affine)[:3])
    expected = Geometry((columns, rows, slices), (0.0, 0.0, 0.0), np.eye(3)).affine
    if min(columns, rows, slices) <= 0 or not np.allclose(affine, expected, rtol=0, atol=1e-6 * columns):
        found = np.array2string(affine[:3], precision=4, separator=", ").replace("\n", "")
        allowed = "which stores only voxel sizes, has axes along left, posterior and superior, and no origin"
        raise UserError(f"{path.name}: the affine {found} is not that of a TIFF stack, {allowed}; write .nii.gz")
    return columns, rows, slices


@contextmanager
def _reading(path: Path) -> Iterator["TiffFile"]:
    """Open a file, and raise what reading it stops as its error; damaged ones raise almost any exception."""
    try:
        with open_tiff(path) as tiff:
            yield tiff
    except FileError:
        raise
    except Exception as error:
        raise unreadable(path, error) from error


def _only_series(path: Path, tiff: "TiffFile", full: int) -> "TiffPageSeries":
    """The series of all full pages of a file; files with several, or whose metadata contradict it, are refused."""
    found = [one for one in tiff.series if not (one.keyframe.is_reduced or one.keyframe.is_mask)]
    if len(found) != 1:
        shapes = ", ".join(" x ".join(map(str, one.shape)) for one in found[:4])
        remedy = "save the one that is meant as a file of its own"
        raise FileError(path, "unreadable", f"holds {len(found)} images, of {shapes} pixels; {remedy}")
    (series,) = found
    described = [kind for kind in DESCRIBED if getattr(tiff, f"is_{kind}")]
    pages = math.prod(series.shape) // math.prod(series.keyframe.shape)
    whole = series.is_truncated and full == 1 and series.dataoffset is not None
    if (described and series.kind not in (*described, "mmstack")) or not (whole or pages == full):
        raise unreadable(path, f"it has {full} pages, but its metadata describe others")
    return series


def _slices_and_channels(path: Path, series: "TiffPageSeries") -> NDArray[np.intp]:
    """Number of the page of each slice and channel (slices, channels)."""
    axes, shape = series.get_axes(squeeze=True), series.get_shape(squeeze=True)
    inner = series.keyframe.axes
    outer = dict(zip(axes, shape, strict=True)) if len(set(axes)) == len(axes) else {}
    for letter in inner:
        outer.pop(letter, None)
    slices = [letter for letter in outer if letter in SLICES]
    if "T" in outer:
        remedy = "save the volume of each time as a file of its own"
        raise FileError(path, "unreadable", f"is a time series of {outer['T']} (axes {axes}); {remedy}")
    if list(outer) == ["C"]:
        remedy = "save channels as samples of one page, or as one file each; and slices as Z, not C"
        raise FileError(path, "unreadable", f"holds {outer['C']} channels of one slice as pages; {remedy}")
    if len(slices) != 1 or outer.keys() - {"C", *slices} or not axes.endswith(inner):
        remedy = "save it with slices (Z) and channels (C) only, as ImageJ's hyperstack or OME-TIFF"
        found = f"has axes {axes} of {' x '.join(map(str, shape))}"
        raise FileError(path, "unreadable", f"{found}, which are not those of a volume; {remedy}")
    counts = tuple(outer.values())
    if series.is_truncated:
        numbers = np.arange(math.prod(counts))
    else:
        if any(page is None or page.parent is not series.parent for page in series.pages):
            raise unreadable(path, "pages that its metadata describe are missing, or are in other files")
        numbers = np.array([page.index for page in series.pages if page is not None])
    pages: NDArray[np.intp] = np.moveaxis(numbers.reshape(counts), list(outer).index(slices[0]), 0)
    return pages.reshape(len(pages), -1)


def _ome(path: Path, text: str | None, full: int) -> Mapping[str, Any]:
    """The element Pixels of an OME-TIFF whose `full` pages it describes.

    tifffile would open the other files that it names, and keep a list as long as it claims.
    """
    from tifffile import xml2dict  # noqa: PLC0415 (importing it takes 0.3 s)

    content = xml2dict(text or "")["OME"]
    images = _several(content.get("Image"))
    data = [one or {} for image in images for one in _several(image["Pixels"].get("TiffData"))]
    files = [one["UUID"] for one in data if isinstance(one.get("UUID"), dict)]
    own = content.get("UUID")
    others = [
        file["FileName"]
        for file in files
        if (file["value"] != own if own else file["FileName"].lower() != path.name.lower())
    ]
    if "BinaryOnly" in content or others:
        found = f"is one of the several files of an OME-TIFF{f' (another one is {others[0]})' if others else ''}"
        raise FileError(path, "unreadable", f"{found}; save the volume as one file")
    if len(images) != 1:
        remedy = "save the one that is meant as a file of its own"
        raise FileError(path, "unreadable", f"is an OME-TIFF of {len(images)} images; {remedy}")
    pixels: Mapping[str, Any] = images[0]["Pixels"]
    counts = {axis: int(pixels[f"Size{axis}"]) for axis in "XYCZT"}
    samples = int((_several(pixels.get("Channel")) or [{}])[0].get("SamplesPerPixel", 1))
    planes = counts["C"] * counts["Z"] * counts["T"] // samples
    listed = max((int(one.get("PlaneCount", one.get("NumPlanes", 1))) for one in data), default=1)
    if planes != full or listed > full:
        raise unreadable(path, f"its OME metadata describe {max(planes, listed)} pages, but it has {full}")
    return pixels


def _several(found: Any) -> list[Any]:
    """The elements of one name, of which `xml2dict` returns a list only if there are several."""
    return found if isinstance(found, list) else [] if found is None else [found]


def _ome_sizes(pixels: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
    """Size of a voxel along X, Y and Z, and their units; no sizes if one of them is not given."""
    sizes = [pixels.get(f"PhysicalSize{axis}") for axis in "XYZ"]
    units = [str(pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XYZ"]
    return ([], []) if None in sizes else (sizes, units)


def _imagej_sizes(tiff: "TiffFile") -> tuple[list[Any], list[str]]:
    """The same of ImageJ's metadata, which give the sizes of columns and rows as columns and rows per unit."""
    described = tiff.imagej_metadata or {}
    if "unit" not in described:
        return [], []
    tags = tiff.pages.first.tags
    per_unit = [tags.valueof(name, (1, 1)) for name in ("XResolution", "YResolution")]
    sizes = [math.nan if not count else unit / count for count, unit in per_unit]
    # ImageJ takes 1 where the distance of slices is not written, and ignores its sign
    spacing = described.get("spacing", 1.0)
    units = [str(described.get(name, described["unit"])) for name in ("unit", "yunit", "zunit")]
    return [*sizes, abs(_number(spacing))], units


def _spacing(path: Path, sizes: Sequence[Any], units: Sequence[str]) -> tuple[float, float, float] | None:
    """Millimetres per column, row and slice; None where a file gives no lengths."""
    names = [unit.strip().lower() for unit in units]
    if not sizes or any(name in NO_UNITS for name in names):
        return None
    remedy = "correct its properties in the program that wrote it (in ImageJ: Image > Properties)"
    if unknown := [name for name in names if name not in MILLIMETRES]:
        allowed = "nm, µm, mm, cm, m, inch or pixel"
        raise FileError(path, "affine", f"gives its voxel size in {unknown[0]!r}; allowed: {allowed}; {remedy}")
    columns, rows, slices = (_number(size) * MILLIMETRES[name] for size, name in zip(sizes, names, strict=True))
    if not all(math.isfinite(size) and size > 0 for size in (columns, rows, slices)):
        found = f"has voxels of {columns:g} x {rows:g} x {slices:g} mm"
        raise FileError(path, "affine", f"{found}, which must be positive, finite numbers; {remedy}")
    return columns, rows, slices


def _number(found: Any) -> float:
    return float(found) if isinstance(found, int | float) else math.nan


def _size(page: Any) -> tuple[int, int]:
    """Columns and rows of a page as it is displayed."""
    size = page.imagewidth, page.imagelength
    return size[::-1] if page.tags.valueof(ORIENTATION, 1) in TURNED else size


def _kind(page: Any) -> str:
    return _described(_size(page), len(channel_samples(page)), page.dtype, page.photometric == PALETTE)


def _described(size: tuple[int, ...], samples: int, dtype: np.dtype[Any], colored: bool) -> str:
    return f"{size[0]} x {size[1]} pixels of {samples} x {dtype.name}{' of a palette' if colored else ''}"


def _following(tiff: "TiffFile", page: Any, number: int) -> NDArray[Any]:
    """The samples of a page without a header (planes, 1, H, W, samples per plane), whose pixels are not compressed."""
    tiff.filehandle.seek(page.dataoffsets[0] + number * page.nbytes)
    stored = page.dtype.newbyteorder(tiff.byteorder)
    return np.frombuffer(tiff.filehandle.read(page.nbytes), stored).astype(page.dtype).reshape(page.shaped)
