"""The table of volumes of predicted label maps: a row for each image and structure."""

import csv
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scse.data.pieces import count_pieces
from scse.data.recipe import Slices
from scse.inference.appearance import Appearance
from scse.inference.image_table import ImageTable, number_text
from scse.inference.known import flag_of, flag_of_image
from scse.inference.saved import Known
from scse.support.errors import UserError

COLUMNS = ("image", "structure", "label", "voxels", "volume_ml")
FLAG = "flag"

IMAGE = ""
"""What the row of an image itself has in place of a structure: there is one if the image is flagged."""

Scored = Mapping[str, int | Sequence[int]]
"""Label value of each structure, or the label values of a region, by name."""


def voxel_volume(affine: NDArray[np.float64] | None) -> float:
    """Millilitres of a voxel; NaN for pictures, which have no affine."""
    return math.nan if affine is None else abs(float(np.linalg.det(affine[:3, :3]))) / 1000


def count_voxels(labels: NDArray[np.integer], scored: Scored) -> dict[str, int]:
    """Number of voxels of each structure in a label map; a region has those of all its labels."""
    return {
        name: int(np.count_nonzero(np.isin(labels, values) if isinstance(values, Sequence) else labels == values))
        for name, values in scored.items()
    }


def check_table(path: Path | None, others: Iterable[Path]) -> list[Path]:
    """The table as a list of files, empty without one.

    Raises:
        UserError: It is one of the other files that are written.
    """
    if path is None:
        return []
    if path.resolve() in {other.resolve() for other in others}:
        raise UserError(
            f"{path}: would be both a label map and the table of volumes; choose another file for the table"
        )
    return [path]


class VolumeTable(ImageTable):
    """A CSV file of volumes, see `ImageTable`, which keeps the rows of images of earlier calls.

    Args:
        path: Path of the file.
        scored: The structures of the label maps.
        known: What the training cases had; None flags nothing.
        more: Names of further columns.
        overwrite: Whether a file with other columns is replaced.

    Raises:
        UserError: The file has other columns.
    """

    def __init__(
        self,
        path: Path,
        scored: Scored,
        *,
        known: Known | None = None,
        more: Sequence[str] = (),
        overwrite: bool = False,
    ) -> None:
        super().__init__(path, [*COLUMNS, *more, FLAG])
        self.scored, self.known = scored, known
        header, *rows = _read(path) or [self.columns]
        if header == self.columns:
            for row in rows:
                self.rows.setdefault(row[0], []).append(row)
        elif not overwrite:
            found = f"has the columns {','.join(header)}, and this call writes {','.join(self.columns)}"
            raise UserError(
                f"{path}: {found}; choose another file, or replace it with --overwrite (overwrite=True in Python)"
            )

    def add(
        self,
        image: str,
        labels: NDArray[np.integer],
        affine: NDArray[np.float64] | None,
        more: Iterable[Sequence[float]] | None = None,
        flags: Mapping[str, str] | None = None,
    ) -> None:
        """Write the rows of an image, in place of those of an earlier call.

        Args:
            image: Name of the image.
            labels: Its label map (*spatial).
            affine: Its affine (4, 4); None for a picture, which has pixels and no millilitres.
            more: Values of the further columns, for each structure.
            flags: What else is unusual, "" if nothing is, by structure; that of the image under `IMAGE`.
        """
        voxel, flags = voxel_volume(affine), flags or {}
        rows = [[image, *[""] * (len(self.columns) - 2), flags[IMAGE]]] if flags.get(IMAGE) else []
        counts = count_voxels(labels, self.scored)
        for (name, values), others in zip(self.scored.items(), more or [()] * len(counts), strict=True):
            label = " ".join(map(str, values)) if isinstance(values, Sequence) else str(values)
            numbers = (number_text(value) for value in (counts[name], counts[name] * voxel, *others))
            found = [self._flag(name, counts[name] * voxel, labels), flags.get(name, "")]
            rows.append([image, name, label, *numbers, "; ".join(filter(None, found))])
        self.put({image: rows})

    def flag_of_image(self, slices: Slices, affine: NDArray[np.float64] | None) -> str:
        """What is unlike the training images about an image, see `scse.inference.known.flag_of_image`.

        Args:
            slices: The image as a segmenter sees it.
            affine: Its affine (4, 4); None for a picture, of which nothing is flagged.
        """
        if self.known is None or self.known.images is None or affine is None:
            return ""
        return flag_of_image(self.known, Appearance.of_image(slices, affine))

    def _flag(self, name: str, volume: float, labels: NDArray[np.integer]) -> str:
        if self.known is None or math.isnan(volume):
            return ""
        values = self.scored[name]
        single = name in self.known.single and isinstance(values, int)
        pieces = count_pieces(labels, [values])[0] if single and isinstance(values, int) else 1
        return flag_of(self.known, name, volume, pieces)


def open_table(
    path: Path | None, scored: Scored, *, known: Known | None, more: Sequence[str] = (), overwrite: bool = False
) -> AbstractContextManager[VolumeTable | None]:
    """A table, see `VolumeTable`, or none without a path."""
    if path is None:
        return nullcontext()
    return VolumeTable(path, scored, known=known, more=more, overwrite=overwrite)


@dataclass(frozen=True, slots=True)
class Volume:
    """A row of a table of volumes.

    Attributes:
        structure: Name of the structure; `IMAGE` in the row of the image itself, which has 0 voxels.
        voxels: Number of its voxels, or pixels.
        volume_ml: The same in millilitres; NaN for pictures.
        flag: What is unusual; "" if nothing is.
    """

    structure: str
    voxels: int
    volume_ml: float
    flag: str


def read_volumes(path: Path, images: Collection[str]) -> dict[str, list[Volume]]:
    """The rows of these images in a table that `VolumeTable` wrote, by image; images without rows are left out."""
    found: dict[str, list[Volume]] = {}
    header, *rows = _read(path) or [[]]
    for row in (dict(zip(header, row, strict=True)) for row in rows if row[0] in images):
        volume = Volume(row["structure"], int(row["voxels"] or 0), float(row["volume_ml"] or math.nan), row[FLAG])
        found.setdefault(row["image"], []).append(volume)
    return found


def read_flags(path: Path, images: Collection[str]) -> list[str]:
    """The flags of these images in a table of volumes, with the names of image and structure."""
    volumes = read_volumes(path, images)
    flagged = [(image, row) for image, rows in volumes.items() for row in rows if row.flag]
    return [": ".join(filter(None, (image, row.structure, row.flag))) for image, row in flagged]


def _read(path: Path) -> list[list[str]]:
    """Rows of a CSV file; those of a file that has none or is no text are [[""]], and of an absent one []."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.reader(file) if row] or [[""]]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error):
        return [[""]]
