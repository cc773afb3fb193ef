"""The choice of the library, its description, and its C++ code under sanitizers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scse.blocks.kernels import cpu, fused, interface, library

ROOT = Path(__file__).resolve().parents[3]


def described(**environment):
    """Return `describe_backend()` of a process with these environment variables, after a block ran in it."""
    script = "import torch, scse; from scse.blocks.kernels import describe_backend; "
    script += "scse.ConcurrentSE(2)(torch.ones(1, 2, 3)); print(describe_backend())"
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_library_of_this_processor_is_loaded():
    assert fused.describe_backend() == f"fused kernels ({library.instruction_set()})"


def test_older_instruction_set_gets_its_own_library():
    assert described(ATEN_CPU_CAPABILITY="default") == "fused kernels (baseline)"


def test_blocks_work_without_kernels():
    assert described(SCSE_KERNELS="off") == "plain torch operations: switched off (SCSE_KERNELS=off)"


def test_blocks_work_if_no_library_was_built(tmp_path):
    description = described(SCSE_KERNELS=str(tmp_path))
    assert "does not exist: scse was installed without a suitable C++ compiler" in description


def test_blocks_work_if_the_library_is_damaged(tmp_path):
    (tmp_path / f"scse_{library.instruction_set()}.so").write_bytes(b"no library")
    assert "cannot be loaded" in described(SCSE_KERNELS=str(tmp_path))


def test_library_of_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(library.ctypes, "sizeof", lambda _: 8)
    with pytest.raises(OSError, match="was built for another version of scse; install scse again"):
        library.Library(cpu.LIBRARY.path)


@pytest.mark.parametrize("kind", interface.KINDS)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_lack_of_memory_raises(direction, kind):
    # no address space is large enough for the partial sums of this map
    call = library.Call(samples=1, channels=2**16, pixels=2**40, hidden=1, kind=cpu.KIND_CODES[kind], threads=1)
    with pytest.raises(MemoryError, match="partial sums"):
        getattr(cpu.LIBRARY, direction)(call)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="builds the kernels with the sanitizers of g++")
def test_kernels_pass_their_tests_under_sanitizers(tmp_path):
    """AddressSanitizer and UBSan stop the process at the first access out of bounds or undefined behaviour."""
    names = sorted({"baseline", library.instruction_set()})
    for command in (
        ["cmake", "-S", ROOT, "-B", tmp_path, "-DSCSE_SANITIZE=ON"],
        ["cmake", "--build", tmp_path, "--parallel", "2", "--target", *(f"scse_{name}" for name in names)],
    ):
        subprocess.run(command, check=True, capture_output=True, timeout=400)
    environment = os.environ | {
        # libasan looks up the functions that throw exceptions when the process starts, so libstdc++ must be loaded
        "LD_PRELOAD": f"{library_of_compiler('libasan.so')} {library_of_compiler('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself leaks at exit
        "SCSE_KERNELS": str(tmp_path),
    }
    tests = "output_is or gradients_are_those or other_ways or change_no_bit or half_precision or without_bias"
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-o", "addopts=", "-q", "--capture=no", "-k", tests]
    done = subprocess.run(
        [*command, ROOT / "tests" / "blocks" / "kernels" / "test_fused.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def library_of_compiler(name):
    found = subprocess.run(["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True)
    return found.stdout.strip()
