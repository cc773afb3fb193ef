"""Networks by name: the parts of a name, and texts that are refused."""

import pytest

from scse.vocabulary.specs import NetworkSpec


@pytest.mark.parametrize(
    ("text", "source", "name", "options"),
    [
        ("unet", "", "unet", {}),
        ("smp:Unet", "smp", "Unet", {}),
        ("smp:Unet[]", "smp", "Unet", {}),
        ("smp:Unet[encoder_name=resnet18]", "smp", "Unet", {"encoder_name": "resnet18"}),
        (
            "monai:UNet[channels=(16, 32,64),strides=(2,2), act='relu,x']",
            "monai",
            "UNet",
            {"channels": (16, 32, 64), "strides": (2, 2), "act": "relu,x"},
        ),
        ("m:f[a=1.5,b=None,c=True,d={'x': [1]}]", "m", "f", {"a": 1.5, "b": None, "c": True, "d": {"x": [1]}}),
        ("path/to/mine.py:make", "path/to/mine.py", "make", {}),
        (r"C:\nets\mine.py:make[width=4]", r"C:\nets\mine.py", "make", {"width": 4}),
        ("a:b/mine.py:make[x=c:d[1]]", "a:b/mine.py", "make", {"x": "c:d[1]"}),
        ("m:f[a=x=y]", "m", "f", {"a": "x=y"}),
    ],
)
def test_a_name_has_a_source_a_name_and_options(text, source, name, options):
    spec = NetworkSpec.parse(text)
    assert (spec.text, spec.source, spec.name, dict(spec.options)) == (text, source, name, options)
    assert spec.is_file == source.endswith(".py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "network must have the form NAME, LIBRARY:CLASS or FILE.py:FUNCTION.*got ''"),
        ("unet[width=3]", "network must have the form"),
        ("smp:", "network must have the form"),
        (":Unet", "network must have the form"),
        ("smp:Unet[a=1", "network must have the form"),
        ("smp:Unet.x", "network must have the form"),
        ("smp:Unet[a]", "must contain OPTION=VALUE,..., got 'a'"),
        ("smp:Unet[a=]", "must contain OPTION=VALUE,..., got 'a='"),
        ("smp:Unet[a=1,,b=2]", "must contain OPTION=VALUE,..., got ''"),
        ("smp:Unet[a-b=1]", "must contain OPTION=VALUE,..., got 'a-b=1'"),
        ("smp:Unet[a=1,a=2]", "the option a is repeated"),
        ("smp:Unet[a=(1]", r"'\]' closes a bracket that was not opened|'\)' is missing"),
    ],
)
def test_what_is_no_name_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        NetworkSpec.parse(text)


def test_a_value_nested_too_deep_is_a_string():
    deep = "(" * 5000 + ")" * 5000
    assert NetworkSpec.parse(f"m:f[a={deep}]").options == {"a": deep}


def test_specs_are_equal_if_their_texts_are():
    text = "monai:UNet[channels=(4,8),strides=(2,)]"
    assert NetworkSpec.parse(text) == NetworkSpec.parse(text)
    assert len({NetworkSpec.parse(text), NetworkSpec.parse(text), NetworkSpec.parse("unet")}) == 2
    assert str(NetworkSpec.parse(text)) == text
