"""What the README and the pages of its longer sections show runs as it stands."""

import pytest

from snippets import ROOT, python_snippets, run_snippet

PAGES = ("README.md", "docs/attaching.md", "docs/explaining.md", "docs/studies.md")
MOST_LINES = 150
# those of Keras run in tests/keras, on every backend
SNIPPETS = [(page, snippet) for page in PAGES for snippet in python_snippets(page) if "import keras" not in snippet]


@pytest.mark.parametrize(("page", "snippet"), SNIPPETS)
def test_python_example_runs(page: str, snippet: str) -> None:
    run_snippet(snippet, page)


def test_pages_show_python_examples() -> None:
    assert {page for page, _ in SNIPPETS} >= {"README.md", "docs/attaching.md", "docs/explaining.md"}


def test_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_LINES


def test_readme_and_ci_call_the_same_test_command() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    assert "uv run pytest\n" in (ROOT / "README.md").read_text()
    assert "\nuv run pytest\n" in ci
