"""Kinds of input: tables of scores, and label maps to be scored."""
# a branch for each mutation
# ruff: noqa: PLR0912, PLR0915

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fuzzing.base import AFFINE, scores
from fuzzing.images import nifti
from fuzzing.mutations import SAME_JSON, Rng, bad_json, changed_json, garbled, pick
from fuzzing.sandbox import Must, Trial, command_line
from scse.evaluation.comparison import compare
from scse.evaluation.reading import read_scores
from scse.evaluation.scores import evaluate
from scse.evaluation.variant_files import read_score_files

COMPARED = ("baseline", "metric")
"""Arguments that a refusal may name in the place of the file."""


def _means(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Mean of each network and variant over cases of their means over structures, as `compare` has them."""
    found = compare(table, baseline="none").summary
    return {(str(row.network), str(row.variant)): float(row.mean) for row in found.itertuples(index=False)}


def _close(found: dict[Any, float], expected: dict[Any, float]) -> bool:
    return found.keys() == expected.keys() and all(abs(found[key] - expected[key]) < 1e-9 for key in found)


def _plain_means(text: str) -> dict[tuple[str, str], float]:
    """The means of a table, computed from its text without pandas: all cases have all seeds and structures."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in csv.DictReader(io.StringIO(text)):
        values[row["network"], row["variant"]].append(float(row["value"]))
    return {key: float(np.mean(each)) for key, each in values.items()}


def scores_table(rng: Rng, folder: Path) -> Trial:
    """A table of scores as CSV or Parquet."""
    table = scores()
    text = table.to_csv(index=False)
    expected = _plain_means(text)
    what = pick(
        rng, ["same", "same", "value", "refused", "refused", "bytes", "bytes", "parquet", "parquet same", "cells"]
    )
    path = folder / ("scores.parquet" if what.startswith("parquet") else "scores.csv")
    must: Must = "either"
    checked = True
    if what == "same":
        told, content = _same_table(rng, table, text)
        must = "accept"
    elif what == "value":
        told = "value"
        row, value = int(rng.integers(len(table))), pick(rng, [0.0, 1.0, 0.5, 1e-300, 0.123456789012345678, -0.25, 1e6])
        table.loc[row, "value"] = value
        text = table.to_csv(index=False)
        content, must, expected = text.encode(), "accept", _plain_means(text)
    elif what == "refused":
        told, content = _bad_table(rng, table, text)
        must = "refuse"
    elif what == "bytes":
        told, content = garbled(rng, text.encode())
        checked = False
    elif what == "cells":
        frame = table.astype(object)
        column = pick(rng, table.columns)
        values = [
            "",
            " ",
            "nan",
            "NA",
            "none",
            "1e400",
            "0x10",
            "1_000",
            "--1",
            "é",
            "a,b",
            'q"q',
            "line\nbreak",
            "1" * 400,
            "=1+1",
        ]
        frame.loc[int(rng.integers(len(table))), column] = pick(rng, values)
        told, content, checked = f"cell of {column}", frame.to_csv(index=False).encode(), False
    else:
        told, content, must, checked = _parquet(rng, table, same=what == "parquet same")
    path.write_bytes(content)

    def wrong(found: dict[tuple[str, str], float]) -> str | None:
        return None if not checked or _close(found, expected) else f"means {found} instead of {expected}"

    if rng.random() < 0.2:
        run: Callable[[], Any] = lambda: command_line("compare", str(path), "-o", str(folder / "out"))  # noqa: E731
        return Trial(f"{path.suffix} {what}: {told} (scse compare)", run, [str(path)], must)
    return Trial(
        f"{path.suffix} {what}: {told}", lambda: _means(read_scores(path)), [str(path), *COMPARED], must, wrong
    )


def _same_table(rng: Rng, table: pd.DataFrame, text: str) -> tuple[str, bytes]:
    rows = table.iloc[rng.permutation(len(table))]
    options: dict[str, Callable[[], bytes]] = {
        "rows shuffled": lambda: rows.to_csv(index=False).encode(),
        "columns shuffled": lambda: table[rng.permutation(table.columns)].to_csv(index=False).encode(),
        "BOM": lambda: text.encode("utf-8-sig"),
        "CRLF": lambda: text.replace("\n", "\r\n").encode(),
        "quoted": lambda: table.to_csv(index=False, quoting=csv.QUOTE_ALL).encode(),
        "blank lines": lambda: text.replace("\n", "\n\n").encode(),
        "blanks": lambda: text.replace(",", ", ").replace("\n", " \n").encode(),
        "other columns": lambda: table.assign(note="x", more=1.5).to_csv(index=False).encode(),
        "exponents": lambda: table.to_csv(index=False, float_format="%.12e").encode(),
        "no last line break": lambda: text.rstrip("\n").encode(),
        "no columns of one value": lambda: table.drop(columns=["fold", "metric"]).to_csv(index=False).encode(),
    }
    name = pick(rng, options)
    return name, options[name]()


def _bad_table(rng: Rng, table: pd.DataFrame, text: str) -> tuple[str, bytes]:
    def with_value(value: str) -> str:
        lines = text.splitlines()
        place = int(rng.integers(1, len(lines)))
        lines[place] = lines[place].rpartition(",")[0] + "," + value
        return "\n".join(lines) + "\n"

    options: dict[str, Callable[[], str | bytes]] = {
        "empty": lambda: "",
        "heading alone": lambda: text.splitlines()[0],
        "no value column": lambda: table.drop(columns="value").to_csv(index=False),
        "no case column": lambda: table.drop(columns="case").to_csv(index=False),
        "no variant column": lambda: table.drop(columns="variant").to_csv(index=False),
        "one variant": lambda: table[table["variant"] == "none"].to_csv(index=False),
        "no baseline": lambda: table.replace("none", "plain").to_csv(index=False),
        "other metric": lambda: table.replace("dice", "iou").to_csv(index=False),
        "text": lambda: with_value(pick(rng, ["high", "0.7.1", "0,71", "1 2", "--", "#N/A!", "0.7x"])),
        "infinite": lambda: with_value(pick(rng, ["inf", "-inf", "1e400", "Infinity"])),
        "row twice": lambda: text + text.splitlines()[5] + "\n",
        "row twice with another value": lambda: text + text.splitlines()[5].rpartition(",")[0] + ",0.1\n",
        "more fields": lambda: text.replace("\n", ",1,2\n").replace("value,1,2", "value", 1),
        "semicolons": lambda: text.replace(",", ";"),
        "tabs": lambda: text.replace(",", "\t"),
        "UTF-16": lambda: text.encode("utf-16"),
        "Latin-1": lambda: text.replace("left", "gau\xdf").encode("latin-1"),
        "empty case": lambda: text.replace("case3", "", 1),
        "column twice": lambda: table.assign(again=0.1).rename(columns={"again": "value"}).to_csv(index=False),
        "open quote": lambda: text.replace("case3", '"case3', 1),
    }
    name = pick(rng, options)
    content = options[name]()
    return name, content if isinstance(content, bytes) else content.encode()


def _parquet(rng: Rng, table: pd.DataFrame, *, same: bool) -> tuple[str, bytes, Must, bool]:
    def packed(frame: pd.DataFrame, **options: Any) -> bytes:
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pandas(frame), buffer, **options)
        return buffer.getvalue()

    if same:
        name = pick(rng, ["none", "gzip", "snappy", "zstd", "categories", "index", "v1", "small groups", "checksums"])
        frame = table.astype({"variant": "category", "case": "category"}) if name == "categories" else table
        frame = table.iloc[::-1] if name == "index" else frame
        options: dict[str, Any] = {
            "v1": {"version": "1.0"},
            "small groups": {"row_group_size": 7},
            "checksums": {"write_page_checksum": True},
        }.get(name, {"compression": name} if name in ("none", "gzip", "snappy", "zstd") else {})
        return name, packed(frame, **options), "accept", True
    what = pick(rng, ["garbled", "garbled", "cut", "types", "nested", "no rows", "a CSV", "bool", "decimal"])
    if what == "garbled":
        told, content = garbled(rng, packed(table, compression=pick(rng, ["none", "snappy", "gzip"])))
        return told, content, "either", False
    if what == "cut":
        whole = packed(table)
        return what, whole[: int(rng.integers(len(whole)))], "refuse", False
    if what == "a CSV":
        return what, table.to_csv(index=False).encode(), "refuse", False
    frame = {
        "types": lambda: table.assign(value=table["value"].astype(str), seed=table["seed"].astype(str)),
        "nested": lambda: table.assign(value=[[value] for value in table["value"]]),
        "no rows": lambda: table.iloc[:0],
        "bool": lambda: table.assign(value=table["value"] > 0.7),
        "decimal": lambda: table.assign(case=pd.Timestamp("2020-01-01")),
    }[what]()
    return what, packed(frame), "refuse" if what in ("nested", "no rows", "decimal") else "either", False


def _nnunet(rng: np.random.Generator) -> dict[str, Any]:
    cases = [
        {
            "metrics": {label: {"Dice": float(rng.random()), "IoU": 0.5, "FN": 1} for label in ("1", "2")},
            "prediction_file": f"/p/case{n}.nii.gz",
            "reference_file": f"/r/case{n}.nii.gz",
        }
        for n in range(6)
    ]
    return {
        "foreground_mean": {"Dice": 0.5},
        "mean": {"1": {"Dice": 0.5}, "2": {"Dice": 0.5}},
        "metric_per_case": cases,
    }


def foreign_scores(rng: Rng, folder: Path) -> Trial:
    """Scores as nnU-Net, MONAI and MIST write them; one of two files is changed."""
    fixed = np.random.default_rng(6)
    form = pick(rng, ["nnunet", "nnunet", "monai", "mist"])
    names = {"nnunet": "summary.json", "monai": "dice_raw.csv", "mist": "results.csv"}
    must: Must = "either"
    same = False
    files = []
    for variant in ("none", "scse"):
        path = folder / variant / names[form]
        path.parent.mkdir()
        files.append(path)
        if form == "nnunet":
            path.write_text(json.dumps(_nnunet(fixed)))
        elif form == "monai":
            rows = [f"/d/case{n}.nii.gz,{fixed.random():.6f},{fixed.random():.6f},0.5" for n in range(6)]
            path.write_text("filename,left,right,mean\n" + "\n".join(rows) + "\n")
        else:
            rows = [f"case{n},{fixed.random():.6f},{fixed.random():.2f}" for n in range(6)]
            path.write_text("id,left_dice,left_haus95\n" + "\n".join([*rows, "Mean,0.5,1", "Std,0.1,1"]) + "\n")
    expected = _read(files)
    changed = files[1]
    content = changed.read_bytes()
    what = pick(rng, ["same", "structure", "structure", "text", "bytes", "rows"])
    if form == "nnunet" and what in ("same", "structure", "text"):
        value = json.loads(content)
        if what == "same":
            told = pick(rng, SAME_JSON)
            content, must, same = SAME_JSON[told](value), "accept", True
        elif what == "structure":
            told, value = changed_json(rng, value)
            content = json.dumps(value).encode()
        else:
            told, content, refuse = bad_json(rng, value)
            must = "refuse" if refuse else "either"
    elif form != "nnunet" and what == "same":
        told = pick(rng, ["BOM", "CRLF", "quoted"])
        text = content.decode()
        quoted = "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in text.splitlines())
        changes = {
            "BOM": b"\xef\xbb\xbf" + content,
            "CRLF": text.replace("\n", "\r\n").encode(),
            "quoted": quoted.encode(),
        }
        content, must, same = changes[told], "accept", True
    elif what == "rows" and form != "nnunet":
        lines = content.decode().splitlines()
        told = pick(rng, ["row twice", "text", "infinite", "no rows", "heading"])
        if told == "row twice":
            lines.append(lines[1])
        elif told == "no rows":
            lines = lines[:1]
        elif told == "heading":
            lines[0] = lines[0].replace("left", "", 1)
        else:
            lines[2] = lines[2].split(",")[0] + ("," + ("high" if told == "text" else "inf")) * (lines[2].count(","))
        must = "either" if told == "heading" else "refuse"
        content = "\n".join(lines).encode()
    else:
        told, content = garbled(rng, content)
    changed.write_bytes(content)

    def wrong(found: Any) -> str | None:
        return None if not same or found == expected else f"{found} instead of {expected}"

    if rng.random() < 0.2:
        arguments = [f"none={files[0]}", f"scse={files[1]}"]
        run: Callable[[], Any] = lambda: command_line("compare", *arguments)  # noqa: E731
        return Trial(f"{form} {what}: {told} (scse compare)", run, [str(changed)], must)
    return Trial(f"{form} {what}: {told}", lambda: _read(files), [str(changed), *COMPARED], must, wrong)


def _read(files: list[Path]) -> dict[tuple[str, str], float]:
    return _means(read_score_files({"none": files[0], "scse": files[1]}))


def label_pairs(rng: Rng, folder: Path) -> Trial:
    """Two label maps that are scored against each other; Dice must be what NumPy computes."""
    shape = (9, 8, 7)
    reference = rng.integers(0, 3, shape).astype(np.uint8)
    prediction = np.where(rng.random(shape) < 0.8, reference, rng.integers(0, 3, shape)).astype(np.uint8)
    affine = AFFINE
    what = pick(
        rng, ["values", "dtype", "turned", "other affine", "other size", "extra value", "no value", "bytes", "names"]
    )
    must: Must = "accept"
    stored: Any = prediction
    name = "a.nii"
    if what == "dtype":
        stored = prediction.astype(pick(rng, ["i2", "i4", "f4", "f8", "u8"]))
    elif what == "turned":
        stored, affine = np.ascontiguousarray(prediction[::-1]), AFFINE @ np.diag([-1, 1, 1, 1.0])
        affine[0, 3] += -2.0 * (shape[0] - 1) * 1
        must = "either"
    elif what == "other affine":
        affine, must = AFFINE * [1.0, 1.2, 1, 1], "refuse"
    elif what == "other size":
        stored, must = prediction[1:], "refuse"
    elif what == "extra value":
        stored = prediction.copy()
        stored[0, 0, 0], must = 9, "either"
        prediction = stored
    elif what == "no value":
        stored = prediction = np.zeros(shape, np.uint8)
    elif what == "names":
        name, must = pick(rng, ["b.nii", "A.NII", "a.nii.gz"]), "either"
    content = nifti(stored, affine)
    if what == "bytes":
        told, content = garbled(rng, content)
        what, must = f"bytes, {told}", "either"
    for part, place, held in (("p", name, content), ("r", "a.nii", nifti(reference, AFFINE))):
        (folder / part).mkdir()
        (folder / part / place).write_bytes(held)
    expected = {
        f"structure_{value}": 2 * int(((prediction == value) & (reference == value)).sum())
        / int((prediction == value).sum() + (reference == value).sum())
        for value in (1, 2)
    }  # fmt: skip

    def run() -> dict[str, float]:
        table = evaluate(folder / "p", folder / "r")
        dice = table[table["metric"] == "dice"]
        return dict(zip(dice["structure"], dice["value"], strict=True))

    def wrong(found: dict[str, float]) -> str | None:
        if what.startswith("bytes") or _close(found, expected):
            return None
        return f"Dice {found}, NumPy has {expected}"

    return Trial(f"labels {what}", run, [str(folder), name], must, wrong)
