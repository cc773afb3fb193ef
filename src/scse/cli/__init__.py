"""The command line."""

from scse.cli.app import main

__all__ = ["main"]
