"""Commands about trained segmenters and networks: predict, explain, export, places."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from scse.cli.options import (
    NETWORK_HELP,
    BatchSize,
    Device,
    InChannels,
    Model,
    ModelNetwork,
    Overwrite,
    Series,
    is_typed,
    renamed_option,
)
from scse.cli.printing import INTERRUPTED, SAME, complain, console, end_with, say
from scse.support.errors import UserError
from scse.support.text import counted, shortened_list

Members = list[tuple[Path, str | None]]
"""Folders of segmenters that are averaged, each with its factory FILE.py:FUNCTION, if it needs one."""

REPORT = Path("report", "index.html")
"""Page of --report in the folder of label maps."""

MOST_FLAGS = 20
"""Most unusual structures that are printed; the table of volumes has all."""


def predict(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images or of a DICOM series.")],
    *,
    model: Annotated[
        list[Path] | None,
        typer.Option(
            "-m",
            "--model",
            help="Folder of a segmenter or of a training run, or hf:OWNER/NAME[@REVISION]; several, also of other "
            "planes, are averaged.",
        ),
    ] = None,
    ensemble: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a study: all folds and seeds of one network and variant are averaged."),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the label maps.")],
    network: Annotated[
        str | None,
        typer.Option(
            "--network",
            help="The network of --ensemble, such as unet or unet[epochs=6]; the model's network, if it is your own "
            "FILE.py:FUNCTION.",
        ),
    ] = None,
    variant: Annotated[str | None, typer.Option(help="The variant of --ensemble, such as scse.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weight of each -m, then of each --ensemble, such as 0.4,0.4,0.2 [each segmenter counts once]."
        ),
    ] = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Average over mirrored images, too: up to 8 times as long.")
    ] = False,
    dropout: Annotated[
        int, typer.Option(min=0, help="Average over so many passes with the network's dropout on [none].")
    ] = 0,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty",
            help="Also write how far segmenters, mirrored images and passes of dropout lie apart: "
            "NAME.uncertainty.nii.gz for each image, and uncertainty.csv.",
        ),
    ] = False,
    volumes: Annotated[
        Path | None,
        typer.Option(
            help="CSV file for the voxels and millilitres of each structure in each label map; rows of other images of "
            "earlier calls stay."
        ),
    ] = None,
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Write OUT/report/index.html, too: a page with each label map over its image, volumes, and what is "
            "unlike the training cases.",
        ),
    ] = False,
    squeeze: Annotated[
        str,
        typer.Option(help="Where cSE pools in volumes larger than the patch: window, local box, or whole volume."),
    ] = "window",
    cleaning: Annotated[
        str,
        typer.Option(help="Clean-up of label maps: learned in training, none, or largest component of each structure."),
    ] = "learned",
    device: Device = "auto",
    batch_size: BatchSize = None,
    engine: Annotated[
        str, typer.Option(help="What runs the network: torch, onnxruntime, openvino, or auto: measured here.")
    ] = "torch",
    series: Series = None,
    dicom_seg: Annotated[
        bool, typer.Option("--dicom-seg", help="Write label maps of DICOM series as DICOM-SEG, too: NAME.dcm.")
    ] = False,
    overwrite: Overwrite = False,
    jobs: Annotated[
        int,
        typer.Option(
            min=1, help="Worker processes of this machine; they skip what an earlier call with --jobs or --on finished."
        ),
    ] = 1,
    on: Annotated[
        str | None,
        typer.Option(
            help="ray, or ray:HOST:PORT: a Ray cluster whose machines share the files predicts [this machine]."
        ),
    ] = None,
) -> None:
    """Segment images; each label map has its image's own geometry."""
    from scse.cli.console import Watcher
    from scse.inference.combining import combined
    from scse.inference.devices import choose_device
    from scse.inference.dropout import with_dropout
    from scse.inference.hub import local_folder
    from scse.inference.inputs import find_images
    from scse.inference.segmenter import Segmenter
    from scse.inference.uncertainty import TABLE
    from scse.studies.ensembles import find_ensemble

    if not model and not ensemble:
        raise typer.BadParameter("give the folders of segmenters with -m, or that of a study with --ensemble")
    if variant is not None and not ensemble:
        raise typer.BadParameter("--variant chooses among the runs of --ensemble; leave it out")
    given = _weights(weights)
    # beside an ensemble, --network says which of the study's networks; only a file is meant for segmenters, too
    own = network if not ensemble or ".py:" in (network or "") else None
    chosen_device = choose_device(device)
    members: list[Members] = [[(local_folder(name), own)] for name in model or ()]
    ensembles = [find_ensemble(study, network=network, variant=variant) for study in ensemble or ()]
    for chosen in ensembles:
        _say_ensemble(chosen)
        members.append(chosen.members(network=network))
    groups = [[Segmenter.load(path, network=named, device=chosen_device) for path, named in each] for each in members]
    found = find_images(images, channels=groups[0][0].recipe.channels, series=series)
    _say_seen(found, {name for chosen in ensembles for name in chosen.training})
    groups = [[each.with_engine(engine, images=len(found)).with_squeeze(squeeze) for each in group] for group in groups]
    passes = [[one for each in group for one in with_dropout(each, dropout)] for group in groups]
    segmenter = combined(passes, weights=given, mirror=mirror, uncertainty=uncertainty)
    _say_how(groups[0][0], segmenter, chosen_device)
    segmenter = segmenter.with_cleaning(cleaning)
    say(f"clean-up: {segmenter.cleaning}")
    predict_all: Callable[..., list[str]] = segmenter.predict_files
    if jobs > 1 or on is not None:
        how = {
            "mirror": mirror,
            "engine": groups[0][0].engine.name if groups[0][0].engine else "torch",
            "squeeze": squeeze,
            "cleaning": cleaning,
            "device": device,
            "dropout": dropout,
            "uncertainty": uncertainty,
        }
        predict_all = partial(_predict_elsewhere, members, given, how, segmenter=segmenter, on=on, jobs=jobs)
    with Watcher(console()) as watch:
        if report:
            predict_all = partial(_predict_and_report, predict_all, members, groups, segmenter, watch)
        failed = predict_all(
            found,
            out,
            batch_size=batch_size,
            overwrite=overwrite,
            volumes=volumes,
            dicom_seg=dicom_seg,
            progress=watch.counter("predict"),
        )
    say(f"{counted(len(found) - len(failed), 'label map')} written to {out}")
    if report:
        say(f"report: {out / REPORT}")
    if len(failed) < len(found):
        _say_tables(out / TABLE if uncertainty else None, volumes, found, known=segmenter.known is not None)
    end_with(failed)


def _predict_elsewhere(
    members: list[Members],
    weights: list[float] | None,
    how: Mapping[str, Any],
    *images_and_out: Any,
    on: str | None,
    jobs: int,
    **options: Any,
) -> list[str]:
    """Predict in other processes, see `predict_sharded`; a stop ends the command with how to continue."""
    from scse.cli.console import stop_on_signal
    from scse.executors.choice import open_executor
    from scse.inference.sharded import Recipe, predict_sharded
    from scse.support.events import StoppedError

    recipe = Recipe(tuple(map(tuple, members)), None if weights is None else tuple(weights), **how)
    with stop_on_signal(console()) as stop, open_executor(on, jobs, device=recipe.device) as executor:
        say(f"predicted by: {executor}")
        try:
            return predict_sharded(recipe, *images_and_out, executor=executor, stop=stop, **options)
        except StoppedError as stopped:
            say(f"{stopped}\nto continue: {SAME}")
    raise typer.Exit(INTERRUPTED)


def _predict_and_report(
    predict_all: Callable[..., list[str]],
    members: list[Members],
    groups: Sequence[Sequence[Any]],
    segmenter: Any,
    watch: Any,
    images: Mapping[str, Sequence[Path]],
    out: Path,
    *,
    volumes: Path | None,
    overwrite: bool,
    **options: Any,
) -> list[str]:
    """Predict, and write the page of the label maps from their files."""
    from scse.reports.predictions import write_prediction_page
    from scse.support.events import Watch
    from scse.support.outputs import check_outputs, marked

    page = out / REPORT
    check_outputs([page], overwrite=overwrite)
    folders = (folder for each in members for folder, _ in each)
    loaded = dict(zip(folders, chain.from_iterable(groups), strict=True))
    with TemporaryDirectory() as scratch:
        # the page needs the table, also where the user does not
        table = volumes or Path(scratch) / "volumes.csv"
        failed = predict_all(images, out, volumes=table, overwrite=overwrite, **options)
        with marked([page]):
            write_prediction_page(
                page, images, out, table, segmenter=segmenter, members=loaded, failed=failed, watch=Watch(watch)
            )
    return failed


def _say_how(first: Any, segmenter: Any, device: Any) -> None:
    """Print what runs the first segmenter, where, and how it is combined with others."""
    from scse.inference.devices import describe_device
    from scse.inference.joining import Joined

    say(f"engine: {first.engine}")
    if device.type != "cpu":
        say(f"device: {describe_device(device)}")
    if segmenter is not first:
        say(segmenter if isinstance(segmenter, Joined) else segmenter.engine)


def _say_ensemble(chosen: Any) -> None:
    say(f"ensemble: {chosen}")
    if chosen.unfinished:
        complain("notice", f"{chosen.study}: left out, because not trained yet: {shortened_list(chosen.unfinished)}")


def _say_seen(images: Iterable[str], training: Collection[str]) -> None:
    if seen := [name for name in images if name in training]:
        complain(
            "notice",
            f"{shortened_list(seen)}: training cases of the ensemble have these names; if they are these cases, scores "
            "of these label maps are no test",
        )


def _say_tables(
    uncertainty: Path | None, volumes: Path | None, images: Mapping[str, Sequence[Path]], *, known: bool
) -> None:
    """Print where the tables are, and as many flags of that of volumes as people read."""
    from scse.inference.volume_table import read_flags

    if uncertainty is not None:
        say(f"uncertainty of structures: {uncertainty}")
    if volumes is None:
        return
    say(f"volumes of structures: {volumes}")
    if not known:
        say("volumes are not compared with those of the training cases: the segmenter does not know their ranges")
    for flag in (flags := read_flags(volumes, images))[:MOST_FLAGS]:
        complain("notice", flag)
    if len(flags) > MOST_FLAGS:
        complain("notice", f"{counted(len(flags) - MOST_FLAGS, 'more flag')} in {volumes}")


def _weights(text: str | None) -> list[float] | None:
    """Parse --weights."""
    try:
        return None if text is None else [float(word) for word in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--weights must be numbers with commas, such as 0.4,0.4,0.2, got {text!r}") from None


def explain(
    model: Model,
    image: Annotated[
        list[Path],
        typer.Argument(help="One image: a file, the files of its channels, or the folder of a DICOM series."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the gates.")],
    network: ModelNetwork = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    series: Series = None,
    overwrite: Overwrite = False,
) -> None:
    """Show what each block does to an image: spatial gates laid over it, channel gates as a table and a figure."""
    from scse.cli.console import Watcher, rows_table
    from scse.gates.explaining import explain as run_explain

    with Watcher(console()) as watch:
        found = run_explain(
            model,
            image,
            out,
            network=network,
            device=device,
            batch_size=batch_size,
            series=series,
            overwrite=overwrite,
            progress=watch.counter("explain"),
        )
    columns = ("block", "identity", "spatial", "min", "max", "channel", "shut")
    console().print(rows_table(found.rows(), *columns))
    say(f"{counted(len(found.files), 'file')} written to {out}")


def export(
    model: Model,
    to: Annotated[
        str,
        typer.Option(
            help="onnx: one file from the image to its labels; keras: a .keras file, or saved_model: a SavedModel of "
            "TensorFlow, of the network alone, with recipe and structures as JSON."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="The file OUT.onnx or OUT.keras, or a new folder for a SavedModel."),
    ],
    network: ModelNetwork = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a trained segmenter as an ONNX file, or its network for Keras 3 or TensorFlow."""
    from scse.inference.exporting import export as run_export
    from scse.inference.hub import local_folder
    from scse.support.keras_backend import quiet_tensorflow

    quiet_tensorflow()
    say(run_export(local_folder(model), to, out, network=network, overwrite=overwrite))


def publish(
    model: Annotated[Path, typer.Argument(help="Folder of a training run, also of one in a study, or of a segmenter.")],
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face Hub, or on HF_ENDPOINT.")],
    license_: Annotated[
        str | None, typer.Option("--license", help="Licence of the weights, such as cc-by-4.0 [left open].")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Everybody can see a repository that is made.")] = False,
    card: Annotated[
        Path | None, typer.Option(help="Write the model card to this file, and upload nothing.", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Upload a trained segmenter to the Hugging Face Hub, with a model card of its training, scores and verdict."""
    from scse.inference.hub import PREFIX, upload
    from scse.studies.cards import model_card
    from scse.support.atomic import write_atomic
    from scse.support.outputs import check_outputs, marked

    text = model_card(model, repository, license=license_)
    if card is not None:
        check_outputs([card], overwrite=overwrite)
        with marked([card]):
            write_atomic(card, text.encode())
        say(f"written: {card}")
        return
    address = upload(model, repository, card=text, private=not public, overwrite=overwrite)
    say(f"published: {address}")
    say(f"use it with: scse predict -m {PREFIX}{repository} IMAGES -o labels")


def places(
    context: typer.Context,
    network: Annotated[str, typer.Argument(help=NETWORK_HELP)],
    block: Annotated[str, typer.Option(help="cse, sse, scse or pe.")] = "scse",
    to: Annotated[str, typer.Option(help="Where: patterns of modules, or auto.")] = "auto",
    explain: Annotated[bool, typer.Option("--explain", help="List the network's stages and where to attach.")] = False,
    size: Annotated[int, typer.Option(min=1, max=4096, help="Pixels a side of the image that runs through it.")] = 64,
    in_channels: InChannels = 1,
    channels: Annotated[int | None, typer.Option(hidden=True, help="See --in-channels.")] = None,
    classes: Annotated[int, typer.Option(min=1, max=255, help="Classes, the background included.")] = 2,
    spatial_dims: Annotated[int, typer.Option(min=2, max=3, help="2 or 3.")] = 2,
) -> None:
    """Show the places where `attach` puts blocks in a network, or the stages of the network; nothing is written."""
    import torch

    from scse.attachment.attaching import attach as place
    from scse.zoo.building import build_plain
    from scse.zoo.building import explain as explain_places
    from scse.zoo.catalogue import read_network
    from scse.zoo.fitting import Patch, fit_options

    if explain and (given := [name for name in ("block", "to") if is_typed(context, name)]):
        raise typer.BadParameter(f"--explain places no blocks; leave out {', '.join(given)}")
    in_channels = renamed_option("--channels", channels, "--in-channels", in_channels)
    arguments = {"in_channels": in_channels, "classes": classes, "spatial_dims": spatial_dims}
    spec = read_network(network)
    fit = fit_options(spec, Patch.of((size,) * spatial_dims))
    model = build_plain(spec, arguments, fit=fit, pretrained=False)
    example = torch.zeros(1, in_channels, *[size] * spatial_dims)
    try:
        say(explain_places(model, example) if explain else place(model, block, to=to, example=example))
    except UserError as error:
        raise UserError(f"{network}, --size {size}, --in-channels {in_channels}: {error}") from error
