"""A model with its blocks as one file, and the same attachment made again on a fresh model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from scse.atomic import write_atomic
from scse.attachment.hosts import hang, layout_of, take_off
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
        ValueError: the model has no block, or one that is none of scse's.
    """
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
    path = Path(path)
    if len(placements(model)):
        raise UserError(f"{type(model).__name__} has blocks already; load into a fresh model, or detach first")
    recipe, weights = _read(path)
    hung = []
    try:
        for entry in recipe:
            host = model.get_submodule(entry["where"])
            like = next(model.parameters())
            block = BLOCKS[entry["block"]](entry["channels"], **entry["options"]).to(like.device, like.dtype)
            hang(host, block.train(host.training), layout=entry["layout"])
            hung.append(host)
        _load(model, weights)
    # what a foreign file or another model leads to can be almost any error
    except Exception as error:
        for host in hung:
            take_off(host)
        raise DataError(
            f"{path}: does not fit {type(model).__name__} ({in_short(error)}); build the model as it was when saved"
        ) from error
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
    return {"block": name, "channels": block.channels, "options": block.options}


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
