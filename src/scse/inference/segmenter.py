"""Trained segmenters: a network, the preparation of its input, and the meaning of its labels."""

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from scse.attachment.placements import placements
from scse.attachment.saving import check_fit, load_exactly, own_copies, read_tensors
from scse.data.files import Image, read_image, write_label
from scse.data.nifti import in_millimetres
from scse.data.prepared import class_values
from scse.data.recipe import Grid, Recipe, Slices
from scse.data.schemes import LabelScheme
from scse.data.volumes import choose_series, is_dicom, open_volume, written_ending
from scse.inference.cards import card_of_segmenter
from scse.inference.cleaning import clean
from scse.inference.devices import choose_device, free_memory, to_device
from scse.inference.engines import Engine, Run, make_engine
from scse.inference.hub import download, local_folder, upload
from scse.inference.inputs import check_not_in_series
from scse.inference.pipeline import each_image
from scse.inference.saved import (
    DESCRIPTION,
    FORMAT,
    NO_CLEANING,
    REMEDY,
    WEIGHTS,
    Cleaning,
    Known,
    read_saved,
    readable,
)
from scse.inference.saved_recipe import read_recipe
from scse.inference.squeezing import check_squeeze, gathered, local_scores
from scse.inference.volume_table import IMAGE, check_table, open_table
from scse.inference.windows import (
    CHANNELS_LAST,
    Room,
    bands_of,
    blended_rows,
    channels_last,
    in_band,
    in_windows,
    windows_of,
)
from scse.support.atomic import write_together
from scse.support.checks import check_choice, check_positive
from scse.support.errors import UserError
from scse.support.extras import needing
from scse.support.outputs import check_outputs, marked
from scse.vocabulary.options import check_size
from scse.vocabulary.variants import Variant
from scse.zoo.building import Sized, build_network, find_factory
from scse.zoo.catalogue import confirm_network, read_network

MOST_SLICES = 16
"""Most slices predicted at a time; more are not faster."""

LEAST_MEMORY = 2**28
"""Bytes that the network may use on the CPU in any case; on larger volumes it may use as many as the volume."""

TIMED_WINDOWS = 8
"""Number of windows on which engines are timed."""

CLEANINGS = ("learned", "none", "largest")
"""Names of the clean-ups that a segmenter can apply."""

W = TypeVar("W", bound=np.generic)

Progress = Callable[[int, int], None]
Label = Callable[[int | None, Progress | None], NDArray[np.integer]]
"""Function from the batch size and a progress callback to the label values (*spatial) of an image, called once."""

Restore = Callable[[NDArray[Any], int | None, Progress | None], NDArray[Any]]
"""Function from the value of each class, the batch size and a progress callback to the values (*spatial) of voxels."""


@dataclass(frozen=True)
class Segmenter:
    """A trained network with its recipe and its structures.

    Attributes:
        network: Network from images (N, channels, *spatial) to logits (N, classes, *spatial).
        name: Name of the network, see `scse.zoo.catalogue.read_network`.
        arguments: Arguments of the network.
        variant: "none", "cse", "sse", "scse" or "pe", with or without options, see `scse.variants`.
        recipe: Preparation of images.
        structures: Label value of each structure, by name; class n is the n-th structure, class 0 the background.
        settings: Settings of the training, for the record.
        engine: Engine that runs the network in prediction, see `with_engine`; None is torch.
        squeeze: Where cSE pools in prediction of volumes, see `with_squeeze`.
        cleaning: Clean-up of predicted label maps, see `with_cleaning`; none by default.
        regions: Label values of each structure, by name, if structures are regions of labels that may overlap: output n
            of the network is then the n-th structure, and there is none for the background. Empty otherwise.
        known: What the training cases had, with which results are compared in tables of volumes; None if it is not
            known.
    """

    network: nn.Module
    name: str
    arguments: Mapping[str, int]
    variant: str
    recipe: Recipe
    structures: Mapping[str, int]
    settings: Mapping[str, Any] = field(default_factory=dict)
    engine: Engine | None = None
    squeeze: str = "window"
    cleaning: Cleaning = NO_CLEANING
    regions: Mapping[str, Sequence[int]] = field(default_factory=dict)
    known: Known | None = None

    def __post_init__(self) -> None:
        """Check that regions have no clean-up.

        Raises:
            UserError: They have.
        """
        if self.regions and self.cleaning:
            raise UserError(
                f"cleaning ({self.cleaning}) is for exclusive structures, and those of this segmenter are regions of "
                "labels, of which a label map shows only parts; leave it out"
            )

    @property
    def scheme(self) -> LabelScheme:
        """The meaning of the outputs of the network."""
        return LabelScheme(self.structures, self.regions)

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
            "classes": list(self.structures),  # the order of structures, because programs may reorder keys of objects
            "settings": dict(self.settings),
        }
        if isinstance(self.network, Sized):
            # the names of modules, because the modules that "auto" or a pattern selects may change between versions
            description["attached"] = list(placements(self.network.network).names)
            if self.network.fitted:
                description["fitted"] = True
        if self.regions:
            description["regions"] = {name: list(members) for name, members in self.regions.items()}
        if self.cleaning:
            description["cleaning"] = self.cleaning.model_dump(mode="json")
        if self.known is not None:
            description["known"] = self.known.model_dump(mode="json")
        # networks in half precision are saved and loaded in single precision
        tensors = {k: v.float() if v.is_floating_point() else v for k, v in self.network.state_dict().items()}
        weights = save(own_copies(tensors))
        write_together({folder / WEIGHTS: weights, folder / DESCRIPTION: json.dumps(description, indent=2).encode()})
        return folder

    @classmethod
    def load(cls, folder: Path | str, *, network: str | None = None, device: str | torch.device = "cpu") -> "Segmenter":
        """Load a segmenter. Nothing that its files name is executed or downloaded.

        Networks of scse and of supported libraries are built by name from fixed tables, without pretrained weights.

        Args:
            folder: Folder written by `save`, or folder of a run that contains it as `segmenter`; or
                hf:OWNER/NAME[@REVISION], see `from_hub`.
            network: The factory FILE.py:FUNCTION with which the segmenter was trained, if it used your own network.
            device: Device of the network, see `choose_device`: "auto" takes a GPU if there is one.

        Raises:
            DataError: The folder contains no segmenter, or one that this version cannot read.
            UserError: The network was built by a factory in a file and `network` is missing or differs, or the library
                of the network is not installed; or this machine has no such device.
        """
        chosen = choose_device(device)
        saved = read_saved(local_folder(folder))
        with readable(saved.description):
            spec, variant = read_network(saved.network), Variant.parse(saved.variant)
        recipe = read_recipe(saved)
        spec = confirm_network(saved.folder, spec, network)
        find_factory(spec, pretrained=False)  # outside `readable`: a missing library is not a data error
        weights, _ = read_tensors(saved.weights, remedy=REMEDY)
        make = partial(
            build_network,
            spec,
            saved.arguments,
            variant=variant,
            size=recipe.patch,
            spacing=recipe.spacing,
            fitted=saved.fitted,
            attach_to="auto" if saved.attached is None else "|".join(saved.attached),
            pretrained=False,
        )
        if spec.is_own:
            # on the meta device, because sizes that do not match the weights must not allocate memory
            with readable(saved.description), torch.device("meta"):
                planned = make()
            with readable(saved.weights):
                check_fit(planned.state_dict(), weights)
            with readable(saved.description):
                check_size(saved.network, saved.arguments.get("depth", 0), recipe.patch)
        with readable(saved.description):
            built = make()
        with readable(saved.weights):
            load_exactly(built, weights)
        built.to(chosen).to(memory_format=CHANNELS_LAST[recipe.dims]).eval()
        return cls(
            network=built,
            name=spec.text,
            arguments=saved.arguments,
            variant=saved.variant,
            recipe=recipe,
            structures=saved.structures,
            settings=saved.settings,
            cleaning=saved.cleaning,
            regions=saved.regions,
            known=saved.known,
        )

    @classmethod
    def from_hub(
        cls,
        repository: str,
        *,
        revision: str | None = None,
        token: str | None = None,
        network: str | None = None,
        device: str | torch.device = "cpu",
    ) -> "Segmenter":
        """Load a segmenter from the Hugging Face Hub; `HF_ENDPOINT` names another server, `HF_HOME` the cache.

        As in `load`, nothing that is downloaded is executed.

        Args:
            repository: OWNER/NAME.
            revision: Branch, tag or commit; by default the main branch. Only a commit is always the same.
            token: Token for private repositories; by default that of `hf auth login`.
            network: See `load`.
            device: See `load`.

        Raises:
            DataError, UserError: As for `load`; or there is no such repository or revision, or the Hub cannot be
                reached.
        """
        return cls.load(download(repository, revision=revision, token=token), network=network, device=device)

    def push_to_hub(
        self,
        repository: str,
        *,
        card: str | None = None,
        license: str | None = None,  # noqa: A002 (the name of the field in the card)
        private: bool = True,
        token: str | None = None,
        overwrite: bool = False,
    ) -> str:
        """Upload the segmenter to the Hugging Face Hub, with a model card.

        Args:
            repository: OWNER/NAME, which is made if it does not exist.
            card: Text of the model card, such as that of `scse.studies.cards.model_card`, which has scores; by default
                one that says how to use the segmenter.
            license: Licence of the weights for the default card, such as "cc-by-4.0".
            private: Whether a repository that is made is visible to its owner only.
            token: Token with the right to write; by default that of `hf auth login`.
            overwrite: Replace a model card that the repository has.

        Returns:
            Address of the repository.

        Raises:
            UserError: The token has no right to write, the name is not allowed, or the Hub cannot be reached.
        """
        with tempfile.TemporaryDirectory() as scratch:
            saved = read_saved(self.save(scratch))
            text = card_of_segmenter(saved, repository, license=license) if card is None else card
            return upload(scratch, repository, card=text, private=private, token=token, overwrite=overwrite)

    def with_engine(self, name: str = "torch", *, images: int = 1) -> "Segmenter":
        """The same segmenter with its network run by torch, ONNX Runtime or OpenVINO.

        An exported engine keeps the current weights. Labels of the engines agree except in single voxels whose two best
        classes have almost equal scores.

        Args:
            name: "torch"; "onnxruntime" or "openvino", which run on the CPU and need an export of a few seconds; or
                "auto", which times all of them and chooses the fastest if there are enough images to save time,
                otherwise torch. The choice of "auto" depends on the machine and its load.
            images: Number of images to be predicted.

        Raises:
            UserError: The name is unknown. Except for "auto" and "torch": a package is missing, the network is not on
                the CPU, or the engine cannot run it.
        """
        self.network.eval()
        volumes = 0 if self.recipe.view == "picture" else images
        return replace(self, engine=make_engine(name, self.network, self.windows(TIMED_WINDOWS), volumes=volumes))

    def with_squeeze(self, squeeze: str) -> "Segmenter":
        """The same segmenter with another squeeze of cSE in volumes that are larger than the training patch.

        Args:
            squeeze: "window": cSE pools over each window, as in training over the patch; "local": the volume runs
                through the network in one pass, and every voxel has the mean over a box of the size of the patch around
                it; "volume": the means of all windows are gathered in a first pass, and their mean is used for all.

        Raises:
            UserError: The name is unknown. Except for "window": the network has no cSE or scSE block or takes slices,
                or another engine than torch runs it.
        """
        check_squeeze(squeeze, self.network)
        if squeeze != "window":
            if self.recipe.dims == 2:
                raise UserError(
                    f"squeeze={squeeze!r} is for networks of volumes, and this one takes slices; leave it out"
                )
            if self.engine is not None and self.engine.name != "torch":
                raise UserError(
                    f"squeeze={squeeze!r} needs the engine torch, got {self.engine.name}; leave one of them out"
                )
        return replace(self, squeeze=squeeze)

    def with_cleaning(self, name: str = "learned") -> "Segmenter":
        """The same segmenter with another clean-up of its label maps.

        Args:
            name: "learned" keeps the clean-up that was chosen after training and stored with the segmenter; "none"
                leaves label maps as they are; "largest" keeps the largest component of every structure and fills no
                holes.

        Raises:
            UserError: The name is unknown, or it is "largest" and structures are regions.
        """
        check_choice("cleaning", name, CLEANINGS)
        if name == "learned":
            return self
        return replace(
            self, cleaning=Cleaning(keep_largest=tuple(self.structures)) if name == "largest" else NO_CLEANING
        )

    def predict(
        self,
        source: Path | str | Sequence[Path | str] | nib.spatialimages.SpatialImage | NDArray[Any],
        *,
        spacing: Sequence[float] | None = None,
        series: str | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Segment one image.

        Args:
            source: A file, the files of the channels in order, a file or the folder of a DICOM series, a nibabel image,
                or an array (C, *spatial), or (*spatial) for one channel, whose axes point right, anterior, superior.
            spacing: Millimetres per voxel along each spatial axis, only for arrays of volumes; 1 mm by default.
            series: SeriesInstanceUID or SeriesDescription of the series, only for a folder of DICOM files; None if it
                holds one.
            batch_size: Number of slices at a time, by default up to 16, as memory allows; number of windows of a volume
                at a time, by default 1.

        Returns:
            For files of volumes and nibabel images, a nibabel image of label values with the shape, affine and
            orientation of the input, of the class in which nibabel reads it, or else a NIfTI image; for pictures and
            arrays, an integer array of the spatial shape.

        Raises:
            DataError: A file cannot be read.
            UserError: The image does not fit the model, `spacing` is given for an image that has its own, or `series`
                for something else than a folder.
        """
        is_folder = isinstance(source, str | Path) and Path(source).is_dir()
        if series is not None and not is_folder:
            raise UserError(f"series chooses among the DICOM series of a folder ({series!r}); omit it for other images")
        if isinstance(source, np.ndarray):
            return self.predict_image(_from_array(source, spacing, self.recipe), batch_size=batch_size)
        if spacing is not None:
            raise UserError("spacing is allowed for arrays only, because files and images have their own; omit it")
        if isinstance(source, nib.spatialimages.SpatialImage):
            labels = self.predict_image(_from_nibabel(source), batch_size=batch_size)
            return _like(type(source), source.affine, source.header, labels)
        paths = [Path(source)] if isinstance(source, str | Path) else [Path(path) for path in source]
        if len(paths) == 1 and paths[0].is_dir():
            paths = [choose_series(paths[0], series)]
        image = read_image(paths)
        try:
            labels = self.predict_image(image, batch_size=batch_size)
        except UserError as error:
            raise UserError(f"{paths[0]}: {error}") from error
        if image.affine is None:
            return labels
        volume = open_volume(paths[0])
        if volume.form is None:
            return nib.Nifti1Image(labels, image.affine)
        return _like(volume.form, volume.header.get_best_affine(), volume.header, labels)

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
    ) -> list[str]:
        """Segment many images; the others are still written if one fails.

        While the network runs on one image, the next image is read and the previous label map is written.

        Args:
            images: Files of the channels of each image in order, by image name.
            out: Folder of the label maps, see `label_path`.
            batch_size: Number of slices at a time, by default up to 16, as memory allows; number of windows of a volume
                at a time, by default 1.
            overwrite: Replace files in `out` that scse did not write or that were changed since.
            volumes: CSV file of the volumes, see `scse.inference.volume_table`: voxels and millilitres of each
                structure in each label map; of pictures, pixels alone; and flags of structures and images unlike those
                of the training cases. It keeps the rows of other images of earlier calls.
            dicom_seg: Write the label maps of DICOM series as DICOM-SEG, too: NAME.dcm.
            progress: Called with the numbers of finished and of all images after each image.

        Returns:
            A message for each image that failed.

        Raises:
            UserError: A label map would replace an image, or, without `overwrite`, a file that scse did not write; or
                `dicom_seg` is asked for an image that is no DICOM series, or whose slices lack identifiers.
        """
        targets = prediction_paths(images, out, dicom_seg=dicom_seg)
        inputs = (path for paths in images.values() for path in paths)
        written = [path for paths in targets.values() for path in paths]
        tables = check_table(volumes, written)
        check_outputs([*written, *tables], inputs=inputs, overwrite=overwrite)
        opened = open_table(volumes, self.scheme.scored, known=self.known, overwrite=overwrite)

        def read(paths: Sequence[Path]) -> tuple[list[Slices], NDArray[np.float64] | None]:
            image = read_image(paths)
            return self._views(image), image.affine

        def label(prepared: tuple[list[Slices], NDArray[np.float64] | None]) -> tuple[Image, str]:
            views, affine = prepared
            flag = "" if table is None else table.flag_of_image(views[0], affine)
            return Image(self._ready(views)(batch_size, None), affine, is_label=True), flag

        def write(name: str, paths: Sequence[Path], done: tuple[Image, str]) -> None:
            labels, flag = done
            with marked(targets[name]):
                write_prediction(out, name, labels.array, paths[0], labels)
                self._write_segmentations(targets[name][1:], labels.array, paths[0])
            if table is not None:
                table.add(name, labels.array, labels.affine, flags={IMAGE: flag})

        with opened as table:
            return each_image(images, read=read, compute=label, write=write, progress=progress)

    def _write_segmentations(self, targets: Sequence[Path], labels: NDArray[np.integer], source: Path) -> None:
        """Write the label map of a DICOM series as DICOM-SEG, see `prediction_paths`; `targets` may be empty."""
        for target in targets:
            from scse.inference.dicom_seg import write_dicom_seg  # noqa: PLC0415 (an optional package)

            scheme = LabelScheme(self.structures, self.regions)
            write_dicom_seg(target, labels, scheme.scored, source=source)

    def predict_image(
        self, image: Image, *, batch_size: int | None = None, progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.integer]:
        """Label values of an image in its own geometry: (C, *spatial) -> (*spatial).

        Args:
            image: Image, as returned by `read_image`.
            batch_size: Number of slices at a time, by default up to 16, as memory allows; number of windows of a volume
                at a time, by default 1.
            progress: Called with the numbers of finished and of all slices after each batch.

        Raises:
            UserError: The image does not fit the model, or all its voxels have the same value.
        """
        return self._ready(self._views(image))(batch_size, progress)

    def _views(self, image: Image) -> list[Slices]:
        """An image as each network sees it: here, the one."""
        return [self._slices(image)]

    def _ready(self, views: list[Slices]) -> Label:
        """What labels an image once, and takes it out of `views`, so that it is released before the clean-up."""
        return partial(self._label, partial(self._restored, views))

    def _slices(self, image: Image) -> Slices:
        slices = self.recipe.slices(image)
        if slices.constant:
            raise UserError(f"all voxels have the same value, {image.array.flat[0]:g}; the image is empty or damaged")
        return slices

    def _label(self, restored: Restore, batch_size: int | None, progress: Progress | None) -> NDArray[np.integer]:
        """Label values (*spatial) of an image in its own geometry, cleaned up.

        Args:
            restored: What gives the value of each voxel's class.
            batch_size: See `predict_image`.
            progress: See `predict_image`.
        """
        values = class_values(self.structures)
        values = values.astype(np.min_scalar_type(int(values.max())))
        if not self.cleaning:
            return restored(values, batch_size, progress)
        numbers = np.arange(len(values), dtype=np.uint8)
        classes = restored(numbers, batch_size, progress)
        clean(classes, self.cleaning, list(self.structures))
        if np.array_equal(values, numbers):
            return classes
        labels = np.empty(classes.shape, values.dtype)
        for row, found in zip(labels, classes, strict=True):  # row by row, because indices are converted to 64 bits
            row[...] = values[found]
        return labels

    def _restored(
        self,
        held: list[Slices],
        values: NDArray[W],
        batch_size: int | None,
        progress: Progress | None,
    ) -> NDArray[W]:
        """The value of each voxel's class (*spatial) on the grid of the image, which is taken out of `held`."""
        slices = held.pop()
        labels = np.empty(slices.grid.shape, values.dtype)
        if self.recipe.view == "volume":
            with torch.inference_mode():
                for band, rows in self._volume_bands(slices, batch_size, progress, most=self._most(slices)):
                    self.recipe.restore_volume(rows, slices.grid, labels, values, scheme=self.scheme, band=band)
            return labels
        planes = slices.grid.sliced(labels)
        for start, batch in self.batches(slices, batch_size, progress):
            with torch.inference_mode():
                classes = self.recipe.restore(self._scores(batch, slices.grid), slices.grid, self.scheme)
            planes[start : start + len(batch)] = values[classes]
        return labels

    def _volume_bands(
        self, slices: Slices, batch_size: int | None, progress: Progress | None, *, most: float = math.inf
    ) -> Iterator[tuple[slice, Iterator[Tensor]]]:
        """Logits of a volume on the prepared grid, in bands along its last axis, so that blending takes `most` bytes.

        A volume that is resampled has one band, because its class scores are resampled along all axes.

        Yields:
            The place of the band, and its rows along the first axis, see `blended_rows`.
        """
        self.network.eval()
        window = slices.windows()
        sizes, patch = slices.shape[2:], self.recipe.patch

        def read(place: tuple[slice, ...]) -> Tensor:
            return to_device(torch.from_numpy(window(place)), self._device)

        if self.squeeze == "local":
            with self._autocast():
                rows = iter([scores.float() for scores in local_scores(self.network, read, sizes, patch)])
            yield slice(None), rows
            return
        forward = self.run
        if self.squeeze == "volume":
            with self._autocast():
                forward = self._as_trained(gathered(self.network, read, sizes, patch))
        at_a_time = 1 if batch_size is None else check_positive("batch_size", batch_size)
        windows, bands = windows_of(sizes, patch), [slice(0, sizes[2])]
        # bytes of class scores and weights of one voxel along z
        scores = 4 * (self.scheme.outputs + 1) * patch[0] * sizes[1]
        if most < scores * sizes[2] and slices.grid.resampled == slices.grid.plane:
            bands = bands_of(windows, int(most / scores))
        counts, room = [len(in_band(windows, band)) for band in bands], Room(bands)
        for place, band in enumerate(bands):
            done = _later(progress, sum(counts[:place]), sum(counts))
            rows = blended_rows(read, sizes, patch, forward, batch_size=at_a_time, band=band, room=room, progress=done)
            yield (band if len(bands) > 1 else slice(None)), rows

    @torch.inference_mode()
    def probabilities(
        self, slices: Slices, batch_size: int | None = None, progress: Progress | None = None
    ) -> Iterator[Tensor]:
        """Class probabilities of an image on its own grid, slice by slice, or row by row along x of a volume.

        Args:
            slices: Prepared image, as returned by `Recipe.slices`.
            batch_size: Number of slices at a time, by default up to 16, as memory allows; number of windows of a volume
                at a time, by default 1.
            progress: Called with the numbers of finished and of all slices or windows after each batch.

        Yields:
            Probabilities (classes, *plane) of each slice or row, in the order of `Grid.rows`.
        """
        grid = slices.grid
        if self.recipe.view == "volume":
            [(_, rows)] = self._volume_bands(slices, batch_size, progress)
            volume = self.recipe.volume_rows(rows, grid, self.scheme)
            scores = (row for part in volume for row in part.unbind(1))
        else:
            batches = self.batches(slices, batch_size, progress)
            scores = (row for _, batch in batches for row in self.recipe.to_plane(self._scores(batch, grid), grid))
        for row in scores:
            yield row if grid.resampled != grid.plane or self.regions else row.float().softmax(0)

    def batches(
        self,
        slices: Slices | NDArray[np.float32],
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Batches of prepared slices on the device of the network.

        Args:
            slices: Slices (slices, C, *spatial), as returned by `Recipe.slices` or `Recipe.image_slices`.
            batch_size: Number of slices at a time, by default up to 16, as memory allows; number of windows of a volume
                at a time, by default 1.
            progress: Called with the numbers of finished and of all slices after each batch.

        Yields:
            The index of the first slice, and the slices (N, C, *spatial).
        """
        size = self._batch_size(slices) if batch_size is None else check_positive("batch_size", batch_size)
        for start in range(0, len(slices), size):
            batch = torch.from_numpy(slices[start : start + size])
            yield start, channels_last(to_device(batch, self._device))
            if progress is not None:
                progress(min(start + size, len(slices)), len(slices))

    def in_windows(
        self, batch: Tensor, forward: Callable[[Tensor], Tensor], *, batch_size: int | None = None
    ) -> Tensor:
        """Apply `forward` to slices in overlapping windows of the training patch, and blend the results.

        Of a volume, `batch_size` windows are taken at a time, by default 1; of slices, one of each.
        """
        at_a_time = batch_size if self.recipe.view == "volume" else None
        return in_windows(batch, self.recipe.patch, forward, batch_size=at_a_time)

    def _scores(self, batch: Tensor, grid: Grid) -> Tensor:
        """Logits; or probabilities, if they will be resampled or are those of regions."""
        logits = self.in_windows(batch, self.run)
        if grid.resampled == grid.plane and not self.regions:
            return logits
        return self.scheme.probabilities(logits.float(), axis=1)

    @property
    def run(self) -> Run:
        """What runs the network in prediction, from images (N, C, *spatial) to logits (N, classes, *spatial).

        Networks that were trained in bfloat16 run in it on NVIDIA GPUs, as in their validation, and return float32.
        On CPUs, and with other engines than torch, networks run in float32.
        """
        self.network.eval()
        if self.engine is None:
            return self._as_trained(self.network)
        return self._as_trained(self.engine.run) if self.engine.name == "torch" else self.engine.run

    def _as_trained(self, run: Run) -> Run:
        """What runs the network, in the precision of its training; it returns float32."""
        if not self._in_bfloat16:
            return run

        def in_bfloat16(images: Tensor) -> Tensor:
            with self._autocast():
                return run(images).float()

        return in_bfloat16

    def _autocast(self) -> AbstractContextManager[object]:
        """A context in which networks run in the precision of their training."""
        return torch.autocast(self._device.type, torch.bfloat16) if self._in_bfloat16 else nullcontext()

    @property
    def _in_bfloat16(self) -> bool:
        trained = self.settings.get("precision") == "bf16"
        return trained and self._device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)

    def _batch_size(self, slices: Slices | NDArray[np.float32]) -> int:
        """Number of slices at a time that use at most half of the memory that was free at the first prediction.

        On the CPU, they also use no more memory than the image itself, unless it is small.
        """
        if len(slices) == 1:
            return 1
        free, window, pixel = self._memory
        most = int(min(free // 2, self._most(slices)))
        # blending windows needs three arrays of whole slices: the sum, the weights and the quotient
        needed: int = window + 3 * pixel * math.prod(slices.shape[2:])
        return max(1, min(MOST_SLICES, most // needed))

    def _most(self, slices: Slices | NDArray[np.float32]) -> float:
        """Most bytes that class scores may use: on the CPU, those of the image itself, unless it is small."""
        return math.inf if self._device.type == "cuda" else max(LEAST_MEMORY, slices.nbytes)

    @cached_property
    def _memory(self) -> tuple[int, int, int]:
        """Bytes of free memory, of one window in the network, and of the logits of one pixel.

        The bytes of a window are the sum of the outputs of all modules, an upper bound of the memory used at any time.
        """
        outputs: list[int] = []

        def add(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs.append(output.nbytes)

        leaves = [module for module in self.network.modules() if not list(module.children())]
        hooks = [module.register_forward_hook(add) for module in leaves]
        self.network.eval()
        with torch.inference_mode():
            logits = self._as_trained(self.network)(self.windows(1))
        for hook in hooks:
            hook.remove()
        return free_memory(self._device), sum(outputs), logits.nbytes // math.prod(self.recipe.patch)

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def windows(self, count: int) -> Tensor:
        """Zero images of the network's input size: (count, C, *patch)."""
        images = torch.zeros(count, self.recipe.channels, *self.recipe.patch, device=self._device)
        return channels_last(images)


def _later(progress: Progress | None, before: int, count: int) -> Progress | None:
    """What reports the progress of one part of a computation as that of the whole, of `count` steps."""
    return None if progress is None else lambda done, _: progress(before + done, count)


def write_prediction(folder: Path, name: str, labels: NDArray[np.integer], source: Path, image: Image) -> Path:
    """Write a label map in the format and with the geometry of `source`; returns its path, see `label_path`."""
    path = label_path(folder, name, source)
    if path.resolve() == source.resolve():
        raise UserError("the label map would replace the image itself; choose another folder")
    write_label(path, labels, like=source if image.affine is not None else None)
    return path


def prediction_paths(
    images: Mapping[str, Sequence[Path]], out: Path, *, dicom_seg: bool = False
) -> dict[str, list[Path]]:
    """Paths of the label map of each image and, with `dicom_seg`, of its DICOM-SEG; see `Segmenter.predict_files`.

    Raises:
        UserError: A label map would be written into the folder of a DICOM series, or the reasons of `predict_files`.
    """
    if dicom_seg:
        with needing("writing DICOM-SEG", "dicom"):
            from scse.inference.dicom_seg import check_series  # noqa: PLC0415 (an optional package)
    targets = {}
    for name, paths in images.items():
        source = paths[0]
        check_not_in_series(out, source, what="its label map")
        if dicom_seg and not is_dicom(source):
            raise UserError(f"{source}: is no DICOM series, to whose slices a DICOM-SEG refers; omit --dicom-seg")
        if dicom_seg:
            check_series(source)
        targets[name] = [label_path(out, name, source), *([out / f"{name}.dcm"] if dicom_seg else [])]
    return targets


def label_path(folder: Path, name: str, source: Path) -> Path:
    """Path of the label map of an image: NAME.nii.gz, .mgz, .mha, .nrrd or .tif as `source`, or NAME.png for pictures.

    Label maps of DICOM series and of GIPL files are NIfTI files.
    """
    return folder / f"{name}{written_ending(source)}"


def _from_array(array: NDArray[Any], spacing: Sequence[float] | None, recipe: Recipe) -> Image:
    axes = 2 if recipe.view == "picture" else 3
    channels = array[None] if array.ndim == axes else array
    if channels.ndim != axes + 1:
        expected = f"arrays of {axes} spatial axes, with or without a channel axis first"
        raise UserError(f"the model expects {expected}, got shape {array.shape}")
    if axes == 2:
        if spacing is not None:
            raise UserError(f"the model expects pictures, which have no spacing, got {tuple(spacing)}; omit spacing")
        return Image(channels.astype(np.float32, copy=False), None)
    spacing = (1.0,) * axes if spacing is None else tuple(spacing)
    if len(spacing) != axes or not all(mm > 0 for mm in spacing):
        raise UserError(f"spacing must be {axes} positive numbers of mm, got {spacing}")
    return Image(channels.astype(np.float32, copy=False), np.diag([*spacing, 1.0]))


def _from_nibabel(image: nib.spatialimages.SpatialImage) -> Image:
    array = np.asarray(image.dataobj, dtype=np.float32)
    channels = np.moveaxis(array, 3, 0) if array.ndim == 4 else array[None]
    return Image(channels, in_millimetres(image.affine, image.header))


def _like(form: Any, affine: NDArray[np.float64], header: Any, labels: NDArray[np.integer]) -> Any:
    """A nibabel image of label values with the class, affine and header of another image."""
    header = header.copy()
    if form is nib.MGHImage and labels.dtype == np.uint32:  # which MGH does not store
        labels = labels.astype(np.int32)
    header.set_data_dtype(labels.dtype)
    if hasattr(header, "set_slope_inter"):
        header.set_slope_inter(1, 0)
    if isinstance(header, nib.Nifti1Header):
        header["cal_min"] = header["cal_max"] = 0  # the display window of the image would hide the labels
    return form(labels, affine, header)
