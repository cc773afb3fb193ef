"""Reading of pictures in the displayed orientation: PNG, JPEG and BMP with Pillow, TIFF with tifffile.

Pillow also reads TIFF, but drops samples for which it has no mode and reduces 16-bit colour to 8 bits.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile

from scse.data.file_errors import FileError, check_is_file, unreadable
from scse.data.tiff_pages import (
    COMPRESSION_RATIO,
    MIN_IS_BLACK,
    ORIENTATION,
    OWN_CODECS,
    PHOTOMETRIC,
    Keep,
    channel_samples,
    check_pixels,
    check_samples,
    count_images,
    full_pages,
    open_tiff,
    read_page,
    surplus,
    upright,
)

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
        check_pixels(path, (height, width, len(picture.getbands())), 8, COMPRESSION_RATIO * path.stat().st_size)
        if picture.format == "PNG":
            _check_chunks(path)
        if picture.format == "BMP" and isinstance(picture, ImageFile):
            _check_rows(path, picture)
        raw = picture.tile[0].args if picture.format == "PNG" and isinstance(picture, ImageFile) else None
        deep = raw in ("RGB;16B", "RGBA;16B", "LA;16B")
        array = _deep_colors(path, str(raw)) if deep else np.array(_plain(picture, keep))
        # read EXIF after loading, because Pillow then has applied the orientation of a TIFF and removed the tag
        return upright(array, picture.getexif().get(ORIENTATION, 1))


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
            raise surplus(path, claimed)


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
        raise surplus(path, claimed)


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
    with open_tiff(path) as tiff:
        images = count_images(tiff)
        if images != 1:
            remedy = "save one page; or call it .tif, since stacks of that ending are read as volumes"
            raise FileError(path, "unreadable", f"is a TIFF of {images} pages, but a picture has 1; {remedy}")
        (page,) = full_pages(tiff)
        color = check_samples(path, page)
        own = page.photometric in PHOTOMETRIC and page.compression in OWN_CODECS
        if not own and _pillow_reads(page, len(channel_samples(page)), color):
            return _read_pillow(path, keep, ("TIFF",))
        return read_page(path, page, keep)


def _pillow_reads(page: Any, channels: int, color: int) -> bool:
    """Whether Pillow has a mode that reads all samples with all their bits."""
    if channels != color:
        return False
    kind = (page.bitspersample, page.sampleformat)
    if page.samplesperpixel == 1 and page.photometric == MIN_IS_BLACK and kind in [(16, 1), (16, 2), (32, 2), (32, 3)]:
        return True
    return kind == (8, 1) or (kind == (1, 1) and page.samplesperpixel == 1)


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
