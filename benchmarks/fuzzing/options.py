"""Kinds of input: what stands on the command line."""
# a branch for each mutation
# ruff: noqa: PLR0911

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzzing.base import SETTINGS
from fuzzing.mutations import Rng, pick
from fuzzing.sandbox import Must, Trial, command_line
from scse.attachment.patterns import choose
from scse.networks import NETWORKS
from scse.studies.estimate import parse_budget
from scse.studies.runner import study
from scse.support.events import StoppedError
from scse.training.run import train_on
from scse.training.settings import Settings, make_settings
from scse.vocabulary.grammar import split_names
from scse.vocabulary.variants import Variant
from scse.zoo.catalogue import read_network

LETTERS = "abcsexn=[](),'\"|*?.:+-_/\\ 0123459\n\t\0é\u200b\ud7ff[]=,"
NUMBERS = [
    "0",
    "1",
    "2",
    "3",
    "-1",
    "1.5",
    "0.5",
    "1e-9",
    "1e9",
    "inf",
    "nan",
    "-inf",
    "1e400",
    "9" * 30,
    "0x10",
    "1_0",
    " 1",
    "",
    "one",
    "1,2",
    "٣",
    "²",
    "1000000",
    "1000000000",
    "None",
    "none",
    "true",
]

VARIANTS = [
    "none",
    "cse",
    "sse",
    "scse",
    "scse[reduction=4,aggregation=max,placement=encoder]",
    "cse[reduction=16]",
    "pe[reduction=8]",
    "sse[placement=+bottleneck]",
    "scse[aggregation=multiply]",
]
NETWORK_NAMES = [
    "unet",
    "sdnet",
    "densenet",
    "smp:Unet[encoder_name=resnet18]",
    "monai:BasicUNet[features=(16,16,32,64,128,16)]",
    "nowhere/mine.py:make[width=4]",
    "smp:FPN",
    "monai:DynUNet",
]
PATTERNS = ["**", "encoders.*", "*.0", "encoders.0|decoders.0", "encoders.?", "nothing", "decoders.[0]", "enc*"]
BUDGETS = ["2h", "90m", "1h30m", "45s", "1h1m1s", "10"]


def _scrambled(rng: Rng, text: str) -> str:
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(len(text) + 1))
        what = pick(rng, ["insert", "insert", "drop", "double", "replace", "long"])
        letter = pick(rng, LETTERS)
        if what == "insert":
            text = text[:place] + letter + text[place:]
        elif what == "drop":
            text = text[:place] + text[place + int(rng.integers(1, 4)) :]
        elif what == "double":
            text = text[:place] + text[max(0, place - 5) : place] + text[place:]
        elif what == "replace":
            text = text[:place] + letter + text[place + 1 :]
        elif rng.random() < 0.1:
            text = text[:place] + letter * int(rng.integers(100, 50_000)) + text[place:]
    return text


def option_strings(rng: Rng, folder: Path) -> Trial:
    """Names of variants and networks, patterns, budgets and settings, scrambled."""
    what = pick(rng, ["variant", "variant", "network", "networks", "pattern", "budget", "setting", "setting", "attach"])
    if what == "variant":
        text = _scrambled(rng, pick(rng, VARIANTS))
        return _text(
            what, text, lambda: str(Variant.parse(text)), lambda found: _same(str(Variant.parse(found)), found)
        )
    if what == "network":
        text = _scrambled(rng, pick(rng, NETWORK_NAMES))
        return _text(what, text, lambda: read_network(text))
    if what == "networks":
        text = _scrambled(rng, ",".join([pick(rng, NETWORK_NAMES), pick(rng, NETWORK_NAMES)]))
        return _text(what, text, lambda: split_names(text), lambda found: _joined(found, text))
    if what == "pattern":
        text = _scrambled(rng, pick(rng, PATTERNS))
        model = NETWORKS["unet"](in_channels=1, classes=2, width=2, depth=2, kernel_size=3, recalibration="none")
        return _text(what, text, lambda: choose(model, text), lambda found: None if found else "no modules")
    if what == "budget":
        text = _scrambled(rng, pick(rng, BUDGETS))
        return _text(what, text, lambda: parse_budget(text), lambda found: _budget(found, text))
    if what == "setting":
        name = pick(rng, [*Settings.model_fields, "epoch", ""])
        text = pick(rng, NUMBERS) if rng.random() < 0.6 else _scrambled(rng, str(getattr(Settings(), name, "x")))
        trial = _text(f"setting {name}", text, lambda: make_settings("quick", {name: text}), _settings)
        return Trial(trial.mutation, trial.run, [*trial.names, name or "settings"], trial.must, trial.wrong)
    text = _scrambled(rng, pick(rng, PATTERNS))
    network = pick(rng, ["unet", "monai:BasicUNet"])
    run = lambda: command_line("places", network, "--to", text, "--size", "32")  # noqa: E731
    return Trial(f"scse places {network} --to {text[:60]!r}", run, [*_parts(text), "to", "Usage"])


def _text(
    what: str, text: str, run: Callable[[], Any], wrong: Callable[[Any], str | None] = lambda found: None
) -> Trial:
    return Trial(f"{what} {text[:80]!r}", run, [*_parts(text), what], wrong=wrong)


def _parts(text: str) -> list[str]:
    """What a message may quote of a text: a word of it, as it is or as Python shows it."""
    words = [word for word in re.split(r"[\s\[\]|,=:()]", text) if len(word) > 1]
    return [text, repr(text), *words, *(repr(word)[1:-1] for word in words)]


def _same(found: Any, expected: Any) -> str | None:
    return None if found == expected else f"{found!r} instead of {expected!r}"


def _joined(found: list[str], text: str) -> str | None:
    kept, there = ("".join("".join(part).split()).replace(",", "") for part in (found, text))
    return None if kept == there else f"split into {found}"


def _budget(found: int, text: str) -> str | None:
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if match is None:
        return f"{found} seconds of what is no budget"
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return _same(found, 3600 * hours + 60 * minutes + seconds)


def _settings(found: Settings) -> str | None:
    values = found.model_dump()
    bad = [name for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)]
    if bad:
        return f"settings that are not finite: {bad}"
    big = [name for name, value in values.items() if isinstance(value, int) and abs(value) >= 2**63]
    if big:
        return f"settings beyond 64 bits: {big}"
    return _same(Settings.model_validate(values), found)


def option_numbers(rng: Rng, folder: Path, base: Path) -> Trial:
    """Numbers on the command line and as arguments of a training or a study, which stops after its first step."""
    number = pick(rng, NUMBERS)
    what = pick(rng, ["attach", "train", "train", "study", "command", "command"])
    data = base / "nnunet"
    if what == "attach":
        option = pick(rng, ["--size", "--in-channels", "--classes", "--spatial-dims"])
        size = [] if option == "--size" else ["--size", "32"]
        run: Callable[[], Any] = lambda: command_line("places", "unet", option, number, *size)  # noqa: E731
        return Trial(f"scse places {option} {number}", run, [option, option.strip("-"), "Usage"])
    if what == "command":
        option, command = pick(
            rng,
            [
                ("--folds", "train"),
                ("--fold", "train"),
                ("--spacing", "train"),
                ("--seed", "train"),
                ("--epochs", "study"),
                ("--reductions", "study"),
                ("--train-cases", "study"),
                ("--seeds", "study"),
                ("--margin", "study"),
                ("--cases", "data"),
                ("--batch-size", "predict"),
                ("--plane", "train"),
                ("--preset", "train"),
                ("--track", "train"),
            ],
        )
        # what is right ends at the data set, which is not there
        arguments = {
            "train": ["train", str(folder / "nothing"), "-o", str(folder / "out"), option, number],
            "study": ["study", str(folder / "nothing"), "-o", str(folder / "out"), option, number],
            "data": ["data", "simulate", str(folder / "file" / "x"), option, number],
            "predict": [
                "predict",
                str(folder / "nothing"),
                "-m",
                str(folder / "none"),
                "-o",
                str(folder / "out"),
                option,
                number,
            ],
        }[command]
        (folder / "file").write_text("")
        run = lambda: command_line(*arguments)  # noqa: E731
        name = option.strip("-")  # a message names the option or the field of the request
        return Trial(f"scse {command} {option} {number}", run, [str(folder), name, name.replace("-", "_"), "Usage"])
    value: Any = _number(number)
    names: list[str]
    must: Must = "either"
    if what == "train":
        name = pick(
            rng,
            [
                "fold",
                "folds",
                "spacing",
                "width",
                "depth",
                "kernel_size",
                "batch_size",
                "epochs",
                "slices_per_epoch",
                "learning_rate",
                "momentum",
                "weight_decay",
                "seed",
                "step_epochs",
            ],
        )
        own = name in ("fold", "folds", "spacing")
        settings = {**SETTINGS, **({} if own else {name: value})}
        arguments_of: dict[str, Any] = {name: value} if own else {}
        if isinstance(value, str) and own:  # the command line passes numbers only
            arguments_of = {}

        def run() -> Any:
            try:
                return train_on(
                    data,
                    out=folder / "run",
                    settings=settings,
                    cache=folder / "cache",
                    stop=_after(folder),
                    **arguments_of,
                )
            except StoppedError:
                return None

        names = [name, str(data)]
    else:
        name = pick(rng, ["seeds", "epochs", "train_cases", "reductions", "margin", "spacing", "folds", "budget"])
        given: Any = (
            [value] if name in ("epochs", "train_cases", "reductions") else number if name == "budget" else value
        )
        if isinstance(given, str) and name != "budget":
            given = 1
        if isinstance(given, list) and not isinstance(given[0], int):
            given = [2]
        if name in ("seeds", "folds") and not isinstance(given, int):
            given = 2

        def run() -> Any:
            try:
                return study(
                    data,
                    out=folder / "study",
                    variants=["none", "scse"],
                    settings={k: v for k, v in SETTINGS.items() if k != "epochs"},
                    cache=folder / "cache",
                    stop=_after(folder),
                    **{"seeds": 1, name: given},
                )
            except StoppedError:
                return None

        names = [name, name.rstrip("s"), str(data), "epochs"]
    return Trial(f"{what} {name} = {number}", run, names, must)


def _number(text: str) -> Any:
    for form in (int, float):
        try:
            return form(text)
        except ValueError:
            continue
    return text


def _after(folder: Path) -> Callable[[], bool]:
    """Stop a training at its first step: what comes before, reading and preparing, is done."""
    return lambda: any(folder.rglob("run.json"))
