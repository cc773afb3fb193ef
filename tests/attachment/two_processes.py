"""Training on two processes, which a test starts. Each process runs `train` on its own half of the data."""

import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import scse
from zoo import ZOO, leaves

PROCESSES = 2


def train(rank: int, name: str, places: tuple[str, ...], folder: str) -> None:
    """Train the network `name` for two steps, and write the resulting weights to `folder`/`rank`.pt.

    Args:
        rank: Number of this process.
        name: Network of `ZOO`.
        places: Modules that get blocks: those of `to="auto"`, which other tests search.
        folder: Where the processes meet.
    """
    warnings.simplefilter("error")
    # timm's ConvNeXt causes this warning without blocks too
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    try:
        network = ZOO[name].make()
        scse.attach(network, "scse", to=lambda module, _: module in places, example=ZOO[name].example())
        # the gradients of the other weights, before layers that start at zero, may underflow
        started = network.state_dict()
        last = (".channel.excite.bias", ".spatial.project.weight")
        before = {
            key: value.clone() for key, value in started.items() if ".recalibration." in key and key.endswith(last)
        }
        parallel = DistributedDataParallel(network)
        optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
        # in the second step, DDP raises an error if a weight had no gradient in the first
        for step in range(2):
            optimizer.zero_grad()
            sum(leaf.square().mean() for leaf in leaves(parallel(ZOO[name].example(seed=2 * step + rank)))).backward()
            optimizer.step()
        blocks = {key: value for key, value in network.state_dict().items() if ".recalibration." in key}
        moved = {key: not torch.equal(blocks[key], before[key]) for key in before}
        torch.save({"blocks": blocks, "moved": moved}, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
