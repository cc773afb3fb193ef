"""What commands print."""

import os
from typing import Any

import typer

FILE_WIDTH = 160
"""Characters of a line where the output goes to a file or another program, which wraps lines itself or not at all."""

INTERRUPTED = 130  # what shells report for a program ended by Ctrl-C
SAME = "run the same command again"


def console() -> Any:
    """The terminal or file that standard output goes to."""
    from rich.console import Console

    found = Console(soft_wrap=True, highlight=False)
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found.width = FILE_WIDTH
    return found


def say(text: object) -> None:
    """Print a line; paths and names may contain what rich takes for markup."""
    console().print(str(text), markup=False, emoji=False)


def complain(what: str, message: object) -> None:
    """Print a line to standard error, such as "error: ..."."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text.assemble((f"{what}:", "bold red"), f" {message}"))


def end_with(problems: list[str]) -> None:
    """Print problems and end with exit code 1, if there are any."""
    for problem in problems:
        complain("problem", problem)
    if problems:
        raise typer.Exit(1)
