"""Settings: presets, replaced fields, and refusals that name the field, the value and what is allowed."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from scse.support.errors import UserError
from scse.training.settings import PRESETS, Settings, make_settings, reject_unused, without_class_weights
from scse.vocabulary.specs import NetworkSpec
from scse.vocabulary.variants import Variant


def test_quick_is_the_default() -> None:
    assert make_settings("quick") == Settings()


def test_paper_is_the_published_training() -> None:
    paper = make_settings("paper")
    assert (paper.width, paper.depth, paper.kernel_size) == (64, 4, 5)
    assert (paper.optimizer, paper.momentum, paper.weight_decay, paper.batch_size) == ("sgd", 0.95, 1e-4, 4)
    assert (paper.loss, paper.class_weights, paper.slices_per_epoch) == ("ce+dice", "median-frequency", None)


def test_fields_of_a_preset_are_replaced() -> None:
    chosen = make_settings("paper", {"epochs": 2, "variant": "sse"})
    assert chosen == PRESETS["paper"].model_copy(update={"epochs": 2, "variant": Variant("sse")})


def test_values_typed_as_text_are_understood() -> None:
    chosen = make_settings("quick", {"width": "16", "learning_rate": "1e-2", "augment": "false"})
    assert (chosen.width, chosen.learning_rate, chosen.augment) == (16, 0.01, False)


def test_a_variant_is_kept_in_its_one_text() -> None:
    chosen = make_settings("quick", {"variant": "scse[placement=encoder,reduction=2]"})
    assert chosen.variant == Variant("scse", placement="encoder")
    assert chosen.model_dump()["variant"] == "scse[placement=encoder]"


def test_json_round_trip() -> None:
    chosen = make_settings("paper", {"learning_rate": 0.1 + 0.2})
    assert Settings.model_validate_json(chosen.model_dump_json()) == chosen


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"widht": 3}, r"widht: .*not permitted, got 3 \(settings are network, variant, attach_to, width"),
        ({"width": 0}, "width: .*greater than or equal to 1, got 0"),
        ({"epochs": 1.5}, "epochs: .*integer.*, got 1.5"),
        ({"learning_rate": "fast"}, "learning_rate: .*number.*, got 'fast'"),
        ({"optimizer": "adam"}, "optimizer: .*'adamw' or 'sgd', got 'adam'"),
        ({"loss": "dice+ce"}, r"loss: .*'ce\+dice'.*, got 'dice\+ce'"),
        ({"momentum": 1}, "momentum: .*less than 1, got 1"),
        ({"seed": -1}, "seed: "),
        (
            {"network": "vnet"},
            r"settings: network must be one of 'unet', 'sdnet', 'densenet', .*, got 'vnet'",
        ),
        ({"variant": "SE"}, r"settings: variant must be one of 'none', 'cse', .*, got 'SE'"),
        ({"variant": "cse[aggregation=max]"}, r"settings: aggregation has no effect on variant 'cse'"),
        (
            {"network": "monai:BasicUNet", "variant": "scse[placement=encoder]"},
            "settings: variant scse.*: placement has no effect on monai:BasicUNet",
        ),
        ({"width": 0, "depth": 0}, "width: .*; depth: "),
    ],
)
def test_wrong_settings_are_refused(replaced: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_settings("quick", replaced)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="preset must be one of 'quick', 'paper', got 'slow'"):
        make_settings("slow")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().width = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "network",
    ["smp:Unet[encoder_name=resnet18]", "monai:UNet[channels=(4,8),strides=(2,)]", "nowhere/mine.py:make[a=1]"],
)
def test_networks_of_others_are_named_without_being_run(network: str) -> None:
    chosen = make_settings("quick", {"network": network, "attach_to": "encoder.*"})
    assert Settings.model_validate_json(chosen.model_dump_json()) == chosen
    assert (chosen.network.text, chosen.attach_to) == (network, "encoder.*")


def test_settings_written_before_there_was_attach_to_are_read() -> None:
    before = Settings().model_dump(exclude={"attach_to"})
    assert Settings.model_validate(before) == Settings()


def test_settings_written_before_gpus_had_graphs_are_read() -> None:
    before = Settings().model_dump(exclude={"graph", "deterministic"})
    assert Settings.model_validate(before) == Settings(graph=True, deterministic=False)


def rejection(networks: list[str], variants: list[str], given: dict[str, Any]) -> str:
    """Return the message with which settings are refused, "" if they are allowed."""
    try:
        reject_unused([*map(NetworkSpec.parse, networks)], [*map(Variant.parse, variants)], given)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("networks", "variants", "given", "message"),
    [
        (
            ["unet", "sdnet"],
            ["none", "cse"],
            {"attach_to": "encoder.*"},
            "attach_to has no effect on unet, sdnet: they",
        ),
        (["smp:Unet"], ["none"], {"attach_to": "encoder.*"}, "attach_to has no effect on variant 'none'"),
        (
            ["smp:Unet"],
            ["none"],
            {"width": 3, "epochs": 1, "depth": 2},
            r"width, depth have no effect on smp:Unet; give",
        ),
    ],
)
def test_settings_that_would_do_nothing_are_refused(
    networks: list[str], variants: list[str], given: dict[str, Any], message: str
) -> None:
    assert re.match(message, rejection(networks, variants, given))


def test_settings_for_some_of_the_networks_are_allowed() -> None:
    assert rejection(["unet", "smp:Unet"], ["none", "cse"], {"attach_to": "encoder.*", "width": 3}) == ""
    assert rejection(["unet"], ["none"], {"attach_to": "auto", "width": 3}) == ""
    assert rejection(["smp:Unet"], ["none", "cse"], {"attach_to": "auto"}) == ""


def test_regions_of_labels_have_no_class_weights() -> None:
    assert without_class_weights(Settings(), {"epochs": 3}) == Settings(class_weights="none")
    assert without_class_weights(Settings(), {"class_weights": "none"}).class_weights == "none"
    with pytest.raises(UserError, match="class_weights='median-frequency': structures of this data set are regions"):
        without_class_weights(Settings(), {"class_weights": "median-frequency"})
