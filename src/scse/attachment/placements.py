"""What is attached to a model: where, and what it costs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from torch import nn

from scse.attachment.compiled import uncompiled
from scse.attachment.hosts import block_of
from scse.attachment.losing import lost_blocks

FACTS = "_placed"
"""Under which a block keeps what the example told of its place."""

_HEADER = ("where", "channels", "resolution", "block", "parameters", "multiply-adds", "share of the model")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the example told of a place; kept on the block, so that it goes where the block goes."""

    channels: int
    resolution: tuple[int, ...]
    multiply_adds: int
    model_multiply_adds: int


@dataclass(frozen=True, slots=True)
class Placement:
    """One block in a model.

    Attributes:
        where: name of the module that it follows, in `named_modules`.
        host: that module.
        block: the block.
        channels, resolution: of the map that it recalibrates, in the example; None where none was run.
        parameters: of the block.
        multiply_adds: that the block adds for the example; None where none was run.
    """

    where: str
    host: nn.Module
    block: nn.Module
    channels: int | None
    resolution: tuple[int, ...] | None
    parameters: int
    multiply_adds: int | None


class Placements(Sequence[Placement]):
    """The blocks in a model; prints as a table.

    Attributes:
        model_parameters: of the model without its blocks.
        model_multiply_adds: of the model without its blocks, for the example; None where none was run.
    """

    def __init__(self, places: Sequence[Placement], *, model_parameters: int, model_multiply_adds: int | None) -> None:
        self._places = tuple(places)
        self.model_parameters = model_parameters
        self.model_multiply_adds = model_multiply_adds

    @overload
    def __getitem__(self, index: int) -> Placement: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Placement, ...]: ...
    def __getitem__(self, index: int | slice) -> Placement | tuple[Placement, ...]:
        return self._places[index]

    def __len__(self) -> int:
        return len(self._places)

    @property
    def names(self) -> tuple[str, ...]:
        """Where the blocks are."""
        return tuple(place.where for place in self)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights of the blocks, for an optimiser that trains them alone."""
        for place in self:
            yield from place.block.parameters()

    def __repr__(self) -> str:
        """The table: where, channels, resolution, block, what it adds, and its share of the model."""
        rows = [_HEADER, *(self._row(place) for place in self), self._total()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    def _row(self, place: Placement) -> tuple[str, ...]:
        return (
            place.where or "(the model)",
            "?" if place.channels is None else str(place.channels),
            "?" if place.resolution is None else " x ".join(map(str, place.resolution)),
            type(place.block).__name__,
            f"{place.parameters:,}",
            "?" if place.multiply_adds is None else f"{place.multiply_adds:,}",
            self._share(place.parameters, place.multiply_adds),
        )

    def _total(self) -> tuple[str, ...]:
        parameters = sum(place.parameters for place in self)
        adds = [place.multiply_adds for place in self if place.multiply_adds is not None]
        multiply_adds = sum(adds) if len(adds) == len(self) else None
        share = self._share(parameters, multiply_adds)
        return ("all", "", "", "", f"{parameters:,}", "?" if multiply_adds is None else f"{multiply_adds:,}", share)

    def _share(self, parameters: int, multiply_adds: int | None) -> str:
        share = f"{_percent(parameters, self.model_parameters)} of parameters"
        if multiply_adds is None or self.model_multiply_adds is None:
            return share
        return f"{share}, {_percent(multiply_adds, self.model_multiply_adds)} of multiply-adds"


def placements(model: nn.Module) -> Placements:
    """What is attached to a model, by `attach` or by the construction of one of `scse.networks`.

    Warns:
        LostBlockWarning: blocks that were attached do not run any more.
    """
    model = uncompiled(model)
    lost_blocks(model)
    places, own, known = [], 0, None
    for name, host in model.named_modules():
        block = block_of(host)
        if block is None:
            continue
        facts: Facts | None = getattr(block, FACTS, None)
        parameters = sum(p.numel() for p in block.parameters())
        own += parameters
        known = facts.model_multiply_adds if facts else known
        places.append(
            Placement(
                where=name,
                host=host,
                block=block,
                channels=facts.channels if facts else getattr(block, "channels", None),
                resolution=facts.resolution if facts else None,
                parameters=parameters,
                multiply_adds=facts.multiply_adds if facts else None,
            )
        )
    everything = sum(p.numel() for p in model.parameters())
    return Placements(places, model_parameters=everything - own, model_multiply_adds=known)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "?"
