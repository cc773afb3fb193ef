"""Headers of NIfTI files and of FreeSurfer's MGH files (.mgz, .mgh), read by nibabel."""

import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.freesurfer.mghformat import header_dtype
from numpy.typing import NDArray

from scse.data.endings import MGH, ending
from scse.data.file_errors import check_is_file, unreadable
from scse.data.raw_volumes import Packing, RawVolume, check_affine, check_voxels, unpacked
from scse.support.errors import UserError

MOST_HEADER = 1 << 26
"""Most bytes of a header with its extensions."""

MILLIMETRES = {1: 1e3, 3: 1e-3}
"""Millimetres per unit, by code of xyzt_units: metres and micrometres. All other codes are read as millimetres."""


def open_nifti(path: Path) -> RawVolume:
    """Read and check the header of a NIfTI or MGH file, without its voxels.

    Raises:
        DataError: The file is of neither format, or its header is damaged or describes no voxels of real numbers.
    """
    check_is_file(path)
    is_mgh = ending(path.name) in MGH
    packing: Packing = "gzip" if path.name.lower().endswith((".gz", ".mgz")) else "none"
    # decoders raise almost any exception for damaged files: OSError, EOFError, zlib.error, HeaderDataError
    try:
        form, header = (_read_mgh if is_mgh else _read_header)(path, packing)
        shape, dtype = tuple(map(int, header.get_data_shape())), header.get_data_dtype()
        slope, intercept = header.get_slope_inter()
        affine = header.get_best_affine()
    except Exception as error:
        raise unreadable(path, error) from error
    check_voxels(path, shape, dtype)
    check_affine(path, affine, "write valid direction cosines" if is_mgh else "write a valid s-form or q-form")
    return RawVolume(
        path=path,
        shape=shape,
        image_shape=_image_shape(shape),
        dtype=dtype,
        affine=in_millimetres(affine, header),
        data=path,
        offset=header.get_data_offset(),
        packing=packing,
        scale=None if slope is None or (slope, intercept) == (1, 0) else (float(slope), float(intercept)),
        form=form,
        header=header,
    )


def in_millimetres(affine: NDArray[Any], header: Any) -> NDArray[np.float64]:
    """The affine of a nibabel image in mm; the header of a NIfTI file may give it in metres or micrometres."""
    result = np.array(affine, np.float64)
    if isinstance(header, nib.Nifti1Header):
        result[:3] *= MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    return result


def _image_shape(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 5 and shape[3] == 1:  # NIfTI stores vectors in the fifth axis, after time
        shape = (*shape[:3], shape[4])
    if len(shape) not in (2, 3, 4):
        return None
    return (shape[3], *shape[:3]) if len(shape) == 4 else (1, *shape)


def _read_header(path: Path, packing: Packing) -> tuple[Any, Any]:
    with unpacked(path, packing) as stream:
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


def _read_mgh(path: Path, packing: Packing) -> tuple[Any, Any]:
    form: Any = nib.MGHImage
    with unpacked(path, packing) as stream:
        start = stream.read(header_dtype.itemsize)
    if int.from_bytes(start[:4], "big") != 1:  # of which nibabel would write to the terminal
        raise UserError("it has no MGH header")
    return form, form.header_class(start)
