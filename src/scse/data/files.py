"""Reading and writing of single image and label files: volumes and pictures."""

import gzip
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import PIL.Image
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from scse.data.endings import ENDINGS, ITK, LOSSY, MGH, NIFTI, TIFF, VOLUMES, ending
from scse.data.file_errors import FileError
from scse.data.itk import Geometry, write_itk
from scse.data.pictures import read_picture
from scse.data.raw_volumes import Rounding
from scse.data.tiff_stacks import TiffVolume, write_stack
from scse.data.volumes import Volume, is_volume, is_volume_file, open_file, open_volume, read_floats
from scse.support.atomic import open_atomic, write_atomic
from scse.support.errors import UserError

MAP_STEPS = 2**15  # steps between 0 and 1 in map files: a power of 2, whose inverse is exact in a float32 header
AFFINE_TOLERANCE = 1e-3  # allowed difference per entry of the affine, as a fraction of the smallest voxel side
PART = 1 << 16  # number of values rounded at a time


@dataclass(frozen=True, slots=True)
class Image:
    """Voxels of an image or a label map, and their position in space.

    Attributes:
        array: Voxels: (C, *spatial) float32 of an image, (*spatial) integers of a label map.
        affine: Affine (4, 4) from voxel index to mm, for volumes; None for pictures.
        is_label: Whether `array` is a label map, which has no channel axis.
        is_sized: Whether the file gives the lengths of voxels. A TIFF stack need not; its voxels are taken as 1 mm.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64] | None
    is_label: bool = False
    is_sized: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each spatial axis."""
        return self.array.shape if self.is_label else self.array.shape[1:]

    @property
    def spacing(self) -> tuple[float, ...]:
        """Millimetres per voxel along each spatial axis, from the affine; 1.0 each without an affine."""
        if self.affine is None:
            return (1.0,) * len(self.shape)
        # header floats have 32 bits, about 7 digits: without rounding, 0.8 mm would print as 0.800000011920929
        return tuple(float(f"{size:.7g}") for size in voxel_sizes(self.affine)[: len(self.shape)])

    @property
    def orientation(self) -> str | None:
        """Directions of the axes, such as "LAS" (left, anterior, superior); None without an affine."""
        if self.affine is None:
            return None
        return "".join(code or "?" for code in nib.aff2axcodes(self.affine))[: len(self.shape)]


def read_image(paths: Sequence[Path]) -> Image:
    """Read an image of one or more channels.

    Args:
        paths: One file, which may contain several channels (4D NIfTI, vectors of NRRD and MetaImage, TIFF stack, RGB
            picture), or several files, whose channels are concatenated. A file of a DICOM series stands for all of its
            slices.

    Returns:
        The image (C, *spatial) as float32: a volume in its stored axis order and orientation, a picture (C, H, W) in
        the orientation in which it is displayed (EXIF, TIFF). Alpha is dropped.

    Raises:
        DataError: A file cannot be read, or the files differ in shape or affine.
        UserError: `paths` is empty.
    """
    if not paths:
        raise UserError("read_image needs at least one path, got none")
    if all(is_volume(path) for path in paths):
        volumes = [open_volume(path) for path in paths]
        for volume in volumes:
            volume.check_length()
        # compare the headers before any voxel is read
        outlines = [outline(one.channel_shape, one.affine, is_sized=_is_sized(one)) for one in volumes]
        _check_geometry(paths, outlines)
        return replace(outlines[0], array=read_floats(volumes))
    images = [read_image([path]) if is_volume(path) else _read_pixels(path) for path in paths]
    _check_geometry(paths, images)
    return images[0] if len(images) == 1 else Image(np.concatenate([image.array for image in images]), None)


def read_label(path: Path, *, colors: Mapping[int, tuple[int, int, int]] | None = None) -> Image:
    """Read a label map.

    Args:
        path: Volume or picture. For a picture with a palette, the indices are read, not the colours.
        colors: (red, green, blue) of each label value of a colour mask; None for an index mask.

    Returns:
        The label map (*spatial) as integers: a volume in its stored orientation, a picture (H, W) in the orientation
        in which it is displayed. Values stored as floats or scaled may differ from whole numbers by 0.001.

    Raises:
        DataError: The file cannot be read, or it contains values that are not whole numbers or colours that are not in
            `colors`.
    """
    if is_volume_file(path):
        volume = open_file(path)
        if volume.map_shape is None or colors is not None:
            wanted = (
                "an RGB picture, since labels.csv lists colours"
                if colors
                else "one map of 2 or 3 axes, with one number a voxel"
            )
            raise FileError(path, "unreadable", f"the label has shape {volume.shape}; it must be {wanted}")
        return Image(volume.read_whole_numbers(), volume.affine, is_label=True, is_sized=_is_sized(volume))
    _check_ending(path)
    if colors is not None:
        return Image(_index_colors(path, read_picture(path, "colors"), colors), None, is_label=True)
    array = read_picture(path, "indices")
    if array.ndim == 3:
        if array.shape[-1] != 3:
            found = f"has {array.shape[-1]} channels, but a label map has 1"
            raise FileError(path, "unreadable", f"{found}; export it with one channel")
        if (array != array[..., :1]).any():
            remedy = "list its colours in labels.csv (name,r,g,b), or save it as an index mask"
            raise FileError(path, "colors", f"is a colour mask, but no labels.csv lists its colours; {remedy}")
        array = array[..., 0]
    return Image(_whole_numbers(path, array), None, is_label=True)


def write_label(
    path: Path,
    array: NDArray[Any],
    *,
    like: Path | None = None,
    affine: NDArray[np.float64] | None = None,
) -> None:
    """Write a label map atomically, in the smallest integer type that fits its values.

    Args:
        path: Output file; its ending selects NIfTI, MGH, MetaImage (.mha), NRRD (.nrrd), PNG, TIFF or BMP. Pictures are
            written as index masks, volumes under the ending of TIFF as OME-TIFF stacks.
        array: Label map (*spatial) of integers or booleans, in stored orientation.
        like: Volume whose geometry is copied to a written volume; of a file of the same format, the header is copied
            with it, such as NIfTI's q-form, s-form and units.
        affine: Affine (4, 4) of a written volume without `like`; by default the identity, or none in a stack.

    Raises:
        UserError: The array is not a label map, does not fit `like`, or cannot be stored in the format.
        DataError: `like` cannot be read.
    """
    if array.dtype.kind not in "biu":
        raise UserError(f"a label map must have integer values, got {array.dtype}; round it first")
    if like is not None and affine is not None:
        raise UserError("give write_label either like= or affine=, not both")
    compact = _compact(array)
    kind = ending(path.name)
    if kind in VOLUMES or (kind in TIFF and compact.ndim == 3):
        _write_volume(path, compact, like, affine, level=6)
    elif affine is not None:
        raise UserError(f"{path.name}: a picture cannot store an affine; write .nii.gz, or omit affine")
    else:
        write_atomic(path, _picture_bytes(path, compact))


def write_map(path: Path, array: NDArray[np.floating], *, like: Path) -> None:
    """Write values from 0 to 1 atomically as a volume, in steps of 2^-15: as 16-bit NIfTI, or as floats.

    Args:
        path: Output file; its ending selects the format, as in `write_label`.
        array: Values (*spatial), in stored orientation.
        like: Volume whose geometry is copied to the written file.

    Raises:
        UserError: The array does not fit `like`.
        DataError: `like` cannot be read.
    """
    steps = np.empty(array.shape, np.uint16)
    for plane, values in zip(steps, array, strict=True):
        plane[...] = np.rint(values * MAP_STEPS)
    if ending(path.name) in NIFTI:
        _write_volume(path, steps, like, None, level=1, slope=1 / MAP_STEPS)
    else:  # the other formats store no slope
        _write_volume(path, steps / np.float32(MAP_STEPS), like, None, level=1)


def geometry_errors(path: Path, image: Image, reference_path: Path, reference: Image) -> list[FileError]:
    """Errors for the differences of a file from a reference in shape and affine; [] if they agree."""
    if image.shape != reference.shape:
        remedy = "resample one of them to the grid of the other, or pair it with the file it belongs to"
        if image.affine is None and reference.affine is None and image.shape == reference.shape[::-1]:
            remedy = "rows and columns are swapped: both files are read in the orientation given by their EXIF data; "
            remedy += "save both with the same EXIF orientation"
        message = f"has shape {image.shape}, but {reference_path} has {reference.shape}; {remedy}"
        return [FileError(path, "shape", message)]
    if image.affine is None or reference.affine is None:
        return []
    mine, theirs = image.affine, reference.affine
    if not (image.is_sized and reference.is_sized):
        mine, theirs = _directions(mine), _directions(theirs)
    difference = np.abs(mine - theirs)
    # the rounding error of a header's 32-bit floats grows with their size
    inexact = np.finfo(np.float32).eps * np.abs(theirs)
    if (difference <= AFFINE_TOLERANCE * voxel_sizes(theirs).min() + inexact).all():
        return []
    row, column = np.unravel_index(difference.argmax(), difference.shape)
    message = (
        f"its affine differs from that of {reference_path}: entry [{row}, {column}] is "
        f"{mine[row, column]:.6g}, but {theirs[row, column]:.6g} in that file; resample it to the "
        "grid of that file, or copy its affine if the voxels correspond"
    )
    return [FileError(path, "affine", message)]


def outline(shape: Sequence[int], affine: NDArray[np.float64] | None, *, is_sized: bool = True) -> Image:
    """An image of zeros (C, *spatial) that takes no memory, used for its geometry."""
    return Image(np.broadcast_to(np.float32(0), shape), affine, is_sized=is_sized)


def _is_sized(volume: Volume) -> bool:
    return not isinstance(volume, TiffVolume) or volume.is_sized


def _directions(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """An affine with the same directions of axes, but voxels of 1 mm and no origin."""
    unit = np.eye(4)
    unit[:3, :3] = affine[:3, :3] / voxel_sizes(affine)
    return unit


def _check_geometry(paths: Sequence[Path], images: Sequence[Image]) -> None:
    for path, image in zip(paths[1:], images[1:], strict=True):
        for error in geometry_errors(path, image, paths[0], images[0]):
            raise error


def _check_ending(path: Path) -> None:
    if ending(path.name) is None:
        raise FileError(path, "unreadable", f"has an unknown ending; allowed: {', '.join(ENDINGS)}")


def _read_pixels(path: Path) -> Image:
    _check_ending(path)
    array = read_picture(path, "values")
    # float64 values too large for float32 become inf, which `inspect` reports; a warning here would name no file
    with np.errstate(over="ignore", invalid="ignore"):
        channels = (np.moveaxis(array, -1, 0) if array.ndim == 3 else array[None]).astype(np.float32)
    return Image(channels, None)


def _whole_numbers(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    rounding = Rounding()
    flat = array.ravel()
    whole = np.concatenate([rounding(flat[start : start + PART]) for start in range(0, flat.size, PART)])
    rounding.check(path, str(array.dtype))
    return whole.reshape(array.shape)


def _index_colors(path: Path, rgb: NDArray[Any], colors: Mapping[int, tuple[int, int, int]]) -> NDArray[Any]:
    """Convert colours (H, W, 3) to label values (H, W)."""
    codes = rgb.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
    listed = sorted(((red << 16) + (green << 8) + blue, value) for value, (red, green, blue) in colors.items())
    known = np.array([code for code, _ in listed], dtype=np.int32)
    place = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    wrong = known[place] != codes
    if wrong.any():
        found, counts = np.unique(codes[wrong], return_counts=True)
        examples = ", ".join(f"#{code:06x}: {n}" for code, n in zip(found[:5], counts[:5], strict=True))
        allowed = ", ".join(f"#{code:06x}" for code, _ in listed[:20])
        remedy = f"add them to labels.csv or repaint the mask{_lossy_hint(path)}"
        message = f"{wrong.sum()} pixels have colours not listed in labels.csv ({examples}; listed: {allowed})"
        raise FileError(path, "colors", f"{message}; {remedy}")
    return np.array([value for _, value in listed], dtype=np.int32)[place]


def _lossy_hint(path: Path) -> str:
    return " (JPEG alters values: export masks as PNG)" if ending(path.name) in LOSSY else ""


def _compact(array: NDArray[Any]) -> NDArray[Any]:
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for dtype in (np.uint8, np.uint16, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return array.astype(dtype, copy=False)
    raise UserError(f"label values range from {low} to {high}; they must fit into 32 bits")


def _write_volume(
    path: Path,
    array: NDArray[Any],
    like: Path | None,
    affine: NDArray[np.float64] | None,
    *,
    level: int,
    slope: float = 1.0,
) -> None:
    """Write a volume with the geometry of `like` or an affine; `level` is that of compression."""
    kind = ending(path.name)
    pattern = None if like is None else open_volume(like)
    if pattern is not None:
        spatial = pattern.channel_shape[1:]
        if spatial[: array.ndim] != array.shape:
            raise UserError(f"the map has shape {array.shape}, but {like} has {pattern.shape}; they must agree")
        affine = pattern.affine
    if kind in TIFF:
        write_stack(path, array, affine if pattern is None or _is_sized(pattern) else None, level=level)
        return
    affine = np.eye(4) if affine is None else affine
    if kind in ITK:
        own = None if pattern is None else pattern.header
        write_itk(path, array, own if isinstance(own, Geometry) else Geometry.of(affine), level=level)
    elif kind in MGH:
        _write_nibabel(path, _mgh(array, pattern, affine), level=level)
    else:
        _write_nibabel(path, _nifti(array, pattern, affine, slope=slope), level=level)


def _nifti(array: NDArray[Any], pattern: Volume | None, affine: NDArray[np.float64], *, slope: float) -> Any:
    form: Any = nib.Nifti1Image
    if pattern is None or not isinstance(pattern.header, nib.Nifti1Header):
        image = form(array, affine)
        if pattern is not None:
            image.header.set_xyzt_units("mm")
    else:
        image = pattern.form(array, pattern.header.get_best_affine(), pattern.header)
        image.set_data_dtype(array.dtype)
        image.header["cal_min"] = image.header["cal_max"] = 0  # the display window of the image would hide the labels
    image.header.set_slope_inter(slope, 0)
    return image


def _mgh(array: NDArray[Any], pattern: Volume | None, affine: NDArray[np.float64]) -> Any:
    form: Any = nib.MGHImage
    header = pattern.header if pattern is not None and pattern.form is form else None
    volume = array.reshape(*array.shape, *(1,) * (3 - array.ndim))
    image = form(volume, affine, header)
    image.set_data_dtype(array.dtype)
    return image


def _write_nibabel(path: Path, image: Any, *, level: int) -> None:
    """Write slice by slice, so that the whole content is never in memory; `level` is that of gzip for .nii.gz."""
    with open_atomic(path) as file:
        if ending(path.name) in (".nii", ".mgh"):
            image.to_stream(file)
        else:
            # without name and time, so that equal label maps give equal files
            with gzip.GzipFile("", "wb", level, file, mtime=0) as packed:
                image.to_stream(packed)


def _picture_bytes(path: Path, array: NDArray[Any]) -> bytes:
    formats = {".png": "PNG", **dict.fromkeys(TIFF, "TIFF"), ".bmp": "BMP"}
    kind = formats.get(ending(path.name) or "")
    if kind is None:
        allowed = ", ".join((*NIFTI, *formats))
        raise UserError(f"{path.name}: label maps can be written as {allowed}; JPEG would alter their values")
    if array.ndim != 2:
        raise UserError(f"{path.name}: a picture has 2 axes, but the label map has shape {array.shape}; write .nii.gz")
    if array.dtype != np.uint8 and (array.dtype != np.uint16 or kind == "BMP"):
        values = f"{int(array.min())} to {int(array.max())}"
        raise UserError(f"{path.name}: {kind} cannot store label values from {values}; write .nii.gz")
    buffer = io.BytesIO()
    PIL.Image.fromarray(array).save(buffer, format=kind)
    return buffer.getvalue()
