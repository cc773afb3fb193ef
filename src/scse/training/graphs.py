"""Steps of training as a CUDA graph: recorded once, then launched as a whole instead of one operation at a time."""

import random
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from scse.support.errors import in_short
from scse.support.events import Stage, Watch
from scse.training.arithmetic import nondeterministic
from scse.training.state import State

WARM_UP = 3
"""Steps before the recording, in which libraries choose their algorithms and take their memory."""


class GraphedSteps:
    """Training steps whose work is recorded at the first one; eager ones if that fails, with a message.

    Args:
        state: State of the run; changed in place.
        work: Function from what is sent for a step to its loss, which computes gradients; see `Recorded`.
        eager: Function that takes a whole step without a graph.
        device: A GPU.
        watch: Gets the message.
    """

    def __init__(
        self,
        state: State,
        work: Callable[..., Tensor],
        eager: Callable[..., Tensor],
        device: torch.device,
        watch: Watch,
    ) -> None:
        self.state, self.work, self.eager, self.device, self.watch = state, work, eager, device, watch
        self.recorded: Recorded | None = None
        self.failed = False

    def __call__(self, *sent: Tensor) -> Tensor:
        """Take a step; returns its loss, a scalar on the device."""
        if self.recorded is None and not self.failed:
            self._record(sent)
        if self.recorded is None:
            return self.eager(*sent)
        value = self.recorded(*sent)
        # the graph overwrites gradients, and they have to stay where they are
        self.state.optimizer.step()
        self.state.schedule.step()
        return value

    def _record(self, sent: Sequence[Tensor]) -> None:
        try:
            self.recorded = Recorded(self.work, sent, self.state.network, self.device)
        except RuntimeError as error:
            cause = error.__context__ or error  # the end of a failed recording hides what it failed for
            if nondeterministic(cause):
                raise cause from None
            self.failed = True
            self.watch.report(Stage(f"training without a CUDA graph, operation by operation ({in_short(cause)})"))


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
        with torch.cuda.device(device), torch.random.fork_rng([current.device_index]), unchanged(network):
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
                leave_recording(self._graph, current)
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
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
        for module, name, buffer, _ in buffers:
            if getattr(module, name) is not buffer:
                raise RuntimeError(f"{type(module).__name__} replaces its buffer {name} in every step")
    finally:
        with torch.no_grad():
            for module, name, buffer, before in buffers:
                setattr(module, name, buffer.copy_(before))


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


_FAILED: list[torch.cuda.CUDAGraph] = []
"""Graphs whose recording failed, which torch's allocator goes on asking about its blocks."""


def leave_recording(graph: torch.cuda.CUDAGraph, current: torch.cuda.Stream) -> None:
    """Undo what a recording leaves behind that failed, so that its work can be done without a graph.

    Args:
        graph: The graph.
        current: The stream before the recording. torch returns to it only after a recording that succeeded.
    """
    _FAILED.append(graph)
    torch.cuda.set_stream(current)
    # the generator believes that it is still recorded, and would draw nothing more: it gets a new state, same numbers
    generator = torch.cuda.default_generators[current.device_index]
    generator.graphsafe_set_state(generator.clone_state())
