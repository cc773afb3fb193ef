"""The commands in docs/ exist, the notebooks run, and the site builds without a warning."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import scse
import scse.evaluation
from notebooks import NOTEBOOKS, code_cells, printed
from scse.cli.app import app
from snippets import PAGES, ROOT, snippets

SHELLS = ("", "sh", "bash", "console")
SCRIPTS = ("benchmarks/", "examples/", "tests/")
OPERATORS = ("&&", "||", ";", "|", "&", ">", "<")
NOTEBOOK_FILES = sorted(NOTEBOOKS.glob("*.ipynb"))


def shell_lines(page: str) -> Iterator[str]:
    """Yield the command lines of a page's code blocks, with continued lines joined and without prompts."""
    for snippet in snippets(page):
        if snippet.language in SHELLS:
            for line in snippet.code.replace("\\\n", " ").splitlines():
                yield line.removeprefix("$ ")


def commands(line: str) -> Iterator[list[str]]:
    """Yield the words of each command of a line: [a, b] and [c] for "A=1 a b && c"."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    command: list[str] = []
    for word in lexer:
        if word in OPERATORS:
            yield command
            command = []
        elif command or not re.match(r"[A-Za-z_]+=", word):  # not a variable for the command
            command.append(word)
    yield command


def calls_of_scse(page: str) -> list[list[str]]:
    """Return the arguments of each call of `scse` in a page's code blocks."""
    lines = [line for line in shell_lines(page) if re.search(r"\bscse ", line)]
    found = [command for line in lines for command in commands(line) if "scse" in command]
    return [command[command.index("scse") + 1 :] for command in found if is_call(command[: command.index("scse")])]


def is_call(before: list[str]) -> bool:
    """Return whether `scse` after these words is the program."""
    return not before or before[:2] == ["uv", "run"]


def mentions_of_scse(page: str) -> list[list[str]]:
    """Return the arguments of each `scse ...` in the text of a page, which may be part of a command."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    return [shlex.split(code)[1:] for code in re.findall(r"`(scse\s[^`]*)`", text)]


def old_names(arguments: list[str]) -> set[str]:
    """Parse arguments as the command line does, without running, and return the old names, which are hidden."""
    old: set[str] = set()
    command: Any = typer.main.get_command(app)
    context = command.make_context("scse", list(arguments))
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        old |= {name} if command.hidden else set()
        context = command.make_context(name, rest, parent=context)
    hidden = {name for parameter in command.params if getattr(parameter, "hidden", False) for name in parameter.opts}
    return old | hidden & set(arguments)


def options_of(arguments: list[str]) -> tuple[str, set[str]]:
    """Return the verb of a call, and all options of that verb."""
    command: Any = typer.main.get_command(app)
    verbs = []
    for word in arguments:
        if not hasattr(command, "commands"):
            break
        verbs.append(word)
        command = command.commands[word]
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    options = {name for parameter in shown for name in (*parameter.opts, *parameter.secondary_opts)}
    return " ".join(verbs), options | {"--help"}


HIDDEN = {name for name, verb in typer.main.get_command(app).commands.items() if verb.hidden}  # type: ignore[attr-defined]


def words_of(value: object) -> str:
    """Return the name of a test parameter."""
    return " ".join(value) if isinstance(value, list) else str(value)


CALLS = [(page, call) for page in PAGES for call in calls_of_scse(page)]
MENTIONS = [(page, call) for page in PAGES for call in mentions_of_scse(page) if call]


@pytest.mark.parametrize(
    ("page", "call"), CALLS, ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_command_of_a_page_is_one_of_the_command_line(page: str, call: list[str]) -> None:
    assert old_names(call) == set()


def test_pages_show_commands() -> None:
    assert {call[0] for _, call in CALLS} >= {"study", "train", "predict", "evaluate", "compare", "inspect", "explain"}


def test_a_wrong_command_is_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        old_names(["study", "my-data", "--no-such-option", "1"])


@pytest.mark.parametrize(("page", "call"), MENTIONS, ids=words_of)
def test_command_in_a_sentence_names_options_that_exist(page: str, call: list[str]) -> None:
    verb, options = options_of(call)
    assert verb
    assert verb not in HIDDEN
    assert {word.partition("=")[0] for word in call if word.startswith("-")} <= options


@pytest.mark.parametrize("page", PAGES)
def test_scripts_that_a_page_calls_exist(page: str) -> None:
    words = {word.rstrip(";") for line in shell_lines(page) for word in line.split() if word.startswith(SCRIPTS)}
    assert [word for word in sorted(words) if not list(ROOT.glob(word))] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOK_FILES, ids=lambda path: path.stem)
def test_every_cell_of_a_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stored = [bool(cell["outputs"]) for cell in code_cells(json.loads(path.read_text()))]
    assert [bool(text) for text in printed(path)] == stored


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOK_FILES] == ["attach_your_network", "does_it_help"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_pages_of_the_site_load_nothing_from_other_hosts(site: Path) -> None:
    loads = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//[^>]*>|<link\b[^>]*>")
    pages = sorted(site.rglob("*.html"))
    found = {tag for page in pages for tag in loads.findall(page.read_text()) if re.search(r"=\"?(?:https?:)?//", tag)}
    assert len(pages) > 40
    assert found == set()
    assert not any("url(http" in sheet.read_text() for sheet in site.rglob("*.css"))


def test_the_reference_has_every_verb_and_every_public_name(site: Path) -> None:
    verbs = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    page = (site / "cli.html").read_text()
    assert {verb for verb in verbs if f'id="scse-{verb}"' in page} == verbs - HIDDEN
    shown = "\n".join(page.read_text() for page in (site / "api").iterdir())
    names = [f"scse.{name}" for name in scse.__all__ if name not in {"functional", "networks"}]
    names += [f"scse.evaluation.{name}" for name in scse.evaluation.__all__]
    names += [f"scse.keras.{name}" for name in ("ConcurrentSE", "attach", "detach", "from_torch", "to_torch")]
    assert [name for name in names if f'id="{name}"' not in shown] == []
