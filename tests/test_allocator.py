"""The allocator settings: effective with glibc, without effect elsewhere."""

import ctypes
import subprocess
import sys

import pytest

from scse.allocator import keep_large_blocks

glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc here")

HELPERS = """
import resource
import sys
import threading
from pathlib import Path
import torch
from scse.allocator import keep_large_blocks

def faults():
    def work():
        for _ in range(20):
            torch.zeros(1 << 23).add_(1)
    work()  # the first pass grows the heap
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def in_heap():
    block = torch.ones(20 << 20)  # 80 MiB
    [heap] = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[heap]")]
    start, end = (int(number, 16) for number in heap.split()[0].split("-"))
    return start <= block.data_ptr() < end

def in_heap_of_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(in_heap()))
    thread.start()
    thread.join()
    return found[0]
"""


def assert_in_a_new_process(code: str) -> None:
    """Assert that code, with the functions of HELPERS, succeeds in a process whose allocator no other test shares."""
    subprocess.run([sys.executable, "-c", HELPERS + code], check=True)


@glibc
def test_freed_blocks_stay_with_the_process() -> None:
    assert_in_a_new_process("""
default = faults()
assert keep_large_blocks()
kept = faults()
assert kept < default / 4, (kept, default)
""")


@glibc
def test_threads_keep_blocks_too_large_for_a_heap_of_their_own() -> None:
    assert_in_a_new_process("assert keep_large_blocks() and in_heap_of_thread()")


@glibc
def test_importing_scse_leaves_the_allocator_as_it_is() -> None:
    assert_in_a_new_process("""
import scse
assert not in_heap() and not in_heap_of_thread()
""")


@glibc
def test_the_command_line_keeps_blocks() -> None:
    assert_in_a_new_process("""
from scse.cli.app import main
sys.argv = ["scse", "--version"]
try:
    main()
except SystemExit:
    assert in_heap() and in_heap_of_thread()
else:
    raise AssertionError("the command line has ended without an exit code")
""")


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "platform", "darwin")
        assert not keep_large_blocks()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())  # a C library without mallopt, as musl
    assert not keep_large_blocks()
