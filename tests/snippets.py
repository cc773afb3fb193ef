"""The code blocks of the documentation pages."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    ["README.md", "CONTRIBUTING.md", *(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
)
"""All documentation pages, except those that are generated when the site is built."""

FENCE = re.compile(r"^(?:<!-- not run: (?P<reason>.+?) -->\n+)?```(?P<language>\w*).*\n(?P<code>(?s:.*?))^```$", re.M)


@dataclass(frozen=True)
class Snippet:
    """A code block of a page.

    Attributes:
        page: such as "README.md".
        language: "python", "sh", ... or "".
        code: the text.
        reason: why it is not run, from a comment `<!-- not run: REASON -->` above it; "" if it is run.
    """

    page: str
    language: str
    code: str
    reason: str

    @property
    def keras(self) -> bool:
        """Whether the snippet uses Keras. Such snippets run in tests/keras, once on every backend."""
        return "import keras" in self.code or "scse.keras" in self.code


def snippets(page: str) -> list[Snippet]:
    """Return all code blocks of a page."""
    found = FENCE.finditer((ROOT / page).read_text())
    return [Snippet(page, match["language"], match["code"], match["reason"] or "") for match in found]


def python_snippets(*pages: str) -> list[Snippet]:
    """Return the Python code blocks of these pages."""
    return [snippet for page in pages for snippet in snippets(page) if snippet.language == "python"]


def assert_runs(snippet: Snippet) -> None:
    """Assert that a snippet runs on its own, as for a reader who copies it."""
    exec(compile(snippet.code, snippet.page, "exec"), {"__name__": "__main__"})
