"""Pictures: all samples with all bits, in the displayed orientation, and no more than a file can hold."""

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tifffile

from scse.data.files import geometry_errors, read_image, read_label, write_label
from scse.support.errors import DataError


def random(shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def channels_first(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, -1, 0) if array.ndim == 3 else array[None]


def assert_read(path: Path, expected: np.ndarray) -> None:
    """Assert that the file contains the samples (H, W) or (H, W, C)."""
    np.testing.assert_array_equal(read_image([path]).array, channels_first(expected).astype(np.float32))


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """The eight orientations of TIFF 6.0, by the displayed position of the first stored row and column."""
    return {
        1: array,  # top, left
        2: array[:, ::-1],  # top, right
        3: array[::-1, ::-1],  # bottom, right
        4: array[::-1],  # bottom, left
        5: array.swapaxes(0, 1),  # left, top
        6: np.rot90(array, -1),  # right, top
        7: np.rot90(array, 2).swapaxes(0, 1),  # right, bottom
        8: np.rot90(array),  # left, bottom
    }[orientation]


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("shape", [(16, 24), (16, 24, 3)])
def test_pictures_are_read_the_way_up_they_are_displayed(
    tmp_path: Path, orientation: int, suffix: str, shape: tuple[int, ...]
) -> None:
    exif = PIL.Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a{suffix}"
    PIL.Image.fromarray(random(shape)).save(path, exif=exif)
    with PIL.Image.open(path) as picture:
        displayed = np.array(PIL.ImageOps.exif_transpose(picture))
    assert displayed.shape[:2] == ((16, 24) if orientation < 5 else (24, 16))
    assert_read(path, displayed)
    if len(shape) == 2:
        np.testing.assert_array_equal(read_label(path).array, displayed)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_every_way_to_read_a_tiff_turns_it(tmp_path: Path, orientation: int, compression: str | None) -> None:
    for array in (random((5, 7)), random((5, 7, 4), np.uint16)):
        tifffile.imwrite(
            tmp_path / "a.tif",
            array,
            photometric="minisblack",
            planarconfig="contig" if array.ndim == 3 else None,
            compression=compression,
            extratags=[(274, "H", 1, orientation, True)],
        )
        # Pillow misreads uncompressed TIFF files of orientations 5 to 8 that are not square
        assert_read(tmp_path / "a.tif", turned(array, orientation))


def test_colour_masks_palettes_and_deep_pictures_are_turned_as_well(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[274] = 6
    colours = np.zeros((3, 4, 3), np.uint8)
    colours[0, 0] = 255, 0, 0
    PIL.Image.fromarray(colours).save(tmp_path / "colours.png", exif=exif)
    turned = read_label(tmp_path / "colours.png", colors={0: (0, 0, 0), 5: (255, 0, 0)}).array
    assert turned.shape == (4, 3)
    assert turned[0, 2] == 5
    palette = PIL.Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    palette.putpalette(list(range(256)) * 3)
    palette.save(tmp_path / "palette.png", exif=exif)
    assert read_label(tmp_path / "palette.png").array[0].tolist() == [8, 4, 0]
    deep = random((3, 4, 3), np.uint16)
    content = imagecodecs.png_encode(deep)
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    body = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "deep.png").write_bytes(content[:33] + body + content[33:])
    assert_read(tmp_path / "deep.png", np.rot90(deep, -1))


def test_a_mask_that_is_not_turned_as_its_image_is_refused_with_the_reason(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[274] = 6
    PIL.Image.fromarray(random((16, 24))).save(tmp_path / "a.jpg", exif=exif)
    PIL.Image.fromarray(random((16, 24))).save(tmp_path / "mask.png")
    image, mask = read_image([tmp_path / "a.jpg"]), read_label(tmp_path / "mask.png")
    [error] = geometry_errors(tmp_path / "mask.png", mask, tmp_path / "a.jpg", image)
    assert "has shape (16, 24), but" in str(error)
    assert "rows and columns are swapped: both files are read in the orientation given by their EXIF" in str(error)


def test_a_label_map_is_written_as_its_picture_is_displayed(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[274] = 8
    PIL.Image.fromarray(random((16, 24))).save(tmp_path / "a.jpg", exif=exif)
    image = read_image([tmp_path / "a.jpg"])
    write_label(tmp_path / "label.png", (image.array[0] > 99).astype(np.uint8))
    assert read_label(tmp_path / "label.png").shape == image.shape == (24, 16)


# TIFF: all samples in all their bits

DTYPES = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float16, np.float32, np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_all_channels_of_a_tiff_are_read(tmp_path: Path, dtype: Any, channels: int, planar: str) -> None:
    array = random((5, 7, channels), dtype)
    path = tmp_path / "a.tif"
    written = array if planar == "contig" else np.moveaxis(array, -1, 0)
    if channels == 1:
        tifffile.imwrite(path, array[..., 0], photometric="minisblack")
    else:
        tifffile.imwrite(path, np.ascontiguousarray(written), photometric="minisblack", planarconfig=planar)
    assert_read(path, array)


@pytest.mark.parametrize("extra", ["unspecified", "assocalpha", "unassalpha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_near_infrared_is_a_channel_and_alpha_is_none(tmp_path: Path, extra: str, dtype: Any) -> None:
    array = random((5, 7, 4), dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extrasamples=[extra])
    assert_read(tmp_path / "a.tif", array if extra == "unspecified" else array[..., :3])
    tifffile.imwrite(
        tmp_path / "b.tif", array[..., :2], photometric="minisblack", planarconfig="contig", extrasamples=[extra]
    )
    assert_read(tmp_path / "b.tif", array[..., :2] if extra == "unspecified" else array[..., 0])


def test_alpha_between_channels_is_left_out(tmp_path: Path) -> None:
    array = random((5, 7, 5), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extrasamples=["unassalpha", "unspecified"])
    assert_read(tmp_path / "a.tif", array[..., [0, 1, 2, 4]])


OPTIONS = [
    {"byteorder": ">"},
    {"bigtiff": True},
    {"tile": (16, 16)},
    {"rowsperstrip": 3},
    {"compression": "zlib"},
    {"compression": "zlib", "predictor": True},
    {"compression": "zlib", "predictor": True, "byteorder": ">", "tile": (16, 32)},
    {"compression": "packbits"},
    {"compression": "lzw"},
    {"compression": "lzw", "predictor": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((20, 30), np.uint8), ((20, 30, 3), np.uint8), ((20, 30), np.uint16), ((20, 30, 4), np.uint16)],
)
def test_tiff_in_every_order_and_compression(
    tmp_path: Path, options: dict[str, Any], shape: tuple[int, ...], dtype: Any
) -> None:
    array = random(shape, dtype)
    kind = {"photometric": "rgb", "extrasamples": ["unspecified"] * (shape[2] - 3)} if len(shape) == 3 else {}
    tifffile.imwrite(tmp_path / "a.tif", array, **kind, **options)
    assert_read(tmp_path / "a.tif", array)


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg", "group4", "tiff_adobe_deflate", "packbits"])
def test_what_pillow_compresses_is_read_as_pillow_shows_it(tmp_path: Path, compression: str) -> None:
    grey = PIL.Image.fromarray(random((16, 24)))
    pictures = [grey.convert("1")] if compression == "group4" else [grey, PIL.Image.fromarray(random((16, 24, 3)))]
    for picture in pictures:
        picture.save(tmp_path / "a.tif", compression=compression)
        with PIL.Image.open(tmp_path / "a.tif") as saved:
            assert_read(tmp_path / "a.tif", np.array(saved))


def test_white_may_be_the_smallest_value(tmp_path: Path) -> None:
    for array in (random((5, 9)), random((5, 9), np.uint16)):
        tifffile.imwrite(tmp_path / "a.tif", array, photometric="miniswhite")
        assert_read(tmp_path / "a.tif", np.iinfo(array.dtype).max - array)
    bits = random((5, 9)) > 99
    tifffile.imwrite(tmp_path / "bits.tif", bits, photometric="miniswhite")
    np.testing.assert_array_equal(read_label(tmp_path / "bits.tif").array, ~bits)
    tifffile.imwrite(tmp_path / "c.tif", random((5, 9), np.float32), photometric="miniswhite")
    with pytest.raises(
        DataError, match=r"c\.tif: has float32 values with the smallest as white.*smallest value as black"
    ):
        read_image([tmp_path / "c.tif"])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_palettes_of_tiff(tmp_path: Path, dtype: Any) -> None:
    colormap = random((3, np.iinfo(dtype).max + 1), np.uint16)
    indices = random((5, 7), dtype)
    tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=colormap)
    np.testing.assert_array_equal(read_label(tmp_path / "a.tif").array, indices)
    colours = np.moveaxis(colormap >> 8, 0, -1)[indices]
    assert_read(tmp_path / "a.tif", colours)


def test_bilevel_tiff_is_an_index_mask(tmp_path: Path) -> None:
    mask = random((5, 13)) > 99
    tifffile.imwrite(tmp_path / "a.tif", mask, photometric="minisblack")
    label = read_label(tmp_path / "a.tif").array
    np.testing.assert_array_equal(label, mask)
    assert label.dtype == np.uint8


def test_labels_in_tiff_of_every_type(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 2], [3, 40, 5]])
    for dtype in (np.int8, np.uint16, np.int32, np.float32):
        tifffile.imwrite(tmp_path / "a.tif", mask.astype(dtype), photometric="minisblack")
        np.testing.assert_array_equal(read_label(tmp_path / "a.tif").array, mask)
    tifffile.imwrite(
        tmp_path / "b.tif", np.dstack([mask, mask]).astype(np.uint8), photometric="minisblack", planarconfig=1
    )
    with pytest.raises(DataError, match=r"b\.tif: has 2 channels, but a label map has 1"):
        read_label(tmp_path / "b.tif")


def test_colour_masks_of_16_bits_are_compared_by_their_upper_8(tmp_path: Path) -> None:
    colours = np.array([[[0, 0, 0], [255, 0, 0]], [[0, 0, 255], [255, 0, 0]]], np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb")
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(colours))
    for name in ("a.tif", "a.png"):
        found = read_label(tmp_path / name, colors={0: (0, 0, 0), 7: (255, 0, 0), 2: (0, 0, 255)})
        assert found.array.tolist() == [[0, 7], [2, 7]]
    tifffile.imwrite(tmp_path / "b.tif", colours.astype(np.float32), photometric="rgb")
    with pytest.raises(
        DataError, match=r"b\.tif: has 3 samples of float32 per pixel; export the colour mask as RGB of 8 or 16"
    ):
        read_label(tmp_path / "b.tif", colors={0: (0, 0, 0)})


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits_keeps_them(tmp_path: Path, channels: int) -> None:
    array = random((9, 13, channels), np.uint16)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(array.squeeze()))
    assert_read(tmp_path / "a.png", array[..., :3] if channels > 2 else array[..., 0])


def test_pages_that_are_channels_are_refused_by_name(tmp_path: Path) -> None:
    stack = random((3, 5, 7))
    tifffile.imwrite(tmp_path / "imagej.tif", stack, imagej=True, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "ome.ome.tif", stack, metadata={"axes": "CYX"}, photometric="minisblack")
    for name in ("imagej.tif", "ome.ome.tif"):
        with pytest.raises(DataError, match=r"3 channels of one slice as pages; save channels as samples of one page"):
            read_image([tmp_path / name])


def test_smaller_copies_beside_the_picture_do_not_count(tmp_path: Path) -> None:
    array = random((16, 24, 3))
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(array, photometric="rgb")
        writer.write(array[::2, ::2], photometric="rgb", subfiletype=1)
    assert_read(tmp_path / "a.tif", array)


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (random((16, 16, 4), np.uint16), {"photometric": "separated"}, "SEPARATED"),
        (random((16, 16, 4), np.uint16), {"photometric": "rgb", "compression": "zstd"}, "compressed with ZSTD"),
        (random((16, 16), np.float32).astype(np.complex64), {}, "samples of 64 bits|complex64"),
        (random((16, 16)), {"photometric": "cfa"}, "CFA"),
    ],
)
def test_tiff_that_is_not_read_is_refused_by_name(
    tmp_path: Path, array: np.ndarray, options: dict[str, Any], message: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    with pytest.raises(DataError, match=message) as error:
        read_image([tmp_path / "a.tif"])
    assert str(error.value).startswith(str(tmp_path / "a.tif"))


def test_without_imagecodecs_tiff_is_read_through_pillow_or_refused_by_name(tmp_path: Path) -> None:
    files = {}
    for name, shape, dtype in (("grey", (20, 30), np.uint16), ("rgb", (20, 30, 3), np.uint8)):
        for options in OPTIONS:
            path = tmp_path / f"{name}{len(files)}.tif"
            array = random(shape, dtype)
            tifffile.imwrite(path, array, photometric="rgb" if len(shape) == 3 else "minisblack", **options)
            files[str(path)] = float(array.astype(np.float64).sum())
    tifffile.imwrite(tmp_path / "deep.tif", random((20, 30, 3), np.uint16), photometric="rgb", compression="lzw")
    script = f"""
import sys
sys.modules["imagecodecs"] = None
from collections.abc import Callable
from pathlib import Path
from scse.data.files import read_image
from scse.support.errors import DataError
for path, total in {json.dumps(files)}.items():
    found = read_image([Path(path)]).array
    assert abs(found.sum(dtype=float) - total) < 1e-6, path
try:
    read_image([Path({str(tmp_path / "deep.tif")!r})])
except DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "compressed with LZW, which needs the package imagecodecs; install it, or save" in done.stdout


# Sizes described by headers


def tiff(width: int, height: int, *, compression: int = 1, count: int = 10, offset: int = 200, bits: int = 8) -> bytes:
    """A little-endian TIFF of one strip with the given tags."""
    tags = [(256, width), (257, height), (258, bits), (259, compression), (262, 1), (273, offset), (277, 1)]
    tags += [(278, height), (279, count)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0" * 4
    return head.ljust(offset, b"\0")


def chunks(parts: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG with these chunks, given as name and content."""
    every = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(every)


def png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return chunks([(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b"")])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("huge.tif", tiff(60_000, 60_000) + b"\0" * 10),
        ("deflated.tif", tiff(30_000, 30_000, compression=8) + b"\0" * 10),
        ("largest.tif", tiff(2**32 - 1, 2**32 - 1) + b"\0" * 10),
        ("beyond.tif", tiff(10, 10, count=100, offset=900)[:210]),
        ("short.tif", tiff(100, 100) + b"\0" * 10),
        ("empty.tif", tiff(100, 100, compression=8, count=0)),
        ("none.tif", tiff(0, 0)),
        ("huge.png", png(9_000, 9_000)),
        ("largest.png", png(2**31 - 1, 2**31 - 1)),
        (
            "huge.bmp",
            b"BM"
            + struct.pack("<IHHI", 154, 0, 0, 54)
            + struct.pack("<IiiHHIIiiII", 40, 9000, 9000, 1, 24, 0, 0, 0, 0, 0, 0)
            + b"\0" * 100,
        ),
    ],
)
def test_a_picture_that_claims_more_than_it_holds_is_refused_at_once(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    for read in (lambda: read_image([tmp_path / name]), lambda: read_label(tmp_path / name)):
        with pytest.raises(DataError) as error:
            read()
        assert str(error.value).startswith(str(tmp_path / name))


def claiming(content: bytes, kind: str, width: int, height: int) -> bytes:
    """Change the size in the header of a picture and keep its pixels."""
    changed = bytearray(content)
    if kind == "png":
        struct.pack_into(">2I", changed, 16, width, height)
        struct.pack_into(">I", changed, 29, zlib.crc32(bytes(changed[12:29])))
    elif kind == "bmp":
        struct.pack_into("<2i", changed, 18, width, height)
    else:
        (directory,) = struct.unpack_from("<I", changed, 4)
        for entry in range(struct.unpack_from("<H", changed, directory)[0]):
            place = directory + 2 + 12 * entry
            tag, form = struct.unpack_from("<HH", changed, place)
            if tag in (256, 257):
                struct.pack_into("<H" if form == 3 else "<I", changed, place + 8, width if tag == 256 else height)
    return bytes(changed)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (39, 15), (40, 15), (8, 16), (15, 16)])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
@pytest.mark.parametrize("kind", ["png", "bmp", "tif", "zlib.tif"])
def test_a_picture_that_holds_more_than_it_claims_is_refused(
    tmp_path: Path, kind: str, mode: str, width: int, height: int
) -> None:
    path = tmp_path / f"a.{kind}"
    options = {"compression": "tiff_adobe_deflate"} if kind == "zlib.tif" else {}
    PIL.Image.fromarray(random((16, 40))).convert(mode).save(path, **options)
    read_image([path])
    path.write_bytes(claiming(path.read_bytes(), kind, width, height))
    for read in (lambda: read_image([path]), lambda: read_label(path)):
        with pytest.raises(DataError, match="copy or export it again"):
            read()


@pytest.mark.parametrize("compression", [None, "zlib", "packbits"])
@pytest.mark.parametrize("layout", [{"rowsperstrip": 8}, {"tile": (16, 16)}], ids=["strips", "tiles"])
def test_a_tiff_with_more_strips_or_tiles_than_it_claims_is_refused(
    tmp_path: Path, layout: dict[str, Any], compression: str | None
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, random((64, 64)), compression=compression, metadata=None, **layout)
    read_image([path])
    path.write_bytes(claiming(path.read_bytes(), "tif", 64, 16))
    with pytest.raises(DataError, match=r"has \d+ strips or tiles, but its header describes \d+\); .*export it again"):
        read_image([path])


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (13, 5), (70, 33)])
@pytest.mark.parametrize(("color", "bits", "samples"), [(0, 1, 1), (3, 2, 1), (0, 4, 1), (2, 8, 3), (6, 16, 4)])
def test_an_interlaced_png_is_read(tmp_path: Path, color: int, bits: int, samples: int, size: tuple[int, int]) -> None:
    width, height = size
    # each of the seven passes has its own rows; a pass without columns has no rows
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    sizes = [(len(range(x, width, dx)), len(range(y, height, dy))) for x, y, dx, dy in passes]
    rows = b"".join((b"\0" + bytes(-(-w * bits * samples // 8))) * h for w, h in sizes if w)
    palette = [(b"PLTE", bytes(12))] if color == 3 else []
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 1)
    path = tmp_path / "a.png"
    path.write_bytes(chunks([(b"IHDR", header), *palette, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]))
    assert read_image([path]).array.shape[1:] == (height, width)
    path.write_bytes(chunks([(b"IHDR", header), *palette, (b"IDAT", zlib.compress(rows + b"\0")), (b"IEND", b"")]))
    with pytest.raises(DataError, match="more than the"):
        read_image([path])


def test_what_other_programs_append_to_a_bmp_is_not_pixels(tmp_path: Path) -> None:
    array = random((5, 7))
    path = tmp_path / "a.bmp"
    PIL.Image.fromarray(array).save(path)
    content = path.read_bytes()
    path.write_bytes(content + b"\0\0")  # Photoshop aligns files like this
    assert_read(path, array)
    path.write_bytes(content + b"further")
    assert_read(path, array)
    # header version 5, with a colour profile after the pixels
    (offset,) = struct.unpack_from("<I", content, 10)
    profile = struct.pack("<II", len(content) + 84 - 14, 128)
    header = struct.pack("<I", 124) + content[18:54] + bytes(72) + profile + bytes(4)
    start = b"BM" + struct.pack("<IHHI", len(content) + 84 + 128, 0, 0, offset + 84)
    path.write_bytes(start + header + content[54:] + bytes(128))
    assert_read(path, array)


def test_a_strip_that_unfolds_to_more_than_the_picture_is_refused(tmp_path: Path) -> None:
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    content = tiff(2000, 100, compression=8, count=len(bomb)) + bomb
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(DataError, match="more than the 200,000 bytes of pixels"):
        read_image([tmp_path / "a.tif"])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_a_picture_larger_than_the_free_memory_is_refused(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    PIL.Image.fromarray(random((16, 24))).save(tmp_path / f"a{suffix}")
    monkeypatch.setattr("psutil.virtual_memory", type("Memory", (), {"available": 100}))
    with pytest.raises(DataError, match=r"needs 0\.0 GB of memory, but only 0\.0 GB are free; crop or resample it"):
        read_image([tmp_path / f"a{suffix}"])


def test_a_large_empty_picture_is_no_bomb(tmp_path: Path) -> None:
    array = np.zeros((6000, 6000), np.uint8)
    PIL.Image.fromarray(array).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", array, compression="zlib")
    for name in ("a.png", "a.tif"):
        assert read_label(tmp_path / name).shape == array.shape


def test_animations_and_other_formats_under_a_known_ending_are_refused(tmp_path: Path) -> None:
    frames = [PIL.Image.fromarray(random((4, 4)) // k) for k in (1, 2, 3)]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"moving\.png: is an animation of 3 frames"):
        read_image([tmp_path / "moving.png"])
    frames[0].save(tmp_path / "a.gif")
    (tmp_path / "a.gif").rename(tmp_path / "gif.png")
    with pytest.raises(DataError, match=r"gif\.png: cannot be read"):
        read_image([tmp_path / "gif.png"])


def test_a_tiff_under_the_ending_of_another_picture_is_read_as_what_it_is(tmp_path: Path) -> None:
    array = random((5, 7, 4), np.uint16)
    tifffile.imwrite(tmp_path / "a.png", array, photometric="rgb", extrasamples=["unspecified"])
    assert_read(tmp_path / "a.png", array)


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_picture_that_is_cut_off_is_never_read_in_part(tmp_path: Path, suffix: str, cut: float) -> None:
    path = tmp_path / f"a{suffix}"
    array = random((64, 64, 3), np.uint16)
    if suffix == ".tif":
        tifffile.imwrite(path, array, photometric="rgb", compression="zlib", rowsperstrip=8)
    else:
        path.write_bytes(imagecodecs.png_encode(array))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(DataError, match="copy or export it again"):
        read_image([path])


@pytest.mark.parametrize("read", [lambda path: read_image([path]), read_label])
def test_a_png_whose_pixels_do_not_match_their_checksum_is_refused(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    path = tmp_path / "mask.png"
    PIL.Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path, compress_level=0)
    read(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"its chunk b'IDAT' does not match its checksum; copy or export it again"):
        read(path)
