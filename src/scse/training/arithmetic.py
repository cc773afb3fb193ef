"""How a GPU computes during a run: TensorFloat-32, cuDNN's choice of algorithms, and determinism."""

import os
from collections.abc import Generator
from contextlib import contextmanager, nullcontext

import torch

from scse.support.errors import UserError

WORKSPACE, FIXED_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
"""Variable of the environment without which cuBLAS may add in another order, and a value with which it does not."""


@contextmanager
def arithmetic(device: torch.device, *, deterministic: bool) -> Generator[None]:
    """Set how a GPU computes, and set it back at the end. Other devices stay as they are.

    Convolutions and matrix products of float32 round their factors to TensorFloat-32. cuDNN measures which of its
    algorithms are fastest for the shapes that it meets; with `deterministic` it takes those that repeat their bits, and
    so does torch.

    Args:
        device: Device of a run.
        deterministic: Whether a run on a GPU is to repeat bit for bit.

    Raises:
        UserError: With `deterministic`, the network has an operation that cannot repeat its bits on this device.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = (cudnn.benchmark, cudnn.allow_tf32, torch.get_float32_matmul_precision())
    given = WORKSPACE in os.environ
    # torch looks at the variable once, at the first matrix product of the process: of whatever run
    os.environ.setdefault(WORKSPACE, FIXED_WORKSPACE)
    cudnn.benchmark, cudnn.allow_tf32 = not deterministic, True
    torch.set_float32_matmul_precision("high")
    try:
        with _deterministically() if deterministic else nullcontext():
            yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = before[:2]
        torch.set_float32_matmul_precision(before[2])
        if not given:
            del os.environ[WORKSPACE]


@contextmanager
def _deterministically() -> Generator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # type: ignore[attr-defined] # nothing reads such memory
    try:
        yield
    except RuntimeError as error:
        if problem := nondeterministic(error):
            raise UserError(problem) from error
        raise
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def nondeterministic(error: BaseException) -> str:
    """What to say about an error of torch's deterministic mode; "" for other errors."""
    message = str(error)
    if WORKSPACE in message:
        return (
            f"deterministic=true needs the environment variable {WORKSPACE}={FIXED_WORKSPACE} before the first matrix "
            "product on the GPU; set it before Python starts"
        )
    operation, found, _ = message.partition(" does not have a deterministic implementation")
    if not found:
        return ""
    return (
        f"deterministic=true: {operation} of this network does not repeat its bits on a GPU; leave deterministic out, "
        "or choose another network"
    )
