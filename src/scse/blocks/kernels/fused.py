"""The fused kernels as a torch operation: autograd, the custom operator for compilers, and the conditions of use."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from scse.blocks import formulas
from scse.blocks.kernels.library import Call, Library, open_library

# The numbers of the enums in cpp/recalibrate.hpp. What is missing here has no kernel.
KIND_CODES = {"cse": 0, "sse": 1, "add": 2, "max": 3, "multiply": 4}
ACTIVATION_CODES = {"relu": 0, "silu": 1, "leaky-relu": 2}
GATE_CODES = {"sigmoid": 0, "hard-sigmoid": 1, "relu": 2}
DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

Weights = tuple[Tensor | None, ...]
"""squeeze_weight, squeeze_bias, excite_weight, excite_bias, project_weight, project_bias; None for absent weights."""


class Options(NamedTuple):
    """Options of a block, see `formulas.recalibrate`."""

    kind: str
    activation: str
    gate: str
    scale: float


LIBRARY, _description = open_library()
"""The kernels in use, chosen when this module is imported; None if all blocks run on plain torch operations."""

_forked = False


def _after_fork() -> None:
    global _forked  # noqa: PLW0603 (state of the process, set once in a forked child)
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _loaded() -> Library:
    if LIBRARY is None:
        raise RuntimeError(f"the kernels of scse are not available: {_description}")
    return LIBRARY


def describe_backend() -> str:
    """Describe in one line whether the blocks run on the fused kernels or on plain torch operations, and why."""
    return _description if LIBRARY is not None else f"plain torch operations: {_description}"


def recalibrate(
    x: Tensor,
    *weights: Tensor | None,
    kind: str,
    activation: str = "relu",
    gate: str = "sigmoid",
    scale: float = 1.0,
) -> Tensor:
    """Compute `formulas.recalibrate`, with a kernel if there is one for this call."""
    if kind not in KIND_CODES or not serves(x, weights):
        return formulas.recalibrate(x, *weights, kind=kind, activation=activation, gate=gate, scale=scale)
    options = Options(kind, activation, gate, scale)
    if torch.compiler.is_compiling():
        output: Tensor = recalibrate_op(x, *weights, *options)[0]
        return output
    if torch.is_grad_enabled() and (x.requires_grad or any(w is not None and w.requires_grad for w in weights)):
        differentiable: Tensor = _Recalibration.apply(x, *weights, *options)
        return differentiable
    return _forward(x, weights, options)[0]


def serves(x: Tensor, weights: Weights) -> bool:
    """Return whether the kernels support this map and these weights in the current context.

    The kernels support dense maps on the CPU, contiguous or channels-last, in every dtype that the plain formulas
    support. Exported programs use the plain formulas, so that they run without scse. So do tensors and modes that
    must see every operation: tensor subclasses, dispatch modes, transforms of torch.func and forward-mode
    differentiation.
    """
    if LIBRARY is None or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    if x.device.type != "cpu" or x.dtype not in DTYPE_CODES or x.numel() == 0:
        return False
    if any(w is not None and w.dtype != x.dtype for w in weights) and not torch.is_autocast_enabled("cpu"):
        return False
    if not (x.is_contiguous() or _is_channels_last(x)):
        return False
    if torch.compiler.is_compiling():
        # torch.compiler.is_exporting() is always true for the compiler of torch before 2.12
        return not torch.compiler._is_exporting_flag
    return (
        type(x) in _PLAIN
        and all(w is None or type(w) in _PLAIN for w in weights)
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


_PLAIN = (Tensor, Parameter)


def _is_channels_last(x: Tensor) -> bool:
    return x.movedim(1, -1).is_contiguous()


def _forward(x: Tensor, weights: Weights, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the output, and the two buffers of `_empty_gates` for the backward pass."""
    output = torch.empty_like(x)
    excitation, spatial = _empty_gates(x, weights)
    converted = _converted(x, weights)  # bound to a name, because the call holds pointers to these tensors
    call = _call(x, converted, excitation, spatial, options)
    call.output = output.data_ptr()
    _loaded().forward(call)
    return output, excitation, spatial


def _backward(
    grad: Tensor, saved: tuple[Tensor, Tensor, Tensor], weights: Weights, options: Options, *, map_grad: Tensor | None
) -> list[Tensor | None]:
    """Compute the gradients of the six weights, in their dtypes, and write the gradient of the map to `map_grad`.

    `saved` holds the map, and the excitation and the spatial gate that `_forward` returned. Without a `map_grad` the
    gradient of the map is not computed.
    """
    x, excitation, spatial = saved
    converted = _converted(x, weights)
    if not (_is_channels_last(grad) if not x.is_contiguous() else grad.is_contiguous()):
        grad = torch.empty_like(x).copy_(grad)
    grads = [w if w is None else torch.empty_like(w) for w in converted]
    call = _call(x, converted, excitation, spatial, options)
    call.output_grad = grad.data_ptr()
    call.map_grad = _pointer(map_grad)
    (
        call.squeeze_weight_grad,
        call.squeeze_bias_grad,
        call.excite_weight_grad,
        call.excite_bias_grad,
        call.project_weight_grad,
        call.project_bias_grad,
    ) = map(_pointer, grads)
    _loaded().backward(call)
    return [g if g is None or w is None else g.to(w.dtype) for g, w in zip(grads, weights, strict=True)]


def _call(x: Tensor, weights: Weights, excitation: Tensor, spatial: Tensor, options: Options) -> Call:
    hidden = 0 if weights[0] is None else weights[0].shape[0]
    samples, channels = x.shape[:2]
    return Call(
        samples,
        channels,
        x.numel() // (samples * channels),
        hidden,
        KIND_CODES[options.kind],
        ACTIVATION_CODES[options.activation],
        GATE_CODES[options.gate],
        DTYPE_CODES[x.dtype],
        not x.is_contiguous(),
        1 if _forked else torch.get_num_threads(),
        options.scale,
        x.data_ptr(),
        *map(_pointer, weights),
        excitation.data_ptr(),
        spatial.data_ptr(),
    )


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _sums_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _converted(x: Tensor, weights: Weights) -> Weights:
    """Convert the weights to dense tensors in the dtype of the sums. Usually nothing needs to be converted."""
    dtype = _sums_dtype(x)
    if all(w is None or (w.dtype == dtype and w.is_contiguous()) for w in weights):
        return weights
    return tuple([w if w is None else w.to(dtype).contiguous() for w in weights])


def _empty_gates(x: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """Allocate the buffers that the forward pass fills for the backward pass.

    The first is (N, C + hidden + C), for the means, the hidden layer and the channel gates. The second is
    (N, 1, *spatial), for the spatial gates. The buffer of a gate that the block does not have is empty.
    """
    dtype, (samples, channels, *space) = _sums_dtype(x), x.shape
    squeeze_weight, project_weight = weights[0], weights[4]
    width = 0 if squeeze_weight is None else 2 * channels + squeeze_weight.shape[0]
    excitation = x.new_empty((samples, width), dtype=dtype)
    return excitation, x.new_empty((0,) if project_weight is None else (samples, 1, *space), dtype=dtype)


class _Recalibration(torch.autograd.Function):
    """Forward and backward pass with the kernels. Double backward uses the plain formulas."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> Tensor:
        weights, ctx.options = rest[:6], Options(*rest[6:])
        output, *gates = _forward(x, weights, ctx.options)
        ctx.save_for_backward(x, *gates, *weights)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, excitation, spatial, *weights = ctx.saved_tensors
        if torch.is_grad_enabled():
            grads = _plain_grads(ctx.needs_input_grad, grad, (x, *weights), ctx.options)
            return *grads, *_NO_OPTION_GRADS
        map_grad = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grads = _backward(grad, (x, excitation, spatial), tuple(weights), ctx.options, map_grad=map_grad)
        return map_grad, *grads, *_NO_OPTION_GRADS


_NO_OPTION_GRADS = (None,) * len(Options._fields)


def _plain_grads(
    needed: Sequence[bool], grad: Tensor, inputs: Sequence[Tensor | None], options: Options
) -> list[Tensor | None]:
    """Compute gradients that can be differentiated again, with the plain formulas in the dtype of the sums."""
    # Views cut the graph between the inputs: a weight that was computed from the map is an independent input here.
    views = [t if t is None else t.view_as(t) for t in inputs]
    converted: list[Any] = [t if t is None else t.to(_sums_dtype(grad)) for t in views]
    output = formulas.recalibrate(*converted, **options._asdict())
    wanted = {n: view for n, view in enumerate(views) if view is not None and needed[n]}
    grads = torch.autograd.grad(output, list(wanted.values()), grad.to(output.dtype), create_graph=True)
    found = dict(zip(wanted, grads, strict=True))
    return [found.get(n) for n in range(len(views))]


@torch.library.custom_op("scse::recalibrate", mutates_args=())
def recalibrate_op(  # noqa: PLR0917 (the schema of the operator)
    x: Tensor,
    squeeze_weight: Tensor | None,
    squeeze_bias: Tensor | None,
    excite_weight: Tensor | None,
    excite_bias: Tensor | None,
    project_weight: Tensor | None,
    project_bias: Tensor | None,
    kind: str,
    activation: str,
    gate: str,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `recalibrate` as an operator for compilers: output, excitation and spatial gate, see `_forward`."""
    weights = (squeeze_weight, squeeze_bias, excite_weight, excite_bias, project_weight, project_bias)
    return _forward(x, weights, Options(kind, activation, gate, scale))


@recalibrate_op.register_fake
def _(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), *_empty_gates(x, rest[:6])


@torch.library.custom_op("scse::recalibrate_backward", mutates_args=())
def recalibrate_backward_op(  # noqa: PLR0917 (the schema of the operator)
    grad: Tensor,
    x: Tensor,
    excitation: Tensor,
    spatial: Tensor,
    squeeze_weight: Tensor | None,
    squeeze_bias: Tensor | None,
    excite_weight: Tensor | None,
    excite_bias: Tensor | None,
    project_weight: Tensor | None,
    project_bias: Tensor | None,
    kind: str,
    activation: str,
    gate: str,
    scale: float,
) -> list[Tensor]:
    """Compute the gradients of the map and of the weights that are present, in their order."""
    weights = (squeeze_weight, squeeze_bias, excite_weight, excite_bias, project_weight, project_bias)
    map_grad = torch.empty_like(x)
    options = Options(kind, activation, gate, scale)
    grads = _backward(grad, (x, excitation, spatial), weights, options, map_grad=map_grad)
    return [map_grad, *(g for g in grads if g is not None)]


@recalibrate_backward_op.register_fake
def _(grad: Tensor, x: Tensor, excitation: Tensor, spatial: Tensor, *rest: Any) -> list[Tensor]:
    return [torch.empty_like(x), *(torch.empty_like(w) for w in rest[:6] if w is not None)]


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weights, ctx.options = inputs[0], inputs[1:7], inputs[7:]
    _, excitation, spatial = output
    ctx.mark_non_differentiable(excitation, spatial)
    ctx.save_for_backward(x, excitation, spatial, *weights)


def _differentiate(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    x, excitation, spatial, *weights = ctx.saved_tensors
    map_grad, *rest = recalibrate_backward_op(grad, x, excitation, spatial, *weights, *ctx.options)
    found = iter(rest)
    return map_grad, *(w if w is None else next(found) for w in weights), *_NO_OPTION_GRADS


recalibrate_op.register_autograd(_differentiate, setup_context=_save_for_backward)
