"""`scse compare`: what it prints and writes."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scores_tables import PLAIN, gains, runs

from scse.cli import main


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["scse", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return command


def test_it_prints_and_writes_all_tables_what_is_missing_and_the_verdict(command, tmp_path: Path) -> None:
    frame = pd.concat(
        runs({"none": PLAIN, "[red]": PLAIN + gains()}, seed=seed, structure=s) for seed in (0, 1) for s in ("a", "b")
    )
    frame.loc[(frame["case"] == "case3") & (frame["variant"] == "[red]"), "value"] = np.nan
    frame.to_csv(tmp_path / "scores.csv", index=False)
    code, out, err = command(tmp_path / "scores.csv", "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    for text in (
        "U-Net: Dice over subjects, mean over structures, higher is better",
        "U-Net: all structures together, difference to plain; Holm over 1 variants",
        "U-Net: each structure, median difference to plain [95 %]; Holm over 2 tests",
        "U-Net: each seed alone",
        "U-Net: ranks by the mean over 9 common subjects",
        "missing: U-Net, [red]: 4 scores NaN (cases case3); left out of means and pairs",
        "U-Net: [red] is better than plain.",
        "9 of 9 subjects better, 2 of 2 seeds agree, 2 pairs missing.",
    ):
        assert text in out
    written = {path.stem: pd.read_csv(path, keep_default_na=False) for path in (tmp_path / "out").iterdir()}
    assert sorted(written) == ["missing", "ranking", "seeds", "structures", "summary", "tests"]
    assert len(written["missing"]) == 4
    assert set(written["tests"]["kind"]) == {"better"}


def test_with_five_subjects_no_p_is_printed(command, tmp_path: Path) -> None:
    runs({"none": PLAIN[:5], "scse": PLAIN[:5] + gains()[:5]}).to_csv(tmp_path / "few.csv", index=False)
    code, out, _ = command(tmp_path / "few.csv")
    assert code == 0
    assert "no significance can be reached with fewer than 6 paired subjects" in out
    assert "p =" not in out
    assert "p <" not in out


def test_an_unknown_metric_needs_its_direction(command, tmp_path: Path) -> None:
    runs({"none": PLAIN, "scse": PLAIN - gains()}, metric="mine").to_csv(tmp_path / "mine.csv", index=False)
    code, out, err = command(tmp_path / "mine.csv", "--metric", "mine")
    assert (code, out) == (1, "")
    assert err.startswith("error: metric 'mine': ")
    code, out, _ = command(tmp_path / "mine.csv", "--metric", "mine", "--lower-is-better")
    assert code == 0
    assert "scSE is better than plain: -0.014 mine [" in out


def test_a_wrong_file_ends_in_one_message(command, tmp_path: Path) -> None:
    code, out, err = command(tmp_path / "nothing.csv")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {tmp_path / 'nothing.csv'}: there is no such file")
