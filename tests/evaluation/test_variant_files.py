"""Scores in files of each variant: selection of files, seeds and folds, and scores that cannot be paired."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytest

from scse.evaluation import read_score_files
from scse.evaluation.variant_files import read_compared
from scse.support.errors import DataError

CASES = ("a", "b", "c")
Write = Callable[..., Path]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """A function that writes a long table of the cases into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, cases: Sequence[str] = CASES, **columns: object) -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {"structure": "left", "metric": "dice", **columns}
        rows = [",".join(["case", "value", *columns])]
        rows += [",".join([case, f"0.{i + 1}", *map(str, columns.values())]) for i, case in enumerate(cases)]
        path.write_text("\n".join(rows) + "\n")
        return path

    return write


def write_summary(folder: Path, cases: Sequence[str] = CASES) -> None:
    """A `summary.json` in the form that nnU-Net writes, see test_foreign.py."""
    folder.mkdir(parents=True)
    entries = [
        {"prediction_file": f"/x/{case}.nii.gz", "reference_file": f"/y/{case}.nii.gz", "metrics": {"1": {"Dice": 0.5}}}
        for case in cases
    ]
    (folder / "summary.json").write_text(json.dumps({"metric_per_case": entries, "mean": {}, "foreground_mean": {}}))


def read(*arguments: str, notes: list[str] | None = None) -> dict[str, list[tuple[object, object, str]]]:
    """Seed, fold and case of the scores of each variant."""
    said = [] if notes is None else notes
    found = read_compared(arguments, metric="dice", baseline="none", on_note=said.append)
    return {
        str(variant): list(rows[["seed", "fold", "case"]].itertuples(index=False, name=None))
        for variant, rows in found.groupby("variant", sort=False)
    }


def grid(seeds: Mapping[tuple[int, int], str]) -> list[tuple[int, int, str]]:
    return [(seed, fold, case) for (seed, fold), cases in seeds.items() for case in cases]


def test_files_of_folds_and_of_two_trainings(table: Write, tmp_path: Path) -> None:
    for run in ("none_a", "none_b", "scse_a"):
        for fold, cases in enumerate(("ab", "c")):
            write_summary(tmp_path / run / f"fold_{fold}" / "validation", cases)
    notes: list[str] = []
    found = read(
        "none=none_a/fold_*/validation/summary.json,none_b/fold_*/validation",
        "scse=scse_a/fold_*/validation",
        notes=notes,
    )
    assert found == {
        "none": grid({(0, 0): "ab", (0, 1): "c", (1, 0): "ab", (1, 1): "c"}),
        "scse": grid({(0, 0): "ab", (0, 1): "c"}),
    }
    assert notes == [
        "none: 4 files, read as seeds 0, 1, folds 0, 1",
        "scse: 2 files, read as seed 0, folds 0, 1",
    ]


def test_files_of_one_fold_are_seeds_in_the_order_of_their_names(table: Write) -> None:
    for name in ("runs/b", "runs/a", "runs/c"):
        table(f"{name}/fold_3/x.csv", ("all", name[-1]))
    table("fold_3/other.csv", ("all",))
    notes: list[str] = []
    found = read("none=runs/*/fold_3/x.csv", "scse=fold_3/other.csv", notes=notes)
    assert found["none"] == [row for seed in range(3) for row in ((seed, 3, "all"), (seed, 3, "abc"[seed]))]
    assert notes == ["none: 3 files, read as seeds 0, 1, 2, fold 3", "scse: 1 file, read as seed 0, fold 3"]


def test_a_listed_order_stays_and_lacking_folds_are_counted(table: Write) -> None:
    b, a = table("b/fold_0/x.csv"), table("a/fold_0/x.csv")
    both = [b, a, table("a/fold_1/x.csv", "d")]
    notes: list[str] = []
    found = read_score_files({"none": both, "scse": str(table("fold_0/y.csv"))}, on_note=notes.append)
    assert found.groupby("variant")["seed"].agg(list).to_dict() == {"none": [0, 0, 0, 1, 1, 1, 0], "scse": [0, 0, 0]}
    assert notes[0] == "none: 3 files, read as seeds 0, 1, folds 0, 1, 3 of 4 pairs of seed and fold"
    assert list(found.columns) == ["network", "variant", "seed", "fold", "case", "structure", "metric", "value"]
    assert found.index.tolist() == list(range(10))


def test_columns_seed_and_fold_of_a_file_count(table: Write) -> None:
    table("fold_1/none.csv", seed=7, fold=2, variant="whatever")
    table("fold_1/next.csv", seed=8, fold=2)
    table("a/scse.csv", fold=2)
    table("b/scse.csv", fold=2)
    table("c/scse.csv", seed=7, fold=2)
    found = read("none=fold_1/none.csv,fold_1/next.csv", "scse=c/scse.csv,a/scse.csv,b/scse.csv")
    assert found["none"] == grid({(7, 2): "abc", (8, 2): "abc"})
    assert found["scse"] == grid({(7, 2): "abc", (0, 2): "abc", (1, 2): "abc"})


def test_files_of_one_seed_may_have_several_epochs(table: Write) -> None:
    for name in ("none", "scse"):
        for epochs in (3, 12):
            table(f"{name}{epochs}.csv", epochs=epochs, seed=0)
    found = read_score_files({name: [f"{name}3.csv", f"{name}12.csv"] for name in ("none", "scse")})
    assert found["epochs"].tolist() == [*[3] * 3, *[12] * 3] * 2
    table("more.csv", seed=0)
    mixed = read_score_files({"none": ["more.csv", "none3.csv"], "scse": "scse3.csv"})
    assert list(mixed.columns[:3]) == ["network", "epochs", "variant"]
    assert mixed["epochs"].tolist() == [*[pd.NA] * 3, *[3] * 6]


def test_what_a_table_lacks_is_said_once(table: Write) -> None:
    Path("plain.csv").write_text("case,value\na,0.5\n")
    Path("other.csv").write_text("case,value\na,0.6\n")
    notes: list[str] = []
    read("none=plain.csv", "scse=other.csv", notes=notes)
    assert notes == [
        "no column structure: using structure for all scores",
        "no column metric: using dice for all scores",
        "none: 1 file, read as seed 0, fold 0",
        "scse: 1 file, read as seed 0, fold 0",
    ]


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("a.csv", "a.csv"),
        ("a,b.csv", "a,b.csv"),
        ("r[1].csv", "r[1].csv"),
        ("scse[reduction=4]/fold_0/x.csv", "scse[reduction=4]/fold_*/x.csv"),
        ("deep/er/x.csv", "**/x.csv"),
        ("x=y.csv", "x=y.csv"),
        ("home/x.csv", "~/x.csv"),
    ],
)
def test_paths_and_patterns_find_files(table: Write, monkeypatch: pytest.MonkeyPatch, name: str, argument: str) -> None:
    monkeypatch.setenv("HOME", "home")
    table("none.csv")
    table(name)
    table("scse4/fold_0/x.txt")  # a name that [reduction=4] would match as a pattern
    assert len(read("none=none.csv", f"scse={argument}")["scse"]) == 3


def test_names_of_variants_may_have_options(table: Write) -> None:
    arguments = f"none={table('a.csv')}", f"scse[reduction=4,placement=encoder] = {table('b.csv')}"
    assert list(read(*arguments)) == ["none", "scse[reduction=4,placement=encoder]"]


def test_one_argument_that_is_a_file_is_a_table(table: Write) -> None:
    text = "variant,case,value\nnone,a,0.5\nscse,a,0.6\n"
    for name in ("a=b.csv", "a.csv"):
        Path(name).write_text(text)
        assert list(read(name)) == ["none", "scse"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a=b.csv"], "a=b.csv: is not a file, but a single variant; give one table of all variants, or NAME=FILES"),
        ([f"a={','.join(['x.csv'] * 999)}"], "is not a file, but a single variant"),
        (["missing.csv"], "missing.csv: does not exist"),
        (["a.csv", "b.csv"], "a.csv: has no variant name, but 2 arguments were given"),
        (["none=a.csv", "b.csv"], "b.csv: has no variant name, but 2 arguments were given; give only one table of all"),
        (["none=a.csv", "none=b.csv"], "none=b.csv: the variant none is given twice; .*: none=FILE,FILE"),
        (["none=", "scse=b.csv"], "none=: a path is empty; write NAME=FILE"),
        (["none=a.csv,,b.csv", "scse=b.csv"], "none=a.csv,,b.csv: a path is empty"),
        (["=a.csv", "scse=b.csv"], "=a.csv: a name is empty"),
        (["none=a.csv", "scse=runs/*.csv"], r"runs/\*.csv: no file matches this pattern; correct it"),
        (["none=a.csv", "scse=c.csv"], "c.csv: does not exist; give a CSV or Parquet file"),
        (
            ["none=a.csv", "scse=."],
            r"\.: is a folder without summary.json; give a folder with the summary.json of nnU-Net v2",
        ),
        (["none=a.csv", "scse=empty.csv"], "empty.csv: contains no scores"),
        (["none=a.csv,a.csv", "scse=b.csv"], "a.csv: is given for none and again for none; give each file only once"),
        (["none=a.csv", "scse=*.csv"], "a.csv: is given for none and again for scse"),
        (["plain=a.csv", "scse=b.csv"], "the baseline 'none' is not one of the variants plain, scse; .*--baseline"),
        (["none=a.csv", "scse=other.csv"], r"scse \(other.csv\) has no case in common with none \(a.csv\).*x, y"),
        (["none=a.csv", "scse=epochs.csv"], r"no network in common .*: network\[epochs=3\] and network; give files"),
        (["none=a.csv", "scse=right.csv"], "no structure in common .*: right and left; give files with the same"),
        (["none=a.csv", "scse=seed.csv"], "no seed in common .*: 5 and 0"),
        (
            ["none=a.csv", "scse=fold_1/a.csv"],
            r"has case a in fold 1, but none \(a.csv\) in fold 0, so it cannot be paired",
        ),
        (
            ["none=a.csv,other.csv", "scse=b.csv"],
            "other.csv: belongs to fold 0 of none, like a.csv, but they have no common case",
        ),
        (["none=seed.csv,again.csv", "scse=b.csv"], "again.csv: contains seed 5, fold 0, case a, structure left, like"),
        (["none=a.csv", "scse=twice.csv"], "twice.csv: 1 scores are duplicates, the first in rows 2 and 4"),
        (["none=a.csv", "scse=text.csv"], "text.csv, row 2: the value 'high' is not a number"),
        (["none=a.csv", "scse=inf.csv"], "inf.csv, row 2: the value is infinite"),
        (["none=a.csv", "scse=hd.csv"], "hd.csv: the metric 'dice' does not occur; choose another with --metric: hd95"),
    ],
)
def test_arguments_and_files_that_cannot_be_compared(table: Write, arguments: list[str], message: str) -> None:
    for name in ("a.csv", "b.csv", "fold_1/a.csv"):
        table(name)
    table("other.csv", "xy")
    table("right.csv", structure="right")
    table("epochs.csv", epochs=3)
    table("seed.csv", seed=5)
    table("again.csv", seed=5)
    table("twice.csv", "aba")
    table("hd.csv", metric="hd95")
    Path("empty.csv").write_text("case,value\n")
    Path("text.csv").write_text("case,value\na,high\n")
    Path("inf.csv").write_text("case,value\na,inf\n")
    with pytest.raises(DataError, match=message):
        read(*arguments)


def test_python_calls_with_too_few_files_are_refused(table: Write) -> None:
    with pytest.raises(DataError, match="a comparison needs at least two variants, got none; give files of each"):
        read_score_files({})
    with pytest.raises(DataError, match="scse: has no files; give a CSV or Parquet file"):
        read_score_files({"none": table("a.csv"), "scse": []})
