"""Lists of names with options."""

import pytest

from scse.vocabulary.grammar import split_names


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
    assert split_names(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("smp:Unet[a=1,unet", r"'\]' is missing"),
        ("smp:Unet[a=(1,unet]", r"'\]' closes a bracket that was not opened"),
        ("smp:Unet]", r"'\]' closes a bracket that was not opened"),
        ("smp:Unet[a='1]", '"\'" is missing'),
    ],
)
def test_brackets_that_are_not_closed_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        split_names(text)
