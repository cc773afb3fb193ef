"""Blocks into an existing network, and out again."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import nn

from scse.attachment.compiled import forget_compiled, uncompiled, unwrapped
from scse.attachment.examples import Example, Output, counted, guess_example, run, spatial_axes
from scse.attachment.hosts import LAYOUTS, NAME, block_of, hang, take_off
from scse.attachment.losing import forget, lost_blocks, remember
from scse.attachment.patterns import Where, choose
from scse.attachment.placements import FACTS, Facts, Placements, placements
from scse.attachment.stages import Stage, find_stages, known_places, list_stages, suggest
from scse.blocks.modules import BLOCKS
from scse.support.checks import check_choice
from scse.support.errors import UserError
from scse.vocabulary.options import attach_options


def attach(
    model: nn.Module,
    recalibration: str | Callable[[int], nn.Module] = "scse",
    *,
    to: Where | Literal["auto"] = "auto",
    example: Example | None = None,
    reduction: int = 2,
    aggregation: str = "add",
    identity: bool = True,
    layout: Literal["channels-first", "channels-last"] | None = None,
) -> Placements:
    """Put a recalibration block after modules of any network.

    The keys of the model in `state_dict` stay as they were, so its checkpoints keep loading; the blocks' own keys
    are new (`<where>.recalibration.*`). With `identity` its outputs stay as they were too, bit for bit, until the
    blocks are trained. The example runs twice, in evaluation mode and without gradients: once to read channels and
    resolutions, once to see that every block runs. If anything is wrong, the model is left as it was.

    A compiled model gets its blocks too: what torch compiled in this process before is compiled anew at its next call.
    What later replaces a module and takes over its submodules keeps the block (`convert_sync_batchnorm`); what drops
    them is noticed at the next forward, with a `LostBlockWarning`.

    Args:
        model: changed in place.
        recalibration: "cse", "sse" or "scse", or a function of the channel count that returns a block.
        to: after which modules. Patterns of their names joined by "|", where `*` and `?` stay within one part of
            a dotted name and `**` stands for any number of parts ("encoder.layer?|decoder.blocks.*"); or a class
            or tuple of classes; or a function of (name, module) that says yes or no; or "auto", for known
            families: after every encoder and decoder block, as in the paper (MICCAI 2018, section 3).
        example: an input: a tensor, a tuple of positional arguments, or a mapping of keyword arguments. By default
            one image of zeros for the model's first convolution, 64 voxels a side.
        reduction: the paper's r, see `ChannelSE`; not for "sse" or a function.
        aggregation: how "scse" joins its two maps, see `ConcurrentSE`; for "scse" alone.
        identity: start as the identity; not for a function.
        layout: "channels-first" for (N, C, *spatial), or "channels-last" for (N, *spatial, C), tokens (N, tokens,
            C) among them. By default (N, C, *spatial) with as many axes as the example is asked for.

    Returns:
        What was placed where; `placements` finds it again.

    Raises:
        ValueError: an option or pattern that is wrong, a module that does not run exactly once in the example or
            does not return one feature map, a module that has a block already, or a model that "auto" does not
            know.
    """
    options = attach_options(recalibration, reduction=reduction, aggregation=aggregation, identity=identity)
    make = partial(BLOCKS[recalibration] if isinstance(recalibration, str) else recalibration, **options)
    if layout is not None:
        check_choice("layout", layout, LAYOUTS)
    model = uncompiled(model)
    given = guess_example(model) if example is None else example
    hosts = _auto_hosts(model, given) if isinstance(to, str) and to == "auto" else choose(model, to)
    hosts = dict(unwrapped(name, host) for name, host in hosts.items())
    for name, host in hosts.items():
        if block_of(host) is not None:
            raise UserError(f"{_told(name, host)} has a block already; detach it first, or leave it out of to=")
    # without the default, a wrong guess would be told as a wrong example
    outputs, model_multiply_adds = counted(lambda: run(model, example, hosts.values()))
    axes = spatial_axes(model, given) if layout is None else None
    maps = {name: _feature_map(model, name, host, outputs.get(host, []), axes, given) for name, host in hosts.items()}
    last = layout == "channels-last"
    hung: list[nn.Module] = []
    try:
        for name, host in hosts.items():
            shape, device = maps[name].shape or (), maps[name].device
            channels, resolution = (shape[-1], shape[1:-1]) if last else (shape[1], shape[2:])
            block = make(channels).to(device=device, dtype=_dtype(model, host, maps[name]))
            multiply_adds = _try_out(name, block, (shape[0], channels, *resolution))
            facts = Facts(channels, resolution, multiply_adds, model_multiply_adds)
            setattr(block, FACTS, facts)
            hang(host, block.train(host.training), layout=layout or "channels-first")
            hung.append(host)
        _check_run(model, example, hosts)
    except BaseException:
        for host in hung:
            take_off(host)
        raise
    remember(model, {name: host.get_submodule(NAME) for name, host in hosts.items()})
    forget_compiled()
    return placements(model)


def detach(model: nn.Module) -> nn.Module:
    """Take every block out; the model is what it was before they were placed.

    Returns:
        The model, which was changed in place.

    Raises:
        ValueError: there is no block in it.
    """
    inner = uncompiled(model)
    lost_blocks(inner)
    placed = placements(inner)
    if not forget(inner) and not placed:
        raise UserError(f"{type(inner).__name__} has no block that could be taken out; was it attached to another?")
    for place in placed:
        take_off(place.host)
    forget_compiled()
    return model


def _dtype(model: nn.Module, host: nn.Module, returned: Output) -> torch.dtype:
    """Of the block after a host: that of the host's weights, else of its map if the model has weights of that kind."""
    dtypes = [[p.dtype for p in module.parameters() if p.is_floating_point()] for module in (host, model)]
    if dtypes[0]:
        return dtypes[0][-1]
    of_map = returned.dtype
    # under autocast a map has another dtype than all weights
    return of_map if of_map is not None and (of_map in dtypes[1] or not dtypes[1]) else dtypes[1][0]


def _auto_hosts(model: nn.Module, example: Example) -> dict[str, nn.Module]:
    names = known_places(model)
    if names is None:
        stages = find_stages(model, example)
        if not stages:
            raise UserError(f"to='auto' does not know {type(model).__name__}, and it has no stages; give to=")
        raise UserError(
            f"to='auto' does not know {type(model).__name__}; choose where, such as "
            f"to={suggest(model, stages)!r}. Its stages and their outputs:\n{list_stages(stages)}"
        )
    hosts = {name: model.get_submodule(name) for name in names}
    # encoders keep the layers below the depth that is asked for, and never run them
    outputs = run(model, example, hosts.values())
    return {name: host for name, host in hosts.items() if host in outputs}


def _feature_map(  # noqa: PLR0917
    model: nn.Module, name: str, host: nn.Module, outputs: Sequence[Output], axes: int | None, example: Example
) -> Output:
    """The one map that a host returned.

    Raises:
        ValueError: it returned something else, or not exactly once; the message says what to attach to instead.
    """
    if not outputs:
        raise UserError(
            f"{_told(name, host)} did not run in the example, or is not run as a module{_instead(model, name, example)}"
        )
    if len(outputs) > 1:
        raise UserError(
            f"{_told(name, host)} ran {len(outputs)} times in the example, but a block recalibrates one map"
            f"{_instead(model, name, example)}"
        )
    (output,) = outputs
    if output.shape is None:
        raise UserError(f"{_told(name, host)} returns {output.what}, no feature map{_instead(model, name, example)}")
    wanted = 3 if axes is None else axes + 2
    if len(output.shape) < 3 or (axes is not None and len(output.shape) != wanted):
        hint = "; if it is (N, tokens, C), give layout='channels-last'" if len(output.shape) == 3 else ""
        raise UserError(
            f"{_told(name, host)} returns {output.what}, where a feature map (N, C, *spatial) of an example with "
            f"{wanted - 2} spatial axes has {wanted} axes{hint}{_instead(model, name, example)}"
        )
    _check_channels_first(name, host, output.shape, axes)
    return output


def _check_channels_first(name: str, host: nn.Module, shape: tuple[int, ...], axes: int | None) -> None:
    """Refuse a map whose last axis the host normalizes: that is where its channels are, and a gate would miss them."""
    norms = [module for module in host.modules() if isinstance(module, nn.LayerNorm)]
    if axes is None or shape[1] == shape[-1] or not norms:
        return
    if tuple(norms[-1].normalized_shape) == shape[-1:]:
        raise UserError(
            f"{_told(name, host)} returns a tensor of shape {shape}, whose channels seem to be on the last axis; give "
            "layout='channels-last' if they are, layout='channels-first' if not"
        )


def _instead(model: nn.Module, name: str, example: Example) -> str:
    """What to attach to instead of a module: the stages in it, or all stages."""
    stages: list[Stage] = find_stages(model, example)
    inside = [stage for stage in stages if stage.name.startswith(f"{name}.")] or stages
    return f"; attach to {suggest(model, inside)!r} instead" if inside else ""


def _try_out(name: str, block: nn.Module, shape: tuple[int, ...]) -> int:
    """The multiply-adds of a block on a map of this shape, which it must keep; nothing is computed.

    Raises:
        ValueError: the block returns another shape.
    """
    on_meta = copy.deepcopy(block).to("meta")
    dtype = next((p.dtype for p in block.parameters()), torch.float32)
    x = torch.empty(shape, device="meta", dtype=dtype)
    with torch.no_grad():
        returned, multiply_adds = counted(lambda: Output.of(on_meta(x)))
    if returned.shape != shape:
        raise UserError(
            f"the block at {name!r} turns a tensor of shape {shape} into {returned.what}; what follows would not fit"
        )
    return multiply_adds


def _check_run(model: nn.Module, example: Example | None, hosts: Mapping[str, nn.Module]) -> None:
    """See that every block runs once."""
    blocks = {name: block for name, host in hosts.items() if (block := block_of(host)) is not None}
    outputs = run(model, example, blocks.values())
    for name, block in blocks.items():
        times = len(outputs.get(block, []))
        if times != 1:
            raise UserError(f"the block at {name!r} ran {times} times in the example, not once; place it elsewhere")


def _told(name: str, host: nn.Module) -> str:
    return f"{name!r} ({type(host).__name__})"
