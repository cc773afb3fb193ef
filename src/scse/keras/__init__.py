"""The blocks, networks and trained models of scse for Keras 3. torch is imported only if it is the backend.

Source: Roy, Navab, Wachinger, "Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional
Networks", MICCAI 2018 (arXiv 1803.02579), and Rickmann et al., MICCAI 2019 (arXiv 1906.04649).
"""

from scse.support.extras import MissingLibraryError, needing
from scse.support.keras_backend import BACKENDS, installed_backends

try:
    with needing("scse.keras", "keras"):
        from scse.keras import networks
        from scse.keras.attaching import attach, detach
        from scse.keras.layers import ChannelSE, ConcurrentSE, ProjectExcite, SpatialSE
        from scse.keras.weights import from_torch, to_torch
except ModuleNotFoundError as error:
    if error.name not in BACKENDS:
        raise
    raise MissingLibraryError(
        f"Keras runs on {error.name} here, which is not installed: pip install {error.name}, or set "
        f"KERAS_BACKEND to {' or '.join(installed_backends() or BACKENDS)}",
        name=error.name,
    ) from error

__all__ = [
    "ChannelSE",
    "ConcurrentSE",
    "ProjectExcite",
    "SpatialSE",
    "attach",
    "detach",
    "from_torch",
    "networks",
    "to_torch",
]
