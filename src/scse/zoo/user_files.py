"""Functions that build a network, in Python files of the user."""

import importlib.util
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from scse.support.errors import UserError, in_short
from scse.vocabulary.specs import NetworkSpec
from scse.zoo.catalogue import file_of


def load_function(spec: NetworkSpec) -> Callable[..., object]:
    """Run the file that a network names, and return the function.

    Raises:
        UserError: The file does not exist, cannot be run, or has no such function.
    """
    path = file_of(spec)
    module_spec = importlib.util.spec_from_file_location(f"scse_network_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{path}: is no Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses and pickle look it up there
    try:
        with _beside(path):
            module_spec.loader.exec_module(module)
    # other people's code may raise anything
    except Exception as error:
        raise UserError(f"{path}: cannot be run ({in_short(error)}); correct it") from error
    function: object = getattr(module, spec.name, None)
    if not callable(function):
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        found = f"it has {', '.join(own)}" if own else "it has none"
        raise UserError(f"{path}: has no function or class {spec.name}; {found}")
    return function


@contextmanager
def _beside(path: Path) -> Generator[None]:
    """Let a file import its neighbours, as it could if it were run as a script."""
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(path.parent.resolve()))
