"""Data of the report's viewer: slices of test cases with reference, predictions and spatial gates."""

import base64
import hashlib
import io
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
from numpy.typing import NDArray

from scse.data.dataset import Case
from scse.data.descriptions import Color
from scse.data.files import Image, read_image, read_label
from scse.data.prepared import class_values
from scse.data.recipe import Recipe
from scse.data.slicing import drawn_view, orientation_of, spread, view_axis
from scse.evaluation.setups import per_setup, setup_columns
from scse.gates.explaining import slice_gates
from scse.inference.finished import FinishedRun
from scse.inference.segmenter import Segmenter
from scse.support.atomic import write_atomic
from scse.support.errors import DataError, UserError
from scse.support.events import UNWATCHED, Stage, Watch
from scse.support.json_files import read_json
from scse.vocabulary.sides import without_side
from scse.vocabulary.titles import Setup, variant_name

FORMAT = 2
"""Version of the packed data, increased when their format changes, so that older data are not reused."""

BUDGET = 5_500_000
"""Most characters that the viewer adds to the page."""

FEWEST_SLICES = 12
"""Least number of slices of a case; if they exceed the budget, cases are left out."""

LONGEST_SIDE, GATE_SIDE = 384, 96
"""Longest side in pixels of stored images and gates; larger ones are reduced to every second, third, ... pixel."""

GATE_LEVELS = 31
JPEG_QUALITY = 72
WINDOW = (0.5, 99.5)
"""Percentiles of the voxels above the minimum that are shown as black and white."""

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
    colors: Mapping[int, Color] | None = None,
    cache: Path,
    budget: int = BUDGET,
    watch: Watch = UNWATCHED,
) -> str:
    """Pack the data of the viewer, or read them from the cache.

    Every n-th slice with a structure is shown of each case, where n is the least number for which all cases fit into
    the budget, but with at least 12 slices per case. If these exceed the budget, only the worst, the median and the
    best case and an even selection between them are shown, ordered by the Dice of the plain variant, or without it of
    the first variant (mean over setups).

    Args:
        runs: Runs of the study; those of the first seed are shown.
        scores: Scores of the study.
        recipe: Recipe, whose view the slices have.
        structures: Label value of each structure, by name.
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
    count = watch.counter("viewer")
    packer = _Packer(shown, recipe, structures, colors)
    ranked = _ranked(scores, shown)
    order = spread(len(ranked))
    first = packer.pack(ranked[order[0]], FEWEST_SLICES)
    wanted = slices_per_case(len(ranked), len(json.dumps(first)) / len(first["slices"]), budget)
    cases: dict[int, dict[str, Any]] = {}
    left = budget
    for place in order:
        case = packer.pack(ranked[place], wanted)
        left -= len(json.dumps(case))
        if left < 0 and len(cases) >= 3:
            break
        cases[place] = {**case, "dice": _dice(scores, ranked[place], shown, structures)}
        count(len(cases), len(order))
    count(len(order), len(order))
    places = sorted(cases)
    picked = dict(zip(("worst", "best", "median"), map(places.index, order), strict=False))
    content = {
        "key": key,
        "networks": _networks(shown),
        "structures": structure_colors(list(structures)),
        "cases": [cases[place] for place in places],
        "left_out": len(ranked) - len(cases),
        "picked": {name: picked[name] for name in ("worst", "median", "best") if name in picked},
        "by": variant_name(str(shown[0].variant)),
        "seed": shown[0].seed,
        "gate_levels": GATE_LEVELS,
        "view": drawn_view(recipe),
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


class _Packer:
    """Packs the cases of a study."""

    def __init__(
        self,
        runs: Sequence[FinishedRun],
        recipe: Recipe,
        structures: Mapping[str, int],
        colors: Mapping[int, Color] | None,
    ) -> None:
        self.runs, self.recipe, self.colors = runs, recipe, colors
        values = class_values(structures)
        self.classes = np.zeros(int(values.max()) + 1, np.uint8)
        self.classes[values] = np.arange(len(values))
        self.segmenters: dict[Path, Segmenter] = {}

    def pack(self, name: str, wanted: int) -> dict[str, Any]:
        """Pack a case with at most `wanted` slices, see `chosen_slices`."""
        runs = [run for run in self.runs if any(case.name == name for case in run.test)]
        case = next(case for case in runs[0].test if case.name == name)
        image = read_image(case.images)
        plane = _Plane.of(image, self.recipe)
        reference = read_label(_label_path(case), colors=self.colors).array
        holding = np.flatnonzero(reference.any(axis=tuple(i for i in range(reference.ndim) if i != plane.axis)))
        ends = (int(holding[0]), int(holding[-1])) if len(holding) and not plane.is_picture else (0, plane.count - 1)
        slices = chosen_slices(*ends, wanted)
        truth = plane.screen(reference, slices)
        step = math.ceil(max(truth.shape[1:]) / LONGEST_SIDE)
        shown = self._classes(truth[:, ::step, ::step])
        maps, gates = {}, {}
        for run in runs:
            key = f"{run.setup.text}|{run.variant}"
            predicted = plane.screen(read_label(_prediction(run, name)).array, slices)[:, ::step, ::step]
            maps[key] = _deflate(self._classes(predicted) - shown)  # modulo 256
            if run.variant.has_spatial_gate and (gate := self._gate(run, image, plane, slices)) is not None:
                gates[key] = gate
        return {
            "name": name,
            "slices": slices,
            "count": plane.count,
            "height": shown.shape[1],
            "width": shown.shape[2],
            "pixel": plane.pixel,
            "images": [_jpeg(picture[::step, ::step]) for picture in plane.pictures(image, slices)],
            "reference": _deflate(shown),
            "maps": maps,
            "gates": gates,
        }

    def _classes(self, labels: NDArray[np.integer]) -> NDArray[np.uint8]:
        # values that belong to no structure, such as that of ignored voxels, are shown as background
        listed = np.where((labels >= 0) & (labels < len(self.classes)), labels, 0)
        classes: NDArray[np.uint8] = self.classes[listed]
        return classes

    def _gate(self, run: FinishedRun, image: Image, plane: "_Plane", slices: list[int]) -> dict[str, Any] | None:
        """The spatial gate of the last block that has one."""
        if run.folder not in self.segmenters:
            self.segmenters[run.folder] = run.segmenter()
        found = [g.spatial for g in slice_gates(self.segmenters[run.folder], image, slices) if g.spatial is not None]
        if not found:
            return None
        gate = plane.turn(found[-1])
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
class _Plane:
    """Display of slices of a stored volume: left is left, and superior (in axial slices anterior) is up.

    Attributes:
        axis: Axis of the stored volume perpendicular to the slices.
        count: Number of slices.
        upright: Whether the first axis of a slice is vertical.
        flips: Whether the horizontal and the vertical axis must be reversed for display.
        pixel: Width and height of a pixel in mm.
        is_picture: Whether the image is a picture, which is displayed as stored.
    """

    axis: int
    count: int
    upright: bool
    flips: tuple[bool, bool]
    pixel: tuple[float, float]
    is_picture: bool = False

    @classmethod
    def of(cls, image: Image, recipe: Recipe) -> "_Plane":
        axis = view_axis(image, recipe)
        if axis is None:
            return cls(axis=0, count=1, upright=True, flips=(False, False), pixel=(1.0, 1.0), is_picture=True)
        turned = orientation_of(image)
        others = [i for i in range(3) if i != axis]
        across, up = sorted(others, key=lambda i: turned[i, 0])
        # rows on the screen count downwards
        flips = (bool(turned[across, 1] < 0), bool(turned[up, 1] > 0))
        spacing = image.spacing
        return cls(axis, image.shape[axis], across == others[1], flips, (spacing[across], spacing[up]))

    def screen(self, volume: NDArray[Any], slices: Sequence[int]) -> NDArray[Any]:
        """Slices of a stored volume (*spatial) as displayed: (slices, height, width)."""
        if self.is_picture:
            return volume[None]
        return self.turn(np.moveaxis(np.take(volume, slices, axis=self.axis), self.axis, 0))

    def turn(self, planes: NDArray[Any]) -> NDArray[Any]:
        """Stored planes (slices, rows, columns) as displayed."""
        upright = planes if self.upright else planes.swapaxes(1, 2)
        across, up = self.flips
        return upright[:, :: -1 if up else 1, :: -1 if across else 1]

    def pictures(self, image: Image, slices: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Grey slices (height, width), or a colour picture (height, width, 3)."""
        channels = image.array if self.is_picture and len(image.array) == 3 else image.array[:1]
        grey = [self.screen(_windowed(channel), slices) for channel in channels]
        return list(np.stack(grey, axis=-1) if len(grey) == 3 else grey[0])


def _windowed(channel: NDArray[np.float32]) -> NDArray[np.uint8]:
    foreground = channel[channel > channel.min()]
    low, high = np.percentile(foreground, WINDOW) if foreground.size else (0.0, 1.0)
    levels: NDArray[np.uint8] = (np.clip((channel - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    return levels


def _label_path(case: Case) -> Path:
    if case.label is None:
        raise UserError(f"case {case.name} has no label map, which the viewer needs as reference")
    return case.label


def _prediction(run: FinishedRun, name: str) -> Path:
    folder = run.folder / "predictions"
    volume = folder / f"{name}.nii.gz"
    return volume if volume.exists() else folder / f"{name}.png"


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
