"""Blocks against their peers: time, copies of the map, and memory, all peers in turn in the same run.

    uv run python benchmarks/blocks.py                # as the commands of scse run, 4 minutes
    uv run python benchmarks/blocks.py --default      # glibc's allocator as it is

Times are medians over rounds; in a round every peer runs often enough to last about 20 ms. A copy is y.copy_(x) of such
a map, in the same round, taking turns between as many pairs of maps as the block touches: one in inference, two with
the backward pass. "compiled" is the plain formula under torch.compile.
"""

import argparse
import itertools
import warnings
from collections.abc import Callable, Mapping
from functools import partial

import torch
from measuring import interleaved, machine, markdown, milliseconds, ratio
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from scse import ChannelSE, ConcurrentSE
from scse.allocator import keep_large_blocks
from scse.blocks.kernels import describe_backend
from scse.studies.bench import plain_formula

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from monai.networks.blocks import ChannelSELayer
    from segmentation_models_pytorch.base.modules import SCSEModule
    from timm.layers import SEModule

CHANNELS, BATCH = 64, 4
SIDES = (256, 128, 64, 32, 16)
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
ROUND_SECONDS = 0.02
Peers = Mapping[str, Callable[[Tensor], Tensor]]


def scse_peers() -> dict[str, Callable[[Tensor], Tensor]]:
    block = ConcurrentSE(CHANNELS)
    formula = partial(plain_formula, block)
    return {"scse": block, "smp": SCSEModule(CHANNELS), "formula": formula, "compiled": torch.compile(formula)}


def cse_peers() -> dict[str, Callable[[Tensor], Tensor]]:
    return {
        "scse": ChannelSE(CHANNELS),
        "monai": ChannelSELayer(2, CHANNELS),
        "timm": SEModule(CHANNELS, rd_ratio=0.5),
    }


def feature_map(*shape: int, last: bool) -> Tensor:
    x = torch.randn(shape)
    return x.contiguous(memory_format=FORMATS[x.ndim]) if last else x


def measure(peers: Peers, x: Tensor, *, backward: bool, rounds: int) -> dict[str, float]:
    """Milliseconds of each peer and of a copy, and the ratios to the first peer."""
    grad, copies = torch.randn_like(x), [torch.empty_like(x) for _ in range(1 + backward)]
    pairs = itertools.cycle(list(zip((x.detach(), grad), copies, strict=False)))
    x.requires_grad_(backward)

    def once(peer: Callable[[Tensor], Tensor]) -> None:
        with torch.set_grad_enabled(backward):
            output = peer(x)
        if backward:
            x.grad = None
            output.backward(grad)

    def copied() -> None:
        source, copy = next(pairs)
        copy.copy_(source)

    actions = {name: partial(once, peer) for name, peer in peers.items()} | {"copy": copied}
    repeats = {name: _repeats(action) for name, action in actions.items()}
    repeated = {name: partial(_repeat, action, repeats[name]) for name, action in actions.items()}
    seconds = {name: values / repeats[name] for name, values in interleaved(repeated, rounds=rounds).items()}
    first = next(iter(peers))
    found = {name: milliseconds(values) for name, values in seconds.items()}
    found |= {f"{name}/{first}": ratio(seconds, name, first) for name in peers if name != first}
    return found | {"copies": ratio(seconds, first, "copy")}


def _repeats(action: Callable[[], None]) -> int:
    for _ in range(3):  # compilers need more than one
        action()
    seconds = interleaved({"one": action}, rounds=3)["one"].min()
    return max(1, round(ROUND_SECONDS / float(seconds)))


def _repeat(action: Callable[[], None], times: int) -> None:
    for _ in range(times):
        action()


def time_tables(rounds: int) -> None:
    peers = ("smp", "formula", "compiled")
    for backward, what in ((True, "forward and backward"), (False, "inference")):
        rows = []
        for side in SIDES:
            for last in (False, True):
                torch.compiler.reset()
                x = feature_map(BATCH, CHANNELS, side, side, last=last)
                found = measure(scse_peers(), x, backward=backward, rounds=rounds)
                times = [f"{found[f'{peer}/scse']:.1f}" for peer in peers]
                rows.append([_size(x, last), f"{found['scse']:.2f}", *times, f"{found['copies']:.1f}"])
        header = ["map", "scse (ms)", *(f"{peer} takes x" for peer in peers), "copies of the map"]
        print(f"\nscSE, {what}\n\n{markdown(header, rows)}", flush=True)


def volume_table(rounds: int) -> None:
    rows = []
    for last in (False, True):
        torch.compiler.reset()
        x = feature_map(2, 32, 64, 64, 64, last=last)
        block = ConcurrentSE(32)
        found = measure({"scse": block, "formula": partial(plain_formula, block)}, x, backward=True, rounds=rounds)
        rows.append([_size(x, last), f"{found['scse']:.2f}", f"{found['formula/scse']:.1f}", f"{found['copies']:.1f}"])
    header = ["map", "scse (ms)", "formula takes x", "copies of the map"]
    print(f"\nscSE in 3D, forward and backward\n\n{markdown(header, rows)}", flush=True)


def channel_table(rounds: int) -> None:
    rows = []
    for side in SIDES:
        for last in (False, True):
            x = feature_map(BATCH, CHANNELS, side, side, last=last)
            found = measure(cse_peers(), x, backward=True, rounds=rounds)
            times = [f"{found[f'{peer}/scse']:.1f}" for peer in ("monai", "timm")]
            rows.append([_size(x, last), f"{found['scse']:.2f}", *times, f"{found['copies']:.1f}"])
    header = ["map", "scse (ms)", "monai takes x", "timm takes x", "copies of the map"]
    print(f"\ncSE alone, forward and backward\n\n{markdown(header, rows)}", flush=True)


def memory_table() -> None:
    """Most memory that was there at once beyond what was there before, in maps, from torch's own allocator."""
    rows = []
    for name, peer in scse_peers().items():
        x = feature_map(BATCH, CHANNELS, 128, 128, last=True).requires_grad_()
        grad = torch.randn_like(x)
        peer(x).backward(grad)  # gradients of the weights, and what compilers keep, are there from now on
        x.grad = None
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as forward:
            output = peer(x)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as backward:
            output.backward(grad)
        del output
        rows.append([name, *(f"{_peak(of) / x.nbytes:.3f}" for of in (forward, backward)), f"{_kept(forward, x):.3f}"])
    header = ["block", "forward, peak", "backward, peak", "kept between them"]
    print(f"\nMemory beyond input and output gradient, in maps\n\n{markdown(header, rows)}", flush=True)


def _changes(run: profile) -> list[int]:
    events = [event for event in run.profiler.kineto_results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def _peak(run: profile) -> int:
    there = most = 0
    for change in _changes(run):
        there += change
        most = max(most, there)
    return most


def _kept(run: profile, x: Tensor) -> float:
    return sum(_changes(run)) / x.nbytes


def _size(x: Tensor, last: bool) -> str:
    return f"{' x '.join(map(str, x.shape))}, {'channels-last' if last else 'contiguous'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--default", action="store_true", help="leave glibc's allocator as it is")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    if not arguments.default:
        keep_large_blocks()
    print(machine())
    allocator = "as it is" if arguments.default else "as in the commands of scse"
    print(f"blocks run on {describe_backend()}; allocator {allocator}")
    time_tables(arguments.rounds)
    volume_table(arguments.rounds)
    channel_table(arguments.rounds)
    memory_table()


if __name__ == "__main__":
    main()
