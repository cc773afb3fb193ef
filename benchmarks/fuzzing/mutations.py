"""Mutations of bytes and of JSON. Everything is drawn from the generator that is passed in."""

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np

Rng = np.random.Generator

WEIRD: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: False,
    lambda: -1,
    lambda: 0,
    lambda: 1,
    lambda: 2,
    lambda: 255,
    lambda: 1.5,
    lambda: 1.0,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: float("-inf"),
    lambda: 10**6,
    lambda: 10**9,
    lambda: 2**63,
    lambda: 2**70,
    lambda: -(2**63),
    lambda: "",
    lambda: " ",
    lambda: "x",
    lambda: "0",
    lambda: "1",
    lambda: "../../up",
    lambda: "a/b",
    lambda: "nul\x00byte",
    lambda: "line\nbreak",
    lambda: "\ud800",
    lambda: "é\u0301Ω",
    lambda: "[bold]x",
    lambda: "y" * 5000,
    lambda: [],
    lambda: {},
    lambda: [[]],
    lambda: [None],
    lambda: {"a": {"b": [1, 2, {"c": None}]}},
    lambda: [0] * 1000,
]
"""Values that do not belong where they are put."""


def pick(rng: Rng, choices: Any) -> Any:
    """One of some, none of which is changed into a NumPy value."""
    return list(choices)[int(rng.integers(len(choices)))]


def flip(rng: Rng, content: bytes, *, start: int = 0, stop: int | None = None, most: int = 8) -> bytes:
    """Flip 1 to `most` bits of bytes `start` to `stop`."""
    changed = bytearray(content)
    stop = len(changed) if stop is None else min(stop, len(changed))
    for _ in range(int(rng.integers(1, most + 1))):
        changed[int(rng.integers(start, stop))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def cut(rng: Rng, content: bytes, *, start: int = 0) -> bytes:
    """The beginning of some bytes, at least `start` of them and at least one less than all."""
    return content[: int(rng.integers(start, len(content)))]


def garbled(rng: Rng, content: bytes) -> tuple[str, bytes]:
    """One of many kinds of damage to bytes."""
    what = pick(rng, ["flip", "cut", "zeros", "random", "insert", "drop", "append", "empty", "swap", "copies"])
    place = int(rng.integers(len(content)))
    length = int(rng.integers(1, min(64, len(content)) + 1))
    noise = rng.bytes(length)
    changed = {
        "flip": lambda: flip(rng, content),
        "cut": lambda: cut(rng, content),
        "zeros": lambda: content[:place] + bytes(length) + content[place + length :],
        "random": lambda: content[:place] + noise + content[place + length :],
        "insert": lambda: content[:place] + noise + content[place:],
        "drop": lambda: content[:place] + content[place + length :],
        "append": lambda: content + noise,
        "empty": lambda: b"",
        "swap": lambda: content[place:] + content[:place],
        "copies": lambda: content * 2,
    }[what]()
    return f"bytes: {what} at {place}", changed


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where there is something in a JSON value, the value itself first."""
    found = [here]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += paths(inner, (*here, key))
    return found


def changed_json(rng: Rng, value: Any) -> tuple[str, Any]:
    """A JSON value with one change of its structure: a value replaced, left out, renamed, nested or doubled."""
    result = copy.deepcopy(value)
    where = pick(rng, paths(result)[1:] or [()])
    if not where or rng.random() < 0.03:
        new = pick(rng, WEIRD)()
        return f"all := {new!r:.60}", new
    *outer, key = where
    holder = result
    for part in outer:
        holder = holder[part]
    what = pick(rng, ["replace"] * 5 + ["drop", "drop", "rename", "nest", "double", "text", "swap"])
    if what == "replace":
        holder[key] = pick(rng, WEIRD)()
    elif what == "drop":
        del holder[key]
    elif what == "rename" and isinstance(holder, dict):
        holder[f"{key}x" if rng.random() < 0.5 else str(pick(rng, ["", "0", "1", "-1", "00", "name"]))] = holder.pop(
            key
        )
    elif what == "double" and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    elif what == "text":
        holder[key] = json.dumps(holder[key])
    elif what == "swap":
        others = list(holder) if isinstance(holder, dict) else range(len(holder))
        other = pick(rng, others)
        holder[key], holder[other] = holder[other], holder[key]
    else:
        holder[key] = pick(rng, [lambda v: [v], lambda v: {"value": v}, lambda v: [v, v]])(holder[key])
    return f"{what} {'.'.join(map(str, where))}", result


SAME_JSON: dict[str, Callable[[Any], bytes]] = {
    "keys reversed": lambda value: json.dumps(_reversed(value)).encode(),
    "indented": lambda value: json.dumps(value, indent=7).encode(),
    "no spaces": lambda value: json.dumps(value, separators=(",", ":")).encode(),
    "blank lines around": lambda value: b"\n\t\r\n " + json.dumps(value).encode() + b"\n\n",
    "not ASCII": lambda value: json.dumps(value, ensure_ascii=False).encode(),
    "escaped": lambda value: _escaped(json.dumps(value)).encode(),
    "CRLF": lambda value: json.dumps(value, indent=1).replace("\n", "\r\n").encode(),
}
"""Other ways to write the same JSON."""


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reversed(value[key]) for key in reversed(value)}
    return [_reversed(entry) for entry in value] if isinstance(value, list) else value


def _escaped(text: str) -> str:
    return text.replace("a", "\\u0061")


def bad_json(rng: Rng, value: Any) -> tuple[str, bytes, bool]:
    """JSON that is damaged as text: what was done, the bytes, and whether they must be refused."""
    text = json.dumps(value, indent=1)
    first = next(iter(value)) if isinstance(value, dict) and value else None
    depth = int(rng.integers(2_000, 200_000))
    options: dict[str, tuple[Any, bool]] = {
        "empty": (b"", True),
        "blank": (b" \n\t ", True),
        "truncated": (text[: int(rng.integers(1, len(text)))], True),
        "nested too deeply": ("[" * depth + "]" * depth, True),
        "nested objects": ('{"a":' * depth + "1" + "}" * depth, True),
        "trailing comma": (text.rstrip("]} \n") + ",}", True),
        "comment": ("// comment\n" + text, True),
        "single quotes": (text.replace('"', "'"), True),
        "two documents": (text + text, True),
        "garbage after": (text + "x", True),
        "NUL inside": (text[:5] + "\x00" + text[5:], True),
        "BOM": (text.encode("utf-8-sig"), False),
        "UTF-16": (text.encode("utf-16"), False),
        "Latin-1": (text.encode().replace(b"a", b"\xe4", 1), True),
        "huge integer": (text.replace("1", "1" * 5000, 1), False),
        "long float": (text.replace("1", "1e" + "9" * 400, 1), False),
        "duplicate key": (
            "{" + json.dumps(first) + ": null, " + text.lstrip()[1:] if first is not None else "{",
            True,
        ),
        "bytes": (garbled(rng, text.encode())[1], False),
    }
    name = pick(rng, options)
    content, refuse = options[name]
    content = content if isinstance(content, bytes) else content.encode()
    if refuse and _is_json_of(content, value):
        refuse = False
    return f"JSON: {name}", content, refuse


def _is_json_of(content: bytes, value: Any) -> bool:
    """Whether damage has left what was there: a cut after the last bracket, for example."""
    try:
        return bool(json.loads(content) == value)
    except (ValueError, RecursionError):
        return False
