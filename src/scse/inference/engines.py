"""What runs a network's forward in prediction: torch, or on the CPU an ONNX export in ONNX Runtime or OpenVINO."""

import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from scse.support.checks import check_choice
from scse.support.errors import UserError, in_short

Run = Callable[[Tensor], Tensor]

FEW = 50
"""Volumes; fewer are segmented before an export, which takes seconds, has repaid itself."""

WORTH = 1.1
"""An engine that is not faster than torch by this factor is not taken: its labels could differ in single voxels."""

TRIALS = 3


@dataclass(frozen=True, slots=True)
class Engine:
    """What runs a network's forward.

    Attributes:
        name: "torch", "onnxruntime" or "openvino".
        reason: why this one, for people.
        run: images (N, channels, height, width) -> logits (N, classes, height, width).
    """

    name: str
    reason: str
    run: Run

    def __str__(self) -> str:
        """Name and reason."""
        return f"{self.name} ({self.reason})"


def make_engine(name: str, network: nn.Module, example: Tensor, *, volumes: int = 1) -> Engine:
    """Make what runs a network, with its weights as they are now.

    "auto" is torch where the network lies on a GPU or few volumes are to be segmented. Otherwise it exports the
    network, times the engines that are installed, and takes the fastest.

    Args:
        name: "auto", "torch", "onnxruntime" or "openvino".
        network: in evaluation mode.
        example: images (N, channels, height, width) of the size that it will get; their number may change.
        volumes: how many are to be segmented.

    Raises:
        ValueError: an unknown name, a package that is missing, a network that is not on the CPU or that the engine
            cannot run; never for "auto" and "torch".
    """
    check_choice("engine", name, ("auto", "torch", *ENGINES))
    if name == "torch":
        return Engine("torch", "the default", network)
    device = next(network.parameters()).device
    if name == "auto":
        if device.type != "cpu":
            return Engine("torch", f"the network is on {device}", network)
        if volumes < FEW:
            return Engine("torch", f"another pays from {FEW} volumes on", network)
        return _fastest(network, example)
    if device.type != "cpu":
        raise UserError(f"engine={name!r} runs on the CPU, but the network is on {device}; use engine='torch'")
    if missing := _missing(name):
        raise UserError(f"engine={name!r}: {missing}")
    try:
        return Engine(name, "as asked", ENGINES[name](_export(network, example)))
    # exporters and engines raise almost anything for what they do not support
    except Exception as error:
        raise UserError(f"engine={name!r} cannot run this network ({in_short(error)}); use engine='torch'") from error


def _fastest(network: nn.Module, example: Tensor) -> Engine:
    told = {name: missing for name in ENGINES if (missing := _missing(name))}
    runs: dict[str, Run] = {"torch": network}
    try:
        exported = _export(network, example) if len(told) < len(ENGINES) else b""
        runs |= {name: make(exported) for name, make in ENGINES.items() if name not in told}
    # as above; torch runs every network
    except Exception as error:
        return Engine("torch", f"the network cannot be exported: {in_short(error)}", network)
    seconds = _seconds(runs, example)
    told |= {name: f"{seconds['torch'] / seconds[name]:.2f} times as fast as torch" for name in runs if name != "torch"}
    reason = "; ".join(f"{name}: {text}" for name, text in told.items())
    best = min(seconds, key=lambda name: seconds[name])
    best = best if seconds["torch"] > WORTH * seconds[best] else "torch"
    return Engine(best, reason, runs[best])


def _seconds(runs: dict[str, Run], example: Tensor) -> dict[str, float]:
    """Least time of each; in turns, so that a busy machine meets all alike."""
    best = dict.fromkeys(runs, float("inf"))
    with torch.inference_mode():
        for _ in range(TRIALS + 1):  # the least is never that of the first, which warms up
            for name, run in runs.items():
                began = time.perf_counter()
                run(example)
                best[name] = min(best[name], time.perf_counter() - began)
    return best


def _missing(name: str) -> str:
    """What is not installed and how to install it; empty if nothing is missing."""
    packages = [package for package in (name, "onnx", "onnxscript") if find_spec(package) is None]
    if not packages:
        return ""
    return f"{', '.join(packages)} not installed, pip install 'scse[{EXTRAS[name]}]'"


def _export(network: nn.Module, example: Tensor) -> bytes:
    """The network as ONNX, for any number of images of the example's size."""
    # a single image would make its number a constant
    images = torch.zeros(2, *example.shape[1:])
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the exporter and its parts warn of their own inner matters
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            program = torch.onnx.export(
                network, (images,), dynamo=True, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), verbose=False
            )
    finally:
        logging.disable(disabled)
    if program is None:
        raise RuntimeError("torch.onnx.export gave nothing")
    content: bytes = program.model_proto.SerializeToString()
    return content


def _onnxruntime(exported: bytes) -> Run:
    import onnxruntime  # noqa: PLC0415 (an optional package)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: images.contiguous().numpy()})[0])

    return run


def _openvino(exported: bytes) -> Run:
    import openvino  # noqa: PLC0415 (an optional package)

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # its own choice is bfloat16 where the processor has it
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(core.read_model(exported), "CPU", settings).create_infer_request()

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(request.infer([images.contiguous().numpy()])[0])

    return run


ENGINES: dict[str, Callable[[bytes], Run]] = {"onnxruntime": _onnxruntime, "openvino": _openvino}
"""Engine -> what loads an ONNX export into it; both also are the names of the packages."""

EXTRAS = {"onnxruntime": "export", "openvino": "openvino"}
"""Engine -> the extra of scse that installs it."""
