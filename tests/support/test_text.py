"""Text for messages."""

import pytest

from scse.support.text import shortened_list


@pytest.mark.parametrize(
    ("items", "shown", "text"),
    [([], 2, ""), (["a"], 2, "a"), (["a", "b"], 2, "a, b"), (["a", 2, None], 2, "a, 2 and 1 more")],
)
def test_long_lists_are_shortened(items: list[object], shown: int, text: str) -> None:
    assert shortened_list(items, shown) == text


def test_the_separator_is_chosen() -> None:
    assert shortened_list(dict.fromkeys("abc"), 2, separator="; ") == "a; b and 1 more"
