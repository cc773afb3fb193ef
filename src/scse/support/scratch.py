"""Arrays in temporary files, for intermediate results that may be larger than the memory."""

import math
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from scse.support.atomic import named

PART = 2**24
"""Bytes written at a time."""


@contextmanager
def scratch(shape: Sequence[int], dtype: DTypeLike) -> Generator[NDArray[Any]]:
    """An array of zeros in a temporary file, which has no name and ends with the block.

    The system keeps it in free memory, and writes it to the disk of the folder for temporary files (`TMPDIR`) where
    memory is needed for something else.

    Raises:
        OSError: The disk is full; it names the folder.
    """
    with tempfile.TemporaryFile() as file:
        left = math.prod(shape) * np.dtype(dtype).itemsize
        with named(Path(tempfile.gettempdir())):
            # written in full, because a disk that is full later on would end the process with a signal
            for size in (*[PART] * (left // PART), left % PART):
                file.write(bytes(size))
            file.flush()
        yield np.memmap(file, dtype, "r+", shape=tuple(shape))
