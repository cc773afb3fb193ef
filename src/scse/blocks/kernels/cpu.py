"""The CPU kernels: the library in use, and its calls."""

import os

import torch
from torch import Tensor

from scse.blocks.kernels.interface import KINDS, Options, Weights, empty_gates, sums_dtype
from scse.blocks.kernels.library import Call, Library, open_library

# The numbers of the enums in cpp/recalibrate.hpp. What is missing here has no kernel.
KIND_CODES = {kind: code for code, kind in enumerate(KINDS)}
ACTIVATION_CODES = {"relu": 0, "silu": 1, "leaky-relu": 2}
GATE_CODES = {"sigmoid": 0, "hard-sigmoid": 1, "relu": 2}
DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

LIBRARY, description = open_library()
"""The kernels in use, chosen when this module is imported; None if all blocks run on plain torch operations."""

_forked = False


def _after_fork() -> None:
    global _forked  # noqa: PLW0603 (state of the process, set once in a forked child)
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def forward(x: Tensor, weights: Weights, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the output and the buffers, see `interface.Kernels`."""
    output = torch.empty_like(x)
    excitation, spatial = empty_gates(x, weights)
    converted = _converted(x, weights)  # bound to a name, because the call holds pointers to these tensors
    call = _call(x, converted, excitation, spatial, options)
    call.output = output.data_ptr()
    _loaded().forward(call)
    return output, excitation, spatial


def backward(
    grad: Tensor, saved: tuple[Tensor, Tensor, Tensor], weights: Weights, options: Options, *, map_grad: Tensor | None
) -> list[Tensor | None]:
    """Compute the gradients, see `interface.Kernels`."""
    x, excitation, spatial = saved
    converted = _converted(x, weights)
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


def _loaded() -> Library:
    if LIBRARY is None:
        raise RuntimeError(f"the kernels of scse are not available: {description}")
    return LIBRARY


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


def _converted(x: Tensor, weights: Weights) -> Weights:
    """Convert the weights to dense tensors in the dtype of the sums. Usually nothing needs to be converted."""
    dtype = sums_dtype(x)
    if all(w is None or (w.dtype == dtype and w.is_contiguous()) for w in weights):
        return weights
    return tuple([w if w is None else w.to(dtype).contiguous() for w in weights])
