"""Commands about trained segmenters and networks: predict, explain, export, places."""

from pathlib import Path
from typing import Annotated

import typer

from scse.cli.options import (
    NETWORK_HELP,
    BatchSize,
    InChannels,
    Model,
    ModelNetwork,
    Overwrite,
    is_typed,
    renamed_option,
)
from scse.cli.printing import console, end_with, say
from scse.support.errors import UserError


def predict(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    model: Annotated[
        list[Path],
        typer.Option("-m", "--model", help="Folder of a segmenter or of a training run; several are averaged."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the label maps.")],
    network: ModelNetwork = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Average over mirrored images, too: up to 8 times as long.")
    ] = False,
    batch_size: BatchSize = None,
    engine: Annotated[
        str, typer.Option(help="What runs the network: torch, onnxruntime, openvino, or auto: measured here.")
    ] = "torch",
    overwrite: Overwrite = False,
) -> None:
    """Segment images; each label map has its image's own geometry."""
    from scse.cli.console import Watcher
    from scse.inference.averaging import averaged
    from scse.inference.inputs import find_images
    from scse.inference.segmenter import Segmenter

    segmenters = [Segmenter.load(folder, network=network) for folder in model]
    found = find_images(images, channels=segmenters[0].recipe.channels)
    segmenters = [segmenter.with_engine(engine, images=len(found)) for segmenter in segmenters]
    say(f"engine: {segmenters[0].engine}")
    segmenter = segmenters[0]
    if mirror or len(segmenters) > 1:
        segmenter = averaged(segmenters, mirror=mirror)
        say(str(segmenter.engine))
    with Watcher(console()) as watch:
        failed = segmenter.predict_files(
            found, out, batch_size=batch_size, overwrite=overwrite, progress=watch.counter("predict")
        )
    say(f"{len(found) - len(failed)} label maps written to {out}")
    end_with(failed)


def explain(
    model: Model,
    image: Annotated[list[Path], typer.Argument(help="One image: a file, or the files of its channels.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the gates.")],
    network: ModelNetwork = None,
    batch_size: BatchSize = None,
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
            batch_size=batch_size,
            overwrite=overwrite,
            progress=watch.counter("explain"),
        )
    columns = ("block", "identity", "spatial", "min", "max", "channel", "shut")
    console().print(rows_table(found.rows(), *columns))
    say(f"{len(found.files)} files written to {out}")


def export(
    model: Model,
    to: Annotated[str, typer.Option(help="keras: a .keras file; saved_model: a SavedModel of TensorFlow.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The file OUT.keras, or a new folder for a SavedModel.")],
    overwrite: Overwrite = False,
) -> None:
    """Write the network of a trained segmenter for Keras 3 or TensorFlow, with its recipe and structures as JSON."""
    from scse.inference.exporting import export as run_export
    from scse.support.keras_backend import quiet_tensorflow

    quiet_tensorflow()
    say(run_export(model, to, out, overwrite=overwrite))


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

    if explain and (given := [name for name in ("block", "to") if is_typed(context, name)]):
        raise typer.BadParameter(f"--explain places no blocks; leave out {', '.join(given)}")
    in_channels = renamed_option("--channels", channels, "--in-channels", in_channels)
    arguments = {"in_channels": in_channels, "classes": classes, "spatial_dims": spatial_dims}
    model = build_plain(read_network(network), arguments, pretrained=False)
    example = torch.zeros(1, in_channels, *[size] * spatial_dims)
    try:
        say(explain_places(model, example) if explain else place(model, block, to=to, example=example))
    except UserError as error:
        raise UserError(f"{network}, --size {size}, --in-channels {in_channels}: {error}") from error
