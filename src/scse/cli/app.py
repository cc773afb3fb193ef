"""The command line: its commands, and what becomes of errors and signals."""

import errno
import os
import signal
import sys
from io import TextIOWrapper
from typing import Annotated, Any

import typer
import typer.core

from scse.cli import datasets, machine, models, scoring, training
from scse.cli.printing import INTERRUPTED, SAME, complain
from scse.support.errors import UserError

BUG = "This is a bug of scse. Please report it with this traceback, the command and the output of `scse doctor`."


class _EscapedError(Exception):
    """Carries an EOFError, which libraries raise on empty files too, past typer, which would end with "Aborted."."""


class _Verbs(typer.core.TyperGroup):
    """The commands; an interrupted one ends with a message of one line."""

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
app.add_typer(data_app, name="data", hidden=True)

for _command in (
    training.study,
    training.train,
    models.predict,
    models.explain,
    models.export,
    models.publish,
    models.places,
    scoring.evaluate,
    scoring.compare,
    datasets.inspect,
    datasets.simulate,
    machine.doctor,
    machine.bench,
):
    app.command()(_command)
data_app.command("simulate")(datasets.simulate_as_before)


@app.command(
    "attach",
    hidden=True,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def _attach(context: typer.Context) -> None:
    """The old name of `scse places`."""
    complain("notice", "scse attach is now scse places; the next version no longer has scse attach")
    app(["places", *context.args], prog_name="scse")


def main() -> None:
    """Run the command line.

    A mistake of the user's or a fault of the machine (a full disk) ends in one message and exit code 1; `--debug` shows
    its traceback. Any other exception is a bug: its traceback is shown, with the request to report it. Ctrl-C ends in
    one line and exit code 130.
    """
    from scse.allocator import keep_large_blocks
    from scse.executors.process import settle

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal may know fewer letters than names have
            stream.reconfigure(errors="replace")
    keep_large_blocks()  # before anything starts a thread
    settle()  # before MONAI and TensorBoard are imported
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
        complain("error", message)
        code = 1
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.exit(code)


def _interrupted() -> int:
    """Say that the command was interrupted; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # from here on a further one ends the process at once
    complain("interrupted", f"to continue, {SAME}")
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
