"""Options that several commands have, and the options of a request."""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import typer

from scse.cli.printing import complain
from scse.support.requests import REPEATED, SEVERAL, Request

T = TypeVar("T")

NETWORK_HELP = (
    "unet, sdnet, densenet, smp:CLASS, monai:CLASS, nnunet:CLASS or FILE.py:FUNCTION; options as "
    "smp:Unet[encoder_name=resnet18]."
)

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace files there that scse did not write, or that were changed since.")
]
Track = Annotated[
    str, typer.Option(help="Log to: tensorboard, mlflow (a file in the folder), or mlflow:URI of a server.")
]
Margin = Annotated[
    float | None,
    typer.Option(help="Differences below it do not matter, in units of the metric [0.005 for Dice and its like]."),
]
Model = Annotated[Path, typer.Argument(help="Folder of a segmenter or of a training run, or hf:OWNER/NAME[@REVISION].")]
ModelNetwork = Annotated[
    str | None, typer.Option("--network", help="The model's network, if it is your own FILE.py:FUNCTION.")
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Slices, or windows of a volume, at a time [as memory allows].")
]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:N or mps.")]
Series = Annotated[
    str | None,
    typer.Option(help="Of folders with several DICOM series: which, by SeriesInstanceUID or description."),
]
InChannels = Annotated[int, typer.Option(min=1, max=1024, help="Channels of the images.")]

SHORT = {"out": "-o"}
SIMPLE = (bool, int, float, str, Path)


def takes(request: type[Request], **defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the fields of a request as its options.

    The decorated function is called with the fields that the user typed, as a dict, and with its own options.

    Args:
        request: Class of the request.
        defaults: Defaults that the help shows instead of those of the fields; the command applies them.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(command).parameters.values()
        old = [_old_option(name, new) for name, new in request.renamed.items()]

        def run(context: typer.Context, **values: Any) -> None:
            fields = {name: values.pop(name) for name in [*request.model_fields, *request.renamed]}
            typed = {name: value for name, value in fields.items() if is_typed(context, name)}
            for name in request.renamed.keys() & typed.keys():
                new = request.renamed[name]
                _notice(f"--{name}", f"--{new}")
                typed[new] = typed.pop(name)
            command(typed, **values)

        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        fields = [_option(request, name) for name in request.model_fields]
        fields = [option.replace(default=defaults.get(option.name, option.default)) for option in fields]
        options = [context, *fields, *old]
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        run.__signature__ = inspect.Signature([*options, *own])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*options, *own]}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def is_typed(context: typer.Context, name: str) -> bool:
    """Whether a parameter was given on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def renamed_option(old: str, value: T | None, new: str, default: T) -> T:
    """The value of an option that may have been given under its old name."""
    if value is None:
        return default
    _notice(old, new)
    return value


def _notice(old: str, new: str) -> None:
    complain("notice", f"{old} is now {new}; the next version no longer accepts {old}")


def _option(request: type[Request], name: str) -> inspect.Parameter:
    """The option of a field: its type on the command line, default and help."""
    field = request.model_fields[name]
    kind: Any
    kind, default = _shown(name, field.annotation, None if field.is_required() else field.default)
    if name in (*REPEATED, "settings"):
        kind, default = list[str] | None, None
    annotation: Any
    text = " ".join((field.description or "").split())
    if name == "dataset":
        annotation = Annotated[kind, typer.Argument(help=text)]
    else:
        names = [*([SHORT[name]] if name in SHORT else []), request.flag(name)]
        metavar = "NAME=VALUE" if name == "settings" else None
        annotation = Annotated[kind, typer.Option(*names, help=text, metavar=metavar)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _old_option(name: str, new: str) -> inspect.Parameter:
    annotation = Annotated[str | None, typer.Option(f"--{name}", hidden=True, help=f"See --{new}.")]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _shown(name: str, annotation: Any, default: Any) -> tuple[Any, Any]:
    """Type and default of a field on the command line, where lists are texts with commas."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    (kind,) = (part for part in parts if part is not NoneType)
    if kind is bool:
        return bool, default
    if name in SEVERAL:
        return kind | None, default
    if kind in SIMPLE:
        return (kind | None if default is None else kind), default
    return str | None, ",".join(map(str, default)) or None if isinstance(default, tuple) else default
