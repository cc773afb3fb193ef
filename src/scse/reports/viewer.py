"""Data of the report's viewer: slices or volumes of test cases with reference, predictions and spatial gates."""

import base64
import hashlib
import io
import itertools
import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
from numpy.typing import NDArray

from scse.data.descriptions import Color
from scse.data.files import Image, read_image, read_label
from scse.data.prepared import class_values
from scse.data.recipe import Recipe
from scse.data.slicing import orientation_of, spread, view_axis
from scse.evaluation.setups import per_setup, setup_columns
from scse.gates.explaining import slice_gates
from scse.inference.finished import FinishedRun
from scse.inference.segmenter import Segmenter, label_path
from scse.support.atomic import write_atomic
from scse.support.errors import DataError, UserError
from scse.support.events import UNWATCHED, Stage, Watch
from scse.support.json_files import read_json
from scse.vocabulary.sides import without_side
from scse.vocabulary.titles import Setup, variant_name

FORMAT = 3
"""Version of the packed data, increased when their format changes, so that older data are not reused."""

BUDGET = 5_500_000
"""Most characters that the viewer adds to the page."""

FEWEST_SLICES = 12
"""Least number of slices of a case; if they exceed the budget, cases are left out."""

FEWEST_VOXELS, MOST_VOXELS = 64**3, 160**3
"""Volumes with more voxels than the first are reduced to fit the budget, and all with more than the second."""

MARGIN = 0.25
"""Margin around the structures of a volume, as a fraction of the longest side of the box that contains them."""

LONGEST_SIDE, GATE_SIDE, VOLUME_GATE_SIDE = 384, 96, 48
"""Longest side in pixels of stored slices and gates; larger ones are reduced to every second, third, ... pixel."""

GATE_LEVELS = 31
JPEG_QUALITY = 72
WINDOW = (0.5, 99.5)
"""Percentiles of the voxels above the minimum that are shown as black and white."""

MOST_MEASURED = 2**24
"""Most voxels of which these percentiles are computed; of larger images, every n-th along each axis."""

# light and dark colours alternate, so that neighbours differ without hue (Okabe and Ito; Tol)
PALETTE = (
    "#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#0072b2", "#d55e00", "#ddddee", "#44aa99", "#aa4499",
    "#ddcc77", "#332288", "#88ccee", "#882255", "#999933", "#ee99aa",
)  # fmt: skip


def viewer_data(
    runs: Sequence[FinishedRun],
    scores: pd.DataFrame,
    *,
    recipe: Recipe,
    structures: Mapping[str, int],
    labels: Mapping[str, int] | None = None,
    colors: Mapping[int, Color] | None = None,
    cache: Path,
    budget: int = BUDGET,
    watch: Watch = UNWATCHED,
) -> str:
    """Pack the data of the viewer, or read them from the cache.

    Every n-th slice with a structure is shown of each case, where n is the least number for which all cases fit into
    the budget, but with at least 12 slices per case. Cases of a network of volumes are shown as volumes, cropped to the
    structures of reference and predictions with a margin, and reduced to every n-th voxel along each axis if they have
    more voxels than the budget allows, but at least 262,144 per case. If this exceeds the budget, only the worst, the
    median and the best case and an even selection between them are shown, ordered by the Dice of the plain variant, or
    without it of the first variant (mean over setups).

    Args:
        runs: Runs of the study; those of the first seed are shown.
        scores: Scores of the study.
        recipe: Recipe, whose view the slices have.
        structures: Label value of each structure, by name.
        labels: Value of each label, by name, if structures are regions of labels: the labels are shown, because regions
            overlap, and the Dice of a case is the mean over its regions.
        colors: Colours of colour masks, see `Dataset`.
        cache: File that stores the result for later calls with the same runs.
        budget: Most characters of the result.
        watch: Receives a `Stage` before the packing, and `Progress`; checked after every case.

    Returns:
        JSON for the script of the page.
    """
    # the plain variant first, because cases are ranked by the first variant
    shown = sorted((run for run in runs if run.seed == runs[0].seed), key=lambda run: run.variant.kind != "none")
    key = _key(shown, budget)
    if (kept := _kept(cache)).startswith(f'{{"key": "{key}"'):
        return kept
    watch.report(Stage("packing cases for the report's viewer"))
    packer = Packer(recipe, labels or structures, colors=colors, gates=_Gates(shown, recipe).of)
    ranked = _ranked(scores, shown)
    order = spread(len(ranked))
    packed_cases = packer.pack_all([_files_of(shown, ranked[place]) for place in order], budget=budget, watch=watch)
    cases = {
        place: {**case, "dice": _dice(scores, ranked[place], shown, structures)}
        for place, case in zip(order, packed_cases, strict=False)
    }
    places = sorted(cases)
    picked = dict(zip(("worst", "best", "median"), map(places.index, order), strict=False))
    content = {
        "key": key,
        "networks": _networks(shown),
        "structures": structure_colors(list(labels or structures)),
        **({"regions": True} if labels else {}),
        "cases": [cases[place] for place in places],
        "left_out": len(ranked) - len(cases),
        "picked": {name: picked[name] for name in ("worst", "median", "best") if name in picked},
        "by": variant_name(str(shown[0].variant)),
        "seed": shown[0].seed,
        "gate_levels": GATE_LEVELS,
        "view": recipe.view,
    }
    packed = json.dumps(content)
    write_atomic(cache, packed.encode())
    return packed


def _kept(cache: Path) -> str:
    """The result of an earlier call; "" if it does not exist or cannot be read."""
    try:
        read_json(cache)
    except DataError:
        return ""
    return cache.read_text(encoding="utf-8")


def _networks(runs: Sequence[FinishedRun]) -> list[dict[str, Any]]:
    """Setups and their variants, with display names."""
    variants: dict[Setup, dict[str, None]] = {}
    for run in runs:
        variants.setdefault(run.setup, {})[str(run.variant)] = None
    return [
        {
            "id": setup.text,
            "name": setup.name,
            "variants": [{"id": variant, "name": variant_name(variant)} for variant in found],
        }
        for setup, found in variants.items()
    ]


def slices_per_case(cases: int, slice_size: float, budget: int) -> int:
    """Number of slices per case within the budget, at least `FEWEST_SLICES`."""
    return max(FEWEST_SLICES, int(budget / (cases * slice_size)))


def voxels_per_case(cases: int, voxel_size: float, budget: int) -> int:
    """Number of voxels per case within the budget, from `FEWEST_VOXELS` to `MOST_VOXELS`."""
    return min(max(FEWEST_VOXELS, int(budget / (cases * voxel_size))), MOST_VOXELS)


def chosen_steps(sizes: Sequence[int], spacing: Sequence[float], wanted: int) -> list[int]:
    """Steps along the axes of a volume that keep at most `wanted` voxels; the finest axis is reduced first."""
    steps = [1] * len(sizes)
    while math.prod(math.ceil(size / step) for size, step in zip(sizes, steps, strict=True)) > wanted:
        reducible = [axis for axis, size in enumerate(sizes) if steps[axis] < size]
        steps[min(reducible, key=lambda axis: steps[axis] * spacing[axis])] += 1
    return steps


def chosen_slices(first: int, last: int, wanted: int) -> list[int]:
    """Every n-th slice from first to last: at most `wanted`, but at least `FEWEST_SLICES` if there are enough."""
    span = last - first + 1
    step = max(1, min(math.ceil(span / wanted), span // FEWEST_SLICES))
    return list(range(first, last + 1, step))


def structure_colors(names: Sequence[str]) -> list[dict[str, str]]:
    """Colour of each structure; the left and right structure of a pair have the same colour."""
    pairs = [without_side(name) for name in names]
    places = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
    return [
        {"name": name, "color": PALETTE[places[pair] % len(PALETTE)]} for name, pair in zip(names, pairs, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """Files of a case that is shown.

    Attributes:
        name: Name of the case.
        images: Files of the channels in order.
        predictions: Predicted label maps, by key.
        reference: Reference label map, if there is one.
    """

    name: str
    images: Sequence[Path]
    predictions: Mapping[str, Path]
    reference: Path | None = None


class Packer:
    """Packs cases for the script of the page.

    Args:
        recipe: Recipe, whose view the slices have.
        structures: Label value of each structure, by name.
        colors: Colours of colour masks of references, see `Dataset`.
        gates: Packed spatial gates, by key, from the name of a case, its image and the part that is shown.
    """

    def __init__(
        self,
        recipe: Recipe,
        structures: Mapping[str, int],
        *,
        colors: Mapping[int, Color] | None = None,
        gates: "Callable[[str, Image, Part], Mapping[str, Any]] | None" = None,
    ) -> None:
        self.recipe, self.colors, self.gates = recipe, colors, gates
        values = class_values(structures)
        self.classes = np.zeros(int(values.max()) + 1, np.uint8)
        self.classes[values] = np.arange(len(values))

    def pack_all(
        self, cases: Sequence[CaseFiles], *, budget: int = BUDGET, watch: Watch = UNWATCHED
    ) -> list[dict[str, Any]]:
        """Pack cases until the budget of characters is used up, but at least three."""
        wanted = self._wanted(cases, budget) if cases else 0
        packed: list[dict[str, Any]] = []
        count = watch.counter("viewer")
        for files in cases:
            case = self.pack(files, wanted)
            budget -= len(json.dumps(case))
            if budget < 0 and len(packed) >= 3:
                break
            packed.append(case)
            count(len(packed), len(cases))
        count(len(cases), len(cases))
        return packed

    def _wanted(self, cases: Sequence[CaseFiles], budget: int) -> int:
        """Number of slices or voxels per case within the budget, from the size of the first one."""
        in_planes = self.recipe.view == "volume"
        first = self.pack(cases[0], FEWEST_VOXELS if in_planes else FEWEST_SLICES)
        size, slices = len(json.dumps(first)), len(first["slices"])
        if in_planes:
            return voxels_per_case(len(cases), size / (slices * first["height"] * first["width"]), budget)
        return slices_per_case(len(cases), size / slices, budget)

    def pack(self, files: CaseFiles, wanted: int) -> dict[str, Any]:
        """Pack a case with at most `wanted` slices, see `chosen_slices`, or voxels, see `chosen_steps`.

        Label maps are packed as differences to the reference modulo 256, and without one as they are.
        """
        image = read_image(files.images)
        display = Display.of(image, self.recipe)
        predicted = (read_label(path).array for path in files.predictions.values())
        # the label map that decides what is shown
        main = next(predicted) if files.reference is None else read_label(files.reference, colors=self.colors).array
        in_planes = self.recipe.view == "volume"
        if in_planes:
            part = _volume_part(display, map(self._classes, itertools.chain([main], predicted)), wanted)
        else:
            part = _slices_part(display, main, wanted, margin=MARGIN if files.reference is None else 0)
        shown = self._classes(part.of(main))
        base = np.zeros_like(shown) if files.reference is None else shown
        maps = {
            key: _deflate(self._classes(part.of(read_label(path).array)) - base)  # modulo 256
            for key, path in files.predictions.items()
        }
        pictures = part.pictures(image)
        return {
            "name": files.name,
            "slices": part.slices,
            "count": display.count,
            "height": shown.shape[1],
            "width": shown.shape[2],
            "pixel": display.pixel,
            **(_in_planes(part, shown) if in_planes else {}),
            "images": [_jpeg(_tiled(pictures))] if in_planes else [_jpeg(picture) for picture in pictures],
            "reference": None if files.reference is None else _deflate(shown),
            "maps": maps,
            "gates": self.gates(files.name, image, part) if self.gates else {},
        }

    def _classes(self, labels: NDArray[np.integer]) -> NDArray[np.uint8]:
        # values that belong to no structure, such as that of ignored voxels, are shown as background
        listed = np.where((labels >= 0) & (labels < len(self.classes)), labels, 0)
        classes: NDArray[np.uint8] = self.classes[listed]
        return classes


class _Gates:
    """The spatial gates of a study's runs."""

    def __init__(self, runs: Sequence[FinishedRun], recipe: Recipe) -> None:
        self.runs, self.recipe = runs, recipe
        self.segmenters: dict[Path, Segmenter] = {}

    def of(self, name: str, image: Image, part: "Part") -> dict[str, Any]:
        """Packed gates of a case by the key of the run."""
        runs = [run for run in _runs_of(self.runs, name) if run.variant.has_spatial_gate]
        gates = {_key_of(run): self._gate(run, image, part) for run in runs}
        return {key: gate for key, gate in gates.items() if gate is not None}

    def _gate(self, run: FinishedRun, image: Image, part: "Part") -> dict[str, Any] | None:
        """The spatial gate of the last block that has one."""
        if run.folder not in self.segmenters:
            self.segmenters[run.folder] = run.segmenter()
        blocks = slice_gates(self.segmenters[run.folder], image, part.slices)
        found = [block.spatial for block in blocks if block.spatial is not None]
        if not found:
            return None
        gate = part.display.turn(found[-1])
        if self.recipe.view == "volume":
            gate = gate[:, part.rows, part.columns]
            step = math.ceil(max(gate.shape) / VOLUME_GATE_SIDE)
            gate = gate[::step]
        else:
            step = math.ceil(max(gate.shape[1:3]) / GATE_SIDE)
        gate = gate[:, ::step, ::step]
        low, high = float(gate.min()), float(gate.max())
        levels = np.round((gate - low) / max(high - low, 1e-6) * GATE_LEVELS).astype(np.uint8)
        return {
            "height": gate.shape[1],
            "width": gate.shape[2],
            "low": round(low, 3),
            "high": round(high, 3),
            "levels": _deflate(levels),
        }


@dataclass(frozen=True, slots=True)
class Display:
    """Display of a stored volume in slices: left is left, superior is up, and in axial slices anterior is up.

    Attributes:
        shape: Voxels of the stored volume; (1, height, width) of a picture.
        axes: Stored axes of the slices, and of the rows and columns of a displayed slice.
        flips: Whether the stored order of the slices, rows and columns is reversed for display. Slices are displayed
            in the stored order, those of volumes from anterior to posterior.
        spacing: Millimetres between neighbouring slices, rows and columns.
        is_picture: Whether the image is a picture, which is displayed as stored.
    """

    shape: tuple[int, ...]
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    spacing: tuple[float, float, float]
    is_picture: bool = False

    @classmethod
    def of(cls, image: Image, recipe: Recipe) -> "Display":
        """Choose the display of an image in the plane in which the recipe draws it."""
        axis = view_axis(image, recipe)
        if axis is None:
            return cls((1, *image.shape), (0, 1, 2), (False, False, False), (1.0, 1.0, 1.0), is_picture=True)
        turned = orientation_of(image)
        across, up = sorted((i for i in range(3) if i != axis), key=lambda i: turned[i, 0])
        # rows on the screen count downwards
        backwards = recipe.view == "volume" and bool(turned[axis, 1] > 0)
        flips = (backwards, bool(turned[up, 1] > 0), bool(turned[across, 1] < 0))
        spacing = image.spacing
        return cls(image.shape, (axis, up, across), flips, (spacing[axis], spacing[up], spacing[across]))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of slices, rows and columns."""
        return tuple(self.shape[axis] for axis in self.axes)

    @property
    def count(self) -> int:
        """Number of slices."""
        return self.sizes[0]

    @property
    def pixel(self) -> tuple[float, float]:
        """Width and height of a pixel in mm."""
        return self.spacing[2], self.spacing[1]

    def stored(self, place: int, indices: Iterable[int]) -> list[int]:
        """Stored indices of displayed slices (place 0), rows (1) or columns (2)."""
        return [self.sizes[place] - 1 - index if self.flips[place] else index for index in indices]

    def screen(self, volume: NDArray[Any], slices: Sequence[int]) -> NDArray[Any]:
        """Slices, by stored index, of a stored volume (*spatial) as displayed: (slices, height, width)."""
        if self.is_picture:
            return volume[None]
        return self.turn(np.moveaxis(np.take(volume, slices, axis=self.axes[0]), self.axes[0], 0))

    def turn(self, planes: NDArray[Any]) -> NDArray[Any]:
        """Stored planes (slices, rows, columns) as displayed."""
        _, up, across = self.axes
        upright = planes if up < across else planes.swapaxes(1, 2)
        _, rows, columns = self.flips
        return upright[:, :: -1 if rows else 1, :: -1 if columns else 1]


@dataclass(frozen=True, slots=True)
class Part:
    """The part of an image that is shown.

    Attributes:
        display: Display of the image.
        slices: Stored indices of the slices, in the order of display.
        rows: Rows of a displayed slice.
        columns: Columns of a displayed slice.
    """

    display: Display
    slices: list[int]
    rows: slice
    columns: slice

    def of(self, volume: NDArray[Any]) -> NDArray[Any]:
        """This part of a stored volume (*spatial) as displayed: (slices, height, width)."""
        return self.display.screen(volume, self.slices)[:, self.rows, self.columns]

    def pictures(self, image: Image) -> list[NDArray[np.uint8]]:
        """Grey slices (height, width), or a colour picture (height, width, 3)."""
        channels = image.array if self.display.is_picture and len(image.array) == 3 else image.array[:1]
        windows = [_window(channel) for channel in channels]
        pictures = []
        for index in self.slices:  # one by one, because the whole as float64 may be larger than the image
            one = replace(self, slices=[index])
            grey = [_windowed(one.of(channel)[0], window) for channel, window in zip(channels, windows, strict=True)]
            pictures.append(np.stack(grey, axis=-1) if len(grey) == 3 else grey[0])
        return pictures


def _slices_part(display: Display, labels: NDArray[np.integer], wanted: int, *, margin: float) -> Part:
    """Slices with a structure of a label map (*spatial), and `margin` times as many on either side."""
    last = display.count - 1
    held = None if display.is_picture else _held(labels, display.axes[0])
    first, end = held or (0, last)
    around = math.ceil(margin * (end - first + 1))
    slices = chosen_slices(max(first - around, 0), min(end + around, last), wanted)
    _, height, width = display.sizes
    step = slice(None, None, math.ceil(max(height, width) / LONGEST_SIDE))
    return Part(display, slices, step, step)


def _volume_part(display: Display, labels: Iterable[NDArray[np.uint8]], wanted: int) -> Part:
    """The box around the structures of reference and predictions (*spatial) with a margin, see `chosen_steps`."""
    boxes = np.array([[_held(volume, axis) for axis in display.axes] for volume in labels if volume.any()])
    sizes, spacing = np.array(display.sizes), np.array(display.spacing)
    first, last = (boxes[..., 0].min(0), boxes[..., 1].max(0)) if len(boxes) else (np.zeros(3, int), sizes - 1)
    margin = np.ceil(MARGIN * ((last - first + 1) * spacing).max() / spacing).astype(int)
    first, last = np.maximum(first - margin, 0), np.minimum(last + margin, sizes - 1)
    steps = chosen_steps((last - first + 1).tolist(), display.spacing, wanted)
    # stored indices from first to last are displayed in reverse where the display is flipped
    starts = np.where(display.flips, sizes - 1 - last, first).tolist()
    stops = (starts + last - first + 1).tolist()
    slices, rows, columns = map(slice, starts, stops, steps)
    return Part(display, display.stored(0, range(display.count)[slices]), rows, columns)


def _in_planes(part: Part, shown: NDArray[np.uint8]) -> dict[str, Any]:
    """What the script needs to show a volume (slices, height, width) in three planes.

    Returns:
        `rows`, `columns`: Stored indices of the axial and the sagittal slices, as `slices` of the coronal ones.
        `counts`: Numbers of stored coronal, axial and sagittal slices.
        `voxel`: Millimetres between neighbouring slices, rows and columns.
        `start`: Slice, row and column that contain most voxels of the structures.
        `tiles`: Number of slices beside each other in the image.
    """
    display = part.display
    rows, columns = (range(size)[kept] for size, kept in zip(display.sizes[1:], (part.rows, part.columns), strict=True))
    structures = shown > 0
    areas = [structures.sum(axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]
    steps = (abs(part.slices[1] - part.slices[0]) if len(part.slices) > 1 else 1, rows.step, columns.step)
    return {
        "rows": display.stored(1, rows),
        "columns": display.stored(2, columns),
        "counts": display.sizes,
        "voxel": [round(mm * step, 6) for mm, step in zip(display.spacing, steps, strict=True)],
        "start": [int(area.argmax()) if area.any() else len(area) // 2 for area in areas],
        "tiles": _tiles(shown.shape),
    }


def _tiles(shape: tuple[int, ...]) -> int:
    """Number of slices beside each other for which an image of all slices (slices, height, width) is about square."""
    slices, height, width = shape
    return max(1, round(math.sqrt(slices * height / width)))


def _tiled(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """One image of slices (height, width) beside and below each other, see `_tiles`; unused tiles are black."""
    height, width = pictures[0].shape
    tiles = _tiles((len(pictures), height, width))
    rows = math.ceil(len(pictures) / tiles)
    image = np.zeros((rows * tiles, height, width), np.uint8)
    image[: len(pictures)] = pictures
    return image.reshape(rows, tiles, height, width).swapaxes(1, 2).reshape(rows * height, tiles * width)


def _held(labels: NDArray[np.integer], axis: int) -> tuple[int, int] | None:
    """First and last index along an axis with a label other than 0; None without one."""
    holding = np.flatnonzero(labels.any(axis=tuple(i for i in range(labels.ndim) if i != axis)))
    return (int(holding[0]), int(holding[-1])) if len(holding) else None


def _window(channel: NDArray[np.float32]) -> tuple[float, float]:
    """Values that are shown as black and white."""
    step = math.ceil((channel.size / MOST_MEASURED) ** (1 / channel.ndim))
    measured = channel[(slice(None, None, step),) * channel.ndim]
    foreground = measured[measured > measured.min()]
    low, high = np.percentile(foreground, WINDOW) if foreground.size else (0.0, 1.0)
    return low, high


def _windowed(part: NDArray[np.float32], window: tuple[float, float]) -> NDArray[np.uint8]:
    low, high = window
    levels: NDArray[np.uint8] = (np.clip((part - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    return levels


def _files_of(runs: Sequence[FinishedRun], name: str) -> CaseFiles:
    """The files of a case, with the predictions of all runs that it is a test case of."""
    own = _runs_of(runs, name)
    case = next(case for case in own[0].test if case.name == name)
    if case.label is None:
        raise UserError(f"case {name} has no label map, which the viewer needs as reference")
    predictions = {_key_of(run): label_path(run.folder / "predictions", name, case.images[0]) for run in own}
    return CaseFiles(name, case.images, predictions, case.label)


def _runs_of(runs: Sequence[FinishedRun], name: str) -> list[FinishedRun]:
    return [run for run in runs if any(case.name == name for case in run.test)]


def _key_of(run: FinishedRun) -> str:
    return f"{run.setup.text}|{run.variant}"


def _deflate(array: NDArray[np.uint8]) -> str:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return base64.b64encode(packer.compress(np.ascontiguousarray(array).tobytes()) + packer.flush()).decode()


def _jpeg(picture: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "jpeg", quality=JPEG_QUALITY, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _ranked(scores: pd.DataFrame, runs: Sequence[FinishedRun]) -> list[str]:
    """Cases from worst to best by the Dice of the first variant, averaged over structures and setups."""
    names = {case.name for run in runs for case in run.test}
    rows = scores[
        (scores["metric"] == "dice") & (scores["variant"] == str(runs[0].variant)) & scores["case"].isin(names)
    ]
    rows = rows[rows["seed"] == runs[0].seed]
    each = rows.groupby([*setup_columns(rows), "case"], dropna=False)["value"].mean()
    return list(each.groupby("case").mean().sort_values(kind="stable").index)


def _dice(
    scores: pd.DataFrame, case: str, runs: Sequence[FinishedRun], structures: Mapping[str, int]
) -> dict[str, list[float | None]]:
    """Dice of every structure in every prediction of a case; None if it is absent from prediction and reference."""
    rows = scores[(scores["case"] == case) & (scores["metric"] == "dice") & (scores["seed"] == runs[0].seed)]
    return {
        f"{setup.text}|{variant}": [
            None if math.isnan(value) else round(float(value), 3)
            for value in group.set_index("structure")["value"].reindex(list(structures))
        ]
        for setup, own in per_setup(rows)
        for variant, group in own.groupby("variant", sort=False)
    }


def _key(runs: Sequence[FinishedRun], budget: int) -> str:
    """Key of the cache, which changes with the runs, their scores, and the format of the data."""
    digest = hashlib.sha256(f"{FORMAT} {budget}".encode())
    for run in runs:
        digest.update(f"{run.folder.name} {' '.join(case.name for case in run.test)}".encode())
        digest.update((run.folder / "scores.parquet").read_bytes())
    return digest.hexdigest()[:24]
