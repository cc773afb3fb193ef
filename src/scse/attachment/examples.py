"""Run an example through a model, and record the outputs of its modules."""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from scse.attachment.compiled import eagerly
from scse.support.errors import UserError, in_short

T = TypeVar("T")
Example = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""Input of one forward pass: a tensor, a tuple of positional arguments, or a mapping of keyword arguments."""

GUESSED_SIZE = 64
"""Voxels per side of a guessed example. After the five halvings of most networks, two voxels remain."""


@dataclass(frozen=True, slots=True)
class Output:
    """Description of the output of a module.

    Attributes:
        shape: Shape of a tensor; None for other outputs.
        what: Description in words, such as "a list of 5".
        device: Device of a tensor; None for other outputs.
        dtype: Data type of a tensor; None for other outputs.
    """

    shape: tuple[int, ...] | None
    what: str
    device: torch.device | None = None
    dtype: torch.dtype | None = None

    @classmethod
    def of(cls, value: object) -> "Output":
        """Describe the output of a module."""
        if isinstance(value, Tensor):
            return cls(tuple(value.shape), f"a tensor of shape {tuple(value.shape)}", value.device, value.dtype)
        if isinstance(value, Mapping):
            return cls(None, f"a {type(value).__name__} with the keys {', '.join(map(str, value))}")
        if isinstance(value, tuple | list):
            return cls(None, f"a {type(value).__name__} of {len(value)}")
        return cls(None, f"a {type(value).__name__}")


def guess_example(model: nn.Module) -> Tensor:
    """Return an image of zeros for the first convolution, (1, in_channels, 64, 64) or (1, in_channels, 64, 64, 64).

    Raises:
        UserError: The model has no convolution.
    """
    first = next((module for module in model.modules() if isinstance(module, _ConvNd)), None)
    if first is None:
        raise UserError(f"{type(model).__name__} has no convolution from which to guess its input; give example=")
    size = (GUESSED_SIZE,) * len(first.kernel_size)
    return torch.zeros(1, first.in_channels, *size, device=first.weight.device, dtype=first.weight.dtype)


def run(model: nn.Module, example: Example | None, watched: Iterable[nn.Module]) -> dict[nn.Module, list[Output]]:
    """Run an example in evaluation mode and without gradients, without changing the model.

    Args:
        model: Model to run.
        example: Input of the model; None guesses one, see `guess_example`.
        watched: Modules of the model whose outputs are recorded.

    Returns:
        Outputs of each watched module that ran, in the order in which the modules first returned.

    Raises:
        UserError: The example does not run through the model.
    """
    inputs = guess_example(model) if example is None else example
    outputs: dict[nn.Module, list[Output]] = {}

    def watch(module: nn.Module, _inputs: tuple[object, ...], output: object) -> None:
        outputs.setdefault(module, []).append(Output.of(output))

    handles = [module.register_forward_hook(watch) for module in dict.fromkeys(watched)]
    try:
        with evaluating(model):
            call(model, inputs)
    # for an unsuitable input, a model may raise any exception
    except Exception as error:
        origin = "guessed" if example is None else "given"
        raise UserError(
            f"the {origin} example ({describe_example(inputs)}) does not run through {type(model).__name__} "
            f"({in_short(error)}); give an example= that does"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def call(model: nn.Module, example: Example) -> Any:
    """Return the output of the model for an example."""
    if isinstance(example, Tensor):
        return model(example)
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example)


def spatial_axes(model: nn.Module, example: Example | None) -> int:
    """Return the largest number of spatial axes of the tensors (N, C, *spatial) in an example."""
    inputs = guess_example(model) if example is None else example
    values = (
        [inputs] if isinstance(inputs, Tensor) else list(inputs.values() if isinstance(inputs, Mapping) else inputs)
    )
    return max((value.ndim - 2 for value in values if isinstance(value, Tensor)), default=0)


def counted(forward: Callable[[], T]) -> tuple[T, int]:
    """Return the result of a forward pass, and the multiply-adds of its convolutions and matrix products.

    They are counted by torch's FlopCounterMode, which ignores element-wise products.
    """
    with FlopCounterMode(display=False) as counter:
        result = forward()
    return result, counter.get_total_flops() // 2


def describe_example(example: Example) -> str:
    """Describe an example in words."""
    if isinstance(example, Tensor):
        return Output.of(example).what
    if isinstance(example, Mapping):
        return ", ".join(f"{name}: {Output.of(value).what}" for name, value in example.items())
    return ", ".join(Output.of(value).what for value in example)


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Run in evaluation mode, eagerly and without gradients. On exit, the mode of every module is restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), eagerly():
            yield
    finally:
        for module, training in modes:
            module.training = training
