"""Settings of a training run, and presets of them."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from scse.support.checks import check_choice
from scse.support.errors import UserError
from scse.support.requests import construct
from scse.vocabulary.contrasts import Contrast
from scse.vocabulary.specs import NetworkSpec
from scse.vocabulary.variants import PLAIN, Variant
from scse.zoo.catalogue import check_placement, check_supervision, read_network

MOST_EPOCHS = 1_000_000

Precision = Literal["auto", "32", "bf16"]


def _text(parse: Callable[[str], object]) -> BeforeValidator:
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


NetworkName = Annotated[NetworkSpec, _text(read_network), PlainSerializer(str)]
VariantName = Annotated[Variant, _text(Variant.parse), PlainSerializer(str)]


class Settings(BaseModel):
    """Settings of one training run.

    Attributes:
        network: "unet", "sdnet", "densenet", "smp:CLASS", "monai:CLASS", "nnunet:CLASS" or "FILE.py:FUNCTION",
            the last four with or without options in brackets; see `scse.zoo.catalogue`.
        variant: "none", "cse", "sse", "scse" or "pe", all but "none" with or without options in brackets, such as
            "scse[reduction=4,aggregation=max,placement=encoder]"; see `scse.variants`.
        attach_to: Modules of other networks that get a block, see `to` of `scse.attach`; scse's own networks have fixed
            places.
        width, depth, kernel_size: Size of scse's own networks. The options of other networks are in brackets after
            their name.
        epochs: Number of epochs.
        slices_per_epoch: Largest number of slices per epoch, drawn anew for each epoch; None takes all slices. For
            volumes the number of patches per epoch; None takes one of each case.
        batch_size: Slices or patches per step.
        foreground: Share of the slices or patches whose crop is centred on a voxel of a structure, which is drawn
            evenly from those of the case. The other crops are drawn from anywhere.
        optimizer: "adamw", or "sgd" with `momentum`.
        learning_rate: Largest learning rate of the schedule.
        schedule: "one-cycle" (up and down once in the whole run), or "steps" (a tenth after every `step_epochs`).
        step_epochs: Epochs between two steps of the schedule "steps".
        momentum: Momentum of "sgd".
        weight_decay: Weight decay of the optimizer.
        loss: Cross-entropy plus Dice loss, or one of them.
        deep_supervision: Whether lower resolutions of the network's decoder learn too, for networks that return them;
            see `scse.training.losses.DeepSupervision`.
        class_weights: Class weights of the cross-entropy: the paper's "median-frequency", their square roots, which let
            the background count more, "fading-median-frequency", which become equal in the course of the run, or
            "none". Regions of labels have none.
        augment: Random changes of every slice or patch, within the ranges of the settings that follow; see
            `scse.training.augmentation.Augmentation`.
        rotation, scaling, shift, elastic: Largest rotation in degrees, relative change of size, shift as a fraction of
            the side, and displacement of control points as a fraction of their distance.
        gain, offset: Largest relative change of intensity, and change in standard deviations of the image.
        gamma, noise, blur, low_resolution: Largest change of contrast, noise in standard deviations of the image, blur
            in pixels, and relative loss of resolution.
        probability: Probability of each of gamma, noise, blur and low_resolution.
        mirror: "safe" mirrors along axes where the labels stay right: left and right structures change places, and
            where one has no partner, or in pictures, nothing is mirrored from left to right. "none" mirrors nothing.
        simulate: Share of the slices or patches that are of subjects simulated from the training cases, new ones in
            every epoch; see `scse.simulation`.
        contrast: Intensities of simulated subjects: like those of the "source", or "random".
        skull: Whether three quarters of the simulated subjects have a skull and a scalp around the brain, for scans
            that were not skull-stripped; see `scse.simulation.head`.
        precision: "bf16" computes convolutions in bfloat16; "auto" does so if the processor has instructions for it.
        seed: Seed of the initial weights, the order of slices, and the augmentation.
        graph: Whether steps on an NVIDIA GPU are launched as one CUDA graph. On other devices it has no effect.
        deterministic: Whether a run on an NVIDIA GPU repeats bit for bit, which takes longer. On a CPU it always does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    network: NetworkName = NetworkSpec.parse("unet")
    variant: VariantName = PLAIN
    attach_to: str = "auto"
    width: int = Field(default=32, ge=1, le=4096)
    depth: int = Field(default=3, ge=1, le=8)
    kernel_size: int = Field(default=3, ge=1, le=31)
    epochs: int = Field(default=8, ge=1, le=MOST_EPOCHS)
    slices_per_epoch: int | None = Field(default=3000, ge=1, le=2**40)
    batch_size: int = Field(default=8, ge=1, le=65536)
    foreground: float = Field(default=0.0, ge=0, le=1)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=3e-3, gt=0, le=1e3)
    schedule: Literal["one-cycle", "steps"] = "one-cycle"
    step_epochs: int = Field(default=10, ge=1, le=MOST_EPOCHS)
    momentum: float = Field(default=0.95, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0, le=1e3)
    loss: Literal["ce+dice", "ce", "dice"] = "ce+dice"
    deep_supervision: bool = False
    class_weights: Literal["median-frequency", "root-median-frequency", "fading-median-frequency", "none"] = (
        "fading-median-frequency"
    )
    augment: bool = True
    rotation: float = Field(default=10.0, ge=0, le=180)
    scaling: float = Field(default=0.1, ge=0, lt=1)
    shift: float = Field(default=0.05, ge=0, le=0.5)
    elastic: float = Field(default=0.0, ge=0, le=0.5)
    gain: float = Field(default=0.1, ge=0, lt=1)
    offset: float = Field(default=0.1, ge=0, le=100)
    gamma: float = Field(default=0.0, ge=0, le=10)
    noise: float = Field(default=0.0, ge=0, le=10)
    blur: float = Field(default=0.0, ge=0, le=20)
    low_resolution: float = Field(default=0.0, ge=0, le=7)
    probability: float = Field(default=0.2, ge=0, le=1)
    mirror: Literal["none", "safe"] = "none"
    simulate: float = Field(default=0.0, ge=0, le=1)
    contrast: Contrast = "source"
    skull: bool = False
    precision: Precision = "auto"
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    graph: bool = True
    deterministic: bool = False

    def model_post_init(self, _context: object) -> None:
        """Check that the network has the places that the variant names."""
        check_placement(self.network, self.variant)


def without_class_weights(settings: Settings, given: Mapping[str, Any]) -> Settings:
    """The settings for structures that are regions of labels, whose loss has no class weights.

    Args:
        settings: Settings of the run.
        given: Settings that the user gave, without those of the preset.

    Raises:
        UserError: The user gave class weights.
    """
    if given.get("class_weights", "none") != "none":
        raise UserError(
            f"class_weights={given['class_weights']!r}: structures of this data set are regions of labels, whose loss "
            "has no class weights; leave it out"
        )
    return settings.model_copy(update={"class_weights": "none"})


RANGES = (
    "rotation",
    "scaling",
    "shift",
    "elastic",
    "gain",
    "offset",
    "gamma",
    "noise",
    "blur",
    "low_resolution",
    "probability",
)
"""Settings that are ranges of the augmentation."""

STRENGTHS: Mapping[str, Mapping[str, Any]] = {
    "light": {},
    "strong": {
        "rotation": 30.0,
        "scaling": 0.3,
        "shift": 0.1,
        "elastic": 0.3,
        "gain": 0.25,
        "offset": 0.25,
        "gamma": 0.5,
        "noise": 0.3,
        "blur": 1.0,
        "low_resolution": 1.0,
        "mirror": "safe",
    },
}
"""Settings of the augmentation by strength, as changes to those of the preset."""

STRENGTH = "strength"
"""Name that stands for all settings of the augmentation: light or strong."""

OWN_SIZES = ("width", "depth", "kernel_size")
"""Settings of scse's own networks."""

PRESETS: dict[str, Settings] = {
    "quick": Settings(),
    "paper": Settings(
        width=64,
        depth=4,
        kernel_size=5,
        epochs=30,
        slices_per_epoch=None,
        batch_size=4,
        optimizer="sgd",
        learning_rate=0.01,
        schedule="steps",
        class_weights="median-frequency",
        augment=False,
        precision="32",
    ),
}
"""quick: the default, for CPUs and GPUs. paper: the network and optimizer of Roy et al. 2018, which need a GPU."""


VOLUMES: Mapping[str, Any] = {
    "width": 24,
    "epochs": 16,
    "slices_per_epoch": 160,
    "batch_size": 2,
    "foreground": 0.33,
    "rotation": 15.0,
    "scaling": 0.15,
}
"""Changes to the preset quick for networks of volumes."""


def make_settings(preset: str, replaced: Mapping[str, Any] | None = None, *, dims: int = 2) -> Settings:
    """The settings of a preset, with some fields replaced.

    Args:
        preset: Name of the preset.
        replaced: Values of fields that differ from the preset; `strength` sets those of the augmentation that are not
            given.
        dims: Number of spatial axes of the network's input, 2 or 3.

    Raises:
        UserError: The preset or a field is unknown, a value is not allowed, or the preset is not for volumes.
    """
    start = PRESETS[check_choice("preset", preset, PRESETS)].model_dump()
    if dims == 3:
        if preset != "quick":
            raise UserError(f"preset {preset!r} is for slices; take quick with dims=3")
        start |= VOLUMES
    given = dict(replaced or {})
    if STRENGTH in given:
        start |= STRENGTHS[check_choice(STRENGTH, given.pop(STRENGTH), STRENGTHS)]
    return construct(Settings, {**start, **given}, what="training settings")


_TRUE = ("true", "1", "yes", "y", "on", "t")
"""Texts that pydantic reads as true."""


def reject_unused(networks: Sequence[NetworkSpec], variants: Sequence[Variant], given: Mapping[str, Any]) -> None:
    """Refuse settings that would have no effect.

    Args:
        networks: Networks of the runs.
        variants: Variants of the runs.
        given: Settings that the user gave, without those of the preset.

    Raises:
        UserError: `attach_to` without a network that blocks are attached to, a placement for a network that is not
            scse's own, a size of scse's own networks where there is none, `deep_supervision` for a network that
            offers none, or `contrast` or `skull` without simulated subjects.
    """
    for network, variant in product(networks, variants):
        check_placement(network, variant)
    own = [network.text for network in networks if network.is_own]
    if given.get("attach_to", "auto") != "auto":
        if len(own) == len(networks):
            raise UserError(
                f"attach_to has no effect on {', '.join(own)}: they place their blocks themselves; leave it out"
            )
        if all(variant == PLAIN for variant in variants):
            raise UserError("attach_to has no effect on variant 'none', which has no blocks; leave it out")
    if str(given.get("deep_supervision", False)).lower() in _TRUE:
        for network in networks:
            check_supervision(network)
    for name in ("contrast", "skull"):
        if name in given and str(given.get("simulate", 0)) in {"0", "0.0"}:
            raise UserError(f"{name} has no effect without simulated subjects; leave it out, or give simulate=1")
    ranges = [name for name in (*RANGES, "mirror", STRENGTH) if name in given]
    if given.get("augment") in (False, "false") and ranges:
        raise UserError(f"{', '.join(ranges)} have no effect without augmentation; leave them out, or augment=true")
    if not own and (sizes := [name for name in OWN_SIZES if name in given]):
        names = ", ".join(map(str, networks))
        raise UserError(
            f"{', '.join(sizes)} have no effect on {names}; give options of a network in brackets after its name, "
            "such as monai:BasicUNet[features=(16,16,32,64,128,16)]"
        )
