"""Engines that run a network in prediction: torch, or on CPUs ONNX Runtime or OpenVINO with an ONNX export."""

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

FEWEST_VOLUMES = 50
"""Least number of volumes for which exporting the network, which takes seconds, saves time."""

LEAST_SPEEDUP = 1.1
"""Least speedup over torch for which "auto" chooses another engine, because labels may differ in single voxels."""

TRIALS = 3


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that runs a network.

    Attributes:
        name: "torch", "onnxruntime" or "openvino".
        reason: Reason for the choice of this engine, as text.
        run: Function from images (N, channels, height, width) to logits (N, classes, height, width).
    """

    name: str
    reason: str
    run: Run

    def __str__(self) -> str:
        """Name and reason of the engine."""
        return f"{self.name} ({self.reason})"


def make_engine(name: str, network: nn.Module, example: Tensor, *, volumes: int = 1) -> Engine:
    """Create an engine for a network. An export contains the current weights.

    "auto" chooses torch if the network is on a GPU or there are few volumes. Otherwise it exports the network, times
    the installed engines, and chooses the fastest.

    Args:
        name: "auto", "torch", "onnxruntime" or "openvino".
        network: Network in evaluation mode.
        example: Images (N, channels, height, width) of the size to be predicted; their number may differ later.
        volumes: Number of volumes to be segmented.

    Raises:
        UserError: The name is unknown. Except for "auto" and "torch": a package is missing, the network is not on the
            CPU, or the engine cannot run it.
    """
    check_choice("engine", name, ("auto", "torch", *ENGINES))
    if name == "torch":
        return Engine("torch", "the default", network)
    device = next(network.parameters()).device
    if name == "auto":
        if device.type != "cpu":
            return Engine("torch", f"the network is on {device}", network)
        if volumes < FEWEST_VOLUMES:
            return Engine("torch", f"other engines save time from {FEWEST_VOLUMES} volumes", network)
        return _fastest(network, example)
    if device.type != "cpu":
        raise UserError(f"engine={name!r} runs on the CPU, but the network is on {device}; use engine='torch'")
    if missing := _missing(name):
        raise UserError(f"engine={name!r}: {missing}")
    try:
        return Engine(name, "as requested", ENGINES[name](export_network(network, example)))
    # exporters and engines raise almost any exception for unsupported operations
    except Exception as error:
        raise UserError(f"engine={name!r} cannot run this network ({in_short(error)}); use engine='torch'") from error


def _fastest(network: nn.Module, example: Tensor) -> Engine:
    notes = {name: missing for name in ENGINES if (missing := _missing(name))}
    runs: dict[str, Run] = {"torch": network}
    try:
        exported = export_network(network, example) if len(notes) < len(ENGINES) else b""
        runs |= {name: make(exported) for name, make in ENGINES.items() if name not in notes}
    # any exception, as above; torch runs every network
    except Exception as error:
        return Engine("torch", f"the network cannot be exported: {in_short(error)}", network)
    seconds = _seconds(runs, example)
    notes |= {
        name: f"{seconds['torch'] / seconds[name]:.2f} times as fast as torch" for name in runs if name != "torch"
    }
    reason = "; ".join(f"{name}: {text}" for name, text in notes.items())
    best = min(seconds, key=lambda name: seconds[name])
    best = best if seconds["torch"] > LEAST_SPEEDUP * seconds[best] else "torch"
    return Engine(best, reason, runs[best])


def _seconds(runs: dict[str, Run], example: Tensor) -> dict[str, float]:
    """Least time of each engine; the engines alternate, so that load on the machine affects all equally."""
    best = dict.fromkeys(runs, float("inf"))
    with torch.inference_mode():
        for _ in range(TRIALS + 1):  # the first round is a warm-up, whose times are never the least
            for name, run in runs.items():
                began = time.perf_counter()
                run(example)
                best[name] = min(best[name], time.perf_counter() - began)
    return best


def _missing(name: str) -> str:
    """Names of missing packages and how to install them; "" if none is missing."""
    packages = [package for package in (name, "onnx", "onnxscript") if find_spec(package) is None]
    if not packages:
        return ""
    return f"{', '.join(packages)} not installed: pip install 'scse[{EXTRAS[name]}]'"


def export_network(network: nn.Module, example: Tensor) -> bytes:
    """Export the network to ONNX, for any number of images of the example's size."""
    # with a single image, the exporter would make the batch size a constant
    images = torch.zeros(2, *example.shape[1:])
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the exporter logs warnings about its internals
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            program = torch.onnx.export(
                network, (images,), dynamo=True, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), verbose=False
            )
    finally:
        logging.disable(disabled)
    if program is None:
        raise RuntimeError("torch.onnx.export returned None")
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
        "INFERENCE_PRECISION_HINT": "f32",  # the default is bfloat16 on processors that support it
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(core.read_model(exported), "CPU", settings).create_infer_request()

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(request.infer([images.contiguous().numpy()])[0])

    return run


ENGINES: dict[str, Callable[[bytes], Run]] = {"onnxruntime": _onnxruntime, "openvino": _openvino}
"""Functions that load an ONNX export, by engine. The names of engines are also those of their packages."""

EXTRAS = {"onnxruntime": "export", "openvino": "openvino"}
"""Extra of scse that installs each engine."""
