"""Variants by their text: what is understood, one text for equal ones, and what is refused."""

import re

import pytest

from scse.blocks.modules import VARIANTS
from scse.vocabulary.variants import OF_THE_PAPER, OPTIONS, Variant


@pytest.mark.parametrize(
    ("text", "one_text"),
    [
        *((kind, kind) for kind in VARIANTS),
        ("scse[]", "scse"),
        ("scse[reduction=2,aggregation=add,placement=both]", "scse"),
        (
            "scse[placement=encoder, aggregation = max,reduction=4]",
            "scse[reduction=4,aggregation=max,placement=encoder]",
        ),
        ("cse[reduction=16]", "cse[reduction=16]"),
        ("sse[placement=+bottleneck]", "sse[placement=both+bottleneck]"),
        ("pe[placement=encoder,reduction=8]", "pe[reduction=8,placement=encoder]"),
    ],
)
def test_equal_variants_have_one_text(text, one_text):
    assert str(Variant.parse(text)) == one_text
    assert str(Variant.parse(one_text)) == one_text
    assert Variant.parse(text) == Variant.parse(one_text)


def test_every_kind_of_block_has_its_options():
    assert tuple(OPTIONS) == VARIANTS
    chosen = Variant.parse("scse[reduction=4,aggregation=multiply,placement=both+bottleneck]")
    assert chosen == Variant("scse", 4, "multiply", "both+bottleneck")
    assert chosen.block_options == {"reduction": 4, "aggregation": "multiply"}
    assert chosen.parts == ("encoder", "decoder", "bottleneck")
    assert Variant.parse("cse").block_options == {"reduction": 2}
    assert Variant.parse("pe[reduction=8]").block_options == {"reduction": 8}
    assert Variant.parse("sse[placement=decoder]").parts == ("decoder",)
    assert Variant.parse("none").parts == ()


def test_the_variants_of_the_paper_are_the_first_four_kinds():
    assert tuple(map(str, OF_THE_PAPER)) == ("none", "cse", "sse", "scse") == VARIANTS[:4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SE", "variant must be one of 'none', 'cse', 'sse', 'scse', 'pe', got 'SE'"),
        ("scse[reduction=4", "variant must have the form KIND or KIND[OPTION=VALUE,...], got 'scse[reduction=4'"),
        ("scse[reduction]", "scse[reduction]: the brackets must contain OPTION=VALUE,..., got 'reduction'"),
        ("scse[reduction=4,]", "must contain OPTION=VALUE,..., got ''"),
        ("scse[reduction=4,reduction=8]", "the option reduction is repeated"),
        ("scse[r=4]", "must be one of 'reduction', 'aggregation', 'placement', got 'r'"),
        ("scse[reduction=0]", "reduction must be a whole number of at least 1, got 0"),
        ("scse[reduction=2.5]", "reduction must be a whole number of at least 1, got '2.5'"),
        ("scse[aggregation=concat]", "aggregation must be one of 'add', 'max', 'multiply', got 'concat'"),
        ("scse[placement=bottleneck]", "placement must be one of 'encoder', 'decoder', 'both', 'both+bottleneck'"),
        ("cse[aggregation=add]", "aggregation has no effect on variant 'cse' (it has reduction, placement)"),
        ("sse[reduction=4]", "reduction has no effect on variant 'sse' (it has placement)"),
        ("pe[aggregation=max]", "aggregation has no effect on variant 'pe' (it has reduction, placement)"),
        ("none[placement=both]", "placement has no effect on variant 'none' (it has no blocks); leave it out"),
    ],
)
def test_what_is_no_variant_is_named(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Variant.parse(text)
