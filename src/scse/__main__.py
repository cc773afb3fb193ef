"""The command line as `python -m scse`."""

from scse.cli import main

if __name__ == "__main__":
    main()
