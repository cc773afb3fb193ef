"""The Python examples of the documentation that use Keras run unchanged."""

import pytest

from snippets import PAGES, assert_runs, python_snippets

PAGE = "docs/from_the_article.md"
pytestmark = pytest.mark.usefixtures("quick_networks")
SNIPPETS = [snippet for snippet in python_snippets(*PAGES) if snippet.keras and not snippet.reason]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.page)
def test_python_example_runs(snippet):
    assert_runs(snippet)


def test_pages_show_python_examples():
    assert {snippet.page for snippet in SNIPPETS} >= {"README.md", PAGE}


def test_the_page_shows_every_block_and_every_way_on():
    text = "\n".join(snippet.code for snippet in SNIPPETS if snippet.page == PAGE)
    names = ("ChannelSE", "SpatialSE", "ConcurrentSE", "attach", "detach", "networks.UNet", "from_torch", "to_torch")
    assert [name for name in names if f"scse.keras.{name}(" not in text] == []
