"""docs/evidence.md holds the tables that its scores give."""

import importlib
from pathlib import Path

import pytest

from snippets import ROOT

FOLDERS = sorted(path.parent for path in (ROOT / "docs" / "evidence").glob("*/scores.parquet"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_page_holds_every_table_that_the_scores_give(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    page = (ROOT / "docs" / "evidence.md").read_text()
    parts = list(importlib.import_module("evidence").parts(folder))
    assert parts
    assert [part for part in parts if part not in page] == []
