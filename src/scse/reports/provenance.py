"""Provenance of results: machine, code, data and citation."""

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch

BIBTEX = """@inproceedings{roy2018concurrent,
  title     = {Concurrent Spatial and Channel `Squeeze \\& Excitation' in Fully Convolutional Networks},
  author    = {Roy, Abhijit Guha and Navab, Nassir and Wachinger, Christian},
  booktitle = {Medical Image Computing and Computer Assisted Intervention -- MICCAI 2018},
  year      = {2018},
  publisher = {Springer},
  note      = {arXiv:1803.02579}
}
"""


def describe_machine() -> list[tuple[str, str]]:
    """Rows (name, value) with the processor, memory, accelerator and system of this machine."""
    if torch.cuda.is_available():
        accelerator = torch.cuda.get_device_name()
    elif torch.backends.mps.is_available():
        accelerator = "Apple GPU (MPS)"
    else:
        accelerator = "none"
    return [
        ("processor", _processor()),
        ("cores", f"{psutil.cpu_count()}, {torch.get_num_threads()} threads used"),
        ("instructions", torch.backends.cpu.get_cpu_capability()),
        ("memory", f"{psutil.virtual_memory().total / 2**30:.1f} GiB"),
        ("accelerator", accelerator),
        ("system", f"{platform.system()} {platform.release()}"),
        ("Python", platform.python_version()),
    ]


def _processor() -> str:
    """The name of the processor model; on Linux it is read from a file."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def git_commit(folder: Path) -> str | None:
    """The commit of the repository of a folder, with "(dirty)" if tracked files differ; None without a repository."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit} (dirty)" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def data_digest(digests: Mapping[str, str]) -> str:
    """SHA-256 of the names and digests of all cases, sorted by name."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
