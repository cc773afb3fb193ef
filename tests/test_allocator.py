"""The allocator: takes effect where glibc is, and does nothing elsewhere."""

import ctypes
import subprocess
import sys

import pytest

from scse.allocator import keep_large_blocks


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc here")
def test_freed_blocks_stay_with_the_process() -> None:
    # in a process of its own: how memory is handled must not change for the other tests
    code = """
import resource
import torch
from scse.allocator import keep_large_blocks
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(1 << 22).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
default = faults()
assert keep_large_blocks()
faults()
assert faults() < default / 4, (faults(), default)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "platform", "darwin")
        assert not keep_large_blocks()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())  # a C library without mallopt, as musl
    assert not keep_large_blocks()
