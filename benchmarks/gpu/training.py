"""The training loop on a GPU: is it right, and how fast is it beside a bare loop?

    python benchmarks/gpu/training.py                  # checks, then speed; about 90 s
    python benchmarks/gpu/training.py --only speed --graph false
    python benchmarks/gpu/training.py --tiny           # small sizes, for a machine without a GPU

Checks print PASS or FAIL with what was measured, and the exit code is 1 if one failed. The speed is in images/s, the
median over chunks of steps, for the presets quick and paper, plain and with scSE, on random data of the size of MALC
(15 cases of 150 slices of 168 x 176 pixels, 28 classes). The bare loop has the same network, optimiser, loss and
precision; its data lie on the GPU, and drawing, augmentation, forward and backward pass are one CUDA graph.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from scse.data.prepared import Prepared
from scse.data.recipe import Recipe
from scse.support.events import EpochDone, Stage, StepDone, StoppedError, Watch
from scse.training import loop, run, setup
from scse.training.arithmetic import arithmetic
from scse.training.augmentation import Augmentation
from scse.training.batches import Batches
from scse.training.resident import OnDevice, Resident, Streamed
from scse.training.settings import PRESETS, STRENGTHS, Settings
from scse.training.state import Clock, State
from scse.training.task import Task

VARIANTS = ("none", "scse")
CHUNK = 20
"""Steps of a chunk: two reports of the loop."""


@dataclass(frozen=True)
class Sizes:
    """How large the data and networks are."""

    cases: int
    slices: int
    pixels: tuple[int, int]
    structures: int
    network: dict[str, Any]


MALC = Sizes(15, 150, (168, 176), 27, {})
TINY = Sizes(3, 12, (24, 20), 3, {"width": 4, "depth": 2, "kernel_size": 3})


def main() -> None:
    """Print checks and speeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("checks", "speed"), help="leave the other part out")
    parser.add_argument("--tiny", action="store_true", help="small data and networks")
    parser.add_argument("--graph", choices=("true", "false"), default="true", help="of the loop of scse train")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement of speed")
    arguments = parser.parse_args()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    sizes = TINY if arguments.tiny else MALC
    began, right = time.perf_counter(), True
    device = setup.new_fabric(PRESETS["quick"]).device
    print(f"{torch.cuda.get_device_name() if device.type == 'cuda' else device}, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        small = make_task(Path(folder) / "small", Sizes(4, 30, (72, 80), 5, {}))
        if arguments.only != "speed":
            right = checks(small, Path(folder), device)
        if arguments.only != "checks":
            task = make_task(Path(folder) / "cache", sizes)
            speed(task, sizes, graph=arguments.graph == "true", seconds=arguments.seconds)
        if arguments.only != "speed":  # last, because what fails here could spoil the rest
            name = "a network whose recording fails is trained without a graph"
            right = check(name, lambda: falls_back(small, "device")) and right
    print(f"{time.perf_counter() - began:.0f} s in all")
    sys.exit(not right)


def make_task(cache: Path, sizes: Sizes) -> Task:
    """Random cases: blocks of the classes, whose brightness tells them apart, and noise."""
    rng = np.random.default_rng(0)

    def case(name: str) -> Prepared:
        folder = cache / name
        folder.mkdir(parents=True)
        coarse = [-(-side // 8) for side in sizes.pixels]
        blocks = rng.integers(sizes.structures + 1, size=(sizes.slices, *coarse), dtype=np.uint8)
        labels = blocks.repeat(8, 1).repeat(8, 2)[:, : sizes.pixels[0], : sizes.pixels[1]]
        noise = rng.standard_normal(labels.shape, np.float32)
        images = labels * np.float32(2 / sizes.structures) - 1 + 0.1 * noise
        np.save(folder / "images.npy", images[:, None])
        np.save(folder / "labels.npy", labels)
        return Prepared(name, folder)

    cases = [case(str(number)) for number in range(sizes.cases + 1)]
    recipe = Recipe(view="coronal", spacing=None, patch=sizes.pixels, channels=1)
    structures = {str(value): value for value in range(1, sizes.structures + 1)}
    return Task(cases[:-1], cases[-1:], recipe, structures)


# Speed


def speed(task: Task, sizes: Sizes, *, graph: bool, seconds: float) -> None:
    """Print the table of speeds."""
    print("\n| preset | variant | bare (images/s) | scse train (images/s) | ratio | as a graph | GPU memory (GiB) |")
    print("|---|---|---:|---:|---:|---|---:|")
    for preset in ("quick", "paper"):
        for variant in VARIANTS:
            settings = Settings(**{**PRESETS[preset].model_dump(), **sizes.network, "variant": variant, "epochs": 999})
            bare = np.median(bare_rates(task, settings, seconds))
            own, recorded = product_rates(task, settings, seconds, graph=graph)
            ours = np.median(own)
            memory = torch.cuda.max_memory_reserved() / 2**30 if torch.cuda.is_available() else 0.0
            print(
                f"| {preset} | {variant} | {bare:.0f} | {ours:.0f} | {ours / bare:.2f} | {recorded} | {memory:.1f} |",
                flush=True,
            )
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()


def bare_rates(task: Task, settings: Settings, seconds: float) -> list[float]:
    """Images/s of chunks of a plain loop."""
    fabric = setup.new_fabric(settings)
    with arithmetic(fabric.device, deterministic=False):
        return _bare_rates(task, settings, seconds, fabric.device)


def _bare_rates(task: Task, settings: Settings, seconds: float, device: torch.device) -> list[float]:
    on_card = device.type == "cuda"
    state = setup.new_state(task, settings, steps=1000, fused=on_card)
    network, loss, count = (
        state.network.to(device).train(),
        setup.make_loss(task, settings).to(device),
        settings.batch_size,
    )
    images = torch.cat([torch.from_numpy(np.array(case.images())) for case in task.training]).to(device)
    labels = torch.cat([torch.from_numpy(np.array(case.labels())) for case in task.training]).to(device)
    order = torch.randperm(len(images), device=device)
    chosen = order[:count].clone()
    bf16 = setup.resolve_precision(settings.precision) == "bf16"

    def work() -> None:
        inputs, classes = images[chosen], labels[chosen].long()
        if settings.augment:
            inputs, classes = bare_augmentation(inputs, classes)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = network(inputs.contiguous(memory_format=torch.channels_last))
        loss(logits.float(), classes).backward()
        loop.align_gradients(network)

    replay = bare_graph(work, network) if on_card else lambda: (network.zero_grad(), work())
    rates: list[float] = []
    steps, began = 0, time.perf_counter()
    while sum(CHUNK * count / rate for rate in rates) < seconds:
        for _ in range(CHUNK):
            first = steps * count % (len(order) - count)
            chosen.copy_(order[first : first + count])
            replay()
            state.optimizer.step()
            state.schedule.step()
            steps += 1
        synchronise()
        ended = time.perf_counter()
        rates.append(CHUNK * count / (ended - began))
        began = ended
    return rates[1:] or rates


def bare_graph(work: Callable[[], None], network: nn.Module) -> Callable[[], None]:
    """The work as a CUDA graph."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            network.zero_grad()
            work()
        network.zero_grad()
    with torch.cuda.graph(graph, stream=stream):
        work()
    return graph.replay


def bare_augmentation(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The changes of the preset quick, with numbers drawn on the device."""
    count = len(images)

    def uniform(most: float, middle: float = 0.0) -> Tensor:
        return torch.empty(count, device=images.device).uniform_(middle - most, middle + most)

    angle, scale = uniform(np.deg2rad(10)), uniform(0.1, 1.0)
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    rows = torch.stack([cos, sin, uniform(0.1)], -1), torch.stack([-sin, cos, uniform(0.1)], -1)
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    options: dict[str, Any] = {"padding_mode": "border", "align_corners": False}
    images = F.grid_sample(images, grid, mode="bilinear", **options)
    labels = F.grid_sample(labels[:, None].float(), grid, mode="nearest", **options)[:, 0].long()
    return images * uniform(0.1, 1.0)[:, None, None, None] + uniform(0.1)[:, None, None, None], labels


def product_rates(task: Task, settings: Settings, seconds: float, *, graph: bool) -> tuple[list[float], str]:
    """Images/s of chunks of `fit`, and whether its steps were a graph."""
    fabric = setup.new_fabric(settings)
    with arithmetic(fabric.device, deterministic=False):
        batches = setup.make_batches(task, settings)
        state = setup.new_state(task, settings, steps=len(batches), fused=fabric.device.type == "cuda")
        loss = fabric.to_device(setup.make_loss(task, settings))
        state.network, state.optimizer = fabric.setup(state.network, state.optimizer)
        steps: list[tuple[int, float]] = []
        problems: list[str] = []

        def note(event: object) -> None:
            if isinstance(event, StepDone):
                steps.append(((event.epoch - 1) * event.steps + event.step, time.perf_counter()))
            if isinstance(event, Stage):
                problems.append(event.what)

        fit(
            state,
            batches,
            loss,
            fabric,
            graph=graph,
            epochs=settings.epochs,
            watch=Watch(note, stop=lambda: late(steps, seconds)),
        )
    places = [0]
    for place, (step, _) in enumerate(steps):
        if step - steps[places[-1]][0] >= CHUNK:
            places.append(place)
    rates = [
        (steps[b][0] - steps[a][0]) * batches.batch_size / (steps[b][1] - steps[a][1]) for a, b in pairwise(places[1:])
    ]
    on_card = fabric.device.type == "cuda"
    return rates, "; ".join(problems) or ("yes" if graph and on_card else "no")


def late(steps: Sequence[tuple[int, float]], seconds: float) -> bool:
    """Whether so much time has passed since the second chunk, and enough chunks with it."""
    return len(steps) > 0 and steps[-1][0] >= 5 * CHUNK and steps[-1][1] - steps[0][1] > seconds


def fit(
    state: State, batches: Batches, loss: nn.Module, fabric: Fabric, *, graph: bool, epochs: int, watch: Watch
) -> list[float]:
    """The loop of `scse train` without validation, log and checkpoint; returns the losses of the epochs."""
    losses: list[float] = []
    loop.fit(
        state,
        batches,
        loss,
        fabric=fabric,
        epochs=epochs,
        validate=lambda: 0.0,
        log=lambda epoch: losses.append(epoch.loss),
        checkpoint=lambda: None,
        watch=watch,
        graph=graph,
    )
    return losses


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# Checks


def checks(task: Task, folder: Path, device: torch.device) -> bool:
    """Print all checks but the last; returns whether they passed."""
    found = [
        check(f"batches, {kind.__name__.lower()}, {name}", lambda k=kind, r=ranges: same_batches(task, k, r, device))
        for kind in (Resident, Streamed)
        for name, ranges in CHANGES.items()
    ]
    found += [
        check("a graph's steps are eager steps", lambda: same_steps(task, dropout=False)),
        check("a graph's steps are eager steps, with dropout", lambda: same_steps(task, dropout=True)),
        check("a network that looks at a value is trained without a graph", lambda: falls_back(task, "value")),
        *(check(f"deterministic, {name}", lambda v=name: repeats(task, folder / v, v)) for name in VARIANTS),
        check("not deterministic: resumed", lambda: resumes(task, folder / "resumed")),
        check("scse train", lambda: whole(folder)),
    ]
    return all(found)


def check(name: str, measure: Callable[[], tuple[bool, str]]) -> bool:
    """Print whether a check passed."""
    began = time.perf_counter()
    try:
        passed, text = measure()
    except Exception as error:  # the other checks are still worth their time
        passed, text = False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    print(f"{'PASS' if passed else 'FAIL'} {name}: {text} [{time.perf_counter() - began:.1f} s]", flush=True)
    return passed


_LIGHT = {name: getattr(Settings(), name) for name in ("rotation", "scaling", "shift", "gain", "offset")}
CHANGES: dict[str, Augmentation | None] = {
    "unchanged": None,
    "light": Augmentation(**_LIGHT),
    # without noise, which each device draws in its own way
    "strong": Augmentation(**{k: v for k, v in STRENGTHS["strong"].items() if k not in ("noise", "mirror")}),
}


def same_batches(
    task: Task, kind: Callable[[Batches, torch.device], OnDevice], ranges: Augmentation | None, device: torch.device
) -> tuple[bool, str]:
    """Batches of the device beside those of the CPU."""
    options: dict[str, Any] = {"patch": (64, 72), "batch_size": 8, "limit": None, "seed": 3, "foreground": 0.5}
    wanted = Batches(task.training, augmentation=ranges, **options)
    found = kind(Batches(task.training, augmentation=ranges, **options), device)
    far, other = [], []
    for sent, (images, labels) in zip(found.epoch(1), wanted.epoch(1), strict=True):
        made, classes = found.pixels(*found.moved(sent))
        far.append((made.cpu() - images).abs().max().item())
        other.append((classes.cpu() != labels).float().mean().item())
    passed = max(far) < 2e-2 and max(other) < 1e-3
    if ranges is None:
        passed = max(far) == max(other) == 0
    return passed, f"images differ by {max(far):.1e} at most, labels in {max(other):.1e} of the pixels"


class Plain(nn.Module):
    """Two convolutions, with dropout between them, and a look at a value ("value") or a wait for the GPU ("device")."""

    def __init__(self, classes: int, *, dropout: float = 0.0, waits: str = "") -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.drop, self.last, self.waits = nn.Dropout(dropout), nn.Conv2d(8, classes, 1), waits

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        x = self.drop(self.norm(self.first(x)).relu())
        if self.waits == "value" and x.mean().item() < 0:
            x = -x
        if self.waits == "device":
            synchronise()
        logits: Tensor = self.last(x)
        return logits


SMALL: dict[str, Any] = {"width": 8, "depth": 2, "epochs": 2, "slices_per_epoch": 80, "precision": "bf16"}


def trained(
    task: Task, settings: Settings, network: Callable[[], nn.Module] | None, *, graph: bool
) -> tuple[list[float], dict[str, Tensor], list[str]]:
    """Losses of 20 steps by epoch, the weights and buffers after them, and messages."""
    fabric = setup.new_fabric(settings)
    messages: list[str] = []
    with arithmetic(fabric.device, deterministic=True):
        batches = setup.make_batches(task, settings)
        state = setup.new_state(task, settings, steps=len(batches), fused=fabric.device.type == "cuda")
        if network is not None:
            torch.manual_seed(0)
            own = network()
            optimizer = torch.optim.SGD(own.parameters(), lr=0.05, momentum=0.9)
            state = State(own, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1000), Clock())
        plain = state.network
        loss = fabric.to_device(setup.make_loss(task, settings))
        state.network, state.optimizer = fabric.setup(state.network, state.optimizer)
        watch = Watch(lambda event: messages.append(event.what) if isinstance(event, Stage) else None)
        losses = fit(state, batches, loss, fabric, graph=graph, epochs=settings.epochs, watch=watch)
    return losses, {name: value.cpu() for name, value in plain.state_dict().items()}, messages


def same_steps(task: Task, *, dropout: bool) -> tuple[bool, str]:
    """20 steps as a graph beside 20 eager ones."""
    network = (lambda: Plain(task.scheme.outputs, dropout=0.5)) if dropout else None
    settings = Settings(**SMALL, variant="scse")
    (eager, weights, _), (graphed, others, messages) = (
        trained(task, settings, network, graph=graph) for graph in (False, True)
    )
    far = max(abs(a / b - 1) for a, b in zip(eager, graphed, strict=True))
    equal = all(torch.equal(weights[name], others[name]) for name in weights)
    text = f"losses of two epochs {eager} and {graphed}, bit-equal weights: {'yes' if equal else 'no'}"
    return far < 1e-3 and not messages, "; ".join([text, *messages])


def falls_back(task: Task, waits: str) -> tuple[bool, str]:
    """A network that waits for the device: the same losses as eager ones, and a message."""

    def network() -> nn.Module:
        return Plain(task.scheme.outputs, dropout=0.5, waits=waits)

    (eager, _, _), (found, _, messages) = (
        trained(task, Settings(**SMALL), network, graph=graph) for graph in (False, True)
    )
    return eager == found and len(messages) == torch.cuda.is_available(), f"{eager} and {found}; {'; '.join(messages)}"


def repeats(task: Task, folder: Path, variant: str) -> tuple[bool, str]:
    """Two deterministic runs, and one that was stopped and resumed."""
    settings = Settings(**{**SMALL, "width": 16, "variant": variant, "deterministic": True})
    files = [run_in(task, settings, folder / name, stop) for name, stop in (("a", 0), ("b", 0), ("c", 13))]
    same = [file == files[0] for file in files]
    return all(same), f"weights bit-equal: a second run {same[1]}, a run that was stopped at step 13 {same[2]}"


def resumes(task: Task, folder: Path) -> tuple[bool, str]:
    """A run that was stopped and resumed comes near the same loss."""
    settings = Settings(**SMALL)
    for name, stop in (("a", 0), ("c", 13)):
        run_in(task, settings, folder / name, stop)
    losses = [json.loads((folder / name / "log.jsonl").read_text().splitlines()[-1])["loss"] for name in ("a", "c")]
    return abs(losses[0] / losses[1] - 1) < 2e-2, f"losses of the last epoch {losses[0]:.5f} and {losses[1]:.5f}"


def run_in(task: Task, settings: Settings, folder: Path, stop: int) -> bytes:
    """Train in a folder, stopped once after so many steps (0: not at all); returns the weights' file."""
    asked = iter(range(1, 10**6))
    if stop:
        with suppress(StoppedError):
            run.train(task, settings, folder, stop=lambda: next(asked) == stop)
    run.train(task, settings, folder)
    return (folder / "segmenter" / "weights.safetensors").read_bytes()


def whole(folder: Path) -> tuple[bool, str]:
    """From a folder of scans to a segmenter that predicts."""
    data = write_scans(folder / "scans")
    epochs: list[EpochDone] = []
    segmenter = run.train_on(
        data,
        out=folder / "run",
        settings={"width": 8, "epochs": 4, "learning_rate": 0.02, "variant": "scse", "batch_size": 4},
        cache=folder / "scans-cache",
        on_event=lambda event: epochs.append(event) if isinstance(event, EpochDone) else None,
    )
    predicted = np.asarray(segmenter.predict(data / "imagesTs" / "t0_0000.nii.gz").dataobj)
    reference = np.asarray(nibabel.load(data / "labelsTs" / "t0.nii.gz").dataobj)
    dice = 2 * ((predicted == 1) & (reference == 1)).sum() / ((predicted == 1).sum() + (reference == 1).sum())
    losses = [epoch.loss for epoch in epochs]
    passed = losses[-1] < losses[0] and epochs[-1].dice > 0.5 and dice > 0.5
    return bool(passed), f"losses {losses}, Dice {epochs[-1].dice:.2f} in validation and {dice:.2f} in prediction"


def write_scans(folder: Path) -> Path:
    """A data set of bright boxes in nnU-Net's layout."""
    rng = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / part).mkdir(parents=True)
    for name, part in (("c0", "Tr"), ("c1", "Tr"), ("c2", "Tr"), ("t0", "Ts")):
        label = np.zeros((28, 26, 24), np.uint8)
        x, y, z = rng.integers(4, 10, 3)
        label[x : x + 12, y : y + 12, z : z + 12] = 1
        scan = (100 * label + 10 * rng.standard_normal(label.shape)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(scan, np.eye(4)), folder / f"images{part}" / f"{name}_0000.nii.gz")
        nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), folder / f"labels{part}" / f"{name}.nii.gz")
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "box": 1},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


if __name__ == "__main__":
    main()
