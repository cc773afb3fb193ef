"""Commands that train: study, train."""

import shlex
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from scse.cli.options import Track, takes
from scse.cli.printing import INTERRUPTED, SAME, console, say
from scse.studies.request import StudyRequest
from scse.training.request import TrainRequest
from scse.vocabulary.variants import Variant

APART = 2.0  # seconds between two signals of people: torchrun repeats those that the terminal sent to all processes
DEFAULT_VARIANT = "scse"
BRAIN = (
    "scse train --simulate 1 --spacing 1.5 --epochs 30 --variant none -o brain, then "
    "scse predict -m brain SCAN -o labels"
)


@takes(StudyRequest)
def study(fields: dict[str, Any], track: Track = "tensorboard") -> None:
    """Train and compare plain, +cSE, +sSE and +scSE networks on the same cases, and report which won.

    Called again with the same arguments, it skips finished runs and continues interrupted ones.
    """
    from scse.reports.page import table_text
    from scse.studies.runner import run_study

    request = StudyRequest.make(fields)
    command = request.as_command()
    result = _watched(lambda watch: run_study(request, watch, command=command), request.out, track, again=lambda: SAME)
    console().print(table_text(result.comparison))
    say(result)
    say(f"report: {result.report}")
    if request.dataset is None:
        say(f"To segment your own T1 scan without skull: {BRAIN}; with skull, add --set skull=true to the training")


@takes(TrainRequest, variant=DEFAULT_VARIANT)
def train(
    fields: dict[str, Any],
    resume: Annotated[
        Path | None,
        typer.Option(help="Continue the interrupted run in this folder; name a network FILE.py:FUNCTION again."),
    ] = None,
    track: Track = "tensorboard",
) -> None:
    """Train one segmenter on a data set, or continue an interrupted run."""
    from scse.training import run as training
    from scse.training.ranks import Ranks
    from scse.zoo.catalogue import read_network

    if bool({"dataset", "source", "simulate"} & fields.keys()) == (resume is not None):
        wanted = "the folder of a data set, --from with an image and its label map, --simulate 1 for the built-in atlas"
        raise typer.BadParameter(f"give either {wanted}, or --resume with the folder of a run")
    if resume is not None and (others := fields.keys() - {"network", "device", "devices", "nodes"}):
        raise typer.BadParameter(f"--resume uses the run's own settings; leave out {', '.join(sorted(others))}")
    network, device = fields.get("network"), fields.get("device", "auto")
    devices, nodes = fields.get("devices"), fields.get("nodes")
    run: Callable[[Any], Any]
    if resume is None:
        request = TrainRequest.make(fields)
        if "variant" not in {*fields, *request.settings}:
            request = request.model_copy(update={"variant": Variant(DEFAULT_VARIANT)})
        folder, run = request.out, partial(training.run_training, request)
    else:
        options = {"network": network, "device": device, "devices": devices, "nodes": nodes}
        folder, run = resume, partial(training.run_again, resume, **options)

    def again() -> str:
        # stopped while it reads or prepares the data, there is no run to resume yet
        resumable = (folder / training.CHECKPOINT).exists()
        named = ["--network", network] if network is not None and read_network(network).is_file else []
        given = [
            ("--device", device, "auto"),
            ("--devices", devices, None),
            ("--nodes", nodes, None),
            ("--track", track, "tensorboard"),
        ]
        others = [word for flag, value, default in given if value != default for word in (flag, str(value))]
        return shlex.join(["scse", "train", "--resume", str(folder), *named, *others]) if resumable else SAME

    ranks = Ranks.of(devices, nodes)
    if not ranks.first:
        _silently(run)
        return
    _watched(run, folder, track, again=again, apart=0 if ranks.alone else APART)
    say(f"segmenter: {folder / 'segmenter'}")


def _silently(run: Callable[[Any], Any]) -> None:
    """Run in one of several processes that train together, of which the first reports; a stop ends the command."""
    from rich.console import Console

    from scse.cli.console import stop_on_signal
    from scse.support.events import StoppedError, Watch

    with stop_on_signal(Console(quiet=True), apart=APART) as stop, suppress(StoppedError):
        run(Watch(stop=stop))


def _watched(run: Callable[[Any], Any], folder: Path, track: str, *, again: Callable[[], str], apart: float = 0) -> Any:
    """Run with progress in the terminal, tracking and signals; a stop ends the command with how to continue."""
    from scse.cli.console import Watcher, stop_on_signal
    from scse.studies.tracking import tracked
    from scse.support.events import StoppedError, Watch

    screen = console()
    with stop_on_signal(screen, apart=apart) as stop, Watcher(screen) as watcher:
        try:
            with tracked(track, folder, watcher) as on_event:
                return run(Watch(on_event, stop))
        except StoppedError as stopped:
            message = f"{stopped}\nto continue: {again()}"
    say(message)
    raise typer.Exit(INTERRUPTED)
