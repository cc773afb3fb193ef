"""The Python examples of a page."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def python_snippets(page: str) -> list[str]:
    """All that a page, such as "README.md", shows as Python."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def run_snippet(snippet: str, page: str) -> None:
    """Run it alone, as a reader would who copies it."""
    exec(compile(snippet, page, "exec"), {})
