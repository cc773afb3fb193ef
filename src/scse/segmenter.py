"""A trained model as one thing: the network, how its input is prepared, and what its labels mean."""

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import nn

from scse.atomic import write_atomic
from scse.attachment.placements import placements
from scse.attachment.saving import own_copies
from scse.data.files import NIFTI, Image, ending, read_image, write_label
from scse.data.prepared import class_values
from scse.data.recipe import Recipe
from scse.errors import DataError, in_short
from scse.networks.library import Sized, build_network, check_network, find_maker, named_again

FORMAT = 1
WEIGHTS, DESCRIPTION = "weights.safetensors", "segmenter.json"
WINDOW_OVERLAP = 0.5


@dataclass(frozen=True)
class Segmenter:
    """A trained network with its recipe and its structures.

    Attributes:
        network: takes (N, channels, height, width), returns logits (N, classes, height, width).
        name: of the network, see `scse.networks.library.check_network`.
        arguments: that it was built with.
        variant: "none", "cse", "sse" or "scse".
        recipe: how images are prepared.
        structures: name -> label value; class n is the n-th structure, class 0 the background.
        settings: of the training, as it was run; for the record.
    """

    network: nn.Module
    name: str
    arguments: Mapping[str, int]
    variant: str
    recipe: Recipe
    structures: Mapping[str, int]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path | str) -> Path:
        """Write the segmenter into a folder: weights.safetensors and segmenter.json.

        Returns:
            The folder.
        """
        folder = Path(folder)
        description = {
            "format": FORMAT,
            "network": self.name,
            "arguments": dict(self.arguments),
            "variant": self.variant,
            "recipe": self.recipe.model_dump(mode="json"),
            "structures": dict(self.structures),
            "settings": dict(self.settings),
        }
        if isinstance(self.network, Sized):
            # the names themselves: what "auto" or a pattern chose may change, these weights do not
            description["attached"] = list(placements(self.network.network).names)
        write_atomic(folder / WEIGHTS, save(own_copies(self.network.state_dict())))
        write_atomic(folder / DESCRIPTION, json.dumps(description, indent=2).encode())
        return folder

    @classmethod
    def load(cls, folder: Path | str, *, network: str | None = None, device: str | torch.device = "cpu") -> "Segmenter":
        """Read a segmenter; nothing that a folder names is run or fetched.

        Networks of scse and listed ones of libraries are built by name from fixed tables, without pretrained weights.

        Args:
            folder: as `save` wrote it, or a run that holds it as `segmenter`.
            network: the factory FILE.py:FUNCTION that the segmenter was trained with, if it is one of your own.
            device: where the network goes.

        Raises:
            DataError: the folder holds no segmenter, or one that this version cannot read.
            ValueError: its network is a factory in a file and not named, or another one is named, or the library that
                it is from is missing.
        """
        folder = Path(folder)
        folder = folder / "segmenter" if (folder / "segmenter" / DESCRIPTION).is_file() else folder
        for name in (DESCRIPTION, WEIGHTS):
            if not (folder / name).is_file():
                remedy = f"give the folder of a trained segmenter, with {WEIGHTS} and {DESCRIPTION}"
                raise DataError(f"{folder}: holds no segmenter, {name} is missing; {remedy}")
        with _readable(folder):
            description = json.loads((folder / DESCRIPTION).read_text())
            if description["format"] != FORMAT:
                raise ValueError(f"its format is {description['format']}, this version reads {FORMAT}")
            check_network(description["network"])
        name = named_again(folder, description["network"], network)
        find_maker(check_network(name), pretrained=False)  # what is missing on this machine is no fault of the folder
        with _readable(folder):
            recipe = Recipe.model_validate(description["recipe"])
            built = build_network(
                name,
                description["arguments"],
                variant=description["variant"],
                size=recipe.patch,
                attach_to="|".join(description.get("attached", ["auto"])),
                pretrained=False,
            )
            built.load_state_dict(load_file(folder / WEIGHTS))
            segmenter = cls(
                network=built,
                name=name,
                arguments=description["arguments"],
                variant=description["variant"],
                recipe=recipe,
                structures=dict(description["structures"]),
                settings=dict(description["settings"]),
            )
            if len(segmenter.structures) + 1 != segmenter.arguments["classes"]:
                found = f"{len(segmenter.structures)} structures and {segmenter.arguments['classes']} classes"
                raise ValueError(f"it lists {found}, where the background is one class more than the structures")
        built.to(device).to(memory_format=torch.channels_last).eval()
        return segmenter

    def predict(
        self,
        source: Path | str | Sequence[Path | str] | nib.spatialimages.SpatialImage | NDArray[Any],
        *,
        spacing: Sequence[float] | None = None,
        batch_size: int = 16,
    ) -> Any:
        """Segment one image.

        Args:
            source: a file, the files of the channels in order, a nibabel image, or an array (C, *spatial), or
                (*spatial) for one channel, whose axes point right, anterior, superior.
            spacing: mm per voxel along each spatial axis; for arrays of volumes only, 1 mm by default.
            batch_size: slices at a time.

        Returns:
            For NIfTI files and nibabel images, a nibabel image of the label values with the input's shape,
            affine and orientation; for pictures and arrays, an integer array of the spatial shape.

        Raises:
            DataError: a file cannot be read.
            ValueError: the image does not fit the model, or `spacing` is given for something that has its own.
        """
        if isinstance(source, np.ndarray):
            return self.predict_image(_from_array(source, spacing, self.recipe), batch_size=batch_size)
        if spacing is not None:
            raise ValueError("spacing goes with arrays only; files and nibabel images have their own")
        if isinstance(source, nib.spatialimages.SpatialImage):
            return _like(source, self.predict_image(_from_nibabel(source), batch_size=batch_size))
        paths = [Path(source)] if isinstance(source, str | Path) else [Path(path) for path in source]
        labels = self.predict_image(read_image(paths), batch_size=batch_size)
        if ending(paths[0].name) not in NIFTI:
            return labels
        header: Any = nib.load(paths[0])
        return _like(header, labels)

    def predict_files(
        self,
        images: Mapping[str, Sequence[Path]],
        out: Path,
        *,
        batch_size: int = 16,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[str]:
        """Segment many images; one that cannot be segmented does not keep the others from being written.

        Args:
            images: name -> file, or the files of the channels in order.
            out: folder of the label maps NAME.nii.gz, or NAME.png for pictures.
            batch_size: slices at a time.
            progress: called with (done, of how many) images.

        Returns:
            What went wrong, a message for each image that failed.
        """
        failed = []
        for done, (name, paths) in enumerate(images.items(), start=1):
            try:
                image = read_image(paths)
                labels = self.predict_image(image, batch_size=batch_size)
                write_prediction(out, name, labels, paths[0], image)
            except DataError as error:
                failed.append(str(error))
            except ValueError as error:
                failed.append(f"{paths[0]}: {error}")
            if progress is not None:
                progress(done, len(images))
        return failed

    def predict_image(
        self, image: Image, *, batch_size: int = 16, progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.integer]:
        """Label values of an image in its own geometry, slice by slice: (C, *spatial) -> (*spatial).

        Args:
            image: as `read_image` returns it.
            batch_size: slices at a time, which bounds the memory.
            progress: called with (done, of how many) slices.

        Raises:
            ValueError: the image does not fit the model.
        """
        slices, grid = self.recipe.image_slices(image)
        labels = np.empty((len(slices), *grid.plane), np.uint8)
        for start in range(0, len(slices), batch_size):
            batch = slices[start : start + batch_size]
            labels[start : start + batch_size] = self.recipe.restore(self._probabilities(batch), grid)
            if progress is not None:
                progress(min(start + batch_size, len(slices)), len(slices))
        values = class_values(self.structures)
        return grid.restore(values.astype(np.min_scalar_type(int(values.max())))[labels])

    def _probabilities(self, batch: torch.Tensor) -> torch.Tensor:
        device = next(self.network.parameters()).device
        batch = batch.to(device).contiguous(memory_format=torch.channels_last)
        self.network.eval()
        with torch.inference_mode():
            # windows of the training patch, because the squeeze of cSE shifts on inputs of another extent
            logits = sliding_window_inference(
                batch, self.recipe.patch, len(batch), self.network, overlap=WINDOW_OVERLAP, mode="gaussian"
            )
        return torch.as_tensor(logits).float().softmax(1).cpu()


@contextmanager
def _readable(folder: Path) -> Generator[None]:
    """Tell what a damaged file leads to, which can be almost any error, as one DataError."""
    try:
        yield
    except Exception as error:
        raise DataError(
            f"{folder}: holds no segmenter that can be read ({in_short(error)}); train or copy it again"
        ) from error


def write_prediction(folder: Path, name: str, labels: NDArray[np.integer], source: Path, image: Image) -> Path:
    """Write a label map as NAME.nii.gz with the header of `source`, or as NAME.png for pictures; returns the path."""
    volume = image.affine is not None
    path = folder / f"{name}{'.nii.gz' if volume else '.png'}"
    if path.resolve() == source.resolve():
        raise ValueError("its label map would replace the image itself; choose another folder")
    write_label(path, labels, like=source if volume else None)
    return path


def _from_array(array: NDArray[Any], spacing: Sequence[float] | None, recipe: Recipe) -> Image:
    axes = 2 if recipe.view == "picture" else 3
    channels = array[None] if array.ndim == axes else array
    if channels.ndim != axes + 1:
        raise ValueError(f"the model takes arrays of {axes} spatial axes, channels first, got shape {array.shape}")
    if axes == 2:
        if spacing is not None:
            raise ValueError(f"the model takes pictures, which have no spacing, got {tuple(spacing)}; leave it out")
        return Image(channels.astype(np.float32), None)
    spacing = (1.0,) * axes if spacing is None else tuple(spacing)
    if len(spacing) != axes or not all(mm > 0 for mm in spacing):
        raise ValueError(f"spacing must be {axes} positive numbers of mm, got {spacing}")
    return Image(channels.astype(np.float32), np.diag([*spacing, 1.0]))


def _from_nibabel(image: nib.spatialimages.SpatialImage) -> Image:
    array = np.asarray(image.dataobj, dtype=np.float32)
    channels = np.moveaxis(array, 3, 0) if array.ndim == 4 else array[None]
    return Image(channels, np.asarray(image.affine, np.float64))


def _like(image: nib.spatialimages.SpatialImage, labels: NDArray[np.integer]) -> nib.spatialimages.SpatialImage:
    header = image.header.copy()
    header.set_data_dtype(labels.dtype)
    if hasattr(header, "set_slope_inter"):
        header.set_slope_inter(1, 0)
    if isinstance(header, nib.Nifti1Header):
        header["cal_min"] = header["cal_max"] = 0  # the image's display window would hide the labels
    return type(image)(labels, image.affine, header)
