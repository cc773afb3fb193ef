"""The compiled kernels: the choice of the library for this processor, and its C interface (cpp/recalibrate.hpp)."""

import ctypes
import os
from importlib.resources import as_file, files
from pathlib import Path

import torch

INSTRUCTION_SETS = {"AVX512": "avx512", "AVX2": "avx2"}
"""torch's name of a CPU capability -> suffix of the library. Any other processor uses "baseline"."""

KERNELS_VARIABLE = "SCSE_KERNELS"
"""Environment variable: "off" selects plain torch operations for all blocks, a folder the libraries in it."""


class Call(ctypes.Structure):
    """Arguments of one call of a kernel. The fields mirror `scse::Call`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("samples", "channels", "pixels", "hidden")),
        *((name, ctypes.c_int32) for name in ("kind", "activation", "gate", "storage", "channels_last", "threads")),
        ("scale", ctypes.c_double),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "map",
                "squeeze_weight",
                "squeeze_bias",
                "excite_weight",
                "excite_bias",
                "project_weight",
                "project_bias",
                "excitation",
                "spatial_gate",
                "output",
                "output_grad",
                "map_grad",
                "squeeze_weight_grad",
                "squeeze_bias_grad",
                "excite_weight_grad",
                "excite_bias_grad",
                "project_weight_grad",
                "project_bias_grad",
            )
        ),
    )


class Library:
    """A loaded library of kernels.

    Args:
        path: Path of the library file.

    Raises:
        OSError: The library cannot be loaded, or was built for another version of scse.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        library = ctypes.CDLL(str(path))
        library.scse_call_bytes.restype = ctypes.c_int64
        if library.scse_call_bytes() != ctypes.sizeof(Call):
            raise OSError(f"{path}: was built for another version of scse; install scse again")
        for function in (library.scse_forward, library.scse_backward):
            function.argtypes = [ctypes.POINTER(Call)]
        self._forward, self._backward = library.scse_forward, library.scse_backward

    def forward(self, call: Call) -> None:
        """Compute `output`, `excitation` and `spatial_gate`; raise MemoryError if partial sums cannot be allocated."""
        if self._forward(call):
            raise MemoryError("out of memory for the partial sums of an scse block")

    def backward(self, call: Call) -> None:
        """Compute the gradients; raise MemoryError if partial sums cannot be allocated."""
        if self._backward(call):
            raise MemoryError("out of memory for the partial sums of an scse block")


def instruction_set() -> str:
    """Return the suffix of the library for this processor."""
    return INSTRUCTION_SETS.get(torch.backends.cpu.get_cpu_capability(), "baseline")


def open_library() -> tuple[Library | None, str]:
    """Load the kernels for this processor.

    Returns:
        The library, or None if no library can be used, and a one-line description of the outcome.
    """
    setting = os.environ.get(KERNELS_VARIABLE)
    if setting == "off":
        return None, f"switched off ({KERNELS_VARIABLE}=off)"
    name = f"scse_{instruction_set()}.so"
    file = (Path(setting) if setting else files("scse.blocks.kernels")) / name
    if not file.is_file():
        return None, f"{file} does not exist: scse was installed without a suitable C++ compiler"
    try:
        with as_file(file) as path:
            return Library(path), f"fused kernels ({instruction_set()})"
    except OSError as error:
        return None, f"{name} cannot be loaded: {error}"
