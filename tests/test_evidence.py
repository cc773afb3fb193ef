"""docs/evidence.md contains the tables that are computed from its scores."""

import importlib
from pathlib import Path

import pytest

from scse.evaluation import compare, read_scores, verdicts
from snippets import ROOT

FOLDERS = sorted(path.parent for path in (ROOT / "docs" / "evidence").glob("*/scores.parquet"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_page_holds_every_table_that_the_scores_give(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_parts_on_page("evidence", folder, monkeypatch)


def test_the_page_holds_every_table_of_the_hours_beside_nnunet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_parts_on_page("nnunet_beside", ROOT / "docs" / "evidence" / "nnunet", monkeypatch)


def test_the_page_holds_the_verdict_of_two_seeds_on_the_shortest_training() -> None:
    scores = read_scores(ROOT / "docs" / "evidence" / "sweep" / "shortest_two_seeds.parquet")
    (found,) = verdicts(compare(scores))
    assert f"> {found.text}." in (ROOT / "docs" / "evidence.md").read_text()


def assert_parts_on_page(benchmark: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Assert that a page has every part that a benchmark makes from the scores of a folder."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    page = (ROOT / "docs" / "evidence.md").read_text()
    parts = list(importlib.import_module(benchmark).parts(folder))
    assert parts
    assert [part for part in parts if part not in page] == []
