"""What to install where a library is missing: the extras of scse, and the libraries that each of them brings."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

TORCH = frozenset({"safetensors", "torch"})

EXTRAS: Mapping[str, frozenset[str]] = {
    "torch": TORCH,
    "study": TORCH
    | {
        "PIL",
        "SimpleITK",
        "filelock",
        "jinja2",
        "lightning_fabric",
        "markupsafe",
        "matplotlib",
        "monai",
        "nibabel",
        "pandas",
        "plotly",
        "psutil",
        "pyarrow",
        "pydantic",
        "rich",
        "scipy",
        "tensorboard",
        "tifffile",
        "typer",
    },
    "dicom": frozenset({"highdicom", "pydicom"}),
    "export": frozenset({"onnx", "onnxruntime", "onnxscript"}),
    "hub": frozenset({"huggingface_hub"}),
    "keras": frozenset({"keras", "pydantic", "safetensors"}),
    "ray": frozenset({"ray"}),
}
"""Extra -> the packages that it installs and scse imports; the extras after `study` but `keras` have its, too."""


class MissingLibraryError(ModuleNotFoundError):
    """A library of an extra is not installed; the message says what needs it, and what to install."""


@contextmanager
def needing(what: str, extra: str) -> Generator[None]:
    """Raise what a missing library stops as one line that says what to install.

    Args:
        what: the caller asked for, the subject of the message.
        extra: that installs all it needs.

    Raises:
        MissingLibraryError: a library of the extra is not installed. One that is installed and cannot be imported
            keeps its own error.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if isinstance(error, MissingLibraryError) or error.name not in EXTRAS[extra]:
            raise
        raise MissingLibraryError(f"{what} needs {error.name}: pip install 'scse[{extra}]'", name=error.name) from error
