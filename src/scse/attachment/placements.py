"""The blocks that are attached to a model: their places and their cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from torch import nn

from scse.attachment.compiled import uncompiled
from scse.attachment.hosts import block_of
from scse.attachment.losing import lost_blocks

FACTS = "_placed"
"""Attribute of a block that holds its `Facts`. The name is part of pickled models."""

_HEADER = ("where", "channels", "resolution", "block", "parameters", "multiply-adds", "share of the model")


@dataclass(frozen=True, slots=True)
class Facts:
    """Properties of a place, found by running the example. They are stored on the block and copied with it."""

    channels: int
    resolution: tuple[int, ...]
    multiply_adds: int
    model_multiply_adds: int


@dataclass(frozen=True, slots=True)
class Placement:
    """One block in a model.

    Attributes:
        where: Name of the host, the module that the block follows, in `named_modules`.
        host: Module that the block follows.
        block: Attached block.
        channels: Number of channels of the map that the block recalibrates; None if unknown.
        resolution: Spatial size of this map in the example; None if no example was run.
        parameters: Number of parameters of the block.
        multiply_adds: Multiply-adds of the block for the example; None if no example was run.
    """

    where: str
    host: nn.Module
    block: nn.Module
    channels: int | None
    resolution: tuple[int, ...] | None
    parameters: int
    multiply_adds: int | None


class Placements(Sequence[Placement]):
    """Sequence of the blocks in a model, which prints as a table.

    Attributes:
        model_parameters: Number of parameters of the model without its blocks.
        model_multiply_adds: Multiply-adds of the model without its blocks for the example; None if no example was run.
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
        """Names of the modules that the blocks follow."""
        return tuple(place.where for place in self)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the parameters of the blocks, for instance to train the blocks alone."""
        for place in self:
            yield from place.block.parameters()

    def __repr__(self) -> str:
        """Return a table of where, channels, resolution, block, parameters, multiply-adds and share of the model."""
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
    """Find the blocks of a model, whether attached by `attach` or built into a network of `scse.networks`.

    Warns:
        LostBlockWarning: Attached blocks no longer run, or did not run until now.
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
