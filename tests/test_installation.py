"""The wheel in bare environments: an extra brings what its part needs and no more, and the rest says what to install.

An environment gets, from uv's cache and without network, the versions that the tests themselves run with.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path
from zipfile import Path as ZipPath

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program, which finds no package of this process' own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KERAS", "SCSE"))}
    kept["PYTHONDONTWRITEBYTECODE"] = "1"  # all that is written has to be removed again
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=kept | environment)


def uv(*arguments: object, **environment: str) -> None:
    """Call uv without network; in CI its cache holds all, elsewhere a package that it lacks is a reason to skip."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    done = run("uv", *arguments, "--offline", **environment)
    if done.returncode and "network was disabled" in done.stderr and not os.environ.get("CI"):
        pytest.skip(f"uv's cache lacks a package: {done.stderr}")
    assert done.returncode == 0, done.stderr


def pins(scse: Distribution, *requirements: str) -> list[str]:
    """All that these need, in the versions that are installed here."""
    todo, seen, found = list(map(Requirement, requirements)), set(), set()
    while todo:
        wanted = todo.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        installed = scse if wanted.name == "scse" else distribution(wanted.name)
        if installed is not scse:
            found.add(f"{wanted.name}=={installed.version}")
        for needed in map(Requirement, installed.requires or []):
            marker, needed.marker = needed.marker, None
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in wanted.extras or {""}):
                todo.append(needed)
    return sorted(found)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a compiler, which is quick."""
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", ROOT, "--wheel", "--quiet", "--out-dir", folder, CXX="/nonexistent")
    return next(folder.glob("scse-*-py3-none-any.whl"))


@pytest.fixture
def install(wheel: Path, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Makes an environment of the wheel and what is required, and returns what runs a program of it."""
    folder = tmp_path / "environment"
    scse = PathDistribution(next(path for path in ZipPath(wheel).iterdir() if path.name.endswith(".dist-info")))

    def make(*requirements: str) -> Run:
        uv("venv", folder, "--quiet", "--python", sys.executable)
        uv("pip", "install", "--quiet", "--python", folder, "--no-deps", wheel, *pins(scse, *requirements))
        return lambda program, *arguments, **environment: run(folder / "bin" / program, *arguments, **environment)

    yield make
    shutil.rmtree(folder, ignore_errors=True)


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


MESSAGES = """
import json
import scse

def message(name):
    try:
        getattr(scse, name)
    except ModuleNotFoundError as error:
        return str(error)
    return ""

print(json.dumps({name: message(name) for name in scse.__all__}))
"""
STUDIES = ("Dataset", "Segmenter", "explain", "study")


def messages(run: Run, before: str = "", *arguments: object) -> dict[str, str]:
    """Public name -> what is said where it is used, "" where it works; after other code in the same process."""
    (found,) = lines(run("python", "-c", before + MESSAGES, *arguments))
    said: dict[str, str] = json.loads(found)
    return said


def test_without_extras_every_name_and_command_says_what_to_install(install: Callable[..., Run]) -> None:
    run = install("scse")
    for name, message in messages(run).items():
        library, extra = (r"\w+", "study") if name in STUDIES else ("torch", "torch")
        assert re.fullmatch(rf"scse\.{name} needs {library}: pip install 'scse\[{extra}\]'", message)
    said = run("python", "-c", "import scse.keras").stderr.splitlines()[-1]
    assert said.endswith("MissingLibraryError: scse.keras needs keras: pip install 'scse[keras]'")
    assert_command_line_needs_typer(run)


def assert_command_line_needs_typer(run: Run) -> None:
    ended = run("scse", "study")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "error: the command line needs typer: pip install 'scse[study]'\n"


TORCH = """
import sys
from pathlib import Path
import torch
from torch import nn
import scse

torch.manual_seed(0)
x = torch.randn(2, 3, 16, 16)

def build():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3))

model = build()
before = model(x)
assert torch.equal(scse.ConcurrentSE(3, identity=True)(x), x)
assert scse.attach(model, "scse", to="0", example=x).names == ("0",)
assert torch.equal(model(x), before)
assert [gates.where for gates in scse.gates_of(model, x)] == ["0"]
assert not scse.fuse(model).swapped
path = scse.save_attached(model, Path(sys.argv[1]) / "model.safetensors")
fresh = build()
assert scse.load_attached(fresh, path).names == scse.placements(model).names
assert torch.equal(fresh(x), before)
scse.detach(model)
assert len(scse.placements(model)) == 0
assert scse.networks.UNet(in_channels=3, classes=2, width=4, recalibration="scse")(x).shape == (2, 2, 16, 16)
"""


def test_torch_alone_runs_blocks_attach_fuse_networks_and_gates(install: Callable[..., Run], tmp_path: Path) -> None:
    run = install("scse[torch]")
    found = messages(run, TORCH, tmp_path)
    assert {name for name, message in found.items() if message} == set(STUDIES)
    assert_command_line_needs_typer(run)


KERAS = """
from importlib.util import find_spec
import keras
import numpy as np
import scse
from scse.keras import ConcurrentSE, attach, detach, networks

x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
assert np.allclose(ConcurrentSE(identity=True)(x), x)
model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(8, 3, name="conv")])
before = model(x)
placed = attach(model, "scse", to="conv")
assert np.allclose(placed(x), before)
assert np.allclose(detach(placed)(x), before)
assert networks.UNet(in_channels=3, classes=2, width=4, depth=1, recalibration="scse")(x).shape == (2, 16, 16, 2)
print(find_spec("torch"), keras.backend.backend())
try:
    scse.ConcurrentSE
except ImportError as error:
    print(error)
"""


def test_keras_and_jax_run_blocks_attach_and_networks_without_torch(
    install: Callable[..., Run], tmp_path: Path
) -> None:
    pytest.importorskip("jax")
    run = install("scse[keras]", "jax")
    found = lines(run("python", "-c", KERAS, KERAS_BACKEND="jax", JAX_DISABLE_MOST_OPTIMIZATIONS="1"))
    assert found == ["None jax", "scse.ConcurrentSE needs torch: pip install 'scse[torch]'"]
    # Keras takes its default otherwise
    said = run("python", "-c", "import scse.keras", KERAS_HOME=str(tmp_path)).stderr.splitlines()[-1]
    assert said.endswith(
        "MissingLibraryError: Keras runs on tensorflow here, which is not installed: pip install tensorflow, or set "
        "KERAS_BACKEND to jax"
    )


def test_the_study_has_the_command_line(install: Callable[..., Run]) -> None:
    run = install("scse[study]")
    (path,) = (line for line in lines(run("scse", "doctor")) if line.startswith("blocks run on"))
    assert "plain torch operations" in path
