"""Reading of pictures in the displayed orientation: PNG, JPEG and BMP with Pillow, TIFF with tifffile.

Pillow also reads TIFF, but drops samples for which it has no mode and reduces 16-bit colour to 8 bits.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile

from scse.data.file_errors import FileError, check_is_file, check_memory, check_size, unreadable

if TYPE_CHECKING:
    from tifffile import TiffFile

Keep = Literal["values", "indices", "colors"]  # displayed values, palette indices, or always RGB

ORIENTATION = 274  # number of this tag in EXIF and TIFF
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

PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples per pixel of each PNG colour type."""

ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Passes of an interlaced PNG: first column, first row, column step and row step."""

BMP_PROFILE = (124, 126, 130)
"""Size of the only BMP header with a colour profile, and the positions in the file of the profile's offset and size."""


def read_picture(path: Path, keep: Keep) -> NDArray[Any]:
    """Read the pixels (H, W) or (H, W, C), upright and without alpha; (H, W, 3) of 8 bits for keep="colors".

    Raises:
        FileError: The file cannot be read completely.
    """
    check_is_file(path)
    # decoders raise almost any exception for damaged files: OSError, SyntaxError, struct.error, DecompressionBombError
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start[:2] in (b"II", b"MM") and start[2:] in (b"*\0", b"\0*", b"+\0", b"\0+"):
            array = _read_tiff(path, keep)
        else:
            array = _read_pillow(path, keep, ("PNG", "JPEG", "BMP"))
    except FileError:
        raise
    except PIL.Image.DecompressionBombError as error:
        remedy = "save it as TIFF, uncompressed or with Deflate"
        raise FileError(path, "unreadable", f"has more pixels than Pillow allows ({error}); {remedy}") from error
    except Exception as error:
        raise unreadable(path, error) from error
    return _colors(path, array) if keep == "colors" else array


def _read_pillow(path: Path, keep: Keep, formats: tuple[str, ...]) -> NDArray[Any]:
    with PIL.Image.open(path, formats=formats) as picture:
        frames = getattr(picture, "n_frames", 1) if picture.format == "PNG" else 1
        if frames > 1:
            found = f"is an animation of {frames} frames, but only 1 is allowed"
            raise FileError(path, "unreadable", f"{found}; save each frame as a file")
        width, height = picture.size
        _check_pixels(path, (height, width, len(picture.getbands())), 8, COMPRESSION_RATIO * path.stat().st_size)
        if picture.format == "PNG":
            _check_chunks(path)
        if picture.format == "BMP" and isinstance(picture, ImageFile):
            _check_rows(path, picture)
        raw = picture.tile[0].args if picture.format == "PNG" and isinstance(picture, ImageFile) else None
        deep = raw in ("RGB;16B", "RGBA;16B", "LA;16B")
        array = _deep_colors(path, str(raw)) if deep else np.array(_plain(picture, keep))
        # read EXIF after loading, because Pillow then has applied the orientation of a TIFF and removed the tag
        return _upright(array, picture.getexif().get(ORIENTATION, 1))


def _check_chunks(path: Path) -> None:
    """Compare the chunks of a PNG with their checksums, and the amount of pixels with its header.

    Pillow ignores the checksums of pixels, and ignores surplus pixels.

    Raises:
        FileError: A chunk is damaged or truncated, or there are more pixels than the header describes.
    """
    with path.open("rb") as file:
        claimed = _png_bytes(file.read(33)[16:29])
        pixels = []
        file.seek(8)
        while len(start := file.read(8)) == 8:
            length, kind = int.from_bytes(start[:4]), start[4:]
            if kind == b"IDAT":
                pixels.append((file.tell(), length))
            checksum = zlib.crc32(kind)
            for part in _parts(file, length):
                checksum = zlib.crc32(part, checksum)
            # ancillary chunks, whose names start with a lower-case letter, do not affect the pixels
            if file.read(4) != checksum.to_bytes(4) and kind[:1].isupper():
                remedy = "copy or export it again"
                raise FileError(path, "unreadable", f"its chunk {kind!r} does not match its checksum; {remedy}")
            if kind == b"IEND":
                break
        unpacker, inflated = zlib.decompressobj(), 0
        for offset, length in pixels:
            file.seek(offset)
            for part in _parts(file, length):
                packed = part
                while packed and inflated <= claimed:
                    inflated += len(unpacker.decompress(packed, 1 << 20))
                    packed = unpacker.unconsumed_tail
        # flush() would decompress the whole rest of a decompression bomb, so it is called only if little is left
        if inflated > claimed or inflated + len(unpacker.flush()) > claimed:
            raise _surplus(path, claimed)


def _parts(file: BinaryIO, length: int) -> Iterator[bytes]:
    """The next `length` bytes, or fewer at the end of the file, in parts of at most 1 MiB."""
    while length and (part := file.read(min(length, 1 << 20))):
        length -= len(part)
        yield part


def _png_bytes(header: bytes) -> int:
    """Bytes of all rows of a PNG, including the filter byte of each row."""
    width, height, bits, color, _, _, interlaced = struct.unpack(">2I5B", header)
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(len(range(x, width, dx)), len(range(y, height, dy))) for x, y, dx, dy in passes]
    return sum(rows * (1 + -(-columns * bits * PNG_SAMPLES[color] // 8)) for columns, rows in sizes if columns)


def _check_rows(path: Path, picture: ImageFile) -> None:
    """Refuse an uncompressed BMP with more or longer rows than its header describes."""
    codec, _, offset, parameters = picture.tile[0]
    if codec != "raw" or not isinstance(parameters, tuple):
        return
    with path.open("rb") as file:
        header = file.read(14 + BMP_PROFILE[0])
    end, size = struct.unpack_from("<I", header, 2)[0], path.stat().st_size
    # some programs omit the file size in the header, others append to the file without updating it
    end = end if offset < end < size else size
    if struct.unpack_from("<I", header, 14)[0] == BMP_PROFILE[0]:
        profile, length = (struct.unpack_from("<I", header, place)[0] for place in BMP_PROFILE[1:])
        end = 14 + profile if length and offset < 14 + profile < end else end
    claimed = picture.height * int(parameters[1])
    if end - offset - claimed >= 4:  # rows are padded to multiples of 4 bytes, and up to 3 bytes may align the file
        raise _surplus(path, claimed)


def _surplus(path: Path, claimed: int) -> FileError:
    return unreadable(path, f"it contains more than the {claimed:,} bytes of pixels that its header describes")


def _deep_colors(path: Path, raw: str) -> NDArray[np.uint16]:
    """Colour, or grey with alpha, of a 16-bit PNG; Pillow's own modes would keep only the upper 8 bits."""
    if raw == "LA;16B":  # 4 bytes per pixel, unpacked without conversion
        grey = _unpacked(path, "RGBA")
        return _joined(grey[..., 0], grey[..., 1])
    return _joined(_unpacked(path, raw), _unpacked(path, raw.replace(";16B", ";16L")))[..., :3]


def _joined(high: NDArray[np.uint8], low: NDArray[np.uint8]) -> NDArray[np.uint16]:
    joined: NDArray[np.uint16] = high.astype(np.uint16) << np.uint16(8) | low
    return joined


def _unpacked(path: Path, raw: str) -> NDArray[np.uint8]:
    """Unpack a PNG with Pillow's raw mode `raw`; "RGB;16L" keeps the second of every two bytes."""
    with PIL.Image.open(path, formats=("PNG",)) as picture:
        if isinstance(picture, ImageFile):
            picture.tile = [tile._replace(args=raw) for tile in picture.tile]
        return np.array(picture)


def _plain(picture: PIL.Image.Image, keep: Keep) -> PIL.Image.Image:
    """The picture without alpha, and without palette unless `keep` is "indices"."""
    if keep != "colors":
        if picture.mode in ("1", "L", "I", "F") or picture.mode.startswith("I;16"):
            return picture
        if picture.mode == "LA":
            return picture.getchannel("L")
        if picture.mode == "P" and keep == "indices":
            return picture
    elif picture.mode.startswith(("I", "F")):
        return picture  # grey with more than 8 bits, which Pillow would clip
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA")  # converting directly to RGB would warn about lost transparency
    return picture.convert("RGB")


def _read_tiff(path: Path, keep: Keep) -> NDArray[Any]:
    from tifffile import TiffFile  # noqa: PLC0415 (importing it takes 0.3 s)

    with TiffFile(path) as tiff:
        page = _only_page(path, tiff)
        color = _check_samples(path, page)
        # TIFF files may omit the meaning of extra samples; they are then channels
        extra = [*page.extrasamples, *([0] * page.samplesperpixel)]
        samples = [i for i in range(page.samplesperpixel) if i < color or extra[i - color] not in ALPHA]
        if page.photometric not in PHOTOMETRIC or page.compression not in OWN_CODECS:
            if _pillow_reads(page, len(samples), color):
                return _read_pillow(path, keep, ("TIFF",))
            _check_codec(path, page)
        _check_segments(path, page)
        array = page.asarray(squeeze=False, maxworkers=1)  # (planes, 1, H, W, samples per plane)
        array = np.moveaxis(array[:, 0], 0, -2).reshape(page.imagelength, page.imagewidth, -1)[..., samples]
        return _upright(_shown(path, page, array, keep), page.tags.valueof(ORIENTATION, 1))


def _only_page(path: Path, tiff: "TiffFile") -> Any:
    """The only page of the file, not counting reduced copies and transparency masks."""
    every: list[Any] = list(tiff.pages)
    pages = [page for page in every if not (page.is_reduced or page.is_mask)]
    # ImageJ and tifffile may write a stack as one page followed by the pixels of the others
    images = max(len(pages), int((tiff.imagej_metadata or {}).get("images", 1)))
    truncated = [shaped for shaped in tiff.shaped_metadata or () if shaped.get("truncated")]
    if images != 1 or truncated:
        found = f"a stack of shape {truncated[0]['shape']}" if truncated else f"a TIFF of {images} pages"
        remedy = "save channels as samples of one page or as one file each, and a stack as NIfTI"
        raise FileError(path, "unreadable", f"is {found}, but only 1 page is allowed; {remedy}")
    return pages[0]


def _check_samples(path: Path, page: Any) -> int:
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
    _check_pixels(path, (page.imagelength, page.imagewidth, page.samplesperpixel), bits, most)
    return color


def _pillow_reads(page: Any, channels: int, color: int) -> bool:
    """Whether Pillow has a mode that reads all samples with all their bits."""
    if channels != color:
        return False
    kind = (page.bitspersample, page.sampleformat)
    if page.samplesperpixel == 1 and page.photometric == MIN_IS_BLACK and kind in [(16, 1), (16, 2), (32, 2), (32, 3)]:
        return True
    return kind == (8, 1) or (kind == (1, 1) and page.samplesperpixel == 1)


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
                raise _surplus(path, claimed)


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


def _check_pixels(path: Path, shape: tuple[int, int, int], bits: int, most: int) -> None:
    """Refuse a picture whose header describes more than `most` bytes, the most that the file can hold."""
    height, width, samples = shape
    found = f"{width} x {height} pixels of {samples} x {bits} bits"
    check_size(path, height * -(-width * samples * bits // 8), max(most, SMALL), found)
    check_memory(path, height * width * samples * (bits // 8 + 4))  # as stored, and as float32


def _upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Apply the orientation (1 to 8) of EXIF and TIFF to pixels (H, W, ...)."""
    turned = array.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else array
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else None)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else None)
    upright: NDArray[Any] = turned[rows, columns]
    return upright


def _colors(path: Path, array: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert pixels to 8-bit RGB, for comparison with a table of colours."""
    if array.dtype == bool:
        array = array * np.uint8(255)
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.ndim == 2:
        array = np.stack([array] * 3, axis=-1)
    if array.dtype != np.uint8 or array.shape[-1] != 3:
        found = f"has {array.shape[-1]} samples of {array.dtype} per pixel"
        raise FileError(path, "colors", f"{found}; export the colour mask as RGB of 8 or 16 bits")
    return array
