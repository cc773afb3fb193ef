"""The scSE block on a GPU: beside a copy of its map, the plain formula and the module of segmentation_models_pytorch.

    python benchmarks/gpu/blocks.py          # about 90 s on an H200
    python benchmarks/gpu/blocks.py --only networks

1. One block, bfloat16: forward and backward pass, and forward pass alone, as CUDA graphs and eagerly; times in
   milliseconds, medians. A copy reads and writes the map once.
2. A training step and a prediction of a U-Net with a block after every encoder, bottleneck and decoder stage: what the
   block adds to the plain network. "copy" has a mere copy of the map in the same places.
3. GPU memory that one block takes in training besides its output, in sizes of its map.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from segmentation_models_pytorch.base.modules import SCSEModule
from torch import Tensor, nn
from torch.nn import functional as F

import scse
from scse.blocks import formulas
from scse.blocks.kernels import describe_backend, fused

SHAPES = [
    (8, 64, 256, 256),
    (8, 64, 128, 128),
    (8, 64, 64, 64),
    (8, 64, 32, 32),
    (8, 256, 64, 64),
    (2, 32, 128, 128, 128),
]
NETWORKS: dict[str, tuple[dict[str, int], Sequence[int]]] = {
    "paper: 5x5, width 64, depth 4": ({}, (4, 1, 256, 256)),
    "quick: 3x3, width 32, depth 3": ({"width": 32, "depth": 3, "kernel_size": 3}, (32, 1, 192, 192)),
}
REPEATS = 9


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=TABLES, help="make one table")
    arguments = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; blocks run on {describe_backend()}")
    for name in [arguments.only] if arguments.only else TABLES:
        print()
        TABLES[name]()


# Timing


def recorded(action: Callable[[], object], times: int) -> Callable[[], None]:
    """The action `times` times, as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            action()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            action()
    return graph.replay


def milliseconds(action: Callable[[], object], times: int = 1, repeats: int = REPEATS) -> float:
    """Median time of the action, which does its work `times` times."""
    action()
    taken = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        action()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) / times)
    return sorted(taken)[repeats // 2]


def in_graph(action: Callable[[], object], times: int = 20) -> float:
    """Median time in a CUDA graph."""
    return milliseconds(recorded(action, times), times)


def eager(action: Callable[[], object], times: int = 20) -> float:
    """Median time of an action whose operations are launched from Python."""

    def repeated() -> None:
        for _ in range(times):
            action()

    return milliseconds(repeated, times)


# Tables


def blocks_table() -> None:
    """One block."""
    print("| map | layout | copy | scse | formula | smp | scse in copies | smp / scse | eager: smp / scse |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for shape in SHAPES:
        for last in (False, True):
            print(block_row(shape, last=last), flush=True)
            torch.cuda.empty_cache()


def block_row(shape: Sequence[int], *, last: bool) -> str:
    """Times of one map."""
    layout: Any = torch.contiguous_format
    if last:
        layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    x = torch.randn(shape, device="cuda", dtype=torch.bfloat16).contiguous(memory_format=layout).requires_grad_()
    grad, channels = torch.randn_like(x), shape[1]
    block = scse.ConcurrentSE(channels).to("cuda")
    weights = weights_of(block)
    halves = [w.detach().bfloat16().requires_grad_() for w in weights]
    ways: dict[str, tuple[Callable[[Tensor], Tensor], list[Tensor]]] = {
        "scse": (under_autocast(partial(recalibrated, fused.recalibrate, weights)), weights),
        "formula": (partial(recalibrated, formulas.recalibrate, halves), halves),
    }
    if len(shape) == 4:
        module = SCSEModule(channels, reduction=2).to("cuda", torch.bfloat16).to(memory_format=layout)
        ways["smp"] = module, list(module.parameters())
    target = torch.empty_like(x)
    copy = in_graph(lambda: target.copy_(x.detach()))
    steps, forwards, launched = {}, {}, {}
    for name, (function, parameters) in ways.items():
        step = partial(stepped, function, x, parameters, grad)
        steps[name], launched[name] = in_graph(step), eager(step)
        with torch.no_grad():
            forwards[name] = in_graph(partial(function, x))
    ours = steps["scse"]
    peer = "smp" if "smp" in steps else "formula"
    times = [
        f"{steps[name]:.3f} / {forwards[name]:.3f}" if name in steps else "" for name in ("scse", "formula", "smp")
    ]
    ratios = [f"{steps[peer] / ours:.1f}", f"{launched[peer] / launched['scse']:.1f} ({launched['scse']:.3f} ms)"]
    if peer != "smp":
        ratios = [f"{ratio} (formula)" for ratio in ratios]
    row = ["x".join(map(str, shape)), "channels-last" if last else "contiguous", f"{copy:.4f}", *times]
    copies = f"{ours / copy:.1f} / {forwards['scse'] / copy:.1f}"
    return f"| {' | '.join([*row, copies, *ratios])} |"


def weights_of(block: nn.Module) -> list[Tensor]:
    """The weights in the order of the formula."""
    layers = [block.channel.squeeze, block.channel.excite, block.spatial.project]  # type: ignore[union-attr]
    return [t for layer in layers for t in (layer.weight, layer.bias)]  # type: ignore[union-attr]


def recalibrated(function: Callable[..., Tensor], weights: Sequence[Tensor], x: Tensor) -> Tensor:
    """A block of given weights."""
    return function(x, *weights, kind="add")


def under_autocast(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function as mixed precision calls it: bfloat16 maps, float32 weights."""

    def call(x: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return function(x)

    return call


def stepped(function: Callable[[Tensor], Tensor], x: Tensor, parameters: Sequence[Tensor], grad: Tensor) -> None:
    """Forward and backward pass."""
    torch.autograd.grad(function(x), [x, *parameters], grad)


class Copy(nn.Module):
    """A copy in place of a block."""

    def forward(self, x: Tensor) -> Tensor:
        """The same map, once more."""
        return x * 1.0


def networks_table() -> None:
    """Networks."""
    variants: dict[str, Any] = {
        "plain": None,
        "scse": "scse",
        "formula": "scse",
        "smp": lambda channels: SCSEModule(channels, reduction=2),
        "copy": lambda _: Copy(),
    }
    print("| network | variant | step, graph | step, eager | prediction, eager | prediction, graph |")
    print("|---|---|---:|---:|---:|---:|")
    for title, (options, shape) in NETWORKS.items():
        x = torch.randn(list(shape), device="cuda").contiguous(memory_format=torch.channels_last)
        labels = torch.randint(28, (shape[0], *shape[2:]), device="cuda")
        rounds: dict[str, list[list[float]]] = {name: [] for name in variants}
        for _ in range(2):
            for name, recalibration in variants.items():
                with patch.object(fused, "serves", lambda *_: False) if name == "formula" else patch.dict({}):
                    rounds[name].append(network_times(options, recalibration, x, labels))
                torch.cuda.empty_cache()
        best = {name: [min(column) for column in zip(*found, strict=True)] for name, found in rounds.items()}
        for name, found in best.items():
            cells = [f"{own:.3f} ({own / plain - 1:+.1%})" for own, plain in zip(found, best["plain"], strict=True)]
            print(f"| {title} | {name} | {' | '.join(cells)} |", flush=True)


def network_times(options: dict[str, int], recalibration: Any, x: Tensor, labels: Tensor) -> list[float]:
    """Milliseconds of a step in a graph and eagerly, and of a prediction eagerly and in a graph."""
    torch.manual_seed(0)
    network = scse.networks.UNet(1, classes=28, recalibration=recalibration, **options)
    network = network.to("cuda").to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, foreach=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(network(x), labels)
        loss.backward()
        optimizer.step()

    def predict() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            network(x)

    step()
    launched, graphed = eager(step, 5), in_graph(step, 3)
    network.eval()
    return [graphed, launched, eager(predict, 5), in_graph(predict, 5)]


def memory_table() -> None:
    """Memory of a block in training."""
    print("| map | kept for the backward pass, maps | most at a time, maps |")
    print("|---|---:|---:|")
    for shape in SHAPES[:2] + SHAPES[-1:]:
        x = torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        grad, block = torch.randn_like(x), scse.ConcurrentSE(shape[1]).to("cuda")
        for _ in range(2):
            x.grad = None
            block.zero_grad()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            with torch.autocast("cuda", torch.bfloat16):
                output = block(x)
            kept = torch.cuda.memory_allocated() - before - output.nbytes
            output.backward(grad)
            most = torch.cuda.max_memory_allocated() - before - output.nbytes
            del output
        print(f"| {'x'.join(map(str, shape))} | {kept / x.nbytes:.2f} | {most / x.nbytes:.2f} |", flush=True)


TABLES = {"blocks": blocks_table, "networks": networks_table, "memory": memory_table}


if __name__ == "__main__":
    main()
