"""The Python examples of the README and of docs/ run unchanged."""

import ast
import json
import shutil
from pathlib import Path

import pytest

from snippets import PAGES, ROOT, Snippet, assert_runs, python_snippets

MOST_LINES = 150
SNIPPETS = python_snippets(*PAGES)
# examples that use Keras run in tests/keras, on every backend
RUN = [snippet for snippet in SNIPPETS if not snippet.reason and not snippet.keras]
LEFT_OUT = [snippet for snippet in SNIPPETS if snippet.reason]


def write_scores(folder: Path) -> None:
    """Write the files that examples compare: the scores of a study, and the summaries of two nnU-Net trainers."""
    (folder / "my-study").mkdir()
    shutil.copy(ROOT / "docs" / "evidence" / "malc_3mm" / "scores.parquet", folder / "my-study")
    for trainer, dice in (("plain", 0.8), ("blocks", 0.9)):
        cases = [{"prediction_file": f"{case}.nii.gz", "metrics": {"1": {"Dice": dice}}} for case in "abc"]
        (folder / trainer).mkdir()
        (folder / trainer / "summary.json").write_text(json.dumps({"metric_per_case": cases}))


def place(snippet: Snippet) -> str:
    return f"{snippet.page}, block {python_snippets(snippet.page).index(snippet) + 1}"


@pytest.mark.parametrize("snippet", RUN, ids=place)
def test_python_example_runs(snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scores(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert_runs(snippet)


@pytest.mark.parametrize("snippet", LEFT_OUT, ids=place)
def test_python_example_that_is_not_run_compiles(snippet: Snippet) -> None:
    program = ast.parse(snippet.code, snippet.page)
    assert program.body
    compile(program, snippet.page, "exec")


def test_pages_show_python_examples() -> None:
    pages = {"README.md", "docs/index.md", "docs/get-started.md", "docs/attaching.md", "docs/explaining.md"}
    assert {snippet.page for snippet in RUN} >= pages


def test_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_LINES


def test_readme_and_ci_call_the_same_test_command() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    assert "uv run pytest\n" in (ROOT / "README.md").read_text()
    assert "\nuv run pytest\n" in ci
