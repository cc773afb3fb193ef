"""How networks are named: the parts of a name, lists of names, and what names become for people and folders."""

import re

import pytest

from scse.vocabulary.specs import Spec, slug, split_specs, title


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
    spec = Spec.parse(text)
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
        ("smp:Unet[a]", "must be OPTION=VALUE,..., got 'a'"),
        ("smp:Unet[a=]", "must be OPTION=VALUE,..., got 'a='"),
        ("smp:Unet[a=1,,b=2]", "must be OPTION=VALUE,..., got ''"),
        ("smp:Unet[a-b=1]", "must be OPTION=VALUE,..., got 'a-b=1'"),
        ("smp:Unet[a=1,a=2]", "the option a is there twice"),
        ("smp:Unet[a=(1]", r"'\]' closes what was not opened|'\)' is missing"),
    ],
)
def test_what_is_no_name_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Spec.parse(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("unet", ["unet"]),
        ("unet,smp:Unet , sdnet", ["unet", "smp:Unet", "sdnet"]),
        ("smp:Unet[a=1,b=(2,3)],m:N[c=[1,2],d={'x':1,'y':2}],unet", None),
        ("m:f[a='x],y'],unet", ["m:f[a='x],y']", "unet"]),
        ("o'brien/mine.py:make,unet", ["o'brien/mine.py:make", "unet"]),
        ("unet,,sdnet", ["unet", "", "sdnet"]),
        ("", [""]),
    ],
)
def test_a_list_is_split_at_commas_outside_of_brackets(text, parts):
    expected = parts or ["smp:Unet[a=1,b=(2,3)]", "m:N[c=[1,2],d={'x':1,'y':2}]", "unet"]
    assert split_specs(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("smp:Unet[a=1,unet", r"'\]' is missing"),
        ("smp:Unet[a=(1,unet]", r"'\]' closes what was not opened"),
        ("smp:Unet]", r"'\]' closes what was not opened"),
        ("smp:Unet[a='1]", '"\'" is missing'),
    ],
)
def test_brackets_that_are_not_closed_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        split_specs(text)


def test_a_value_nested_too_deep_is_a_string():
    deep = "(" * 5000 + ")" * 5000
    assert Spec.parse(f"m:f[a={deep}]").options == {"a": deep}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("smp:Unet[encoder_name=resnet18]", "smp:Unet[encoder_name=resnet18]"),
        ("/home/me/nets/mine.py:make[a=1]", "mine.py:make[a=1]"),
        ("mine.py:make", "mine.py:make"),
        (r"C:\nets\mine.py:make", "mine.py:make"),
        ("m:f[path=/a/b.py:c]", "m:f[path=/a/b.py:c]"),
        ("m:f[act={'a': 1}]", "m:f[act={'a':1}]"),
        ("something of somebody", "something of somebody"),
    ],
)
def test_people_see_the_name_without_folders(text, shown):
    assert title(text) == shown


def test_folders_get_safe_names_that_differ():
    assert slug("unet") == "unet"
    names = ["smp:Unet", "smp:Unet[]", "smp_Unet:x", "a/m.py:f", "b/m.py:f", "../../m.py:f", "m" * 99 + ":f", "//:::"]
    slugs = [slug(name) for name in names]
    assert all(re.fullmatch(r"[A-Za-z0-9_]*-[0-9a-f]{8}", made) and len(made) < 60 for made in slugs)
    assert len(set(slugs)) == len(names)
