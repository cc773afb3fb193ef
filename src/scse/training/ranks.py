"""One training by several processes, its ranks, each on a device of its own.

Every rank computes its part of every batch. The loss, its gradients and batch normalisation are those of the whole
batch, so that a training does not depend on the number of ranks, but for rounding and dropout.
"""

import logging
import os
import signal
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import zip_longest
from typing import Any, Self, TypeVar, cast

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from scse.inference.devices import choose_device
from scse.support.errors import UserError
from scse.support.events import StoppedError
from scse.support.text import counted

T = TypeVar("T")

TIMEOUT = timedelta(days=1)
"""How long a rank waits for another one: the first may take hours to prepare the data. A dead rank is noticed at once.
"""

NODE_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
"""Variables of the environment that tell machines of each other, where no launcher sets them."""

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes of a training, and which of them this one is.

    Attributes:
        devices: Processes on each machine, each with a device.
        nodes: Machines.
        local: Number of this process on its machine.
        rank: Number of this process.
    """

    devices: int = 1
    nodes: int = 1
    local: int = 0
    rank: int = 0

    @classmethod
    def of(cls, devices: int | None = None, nodes: int | None = None) -> Self:
        """The processes that are asked for, or those that torchrun started.

        Raises:
            UserError: torchrun started others than those asked for, or machines do not know of each other.
        """
        if is_under_torchrun():
            return cls._of_torchrun(devices, nodes)
        devices, nodes = devices or 1, nodes or 1
        if devices * nodes == 1:
            return cls()
        if nodes > 1 and (missing := [name for name in NODE_VARIABLES if name not in os.environ]):
            raise UserError(
                f"nodes={nodes} needs {', '.join(missing)} in the environment of each machine: the name of the first "
                "machine, a free port of it, and the machine's own number from 0; set them, or start scse by torchrun"
            )
        environment = LightningEnvironment()
        local = environment.local_rank()
        return cls(devices, nodes, local, environment.node_rank() * devices + local)

    @classmethod
    def _of_torchrun(cls, devices: int | None, nodes: int | None) -> Self:
        environment = TorchElasticEnvironment()
        there = int(os.environ["LOCAL_WORLD_SIZE"])
        ranks = cls(there, environment.world_size() // there, environment.local_rank(), environment.global_rank())
        if (devices or there, nodes or ranks.nodes) != (there, ranks.nodes):
            asked = f"devices={devices}, nodes={nodes}"
            found = f"{counted(ranks.nodes, 'machine')} and {ranks.size} processes in all"
            raise UserError(f"{asked}, but torchrun started {found}; leave devices and nodes out")
        return ranks

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self.devices * self.nodes

    @property
    def alone(self) -> bool:
        """Whether there is one process."""
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this process prepares the data, writes and reports."""
        return self.rank == 0

    def check(self, batch_size: int, device: str | torch.device) -> None:
        """Check that the ranks can share batches of this size on devices of this name, see `choose_device`.

        Raises:
            UserError: They cannot.
        """
        if self.alone:
            return
        self.check_batch(batch_size)
        if str(device).startswith(("mps", "cuda:")):
            raise UserError(f"device={str(device)!r} is one GPU, and {self.size} processes are to train; give another")
        if choose_device(device).type == "cuda" and torch.cuda.device_count() < self.devices:
            raise UserError(
                f"devices={self.devices}: torch finds {counted(torch.cuda.device_count(), 'GPU')} here; take as many "
                "or fewer"
            )

    def check_batch(self, batch_size: int) -> None:
        """Check that a batch divides over the ranks.

        Raises:
            UserError: It does not.
        """
        if batch_size % self.size:
            raise UserError(
                f"batch_size={batch_size} does not divide over {self.size} processes; choose a multiple of {self.size}"
            )

    def describe(self, batch_size: int) -> list[tuple[str, str]]:
        """A row for the plan; none for one process."""
        share = f"{batch_size // self.size} of the {batch_size} slices or patches of every step"
        return [] if self.alone else [("processes", f"{self.size}, each with {share}")]

    def describe_devices(self, device: str) -> str:
        """The name of a device as that of all ranks."""
        return device if self.alone else f"{self.size} x {device}"

    def device(self, device: torch.device) -> torch.device:
        """The device of this rank, where `device` is the kind that the user chose."""
        return torch.device("cuda", self.local) if device.type == "cuda" and not self.alone else device

    def join(self, device: torch.device) -> None:
        """Start the other ranks on this machine unless a launcher did, and wait for all; nothing for one process.

        Those that are started run the same command line again.
        """
        if self.alone:
            return
        # it says why it ends all processes, where one of them has died
        logging.getLogger("lightning_fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
        environment = TorchElasticEnvironment() if is_under_torchrun() else LightningEnvironment()
        strategy = DDPStrategy(cluster_environment=environment, timeout=TIMEOUT)
        with quiet_fabric(), _reaching_all(), nullcontext() if self.first else _ended_by_signals():
            fabric = Fabric(accelerator=device.type, devices=self.devices, num_nodes=self.nodes, strategy=strategy)
            fabric.launch()

    @contextmanager
    def ending_together(self) -> Generator[None]:
        """Leave the group of ranks at the end of the block, and the message of an error that ends all to the first.

        Raises:
            StoppedError: In another rank, for a UserError.
        """
        try:
            yield
        except UserError as error:
            if self.first:
                raise
            raise StoppedError(str(error)) from error
        finally:
            if not self.alone:
                dist.destroy_process_group()

    def any(self, asked: bool, device: torch.device) -> bool:
        """Whether any rank is asked; all have to call it."""
        if self.alone:
            return asked
        flag = torch.tensor(int(asked), device=device)
        with _reaching_all():
            dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag.item())

    def from_first(self, value: T) -> T:
        """The value of the first rank, for which the others wait."""
        if self.alone:
            return value
        values = [value]
        with _reaching_all():
            dist.broadcast_object_list(values)
        return values[0]

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """The items that are this rank's."""
        return items[self.rank :: self.size]

    def joined(self, mine: Sequence[T]) -> list[T]:
        """The items of all ranks in order, from what each made of `mine`."""
        if self.alone:
            return list(mine)
        parts: list[Any] = [None] * self.size
        with _reaching_all():
            dist.all_gather_object(parts, list(mine))
        return [item for row in zip_longest(*parts) for item in row if item is not None]

    def average_gradients(self, network: nn.Module) -> None:
        """Replace the gradients by their means over the ranks. A weight without one has none in any rank."""
        if self.alone:
            return
        gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
        joined = torch.cat([gradient.flatten() for gradient in gradients])
        with _reaching_all():
            dist.all_reduce(joined)
        joined /= self.size
        for gradient, mean in zip(gradients, joined.split([each.numel() for each in gradients]), strict=True):
            gradient.copy_(mean.view(gradient.shape))

    @contextmanager
    def shared_norms(self, network: nn.Module) -> Generator[None]:
        """Let batch normalisation take the mean and variance of whole batches, until the end of the block.

        Raises:
            UserError: The network has a batch normalisation of another library, which cannot.
        """
        swapped: list[tuple[nn.Module, str, nn.Module]] = []
        try:
            for parent in [] if self.alone else list(network.modules()):
                for name, norm in list(parent.named_children()):
                    if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                        setattr(parent, name, _shared(norm))
                        swapped.append((parent, name, norm))
            yield
        finally:
            for parent, name, norm in swapped:
                norm.train(getattr(parent, name).training)
                setattr(parent, name, norm)


ALONE = Ranks()
"""One process."""


def is_under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return TorchElasticEnvironment.detect()


def total(values: Tensor) -> Tensor:
    """The sum of a tensor over the ranks. Gradients are summed, too: those of ranks have to be averaged after it."""
    summed: Tensor = _Total.apply(values)
    return summed


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.contiguous().clone()
        with _reaching_all():
            dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> Tensor:
        return cast(Tensor, _Total.apply(gradients))


@contextmanager
def quiet_fabric() -> Generator[None]:
    """Keep Fabric from announcing precision and processes, which the plan names, until the end of the block."""
    logger = logging.getLogger("lightning_fabric")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _ended_by_signals() -> Generator[None]:
    """Let Ctrl-C and SIGTERM end the process at once: torch waits for the first rank where Python sees no signal."""
    if threading.current_thread() is not threading.main_thread():  # only there can Python set them
        yield
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _reaching_all() -> Generator[None]:
    """Make errors of the connection to other ranks, which are RuntimeErrors, the user's.

    Raises:
        UserError: Another rank has ended.
    """
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            "another process of this training ended or cannot be reached, so all end; the cause is above, if it could "
            "say it. Run the same command again: the training goes on from its checkpoint"
        ) from error


def _shared(norm: nn.modules.batchnorm._BatchNorm) -> nn.Module:
    """The batch normalisation of whole batches with the same weights and running statistics."""
    if type(norm) not in NORMS:
        raise UserError(
            f"the network has {type(norm).__module__}.{type(norm).__qualname__}, whose statistics several processes "
            "cannot share; train on one device, or choose another network"
        )
    if norm.running_mean is not None and norm.running_mean.is_cuda:
        return cast(nn.Module, nn.SyncBatchNorm.convert_sync_batchnorm(norm))
    return SharedBatchNorm(norm)


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """`torch.nn.SyncBatchNorm` for CPUs, which torch has for GPUs alone.

    All ranks have the same number of slices.

    Args:
        norm: Batch normalisation whose weights and running statistics are used and changed.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(self, name, getattr(norm, name))
        self.train(norm.training)

    def _check_input_dim(self, _maps: Tensor) -> None:
        """Accept maps of any number of axes."""

    def forward(self, given: Tensor) -> Tensor:
        """Normalise maps (N, C, *spatial)."""
        if not self.training:
            return super().forward(given)
        maps, axes = given.float(), [0, *range(2, given.ndim)]
        shape = (1, -1, *(1,) * (given.ndim - 2))
        ranks = dist.get_world_size()
        count = ranks * maps.numel() // maps.shape[1]
        if count == 1:
            raise ValueError("Expected more than 1 value per channel when training")  # as torch
        mean = total(maps.mean(axes)) / ranks
        centred = maps - mean.view(shape)
        variance = total(centred.square().mean(axes)) / ranks
        self._note(mean.detach(), variance.detach() * count / (count - 1))
        scale = (variance + self.eps).rsqrt()
        if not self.affine:
            return (centred * scale.view(shape)).to(given.dtype)
        return (centred * (scale * self.weight).view(shape) + self.bias.view(shape)).to(given.dtype)

    def _note(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)
