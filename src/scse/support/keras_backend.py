"""Which backend Keras takes in this environment, found without importing Keras or a backend."""

import json
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from scse.support.errors import UserError

BACKENDS = ("tensorflow", "jax", "torch")
"""Of Keras, that `scse.keras` runs on; each is the name of its package too."""

DEFAULT = "tensorflow"
"""What Keras takes if nobody has chosen."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend that Keras takes when it is imported.

    Attributes:
        backend: its name, which Keras may not know.
        by: what says so, for people.
        own: whether the user has set it for this process; Keras itself writes its file at its first import.
    """

    backend: str
    by: str
    own: bool = False


def chosen_backend() -> Choice:
    """What Keras goes by: $KERAS_BACKEND, else the user's keras.json, else its default."""
    if backend := os.environ.get("KERAS_BACKEND"):
        return Choice(backend, "$KERAS_BACKEND", own=True)
    path = _keras_home() / "keras.json"
    try:
        return Choice(json.loads(path.read_text())["backend"], str(path))
    except (OSError, ValueError, KeyError):  # which Keras passes over too
        return Choice(DEFAULT, "Keras' default")


def installed_backends() -> list[str]:
    """The backends that can be imported here."""
    return [backend for backend in BACKENDS if find_spec(backend) is not None]


def settle_backend(needed: str | None = None) -> str:
    """Make Keras take a backend that is installed; call it before Keras is imported.

    Args:
        needed: the backend that must be taken; by default the user's choice, or the first one that is installed if
            that is none.

    Returns:
        The backend.

    Raises:
        ValueError: Keras is not installed, or no backend, or not the one that is needed or set by $KERAS_BACKEND.
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
    """Keep TensorFlow from telling about itself on stderr, in a process that computes nothing with it.

    It tells at every start that oneDNN is on, at any level of its log, so that has to be off. What the user has set
    stays.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def _keras_home() -> Path:
    if home := os.environ.get("KERAS_HOME"):
        return Path(home).expanduser()
    user = Path("~").expanduser()
    return (user if os.access(user, os.W_OK) else Path("/tmp")) / ".keras"
