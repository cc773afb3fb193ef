"""Kinds of input: folders of segmenters, runs and studies, checkpoints, and prepared arrays."""
# a branch for each mutation
# ruff: noqa: PLR0911, PLR0912, PLR0915

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib import format as npy
from safetensors import safe_open
from safetensors.numpy import load, save

from fuzzing.base import SETTINGS, scene
from fuzzing.mutations import SAME_JSON, Rng, bad_json, changed_json, cut, flip, garbled, pick
from fuzzing.sandbox import Must, Trial, command_line
from scse.inference.segmenter import Segmenter
from scse.studies.runner import study
from scse.training.run import resume, train_on

WEIGHTS = Path("segmenter") / "weights.safetensors"
BIG = [0, -1, 1.5, "2", None, True, 7, 64, 4096, 10**5, 10**7, 2**31, 2**40, [2], ""]


def _predicted(folder: Path) -> tuple[Any, Any]:
    image, _ = scene(np.random.default_rng(5), (12, 10, 9))
    segmenter = Segmenter.load(folder)
    return segmenter.predict(image.astype(np.float32)), dict(segmenter.structures)


def _model(told: str, folder: Path, whole: Path, must: Must, *, same: bool, names: tuple[str, ...] = ()) -> Trial:
    def wrong(found: Any) -> str | None:
        labels, structures = found
        if labels.shape != (12, 10, 9) or not set(np.unique(labels)) <= {0, *structures.values()}:
            return f"labels of shape {labels.shape}, values {np.unique(labels)}, structures {structures}"
        if same and (not np.array_equal(labels, _predicted(whole)[0]) or structures != _predicted(whole)[1]):
            return "other labels than those of the unmutated segmenter"
        return None

    # what becomes of an array names no file, but whose fault it is
    return Trial(told, lambda: _predicted(folder), [str(folder), "the network returned", *names], must, wrong)


def _other_text(rng: Rng, value: Any, what: str) -> tuple[str, bytes, Must]:
    """JSON of the same meaning, or damaged text."""
    if what == "same":
        told = pick(rng, SAME_JSON)
        return told, SAME_JSON[told](value), "accept"
    told, content, refuse = bad_json(rng, value)
    return told, content, "refuse" if refuse else "either"


def model_json(rng: Rng, folder: Path, base: Path) -> Trial:
    """The segmenter.json of a model."""
    target, file = folder / "segmenter", folder / "segmenter" / "segmenter.json"
    shutil.copytree(base / "model" / "segmenter", target)
    value = json.loads(file.read_text())
    what = pick(rng, ["same", "structure", "structure", "structure", "text", "size", "recipe", "meaning"])
    must: Must = "either"
    if what in ("same", "text"):
        told, content, must = _other_text(rng, value, what)
    else:
        if what == "structure":
            told, value = changed_json(rng, value)
        elif what == "size":
            name, number = pick(rng, value["arguments"]), pick(rng, BIG)
            told, value["arguments"][name] = f"{name} = {number!r}", number
        elif what == "recipe":
            name = pick(rng, value["recipe"])
            number = pick(
                rng, [*BIG, [0, 0], [-16, 16], [1, 1], [10**6, 10**6], [2**31, 2], [1e-9, 1e-9], [float("nan"), 1]]
            )
            told, value["recipe"][name] = f"{name} = {number!r}", number
        else:
            name = pick(rng, ["structure", "twice", "zero", "negative", "too large", "format", "attached", "network"])
            must, told = "refuse", f"meaning: {name}"
            changes: dict[str, Any] = {
                "structure": ("structures", {**value["structures"], "more": 3}),
                "twice": ("structures", dict.fromkeys(value["structures"], 1)),
                "zero": ("structures", {**value["structures"], "left": 0}),
                "negative": ("structures", {**value["structures"], "left": -3}),
                "too large": ("structures", {**value["structures"], "left": 2**40}),
                "format": ("format", pick(rng, [0, 2, "1", None, 99])),
                "attached": ("attached", ["nowhere"]),
                "network": ("network", pick(rng, ["sdnet", "nothing", "smp:Nope", "os:system", "../x.py:f", 5])),
            }
            key, new = changes[name]
            value[key] = new
            if name == "attached":  # the paper's networks place their blocks themselves
                must = "either"
        content = json.dumps(value).encode()
    file.write_bytes(content)
    return _model(f"segmenter.json: {told}", target, base / "model" / "segmenter", must, same=what == "same")


def damaged_tensors(rng: Rng, content: bytes) -> tuple[str, bytes, Must, bool]:
    """Bytes of a safetensors file, changed: what was done, the bytes, whether they must be refused or are the same."""
    with_metadata = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + with_metadata])
    metadata = header.get("__metadata__")
    tensors = load(content)
    # what a batch norm counts is filled in where it is missing, and decides nothing
    key = pick(rng, [name for name in tensors if not name.endswith("num_batches_tracked")])
    what = pick(
        rng,
        [
            "flip header",
            "flip data",
            "cut",
            "garbled",
            "NaN",
            "infinite",
            "all NaN",
            "shape",
            "dtype int",
            "float64",
            "drop",
            "more",
            "renamed",
            "order",
            "length",
            "offsets",
            "huge shape",
            "dtype name",
            "empty",
            "pickle",
            "no tensors",
        ],
    )
    must: Must = "refuse"
    if what == "flip header":
        return what, flip(rng, content, stop=8 + with_metadata), "either", False
    if what == "flip data":
        return what, flip(rng, content, start=8 + with_metadata), "either", False
    if what == "cut":
        return what, cut(rng, content), must, False
    if what == "garbled":
        told, changed = garbled(rng, content)
        return f"garbled, {told}", changed, "either", False
    if what in ("length", "offsets", "huge shape", "dtype name"):
        return what, _header(rng, what, content, header, key), "refuse", False
    if what in ("empty", "pickle", "no tensors"):
        return what, {"empty": b"", "pickle": b"\x80\x04N.", "no tensors": save({}, metadata)}[what], must, False
    if what in ("NaN", "infinite", "all NaN"):
        key = pick(rng, [name for name, tensor in tensors.items() if tensor.dtype.kind == "f"])
        array = tensors[key].copy()
        array.flat[slice(None) if what == "all NaN" else int(rng.integers(array.size))] = (
            np.inf if what[0] == "i" else np.nan
        )
        tensors[key] = array
    elif what == "shape":
        tensors[key] = np.concatenate([tensors[key].ravel()] * 2)
    elif what == "dtype int":
        key = pick(rng, [name for name, tensor in tensors.items() if tensor.dtype == np.float32 and tensor.size > 1])
        tensors[key] = (tensors[key] * 100).astype(np.int32)
    elif what == "float64":
        tensors, must = (
            {name: t.astype(np.float64) if t.dtype == np.float32 else t for name, t in tensors.items()},
            "either",
        )
    elif what == "drop":
        del tensors[key]
    elif what == "more":
        key = "extra.weight"
        tensors[key] = np.zeros(3, np.float32)
    elif what == "renamed":
        tensors[f"{key}.x"] = tensors.pop(key)
    else:
        tensors, must = dict(reversed(tensors.items())), "accept"
    return f"{what} {key}", save(tensors, metadata), must, what in ("order", "float64")


def _header(rng: Rng, what: str, content: bytes, header: dict[str, Any], key: str) -> bytes:
    body = content[8 + struct.unpack("<Q", content[:8])[0] :]
    if what == "length":
        size = pick(rng, [0, 1, 7, 2**31, 2**40, 2**63, 2**64 - 1, len(content), len(content) * 2])
        return struct.pack("<Q", size) + content[8:]
    entry = header[key]
    if what == "offsets":
        start, end = entry["data_offsets"]
        entry["data_offsets"] = pick(
            rng, [[end, start - 1], [start, end + 4], [start, 2**62], [-4, end], [start + 1, end + 1]]
        )
    elif what == "huge shape":
        entry["shape"] = pick(rng, [[2**31, 2**31], [2**62, 4], [10**9], [-1], [2**64]])
    else:
        entry["dtype"] = pick(rng, ["F8", "I64", "F64", "X", "", 5])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def model_weights(rng: Rng, folder: Path, base: Path) -> Trial:
    """The weights of a model."""
    target = folder / "segmenter"
    shutil.copytree(base / "model" / "segmenter", target)
    path = target / "weights.safetensors"
    told, content, must, same = damaged_tensors(rng, path.read_bytes())
    path.write_bytes(content)
    return _model(f"weights: {told}", target, base / "model" / "segmenter", must, same=same)


def model_folder(rng: Rng, folder: Path, base: Path) -> Trial:
    """Files of a model that are missing, pipes, folders or links, and images to predict, on the command line."""
    target = folder / "segmenter"
    shutil.copytree(base / "model" / "segmenter", target)
    path = target / pick(rng, ["segmenter.json", "weights.safetensors"])
    image = folder / "image.nii"
    shutil.copy(base / "nnunet" / "imagesTs" / "t0_0000.nii", image)
    out = folder / "out"
    what = pick(
        rng,
        ["missing", "empty", "folder", "link", "broken link", "image", "image", "same", "out is a file", "NaN image"],
    )
    must: Must = "refuse"
    names = [str(target), "image.nii"]
    if what in ("missing", "broken link", "folder"):
        path.unlink()
        if what == "folder":
            path.mkdir()
        elif what == "broken link":
            path.symlink_to("/nowhere")
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "link":
        path.rename(folder / "elsewhere")
        path.symlink_to(folder / "elsewhere")
        must = "accept"
    elif what == "image":
        told, content = garbled(rng, image.read_bytes())
        image.write_bytes(content)
        what, must = f"image, {told}", "either"
    elif what == "NaN image":
        content = bytearray(image.read_bytes())
        struct.pack_into("<f", content, 112, float("nan") if rng.random() < 0.5 else 3e38)
        struct.pack_into("<f", content, 116, float("inf"))
        image.write_bytes(content)
        must = "either"
    elif what == "out is a file":
        out.write_text("x")
        names = [str(out)]
    else:
        must = "accept"
    run = lambda: command_line("predict", str(image), "-m", str(target), "-o", str(out), "--engine", "torch")  # noqa: E731
    return Trial(f"predict: {what}", run, names, must)


def _resumed(folder: Path) -> bytes:
    resume(folder / "run", cache=folder / "cache")
    return (folder / "run" / WEIGHTS).read_bytes()


def _run(told: str, folder: Path, must: Must, *, same: bool, expected: bytes) -> Trial:
    def wrong(found: bytes) -> str | None:
        tensors = load(found)
        bad = [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
        if bad:
            return f"weights that are not finite: {bad}"
        return "other weights than without the change" if same and found != expected else None

    return Trial(told, lambda: _resumed(folder), [str(folder)], must, wrong)


def _interrupted(folder: Path, base: Path) -> bytes:
    shutil.copytree(base / "stopped", folder / "run")
    shutil.copytree(base / "cache", folder / "cache")
    return (base / "run" / WEIGHTS).read_bytes()


def run_json(rng: Rng, folder: Path, base: Path) -> Trial:
    """The run.json of an interrupted run that goes on."""
    expected = _interrupted(folder, base)
    path = folder / "run" / "run.json"
    value = json.loads(path.read_text())
    what = pick(rng, ["same", "structure", "structure", "structure", "text", "settings"])
    must: Must = "either"
    if what in ("same", "text"):
        told, content, must = _other_text(rng, value, what)
    elif what == "structure":
        told, changed = changed_json(rng, value)
        content = json.dumps(changed).encode()
    else:
        name = pick(
            rng, ["width", "depth", "kernel_size", "learning_rate", "momentum", "variant", "network", "seed", "loss"]
        )
        number = pick(rng, [0, -1, 3, 10**5, float("inf"), float("nan"), "unet", "sse", "../x.py:f", 2**70, None])
        told, value["settings"][name] = f"{name} = {number!r}", number
        content = json.dumps(value).encode()
    path.write_bytes(content)
    return _run(f"run.json: {told}", folder, must, same=what == "same", expected=expected)


def checkpoint(rng: Rng, folder: Path, base: Path) -> Trial:
    """The checkpoint of an interrupted run that goes on."""
    expected = _interrupted(folder, base)
    path = folder / "run" / "checkpoint.safetensors"
    content = path.read_bytes()
    if rng.random() < 0.6:
        told, changed, must, same = damaged_tensors(rng, content)
        if must == "accept" or "float64" in told or "extra" in told:
            must = "either"
        path.write_bytes(changed)
        return _run(f"checkpoint: {told}", folder, must, same=same, expected=expected)
    with safe_open(path, framework="np") as file:
        state = json.loads(file.metadata()["state"])
    must = "either"
    if rng.random() < 0.4:
        name = pick(rng, ["epoch", "step", "seconds", "loss"])
        bad = [-1, 1.5, 10**9, "1", None] if name in ("epoch", "step") else [float("nan"), "x", None, [1]]
        told, state["clock"][name], must = f"clock {name}", pick(rng, bad), "refuse"
    elif rng.random() < 0.2:
        told, must = "state is no JSON", "refuse"
        state = None
    else:
        told, state = changed_json(rng, state)
    text = "{" if state is None else json.dumps(state)
    path.write_bytes(save(load(content), {"state": text}))
    return _run(f"checkpoint state: {told}", folder, must, same=False, expected=expected)


def prepared(rng: Rng, folder: Path, base: Path) -> Trial:
    """Prepared arrays of a case that are damaged before a run trains on them."""
    shutil.copytree(base / "cache", folder / "cache")
    shutil.copytree(base / "nnunet", folder / "data")
    path = pick(rng, sorted((folder / "cache").glob("*/*.npy")))
    images = path.name == "images.npy"
    array = np.load(path)
    what = pick(
        rng,
        [
            "missing",
            "empty",
            "cut",
            "header",
            "garbled",
            "NaN",
            "dtype",
            "axes",
            "fewer",
            "huge",
            "object",
            "pickle",
            "order",
            "folder",
            "class",
            "other patch",
            "folder missing",
            "case missing",
        ],
    )
    # whatever is found there, the arrays can be made anew: either the same run, or a refusal
    must: Must = "either"
    checked = True
    if what == "missing":
        path.unlink()
    elif what in ("empty", "cut"):
        path.write_bytes(b"" if what == "empty" else cut(rng, path.read_bytes()))
    elif what in ("header", "garbled"):
        content = path.read_bytes()
        path.write_bytes(flip(rng, content, stop=128) if what == "header" else garbled(rng, content)[1])
        checked = what == "header"
    elif what in ("NaN", "class"):
        what = "NaN" if images else "class 200"
        array.flat[int(rng.integers(array.size))] = np.nan if images else 200
        np.save(path, array)
    elif what == "dtype":
        np.save(path, array.astype(pick(rng, [np.int64, np.float64, np.complex64, "S3"])))
        checked = False
    elif what == "axes":
        np.save(path, array.ravel() if rng.random() < 0.5 else array[..., None])
    elif what == "fewer":
        np.save(path, array[: len(array) // 2])
    elif what == "other patch":
        np.save(path, array[..., :-3])
    elif what == "huge":
        with path.open("wb") as file:
            shape = pick(rng, [(2**40,), (2**31, 1, 16, 16), (10**6, 1, 10**4, 16), (-1, 3), (2**62, 2**62)])
            npy.write_array_header_1_0(file, {"descr": array.dtype.str, "fortran_order": False, "shape": shape})
    elif what == "object":
        np.save(path, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    elif what == "pickle":
        path.write_bytes(b"\x80\x04N.")
    elif what == "order":
        np.save(path, np.asfortranarray(array))
    elif what == "folder":
        path.unlink()
        path.mkdir()
    elif what == "folder missing":
        shutil.rmtree(path.parent)
    else:
        shutil.rmtree(folder / "cache")

    def run() -> bytes:
        train_on(folder / "data", out=folder / "run", settings={**SETTINGS, "variant": "scse"}, cache=folder / "cache")
        return (folder / "run" / WEIGHTS).read_bytes()

    expected = (base / "run" / WEIGHTS).read_bytes()
    trial = _run(f"prepared {path.name}: {what}", folder, must, same=checked, expected=expected)
    return Trial(trial.mutation, run, trial.names, must, trial.wrong)


STUDY_FILES = (
    "scores.parquet",
    "log.jsonl",
    "costs.csv",
    "curves.csv",
    "viewer.json",
    "gates.parquet",
    "run.json",
    "segmenter.json",
    "weights.safetensors",
    "plan.json",
    "spread",
    "predictions",
    "scores.csv",
)


def study_folder(rng: Rng, folder: Path, base: Path) -> Trial:
    """A file of a finished study that is damaged before the same study is called again."""
    shutil.copytree(base / "study", folder / "study")
    shutil.copytree(base / "study-cache", folder / "cache")
    name = pick(rng, STUDY_FILES)
    out = folder / "study"
    found = {
        "plan.json": [out / "plan.json"],
        "spread": sorted((folder / "cache").glob("spreads/*.json")) or [out / "plan.json"],
        "predictions": sorted(out.glob("runs/*/predictions/*")),
    }.get(name) or sorted(out.rglob(name))
    path = pick(rng, found)
    content = path.read_bytes()
    what = pick(rng, ["missing", "empty", "cut", "garbled", "garbled", "JSON", "folder"])
    if what == "JSON" and path.suffix == ".json":
        told, changed = changed_json(rng, json.loads(content))
        path.write_bytes(json.dumps(changed).encode())
    elif what in ("missing", "folder"):
        told = what
        path.unlink()
        if what == "folder":
            path.mkdir()
    elif what in ("empty", "cut"):
        told = what
        path.write_bytes(b"" if what == "empty" else cut(rng, content))
    else:
        told, changed_bytes = garbled(rng, content)
        path.write_bytes(changed_bytes)
    expected = pd.read_csv(base / "study" / "scores.csv")

    def run() -> pd.DataFrame:
        run_study(base / "nnunet", out, folder / "cache")
        return pd.read_csv(out / "scores.csv")

    def wrong(scores: pd.DataFrame) -> str | None:
        # the scores of a run are data like any other: bits that are flipped in them and leave a table cannot be told
        if name == "scores.parquet" and what == "garbled":
            return None
        return None if scores.equals(expected) else "other scores than before"

    return Trial(f"study {path.relative_to(folder)}: {told}", run, [str(folder)], "either", wrong)


def run_study(data: Path, out: Path, cache: Path) -> None:
    """The study that `study_folder` damages."""
    settings = {name: value for name, value in SETTINGS.items() if name != "epochs"}
    study(data, out=out, variants=["none", "scse"], seeds=1, budget="10m", settings={**settings}, cache=cache)
