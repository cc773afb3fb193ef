"""The public names: all there, loaded at first use only."""

import subprocess
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest

import scse

HEAVY = (
    "torch",
    "monai",
    "pandas",
    "lightning",
    "lightning_fabric",
    "nibabel",
    "scipy",
    "plotly",
    "matplotlib",
    "numpy",
)


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_import_loads_nothing_heavy():
    assert run(f"import sys, scse; print(*[name for name in {HEAVY} if name in sys.modules])") == []


def test_blocks_load_torch_and_no_library_of_another_room():
    heavy = [*(name for name in HEAVY if name not in ("torch", "numpy")), "torch._dynamo"]
    code = f"import sys, scse; scse.ConcurrentSE(4); scse.networks; print(*[n for n in {heavy} if n in sys.modules])"
    assert run(code) == []


def test_every_public_name_is_listed():
    assert set(scse.__all__) <= set(dir(scse))
    assert len(set(scse.__all__)) == len(scse.__all__)


@pytest.mark.parametrize("name", scse.__all__)
def test_every_public_name_is_found_and_documented(name):
    assert getattr(scse, name).__doc__


def test_public_names_are_the_objects_of_their_modules():
    from scse.blocks import ConcurrentSE

    assert scse.ConcurrentSE is ConcurrentSE
    assert scse.functional is sys.modules["scse.functional"]


OF_STUDIES = {"Segmenter", "explain", "study"}


def test_where_a_library_is_missing_a_name_says_what_to_install():
    """In a process that takes torch for missing; a data set is read without it."""
    code = """
import sys, scse
class Missing:  # unlike None in sys.modules, which SciPy takes for torch
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, Missing())
for name in scse.__all__:
    try:
        getattr(scse, name)
    except ModuleNotFoundError as error:
        print(error)
"""
    expected = [
        f"scse.{name} needs torch: pip install 'scse[{'study' if name in OF_STUDIES else 'torch'}]'"
        for name in scse.__all__
        if name != "Dataset"
    ]
    assert run(code) == " ".join(expected).split()


def test_a_library_that_is_broken_keeps_its_own_error(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import scse; scse.ConcurrentSE"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "ImportError: libcudart.so.13: cannot open shared object file"


@pytest.mark.parametrize(("library", "verb"), [("typer", "doctor"), ("torch", "bench"), ("pandas", "compare")])
def test_where_a_library_is_missing_the_command_line_says_so_in_a_line(library, verb, tmp_path):
    code = f"import sys; sys.modules[{library!r}] = None; from scse.cli import main; main()"
    command = [sys.executable, "-c", code, verb, *([tmp_path] if verb == "compare" else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = f"error: the command line needs {library}: pip install 'scse[study]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
    shown = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False).stderr
    assert shown.startswith("Traceback")


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'scse' has no attribute 'SqueezeNet'"):
        _ = scse.SqueezeNet
    with pytest.raises(ImportError, match="cannot import name 'SqueezeNet'"):
        exec("from scse import SqueezeNet")


@pytest.mark.parametrize("name", scse.__all__)
def test_no_public_name_but_a_module_is_the_name_of_a_room(name):
    """Importing a submodule binds its name on the package: a function of that name would be gone."""
    assert isinstance(getattr(scse, name), ModuleType) == (find_spec(f"scse.{name}") is not None)
