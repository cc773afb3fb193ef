"""Volumes of all formats: their headers, and the reading of images of one or more files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scse.data.endings import ITK, ending
from scse.data.file_errors import allocate
from scse.data.itk import open_itk
from scse.data.nifti import open_nifti
from scse.data.raw_volumes import RawVolume


def open_volume(path: Path) -> RawVolume:
    """Read and check the header of a volume, without its voxels.

    Raises:
        DataError: The file is damaged, or has not the format that its ending names.
    """
    return open_itk(path) if ending(path.name) in ITK else open_nifti(path)


def read_floats(volumes: Sequence[RawVolume]) -> NDArray[np.float32]:
    """Read one or more volumes with equal spatial axes as (C, *spatial), with their channels concatenated.

    The caller must have called `check_length` of each.
    """
    counts = [volume.channel_shape[0] for volume in volumes]
    # the only array of the size of the volume; its order is that of most files, channel by channel
    shape = (*volumes[0].channel_shape[1:], sum(counts))
    array, start = allocate(volumes[0].path, shape, np.float32, order="F"), 0
    for volume, count in zip(volumes, counts, strict=True):
        volume.read_into(array[..., start : start + count])
        start += count
    return np.moveaxis(array, -1, 0)
