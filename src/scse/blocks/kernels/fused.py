"""The fused kernels as a torch operation: autograd, the custom operator for compilers, and the conditions of use."""

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from scse.blocks import formulas
from scse.blocks.kernels import cpu
from scse.blocks.kernels.interface import KINDS, Kernels, Options, Weights, empty_gates, sums_dtype
from scse.blocks.kernels.library import KERNELS_VARIABLE


def describe_backend(device: str | None = None) -> str:
    """Describe in one line whether the blocks run on the fused kernels or on plain torch operations, and why.

    Args:
        device: Type of the device, such as "cpu" or "cuda"; None describes the CPU, and the GPU if there is one.
    """
    if device is None:
        found = describe_backend("cpu")
        return f"{found}; on the GPU, {describe_backend('cuda')}" if torch.cuda.is_available() else found
    problem = f"there are none for {device}"
    if device == "cpu":
        problem = "" if cpu.LIBRARY is not None else cpu.description
    elif device == "cuda":
        problem = gpu_problem()
    if problem:
        return f"plain torch operations: {problem}"
    return cpu.description if device == "cpu" else "fused kernels (Triton)"


def recalibrate(
    x: Tensor,
    *weights: Tensor | None,
    kind: str,
    activation: str = "relu",
    gate: str = "sigmoid",
    scale: float = 1.0,
) -> Tensor:
    """Compute `formulas.recalibrate`, with a kernel if there is one for this call."""
    if kind not in KINDS or not serves(x, weights):
        return formulas.recalibrate(x, *weights, kind=kind, activation=activation, gate=gate, scale=scale)
    options = Options(kind, activation, gate, scale)
    if torch.compiler.is_compiling():
        output: Tensor = recalibrate_op(x, *weights, *options)[0]
        return output
    if torch.is_grad_enabled() and (x.requires_grad or any(w is not None and w.requires_grad for w in weights)):
        differentiable: Tensor = _Recalibration.apply(x, *weights, *options)
        return differentiable
    return _kernels(x).forward(x, weights, options)[0]


def serves(x: Tensor, weights: Weights) -> bool:
    """Return whether the kernels support this map and these weights in the current context.

    The kernels support dense maps, contiguous or channels-last: on CPUs in every dtype that the plain formulas support,
    on NVIDIA GPUs in float32, bfloat16 and float16. Exported programs use the plain formulas, so that they run without
    scse. So do tensors and modes that must see every operation: tensor subclasses, dispatch modes, transforms of
    torch.func and forward-mode differentiation.
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    device = x.device.type
    if device not in _DTYPES or x.dtype not in _DTYPES[device] or x.numel() == 0:
        return False
    if any(w is not None and w.dtype != x.dtype for w in weights) and not torch.is_autocast_enabled(device):
        return False
    if not (x.is_contiguous() or _is_channels_last(x)) or not _has_kernels(x):
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


def _has_kernels(x: Tensor) -> bool:
    if x.device.type == "cpu":
        return cpu.LIBRARY is not None
    return x[0].numel() <= MOST_VALUES and not gpu_problem()


_DTYPES = {"cpu": tuple(cpu.DTYPE_CODES), "cuda": (torch.float32, torch.bfloat16, torch.float16)}
_PLAIN = (Tensor, Parameter)

MOST_VALUES = 2**31 - 1
"""Values of a sample of a map on a GPU, at most: the kernels count them in 32 bits."""

OLDEST_CAPABILITY = (8, 0)
"""Compute capability of the oldest NVIDIA GPUs with kernels, the first with bfloat16."""


def gpu_problem() -> str:
    """Return why the GPU kernels cannot be used, "" if they can. The first call compiles and runs one."""
    return _find_gpu_problem()


# what torch.compiler.assume_constant_result does, without importing the compiler, which takes as long as torch itself
gpu_problem._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache  # of a function of its own, because the compiler looks through caches
def _find_gpu_problem() -> str:
    if not torch.cuda.is_available():
        return "there is no GPU"
    if os.environ.get(KERNELS_VARIABLE) == "off":
        return f"switched off ({KERNELS_VARIABLE}=off)"
    if torch.version.hip is not None:
        return "the kernels are for NVIDIA GPUs"
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST_CAPABILITY:
        found, oldest = (".".join(map(str, version)) for version in (capability, OLDEST_CAPABILITY))
        return f"the GPU has compute capability {found}, the kernels need {oldest}"
    try:
        x, weight = torch.zeros(1, 2, 16, device="cuda"), torch.zeros(1, 2, device="cuda")
        _gpu().forward(x, (None, None, None, None, weight, None), Options("sse", "relu", "sigmoid", 1.0))
    except Exception as error:  # Triton, the compiler that it calls and the driver have many errors
        return f"Triton does not work here: {type(error).__name__}: {error}".splitlines()[0]
    return ""


def _gpu() -> Kernels:
    from scse.blocks.kernels import gpu  # noqa: PLC0415 (imports Triton, which is not everywhere)

    return gpu


def _kernels(x: Tensor) -> Kernels:
    return cpu if x.device.type == "cpu" else _gpu()


def _is_channels_last(x: Tensor) -> bool:
    return x.movedim(1, -1).is_contiguous()


def _backward(
    grad: Tensor, saved: tuple[Tensor, Tensor, Tensor], weights: Weights, options: Options, *, map_grad: Tensor | None
) -> list[Tensor | None]:
    """Compute the gradients for a `grad` of any layout, see `interface.Kernels`."""
    x = saved[0]
    if not (_is_channels_last(grad) if not x.is_contiguous() else grad.is_contiguous()):
        grad = torch.empty_like(x).copy_(grad)
    return _kernels(x).backward(grad, saved, weights, options, map_grad=map_grad)


class _Recalibration(torch.autograd.Function):
    """Forward and backward pass with the kernels. Double backward uses the plain formulas."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> Tensor:
        weights, ctx.options = rest[:6], Options(*rest[6:])
        output, *gates = _kernels(x).forward(x, weights, ctx.options)
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
    converted: list[Any] = [t if t is None else t.to(sums_dtype(grad)) for t in views]
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
    """Compute `recalibrate` as an operator for compilers, see `interface.Kernels.forward`.

    A custom operator serves better than `triton_op` here: it is the same one for CPUs and GPUs, and a compiler could
    fuse nothing into a kernel that counts its own items.
    """
    weights = (squeeze_weight, squeeze_bias, excite_weight, excite_bias, project_weight, project_bias)
    return _kernels(x).forward(x, weights, Options(kind, activation, gate, scale))


@recalibrate_op.register_fake
def _(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), *empty_gates(x, rest[:6])


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
    # the kernels' gradients of the weights are dense, also where a weight is a view
    return [torch.empty_like(x), *(w.new_empty(w.shape) for w in rest[:6] if w is not None)]


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
