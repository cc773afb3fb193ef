"""What the training loop adds to bare steps, where the time of a run goes, and which way of computing is fastest.

    python benchmarks/training_loop.py

About 4 minutes on 2 cores: `--rounds` and `--steps` bound the first table, `--epochs` the second, `--rounds` the third.
`--only loop|shares|ways` makes one of them. The data are random, with the sizes of the built-in study: a run of the
preset "quick" on 15 + 4 cases of 121 slices of 72 x 80 pixels with 28 classes.

1. Images/s of the loop of `scse train` (it draws and changes its batches, seeds, schedules and draws a progress bar)
   against a plain torch loop over batches that lie ready in memory, with the same network, optimiser, loss and
   precision; chunks of steps in turn.
2. Shares of a whole `train`: its parts are timed in place.
3. A step and a prediction of one batch in either memory format and precision, with fewer threads, and with denormal
   numbers flushed.
"""

import argparse
import io
import itertools
import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from measuring import interleaved, machine, markdown, milliseconds, ratio
from rich.console import Console

from scse.allocator import keep_large_blocks
from scse.cli.console import Watcher
from scse.data.prepared import Prepared
from scse.data.recipe import Recipe
from scse.support.events import Watch
from scse.training import loop, run, setup
from scse.training.batches import Batches
from scse.training.settings import PRESETS, Settings
from scse.training.state import State
from scse.training.task import MONITORED, Task

CASES, SLICES, SIZE, STRUCTURES = 15, 121, (72, 80), 27

Batch = tuple[torch.Tensor, torch.Tensor]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="repetitions of tables 1 and 3")
    parser.add_argument("--steps", type=int, default=30, help="steps of a chunk of table 1")
    parser.add_argument("--epochs", type=int, default=2, help="of the run of table 2")
    parser.add_argument("--variant", default="none", help="none, cse, sse, scse or pe")
    parser.add_argument("--only", choices=TABLES, help="make one table")
    arguments = parser.parse_args()
    keep_large_blocks()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    settings = PRESETS["quick"].model_copy(update={"variant": arguments.variant, "epochs": arguments.epochs})
    print(f"{machine()}; precision {setup.resolve_precision(settings.precision)}, variant {settings.variant}")
    with tempfile.TemporaryDirectory() as folder:
        task = make_task(Path(folder) / "cache")
        for name in [arguments.only] if arguments.only else TABLES:
            print("\n" + TABLES[name](task, settings, arguments))


def make_task(cache: Path) -> Task:
    """Random cases as large as those of the built-in study."""
    rng = np.random.default_rng(0)

    def case(name: str) -> Prepared:
        folder = cache / name
        folder.mkdir(parents=True)
        np.save(folder / "images.npy", rng.standard_normal((SLICES, 1, *SIZE), np.float32))
        np.save(folder / "labels.npy", rng.integers(STRUCTURES + 1, size=(SLICES, *SIZE), dtype=np.uint8))
        return Prepared(name, folder)

    cases = [case(str(number)) for number in range(CASES + MONITORED)]
    recipe = Recipe(view="coronal", spacing=None, patch=SIZE, channels=1)
    return Task(cases[:CASES], cases[CASES:], recipe, {str(value): value for value in range(1, STRUCTURES + 1)})


# Table 1


def loop_table(task: Task, settings: Settings, arguments: argparse.Namespace) -> str:
    """The loop of `scse train` and a bare one."""
    steps = arguments.steps
    # the schedule is to last to the end
    settings = settings.model_copy(update={"epochs": 1 + (arguments.rounds + 1) * steps})
    with Watcher(Console(file=io.StringIO(), force_terminal=True)) as show:
        actions = {"bare": bare_chunk(task, settings, steps), "loop": loop_chunk(task, settings, steps, show)}
        seconds = interleaved(actions, rounds=arguments.rounds)
    images = steps * settings.batch_size
    rows = [
        (name, f"{images / np.median(taken):.0f}", f"{ratio(seconds, 'bare', name):.3f}")
        for name, taken in seconds.items()
    ]
    return markdown(["loop", "images/s", "speed to bare"], rows)


def bare_chunk(task: Task, settings: Settings, steps: int) -> Callable[[], None]:
    """A plain torch loop over batches in memory."""
    drawn = setup.make_batches(task, settings.model_copy(update={"augment": False})).epoch(0)
    ready = [(to_channels_last(images), labels) for images, labels in itertools.islice(drawn, steps)]
    state, loss = setup.new_state(task, settings, steps=1), setup.make_loss(task, settings)
    state.network.train()
    bf16 = setup.resolve_precision(settings.precision) == "bf16"

    def chunk() -> None:
        for images, labels in itertools.islice(itertools.cycle(ready), steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = state.network(images)
            loss(logits.float(), labels).backward()
            state.optimizer.step()
            state.optimizer.zero_grad()

    return chunk


def loop_chunk(task: Task, settings: Settings, steps: int, show: Watcher) -> Callable[[], None]:
    """`fit`, stopped after so many steps and gone on with at the next call."""
    fabric, batches = setup.new_fabric(settings), setup.make_batches(task, settings)
    state, loss = setup.new_state(task, settings, steps=len(batches)), setup.make_loss(task, settings)
    state.network, state.optimizer = fabric.setup(state.network, state.optimizer)

    def chunk() -> None:
        asked = itertools.count(1)
        loop.fit(
            state,
            batches,
            loss,
            fabric=fabric,
            epochs=settings.epochs,
            validate=lambda: 0.0,
            log=lambda epoch: None,
            checkpoint=lambda: None,
            watch=Watch(show, stop=lambda: next(asked) == steps),
        )

    return chunk


def to_channels_last(images: torch.Tensor) -> torch.Tensor:
    """The same images with their channels innermost in memory."""
    return images.contiguous(memory_format=torch.channels_last)


# Table 2


def shares_table(task: Task, settings: Settings, _: argparse.Namespace) -> str:
    """Where the time of a run goes: with the preset's epochs, and with epochs of a few slices."""
    sizes = {"all": settings, "200": settings.model_copy(update={"slices_per_epoch": 200})}
    shares = {f"slices an epoch: {name}": shares_of(task, chosen) for name, chosen in sizes.items()}
    parts = list(next(iter(shares.values())))
    rows = [(part, *(f"{100 * found[part]:.1f} %" for found in shares.values())) for part in parts]
    return markdown(["part of a run", *shares], rows)


def shares_of(task: Task, settings: Settings) -> dict[str, float]:
    """Part of a run -> its share of the run's time."""
    seconds: dict[str, float] = defaultdict(float)
    parts = [
        ("draw and change batches", Batches, "_batch"),
        ("step", loop, "train_step"),
        ("validation", run, "held_out_dice"),
        ("checkpoint", State, "save"),
    ]
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        for part, owner, name in parts:
            stack.enter_context(patch.object(owner, name, timed(part, getattr(owner, name), seconds)))
        show = stack.enter_context(Watcher(Console(file=io.StringIO(), force_terminal=True)))
        open_log = run.open_log

        @contextmanager
        def open_timed_log(*given: Any) -> Iterator[Callable[..., Any]]:
            with open_log(*given) as log:
                yield timed("logs and progress bar", log, seconds)

        stack.enter_context(patch.object(run, "open_log", open_timed_log))
        began = time.perf_counter()
        run.train(task, settings, Path(folder), on_event=timed("logs and progress bar", show, seconds))
        total = time.perf_counter() - began
    seconds["all else"] = total - sum(seconds.values())
    return {part: taken / total for part, taken in seconds.items()}


def timed(part: str, function: Callable[..., Any], seconds: dict[str, float]) -> Callable[..., Any]:
    """The function, its time added to `seconds`."""

    @wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            seconds[part] += time.perf_counter() - began

    return call


# Table 3


def ways_table(task: Task, settings: Settings, arguments: argparse.Namespace) -> str:
    """Memory formats, precisions, threads and denormal numbers."""
    threads = torch.get_num_threads()
    ways: dict[str, dict[str, Any]] = {
        "float32, contiguous": {"channels_last": False, "bf16": False},
        "float32, channels-last": {"channels_last": True, "bf16": False},
        "bfloat16, contiguous": {"channels_last": False, "bf16": True},
        "bfloat16, channels-last": {"channels_last": True, "bf16": True},
    }
    base = ways["bfloat16, channels-last" if setup.resolve_precision("auto") == "bf16" else "float32, channels-last"]
    ways |= {f"as chosen, {count} thread(s)": {**base, "threads": count} for count in {1, threads // 2} - {0, threads}}
    ways["as chosen, denormals flushed"] = {**base, "flush": True}
    made = {
        name: Way(task, settings, **{"threads": threads, "flush": False, **options}) for name, options in ways.items()
    }
    steps = interleaved({name: way.step for name, way in made.items()}, rounds=arguments.rounds)
    predictions = interleaved({name: way.predict for name, way in made.items()}, rounds=arguments.rounds)
    chosen = next(name for name, options in ways.items() if options is base)
    header = ["way", "step (ms)", "to chosen", "prediction (ms)", "to chosen"]
    rows = [(name, *cells(steps, name, chosen), *cells(predictions, name, chosen)) for name in ways]
    return f"Chosen: {chosen}, {threads} threads.\n\n{markdown(header, rows)}"


def cells(seconds: Mapping[str, Any], name: str, chosen: str) -> Sequence[str]:
    """Median time and ratio to the chosen way."""
    return f"{milliseconds(seconds[name]):.1f}", f"{ratio(seconds, name, chosen):.2f}"


class Way:
    """A step and a prediction of one batch, computed in one way."""

    def __init__(
        self, task: Task, settings: Settings, *, channels_last: bool, bf16: bool, threads: int, flush: bool
    ) -> None:
        images, self.labels = next(setup.make_batches(task, settings).epoch(0))
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.images = images.contiguous(memory_format=layout)
        self.state = setup.new_state(task, settings, steps=1)
        self.state.network.to(memory_format=layout)
        self.loss = setup.make_loss(task, settings)
        self.bf16, self.threads, self.flush = bf16, threads, flush

    def step(self) -> None:
        """Forward, backward and optimiser."""
        self.state.network.train()
        with self.way():
            self.loss(self.logits(), self.labels).backward()
            self.state.optimizer.step()
            self.state.optimizer.zero_grad()

    def predict(self) -> None:
        """Classes of the batch."""
        self.state.network.eval()
        with self.way(), torch.inference_mode():
            self.logits().argmax(1)

    def logits(self) -> torch.Tensor:
        """Of the batch, (N, classes, height, width) float32."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits: torch.Tensor = self.state.network(self.images)
        return logits.float()

    @contextmanager
    def way(self) -> Iterator[None]:
        """Set threads and denormal numbers for a while."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        torch.set_flush_denormal(self.flush)
        try:
            yield
        finally:
            torch.set_num_threads(before)
            torch.set_flush_denormal(False)


TABLES: dict[str, Callable[[Task, Settings, argparse.Namespace], str]] = {
    "loop": loop_table,
    "shares": shares_table,
    "ways": ways_table,
}


if __name__ == "__main__":
    main()
