"""What `scse train` and `train_on` take."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from scse.support.errors import UserError
from scse.support.requests import Request
from scse.training.settings import NetworkName, Settings, VariantName, make_settings
from scse.vocabulary.contrasts import Contrast
from scse.vocabulary.planes import Plane


def _pairs(value: object) -> object:
    """NAME=VALUE texts as a mapping; anything else as it is.

    Raises:
        UserError: A text has no "=".
    """
    if not isinstance(value, list | tuple):
        return {} if value is None else value
    settings: dict[str, Any] = {}
    for pair in value:
        name, equals, text = str(pair).partition("=")
        if not equals:
            raise UserError(f"settings must have the form NAME=VALUE, such as width=16, got {pair!r}")
        settings[name] = None if (name, text) == ("slices_per_epoch", "none") else text
    return settings


SettingValues = Annotated[dict[str, Any], BeforeValidator(_pairs)]


class TrainRequest(Request):
    """One training run on a data set."""

    verb: ClassVar[str] = "train"
    flags: ClassVar[Mapping[str, str]] = {"settings": "--set", "source": "--from"}
    renamed: ClassVar[Mapping[str, str]] = {"view": "plane"}

    dataset: Path | None = None
    """Data set: a folder (nnU-Net v2, MSD, BIDS, or images/ and masks/), or a table cases.csv."""

    source: tuple[Path, Path] | None = None
    """In place of a data set: one image and its label map, from which subjects are simulated."""

    simulate: float | None = Field(default=None, ge=0, le=1)
    """Share of the slices or patches that are of simulated subjects, new ones in every epoch [0; 1 without a data set];
    without a data set and an image, they are simulated from the built-in brain atlas."""

    contrast: Contrast | None = None
    """Intensities of simulated subjects: source (like those of the images) or random [source]."""

    out: Path = Path("scse-run")
    """Folder of the run."""

    network: NetworkName | None = None
    """unet, sdnet, densenet, smp:CLASS, monai:CLASS, nnunet:CLASS or FILE.py:FUNCTION; options as
    smp:Unet[encoder_name=resnet18]."""

    variant: VariantName | None = None
    """none, cse, sse, scse or pe; options as scse[reduction=4,placement=encoder]."""

    attach_to: str | None = None
    """Patterns of the modules that get a block, in networks that are not scse's own [auto]."""

    preset: str = "quick"
    """quick (for CPUs and GPUs) or paper (as published; needs a GPU)."""

    epochs: int | None = None
    """Number of epochs [from the preset]."""

    seed: int | None = None
    """Seed of initial weights, order and augmentation [0]."""

    folds: int | None = None
    """Number of cross-validation folds [the data set's own test split]."""

    fold: int = 0
    """Fold whose test cases are held out and only used for validation."""

    spacing: float | None = None
    """Millimetres per pixel in the plane, or along all axes of a volume [from the data]."""

    dims: int = Field(default=2, ge=2, le=3)
    """2 trains on slices, 3 on whole volumes."""

    plane: Plane | None = None
    """Plane of the slices: coronal, axial or sagittal [from the data]."""

    settings: SettingValues = Field(default={})
    """Any other training setting, as NAME=VALUE."""

    cleaning: Literal["learned", "none"] | None = None
    """learned chooses the clean-up of label maps (largest components, holes) on the held-out cases after training, none
    leaves it out [learned, unless these are the data set's own test cases]."""

    skip_bad: bool = False
    """Skip cases with problems instead of refusing."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:N or mps. A run may continue on another one."""

    devices: int | None = Field(default=None, ge=1, le=1024)
    """Processes of this training on this machine, each with a GPU or on the CPU, which share every batch [1, or those
    that torchrun started]."""

    nodes: int | None = Field(default=None, ge=1, le=65536)
    """Machines of this training, each with its number in NODE_RANK and the first one in MASTER_ADDR and MASTER_PORT [1,
    or those that torchrun started]."""

    def settings_given(self) -> dict[str, Any]:
        """The settings that the request names, without those of the preset.

        Raises:
            UserError: A setting is named twice.
        """
        named = {
            name: value
            for name in ("network", "variant", "attach_to", "epochs", "seed", "simulate", "contrast")
            if (value := getattr(self, name)) is not None
        }
        if twice := sorted(named.keys() & self.settings.keys()):
            raise UserError(f"settings must not contain {', '.join(twice)}: there are arguments of these names")
        alone = {"simulate": 1.0} if self.dataset is None else {}
        return {**alone, **self.settings, **named}

    def training_settings(self) -> Settings:
        """The settings of the run.

        Raises:
            UserError: The preset or a setting is unknown, or a value is not allowed.
        """
        return make_settings(self.preset, self.settings_given(), dims=self.dims)
