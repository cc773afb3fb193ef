"""Variants of a network by name: "scse", "scse[reduction=4,aggregation=max,placement=encoder]"."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from scse.support.checks import check_choice, check_positive
from scse.support.errors import UserError
from scse.vocabulary.grammar import parse_call
from scse.vocabulary.options import AGGREGATIONS, ATTACH_OPTIONS, REDUCTION

PLACEMENTS: Mapping[str, tuple[str, ...]] = {
    "encoder": ("encoder",),
    "decoder": ("decoder",),
    "both": ("encoder", "decoder"),
    "both+bottleneck": ("encoder", "decoder", "bottleneck"),
}
"""Placement -> the parts of scse's own networks that are followed by blocks; the paper uses "both"."""

SHORT = {"+bottleneck": "both+bottleneck"}
"""Abbreviations of placements."""

JOINED = tuple(name for name in AGGREGATIONS if name != "concat")
"""Aggregations that keep the number of channels; "concat" doubles it, so that the next layer would not fit."""

DEFAULTS: Mapping[str, Any] = {"reduction": REDUCTION, "aggregation": "add", "placement": "both"}

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "none": (),
    **{kind: (*(name for name in DEFAULTS if name in taken), "placement") for kind, taken in ATTACH_OPTIONS.items()},
}
"""Kind of variant -> its options, in the order in which they are written."""


@dataclass(frozen=True, slots=True)
class Variant:
    """Which blocks a network has, and where.

    Attributes:
        kind: "none", "cse", "sse", "scse" or "pe".
        reduction: The paper's r; an option of "cse", "scse" and "pe".
        aggregation: How "scse" joins its two maps: "add", "max" or "multiply".
        placement: "encoder", "decoder", "both" or "both+bottleneck"; an option for scse's own networks.

    Raises:
        UserError: A value is not allowed, or an option has no effect on this kind.
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
        """Parse KIND or KIND[OPTION=VALUE,...].

        Args:
            text: Text as the user wrote it.
            name: Name of the argument, for messages.

        Raises:
            UserError: The text does not have this form, or a value is not allowed.
        """
        call = parse_call(text, head=r"[^\[\]]*")
        if call is None:
            raise UserError(f"{name} must have the form KIND or KIND[OPTION=VALUE,...], got {text!r}")
        kind = check_choice(name, call.head.strip(), OPTIONS)
        options: dict[str, Any] = {}
        for option, value in call.options.items():
            check_choice(f"an option of {name} {text!r}", option, DEFAULTS)
            _check_taken(kind, option)
            options[option] = int(value) if option == "reduction" and value.isdecimal() else SHORT.get(value, value)
        return cls(kind, **options)

    def __str__(self) -> str:
        """The canonical text: options that differ from their defaults, in fixed order."""
        changed = [f"{name}={value}" for name, value in self._values() if value != DEFAULTS[name]]
        return f"{self.kind}[{','.join(changed)}]" if changed else self.kind

    @property
    def block_options(self) -> dict[str, Any]:
        """Keyword arguments of the blocks."""
        return {name: value for name, value in self._values() if name != "placement"}

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts of a network that get blocks, in the order in which the blocks are created."""
        return () if self.kind == "none" else PLACEMENTS[self.placement]

    @property
    def has_channel_gate(self) -> bool:
        """Whether the blocks have a channel gate, or gates with a mean per channel."""
        return self.kind in {"cse", "scse", "pe"}

    @property
    def has_spatial_gate(self) -> bool:
        """Whether the blocks have a spatial gate, or gates with a mean per position."""
        return self.kind in {"sse", "scse", "pe"}

    def _values(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in OPTIONS[self.kind]]


PLAIN = Variant("none")
"""The network without blocks, with which all other variants are compared."""

OF_THE_PAPER = (PLAIN, Variant("cse"), Variant("sse"), Variant("scse"))
"""The variants that the paper compares, in its order: those of a study that names none."""


def _check_taken(kind: str, option: str) -> None:
    if option not in OPTIONS[kind]:
        told = f"it has {', '.join(OPTIONS[kind])}" if OPTIONS[kind] else "it has no blocks"
        raise UserError(f"{option} has no effect on variant {kind!r} ({told}); leave it out")
