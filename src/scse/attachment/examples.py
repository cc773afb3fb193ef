"""What the modules of a model return when an example runs through it."""

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
"""The input of one forward: a tensor, the arguments in order, or the arguments by name."""

GUESSED_SIZE = 64
"""Voxels a side of a guessed example: two are left after the five halvings of most networks."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a module returned.

    Attributes:
        shape: of a tensor; None if it is none.
        what: a description, such as "a list of 5".
        device: of a tensor; None if it is none.
        dtype: of a tensor; None if it is none.
    """

    shape: tuple[int, ...] | None
    what: str
    device: torch.device | None = None
    dtype: torch.dtype | None = None

    @classmethod
    def of(cls, value: object) -> "Output":
        """Describe what a module returned."""
        if isinstance(value, Tensor):
            return cls(tuple(value.shape), f"a tensor of shape {tuple(value.shape)}", value.device, value.dtype)
        if isinstance(value, Mapping):
            return cls(None, f"a {type(value).__name__} with the keys {', '.join(map(str, value))}")
        if isinstance(value, tuple | list):
            return cls(None, f"a {type(value).__name__} of {len(value)}")
        return cls(None, f"a {type(value).__name__}")


def guess_example(model: nn.Module) -> Tensor:
    """One image of zeros for the first convolution: (1, its in_channels, 64, 64) or (1, in_channels, 64, 64, 64).

    Raises:
        ValueError: the model has no convolution.
    """
    first = next((module for module in model.modules() if isinstance(module, _ConvNd)), None)
    if first is None:
        raise UserError(f"{type(model).__name__} has no convolution that would tell its input; give example=")
    size = (GUESSED_SIZE,) * len(first.kernel_size)
    return torch.zeros(1, first.in_channels, *size, device=first.weight.device, dtype=first.weight.dtype)


def run(model: nn.Module, example: Example | None, watched: Iterable[nn.Module]) -> dict[nn.Module, list[Output]]:
    """Run an example in evaluation mode and without gradients; the model stays as it was.

    Args:
        model: to run.
        example: its input; None guesses one, see `guess_example`.
        watched: modules of it.

    Returns:
        Each watched module with its outputs, in the order in which the modules first returned. A module that did
        not run is not in it.

    Raises:
        ValueError: the example does not run through the model.
    """
    given = guess_example(model) if example is None else example
    outputs: dict[nn.Module, list[Output]] = {}

    def watch(module: nn.Module, _inputs: tuple[object, ...], output: object) -> None:
        outputs.setdefault(module, []).append(Output.of(output))

    handles = [module.register_forward_hook(watch) for module in dict.fromkeys(watched)]
    try:
        with evaluating(model):
            call(model, given)
    # a model may raise anything at an input that it was not made for
    except Exception as error:
        origin = "guessed" if example is None else "given"
        raise UserError(
            f"the {origin} example ({describe_example(given)}) does not run through {type(model).__name__} "
            f"({in_short(error)}); give an example= that does"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def call(model: nn.Module, example: Example) -> Any:
    """The model's output for an example."""
    if isinstance(example, Tensor):
        return model(example)
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example)


def spatial_axes(model: nn.Module, example: Example | None) -> int:
    """Spatial axes of an example, by its first tensor (N, C, *spatial)."""
    given = guess_example(model) if example is None else example
    values = [given] if isinstance(given, Tensor) else list(given.values() if isinstance(given, Mapping) else given)
    return max((value.ndim - 2 for value in values if isinstance(value, Tensor)), default=0)


def counted(forward: Callable[[], T]) -> tuple[T, int]:
    """A forward's result, and the multiply-adds of its convolutions and matrix products.

    As torch's FlopCounterMode counts them, element-wise products are left out.
    """
    with FlopCounterMode(display=False) as counter:
        result = forward()
    return result, counter.get_total_flops() // 2


def describe_example(example: Example) -> str:
    """An example in words."""
    if isinstance(example, Tensor):
        return Output.of(example).what
    if isinstance(example, Mapping):
        return ", ".join(f"{name}: {Output.of(value).what}" for name, value in example.items())
    return ", ".join(Output.of(value).what for value in example)


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Evaluation mode, without gradients and as if never compiled; afterwards every module has the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), eagerly():
            yield
    finally:
        for module, training in modes:
            module.training = training
