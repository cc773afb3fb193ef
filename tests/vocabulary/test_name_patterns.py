"""Names with wildcards, for any separator; the dotted names of torch are in attachment/test_patterns.py."""

import pytest

from scse.vocabulary.patterns import matches, named


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("encoder/conv.1", "encoder/conv.?", True),
        ("encoder/conv", "*", False),
        ("encoder/conv", "**", True),
        ("encoder/conv", "encoder.conv", False),
    ],
)
def test_parts_are_told_apart_by_the_separator(name, pattern, expected):
    assert matches(name, pattern, separator="/") is expected


def test_names_are_chosen_by_any_of_the_patterns():
    assert named("a/* | c", ["a/b", "a/b/c", "c", "d"], what="layer", separator="/") == {"a/b", "c"}


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [("encoder/con", "the nearest names are encoder/conv"), ("zzz", "its parts are encoder, head")],
)
def test_pattern_that_matches_nothing_is_told_with_what_there_is(pattern, nearest):
    with pytest.raises(ValueError, match=f"^pattern '{pattern}' matches no layer of UNet; {nearest}$"):
        named(f"head|{pattern}", ["encoder/conv", "head"], what="layer of UNet", separator="/")


def test_a_pattern_longer_than_any_is_refused_at_once():
    with pytest.raises(ValueError, match=r"a pattern \(--to, to=\) may have 10000 characters, got 50000"):
        named(50_000 * "[", ["encoder", "decoder"], what="module")
