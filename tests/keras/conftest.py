"""The tests of scse.keras, run in one process per backend: `KERAS_BACKEND=jax uv run pytest tests/keras`.

Without KERAS_BACKEND nothing is collected here; `tests/test_keras_backends.py` starts one process for each backend.
"""

import gc
import os
import sys
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

if "KERAS_BACKEND" not in os.environ:
    collect_ignore_glob = ["test_*.py"]

# set before Keras is imported, because the frameworks read these variables when they are imported
ENVIRONMENT = {
    "JAX_ENABLE_X64": "1",  # without it, JAX does not compute in float64
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compilation takes most of the time, and each test runs once
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # one thread, as in tests/conftest.py
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)

if os.environ.get("KERAS_BACKEND", "torch") != "torch":
    # If triton is installed with torch, torch.optim and torch's flop counter import it. Its LLVM crashes the process if
    # TensorFlow was imported before, which Keras does on any backend.
    sys.modules.setdefault("triton", None)


if "KERAS_BACKEND" in os.environ:
    with warnings.catch_warnings(action="error"):  # as pytest does it for the modules of tests
        import scse.keras
    scse.keras.ConcurrentSE()
LOADED = frozenset(sys.modules)


@pytest.fixture(scope="session")
def loaded_with_scse_keras(request: pytest.FixtureRequest) -> frozenset[str]:
    """Names of the modules that importing scse.keras loads, found out before any test is imported."""
    if any(item.path.parent != Path(__file__).parent for item in request.session.items):
        pytest.skip("tests of other folders, which load torch, are in the same process")
    return LOADED


@pytest.fixture(scope="module", autouse=True)
def _frozen_objects() -> None:
    # `quantize` collects garbage for every layer, which without this visits all objects of the frameworks each time
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    # Keras draws weights anew in every process, and some draws have hidden units that no image of a test activates
    import keras

    keras.utils.set_random_seed(0)


def pytest_configure(config: pytest.Config) -> None:
    # Keras converts its variables and torch tensors to NumPy in a way that is deprecated in NumPy 2
    ignored = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
    for module in ("common.variables", "tensorflow.core", "jax.core", "torch.core"):
        config.addinivalue_line("filterwarnings", f"{ignored}:keras.src.backend.{module}")


@pytest.fixture(scope="module")
def quick_networks() -> Generator[None]:
    """Draw weights without JAX, whose compilation of the initialisers takes most of the time of a test."""
    if os.environ["KERAS_BACKEND"] != "jax":
        yield
        return
    import keras
    import numpy as np

    def drawn(self: Any, shape: tuple[int, ...], dtype: str | None = None) -> Any:
        limit = np.sqrt(1 / np.prod(shape[:-1]))
        return keras.ops.convert_to_tensor(rng.uniform(-limit, limit, shape), dtype=dtype)

    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.initializers.VarianceScaling, "__call__", drawn)
        yield
