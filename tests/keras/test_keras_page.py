"""The Keras examples of the README and of the page for readers of the article run without changes."""

import pytest

from snippets import python_snippets, run_snippet

PAGE = "docs/from_the_article.md"
pytestmark = pytest.mark.usefixtures("quick_networks")
SNIPPETS = python_snippets(PAGE)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_python_example_of_the_page_runs(snippet):
    run_snippet(snippet, PAGE)


def test_python_example_of_the_readme_runs():
    (snippet,) = (snippet for snippet in python_snippets("README.md") if "import keras" in snippet)
    run_snippet(snippet, "README.md")


def test_the_page_shows_every_block_and_every_way_on():
    text = "\n".join(SNIPPETS)
    names = ("ChannelSE", "SpatialSE", "ConcurrentSE", "attach", "detach", "networks.UNet", "from_torch", "to_torch")
    assert [name for name in names if f"scse.keras.{name}(" not in text] == []
