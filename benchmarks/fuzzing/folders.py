"""Kinds of input: folders of data sets and what describes them."""
# a branch for each mutation
# ruff: noqa: PLR0912, PLR0915, PLR0917

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from fuzzing.base import AFFINE, LABELS, SHAPE
from fuzzing.images import nifti
from fuzzing.mutations import SAME_JSON, Rng, bad_json, changed_json, garbled, pick
from fuzzing.sandbox import Must, Trial, command_line
from scse.data.dataset import Dataset
from scse.data.folds import make_folds
from scse.data.inspection import open_checked
from scse.data.recipe import Recipe


def use(folder: Path) -> tuple[Any, ...]:
    """Open, check and split a data set, and choose its recipe; everything that a training would start from."""
    inspection, dataset = open_checked(folder)
    recipe = Recipe.derive(inspection.facts_of(dataset))
    own = dataset.splits or any(case.label for case in dataset.test_cases)
    folds = make_folds(dataset, None if own else 2)
    digests = sorted(fact.digest for fact in inspection.facts)
    tested = [[case.name for case in fold.test] for fold in folds]
    return _signature(folder, dataset), recipe, tested, digests, _broken(dataset)


def _signature(folder: Path, dataset: Dataset) -> tuple[Any, ...]:
    cases = [
        (
            case.name,
            [os.path.relpath(path, folder) for path in case.images],
            os.path.relpath(case.label or folder, folder),
        )
        for case in (*dataset.cases, *dataset.test_cases)
    ]
    return dataset.channels, dict(sorted(dataset.structures.items())), cases, dataset.splits, dataset.colors


def _broken(dataset: Dataset) -> str:
    """What does not hold that must hold of every data set, however it is described; "" if all does."""
    values = list(dataset.structures.values())
    if not all(type(value) is int and 0 < value < 2**31 for value in values) or len(set(values)) < len(values):
        return f"label values {values}"
    names = [*dataset.structures, *dataset.channels]
    if not all(isinstance(name, str) for name in names):
        return f"names {names}"
    lacking = [case.name for case in dataset.cases if not case.images or case.label is None]
    return f"cases without image or label: {lacking}" if lacking or not dataset.cases else ""


def _lower(found: tuple[Any, ...]) -> str:
    """What was found, whatever the case of file names."""
    return repr(found).lower()


def _trial(told: str, folder: Path, whole: Path, file: str, must: Must, *, same: bool) -> Trial:
    def wrong(found: Any) -> str | None:
        expected = use(whole) if same else found
        return found[-1] or (None if _lower(found) == _lower(expected) else f"{found} instead of {expected}")

    return Trial(told, lambda: use(folder), [str(folder), file], must, wrong)


def _copied(base: Path, kind: str, folder: Path) -> Path:
    target = folder / kind
    shutil.copytree(base / kind, target)
    return target


def _json(rng: Rng, folder: Path, base: Path, kind: str, file: str, refused: dict[str, Callable[[Any], Any]]) -> Trial:
    target = _copied(base, kind, folder)
    value = json.loads((target / file).read_text())
    what = pick(rng, ["same", "structure", "structure", "structure", "text", "refused"])
    must: Must = "either"
    if what == "same":
        name = pick(rng, SAME_JSON)
        told, content, must = f"same: {name}", SAME_JSON[name](value), "accept"
    elif what == "structure":
        told, changed = changed_json(rng, value)
        if rng.random() < 0.3:
            more, changed = changed_json(rng, changed)
            told = f"{told}; {more}"
        content = json.dumps(changed).encode()
    elif what == "text":
        told, content, refuse = bad_json(rng, value)
        must = "refuse" if refuse else "either"
    else:
        name = pick(rng, refused)
        told, must = name, "refuse"
        content = json.dumps(refused[name](value)).encode()
    (target / file).write_bytes(content)
    return _trial(f"{kind} {file}: {told}", target, base / kind, file, must, same=what == "same")


def _with(key: str, value: Any) -> Callable[[Any], Any]:
    return lambda content: {**content, key: value}


def nnunet_json(rng: Rng, folder: Path, base: Path) -> Trial:
    """The dataset.json of nnU-Net v2."""
    wrong_values = [True, 1.5, "1.5", -1, "-1", None, "one", float("nan"), 2**70, [1, 2], {"a": 1}, ""]
    refused = {
        "label value": _with("labels", {**LABELS, "right": pick(rng, wrong_values)}),
        "label value twice": _with("labels", {**LABELS, "again": 1}),
        "label that no voxel list has": _with("labels", {"background": 0, "left": 1}),
        "no labels": _with("labels", {}),
        "background alone": _with("labels", {"background": 0}),
        "channels from 1": _with("channel_names", {"1": "T1"}),
        "two channels": _with("channel_names", {"0": "T1", "1": "T2"}),
        "channels as list": _with("channel_names", ["T1"]),
        "file ending": _with("file_ending", pick(rng, ["nii", ".nrrd", "", None, 5, ".nii.gz", ".NII", "*"])),
        "all a list": lambda content: [content],
    }
    return _json(rng, folder, base, "nnunet", "dataset.json", refused)


def msd_json(rng: Rng, folder: Path, base: Path) -> Trial:
    """The dataset.json of the Medical Segmentation Decathlon and of nnU-Net v1."""
    image = "./imagesTr/a.nii"
    entries = [5, {}, {"label": image}, [image], {"image": "x.nii"}, {"image": None}, "", {"image": ""}, {"image": "."}]
    refused = {
        "label value": _with("labels", {"0": "background", pick(rng, ["one", "-1", "1.5", ""]): "left", "2": "right"}),
        "labels as list": _with("labels", ["background", "left", "right"]),
        "label name twice": _with("labels", {"0": "background", "1": "left", "2": "left"}),
        "no training": _with("training", pick(rng, [[], {}, None, 0, "", {"a": 1}])),
        "training entry": _with("training", [pick(rng, entries)]),
        "case twice": lambda content: {**content, "training": content["training"] + content["training"][:1]},
        "label is the image": _with("training", [{"image": image, "label": image}]),
        "missing file": _with("training", [{"image": "./imagesTr/x.nii", "label": "./labelsTr/a.nii"}]),
    }
    return _json(rng, folder, base, "msd", "dataset.json", refused)


def splits_json(rng: Rng, folder: Path, base: Path) -> Trial:
    """The splits_final.json of nnU-Net."""
    refused = {
        "unknown case": lambda content: [{"train": ["c0", "nobody"], "val": ["c1"]}],
        "case in both": lambda content: [{"train": ["c0", "c1"], "val": ["c1"]}],
        "no train": lambda content: [{"val": ["c0"]}],
        "object": lambda content: {"0": content[0]},
        "text for names": lambda content: [{"train": "c0", "val": "c1"}],
        "numbers for names": lambda content: [{"train": [0, 1], "val": [2]}],
        "null": lambda content: None,
    }
    trial = _json(rng, folder, base, "nnunet", "splits_final.json", refused)
    for name in ("imagesTs", "labelsTs"):  # with test cases of its own, a data set is not split
        shutil.rmtree(folder / "nnunet" / name)
    whole = folder / "whole"
    shutil.copytree(base / "nnunet", whole, ignore=shutil.ignore_patterns("*Ts"))
    told = trial.mutation.removeprefix("nnunet splits_final.json: ")
    return _trial(told, folder / "nnunet", whole, "splits_final.json", trial.must, same=trial.must == "accept")


def labels_csv(rng: Rng, folder: Path, base: Path) -> Trial:
    """The labels.csv beside pictures."""
    target = _copied(base, "pictures", folder)
    same = {
        "BOM": b"\xef\xbb\xbfname,value\nleft,1\nright,2\n",
        "CRLF": b"name,value\r\nleft,1\r\nright,2\r\n",
        "quoted": b'"name","value"\n"left","1"\n"right","2"\n',
        "columns turned": b"value,name\n1,left\n2,right\n",
        "blanks": b"name , value\n left , 1\n right , 2\n",
        "upper case": b"Name,VALUE\nleft,1\nright,2\n",
        "rows turned": b"name,value\nright,2\nleft,1\n",
        "background": b"name,value\nbackground,0\nleft,1\nright,2\n",
        "other column": b"name,value,comment\nleft,1,x\nright,2,\n",
        "no last line break": b"name,value\nleft,1\nright,2",
    }
    refused = {
        "empty": b"",
        "heading alone": b"name,value\n",
        "name twice": b"name,value\nleft,1\nleft,2\n",
        "value twice": b"name,value\nleft,1\nright,1\n",
        "value missing": b"name,value\nleft\nright,2\n",
        "value": b"name,value\nleft,%s\nright,2\n" % pick(rng, [b"1.5", b"-1", b"one", b"", b"1e0", b"nan", b"1" * 40]),
        "semicolons": b"name;value\nleft;1\nright;2\n",
        "no name": b"value\n1\n2\n",
        "UTF-16": "name,value\nleft,1\nright,2\n".encode("utf-16"),
        "empty name": b"name,value\n,1\nright,2\n",
        "too few": b"name,value\nleft,1\n",
        "colours out of range": b"name,r,g,b\nleft,256,0,0\nright,0,1,0\n",
        "short colour": b"name,color\nleft,#ff00\nright,#00ff00\n",
        "colour twice": b"name,color\nleft,#ff0000\nright,#ff0000\n",
        "NUL": b"name,value\nle\x00ft,1\nright,2,\n",
        "more fields": b"name,value\nleft,1,7,8\nright,2\n",
    }
    what = pick(rng, ["same", "refused", "bytes", "bytes"])
    must: Must = "either"
    if what == "bytes":
        told, content = garbled(rng, (target / "labels.csv").read_bytes())
    else:
        name = pick(rng, same if what == "same" else refused)
        told, content = f"{what}: {name}", (same if what == "same" else refused)[name]
        must = "accept" if what == "same" else "either" if name in ("NUL", "more fields") else "refuse"
    (target / "labels.csv").write_bytes(content)
    return _trial(f"labels.csv: {told}", target, base / "pictures", "labels.csv", must, same=what == "same")


def layout(rng: Rng, folder: Path, base: Path) -> Trial:
    """Files that are missing, empty, broken links, pipes, folders, or named in another way."""
    kind = pick(rng, ["nnunet", "msd", "pictures"])
    target = _copied(base, kind, folder)
    files = sorted(path for path in target.rglob("*") if path.is_file() and path.parent != target)
    path = pick(rng, files)
    described = "labels.csv" if kind == "pictures" else "dataset.json"
    what = pick(
        rng,
        [
            "missing",
            "empty",
            "broken link",
            "link",
            "loop",
            "pipe",
            "folder",
            "upper case",
            "hidden",
            "double",
            "other ending",
            "swapped",
            "other size",
            "other affine",
            "stray file",
            "stray folder",
            "missing folder",
            "folder is a file",
            "described by a folder",
            "described by a pipe",
            "odd name",
            "fractional label",
            "label values",
            "NaN",
            "not UTF-8",
            "duplicate",
            "device",
            "empty label",
            "2D",
        ],
    )
    must: Must = "refuse"
    same = False
    named = path.name
    array, label = np.zeros(SHAPE, np.float32), "label" in str(path.parent) or "mask" in str(path.parent)
    if what == "missing":
        path.unlink()
        # a test case without label is one that is only predicted
        must = "either" if "Ts" in str(path) else "refuse"
    elif what == "empty":
        path.write_bytes(b"")
    elif what in ("broken link", "link", "loop"):
        path.rename(target / "elsewhere")
        goal = {"broken link": "/nowhere/at/all", "link": str(target / "elsewhere"), "loop": path.name}[what]
        path.symlink_to(goal)
        same, must = what == "link", "accept" if what == "link" else "refuse"
    elif what in ("pipe", "folder", "device"):
        path.unlink()
        {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "device": lambda: path.symlink_to("/dev/zero")}[what]()
    elif what == "upper case":
        path.rename(path.with_suffix(path.suffix.upper()))
        same, must = True, "either"
        if kind == "pictures":
            same, must = False, "accept"
    elif what == "hidden":
        (path.parent / f".{path.name}").write_bytes(b"not an image")
        (path.parent / f"._{path.name}").write_bytes(b"not an image")
        same, must = True, "accept"
    elif what == "double":
        (path.parent / f"{path.name.split('.')[0]}.nii.gz").write_bytes(b"x")
        must = "either"
    elif what == "other ending":
        path.rename(path.with_suffix(".nrrd"))
        must = "either" if "Ts" in str(path) else "refuse"
    elif what == "swapped":
        other = pick(rng, files)
        content = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
        must = "either"
    elif what in ("other size", "other affine", "fractional label", "label values", "NaN", "empty label", "2D"):
        if kind == "pictures":
            picture = np.zeros((12, 11 if what == "other size" else 10), np.uint8)
            picture[3, 3] = 77 if label else 9
            PIL.Image.fromarray(picture).save(path)
            must = "refuse" if label or what == "other size" else "either"
        else:
            _rewrite(path, what, array, label)
            must = "either" if what in ("fractional label", "label values", "empty label") and not label else "refuse"
    elif what == "stray file":
        (path.parent / "notes.txt").write_text("hello")
        (target / "README").write_text("hello")
        same, must = True, "accept"
    elif what == "stray folder":
        (path.parent / "more" / "deeper").mkdir(parents=True)
        same, must = True, "accept"
    elif what == "missing folder":
        shutil.rmtree(path.parent)
        must, named = "either" if "Ts" in str(path) else "refuse", path.parent.name
    elif what == "folder is a file":
        shutil.rmtree(path.parent)
        path.parent.write_text("a file")
        must, named = "either" if "Ts" in str(path) else "refuse", path.parent.name
    elif what.startswith("described"):
        (target / described).unlink()
        (target / described).mkdir() if what.endswith("folder") else os.mkfifo(target / described)
        must, named = "either" if kind == "pictures" else "refuse", described
    elif what in ("odd name", "not UTF-8"):
        odd = pick(rng, [b"new\nline", b"[bold]", b"a" * 200, b"  ", b"-o", b"\xf0\x9f\x98\x80"])
        odd = b"c\xff\xfe" if what == "not UTF-8" else odd
        os.rename(path, os.path.join(os.fsencode(path.parent), odd + os.fsencode(path.suffix)))  # noqa: PTH104, PTH118
        must = "either"
    elif what == "duplicate":
        first, second = (
            [each for each in files if each.parent == path.parent][:2] if "Ts" not in str(path) else files[:2]
        )
        images = [each for each in files if "images" in each.parent.name and "Tr" in each.parent.name] or [
            first,
            second,
        ]
        images[1].write_bytes(images[0].read_bytes())
        must = "refuse" if "images" in images[0].parent.name else "either"
    by_command = rng.random() < 0.3
    trial = _trial(f"{kind} {what} {path.relative_to(target)}", target, base / kind, named, must, same=same)
    if not by_command:
        return trial
    run = lambda: command_line("inspect", str(target))  # noqa: E731
    return Trial(f"{trial.mutation} (scse inspect)", run, trial.names, "either" if what == "missing" else must)


def _rewrite(path: Path, what: str, array: Any, label: bool) -> None:
    affine = AFFINE
    if label:
        array = array.astype(np.float32)
        array[2:5, 2:5, 2:5] = 1
    else:
        array[3:9] = 100
    if what == "other size":
        array = array[:, :, 1:]
    elif what == "other affine":
        affine = AFFINE * [1.1, 1, 1, 1]
    elif what == "fractional label":
        array[4, 4, 4] = 0.5
    elif what == "label values":
        array[4, 4, 4] = 77
    elif what == "NaN":
        array[4, 4, 4] = np.nan
    elif what == "empty label":
        array[:] = 0
    elif what == "2D":
        array = array[:, :, 4]
    path.write_bytes(nifti(array, affine))
