"""Commands about this machine: doctor, bench."""

from typing import Annotated

import typer

from scse.cli.options import NETWORK_HELP, Device, InChannels, renamed_option
from scse.cli.printing import console, say


def doctor() -> None:
    """Show versions, devices, threads, optional parts, and what to install for the missing ones."""
    from scse.cli.console import rows_table
    from scse.cli.doctor import diagnose

    console().print(rows_table([(row.what, row.found, row.remedy) for row in diagnose()]))


def bench(
    network: Annotated[str, typer.Argument(help=NETWORK_HELP)] = "unet",
    dims: Annotated[int, typer.Option(min=2, max=3, help="2 for slices, 3 for volumes.")] = 2,
    size: Annotated[int | None, typer.Option(min=1, help="Pixels a side of the images [256, volumes 64].")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images at a time [4, volumes 2].")] = None,
    in_channels: InChannels = 1,
    channels_in: Annotated[int | None, typer.Option(hidden=True, help="See --in-channels.")] = None,
    classes: Annotated[int, typer.Option(min=1, help="Classes, the background included.")] = 2,
    seconds: Annotated[float, typer.Option(help="To measure for, about.")] = 40.0,
    device: Device = "auto",
) -> None:
    """Measure what scSE costs on this machine: its blocks in a network, and the whole network."""
    from scse.cli.console import rows_table
    from scse.studies.bench import bench as run_bench

    in_channels = renamed_option("--channels-in", channels_in, "--in-channels", in_channels)
    say(f"measuring for about {seconds:g} s ...")
    found = run_bench(
        network,
        size=size,
        batch=batch,
        dims=dims,
        in_channels=in_channels,
        classes=classes,
        seconds=seconds,
        device=device,
    )
    count, _, *sides = found.images
    say(f"device: {found.device}")
    say(f"blocks run on {found.path}\n")
    say(f"one scSE block, forward and backward, {count} images, float32, channels-last (x: as long as scse's):")
    columns = ("size", "scse", "plain torch", "smp", "copies of the map")
    console().print(rows_table([block.row() for block in found.blocks], *columns))
    say(f"\n{network}, {count} images of {' x '.join(map(str, sides))}:")
    console().print(rows_table([time.row() for time in found.network], "", "plain", "+scSE"))
