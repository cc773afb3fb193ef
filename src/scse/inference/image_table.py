"""CSV files with rows for each image, which are written again and again while images are predicted."""

import csv
import io
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from scse.support.atomic import write_atomic
from scse.support.outputs import marked

SHARE = 0.05
"""Greatest share of the time for writing a table again and again, which takes the longer the more rows it has."""


class ImageTable:
    """A CSV file with rows for each image.

    The file is written again after each image, or less often where this would take much of the time, and at the end of
    the context that the table is.

    Args:
        path: Path of the file.
        columns: Names of the columns; the first is that of the image.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, list(columns)
        self.rows: dict[str, list[list[str]]] = {}
        self._waiting, self._due = False, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._waiting:
            self._write()

    def put(self, rows: Mapping[str, Sequence[Sequence[str]]]) -> None:
        """Write the rows of images, in place of those that they have.

        Args:
            rows: The rows of each image, with its name in the first column.
        """
        self.rows |= {image: [list(row) for row in each] for image, each in rows.items()}
        self._waiting = self._waiting or bool(rows)
        if self._waiting and time.monotonic() >= self._due:
            self._write()

    def _write(self) -> None:
        began = time.monotonic()
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [self.columns, *(r for each in self.rows.values() for r in each)]
        )
        with marked([self.path]):
            write_atomic(self.path, text.getvalue().encode())
        ended = time.monotonic()
        self._waiting, self._due = False, ended + (ended - began) / SHARE


def number_text(value: float) -> str:
    """A number as it is written into tables; NaN is left empty."""
    return "" if math.isnan(value) else str(value)
