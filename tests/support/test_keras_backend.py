"""The backend of Keras: found in the way Keras finds it, and set before Keras is imported."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from scse.support import keras_backend
from scse.support.keras_backend import BACKENDS, Choice, chosen_backend, quiet_tensorflow, settle_backend

Installed = Callable[..., None]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set an empty home folder of Keras, and no backend in the environment."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "")  # set, not deleted, so that its value is restored if a test sets it
    return tmp_path


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Installed:
    """Return a function that makes only the given packages appear to be installed."""
    return lambda *names: monkeypatch.setattr(
        keras_backend, "find_spec", lambda name: object() if name in names else None
    )


def write(home: Path, backend: object) -> None:
    (home / "keras.json").write_text(json.dumps({"floatx": "float32", "backend": backend}))


def test_the_environment_comes_before_the_file_and_the_file_before_the_default(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen_backend() == Choice("tensorflow", "Keras' default")
    write(home, "torch")
    assert chosen_backend() == Choice("torch", str(home / "keras.json"))
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert chosen_backend() == Choice("jax", "$KERAS_BACKEND", own=True)


@pytest.mark.parametrize("content", ["", "{", '{"floatx": "float32"}'])
def test_a_file_that_names_no_backend_is_ignored(home: Path, content: str) -> None:
    (home / "keras.json").write_text(content)
    assert chosen_backend().by == "Keras' default"


def test_the_file_lies_in_the_home_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(home))
    (home / ".keras").mkdir()
    write(home / ".keras", "jax")
    assert chosen_backend() == Choice("jax", str(home / ".keras" / "keras.json"))


@pytest.mark.slow
@pytest.mark.skipif(not all(map(find_spec, ("keras", "jax"))), reason="Keras or JAX is not installed")
def test_keras_finds_the_same(home: Path) -> None:
    write(home, "jax")
    code = "import keras; print(keras.backend.backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{chosen_backend().backend}\n"


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_choice_of_the_user_is_used(installed: Installed, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    installed("keras", *BACKENDS)
    monkeypatch.setenv("KERAS_BACKEND", backend)
    assert settle_backend() == os.environ["KERAS_BACKEND"] == backend


def test_the_backend_in_the_file_is_used_if_it_is_installed(home: Path, installed: Installed) -> None:
    write(home, "torch")
    installed("keras", "jax", "torch")
    assert settle_backend() == "torch"


@pytest.mark.parametrize("named", [None, "tensorflow", "numpy"])
def test_otherwise_the_first_installed_backend_is_used(home: Path, installed: Installed, named: str | None) -> None:
    if named is not None:
        write(home, named)
    installed("keras", "jax", "torch")
    assert settle_backend() == os.environ["KERAS_BACKEND"] == "jax"


def test_the_needed_backend_overrides_every_choice(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    installed("keras", *BACKENDS)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert settle_backend("tensorflow") == os.environ["KERAS_BACKEND"] == "tensorflow"


@pytest.mark.parametrize(
    ("chosen", "names", "message"),
    [
        ("", (), r"Keras is not installed; pip install 'scse\[keras\]'"),
        ("", ("keras",), "this needs tensorflow, which is not installed; pip install tensorflow"),
        ("torch", ("keras", "jax"), "this needs torch, which is not installed; pip install torch"),
        (
            "numpy",
            ("keras", "jax"),
            r"\$KERAS_BACKEND says 'numpy', scse.keras runs on tensorflow, jax, torch; set KERAS",
        ),
    ],
)
def test_missing_packages_raise_and_set_nothing(
    installed: Installed, monkeypatch: pytest.MonkeyPatch, chosen: str, names: tuple[str, ...], message: str
) -> None:
    installed(*names)
    monkeypatch.setenv("KERAS_BACKEND", chosen)
    with pytest.raises(ValueError, match=message):
        settle_backend()
    assert os.environ["KERAS_BACKEND"] == chosen


def test_a_needed_backend_that_is_missing_raises(installed: Installed) -> None:
    installed("keras", "jax")
    with pytest.raises(ValueError, match="this needs tensorflow, which is not installed; pip install tensorflow"):
        settle_backend("tensorflow")


def test_tensorflow_is_kept_quiet_unless_the_user_wants_it_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TF_CPP_MIN_LOG_LEVEL", "0"), ("TF_ENABLE_ONEDNN_OPTS", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    quiet_tensorflow()
    assert (os.environ["TF_CPP_MIN_LOG_LEVEL"], os.environ["TF_ENABLE_ONEDNN_OPTS"]) == ("0", "0")
