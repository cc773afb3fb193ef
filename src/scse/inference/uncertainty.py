"""How far several predictions of one image lie apart: of several segmenters, of mirrored images, or of both.

Each segmenter and mirrored copy is a pass. A map shows where the passes are unsure, the entropy of their mean class
probabilities, and a table how much they differ in each structure: the coefficient of variation of its volume, and the
mean intersection over union of all pairs of passes (Roy et al. 2019, NeuroImage 195, "Bayesian QuickNAT", for passes
with dropout).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from scse.data.files import Image, read_image, write_label, write_map
from scse.data.recipe import Slices
from scse.data.schemes import best_classes
from scse.data.volumes import is_volume
from scse.inference.averaging import Averaged, check_members, flips, mirroring_of
from scse.inference.engines import Engine
from scse.inference.image_table import ImageTable, number_text
from scse.inference.joining import Joined, check_images
from scse.inference.known import flag_of_spread
from scse.inference.pipeline import each_image
from scse.inference.segmenter import Segmenter, label_path, prediction_paths, write_prediction
from scse.inference.volume_table import COLUMNS as VOLUME_COLUMNS
from scse.inference.volume_table import IMAGE, check_table, count_voxels, open_table, voxel_volume
from scse.support.errors import UserError
from scse.support.outputs import check_outputs, marked
from scse.support.scratch import scratch

TABLE = "uncertainty.csv"

COLUMNS = ("image", "structure", "passes", "volume_ml", "volume_cv", "iou")

SPREAD = ("passes", "volume_cv", "iou")
"""Columns of the spread of the passes in the table of volumes."""


@dataclass(frozen=True)
class Uncertainty:
    """A prediction, and how far its passes lie apart.

    Attributes:
        labels: Label values (*spatial).
        entropy: Entropy (*spatial) float32 of the mean class probabilities, from 0 (sure) to 1 (all classes equally
            probable).
        structures: A row for each structure: its name; passes, their number; volume_ml, the volume in the labels, NaN
            in pictures; volume_cv, the standard deviation of the volume over the passes (n - 1) as a fraction of its
            mean, NaN where no pass has the structure; iou, the mean intersection over union of all pairs of passes,
            without the pairs in which neither has the structure, NaN if there are no others.
    """

    labels: NDArray[np.integer]
    entropy: NDArray[np.float32]
    structures: pd.DataFrame


def uncertain(
    segmenters: Sequence[Segmenter], *, weights: Sequence[float] | None = None, mirror: bool = False
) -> "Uncertain":
    """A segmenter that averages those of others, as `joined` does, and measures how far they lie apart.

    All class probabilities are averaged in the image's own grid. Where slices or volumes are predicted in several
    windows, single voxels may therefore get other labels than by `averaged`.

    Args:
        segmenters: Segmenters of the same structures and channels.
        weights: Weight of each segmenter in the labels and in the entropy; equal by default. In the table, all passes
            count the same.
        mirror: Predict mirrored images, too: for each segmenter along its own axes, see `averaged`.

    Raises:
        UserError: There is only one pass, structures are regions of labels, or the reasons of `joined`.
    """
    shares = check_members(segmenters, weights)
    if segmenters[0].regions:
        raise UserError(
            "uncertainty is measured for exclusive structures, and those of this segmenter are regions of labels; "
            "leave it out"
        )
    check_images(segmenters)
    passes, of_passes = [], []
    for segmenter, share in zip(segmenters, shares, strict=True):
        mirroring, run = mirroring_of(segmenter, mirror), segmenter.run
        each = flips(mirroring)
        for flipped in each:
            engine = Engine("averaged", "1 pass", Averaged([run], [1.0], mirroring, [flipped]))
            passes.append(replace(segmenter, engine=engine))
            of_passes.append(share / len(each))
    if len(passes) < 2:
        raise UserError(
            "uncertainty is the spread of several predictions, but one segmenter without mirrored images makes one; "
            "give several segmenters (-m A -m B, or --ensemble STUDY), or predict mirrored images, too (--mirror; "
            "mirror=True in Python)"
        )
    return Uncertain.of(passes, of_passes)


class Uncertain(Joined):
    """Several passes that predict as one, and their spread."""

    def __str__(self) -> str:
        """The number of passes."""
        return f"uncertainty of {len(self.members)} passes"

    def estimate(self, image: Image, *, batch_size: int | None = None) -> Uncertainty:
        """Predict an image with its uncertainty.

        Args:
            image: Image, as returned by `read_image`.
            batch_size: See `Segmenter.predict_image`.

        Raises:
            UserError: The image does not fit a segmenter, or all its voxels have the same value.
        """
        return self._estimate(self._views(image), image.affine, batch_size)

    def predict_files(
        self,
        images: Mapping[str, Sequence[Path]],
        out: Path,
        *,
        batch_size: int | None = None,
        overwrite: bool = False,
        volumes: Path | None = None,
        dicom_seg: bool = False,
        progress: Callable[[int, int], None] | None = None,
        table: Path | None = None,
    ) -> list[str]:
        """Segment many images with their uncertainty; the others are still written if one fails.

        Beside each label map, it writes NAME.uncertainty.nii.gz, the entropy as 16-bit NIfTI from 0 to 1, or in the
        format of the label map: as floats in other volumes, in 255 steps in NAME.uncertainty.png; and for all images
        together, uncertainty.csv: the rows of `Uncertainty.structures` with the name of the image, see `ImageTable`.
        The table of `volumes` has the columns passes, volume_cv and iou, too, and flags structures on which the passes
        disagree.

        Args, returned messages and errors are those of `Segmenter.predict_files`; `table` is another file for
        uncertainty.csv.
        """
        table = table or out / TABLE
        labels = prediction_paths(images, out, dicom_seg=dicom_seg)
        maps = uncertainty_paths(images, out, labels)
        label_maps = [path for paths in labels.values() for path in paths]
        inputs = (path for paths in images.values() for path in paths)
        tables = check_table(volumes, [*label_maps, *maps.values(), table])
        check_outputs([*label_maps, *maps.values(), table, *tables], inputs=inputs, overwrite=overwrite)
        opened = open_table(volumes, self.scheme.scored, known=self.known, more=SPREAD, overwrite=overwrite)

        def read(paths: Sequence[Path]) -> "Callable[[], tuple[Uncertainty, Image, str]]":
            image = read_image(paths)
            return partial(compute, self._views(image), image.affine)

        def compute(views: list[Slices], affine: NDArray[np.float64] | None) -> tuple[Uncertainty, Image, str]:
            flag = "" if sizes is None else sizes.flag_of_image(views[0], affine)
            found = self._estimate(views, affine, batch_size)
            return found, Image(found.labels, affine, is_label=True), flag

        def write(name: str, paths: Sequence[Path], done: tuple[Uncertainty, Image, str]) -> None:
            found, labelled, flag = done
            with marked([*labels[name], maps[name]]):
                write_prediction(out, name, found.labels, paths[0], labelled)
                self._write_segmentations(labels[name][1:], found.labels, paths[0])
                _write_entropy(maps[name], found.entropy, paths[0])
            of_image = found.structures.itertuples(index=False, name=None)
            spreads.put({name: [[name, structure, *map(number_text, numbers)] for structure, *numbers in of_image]})
            if sizes is not None:
                of_structures = found.structures[[*SPREAD]].itertuples(index=False, name=None)
                of_passes = map(flag_of_spread, found.structures["iou"])
                flags = {IMAGE: flag, **dict(zip(found.structures["structure"], of_passes, strict=True))}
                sizes.add(name, found.labels, labelled.affine, of_structures, flags)

        with opened as sizes, ImageTable(table, COLUMNS) as spreads:
            return each_image(images, read=read, compute=lambda ready: ready(), write=write, progress=progress)

    def _estimate(self, views: list[Slices], affine: NDArray[np.float64] | None, batch_size: int | None) -> Uncertainty:
        shape, grid = views[-1].grid.shape, views[-1].grid
        entropy = np.empty(shape, np.float32)
        entropies = grid.rows(entropy)

        def of_mean(row: int, mean: Tensor) -> None:
            entropies[row] = entropy_of(mean).numpy()

        with scratch((len(views), *shape), np.uint8) as passes:
            rows = [view.grid.rows(classes) for view, classes in zip(views, passes, strict=True)]

            def of_pass(place: int, row: int, found: Tensor) -> None:
                rows[place][row] = best_classes(found, axis=0)

            restored = partial(self._joined, views, of_member=of_pass, of_mean=of_mean)
            labels = self._label(restored, batch_size, None)
            common = shared_voxels(passes, len(self.structures) + 1)
        voxel = voxel_volume(affine)
        volumes = [count * voxel for count in count_voxels(labels, self.structures).values()]
        return Uncertainty(labels, entropy, spread(common[1:], list(self.structures), volumes))


def uncertainty_paths(
    images: Mapping[str, Sequence[Path]], out: Path, labels: Mapping[str, Sequence[Path]]
) -> dict[str, Path]:
    """Path of the uncertainty map of each image.

    Args:
        images: Files of the channels of each image, by image name.
        out: Folder of the maps.
        labels: Paths of the label maps of each image, see `prediction_paths`.

    Raises:
        UserError: A label map has the path of an uncertainty map.
    """
    maps = {name: label_path(out, f"{name}.uncertainty", paths[0]) for name, paths in images.items()}
    if both := sorted({path for paths in labels.values() for path in paths} & {*maps.values()}):
        raise UserError(
            f"{both[0]}: would be both a label map and an uncertainty map; leave out images called "
            "NAME.uncertainty, or rename them"
        )
    return maps


def spread_rows(volumes: Mapping[str, Sequence[Sequence[str]]]) -> dict[str, list[list[str]]]:
    """The rows of each image in uncertainty.csv, which are parts of those in the table of volumes with uncertainty."""
    places = [[*VOLUME_COLUMNS, *SPREAD].index(column) for column in COLUMNS]
    return {
        image: [[row[place] for place in places] for row in rows if row[1] != IMAGE] for image, rows in volumes.items()
    }


def entropy_of(probabilities: Tensor) -> Tensor:
    """Entropy (*spatial) of probabilities (classes, *spatial), as a fraction of that of equal probabilities."""
    entropy: Tensor = torch.special.entr(probabilities).sum(0)
    return entropy.div_(math.log(len(probabilities))).clamp_(0, 1)


def shared_voxels(passes: NDArray[np.uint8], classes: int) -> NDArray[np.float64]:
    """Count the voxels to which two passes both give a class.

    Args:
        passes: Classes (passes, *spatial).
        classes: Number of classes.

    Returns:
        Counts (classes, passes, passes); on the diagonal, the voxels of the class in each pass.
    """
    common = np.zeros((classes, len(passes), len(passes)))
    for row in range(passes.shape[1]):
        part = passes[:, row].reshape(len(passes), -1)
        same = (part == part[0]).all(0)  # of most voxels, so that few are compared pair by pair
        common += np.bincount(part[0, same], minlength=classes)[:, None, None]
        rest = part[:, ~same]
        for number in np.unique(rest):
            found = (rest == number).astype(np.float32)
            common[number] += found @ found.T
    return common


def spread(common: NDArray[np.float64], names: Sequence[str], volumes: Sequence[float]) -> pd.DataFrame:
    """The table of `Uncertainty`.

    Args:
        common: Voxels that two passes share (structures, passes, passes), see `shared_voxels`.
        names: Name of each structure.
        volumes: Volume of each structure in ml.
    """
    count = common.shape[1]
    sizes = np.diagonal(common, axis1=1, axis2=2)
    first, second = np.triu_indices(count, 1)
    shared = common[:, first, second]
    union = sizes[:, first] + sizes[:, second] - shared
    iou = np.divide(shared, union, out=np.zeros_like(union), where=union > 0)
    return pd.DataFrame(
        {
            "structure": names,
            "passes": count,
            "volume_ml": volumes,
            "volume_cv": _divided(sizes.std(1, ddof=1), sizes.mean(1)),
            "iou": _divided(iou.sum(1), np.count_nonzero(union, 1)),
        }
    )


def _divided(values: NDArray[np.float64], by: NDArray[np.generic]) -> NDArray[np.float64]:
    divided: NDArray[np.float64] = np.divide(values, by, out=np.full(values.shape, np.nan), where=by != 0)
    return divided


def _write_entropy(path: Path, entropy: NDArray[np.float32], source: Path) -> None:
    if is_volume(source):
        write_map(path, entropy, like=source)
    else:
        write_label(path, np.rint(entropy * 255).astype(np.uint8))  # a grey picture of 8 bits
