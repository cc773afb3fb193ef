"""What the README shows runs as it stands."""

import pytest

from snippets import ROOT, python_snippets, run_snippet

# those of Keras run in tests/keras, on every backend
SNIPPETS = [snippet for snippet in python_snippets("README.md") if "import keras" not in snippet]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_python_example_runs(snippet: str) -> None:
    run_snippet(snippet, "README.md")


def test_readme_and_ci_call_the_same_test_command() -> None:
    assert SNIPPETS
    ci = (ROOT / ".ci" / "run").read_text()
    assert "uv run pytest\n" in (ROOT / "README.md").read_text()
    assert "\nuv run pytest\n" in ci
