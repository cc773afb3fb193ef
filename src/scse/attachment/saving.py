"""A model with its blocks as one file, and the same attachment made again on a fresh model."""

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from scse.attachment.compiled import forget_compiled, uncompiled
from scse.attachment.hosts import NAME, hang, layout_of, take_off
from scse.attachment.losing import lost_blocks, remember
from scse.attachment.placements import Placements, placements
from scse.blocks.modules import BLOCKS
from scse.support.atomic import write_atomic
from scse.support.errors import DataError, UserError, in_short
from scse.support.json_files import parse_json, validated
from scse.support.paths import check_regular_file

FORMAT = 1
KEY = "scse"
"""Of the recipe in the file's metadata."""
REMEDY = "give a file that save_attached wrote"


class _Options(BaseModel):
    """Options of a block; which of them it has, and the words that it takes, are checked by the block."""

    model_config = ConfigDict(extra="forbid")

    reduction: int = Field(default=1, ge=1)
    hidden: int | None = Field(default=None, ge=1, le=2**20)
    activation: str = ""
    gate: str = ""
    aggregation: str = ""
    bias: bool = True
    identity: bool = True


class _Place(BaseModel):
    """A block of the recipe."""

    model_config = ConfigDict(extra="forbid")

    where: str
    layout: Literal["channels-first", "channels-last"]
    block: Literal["cse", "sse", "scse"]
    channels: int = Field(ge=1, le=2**20)
    options: _Options


class _Recipe(BaseModel):
    """Which blocks are where."""

    model_config = ConfigDict(extra="forbid")

    format: int
    blocks: list[_Place] = Field(min_length=1)


def save_attached(model: nn.Module, path: Path | str) -> Path:
    """Write all weights of a model, and which blocks are where, as a safetensors file.

    Returns:
        The path.

    Raises:
        ValueError: the model has no block, one that is none of scse's or holds something else than when it was made,
            or one that does not run any more.
    """
    model = uncompiled(model)
    if lost := lost_blocks(model):
        raise UserError(
            f"{len(lost)} blocks that were attached do not run any more ({', '.join(lost[:5])}), so that the file would"
            " not hold the model that was trained; detach, attach again and train, or save the state_dict"
        )
    recipe = [
        {"where": place.where, "layout": layout_of(place.block), **_description(place.where, place.block)}
        for place in placements(model)
    ]
    if not recipe:
        raise UserError(f"{type(model).__name__} has no block; save its state_dict, or attach first")
    metadata = {KEY: json.dumps({"format": FORMAT, "blocks": recipe})}
    write_atomic(Path(path), save(own_copies(model.state_dict()), metadata=metadata))
    return Path(path)


def load_attached(model: nn.Module, path: Path | str) -> Placements:
    """Attach the blocks of a file to a fresh model, and load all weights.

    Args:
        model: as it was before the saved one got its blocks; changed in place.
        path: as `save_attached` wrote it.

    Returns:
        What was placed where.

    Raises:
        DataError: the file is none of `save_attached`, or does not fit the model, which is left without blocks.
        ValueError: the model has blocks already.
    """
    path, model = Path(path), uncompiled(model)
    if len(placements(model)):
        raise UserError(f"{type(model).__name__} has blocks already; load into a fresh model, or detach first")
    recipe, weights = _read(path)
    hung, blocks = [], {}
    try:
        for place in recipe.blocks:
            host = model.get_submodule(place.where)
            like = next(chain(host.parameters(), model.parameters()))
            block = BLOCKS[place.block](place.channels, **place.options.model_dump(exclude_unset=True))
            block = block.to(like.device, _dtype(host, place.where, weights))
            hang(host, block.train(host.training), layout=place.layout)
            hung.append(host)
            blocks[place.where] = block
        load_exactly(model, weights)
    # of get_submodule, of an option that the block does not have, and of what does not fit
    except (AttributeError, StopIteration, TypeError, UserError) as error:
        for host in hung:
            take_off(host)
        raise DataError(
            f"{path}: does not fit {type(model).__name__} ({in_short(error)}); build the model as it was when saved"
        ) from error
    remember(model, blocks)
    forget_compiled()
    return placements(model)


def own_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU, one each: safetensors refuses shared memory, as of a layer that is used twice."""
    return {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}


def _description(where: str, block: nn.Module) -> dict[str, Any]:
    name = next((name for name, kind in BLOCKS.items() if type(block) is kind), None)
    if name is None:
        raise UserError(
            f"the block at {where!r} is a {type(block).__name__}, none of scse's, and no file can make it again; "
            "save the model's state_dict and attach in the same way before loading it"
        )
    described: dict[str, Any] = {"block": name, "channels": block.channels, "options": block.options}
    with torch.device("meta"):
        fresh = BLOCKS[name](described["channels"], **described["options"])
    for key in {**fresh.state_dict(), **block.state_dict()}:
        if key not in fresh.state_dict() or key not in block.state_dict():
            raise UserError(
                f"the block at {where!r} was wrapped, parametrised or quantised ({key} is not as it was made), and no "
                "file can make it again; undo or merge that first, or save the model's state_dict"
            )
    return described


def _dtype(host: nn.Module, where: str, weights: Mapping[str, Tensor]) -> torch.dtype:
    """Of the block of a host: that of the host's weights, else that in the file."""
    own = [parameter.dtype for parameter in host.parameters() if parameter.is_floating_point()]
    prefix = f"{where}.{NAME}." if where else f"{NAME}."
    return own[-1] if own else next(value.dtype for key, value in weights.items() if key.startswith(prefix))


def _read(path: Path) -> tuple[_Recipe, Mapping[str, Tensor]]:
    """The recipe and the weights of a file."""
    weights, metadata = read_tensors(path, remedy=REMEDY)
    if KEY not in metadata:
        raise DataError(f"{path}: holds no blocks of format {FORMAT}; {REMEDY}")
    described = parse_json(metadata[KEY], path=path, remedy=REMEDY)
    if isinstance(described, dict) and described.get("format") != FORMAT:
        raise DataError(f"{path}: holds no blocks of format {FORMAT}; {REMEDY}")
    return validated(_Recipe, described, path=path, remedy=REMEDY, within=KEY, strict=True), weights


def read_tensors(path: Path, *, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        DataError: it cannot be read, as when it is truncated.
    """
    check_regular_file(path, remedy=remedy)
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read ({in_short(error)}); {remedy}") from error


def load_exactly(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load all weights, or none of them if anything does not fit.

    Raises:
        UserError: a tensor is missing or not the model's, has another shape or type, or is NaN or infinite where the
            model's own values never are.
    """
    own = model.state_dict()
    check_fit(own, weights)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for key, value in weights.items():
        # buffers may hold infinities on purpose, as the masks of attention do
        if not value.isfinite().all() and (key in parameters or own[key].isfinite().all()):
            raise UserError(f"{key} holds values that are NaN or infinite")
    model.load_state_dict(weights)


def check_fit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Check names, shapes and types of tensors.

    Raises:
        UserError: the first that differs.
    """
    for key in {**wanted, **found}:
        if key not in found:
            raise UserError(f"{key} is missing in the file")
        if key not in wanted:
            raise UserError(f"{key} is in the file, and the model has no such tensor")
        for what in ("shape", "dtype"):
            ours, theirs = (_told(getattr(tensors[key], what)) for tensors in (wanted, found))
            if ours != theirs:
                raise UserError(f"{key} has {what} {theirs} in the file and {ours} in the model")


def _told(value: object) -> str:
    return str(tuple(value)) if isinstance(value, torch.Size) else str(value)
