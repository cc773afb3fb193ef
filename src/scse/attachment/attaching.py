"""Attach blocks to an existing network, and detach them."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import nn

from scse.attachment.compiled import forget_compiled, uncompiled, unwrapped
from scse.attachment.examples import Example, Output, counted, guess_example, run, spatial_axes
from scse.attachment.hosts import LAYOUTS, NAME, attach_block, block_of, remove_block
from scse.attachment.losing import drop_records, lost_blocks, record_blocks
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
    """Attach recalibration blocks to modules of any network.

    The keys of the model in `state_dict` do not change, so its checkpoints still load. The blocks add keys of their
    own (`<where>.recalibration.*`). With `identity`, the outputs of the model are unchanged, bit for bit, until the
    blocks are trained. The example runs twice, in evaluation mode and without gradients: first to find channels and
    resolutions, then to check that every block runs. If an error is raised, the model is unchanged.

    Blocks can be attached to a compiled model: everything that torch compiled in this process is compiled again at its
    next call. If a module is later replaced by one that takes over its submodules (`convert_sync_batchnorm`), the
    block is kept. If a block is lost, the next forward pass issues a `LostBlockWarning`.

    Args:
        model: Model to which the blocks are attached, in place.
        recalibration: Variant "cse", "sse", "scse" or "pe", or a function of the number of channels that returns a
            block.
        to: Modules that the blocks follow. One of: patterns of module names joined by "|", where `*` and `?` match
            within one part of a dotted name and `**` matches any number of parts
            ("encoder.layer?|decoder.blocks.*"); a class or a tuple of classes; a function of (name, module) that
            returns whether to attach a block; "auto", which attaches a block to every encoder and decoder block of
            known families, as in the paper (MICCAI 2018, section 3).
        example: Input of the model: a tensor, a tuple of positional arguments, or a mapping of keyword arguments.
            Default: one image of zeros for the first convolution of the model, with 64 voxels per side.
        reduction: Reduction r of the paper, see `ChannelSE`. Not for "sse" or a function.
        aggregation: How "scse" joins its two maps, see `ConcurrentSE`. Only for "scse".
        identity: Whether the blocks start as the identity. Not for a function.
        layout: "channels-first" for outputs (N, C, *spatial), or "channels-last" for (N, *spatial, C), which includes
            tokens (N, tokens, C). Default: channels first, with as many axes as the example has.

    Returns:
        Placements of all blocks in the model, as `placements` returns them.

    Raises:
        UserError: An option or pattern is invalid, a module does not run exactly once in the example, does not return
            one feature map or already has a block, or "auto" does not know the model.
    """
    options = attach_options(recalibration, reduction=reduction, aggregation=aggregation, identity=identity)
    make = partial(BLOCKS[recalibration] if isinstance(recalibration, str) else recalibration, **options)
    if layout is not None:
        check_choice("layout", layout, LAYOUTS)
    model = uncompiled(model)
    inputs = guess_example(model) if example is None else example
    hosts = _auto_hosts(model, inputs) if isinstance(to, str) and to == "auto" else choose(model, to)
    hosts = dict(unwrapped(name, host) for name, host in hosts.items())
    for name, host in hosts.items():
        if block_of(host) is not None:
            raise UserError(
                f"{_describe_host(name, host)} has a block already; detach it first, or leave it out of to="
            )
    # pass `example`, not `inputs`, so that the message of an error names a guessed example as such
    outputs, model_multiply_adds = counted(lambda: run(model, example, hosts.values()))
    axes = spatial_axes(model, inputs) if layout is None else None
    maps = {name: _feature_map(model, name, host, outputs.get(host, []), axes, inputs) for name, host in hosts.items()}
    last = layout == "channels-last"
    attached: list[nn.Module] = []
    try:
        for name, host in hosts.items():
            shape, device = maps[name].shape or (), maps[name].device
            channels, resolution = (shape[-1], shape[1:-1]) if last else (shape[1], shape[2:])
            block = make(channels).to(device=device, dtype=_dtype(model, host, maps[name]))
            multiply_adds = _check_block(name, block, (shape[0], channels, *resolution))
            facts = Facts(channels, resolution, multiply_adds, model_multiply_adds)
            setattr(block, FACTS, facts)
            attach_block(host, block.train(host.training), layout=layout or "channels-first")
            attached.append(host)
        _check_run(model, example, hosts)
    except BaseException:
        for host in attached:
            remove_block(host)
        raise
    record_blocks(model, {name: host.get_submodule(NAME) for name, host in hosts.items()})
    forget_compiled()
    return placements(model)


def detach(model: nn.Module) -> nn.Module:
    """Remove all blocks, which restores the model as it was before they were attached.

    Returns:
        The model, which is changed in place.

    Raises:
        UserError: The model has no block.
    """
    inner = uncompiled(model)
    lost_blocks(inner)
    placed = placements(inner)
    if not drop_records(inner) and not placed:
        raise UserError(f"{type(inner).__name__} has no block to remove; were the blocks attached to another model?")
    for place in placed:
        remove_block(place.host)
    forget_compiled()
    return model


def _dtype(model: nn.Module, host: nn.Module, returned: Output) -> torch.dtype:
    """Choose the dtype of a block: that of the host's weights or, without weights, that of the host's output."""
    dtypes = [[p.dtype for p in module.parameters() if p.is_floating_point()] for module in (host, model)]
    if dtypes[0]:
        return dtypes[0][-1]
    of_map = returned.dtype
    # under autocast, the dtype of the output may differ from that of all weights; a block then gets that of the model
    return of_map if of_map is not None and (of_map in dtypes[1] or not dtypes[1]) else dtypes[1][0]


def _auto_hosts(model: nn.Module, example: Example) -> dict[str, nn.Module]:
    names = known_places(model)
    if names is None:
        stages = find_stages(model, example)
        if not stages:
            raise UserError(f"to='auto' does not know {type(model).__name__}, and it has no stages; give to=")
        raise UserError(
            f"to='auto' does not know {type(model).__name__}; choose modules, for instance "
            f"to={suggest(model, stages)!r}. Its stages and their outputs:\n{list_stages(stages)}"
        )
    hosts = {name: model.get_submodule(name) for name in names}
    # encoders of reduced depth keep their deeper layers without running them
    outputs = run(model, example, hosts.values())
    return {name: host for name, host in hosts.items() if host in outputs}


def _feature_map(  # noqa: PLR0917
    model: nn.Module, name: str, host: nn.Module, outputs: Sequence[Output], axes: int | None, example: Example
) -> Output:
    """Return the description of the feature map that a host returned.

    Raises:
        UserError: The host did not run exactly once or returned something else. The message suggests other modules.
    """
    if not outputs:
        raise UserError(
            f"{_describe_host(name, host)} did not run as a module in the example{_instead(model, name, example)}"
        )
    if len(outputs) > 1:
        raise UserError(
            f"{_describe_host(name, host)} ran {len(outputs)} times in the example, but a block recalibrates one map"
            f"{_instead(model, name, example)}"
        )
    (output,) = outputs
    if output.shape is None:
        raise UserError(
            f"{_describe_host(name, host)} returns {output.what}, not a feature map{_instead(model, name, example)}"
        )
    wanted = 3 if axes is None else axes + 2
    if len(output.shape) < 3 or (axes is not None and len(output.shape) != wanted):
        hint = "; if it is (N, tokens, C), give layout='channels-last'" if len(output.shape) == 3 else ""
        raise UserError(
            f"{_describe_host(name, host)} returns {output.what}, but a feature map (N, C, *spatial) of an example "
            f"with {wanted - 2} spatial axes has {wanted} axes{hint}{_instead(model, name, example)}"
        )
    _check_channels_first(name, host, output.shape, axes)
    return output


def _check_channels_first(name: str, host: nn.Module, shape: tuple[int, ...], axes: int | None) -> None:
    """Refuse a map if the host normalises its last axis, because its channels are then probably on that axis."""
    norms = [module for module in host.modules() if isinstance(module, nn.LayerNorm)]
    if axes is None or shape[1] == shape[-1] or not norms:
        return
    if tuple(norms[-1].normalized_shape) == shape[-1:]:
        raise UserError(
            f"{_describe_host(name, host)} returns a tensor of shape {shape}, whose channels seem to be on the last "
            "axis; give layout='channels-last' if they are, layout='channels-first' if not"
        )


def _instead(model: nn.Module, name: str, example: Example) -> str:
    """Suggest modules to attach to instead of one: the stages inside it, or all stages of the model."""
    stages: list[Stage] = find_stages(model, example)
    inside = [stage for stage in stages if stage.name.startswith(f"{name}.")] or stages
    return f"; attach to {suggest(model, inside)!r} instead" if inside else ""


def _check_block(name: str, block: nn.Module, shape: tuple[int, ...]) -> int:
    """Check on the meta device that a block keeps the shape of a map.

    Returns:
        Multiply-adds of the block for this shape.

    Raises:
        UserError: The block returns another shape.
    """
    on_meta = copy.deepcopy(block).to("meta")
    dtype = next((p.dtype for p in block.parameters()), torch.float32)
    x = torch.empty(shape, device="meta", dtype=dtype)
    with torch.no_grad():
        returned, multiply_adds = counted(lambda: Output.of(on_meta(x)))
    if returned.shape != shape:
        raise UserError(
            f"the block at {name!r} turns a tensor of shape {shape} into {returned.what}, but a block must keep the "
            "shape of its input"
        )
    return multiply_adds


def _check_run(model: nn.Module, example: Example | None, hosts: Mapping[str, nn.Module]) -> None:
    """Check that every block runs once."""
    blocks = {name: block for name, host in hosts.items() if (block := block_of(host)) is not None}
    outputs = run(model, example, blocks.values())
    for name, block in blocks.items():
        times = len(outputs.get(block, []))
        if times != 1:
            raise UserError(f"the block at {name!r} ran {times} times in the example, not once; place it elsewhere")


def _describe_host(name: str, host: nn.Module) -> str:
    return f"{name!r} ({type(host).__name__})"
