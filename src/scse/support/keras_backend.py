"""The backend that Keras uses in this environment, found without importing Keras or a backend."""

import json
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from scse.support.errors import UserError

BACKENDS = ("tensorflow", "jax", "torch")
"""Backends of Keras on which `scse.keras` runs. Each has the name of its package."""

DEFAULT = "tensorflow"
"""Default backend of Keras."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend that Keras uses when it is imported.

    Attributes:
        backend: Name of the backend. It may be unknown to Keras.
        by: Source of the choice, in words.
        own: Whether the user chose it for this process. (Keras itself writes keras.json at its first import.)
    """

    backend: str
    by: str
    own: bool = False


def chosen_backend() -> Choice:
    """Find the backend in the order of Keras: $KERAS_BACKEND, the user's keras.json, the default."""
    if backend := os.environ.get("KERAS_BACKEND"):
        return Choice(backend, "$KERAS_BACKEND", own=True)
    path = _keras_home() / "keras.json"
    try:
        return Choice(json.loads(path.read_text())["backend"], str(path))
    except (OSError, ValueError, KeyError):  # Keras ignores such a file too
        return Choice(DEFAULT, "Keras' default")


def installed_backends() -> list[str]:
    """Return the backends that are installed."""
    return [backend for backend in BACKENDS if find_spec(backend) is not None]


def settle_backend(needed: str | None = None) -> str:
    """Set $KERAS_BACKEND to an installed backend. Call this function before Keras is imported.

    Args:
        needed: Backend that must be used. Default: the user's choice or, if that is not installed and $KERAS_BACKEND is
            not set, the first installed backend.

    Returns:
        Name of the backend.

    Raises:
        UserError: Keras or the backend is not installed, or `scse.keras` does not run on the chosen backend.
    """
    if find_spec("keras") is None:
        raise UserError("Keras is not installed; pip install 'scse[keras]'")
    installed, choice = installed_backends(), chosen_backend()
    wanted = needed or choice.backend
    if needed is None and not choice.own and wanted not in installed:
        wanted = next(iter(installed), wanted)
    if wanted not in BACKENDS:
        raise UserError(f"{choice.by} says {wanted!r}, scse.keras runs on {', '.join(BACKENDS)}; set KERAS_BACKEND")
    if wanted not in installed:
        raise UserError(f"this needs {wanted}, which is not installed; pip install {wanted}")
    os.environ["KERAS_BACKEND"] = wanted
    return wanted


def quiet_tensorflow() -> None:
    """Suppress TensorFlow's messages on stderr, in a process that computes nothing with it.

    At any log level, TensorFlow reports at start that oneDNN is on, so oneDNN is switched off. Settings of the user are
    kept.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def _keras_home() -> Path:
    if home := os.environ.get("KERAS_HOME"):
        return Path(home).expanduser()
    user = Path("~").expanduser()
    return (user if os.access(user, os.W_OK) else Path("/tmp")) / ".keras"
