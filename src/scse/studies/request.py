"""What `scse study` and `scse.study` take."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from scse.executors.base import Executor
from scse.executors.choice import open_executor
from scse.support.errors import UserError
from scse.support.requests import Numbers, Request, Words
from scse.training.request import SettingValues
from scse.training.settings import Settings, make_settings
from scse.vocabulary.budgets import parse_budget
from scse.vocabulary.grammar import split_names
from scse.vocabulary.planes import Plane
from scse.vocabulary.specs import NetworkSpec
from scse.vocabulary.variants import OF_THE_PAPER, Variant
from scse.zoo.catalogue import read_network

REQUEST = "study.json"
"""File in the folder of a study with its last request."""

COHORT_SETTINGS = {"epochs": 4, "slices_per_epoch": 1000}
"""Changes to the preset quick for the built-in cohort, with which 12 runs at 3 mm take less than 10 minutes."""


def _each(parse: Callable[[str], object]) -> BeforeValidator:
    """Parse the texts in a list of names, which may be a text with commas itself."""

    def names(value: object) -> object:
        listed = split_names(value) if isinstance(value, str) else value
        if not isinstance(listed, list | tuple):
            return listed
        return [parse(name) if isinstance(name, str) else name for name in listed]

    return BeforeValidator(names)


def _texts(values: tuple[object, ...]) -> list[str]:
    return [str(value) for value in values]


def _budget(text: str) -> str:
    parse_budget(text)
    return text


Networks = Annotated[tuple[NetworkSpec, ...], _each(read_network), PlainSerializer(_texts)]
Variants = Annotated[tuple[Variant, ...], _each(partial(Variant.parse, name="variants")), PlainSerializer(_texts)]


class StudyRequest(Request):
    """A comparison of networks and variants on one data set."""

    verb: ClassVar[str] = "study"
    flags: ClassVar[Mapping[str, str]] = {"settings": "--set", "notes": "--note"}
    renamed: ClassVar[Mapping[str, str]] = {"view": "plane"}

    dataset: Path | None = None
    """Data set: a folder, or a table cases.csv [the built-in, simulated cohort]."""

    networks: Networks = (NetworkSpec.parse("unet"),)
    """unet, sdnet, densenet, smp:CLASS, monai:CLASS, nnunet:CLASS or FILE.py:FUNCTION, separated by commas; options as
    smp:Unet[encoder_name=resnet18]. FUNCTION is called with in_channels, classes and spatial_dims, and returns a module
    whose logits have the size of its input."""

    variants: Variants = OF_THE_PAPER
    """Of none, cse, sse, scse and pe, separated by commas; options as scse[reduction=4,aggregation=max]. none must be
    among them."""

    reductions: Numbers = ()
    """Values of the paper's r, such as 2,4,8,16; every variant that has it is run with each."""

    aggregations: Words = ()
    """Of add, max and multiply; scse is run with each."""

    placements: Words = ()
    """Of encoder, decoder, both and +bottleneck (both and it); every variant but none is run with each. For scse's own
    networks."""

    attach_to: str = "auto"
    """Patterns of the modules that get a block, in networks that are not scse's own."""

    seeds: int = 3
    """Trainings of each variant; a verdict needs 3 or more."""

    control: bool = False
    """Train the plain network with as many further seeds, and compare it with itself: the noise floor."""

    margin: float | None = None
    """Differences below it do not matter, in units of the metric [0.005 for Dice]."""

    folds: int | None = None
    """Number of cross-validation folds [the data set's own test split]."""

    out: Path = Path("scse-study")
    """Folder of the study."""

    preset: str = "quick"
    """quick (for CPUs and GPUs) or paper (as published; needs a GPU)."""

    epochs: Numbers = ()
    """Number of epochs; several, such as 3,6,12, are compared with each other [from the preset]."""

    train_cases: Numbers = ()
    """Numbers of training cases to compare, such as 3,6,15; the cases of a smaller number are a subset of those of a
    larger one [all cases]."""

    budget: Annotated[str, AfterValidator(_budget)] | None = None
    """Time for the whole study, such as 2h or 1h30m: determines the number of epochs, the same for all runs."""

    spacing: float | None = None
    """Millimetres per pixel in the plane, or along all axes of a volume [from the data; 3 for the built-in cohort]."""

    dims: int = Field(default=2, ge=2, le=3)
    """2 trains on slices, 3 on whole volumes."""

    plane: Plane | None = None
    """Plane of the slices: coronal, axial or sagittal [from the data]."""

    settings: SettingValues = Field(default={})
    """Any other training setting, as NAME=VALUE."""

    skip_bad: bool = False
    """Skip cases with problems instead of refusing."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:N or mps. A study may continue on another one."""

    jobs: int = 1
    """Worker processes of this machine, which share its cores; each does one run at a time."""

    on: str | None = None
    """ray, or ray:HOST:PORT: a Ray cluster whose machines share the files does the runs [this machine]."""

    cpus_per_run: int | None = None
    """CPUs of a run on a cluster, which are its threads [1]."""

    gpus_per_run: float | None = None
    """GPUs of a run on a cluster; 0.25 lets 4 runs share one [1 if the cluster has any, else 0]."""

    notes: tuple[str, ...] = ()
    """Caveats for the report."""

    def executor(self) -> AbstractContextManager[Executor]:
        """What does the runs, see `scse.executors.choice.open_executor`."""
        return open_executor(self.on, self.jobs, cpus=self.cpus_per_run, gpus=self.gpus_per_run, device=self.device)

    def settings_given(self) -> dict[str, Any]:
        """The settings that the request names, without those of the preset.

        Raises:
            UserError: A setting is named that other arguments choose, or the epochs are named twice.
        """
        if swept := sorted({"network", "variant", "attach_to", "seed"} & self.settings.keys()):
            options = "networks, variants, attach_to and seeds"
            raise UserError(f"settings must not contain {', '.join(swept)}: {options} choose them")
        epochs = [
            name
            for name, value in (
                ("epochs", self.epochs),
                ("settings", "epochs" in self.settings),
                ("budget", self.budget),
            )
            if value
        ]
        if len(epochs) > 1:
            raise UserError(f"{', '.join(epochs)} each determine the number of epochs; give one of them")
        cohort = COHORT_SETTINGS if self.dataset is None and self.preset == "quick" and self.dims == 2 else {}
        single = {"epochs": self.epochs[0]} if len(self.epochs) == 1 else {}
        return {**cohort, **self.settings, "attach_to": self.attach_to, **single}

    def training_settings(self) -> Settings:
        """The settings of all runs.

        Raises:
            UserError: The preset or a setting is unknown, or a value is not allowed.
        """
        return make_settings(self.preset, self.settings_given(), dims=self.dims)
