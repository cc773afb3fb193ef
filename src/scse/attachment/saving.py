"""Save a model with its blocks to one file, and load it into a model without blocks."""

import json
from collections.abc import Callable, Generator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from scse.attachment.compiled import forget_compiled, uncompiled
from scse.attachment.hosts import NAME, attach_block, layout_of, remove_block
from scse.attachment.losing import lost_blocks, record_blocks
from scse.attachment.placements import Placements, placements
from scse.blocks.modules import BLOCKS
from scse.support.atomic import write_atomic
from scse.support.errors import DataError, UserError, in_short
from scse.support.json_files import LARGEST_INTEGER, parse_json, shortened
from scse.support.paths import check_regular_file

FORMAT = 1
KEY = "scse"
"""Key of the recipe in the metadata of the file."""
REMEDY = "give a file that save_attached wrote"


Check = Callable[[Any], str]
"""Function that describes what is wrong with a value; "" if nothing is."""


def _text(value: object) -> str:
    return "" if isinstance(value, str) else "Input should be a valid string"


def _truth(value: object) -> str:
    return "" if isinstance(value, bool) else "Input should be a valid boolean"


def _whole(most: int = LARGEST_INTEGER) -> Check:
    def check(value: object) -> str:
        if isinstance(value, bool) or not isinstance(value, int):
            return "Input should be a valid integer"
        if value < 1:
            return "Input should be greater than or equal to 1"
        return "" if value <= most else f"Input should be less than or equal to {most}"

    return check


def _or_null(check: Check) -> Check:
    return lambda value: "" if value is None else check(value)


def _word(*allowed: str) -> Check:
    text = f"{', '.join(map(repr, allowed[:-1]))} or {allowed[-1]!r}"
    return lambda value: "" if isinstance(value, str) and value in allowed else f"Input should be {text}"


_OPTIONS: Mapping[str, Check] = {
    "reduction": _whole(),
    "hidden": _or_null(_whole(2**20)),
    "activation": _text,
    "gate": _text,
    "aggregation": _text,
    "bias": _truth,
    "identity": _truth,
}
"""Options of blocks. The block itself checks which of them it has, and the names that it accepts."""

_PLACE = {
    "where": _text,
    "layout": _word("channels-first", "channels-last"),
    "block": _word(*BLOCKS),
    "channels": _whole(2**20),
    "options": _OPTIONS,
}
"""A block of the recipe."""

_RECIPE = {"format": _whole(), "blocks": [_PLACE]}
"""Content of the recipe: the blocks and their places."""


def _problems(field: str, value: Any, wanted: Any) -> Generator[str]:
    """Describe what is wrong with a field of the recipe.

    Args:
        field: Name of the field, for the message.
        value: Value that was read.
        wanted: A check, the fields of an object, or a list with what each of its one or more items must be.
    """
    found = f"got {shortened(value)}"
    if isinstance(wanted, Mapping):
        if not isinstance(value, dict):
            yield f"{field}: Input should be an object, {found}"
            return
        for name, inner in wanted.items():
            if name in value:
                yield from _problems(f"{field}.{name}", value[name], inner)
            elif wanted is not _OPTIONS:
                yield f"{field}.{name}: Field required"
        for name in value:
            if name not in wanted:
                yield f"{field}.{name}: Extra inputs are not permitted, got {shortened(value[name])}"
    elif isinstance(wanted, list):
        if not isinstance(value, list):
            yield f"{field}: Input should be a valid array, {found}"
            return
        if not value:
            yield f"{field}: List should have at least 1 item after validation, not 0, {found}"
        for index, item in enumerate(value):
            yield from _problems(f"{field}.{index}", item, wanted[0])
    elif problem := wanted(value):
        yield f"{field}: {problem}, {found}"


def save_attached(model: nn.Module, path: Path | str) -> Path:
    """Write all weights of a model, and the places and options of its blocks, to a safetensors file.

    Returns:
        Path of the file.

    Raises:
        UserError: The model has no block, or it has a block that is not a class of scse, that was modified
            structurally since its construction, or that no longer runs.
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
    """Attach the blocks of a file to a model, and load all weights.

    Args:
        model: Model without blocks, built like the saved one. It is changed in place.
        path: File that `save_attached` wrote.

    Returns:
        Placements of the blocks.

    Raises:
        DataError: The file was not written by `save_attached`, or does not match the model, which stays without blocks.
        UserError: The model has blocks already.
    """
    path, model = Path(path), uncompiled(model)
    if len(placements(model)):
        raise UserError(f"{type(model).__name__} has blocks already; load into a fresh model, or detach first")
    recipe, weights = _read(path)
    attached, blocks = [], {}
    try:
        for place in recipe:
            where = place["where"]
            host = model.get_submodule(where)
            like = next(chain(host.parameters(), model.parameters()))
            block = BLOCKS[place["block"]](place["channels"], **place["options"])
            block = block.to(like.device, _dtype(host, where, weights))
            attach_block(host, block.train(host.training), layout=place["layout"])
            attached.append(host)
            blocks[where] = block
        load_exactly(model, weights)
    # of get_submodule, of an option that the block does not have, and of what does not fit
    except (AttributeError, StopIteration, TypeError, UserError) as error:
        for host in attached:
            remove_block(host)
        raise DataError(
            f"{path}: does not fit {type(model).__name__} ({in_short(error)}); build the model as it was when saved"
        ) from error
    record_blocks(model, blocks)
    forget_compiled()
    return placements(model)


def own_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to separate contiguous memory on the CPU, because safetensors refuses tensors that share memory."""
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
    """Choose the dtype of a block: that of the host's weights or, without weights, that in the file."""
    own = [parameter.dtype for parameter in host.parameters() if parameter.is_floating_point()]
    prefix = f"{where}.{NAME}." if where else f"{NAME}."
    return own[-1] if own else next(value.dtype for key, value in weights.items() if key.startswith(prefix))


def _read(path: Path) -> tuple[list[dict[str, Any]], Mapping[str, Tensor]]:
    """The blocks of the recipe, with the fields of `_PLACE`, and the weights of a file."""
    weights, metadata = read_tensors(path, remedy=REMEDY)
    if KEY not in metadata:
        raise DataError(f"{path}: holds no blocks of format {FORMAT}; {REMEDY}")
    described = parse_json(metadata[KEY], path=path, remedy=REMEDY)
    if isinstance(described, dict) and described.get("format") != FORMAT:
        raise DataError(f"{path}: holds no blocks of format {FORMAT}; {REMEDY}")
    for problem in _problems(KEY, described, _RECIPE):
        raise DataError(f"{path}: {problem}; {REMEDY}")
    return described["blocks"], weights


def read_tensors(path: Path, *, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file.

    Raises:
        DataError: The file cannot be read, for instance because it is truncated.
    """
    check_regular_file(path, remedy=remedy)
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read ({in_short(error)}); {remedy}") from error


def load_exactly(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load all weights, or none of them if one does not match the model.

    Raises:
        UserError: A tensor is missing or unknown to the model, has another shape or dtype, or holds NaN or infinite
            values. Such values are allowed in a buffer whose current values are not all finite either.
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
    """Check names, shapes and dtypes of tensors.

    Raises:
        UserError: A tensor differs. The message names the first one.
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
