"""`scse compare`: what it prints and writes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scores_tables import PLAIN, gains, runs, trainings
from scse.cli.app import main


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
    frame = pd.concat(trainings({"none": PLAIN, "[red]": PLAIN + gains()}, structure=s) for s in ("a", "b"))
    frame.loc[(frame["case"] == "case3") & (frame["variant"] == "[red]"), "value"] = np.nan
    frame.to_csv(tmp_path / "scores.csv", index=False)
    code, out, err = command(tmp_path / "scores.csv", "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    for text in (
        "U-Net: Dice over cases, mean over structures, higher is better",
        "U-Net: all structures, mean difference to plain; Holm over 1 variants; margin 0.005",
        "U-Net: each structure, mean difference to plain [95 %]; Holm over 2 tests",
        "U-Net: each seed separately",
        "U-Net: ranks by the mean over 9 common cases",
        "missing: U-Net, [red]: NaN in 6 scores (cases case3); left out of means and pairs",
        "U-Net: [red] is better than plain.",
        "3 trainings and 9 cases, 3 pairs missing.",
        "Two trainings of plain differ by 0.000 Dice on average (3 trainings).",
    ):
        assert text in out
    written = {path.stem: pd.read_csv(path, keep_default_na=False) for path in (tmp_path / "out").glob("*.csv")}
    assert sorted(written) == ["missing", "noise", "ranking", "seeds", "structures", "summary", "tests"]
    assert len(written["missing"]) == 6
    assert set(written["tests"]["kind"]) == {"better"}


def test_the_margin_can_be_chosen(command, tmp_path: Path) -> None:
    trainings({"none": PLAIN, "scse": PLAIN + gains()}).to_csv(tmp_path / "scores.csv", index=False)
    code, out, _ = command(tmp_path / "scores.csv", "--margin", "0.1")
    assert code == 0
    assert "U-Net: scSE is equivalent to plain within 0.1 Dice." in out
    code, _, err = command(tmp_path / "scores.csv", "--margin", "-1")
    assert (code, err) == (1, "error: margin must be positive, in units of dice, got -1.0\n")


def test_with_one_training_no_p_is_printed(command, tmp_path: Path) -> None:
    runs({"none": PLAIN, "scse": PLAIN + gains()}).to_csv(tmp_path / "few.csv", index=False)
    code, out, _ = command(tmp_path / "few.csv")
    assert code == 0
    assert "a verdict needs 3 or more trainings (--seeds 3)" in out
    assert "p =" not in out
    assert "p <" not in out


def test_an_unknown_metric_needs_its_direction(command, tmp_path: Path) -> None:
    trainings({"none": PLAIN, "scse": PLAIN - gains()}, metric="mine").to_csv(tmp_path / "mine.csv", index=False)
    code, out, err = command(tmp_path / "mine.csv", "--metric", "mine")
    assert (code, out) == (1, "")
    assert err.startswith("error: metric 'mine': ")
    code, out, _ = command(tmp_path / "mine.csv", "--metric", "mine", "--lower-is-better")
    assert code == 0
    assert "scSE is better than plain: -0.014 mine [" in out


def test_a_wrong_file_ends_in_one_message(command, tmp_path: Path) -> None:
    code, out, err = command(tmp_path / "nothing.csv")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {tmp_path / 'nothing.csv'}: does not exist")


def test_files_of_each_variant_are_compared(command, tmp_path: Path) -> None:
    for variant, values in (("none", PLAIN), ("scse", PLAIN + gains())):
        for fold, part in enumerate(np.split(np.arange(len(PLAIN)), 2)):
            folder = tmp_path / variant / f"fold_{fold}" / "validation"
            folder.mkdir(parents=True)
            cases = [
                {"prediction_file": f"{i}.nii.gz", "metrics": {"1": {"Dice": values[i], "IoU": 0.5}}} for i in part
            ]
            (folder / "summary.json").write_text(json.dumps({"metric_per_case": cases}))
    arguments = [f"{variant}={tmp_path}/{variant}/fold_*/validation" for variant in ("none", "scse")]
    code, out, err = command(*arguments)
    assert (code, err) == (0, "")
    assert "scse: 2 files, read as seed 0, folds 0, 1" in out
    assert "scSE: too few trainings: +0.014 Dice observed, 1 training and 10 cases" in out
    assert "missing: " not in out
    assert command(*arguments, "--metric", "iou")[0] == 0


def test_a_wrong_file_of_a_variant_ends_in_one_message(command, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("case,value\na,0.5\n")
    code, out, err = command(f"none={tmp_path}/a.csv", f"scse={tmp_path}/b.csv")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {tmp_path / 'b.csv'}: does not exist; give a CSV or Parquet file with")
    assert err.count("\n") == 1


def test_comparing_tables_loads_no_torch(tmp_path: Path) -> None:
    trainings({"none": PLAIN, "scse": PLAIN + gains()}).to_csv(tmp_path / "scores.csv", index=False)
    code = """
import sys
from scse.cli import main
try:
    main()
finally:
    print(sorted({"torch", "monai", "matplotlib", "lightning_fabric"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code, "compare", tmp_path / "scores.csv", "-o", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "U-Net: scSE is better than plain." in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_study_of_epochs_is_compared_for_each_number(command, tmp_path: Path) -> None:
    frames = [trainings({"none": PLAIN, "scse": PLAIN + gains()}).assign(epochs=epochs) for epochs in (1, 3)]
    frames[1].loc[0, "value"] = np.nan
    pd.concat(frames).to_csv(tmp_path / "scores.csv", index=False)
    code, out, err = command(tmp_path / "scores.csv", "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    for text in (
        "U-Net, 1 epoch: all structures, mean difference to plain; Holm over 1 variants; margin 0.005",
        "U-Net, 3 epochs: ranks by the mean over 9 common cases",
        "missing: U-Net, 3 epochs, plain: NaN in 1 score (cases case0); left out of means and pairs",
        "U-Net, 3 epochs: scSE is better than plain.",
    ):
        assert text in out
    for path in (tmp_path / "out").glob("*.csv"):
        assert path.read_text().startswith("network,epochs,"), path.name
