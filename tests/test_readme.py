"""What the README shows runs as it stands."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_python_example_runs(snippet: str) -> None:
    exec(compile(snippet, "README.md", "exec"), {})


def test_readme_and_ci_call_the_same_test_command() -> None:
    assert SNIPPETS
    ci = (Path(__file__).parents[1] / ".ci" / "run").read_text()
    assert "uv run pytest\n" in README
    assert "\nuv run pytest\n" in ci
