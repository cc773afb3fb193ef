"""What a study is asked for: texts and values make the same request, and a request can be written down again."""

import inspect
import shlex
from pathlib import Path
from typing import Any

import pytest

import scse
from scse.studies.request import StudyRequest
from scse.support.errors import UserError
from scse.training.request import TrainRequest
from scse.vocabulary.variants import OF_THE_PAPER, Variant

TEXTS = {
    "dataset": "my data",
    "networks": "unet,smp:Unet[encoder_name=resnet18]",
    "variants": "none,scse[reduction=4]",
    "epochs": "3,6",
    "aggregations": "add, max",
    "settings": ["width=3", "slices_per_epoch=none"],
    "notes": ["a, b"],
    "control": True,
}
VALUES = {
    "dataset": Path("my data"),
    "networks": ["unet", "smp:Unet[encoder_name=resnet18]"],
    "variants": [Variant("none"), "scse[reduction=4]"],
    "epochs": [3, 6],
    "aggregations": ("add", "max"),
    "settings": {"width": "3", "slices_per_epoch": None},
    "notes": ("a, b",),
    "control": True,
}


def test_texts_and_values_make_the_same_request():
    assert StudyRequest.make(TEXTS) == StudyRequest.make(VALUES)


def test_a_request_survives_json():
    request = StudyRequest.make(TEXTS)
    assert StudyRequest.model_validate_json(request.model_dump_json()) == request


def test_the_call_makes_the_request_again():
    request = StudyRequest.make(TEXTS)
    found = eval(request.as_call(), {"scse": type("Names", (), {"study": lambda **fields: StudyRequest.make(fields)})})
    assert found == request
    assert StudyRequest.make({}).as_call() == "scse.study()"


def test_the_command_has_what_differs_from_the_defaults():
    assert StudyRequest.make({"dataset": "a b", "seeds": 2, "variants": "none,cse,sse,scse"}).as_command() == (
        "scse study 'a b' --seeds 2"
    )
    assert shlex.split(StudyRequest.make(TEXTS).as_command())[3:] == [
        *("--networks", "unet,smp:Unet[encoder_name=resnet18]", "--variants", "none,scse[reduction=4]"),
        *("--aggregations", "add,max", "--control", "--epochs", "3,6"),
        *("--set", "width=3", "--set", "slices_per_epoch=none", "--note", "a, b"),
    ]
    assert TrainRequest.make({"dataset": "x", "fold": 1, "skip_bad": True}).as_command() == (
        "scse train x --fold 1 --skip-bad"
    )


def test_the_signature_has_the_fields_and_plain_defaults():
    parameters = inspect.signature(scse.study).parameters
    assert [*parameters][:3] == ["dataset", "networks", "variants"]
    assert {"cache", "on_event", "stop"} < parameters.keys()
    assert parameters["variants"].default == ("none", "cse", "sse", "scse")
    assert all(field.description for field in StudyRequest.model_fields.values())


def test_a_study_compares_the_variants_of_the_paper_unless_it_names_others():
    assert StudyRequest.make({}).variants == OF_THE_PAPER
    assert StudyRequest.make({"variants": "none,pe[reduction=8]"}).variants == (Variant("none"), Variant("pe", 8))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": 3}, r"seed: Extra inputs are not permitted, got 3 \(arguments are dataset, networks, variants"),
        ({"seeds": "x"}, "wrong study arguments: seeds: Input should be a valid integer.*, got 'x'$"),
        ({"networks": "vnet"}, "network must be one of 'unet', .*, got 'vnet'$"),
        ({"variants": ["none", "SE"]}, "variants must be one of 'none', 'cse', 'sse', 'scse', 'pe', got 'SE'$"),
        ({"reductions": "2,,4"}, "reductions must be whole numbers with commas, such as 3,6,12, got '2,,4'$"),
        ({"settings": ["width"]}, "settings must have the form NAME=VALUE, such as width=16, got 'width'$"),
        ({"budget": "soon"}, "budget must be a time such as 2h, 90m, 1h30m or 45s, got 'soon'$"),
        ({"plane": "top"}, "plane: Input should be 'sagittal', .*, got 'top'$"),
    ],
)
def test_wrong_arguments_are_named(fields: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        StudyRequest.make(fields)


def test_a_former_name_is_accepted_with_a_warning():
    with pytest.warns(FutureWarning, match="view= is now plane="):
        assert StudyRequest.make({"view": "axial"}).plane == "axial"


def test_settings_are_named_once():
    fields = {"dataset": "x", "variant": "cse", "settings": {"variant": "sse", "width": 3}}
    with pytest.raises(UserError, match="settings must not contain variant: there are arguments of these names"):
        TrainRequest.make(fields).training_settings()
    assert TrainRequest.make({"dataset": "x", "settings": {"variant": "sse"}}).training_settings().variant.kind == "sse"
