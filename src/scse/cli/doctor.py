"""What is installed and what a machine offers: the rows of `scse doctor`."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec

import torch

from scse.blocks.kernels import describe_backend
from scse.data.prepared import cache_folder
from scse.inference.devices import choose_device, describe_device, devices
from scse.support.keras_backend import BACKENDS, chosen_backend, installed_backends
from scse.training.setup import resolve_precision

OPTIONAL = {
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "openvino": "openvino",
    "segmentation_models_pytorch": "smp",
    "keras": "keras",
    "mlflow": "mlflow",
    "pydicom": "dicom",
    "highdicom": "dicom",
}
"""Optional package -> the extra of scse that installs it."""

REQUIRED = (
    *("scse", "torch", "monai", "lightning-fabric", "numpy", "pandas", "plotly", "matplotlib"),
    *("nibabel", "simpleitk"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One finding: what, what was found, and what to do about it, if anything."""

    what: str
    found: str
    remedy: str = ""


def diagnose() -> list[Row]:
    """Versions, devices, threads, the path the blocks take, and optional parts with how to install the missing ones."""
    distributions = packages_distributions()
    precision = "bfloat16" if resolve_precision("auto") == "bf16" else "float32"
    return [
        Row("python", f"{platform.python_version()} on {platform.platform()}"),
        *(Row(name, version(name)) for name in REQUIRED),
        Row("devices", ", ".join(f"{device}: {describe_device(device)}" for device in devices())),
        Row("device taken", f"{choose_device('auto')} (--device auto)"),
        Row("threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors"),
        Row("processor instructions", torch.backends.cpu.get_cpu_capability()),
        Row("training precision", f"{precision} (precision=auto)"),
        Row("blocks run on", describe_backend()),
        Row("prepared arrays", str(cache_folder())),
        # TensorFlow comes under several names, MLflow without its server as mlflow-skinny
        *(_optional(name, extra, distributions.get(name, [name])[0]) for name, extra in OPTIONAL.items()),
        *_backends(distributions),
    ]


def _backends(distributions: Mapping[str, Sequence[str]]) -> list[Row]:
    """What there is for Keras to run on, and what it takes; nothing without Keras."""
    if find_spec("keras") is None:
        return []
    installed, choice = installed_backends(), chosen_backend()
    found = [f"{name} {version(distributions[name][0])}" for name in installed]
    return [
        Row("keras can run on", ", ".join(found)),
        Row("keras runs on", f"{choice.backend} ({choice.by})", _remedy(choice.backend, installed)),
    ]


def _remedy(backend: str, installed: Sequence[str]) -> str:
    if backend in installed:
        return ""
    others = f"set KERAS_BACKEND to {' or '.join(installed or BACKENDS)}"
    return f"not installed; pip install {backend}, or {others}" if backend in BACKENDS else others


def _optional(name: str, extra: str, distribution: str) -> Row:
    if find_spec(name) is None:
        return Row(name, "not installed", f"pip install 'scse[{extra}]'")
    try:
        return Row(name, version(distribution))
    except PackageNotFoundError:
        return Row(name, "installed, version unknown")
