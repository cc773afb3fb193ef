"""Pages of the site that are made at its build: the command line, the examples, the notebooks, and two of the root."""

import ast
import json
import posixpath
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
COMMAND_LINE = "scse.cli.app"
"""The module of the typer application."""

OF_ROOT = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""File of the repository -> page of the site."""

LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^()\s#]+)(?=[#)])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files of docs/."""
    pages = {"cli.md": command_line_page()}
    for path in sorted((ROOT / "examples").glob("*.py")):
        pages[f"examples/{path.stem}.md"] = example_page(path)
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        pages[f"notebooks/{path.stem}.md"] = notebook_page(path)
    for name, page in OF_ROOT.items():
        pages[page] = relinked((ROOT / name).read_text(), name, page)
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files of the repository lead to their pages."""
    generated = page.file.generated_by is not None
    return markdown if generated else relinked(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def command_line_page() -> str:
    """All verbs and their options, as typer documents them; without the hidden ones, which are old names."""
    documenting = ["utils", "docs", "--name", "scse", "--title", "Command line"]
    command = [sys.executable, "-m", "typer", COMMAND_LINE, *documenting]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    verbs = typer.main.get_command(import_module(COMMAND_LINE).app).commands  # type: ignore[attr-defined]
    for name, verb in verbs.items():
        # typer cuts the sentence in the list of verbs short
        line = "" if verb.hidden else f"* [`{name}`](#scse-{name}): {verb.help.splitlines()[0]}\n"
        text = re.sub(rf"^\* `{name}`: .*\n", lambda _, line=line: line, text, flags=re.MULTILINE)
        if verb.hidden:
            text = re.sub(rf"^## `scse {name}`\n.*?(?=^## |\Z)", "", text, flags=re.MULTILINE | re.DOTALL)
    return text


def example_page(path: Path) -> str:
    """An example: its docstring, and all of its code."""
    code = path.read_text()
    summary = ast.get_docstring(ast.parse(code)) or ""
    return f"# {path.name}\n\n{summary}\n\n```python\n{code}```\n"


def notebook_page(path: Path) -> str:
    """A notebook's cells one after the other, with what its code printed, and a link to the notebook itself."""
    title, *cells = json.loads(path.read_text())["cells"]
    parts = ["".join(title["source"]), f"[Download this notebook]({path.name}){{ download='' }}"]
    for cell in cells:
        source = "".join(cell["source"])
        parts += [source] if cell["cell_type"] == "markdown" else [f"```python\n{source}\n```", *_outputs(cell)]
    return "\n\n".join(parts) + "\n"


def _outputs(cell: dict[str, Any]) -> list[str]:
    texts = ["".join(output["text"]).rstrip("\n") for output in cell["outputs"]]
    return [f'```text title="Output"\n{text}\n```' for text in texts]


def relinked(markdown: str, source: str, page: str) -> str:
    """The text with links that work on the site.

    Args:
        markdown: the text.
        source: its file in the repository, such as "docs/attaching.md"; its links start there.
        page: its page of the site, such as "attaching.md".
    """

    def target(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        if path.startswith("examples/") and path.endswith(".py"):
            path = f"docs/{PurePosixPath(path).with_suffix('.md')}"
        path = f"docs/{OF_ROOT[path]}" if path in OF_ROOT else path
        if not path.startswith("docs/"):
            return match[1]
        return posixpath.relpath(path.removeprefix("docs/"), posixpath.dirname(page) or ".")

    return LINK.sub(target, markdown)
