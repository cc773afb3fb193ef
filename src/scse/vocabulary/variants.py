"""Variants of a network as people name them: "scse", "scse[reduction=4,aggregation=max,placement=encoder]"."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from scse.support.checks import check_choice, check_positive
from scse.support.errors import UserError
from scse.vocabulary.options import AGGREGATIONS, ATTACH_OPTIONS, REDUCTION

PLACEMENTS: Mapping[str, tuple[str, ...]] = {
    "encoder": ("encoder",),
    "decoder": ("decoder",),
    "both": ("encoder", "decoder"),
    "both+bottleneck": ("encoder", "decoder", "bottleneck"),
}
"""After which parts of scse's own networks the blocks follow; the paper has "both"."""

SHORT = {"+bottleneck": "both+bottleneck"}
"""What a placement may be written as."""

JOINED = tuple(name for name in AGGREGATIONS if name != "concat")
"""Aggregations that keep the number of channels; "concat" doubles it, so that no network's next layer would fit."""

DEFAULTS: Mapping[str, Any] = {"reduction": REDUCTION, "aggregation": "add", "placement": "both"}

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "none": (),
    **{kind: (*(name for name in DEFAULTS if name in taken), "placement") for kind, taken in ATTACH_OPTIONS.items()},
}
"""Which options each kind of variant has, in the order in which they are written."""

_TEXT = re.compile(r"(?P<kind>[^\[\]]*)(?:\[(?P<options>[^\[\]]*)\])?")


@dataclass(frozen=True, slots=True)
class Variant:
    """Which blocks a network has, and where.

    Attributes:
        kind: "none", "cse", "sse" or "scse".
        reduction: the paper's r, of "cse" and "scse".
        aggregation: how "scse" joins its two maps: "add", "max" or "multiply".
        placement: "encoder", "decoder", "both" or "both+bottleneck"; for scse's own networks.

    Raises:
        ValueError: another value, or an option that has no effect on this kind.
    """

    kind: str
    reduction: int = REDUCTION
    aggregation: str = "add"
    placement: str = "both"

    def __post_init__(self) -> None:
        """Check the values."""
        check_choice("variant", self.kind, OPTIONS)
        check_positive("reduction", self.reduction)
        check_choice("aggregation", self.aggregation, JOINED)
        check_choice("placement", self.placement, PLACEMENTS)
        for name, default in DEFAULTS.items():
            if getattr(self, name) != default:
                _check_taken(self.kind, name)

    @classmethod
    def parse(cls, text: str, *, name: str = "variant") -> Self:
        """Read KIND or KIND[OPTION=VALUE,...].

        Args:
            text: as it was written.
            name: of the argument, for messages.

        Raises:
            ValueError: it is none of these, or a value is wrong.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise UserError(f"{name} must have the form KIND or KIND[OPTION=VALUE,...], got {text!r}")
        kind = check_choice(name, match["kind"].strip(), OPTIONS)
        options: dict[str, Any] = {}
        for pair in (match["options"] or "").split(",") if match["options"] else []:
            option, equals, value = (part.strip() for part in pair.partition("="))
            if not (equals and value):
                raise UserError(f"{text}: what stands in brackets must be OPTION=VALUE,..., got {pair!r}")
            if option in options:
                raise UserError(f"{text}: the option {option} is there twice; give it once")
            check_choice(f"an option of {name} {text!r}", option, DEFAULTS)
            _check_taken(kind, option)
            options[option] = int(value) if option == "reduction" and value.isdecimal() else SHORT.get(value, value)
        return cls(kind, **options)

    def __str__(self) -> str:
        """The one text of this variant: options that differ from their defaults, in fixed order."""
        changed = [f"{name}={value}" for name, value in self._values() if value != DEFAULTS[name]]
        return f"{self.kind}[{','.join(changed)}]" if changed else self.kind

    @property
    def block_options(self) -> dict[str, Any]:
        """The keyword arguments of its blocks."""
        return {name: value for name, value in self._values() if name != "placement"}

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of a network whose blocks are recalibrated, in the order in which theirs are made."""
        return () if self.kind == "none" else PLACEMENTS[self.placement]

    def _values(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in OPTIONS[self.kind]]


def canonical(text: str) -> str:
    """The one text of a variant, see `Variant.parse`: equal variants have equal texts."""
    return str(Variant.parse(text))


def _check_taken(kind: str, option: str) -> None:
    if option not in OPTIONS[kind]:
        told = f"it has {', '.join(OPTIONS[kind])}" if OPTIONS[kind] else "it has no blocks"
        raise UserError(f"{option} has no effect on variant {kind!r} ({told}); leave it out")
