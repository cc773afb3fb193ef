"""The command line."""

import sys

from scse.support.extras import MissingLibraryError, needing

__all__ = ["main"]


def main() -> None:
    """Run the command line; where the extra `study` is not installed, say so in a line and end with exit code 1."""
    try:
        with needing("the command line", "study"):
            from scse.cli.app import main as run

            run()
    except MissingLibraryError as missing:
        if "--debug" in sys.argv:
            raise
        sys.exit(f"error: {missing}")
