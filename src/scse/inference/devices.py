"""Devices that networks run on: the choice by name, as `--device` takes it, and the names that people read."""

import psutil
import torch
from torch import Tensor

from scse.support.errors import UserError
from scse.support.text import counted

NAMES = "auto, cpu, cuda, cuda:N (the GPU of number N) or mps"
"""What a device may be called."""


def devices() -> list[torch.device]:
    """The devices of this machine, in the order in which "auto" takes them: GPUs, then the CPU."""
    found = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append(torch.device("mps"))
    return [*found, torch.device("cpu")]


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device of a name.

    Args:
        device: "auto", a GPU if there is one, otherwise the CPU; "cpu"; "cuda", the current NVIDIA GPU of torch, by
            default the first; "cuda:1" and so on; or "mps", the GPU of a Mac. A `torch.device` is returned as it is.

    Raises:
        UserError: The name is none of these, or this machine has no such device.
    """
    if isinstance(device, torch.device):
        return device
    there = devices()
    if device == "auto":
        return there[0]
    if device == "cuda" and torch.cuda.device_count():
        return torch.device("cuda", torch.cuda.current_device())
    for found in there:
        if device == str(found):
            return found
    listed = ", ".join(f"{found} ({describe_device(found)})" for found in there)
    kind, colon, number = device.partition(":")
    known = device in ("cuda", "mps") or (kind == "cuda" and bool(colon) and number.isdecimal())
    wrong = f"device={device!r} is not on this machine" if known else f"device must be {NAMES}, got {device!r}"
    raise UserError(
        f"{wrong}; torch finds {listed} here: choose one of these with --device, or leave it out, which takes a GPU if "
        "torch finds one"
    )


def describe_device(device: torch.device) -> str:
    """What a device is called, such as "NVIDIA H200" or "CPU, 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    if device.type == "cpu":
        return f"CPU, {counted(torch.get_num_threads(), 'thread')}"
    return str(device)


def free_memory(device: torch.device) -> int:
    """Bytes of memory that this process can take on an NVIDIA GPU; for other devices, of the machine's memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # what torch keeps, it gives to this process again
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """Copy images from the memory of the CPU to a device; on the CPU, they are returned as they are.

    To an NVIDIA GPU, they are copied from pinned memory, so that the next ones are prepared while the GPU computes.
    """
    if device.type == "cuda":
        return images.pin_memory().to(device, non_blocking=True)
    return images.to(device)


def synchronize(device: torch.device) -> None:
    """Wait until a device has computed all that it was given; a CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
