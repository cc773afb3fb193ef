"""Kinds of input: image and label files."""
# a branch for each mutation
# ruff: noqa: PLR0912, PLR0915

import gzip
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import tifffile
from numpy.typing import NDArray

from fuzzing.mutations import Rng, cut, flip, garbled, pick
from fuzzing.plain_nifti import NoNiftiError, read_plain
from fuzzing.sandbox import Trial
from scse.data.files import read_image, read_label

SHAPE = (7, 6, 5)
AFFINE = np.array([[-1.5, 0, 0, 9.0], [0, 2.0, 0.25, -7.0], [0, -0.2, 2.5, 4.0], [0, 0, 0, 1]])
BOMB_PIECE = 1 << 26

FIELDS: dict[str, tuple[int, str, int]] = {
    "sizeof_hdr": (0, "i", 1),
    "extents": (32, "i", 1),
    "dim_info": (39, "B", 1),
    "dim": (40, "h", 8),
    "intent_p": (56, "f", 3),
    "intent_code": (68, "h", 1),
    "datatype": (70, "h", 1),
    "bitpix": (72, "h", 1),
    "slice_start": (74, "h", 1),
    "pixdim": (76, "f", 8),
    "vox_offset": (108, "f", 1),
    "scl_slope": (112, "f", 1),
    "scl_inter": (116, "f", 1),
    "slice_end": (120, "h", 1),
    "slice_code": (122, "B", 1),
    "xyzt_units": (123, "B", 1),
    "cal": (124, "f", 2),
    "toffset": (136, "f", 1),
    "qform_code": (252, "h", 1),
    "sform_code": (254, "h", 1),
    "quatern": (256, "f", 3),
    "qoffset": (268, "f", 3),
    "srow": (280, "f", 12),
    "magic": (344, "B", 4),
    "extension": (348, "B", 4),
}
WEIGHTY = ("dim", "datatype", "vox_offset", "scl_slope", "scl_inter", "srow", "quatern", "pixdim", "qform_code")
VALUES: dict[str, list[float]] = {
    "h": [0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 64, 128, 255, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 32767, -1, -32768],
    "i": [0, 1, 347, 348, 349, 540, -1, 2**31 - 1, 348 << 16],
    "B": [0, 1, 2, 10, 43, 49, 50, 105, 110, 127, 128, 255],
    "f": [0, 1, -1, 0.5, 2, 348, 352, 353, 368, 1e-30, -1e-3, 1e30, 3.4e38, 1e10, np.nan, np.inf, -np.inf],
}


def volume(rng: Rng, dtype: str = "i2", shape: tuple[int, ...] = SHAPE) -> NDArray[Any]:
    """Whole numbers that every voxel type holds."""
    return rng.integers(0, 100, shape).astype(dtype)


def nifti(array: NDArray[Any], affine: NDArray[np.float64] = AFFINE, *, form: Any = nib.Nifti1Image) -> bytes:
    """A NIfTI file without scaling."""
    image = form(array, affine, dtype=array.dtype)
    image.header.set_slope_inter(1, 0)
    content: bytes = image.to_bytes()
    return content


def same_image(found: Any, array: NDArray[Any], affine: NDArray[np.float64] | None) -> str | None:
    """How an image as scse read it differs from voxels (*spatial, channels) and affine; None if it does not."""
    voxels = found.array if found.is_label else np.moveaxis(found.array, 0, -1)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = np.squeeze(array).astype(np.float32)
    if np.squeeze(voxels).shape != expected.shape:
        return f"read as shape {voxels.shape}, there is {array.shape}"
    # labels that are stored as floats may be a thousandth off
    off = 1e-3 if found.is_label else 0.0
    if not np.allclose(np.squeeze(voxels).astype(np.float32), expected, rtol=1e-5, atol=off, equal_nan=True):
        return "the voxels differ from what another reader reads"
    if affine is not None and not np.allclose(
        found.affine, affine, rtol=1e-4, atol=1e-4 * np.abs(affine[:3, :3]).max()
    ):
        return f"affine {found.affine.tolist()} instead of {affine.tolist()}"
    return None


def _reader(rng: Rng) -> tuple[str, Callable[[Path], Any]]:
    return pick(rng, [("image", lambda path: read_image([path])), ("label", read_label)])


def _judged_by_plain_reader(content: bytes, *, checked: bool = True) -> Callable[[Any], str | None]:
    """Compares with the second reader; where the standard gives the bytes no meaning, they must not be read."""

    def wrong(found: Any) -> str | None:
        try:
            array, affine = read_plain(content)
        except NoNiftiError as reason:
            return f"read, but the standard gives it no meaning ({reason})" if checked else None
        return same_image(found, array, affine)

    return wrong


def nifti_header(rng: Rng, folder: Path) -> Trial:
    """One to three header fields with other values."""
    content = bytearray(nifti(volume(rng, pick(rng, ["u1", "i2", "f4", "f8"]))))
    told = []
    for _ in range(int(rng.integers(1, 4))):
        name = pick(rng, WEIGHTY) if rng.random() < 0.6 else pick(rng, FIELDS)
        place, kind, count = FIELDS[name]
        place += int(rng.integers(count)) * struct.calcsize(kind)
        value = pick(rng, VALUES[kind])
        struct.pack_into(f"<{kind}", content, place, value if kind == "f" else int(value))
        told.append(f"{name}@{place}={value:g}")
    return _of_bytes(rng, folder, "header: " + ", ".join(told), bytes(content))


def nifti_bytes(rng: Rng, folder: Path) -> Trial:
    """Bytes flipped, cut, put in or left out of an uncompressed file."""
    whole = nifti(volume(rng, pick(rng, ["u1", "i2", "f4"])), form=pick(rng, [nib.Nifti1Image, nib.Nifti2Image]))
    told, content = garbled(rng, whole)
    return _of_bytes(rng, folder, told, content)


def _of_bytes(rng: Rng, folder: Path, told: str, content: bytes) -> Trial:
    name = pick(rng, ["scan.nii", "scan.nii.gz"])
    reader, read = _reader(rng)
    path = folder / name
    path.write_bytes(gzip.compress(content, 1) if name.endswith("gz") else content)
    return Trial(f"{told} ({name}, {reader})", lambda: read(path), [str(path)], wrong=_judged_by_plain_reader(content))


def nifti_gzip(rng: Rng, folder: Path) -> Trial:
    """Damage to a compressed file, whose checksum must tell."""
    whole = nifti(volume(rng))
    packed = gzip.compress(whole, int(rng.integers(0, 10)), mtime=0)
    what = pick(
        rng, ["flip", "flip", "cut", "crc", "length", "garbled", "not gzip", "two members cut", "garbage after"]
    )
    must: Any = "either"
    if what == "flip":
        content = flip(rng, packed, start=10)
    elif what == "cut":
        content, must = cut(rng, packed), "refuse"
    elif what in ("crc", "length"):
        start = len(packed) - (8 if what == "crc" else 4)
        content, must = flip(rng, packed, start=start, stop=start + 4, most=1), "refuse"
    elif what == "garbled":
        told, content = garbled(rng, packed)
        what = f"garbled, {told}"
    elif what == "not gzip":
        content = whole
    elif what == "two members cut":
        content, must = gzip.compress(whole[:400], mtime=0) + cut(rng, gzip.compress(whole[400:], mtime=0)), "refuse"
    else:
        content = packed + rng.bytes(20)
    path = folder / "scan.nii.gz"
    path.write_bytes(content)

    # any accepted file must hold the voxels that were packed, since a checksum protects them
    def wrong(found: Any) -> str | None:
        return same_image(found, *read_plain(whole))

    return Trial(f"gzip: {what}", lambda: read_image([path]), [str(path)], must=must, wrong=wrong)


def nifti_same(rng: Rng, folder: Path) -> Trial:
    """Another way to write the same image."""
    array = volume(rng)
    content, name, must = nifti(array), "scan.nii.gz", "accept"
    level: int | None = 6
    what = pick(
        rng,
        [
            "level",
            "big endian",
            "dtype",
            "slope",
            "extension",
            "singleton",
            "NIfTI-2",
            "upper case",
            "members",
            "qform",
            "description",
            "gzip name",
            "bitpix",
            "trailing zeros",
            "offset",
            "uncompressed",
            "text fields",
            "negative slope",
        ],
    )
    if what == "level":
        level = int(rng.integers(0, 10))
    elif what == "big endian":
        image = nib.Nifti1Image(array.astype(">i2"), AFFINE, nib.Nifti1Header(endianness=">"))
        content = image.to_bytes()
    elif what == "dtype":
        content = nifti(array.astype(pick(rng, ["u1", "i1", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])))
    elif what in ("slope", "negative slope"):
        slope, inter = float(pick(rng, [0.5, 2.0, 0.25])), float(pick(rng, [0.0, -3.0, 10.0]))
        slope = -slope if what == "negative slope" else slope
        changed = bytearray(nifti(((array - inter) / slope).astype("f4")))
        struct.pack_into("<2f", changed, 112, slope, inter)
        content = bytes(changed)
    elif what in ("extension", "description", "text fields"):
        image = nib.Nifti1Image(array, AFFINE)
        if what == "extension":
            for _ in range(int(rng.integers(1, 4))):
                image.header.extensions.append(nib.nifti1.Nifti1Extension(6, rng.bytes(int(rng.integers(1, 200)))))
        image.header["descrip"] = rng.bytes(20)
        image.header["aux_file"] = rng.bytes(10)
        image.header["intent_name"] = b"\xff\xfe name"
        content = image.to_bytes()
    elif what == "singleton":
        content = nifti(array.reshape(*SHAPE, *[1] * int(rng.integers(1, 5))))
    elif what == "NIfTI-2":
        content = nifti(array, form=nib.Nifti2Image)
    elif what == "upper case":
        name = pick(rng, ["SCAN.NII.GZ", "scan.Nii.Gz", "scan.nii.GZ"])
    elif what == "qform":
        affine = np.diag([-1.5, 2.0, 2.5, 1.0])
        image = nib.Nifti1Image(array, None)
        image.set_qform(affine, 1)
        image.set_sform(None, 0)
        content = image.to_bytes()
    elif what in ("bitpix", "offset"):
        changed = bytearray(content)
        if what == "bitpix":
            struct.pack_into("<h", changed, 72, int(pick(rng, [8, 16])))
        else:
            more = 16 * int(rng.integers(1, 20))
            struct.pack_into("<f", changed, 108, 352.0 + more)
            changed[352:352] = bytes(more)
        content = bytes(changed)
    elif what == "trailing zeros":
        content += bytes(int(rng.integers(1, 5000)))
        must = "either"
    elif what == "uncompressed":
        name, level = "scan.nii", None
    expected, affine = read_plain(content)
    if what == "members":
        place = int(rng.integers(1, len(content)))
        packed = gzip.compress(content[:place]) + gzip.compress(content[place:])
    elif what == "gzip name":
        buffer = io.BytesIO()
        with gzip.GzipFile("another name.nii", "wb", fileobj=buffer, mtime=1) as file:
            file.write(content)
        packed = buffer.getvalue()
    else:
        packed = content if level is None else gzip.compress(content, level)
    path = folder / name
    path.write_bytes(packed)
    reader, read = _reader(rng)

    def wrong(found: Any) -> str | None:
        return same_image(found, array, affine) or same_image(found, expected, affine)

    return Trial(f"same: {what} ({reader})", lambda: read(path), [str(path)], must=must, wrong=wrong)  # type: ignore[arg-type]


def nifti_size(rng: Rng, folder: Path) -> Trial:
    """Headers that claim more than there is, and compressed files that hold far more than they should."""
    content = bytearray(nifti(volume(rng, pick(rng, ["u1", "i2", "f8"]))))
    what = pick(
        rng,
        [
            "claim",
            "claim",
            "claim",
            "claim zeros",
            "claim zeros",
            "bomb",
            "NIfTI-2 claim",
            "extension claim",
            "offset claim",
        ],
    )
    claimed = [int(pick(rng, [1, 2, 1000, 5000, 32767])) for _ in range(int(rng.integers(1, 8)))]
    packed: bytes | None = None
    if what in ("claim", "claim zeros"):
        claimed[0] = 32767
        struct.pack_into(f"<{1 + len(claimed)}h", content, 40, len(claimed), *claimed)
        if what == "claim zeros":
            content += bytes(1 << 20)
    elif what == "bomb":
        packed = gzip.compress(bytes(content)) + bomb(40)
    elif what == "NIfTI-2 claim":
        content = bytearray(nifti(volume(rng), form=nib.Nifti2Image))
        size = int(pick(rng, [2**20, 2**31, 2**40, 2**62]))
        struct.pack_into("<4q", content, 16, 3, size, int(pick(rng, [1, 2, size])), 1)
    elif what == "extension claim":
        content[348] = 1
        content[352:352] = struct.pack("<2i", int(pick(rng, [2**31 - 16, -16, 0, 8, 2**30])), 6) + bytes(8)
        struct.pack_into("<f", content, 108, float(pick(rng, [352, 368, 2**31])))
    else:
        struct.pack_into("<f", content, 108, float(pick(rng, [2.0**31, 2.0**62, 1e30, -352])))
    name = "scan.nii.gz" if packed or rng.random() < 0.5 else "scan.nii"
    path = folder / name
    path.write_bytes(packed or (gzip.compress(bytes(content)) if name.endswith("gz") else content))
    reader, read = _reader(rng)
    judged = (lambda found: None) if packed else _judged_by_plain_reader(bytes(content))
    return Trial(f"size: {what} {claimed} ({name}, {reader})", lambda: read(path), [str(path)], wrong=judged)


_BOMB: list[bytes] = []


def bomb(pieces: int) -> bytes:
    """Gzip members of 64 MiB of zeros each."""
    if not _BOMB:
        _BOMB.append(gzip.compress(bytes(BOMB_PIECE), 6, mtime=0))
    return _BOMB[0] * pieces


MODES = ("L", "RGB", "P", "1", "LA", "RGBA", "I;16", "CMYK", "F")
FORMATS: dict[str, tuple[str, ...]] = {
    "PNG": ("L", "RGB", "P", "1", "LA", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "TIFF": ("L", "RGB", "P", "1", "LA", "RGBA", "I;16", "CMYK", "F"),
    "BMP": ("L", "RGB", "P", "1"),
}
ENDING = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "BMP": ".bmp"}


def grey(rng: Rng) -> NDArray[np.uint8]:
    """A picture (12, 14) of a few values."""
    return (rng.integers(0, 4, (12, 14)) * 60).astype(np.uint8)


def saved(picture: PIL.Image.Image, form: str, **options: Any) -> bytes:
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    picture.save(buffer, format=form, **options)
    return buffer.getvalue()


def of_mode(array: NDArray[np.uint8], mode: str) -> PIL.Image.Image:
    """A grey picture in another mode."""
    if mode == "I;16":
        return PIL.Image.fromarray(array.astype(np.uint16) * 257)
    if mode == "1":
        return PIL.Image.fromarray((array > 90).astype(np.uint8) * 255).convert("1")
    return PIL.Image.fromarray(array).convert(mode)


def picture_bytes(rng: Rng, folder: Path) -> Trial:
    """Damaged picture files of all formats and modes; what a checksum protects must not change."""
    form = pick(rng, FORMATS)
    mode = pick(rng, FORMATS[form])
    options = {"compress_level": int(rng.integers(0, 10))} if form == "PNG" else {}
    whole = saved(of_mode(grey(rng), mode), form, **options)
    told, content = garbled(rng, whole)
    path = folder / f"picture{ENDING[form]}"
    path.write_bytes(content)
    reader, read = _reader(rng)
    whole_path = folder.parent / f"{folder.name}-whole{ENDING[form]}"
    wrong: Callable[[Any], str | None] = lambda found: None  # noqa: E731
    if form == "PNG" and not png_sound(content):
        # which checksums fail is known without Pillow: then other pixels than the whole file's are not to be believed

        def wrong(found: Any) -> str | None:
            whole_path.write_bytes(whole)
            try:
                same = np.array_equal(found.array, read(whole_path).array)
            except ValueError:
                same = False
            whole_path.unlink()
            return None if same else "pixels changed under a checksum that fails, and were read"

    return Trial(f"{form} {mode} {told} ({reader})", lambda: read(path), [str(path)], wrong=wrong)


def png_sound(content: bytes) -> bool:
    """Whether all chunks of a PNG are whole and their checksums hold."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return False
    place = 8
    while place + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, place)
        end = place + 12 + length
        if (
            end > len(content)
            or zlib.crc32(content[place + 4 : end - 4]) != struct.unpack_from(">I", content, end - 4)[0]
        ):
            return False
        if name == b"IEND":
            return True
        place = end
    return False


STACKS: tuple[dict[str, Any], ...] = (
    {"metadata": None},
    {"metadata": {"axes": "ZYX"}},
    {"imagej": True, "metadata": {"axes": "ZYX", "spacing": 2.0, "unit": "um"}, "resolution": (4, 2)},
    {"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0}},
    {"imagej": True, "metadata": {"axes": "ZCYX"}},
    {"ome": True, "metadata": {"axes": "CZYX"}},
    {"bigtiff": True, "compression": "zlib"},
    {"truncate": True},
)


def stack_bytes(rng: Rng, folder: Path) -> Trial:
    """Damaged TIFF stacks: plain, ImageJ, OME, of channels, and with one header for all pages."""
    options = pick(rng, STACKS)
    shape = (4, 2, 5, 7) if len((options.get("metadata") or {}).get("axes", "")) == 4 else (4, 5, 7)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, rng.integers(0, 4, shape).astype(np.uint8), photometric="minisblack", **options)
    told, content = garbled(rng, buffer.getvalue())
    path = folder / f"stack{pick(rng, ['.tif', '.ome.tif'])}"
    path.write_bytes(content)
    reader, read = _reader(rng)
    return Trial(f"stack {options} {told} ({reader})", lambda: read(path), [str(path)])


def picture_same(rng: Rng, folder: Path) -> Trial:
    """Another way to write the same picture."""
    array = grey(rng)
    picture = PIL.Image.fromarray(array)
    form, options, name = "PNG", {}, "picture.png"
    what = pick(
        rng,
        [
            "level",
            "alpha",
            "grey as RGB",
            "palette",
            "TIFF compression",
            "TIFF big endian",
            "BMP",
            "upper case",
            "text",
            "EXIF upright",
            "EXIF turned",
            "wrong ending",
            "16 bits",
            "interlaced",
            "resolution",
        ],
    )
    reader, read = _reader(rng)
    must: Any = "accept"
    if what == "level":
        options = {"compress_level": int(rng.integers(0, 10))}
    elif what == "alpha":
        alpha = PIL.Image.fromarray(rng.integers(0, 256, array.shape).astype(np.uint8))
        picture = PIL.Image.merge("LA", [picture, alpha])
    elif what == "grey as RGB":
        picture, must = picture.convert("RGB"), "either"
    elif what == "palette":
        indexed = PIL.Image.fromarray(array, mode="P")
        indexed.putpalette([value for index in range(256) for value in (index, index, index)])
        picture, must = indexed, "either"
    elif what == "TIFF compression":
        form, name = "TIFF", "picture.tiff"
        options = {"compression": pick(rng, ["tiff_lzw", "tiff_adobe_deflate", "packbits", "raw", "zstd"])}
    elif what == "TIFF big endian":
        form, name = "TIFF", "picture.tif"
        picture = PIL.Image.frombytes("I;16B", picture.size, array.astype(">u2").tobytes())
    elif what == "BMP":
        form, name = "BMP", "picture.bmp"
    elif what == "upper case":
        name = pick(rng, ["PICTURE.PNG", "picture.Png"])
    elif what == "text":
        information = PIL.PngImagePlugin.PngInfo()
        information.add_text("Comment", "a" * int(rng.integers(1, 5000)), zip=rng.random() < 0.5)
        options = {"pnginfo": information}
    elif what in ("EXIF upright", "EXIF turned"):
        orientation = 1 if what == "EXIF upright" else int(rng.integers(2, 9))
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        options = {"exif": exif}
        picture = PIL.Image.fromarray(_stored(array, orientation))
        must = "accept" if orientation == 1 else "either"
        if rng.random() < 0.5:
            form, name = "TIFF", "picture.tif"
    elif what == "wrong ending":
        name, must = pick(rng, ["picture.bmp", "picture.tif", "picture.jpg"]), "either"
    elif what == "16 bits":
        picture = PIL.Image.fromarray(array.astype(np.uint16))
    elif what == "resolution":
        options = {"dpi": (int(rng.integers(1, 600)), 72)}
    path = folder / name
    path.write_bytes(saved(picture, form, **options))

    def wrong(found: Any) -> str | None:
        voxels = found.array if found.is_label else np.moveaxis(found.array, 0, -1)
        grey_voxels = voxels[..., 0] if voxels.ndim == 3 else voxels
        if voxels.ndim == 3 and (voxels != grey_voxels[..., None]).any():
            return "colours in a grey picture"
        return None if np.array_equal(grey_voxels, array) else "other pixels than those of the picture"

    return Trial(f"same: {what} ({name}, {reader})", lambda: read(path), [str(path)], must=must, wrong=wrong)


def _stored(array: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The pixels that a viewer turns into `array` by this EXIF orientation."""
    undo: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(undo[orientation](array))


def picture_size(rng: Rng, folder: Path) -> Trial:
    """Pictures that claim huge sizes, hold several pages, or unpack to far more than they are."""
    what = pick(
        rng, ["PNG claim", "BMP claim", "TIFF claim", "pages", "animated", "PNG bomb", "text bomb", "truncated"]
    )
    array, name = grey(rng), "picture.png"
    width, height = (int(pick(rng, [1, 30_000, 60_000, 2**31 - 1, 0])) for _ in range(2))
    must: Any = "either"
    if what == "PNG claim":
        content = bytearray(saved(PIL.Image.fromarray(array), "PNG"))
        struct.pack_into(">2I", content, 16, width, height)
        struct.pack_into(">I", content, 29, zlib.crc32(bytes(content[12:29])))
        must = "refuse"
    elif what == "BMP claim":
        content, name = bytearray(saved(PIL.Image.fromarray(array), "BMP")), "picture.bmp"
        struct.pack_into("<2i", content, 18, width, height)
        must = "refuse"
    elif what == "TIFF claim":
        content, name = bytearray(saved(PIL.Image.fromarray(array), "TIFF")), "picture.tif"
        (directory,) = struct.unpack_from("<I", content, 4)
        (count,) = struct.unpack_from("<H", content, directory)
        for entry in range(count):
            place = directory + 2 + 12 * entry
            if struct.unpack_from("<H", content, place)[0] in (256, 257, 273, 278, 279) and rng.random() < 0.6:
                struct.pack_into("<I", content, place + 8, int(pick(rng, [0, 1, 60_000, 2**31 - 1, 2**32 - 1])))
    elif what in ("pages", "animated"):
        form, name = ("TIFF", "picture.tif") if what == "pages" else ("PNG", "picture.png")
        others = [PIL.Image.fromarray(grey(rng)) for _ in range(int(rng.integers(1, 5)))]
        content = bytearray(saved(PIL.Image.fromarray(array), form, save_all=True, append_images=others))
    elif what == "PNG bomb":
        side = int(pick(rng, [12_000, 20_000, 40_000]))
        content = bytearray(_png_of_zeros(side, side))
    elif what == "text bomb":
        content = bytearray(saved(PIL.Image.fromarray(array), "PNG"))
        text = b"zTXt" + b"Comment\0\0" + zlib.compress(bytes(1 << 28))
        content[33:33] = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    else:
        content = bytearray(cut(rng, saved(PIL.Image.fromarray(array), "PNG", compress_level=0), start=1))
        must = "refuse" if len(content) < 12 * 14 else "either"
    path = folder / name
    path.write_bytes(content)
    reader, read = _reader(rng)
    return Trial(f"{what} {width} x {height} ({reader})", lambda: read(path), [str(path)], must=must)


def _png_of_zeros(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    packer = zlib.compressobj(1)
    row = bytes(width + 1) * 100
    pixels = b"".join(packer.compress(row) for _ in range(height // 100)) + packer.flush()
    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
