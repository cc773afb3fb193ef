"""The command line: one thin command per verb."""

import errno
import os
import shlex
import signal
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from scse.support.errors import UserError

INTERRUPTED = 130  # what shells report for a program ended by Ctrl-C
SAME = "call the same command again"


class _EscapedError(Exception):
    """Carries an EOFError, which libraries raise on empty files too, past typer, which would end with "Aborted."."""


class _Verbs(typer.core.TyperGroup):
    """The verbs; one that is interrupted says so in a line."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb."""
        try:
            return super().invoke(ctx)
        except EOFError as error:
            raise _EscapedError from error
        except KeyboardInterrupt:
            raise typer.Exit(_interrupted()) from None


app = typer.Typer(
    cls=_Verbs,
    help="Squeeze & excitation for segmentation: train, compare, predict.",
    no_args_is_help=True,
    rich_markup_mode="markdown",  # in "rich" mode, what stands in brackets would vanish
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Make data.", no_args_is_help=True)
app.add_typer(data_app, name="data")

FILE_WIDTH = 160
"""Characters of a line where the output goes to a file or another program, which wraps lines itself or not at all."""

BUG = "This is a bug of scse. Please report it with this traceback, the command and the output of `scse doctor`."

NETWORK_HELP = (
    "unet, sdnet, densenet, smp:CLASS, monai:CLASS or FILE.py:FUNCTION, options as smp:Unet[encoder_name=resnet18]."
)

Data = Annotated[Path, typer.Argument(help="Folder of a data set: nnU-Net v2, MSD, or images/ and masks/.")]
Preset = Annotated[str, typer.Option(help="quick (for CPUs) or paper (as published; wants a GPU).")]
View = Annotated[str | None, typer.Option(help="Plane of the slices: coronal, axial or sagittal [from the data].")]
Spacing = Annotated[float | None, typer.Option(help="Millimetres per pixel in the plane [from the data].")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out cases with problems instead of refusing.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace files there that scse did not write, or that were changed since.")
]
Epochs = Annotated[int | None, typer.Option(help="Epochs [from the preset].")]
SweptEpochs = Annotated[
    str | None, typer.Option(help="Epochs; several, as 3,6,12, are compared with each other [from the preset].")
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other training setting.")]
AttachTo = Annotated[
    str, typer.Option(help="Where networks that are not scse's own get their blocks: patterns of modules.")
]
Track = Annotated[
    str, typer.Option(help="Where to log: tensorboard, mlflow (a file in the folder), or mlflow:URI of a server.")
]
Margin = Annotated[
    float | None,
    typer.Option(help="Differences below it do not matter, in units of the metric [0.005 for Dice and its like]."),
]
Folds = Annotated[int | None, typer.Option(help="Cross-validation folds [the data set's own test split].")]


def main() -> None:
    """Run the command line.

    A mistake of the user's or a fault of the machine (a full disk) ends in one message and exit code 1; `--debug` shows
    its traceback. Any other exception is a bug: its traceback is shown, with the request to report it. Ctrl-C ends in
    one line and exit code 130.
    """
    from scse.allocator import keep_large_blocks
    from scse.support.tensorboard_alone import use_monai_alone, use_tensorboard_alone

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal may know fewer letters than names have
            stream.reconfigure(errors="replace")
    keep_large_blocks()  # before anything starts a thread
    # before MONAI is imported
    use_tensorboard_alone()
    use_monai_alone()
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what is under way is cleaned up
    try:
        try:
            code = app(arguments, prog_name="scse")
        finally:
            _flush()
    except KeyboardInterrupt:  # before a verb ran
        code = _interrupted()
    except Exception as error:
        from scse.cli.faults import fault_text

        found = error.__cause__ if isinstance(error, _EscapedError) and error.__cause__ else error
        message = str(found) if isinstance(found, UserError) else fault_text(found)
        if message is None:
            found.add_note(BUG)
        if message is None or len(arguments) < len(sys.argv) - 1:
            raise found from found.__cause__
        _complain("error", message)
        code = 1
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.exit(code)


def _interrupted() -> int:
    """Say that the command was interrupted; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # from here on a further one ends the process at once
    _complain("interrupted", f"to go on, {SAME}")
    return INTERRUPTED


def _flush() -> None:
    """Write what waits to be written to standard output; where that fails, nothing is left to fail once more."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:  # whoever read it had enough
            error.filename = "standard output"
            raise


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    if version:
        from scse import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command()
def study(
    dataset: Annotated[
        Path | None, typer.Argument(help="Folder of a data set [the built-in, simulated cohort].")
    ] = None,
    networks: Annotated[str, typer.Option(help=f"{NETWORK_HELP} Several are separated by commas.")] = "unet",
    variants: Annotated[
        str, typer.Option(help="Of none, cse, sse, scse, with options as scse[reduction=4,aggregation=max].")
    ] = "none,cse,sse,scse",
    reductions: Annotated[
        str | None, typer.Option(help="Values of r, as 2,4,8,16; every variant that has it is run with each.")
    ] = None,
    aggregations: Annotated[str | None, typer.Option(help="Of add, max, multiply; scse is run with each.")] = None,
    placements: Annotated[
        str | None,
        typer.Option(help="Of encoder, decoder, both, +bottleneck (both and it); every variant is run with each."),
    ] = None,
    attach_to: AttachTo = "auto",
    seeds: Annotated[int, typer.Option(help="Trainings of each variant; a verdict needs 3 or more.")] = 3,
    control: Annotated[
        bool, typer.Option("--control", help="Train plain with as many further seeds, and compare it with itself.")
    ] = False,
    margin: Margin = None,
    folds: Folds = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the study.")] = Path("scse-study"),
    preset: Preset = "quick",
    epochs: SweptEpochs = None,
    train_cases: Annotated[
        str | None, typer.Option(help="Numbers of training cases to compare, as 3,6,15 [all of them, once].")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time for everything, as 2h or 1h30m: fits the epochs, equally for all runs.")
    ] = None,
    spacing: Spacing = None,
    view: View = None,
    set_: Set = None,
    skip_bad: SkipBad = False,
    track: Track = "tensorboard",
    note: Annotated[list[str] | None, typer.Option(help="A caveat for the report; may be repeated.")] = None,
) -> None:
    """Train and compare plain, +cSE, +sSE and +scSE networks on the same cases, and report which won.

    Called again with the same arguments, it skips finished runs and goes on with interrupted ones.
    """
    from scse.reports.page import table_text
    from scse.studies.runner import study as run_study
    from scse.vocabulary.grammar import split_names

    def run(watch: Any, stop: Any) -> Any:
        return run_study(
            dataset,
            networks=split_names(networks),
            variants=split_names(variants),
            reductions=_numbers("--reductions", reductions),
            aggregations=_words(aggregations),
            placements=_words(placements),
            attach_to=attach_to,
            seeds=seeds,
            control=control,
            margin=margin,
            folds=folds,
            out=out,
            preset=preset,
            epochs=_numbers("--epochs", epochs),
            train_cases=_numbers("--train-cases", train_cases),
            budget=budget,
            settings=_settings(set_, epochs=None),
            view=view,  # type: ignore[arg-type] # the recipe checks it
            spacing=spacing,
            skip_bad=skip_bad,
            notes=note or [],
            on_event=watch,
            stop=stop,
        )

    result = _watched(run, out, track, again=lambda: SAME)
    _console().print(table_text(result.comparison))
    _say(result)
    _say(f"report: {result.report}")


@app.command()
def train(
    context: typer.Context,
    dataset: Annotated[Path | None, typer.Argument(help="Folder of a data set.")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the run.")] = Path("scse-run"),
    network: Annotated[str, typer.Option(help=NETWORK_HELP)] = "unet",
    variant: Annotated[
        str, typer.Option(help="none, cse, sse or scse, with options as scse[reduction=4,placement=encoder].")
    ] = "scse",
    attach_to: AttachTo = "auto",
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the interrupted run in this folder; name a network FILE.py:FUNCTION again."),
    ] = None,
    preset: Preset = "quick",
    epochs: Epochs = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    folds: Folds = None,
    fold: Annotated[int, typer.Option(help="Whose test cases are held out and only watched.")] = 0,
    spacing: Spacing = None,
    view: View = None,
    set_: Set = None,
    skip_bad: SkipBad = False,
    track: Track = "tensorboard",
) -> None:
    """Train one segmenter on a data set, or go on with an interrupted run."""
    from scse.training import run as training
    from scse.zoo.catalogue import read_network

    if (dataset is None) == (resume is None):
        raise typer.BadParameter("give either the folder of a data set, or --resume with the folder of a run")
    given = _given(context)
    if resume is not None and (others := given - {"resume", "network", "track"}):
        raise typer.BadParameter(f"--resume goes on with the run's own settings; leave out {', '.join(sorted(others))}")
    again_named = network if "network" in given else None

    def run(watch: Any, stop: Any) -> Any:
        if resume is not None:
            return training.resume(resume, network=again_named, on_event=watch, stop=stop)
        return training.train_on(
            dataset,  # type: ignore[arg-type] # not None here
            out=out,
            preset=preset,
            settings=_settings(set_, epochs=epochs, network=network, variant=variant, attach_to=attach_to, seed=seed),
            fold=fold,
            folds=folds,
            view=view,  # type: ignore[arg-type] # the recipe checks it
            spacing=spacing,
            skip_bad=skip_bad,
            on_event=watch,
            stop=stop,
        )

    folder = resume or out

    def again() -> str:
        # stopped while it reads or prepares the data, there is no run to resume yet
        resumable = (folder / training.CHECKPOINT).exists()
        named = ["--network", network] if read_network(network).is_file else []
        tracking = ["--track", track] if "track" in given else []
        return shlex.join(["scse", "train", "--resume", str(folder), *named, *tracking]) if resumable else SAME

    _watched(run, folder, track, again=again)
    _say(f"segmenter: {folder / 'segmenter'}")


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    model: Annotated[Path, typer.Option("-m", "--model", help="Folder of a segmenter or of a training run.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the label maps.")],
    network: Annotated[
        str | None, typer.Option(help="The model's network, if it is your own FILE.py:FUNCTION.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Slices at a time; fewer need less memory [as memory allows].")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="What runs the network: torch, onnxruntime, openvino, or auto: the fastest that pays.")
    ] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Segment images; each label map has its image's own geometry."""
    from scse.cli.console import Watcher
    from scse.inference.inputs import find_images
    from scse.inference.segmenter import Segmenter

    segmenter = Segmenter.load(model, network=network)
    found = find_images(images, channels=segmenter.recipe.channels)
    segmenter = segmenter.with_engine(engine, images=len(found))
    _say(f"engine: {segmenter.engine}")
    with Watcher(_console()) as watch:
        failed = segmenter.predict_files(
            found, out, batch_size=batch_size, overwrite=overwrite, progress=watch.counter("predict")
        )
    _say(f"{len(found) - len(failed)} label maps written to {out}")
    _end(failed)


@app.command()
def explain(
    model: Annotated[Path, typer.Argument(help="Folder of a segmenter or of a training run.")],
    image: Annotated[list[Path], typer.Argument(help="One image: a file, or the files of its channels.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the gates.")],
    network: Annotated[
        str | None, typer.Option(help="The model's network, if it is your own FILE.py:FUNCTION.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Slices at a time; fewer need less memory [as memory allows].")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Show what each block does to an image: spatial gates laid over it, channel gates as a table and a figure."""
    from scse.cli.console import Watcher, rows_table
    from scse.gates.explaining import explain as run_explain

    with Watcher(_console()) as watch:
        found = run_explain(
            model,
            image,
            out,
            network=network,
            batch_size=batch_size,
            overwrite=overwrite,
            progress=watch.counter("explain"),
        )
    columns = ("block", "identity", "spatial", "min", "max", "channel", "shut")
    _console().print(rows_table(found.rows(), *columns))
    _say(f"{len(found.files)} files written to {out}")


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="Folder of a segmenter or of a training run.")],
    to: Annotated[str, typer.Option(help="keras: a .keras file; saved_model: a SavedModel of TensorFlow.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The file OUT.keras, or a new folder for a SavedModel.")],
    overwrite: Overwrite = False,
) -> None:
    """Write the network of a trained segmenter for Keras 3 or TensorFlow, with its recipe and structures as JSON."""
    from scse.inference.exporting import export as run_export
    from scse.support.keras_backend import quiet_tensorflow

    quiet_tensorflow()
    _say(run_export(model, to, out, overwrite=overwrite))


@app.command()
def attach(
    context: typer.Context,
    network: Annotated[str, typer.Argument(help=NETWORK_HELP)],
    block: Annotated[str, typer.Option(help="cse, sse or scse.")] = "scse",
    to: Annotated[str, typer.Option(help="Where: patterns of modules, or auto.")] = "auto",
    explain: Annotated[bool, typer.Option("--explain", help="List the network's stages and where to attach.")] = False,
    size: Annotated[int, typer.Option(min=1, max=4096, help="Pixels a side of the image that runs through it.")] = 64,
    channels: Annotated[int, typer.Option(min=1, max=1024, help="Channels of the image.")] = 1,
    classes: Annotated[int, typer.Option(min=1, max=255, help="Classes, the background included.")] = 2,
    spatial_dims: Annotated[int, typer.Option(min=2, max=3, help="2 or 3.")] = 2,
) -> None:
    """Show which blocks `attach` puts where in a network, or what there is to attach to; nothing is written."""
    import torch

    from scse.attachment.attaching import attach as place
    from scse.zoo.building import build_plain
    from scse.zoo.building import explain as explain_places
    from scse.zoo.catalogue import read_network

    if explain and (given := _given(context) & {"block", "to"}):
        raise typer.BadParameter(f"--explain places no blocks; leave out {', '.join(sorted(given))}")
    arguments = {"in_channels": channels, "classes": classes, "spatial_dims": spatial_dims}
    model = build_plain(read_network(network), arguments, pretrained=False)
    example = torch.zeros(1, channels, *[size] * spatial_dims)
    try:
        _say(explain_places(model, example) if explain else place(model, block, to=to, example=example))
    except UserError as error:
        raise UserError(f"{network}, --size {size}, --channels {channels}: {error}") from error


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Label map, or folder of label maps.")],
    references: Annotated[Path, typer.Argument(help="Reference label map, or folder of them.")],
    dataset: Annotated[Path | None, typer.Option(help="Data set whose structures are scored [values found].")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for scores.parquet and scores.csv.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Score label maps: Dice, 95 % Hausdorff distance and mean surface distance in mm, per case and structure."""
    from scse.cli.console import rows_table
    from scse.evaluation.scores import evaluate as run_evaluation
    from scse.evaluation.scores import mean_rows, score_paths, write_scores
    from scse.support.outputs import check_outputs, marked

    if out is not None:
        check_outputs(score_paths(out), overwrite=overwrite)
    scores = run_evaluation(predictions, references, dataset=dataset)
    _console().print(rows_table(mean_rows(scores), "structure", "Dice", "HD95 (mm)", "MSD (mm)", "cases"))
    if out is not None:
        with marked(score_paths(out)):
            written = write_scores(scores, out)
        for path in written:
            _say(f"written: {path}")


@app.command()
def compare(
    scores: Annotated[
        list[str],
        typer.Argument(help="A table of scores, CSV or Parquet, of any set of runs; or NAME=FILES for each variant."),
    ],
    baseline: Annotated[str, typer.Option(help="The variant that the others are compared with.")] = "none",
    metric: Annotated[str, typer.Option(help="The metric to compare: dice, hd95, msd, or any other.")] = "dice",
    lower_is_better: Annotated[
        bool | None,
        typer.Option("--lower-is-better/--higher-is-better", help="For a metric that scse does not know."),
    ] = None,
    margin: Margin = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for the tables as CSV files.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare variants over cases and trainings: differences with intervals, tests, noise floor, ranks, a verdict.

    The table has the columns network, variant, seed, fold, case, structure, metric and value, one score a row; only
    variant, case and value are needed.

    Instead, each variant can have files of its own, also those of nnU-Net v2 (summary.json), MONAI (METRIC_raw.csv) and
    MIST (results.csv): `scse compare "none=a/fold_*/validation" "scse=b/fold_*/validation"`. FILES are paths and
    patterns, separated by commas. Further files of the same fold are further seeds.
    """
    from scse.cli.console import rows_table
    from scse.evaluation.comparison import compare as run_comparison
    from scse.evaluation.comparison import table_paths, write_tables
    from scse.evaluation.printing import missing_lines, printed
    from scse.evaluation.ranking import ranking
    from scse.evaluation.variant_files import read_compared
    from scse.evaluation.verdict import verdict_text
    from scse.support.outputs import check_outputs, marked

    if out is not None:
        check_outputs(table_paths(out), overwrite=overwrite)
    table = read_compared(scores, metric=metric, baseline=baseline, on_note=_say)
    found = run_comparison(table, baseline=baseline, metric=metric, lower_is_better=lower_is_better, margin=margin)
    ranks = ranking(table, metric=metric, lower_is_better=lower_is_better)
    for title, headings, rows in printed(found, ranks):
        _say(title)
        _console().print(rows_table(rows, *headings), "")
    for line in missing_lines(found):
        _say(line)
    _say(verdict_text(found))
    if out is not None:
        with marked(table_paths(out)):
            written = write_tables(found, ranks, out)
        for path in written:
            _say(f"written: {path}")


@app.command()
def inspect(dataset: Data) -> None:
    """Read every file of a data set, tell what is in it and everything that is wrong; exit code 1 if anything is."""
    from scse.cli.console import Watcher, rows_table
    from scse.data.dataset import Dataset
    from scse.data.inspection import inspect as run_inspection

    with Watcher(_console()) as watch:
        found = run_inspection(Dataset.open(dataset), progress=watch.counter("inspect"))
    _console().print(rows_table(found.summary()))
    _end([problem.message for problem in found.problems])


@app.command()
def doctor() -> None:
    """Show versions, devices, threads, optional parts, and what to install for the missing ones."""
    from scse.cli.console import rows_table
    from scse.cli.doctor import diagnose

    _console().print(rows_table([(row.what, row.found, row.remedy) for row in diagnose()]))


@app.command()
def bench(
    network: Annotated[str, typer.Argument(help=NETWORK_HELP)] = "unet",
    size: Annotated[int, typer.Option(min=1, help="Pixels a side of the images.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 4,
    channels_in: Annotated[int, typer.Option(min=1, help="Channels of the images.")] = 1,
    classes: Annotated[int, typer.Option(min=1, help="Classes, the background included.")] = 2,
    seconds: Annotated[float, typer.Option(help="To measure for, about.")] = 40.0,
) -> None:
    """Measure what scSE costs on this machine's processor: its blocks in a network, and the whole network."""
    from scse.cli.console import rows_table
    from scse.studies.bench import bench as run_bench

    _say(f"measuring for about {seconds:g} s ...")
    found = run_bench(network, size=size, batch=batch, channels_in=channels_in, classes=classes, seconds=seconds)
    _say(f"blocks run on {found.path}\n")
    _say(f"one scSE block, forward and backward, {batch} images, float32, channels-last (x: as long as scse's):")
    columns = ("size", "scse", "plain torch", "smp", "copies of the map")
    _console().print(rows_table([block.row() for block in found.blocks], *columns))
    _say(f"\n{network}, {batch} images of {size} x {size}:")
    _console().print(rows_table([time.row() for time in found.network], "", "plain", "+scSE"))


@data_app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to make; it becomes an nnU-Net v2 data set.")],
    cases: Annotated[int, typer.Option(help="Subjects; the first half is for training.")] = 30,
    seed: Annotated[int, typer.Option(help="Chooses the subjects.")] = 0,
) -> None:
    """Write the built-in cohort: subjects simulated from an atlas, with the paper's 27 structures."""
    from scse.cli.console import Watcher
    from scse.data.cohort import simulate as run_simulation

    with Watcher(_console()) as watch:
        run_simulation(out, cases=cases, seed=seed, progress=watch.counter("simulate"))
    _say(f"{cases} simulated subjects written to {out}")


def _given(context: typer.Context) -> set[str]:
    """The parameters that were typed, not left at their defaults."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in text.split(",")] if text is not None else []


def _numbers(option: str, text: str | None) -> list[int]:
    words = _words(text)
    if not all(word.isdecimal() for word in words):
        raise UserError(f"{option} takes whole numbers, one or several with commas, as 3,6,12, got {text!r}")
    return [int(word) for word in words]


def _settings(pairs: list[str] | None, **named: Any) -> dict[str, Any]:
    settings = {name: value for name, value in named.items() if value is not None}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--set takes NAME=VALUE, such as --set width=16, got {pair!r}")
        if name in named:
            raise UserError(f"--set {pair}: {name} has an option of its own, --{name.replace('_', '-')} {value}")
        settings[name] = None if value == "none" and name == "slices_per_epoch" else value
    return settings


def _watched(run: Any, folder: Path, track: str, *, again: Callable[[], str]) -> Any:
    import logging

    from scse.cli.console import Watcher, stop_on_signal
    from scse.studies.tracking import tracked
    from scse.training.run import StoppedError

    # it announces the precision at every run; the plan says it once
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    console = _console()
    with stop_on_signal(console) as stop, Watcher(console) as watch:
        try:
            with tracked(track, folder, watch) as told:
                return run(told, stop)
        except StoppedError as stopped:
            message = f"{stopped}\nto go on: {again()}"
    _say(message)
    raise typer.Exit(INTERRUPTED)


def _end(problems: list[str]) -> None:
    for problem in problems:
        _complain("problem", problem)
    if problems:
        raise typer.Exit(1)


def _console() -> Any:
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = FILE_WIDTH
    return console


def _say(text: object) -> None:
    # paths and names may hold what rich takes for markup
    _console().print(str(text), markup=False, emoji=False)


def _complain(what: str, message: object) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text.assemble((f"{what}:", "bold red"), f" {message}"))
