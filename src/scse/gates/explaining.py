"""Gates of a trained segmenter for one image, as maps, tables and figures."""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from scse.data.choices import SLICE_AXIS
from scse.data.files import Image, read_image, write_map
from scse.data.recipe import Grid, Slices
from scse.data.resampling import cropped, resized
from scse.data.slicing import drawn_view, orientation_of, view_axis
from scse.data.volumes import written_ending
from scse.gates.computing import SHUT, BlockGates, find_blocks, gates_of
from scse.gates.figures import Sheet, channel_figure, overlay, spatial_figure
from scse.inference.inputs import check_not_in_series, find_images
from scse.inference.segmenter import Segmenter
from scse.support.atomic import named, temporary_folder, write_atomic
from scse.support.errors import UserError
from scse.support.figure_files import save_figure
from scse.support.outputs import check_outputs, marked
from scse.support.text import shortened_list
from scse.vocabulary.titles import network_name, variant_name
from scse.zoo.building import MULTIPLE, Sized

FIGURE_SLICES = 6
"""Number of slices of a volume in the figure."""

CORONAL = SLICE_AXIS["coronal"]

DIRECTIONS = {"sagittal": ("anterior", "superior"), "coronal": ("right", "superior"), "axial": ("right", "anterior")}
"""Directions of the axes of a drawn slice: from left to right, and from bottom to top."""


@dataclass(frozen=True, slots=True)
class Explained:
    """Result of `explain`.

    Attributes:
        blocks: Table with one row for each time that a block ran, and the columns block, kind, identity (see
            `BlockGates`), spatial_mean, spatial_min and spatial_max (over all voxels), channel_mean, channels and
            shut. Values of gates that a block does not have are NaN.
        channels: Table of `channel_gates.csv`, see `explain`.
        files: Paths of the written files.
    """

    blocks: pd.DataFrame
    channels: pd.DataFrame
    files: tuple[Path, ...]

    def rows(self) -> list[tuple[str, ...]]:
        """Text rows of the blocks: block, identity, spatial gate (mean, min, max), channel gate, shut channels."""
        numbers = ["identity", "spatial_mean", "spatial_min", "spatial_max", "channel_mean"]
        return [
            (row["block"], *(_number(row[name]) for name in numbers), _count(row["shut"], row["channels"]))
            for _, row in self.blocks.iterrows()
        ]


def explain(
    model: Segmenter | Path | str,
    image: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    network: str | None = None,
    device: str | torch.device = "auto",
    batch_size: int | None = None,
    series: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Explained:
    """Write the gates of all blocks of a trained network for one image.

    Spatial gates are written as `spatial_BLOCK.nii.gz` with values from 0 to 1 on the voxels of the image (or in the
    image's own format, see docs/formats.md; for a picture, as `spatial_BLOCK.png` with the colours of the gate over the
    picture), and as the figure `spatial_gates`.
    Channel gates are written as `channel_gates.csv` with the columns block, kind, channel, mean, sd, min and max (over
    all slices), change (mean minus the gate that is the identity, see `BlockGates`) and shut (below 0.1 in all slices),
    and as the figure `channel_gates`. Figures are PNG and PDF.

    Args:
        model: A segmenter, or the folder of a segmenter or run.
        image: A file, the files of the channels, or the folder of a DICOM series.
        out: Output folder.
        network: The factory FILE.py:FUNCTION of the segmenter in the folder, if it used your own network.
        device: Device of the network of a segmenter that is loaded from its folder, see `choose_device`.
        batch_size: Number of slices at a time, by default up to 16, as memory allows; number of windows of a volume
            at a time, by default 1.
        series: SeriesInstanceUID or SeriesDescription of the series in a folder of DICOM files; None if it holds one.
        overwrite: Replace files in `out` that scse did not write or that were changed since.
        progress: Called with the numbers of finished and of all slices after each batch.

    Raises:
        DataError: The image or the segmenter cannot be read.
        UserError: The network has no blocks, the image does not fit the model, more than one image is given, `out` is
            a file or the folder of a DICOM series, this machine has no such device, or, without `overwrite`, a file to
            be written exists and was not written by scse.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give a folder for the gates")
    segmenter = model if isinstance(model, Segmenter) else Segmenter.load(model, network=network, device=device)
    if not find_blocks(segmenter.network):
        owner = f"the network {segmenter.name}" if isinstance(model, Segmenter) else f"{model}: its network"
        raise UserError(f"{owner} has no blocks and so no gates; give a segmenter trained with cse, sse, scse or pe")
    paths = _one_image(image, channels=segmenter.recipe.channels, series=series)
    check_not_in_series(out, paths[0], what="its gates")
    source = read_image(paths)
    try:
        prepared = segmenter.recipe.slices(source)
    except ValueError as error:
        raise UserError(f"{paths[0]}: {error}") from error
    grid = prepared.grid
    shown, pictures = _figure_slices(segmenter, prepared)
    sheet = _sheet(segmenter, source, pictures, grid, shown)
    files: list[Path] = []
    rows, drawn = [], {}
    with temporary_folder(out) as scratch, ExitStack() as stack:
        gates = _all_gates(segmenter, prepared, scratch, batch_size, progress)
        drawable = [name for name, block in gates.items() if block.spatial is not None]
        spatial = {name: _spatial_path(out, name, paths[0]) for name in drawable}
        tables = [
            out / f"{name}.{kind}" for name in ("spatial_gates", "channel_gates") for kind in ("png", "pdf", "csv")
        ]
        check_outputs([*spatial.values(), *tables], inputs=paths, overwrite=overwrite)
        stack.enter_context(marked([*spatial.values(), *tables]))
        for name, block in gates.items():
            planes = None if block.spatial is None else _on_plane(segmenter, block.spatial, grid)
            rows.append(_block_row(name, block, planes))
            if planes is None:
                continue
            drawn[name] = _side_by_side(_as_slices(planes)[shown], grid)
            files.append(spatial[name])
            if source.affine is None:
                write_atomic(files[-1], _png(overlay(sheet, drawn[name])))
            else:
                write_map(files[-1], grid.restore(planes), like=paths[0])
        title = f"{network_name(segmenter.name)}, {variant_name(segmenter.variant)}: {paths[0].name}"
        if drawn:
            figure = spatial_figure(sheet, drawn, title=f"Spatial gates of {title}")
            files += save_figure(figure, out / "spatial_gates", ("png", "pdf"))
        channels = _channel_table(gates)
        if len(channels):
            files.append(out / "channel_gates.csv")
            write_atomic(files[-1], channels.to_csv(index=False, float_format="%.6g").encode())
            figure = channel_figure(channels, title=f"Channel gates of {title}")
            files += save_figure(figure, out / "channel_gates", ("png", "pdf"))
    return Explained(pd.DataFrame(rows), channels, tuple(files))


def slice_gates(segmenter: Segmenter, image: Image, slices: Sequence[int]) -> list[BlockGates]:
    """Compute the gates of all blocks for some slices of an image.

    Args:
        segmenter: Segmenter whose network has blocks.
        image: Image, as returned by `read_image`.
        slices: Indices of slices along the stored axis perpendicular to the plane in which images are drawn, see
            `drawn_view`; 0 for a picture.

    Returns:
        The gates in the order in which the blocks run: `channel` (len(slices), C); `spatial` (len(slices), rows,
        columns) on the pixels of the image, each slice oriented like `numpy.take(volume, slice, axis)`. The channel
        gate of a slice that is predicted in several windows is the mean over the windows; slices of a network of
        volumes have the channel gate of the volume.

    Raises:
        UserError: The network has no blocks, the maps of a block do not correspond to the slices, the image does not
            fit the model, or a slice is not in the image.
    """
    prepared = segmenter.recipe.slices(image)
    grid = prepared.grid
    axis = view_axis(image, segmenter.recipe)
    count = 1 if axis is None else image.shape[axis]
    wrong = [index for index in slices if not 0 <= index < count]
    if wrong or not len(slices):
        found = ", ".join(map(str, wrong)) or "none"
        raise UserError(f"slices must be from 0 to {count - 1}, the slices of the image, got {found}")
    backwards = axis is not None and bool(orientation_of(image)[axis, 1] < 0)
    if axis is not None and segmenter.recipe.view == "volume":
        ((_, blocks),) = _batch_gates(segmenter, prepared)
        return [_gates_in_slices(segmenter, block, grid, axis, slices) for block in blocks]
    chosen = [count - 1 - index for index in slices][::-1] if backwards else list(slices)
    # a grid of the stored volume reduced to these slices
    shape = tuple(len(chosen) if place == axis else size for place, size in enumerate(grid.shape))
    reduced = replace(grid, shape=shape)

    def on_image_grid(gates: Sequence[BlockGates]) -> BlockGates:
        """Combine the gates of a block for all batches, on the grid of the image."""
        channel, spatial = _joined(gates), None
        if channel is not None and backwards:
            channel = channel[::-1]
        if gates[0].spatial is not None:
            maps = np.concatenate([part.spatial for part in gates if part.spatial is not None])
            restored = reduced.restore(_on_plane(segmenter, maps, grid))
            spatial = restored[None] if axis is None else np.moveaxis(restored, axis, 0)
        return replace(gates[0], channel=channel, spatial=spatial)

    batches = [gates for _, gates in _batch_gates(segmenter, prepared[chosen])]
    return [on_image_grid(gates) for gates in zip(*batches, strict=True)]


def _gates_in_slices(
    segmenter: Segmenter, gates: BlockGates, grid: Grid, axis: int, slices: Sequence[int]
) -> BlockGates:
    """The gates of a volume in some of its stored slices."""
    channel = None if gates.channel is None else np.repeat(gates.channel, len(slices), axis=0)
    if gates.spatial is None:
        return replace(gates, channel=channel)
    restored = grid.restore(_on_plane(segmenter, gates.spatial, grid))
    return replace(gates, channel=channel, spatial=np.moveaxis(np.take(restored, slices, axis), axis, 0))


def _as_slices(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The coronal slices (slices, x, z) of a volume (1, x, y, z); slices and pictures as they are."""
    return np.moveaxis(planes[0], CORONAL, 0) if planes.ndim == 4 else planes


def _on_plane(segmenter: Segmenter, maps: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """Maps of prepared slices (slices, *spatial) -> (slices, *plane)."""
    planes: NDArray[np.float32] = segmenter.recipe.to_plane(torch.from_numpy(maps)[:, None], grid)[:, 0].numpy()
    return planes


def _batch_gates(
    segmenter: Segmenter,
    slices: Slices | NDArray[np.float32],
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, list[BlockGates]]]:
    """Gates of prepared slices (slices, C, *spatial) in batches: index of the first slice, gates of the blocks.

    Spatial gates are resampled to the size of the slices.
    """
    for start, batch in segmenter.batches(slices, batch_size, progress):
        calls: list[list[BlockGates]] = []

        def forward(windows: Tensor, calls: list[list[BlockGates]] = calls) -> Tensor:
            calls.append(gates_of(segmenter.network, windows))
            maps = [_whole_map(segmenter, gates, windows) for gates in calls[-1] if gates.spatial is not None]
            return torch.cat(maps, 1) if maps else torch.zeros_like(windows[:, :1])

        with torch.inference_mode():
            maps = iter(segmenter.in_windows(batch, forward, batch_size=batch_size).cpu().numpy().swapaxes(0, 1))
        blocks = []
        for windows in zip(*calls, strict=True):
            channel = [gates.channel for gates in windows if gates.channel is not None]
            blocks.append(
                replace(
                    windows[0],
                    where=_inner_name(segmenter, windows[0].where),
                    channel=_mean_of_windows(np.concatenate(channel), len(batch)) if channel else None,
                    spatial=None if windows[0].spatial is None else next(maps),
                )
            )
        yield start, blocks


def _whole_map(segmenter: Segmenter, gates: BlockGates, windows: Tensor) -> Tensor:
    """A spatial gate resampled to the size of its windows: (N, 1, *spatial)."""
    spatial = torch.as_tensor(gates.spatial, device=windows.device)
    if spatial.ndim != windows.ndim - 1 or len(spatial) != len(windows):
        raise UserError(
            f"the block at {gates.where!r} recalibrates {len(spatial)} maps of size {tuple(spatial.shape[1:])} for "
            f"{len(windows)} slices, so its gate cannot be drawn over them; scse.gates_of returns the gate itself"
        )
    sizes = windows.shape[2:]
    multiple = MULTIPLE if isinstance(segmenter.network, Sized) else 1  # the maps also cover the network's padding
    return cropped(resized(spatial[:, None], [size + -size % multiple for size in sizes]), sizes)


def _mean_of_windows(channel: NDArray[np.float32], slices: int) -> NDArray[np.float32]:
    """Average channel gates over windows: (slices * windows, C) -> (slices, C)."""
    mean: NDArray[np.float32] = channel.reshape(slices, -1, channel.shape[1]).mean(1)
    return mean


def _inner_name(segmenter: Segmenter, where: str) -> str:
    """The name of a module in the network without its wrapper, as `attach` names it."""
    return where.removeprefix("network.") if isinstance(segmenter.network, Sized) else where


def _all_gates(
    segmenter: Segmenter,
    slices: Slices,
    scratch: Path,
    batch_size: int | None,
    progress: Callable[[int, int], None] | None,
) -> dict[str, BlockGates]:
    """Gates of all slices, by block name. Spatial gates are in memory-mapped files to save memory."""
    shapes: dict[str, tuple[int, ...]] = {}
    files: dict[str, Path] = {}
    parts: dict[str, list[BlockGates]] = {}
    for start, blocks in _batch_gates(segmenter, slices, batch_size, progress):
        for name, block in zip(_names(blocks), blocks, strict=True):
            parts.setdefault(name, []).append(replace(block, spatial=None))
            if block.spatial is None:
                continue
            shapes[name] = (start + len(block.spatial), *block.spatial.shape[1:])
            file = files.setdefault(name, scratch / str(len(files)))
            # written as a file, because writing to a mapped file on a full disk would kill the process
            with named(file), file.open("ab") as end:
                end.write(np.ascontiguousarray(block.spatial, np.float32).data)
    spatial = {name: np.memmap(file, np.float32, "c", shape=shapes[name]) for name, file in files.items()}
    return {
        name: replace(blocks[0], channel=_joined(blocks), spatial=spatial.get(name)) for name, blocks in parts.items()
    }


def _joined(parts: Sequence[BlockGates]) -> NDArray[np.float32] | None:
    channel = [part.channel for part in parts if part.channel is not None]
    return np.concatenate(channel) if channel else None


def _names(blocks: Sequence[BlockGates]) -> list[str]:
    """Unique names for blocks; a block that ran several times has several names."""
    names: list[str] = []
    for block in blocks:
        name, times = block.where or "model", 1
        while name in names:
            times += 1
            name = f"{block.where or 'model'} ({times})"
        names.append(name)
    return names


def _spatial_path(out: Path, name: str, source: Path) -> Path:
    return out / f"spatial_{_file_name(name)}{written_ending(source)}"


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-")


def _one_image(image: Path | str | Sequence[Path | str], *, channels: int, series: str | None) -> list[Path]:
    paths = [Path(image)] if isinstance(image, str | Path) else [Path(path) for path in image]
    images = find_images(paths, channels=channels, series=series)
    if len(images) != 1:
        raise UserError(f"only one image can be explained at a time, got {shortened_list(images)}; give one of them")
    (files,) = images.values()
    return files


def _figure_slices(segmenter: Segmenter, prepared: Slices) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Slices for the figure, spread evenly over those that are not blank: indices, and images (slices, *plane)."""
    volume = None
    if segmenter.recipe.view == "volume":
        volume = _as_slices(_on_plane(segmenter, prepared[:].mean(1), prepared.grid))
    count = len(prepared) if volume is None else len(volume)
    parts = (prepared[n : n + 1] if volume is None else volume[n] for n in range(count))
    filled = np.flatnonzero([np.ptp(part) > 0 for part in parts])
    filled = filled if len(filled) else np.arange(count)
    places = np.linspace(0, len(filled) - 1, FIGURE_SLICES + 2)[1:-1].round().astype(int)
    chosen: NDArray[np.intp] = filled[np.unique(places)]
    pictures = _on_plane(segmenter, prepared[chosen].mean(1), prepared.grid) if volume is None else volume[chosen]
    return chosen, pictures


def _sheet(
    segmenter: Segmenter, source: Image, pictures: NDArray[np.float32], grid: Grid, shown: NDArray[np.intp]
) -> Sheet:
    image = _side_by_side(pictures, grid)
    axis = view_axis(source, segmenter.recipe)
    if axis is None:
        return Sheet(image, (), ("columns (pixels)", "rows (pixels)"), 1.0)
    turned = orientation_of(source)
    slices = tuple(int(source.shape[axis] - 1 - index if turned[axis, 1] < 0 else index) for index in shown)
    view = drawn_view(segmenter.recipe)
    right, up = DIRECTIONS[view]
    across, along = np.delete(source.spacing, axis)[np.delete(turned[:, 0], axis).argsort()]
    labels = f"{view} slices; {right} \N{RIGHTWARDS ARROW}", f"{up} \N{RIGHTWARDS ARROW}"
    return Sheet(image, slices, labels, along / across)


def _side_by_side(planes: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """Join slices (slices, *plane) to one image. Slices of volumes are drawn with superior or anterior at the top."""
    if grid.to_view is not None:
        planes = planes.swapaxes(1, 2)[:, ::-1]
    return np.concatenate(planes, axis=1)


def _block_row(name: str, block: BlockGates, planes: NDArray[np.float32] | None) -> dict[str, str | float]:
    """A row of `Explained.blocks`; `planes` is the spatial gate on the pixels of the image."""
    channel = block.channel
    return {
        "block": name,
        "kind": block.block,
        "identity": block.identity,
        "spatial_mean": np.nan if planes is None else float(planes.mean()),
        "spatial_min": np.nan if planes is None else float(planes.min()),
        "spatial_max": np.nan if planes is None else float(planes.max()),
        "channel_mean": np.nan if channel is None else float(channel.mean()),
        "channels": np.nan if channel is None else channel.shape[1],
        "shut": np.nan if channel is None else int(_shut(channel).sum()),
    }


def _shut(channel: NDArray[np.float32]) -> NDArray[np.bool_]:
    shut: NDArray[np.bool_] = channel.max(0) < SHUT
    return shut


def _channel_table(gates: dict[str, BlockGates]) -> pd.DataFrame:
    """Table with one row for each channel of each block."""
    tables = []
    for name, block in gates.items():
        if block.channel is not None:
            mean = block.channel.mean(0)
            columns = {
                "block": name,
                "kind": block.block,
                "channel": np.arange(len(mean)),
                "mean": mean,
                "sd": block.channel.std(0),
                "min": block.channel.min(0),
                "max": block.channel.max(0),
                "change": mean - block.identity,
                "shut": _shut(block.channel),
            }
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "-"


def _count(some: float, of: float) -> str:
    return f"{some:.0f} of {of:.0f}" if np.isfinite(of) else "-"
