"""Steps of training as a CUDA graph: recorded once, then launched as a whole instead of one operation at a time."""

import random
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

WARM_UP = 3
"""Steps before the recording, in which libraries choose their algorithms and take their memory."""


class Recorded:
    """Work of fixed shapes as a CUDA graph, called with new values of its arguments.

    Args:
        work: Function from tensors on the device to a scalar, which leaves the gradients of `network` behind. It has to
            draw its random numbers on the device, and must not wait for the device.
        arguments: An example of its arguments, on the host or the device.
        network: Its state is as before afterwards, and so are the random generators of torch.
        device: A GPU.

    Raises:
        RuntimeError: The work cannot be recorded. It can still be done without a graph.
    """

    def __init__(
        self, work: Callable[..., Tensor], arguments: Sequence[Tensor], network: nn.Module, device: torch.device
    ) -> None:
        self._arguments = [argument.to(device, copy=True) for argument in arguments]
        self._graph = torch.cuda.CUDAGraph()
        stream, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
        with torch.random.fork_rng([current.device_index]), unchanged(network):
            stream.wait_stream(current)
            try:
                with torch.cuda.stream(stream):
                    for _ in range(WARM_UP):
                        self._once(work, network)
                    with drawing_on_the_device(), waiting_for_nothing():
                        self._once(work, network)
                    network.zero_grad()
                with torch.cuda.graph(self._graph, stream=stream):
                    self._value = work(*self._arguments)
            except BaseException:
                network.zero_grad()
                leave_recording(device)
                raise
            finally:
                current.wait_stream(stream)

    def _once(self, work: Callable[..., Tensor], network: nn.Module) -> None:
        network.zero_grad()
        work(*self._arguments)

    def __call__(self, *arguments: Tensor) -> Tensor:
        """Do the work; returns a copy of its value, which the device may still be computing."""
        for kept, new in zip(self._arguments, arguments, strict=True):
            kept.copy_(new, non_blocking=True)
        self._graph.replay()
        return self._value.clone()


@contextmanager
def unchanged(network: nn.Module) -> Generator[None]:
    """Restore the buffers of a network, such as running statistics.

    Raises:
        RuntimeError: The network replaced a buffer by another tensor, which a graph would not do.
    """
    buffers = dict(network.named_buffers())
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    yield
    for name, buffer in network.named_buffers():
        if buffer is not buffers.get(name):
            raise RuntimeError(f"the buffer {name} is replaced in every step")
    with torch.no_grad():
        for name, buffer in buffers.items():
            buffer.copy_(before[name])


@contextmanager
def drawing_on_the_device() -> Generator[None]:
    """Check that no random number is drawn on the host: a graph would repeat it in every step.

    Raises:
        RuntimeError: One was drawn.
    """
    before = _host_generators()
    yield
    if _host_generators() != before:
        raise RuntimeError("the network draws random numbers on the host")


def _host_generators() -> tuple[object, ...]:
    return random.getstate(), torch.get_rng_state().tolist(), repr(np.random.get_state())


@contextmanager
def waiting_for_nothing() -> Generator[None]:
    """Let torch raise a RuntimeError where it would wait for the GPU, which cannot be recorded."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def leave_recording(device: torch.device) -> None:
    """Give the GPU's random generator a new state of the same numbers.

    A recording that failed leaves the old one believing that it is recorded, and it draws nothing more.
    """
    generator = torch.cuda.default_generators[torch.cuda.current_stream(device).device_index]
    generator.graphsafe_set_state(generator.clone_state())
