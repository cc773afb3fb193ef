"""A model with its blocks as one file, and the same attachment made again on a fresh model."""

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from scse.atomic import write_atomic
from scse.attachment.compiled import forget_compiled, uncompiled
from scse.attachment.hosts import NAME, hang, layout_of, take_off
from scse.attachment.losing import lost_blocks, remember
from scse.attachment.placements import Placements, placements
from scse.blocks import BLOCKS
from scse.errors import DataError, UserError, in_short

FORMAT = 1
KEY = "scse"
"""Of the recipe in the file's metadata."""


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
        for entry in recipe:
            host = model.get_submodule(entry["where"])
            like = next(chain(host.parameters(), model.parameters()))
            block = BLOCKS[entry["block"]](entry["channels"], **entry["options"])
            block = block.to(like.device, _dtype(host, entry["where"], weights))
            hang(host, block.train(host.training), layout=entry["layout"])
            hung.append(host)
            blocks[entry["where"]] = block
        _load(model, weights)
    # what a foreign file or another model leads to can be almost any error
    except Exception as error:
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


def _read(path: Path) -> tuple[list[dict[str, Any]], Mapping[str, Tensor]]:
    """The recipe and the weights of a file."""
    try:
        with safe_open(path, "pt") as file:
            described = json.loads((file.metadata() or {}).get(KEY, "null"))
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a file that save_attached wrote") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise DataError(f"{path}: holds no blocks of format {FORMAT}; give a file that save_attached wrote")
    return described["blocks"], weights


def _load(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load all weights, or none of them if anything does not fit."""
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in weights.items()}
    for key in {**wanted, **found}:
        if wanted.get(key) != found.get(key):
            raise UserError(f"{key} has shape {found.get(key)} in the file and {wanted.get(key)} in the model")
    model.load_state_dict(weights)
