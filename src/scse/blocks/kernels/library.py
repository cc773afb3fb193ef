"""The compiled kernels: which library this processor gets, and its C interface (cpp/recalibrate.hpp)."""

import ctypes
import os
from importlib.resources import as_file, files
from pathlib import Path

import torch

INSTRUCTION_SETS = {"AVX512": "avx512", "AVX2": "avx2"}
"""torch's name of what the processor has -> suffix of the library; any other processor gets "baseline"."""

SWITCH = "SCSE_KERNELS"
"""Environment variable: "off" leaves all blocks to plain torch operations, a folder has the libraries to load."""


class Call(ctypes.Structure):
    """One call of a kernel: `scse::Call`, field by field."""

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
        path: of the file.

    Raises:
        OSError: it cannot be loaded, or is of another version of scse.
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
        """Write `output`, `excitation` and `spatial_gate`; MemoryError if there is none for partial sums."""
        if self._forward(call):
            raise MemoryError("no memory for the partial sums of a scse block")

    def backward(self, call: Call) -> None:
        """Write the gradients; MemoryError if there is no memory for partial sums."""
        if self._backward(call):
            raise MemoryError("no memory for the partial sums of a scse block")


def instruction_set() -> str:
    """The suffix of the library that suits this processor."""
    return INSTRUCTION_SETS.get(torch.backends.cpu.get_cpu_capability(), "baseline")


def open_library() -> tuple[Library | None, str]:
    """Load the kernels for this processor.

    Returns:
        The library, or None where there is none that runs; and what to tell of it in a line.
    """
    chosen = os.environ.get(SWITCH)
    if chosen == "off":
        return None, f"switched off ({SWITCH}=off)"
    name = f"scse_{instruction_set()}.so"
    found = (Path(chosen) if chosen else files("scse.blocks.kernels")) / name
    if not found.is_file():
        return None, f"{found} is not there: scse was installed where no C++ compiler could build it"
    try:
        with as_file(found) as path:
            return Library(path), f"fused kernels ({instruction_set()})"
    except OSError as error:
        return None, f"{name} cannot be loaded: {error}"
