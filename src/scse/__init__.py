"""Squeeze & excitation for segmentation networks: blocks, networks, and a study of whether they help.

Implements Roy, Navab, Wachinger, "Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional
Networks", MICCAI 2018 (arXiv 1803.02579), and Project & Excite of Rickmann et al., MICCAI 2019 (arXiv 1906.04649).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scse.support.extras import needing

if TYPE_CHECKING:
    from scse import functional, networks
    from scse.attachment.attaching import attach, detach
    from scse.attachment.fusing import fuse
    from scse.attachment.losing import LostBlockWarning
    from scse.attachment.placements import placements
    from scse.attachment.saving import load_attached, save_attached
    from scse.blocks import ChannelSE, ConcurrentSE, ProjectExcite, SpatialSE
    from scse.data.dataset import Dataset
    from scse.gates import gates_of
    from scse.gates.explaining import explain
    from scse.inference.segmenter import Segmenter
    from scse.studies.runner import study

__version__ = "0.1.0"

# Public name -> its module ("" for a module itself): loaded at first use, so that importing scse is quick.
_HOMES = {
    "ChannelSE": "scse.blocks",
    "ConcurrentSE": "scse.blocks",
    "Dataset": "scse.data.dataset",
    "LostBlockWarning": "scse.attachment.losing",
    "ProjectExcite": "scse.blocks",
    "Segmenter": "scse.inference.segmenter",
    "SpatialSE": "scse.blocks",
    "attach": "scse.attachment.attaching",
    "detach": "scse.attachment.attaching",
    "explain": "scse.gates.explaining",
    "functional": "",
    "fuse": "scse.attachment.fusing",
    "gates_of": "scse.gates",
    "load_attached": "scse.attachment.saving",
    "networks": "",
    "placements": "scse.attachment.placements",
    "save_attached": "scse.attachment.saving",
    "study": "scse.studies.runner",
}

# Public names that need the extra `study`; `torch` is enough for the others.
_OF_STUDIES = ("Dataset", "Segmenter", "explain", "study")

__all__ = [  # noqa: RUF022 (blocks first, as a reader would look for them)
    "ChannelSE",
    "SpatialSE",
    "ConcurrentSE",
    "ProjectExcite",
    "attach",
    "detach",
    "placements",
    "save_attached",
    "load_attached",
    "LostBlockWarning",
    "fuse",
    "gates_of",
    "functional",
    "networks",
    "Dataset",
    "Segmenter",
    "explain",
    "study",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'scse' has no attribute {name!r}")
    home = _HOMES[name]
    with needing(f"scse.{name}", "study" if name in _OF_STUDIES else "torch"):
        value = getattr(import_module(home), name) if home else import_module(f"scse.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
