"""Pages of TIFF files: the checks of their headers and segments, and their pixels in the displayed orientation.

Pictures are files of one page (`pictures`), volumes are stacks of pages (`tiff_stacks`).
"""

import logging
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from scse.data.file_errors import FileError, check_memory, check_size, unreadable

if TYPE_CHECKING:
    from tifffile import TiffFile

Keep = Literal["values", "indices", "colors"]  # displayed values, palette indices, or always RGB

ORIENTATION = 274  # number of this tag in EXIF and TIFF
STRIP_BYTES, TILE_BYTES = 279, 325  # TIFF's tags of the bytes of each strip and of each tile
ALPHA = (1, 2)  # values of TIFF's tag ExtraSamples for alpha; 0 is a channel
SMALL = 1 << 26
"""Bytes of pixels that any file may describe, whatever its size."""

COMPRESSION_RATIO = 4096
"""Upper bound of bytes of pixels per compressed byte: Deflate, LZW, PackBits and JPEG stay below it."""

DEFLATE, LZW = (8, 32946), 5
OWN_CODECS = (1, *DEFLATE, 32773)
"""TIFF compressions that tifffile reads without the package imagecodecs: none, Deflate, PackBits."""

MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, MASK = 0, 1, 2, 3, 4
PHOTOMETRIC = {MIN_IS_WHITE: 1, MIN_IS_BLACK: 1, RGB: 3, PALETTE: 1, MASK: 1}
"""Samples of each photometric interpretation of TIFF that is read without conversion; Pillow reads the others."""

PILLOW_PHOTOMETRIC = {5: 4, 6: 3, 8: 3}  # CMYK, YCbCr, CIELab

TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value of each type of tags."""

_NO_OUTPUT = logging.NullHandler()


@contextmanager
def open_tiff(path: Path) -> Iterator["TiffFile"]:
    """Open a TIFF file with tifffile, whose warnings go only to handlers that the program has set up."""
    from tifffile import TiffFile  # noqa: PLC0415 (importing it takes 0.3 s)

    logging.getLogger("tifffile").addHandler(_NO_OUTPUT)
    with TiffFile(path) as tiff:
        yield tiff


def full_pages(tiff: "TiffFile") -> Iterator[Any]:
    """The pages of a file without reduced copies and transparency masks."""
    pages: Iterator[Any] = iter(tiff.pages)
    return (page for page in pages if not (page.is_reduced or page.is_mask))


def count_images(tiff: "TiffFile") -> int:
    """Number of full pages of a file, or of the images that its metadata describe if these are more."""
    # ImageJ and tifffile may write a stack as one page followed by the pixels of the others
    described = [int((tiff.imagej_metadata or {}).get("images", 1))]
    for shaped in tiff.shaped_metadata or ():
        if shaped.get("truncated"):
            described.append(math.prod(shaped["shape"]) // math.prod(tiff.pages.first.shape))
    return max(len(list(full_pages(tiff))) + _ends_early(tiff), *described)


def check_directories(path: Path, tiff: "TiffFile") -> None:
    """Refuse a file whose list of pages, or the values of whose tags, end beyond it; tifffile leaves these out.

    Raises:
        FileError: One of them does.
    """
    size = tiff.filehandle.size
    every: list[Any] = list(tiff.pages)
    for page in every:
        entries, _ = _directory(tiff, page.offset)
        if beyond := [
            code for code, place, length in entries if length > tiff.tiff.tagoffsetthreshold and place + length > size
        ]:
            raise unreadable(path, f"the value of its tag {beyond[0]} lies beyond its end")
    if _ends_early(tiff):
        raise unreadable(path, f"it names more than {len(every)} pages, but the others lie beyond its end")


def _ends_early(tiff: "TiffFile") -> bool:
    """Whether the last page that tifffile lists names a next one."""
    every: list[Any] = list(tiff.pages)
    _, following = _directory(tiff, every[-1].offset)
    return following not in (0, *(page.offset for page in every))


def _directory(tiff: "TiffFile", offset: int) -> tuple[list[tuple[int, int, int]], int]:
    """The tags of the page at an offset, as code, place and bytes of the value, and the offset of the next page."""
    form, file = tiff.tiff, tiff.filehandle
    file.seek(offset)
    (count,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
    content = file.read(count * form.tagsize)
    layout = form.byteorder + ("HHQQ" if form.is_bigtiff else "HHII")
    entries = [
        (code, place, TYPE_BYTES.get(kind, 0) * number)
        for code, kind, number, place in struct.iter_unpack(layout, content)
    ]
    (following,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
    return entries, following


def read_page(path: Path, page: Any, keep: Keep, decoded: NDArray[Any] | None = None) -> NDArray[Any]:
    """Read the pixels (H, W) or (H, W, C) of a page, upright and without alpha.

    Args:
        path: Path of the file.
        page: Page for which `check_samples` was called.
        keep: Displayed values or palette indices.
        decoded: Samples as tifffile decodes them (planes, 1, H, W, samples per plane), if they are known.

    Raises:
        FileError: A segment is missing, damaged or too large, or the page is stored in a way that is not read.
    """
    if decoded is None:
        if page.photometric not in PHOTOMETRIC or page.compression not in OWN_CODECS:
            _check_codec(path, page)
        _check_segments(path, page)
        decoded = page.asarray(squeeze=False, maxworkers=1)
    array = np.moveaxis(decoded[:, 0], 0, -2).reshape(page.imagelength, page.imagewidth, -1)
    shown = _shown(path, page, array[..., channel_samples(page)], keep)
    return upright(shown, page.tags.valueof(ORIENTATION, 1))


def channel_samples(page: Any) -> list[int]:
    """Indices of the samples of a page that are not alpha."""
    color = {**PHOTOMETRIC, **PILLOW_PHOTOMETRIC}[page.photometric]
    # TIFF files may omit the meaning of extra samples; they are then channels
    extra = [*page.extrasamples, *([0] * page.samplesperpixel)]
    return [i for i in range(page.samplesperpixel) if i < color or extra[i - color] not in ALPHA]


def check_samples(path: Path, page: Any) -> int:
    """Refuse pixels that are not numbers or do not fit into the file; returns the number of colour samples."""
    color = {**PHOTOMETRIC, **PILLOW_PHOTOMETRIC}.get(page.photometric)
    if color is None or page.samplesperpixel < color or page.imagedepth != 1 or min(page.shaped) < 1:
        name = getattr(page.photometric, "name", page.photometric)
        found = f"has {page.samplesperpixel} samples of the type {name}, shape {page.shape}"
        allowed = "grey, palette, RGB and extra channels are allowed"
        raise FileError(path, "unreadable", f"{found}; {allowed}: export it as one of these")
    if page.dtype is None or page.dtype.kind not in "biuf":
        found = f"{page.bitspersample} bits, sample format {page.sampleformat}"
        raise FileError(path, "unreadable", f"has samples of {found}; save them as integers or floats")
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    most = sum(page.databytecounts) * (1 if page.compression == 1 else COMPRESSION_RATIO)
    check_pixels(path, (page.imagelength, page.imagewidth, page.samplesperpixel), bits, most)
    return color


def _check_codec(path: Path, page: Any) -> None:
    name = getattr(page.compression, "name", page.compression)
    kind = f"{page.samplesperpixel} samples of {page.dtype}, {getattr(page.photometric, 'name', page.photometric)}"
    remedy = "save the file uncompressed or with Deflate"
    if page.compression == LZW and page.photometric in PHOTOMETRIC:
        if find_spec("imagecodecs") is None:
            found = f"has {kind}, compressed with {name}, which needs the package imagecodecs"
            raise FileError(path, "unreadable", f"{found}; install it, or {remedy}")
    elif page.compression not in OWN_CODECS or page.photometric not in PHOTOMETRIC:
        found = f"has {kind}, compressed with {name}, which is not supported"
        raise FileError(path, "unreadable", f"{found}; {remedy}, as grey, RGB or extra channels")


def _check_segments(path: Path, page: Any) -> None:
    """Refuse strips or tiles that are missing, lie outside the file, or contain at least one surplus row.

    Surplus rows are searched only in uncompressed data and in Deflate.
    """
    size, wanted = path.stat().st_size, math.prod(page.chunked)
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    sound = sum(count > 0 and offset + count <= size for offset, count in places[:wanted])
    if sound < wanted:
        raise unreadable(path, f"{wanted - sound} of its {wanted} strips or tiles are empty or lie beyond its end")
    # tifffile drops surplus ones from what it lists, so they are counted in the tag itself
    listed = page.tags.valueof(TILE_BYTES if page.is_tiled else STRIP_BYTES, 0)
    found = sum(count > 0 for count in listed) if isinstance(listed, tuple) else 1
    if found > wanted:
        raise unreadable(path, f"it has {found} strips or tiles, but its header describes {wanted}")
    rows, columns, *samples = page.chunks
    bits = page.bitspersample * math.prod(samples) if isinstance(page.bitspersample, int) else sum(page.bitspersample)
    row = -(-columns * bits // 8)
    claimed = row * (rows if page.is_tiled else min(rows, page.imagelength))
    most = claimed + row - 1  # some programs add padding
    with path.open("rb") as file:
        for offset, count in places[:wanted]:
            held = count if page.compression == 1 else 0
            if page.compression in DEFLATE:
                file.seek(offset)
                held = len(zlib.decompressobj().decompress(file.read(count), most + 1))
            if held > most:
                raise surplus(path, claimed)


def _shown(path: Path, page: Any, array: NDArray[Any], keep: Keep) -> NDArray[Any]:
    """Convert the samples (H, W, C) of a page to displayed values: (H, W) or (H, W, C)."""
    if page.photometric == PALETTE and keep != "indices":
        if array.shape[-1] > 1 or page.colormap is None:
            found = f"a palette {'without colours' if page.colormap is None else 'and extra channels'}"
            raise FileError(path, "unreadable", f"has {found}; save it as RGB")
        colors = (np.moveaxis(page.colormap, 0, -1) >> 8).astype(np.uint8)
        shown: NDArray[np.uint8] = colors[array[..., 0]]
        return shown
    if page.photometric == MIN_IS_WHITE:
        if array.dtype.kind not in "bu":
            found = (
                f"has {array.dtype} values with the smallest as white, which is supported for unsigned integers only"
            )
            raise FileError(path, "unreadable", f"{found}; save it with the smallest value as black")
        white = array.dtype.type(2 ** int(page.bitspersample) - 1) if array.dtype.kind == "u" else np.True_
        array[..., 0] = white ^ array[..., 0]
    return array[..., 0] if array.shape[-1] == 1 else array


def check_pixels(path: Path, shape: tuple[int, int, int], bits: int, most: int) -> None:
    """Refuse a picture whose header describes more than `most` bytes, the most that the file can hold."""
    height, width, samples = shape
    found = f"{width} x {height} pixels of {samples} x {bits} bits"
    check_size(path, height * -(-width * samples * bits // 8), max(most, SMALL), found)
    check_memory(path, height * width * samples * (bits // 8 + 4))  # as stored, and as float32


def upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Apply the orientation (1 to 8) of EXIF and TIFF to pixels (H, W, ...)."""
    turned = array.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else array
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else None)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else None)
    shown: NDArray[Any] = turned[rows, columns]
    return shown


def surplus(path: Path, claimed: int) -> FileError:
    """The error for a file with more bytes of pixels than the header of their picture or page describes."""
    return unreadable(path, f"it contains more than the {claimed:,} bytes of pixels that its header describes")
