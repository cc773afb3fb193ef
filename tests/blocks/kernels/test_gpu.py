"""The GPU kernels: their contract in Triton's interpreter or on a card, what they are compiled to, when they serve."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="torch is a build without Triton")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from scse.blocks.kernels import fused, gpu, interface, triton_kernels

CONTRACT = Path(__file__).with_name("gpu_contract.py")


def assert_contract_holds(**environment):
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-o", "addopts=", "-q", CONTRACT]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


@pytest.mark.slow
def test_kernels_hold_their_contract_in_the_interpreter():
    assert_contract_holds(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_kernels_hold_their_contract_on_the_card():
    assert_contract_holds()


MAPS = ("x", "output", "grad", "map_grad")
TYPES = {"state": "*i32", "scale": "fp32", "sample_stride": "i64"}
NUMBERS = ("samples", "channels", "hidden", "positions", "first_items", "second_items", "lag", "position_stride")
BIASES = ("squeeze_bias", "excite_bias", "project_bias")
ABSENT = (*BIASES, *(f"{name}_grad" for name in BIASES), "map_grad")
CHANNEL, SPATIAL = (
    ("squeeze_weight", "squeeze_bias", "excite_weight", "excite_bias"),
    ("project_weight", "project_bias"),
)
UNUSED = {kind: (*names, *(f"{name}_grad" for name in names)) for kind, names in (("sse", CHANNEL), ("cse", SPATIAL))}

every_kernel = pytest.mark.parametrize(
    "kernel", [triton_kernels.forward, triton_kernels.backward], ids=["forward", "backward"]
)


def compiled(kernel, kind, *, capability, absent=(), dtype="bf16", channels=64):
    """A kernel for channels-last maps of 65,536 positions, compiled for a card that need not be here."""
    hidden, size = channels // 2, {"bf16": 2, "fp32": 4}[dtype]
    sizes = gpu.Sizes.of(gpu.Shape(8, channels, hidden, 65536, (channels * 65536, 1, channels)))
    options = {"KIND": kind, "ACTIVATION": "relu", "GATE": "sigmoid", "ROWS": gpu.ROWS, "COLUMNS": sizes.columns}
    stages = 1 if kernel is triton_kernels.forward else sizes.stages(size)
    # the stride between channels is 1, which Triton compiles in
    known = {**sizes.constants(), **options, "STAGES": stages, "channel_stride": 1}
    known |= dict.fromkeys((*absent, *UNUSED.get(kind, ())))
    constants = {name: known[name] for name in kernel.arg_names if name in known}
    types = {**dict.fromkeys(MAPS, f"*{dtype}"), **dict.fromkeys(NUMBERS, "i32"), **TYPES}
    signature = {name: "constexpr" if name in constants else types.get(name, "*fp32") for name in kernel.arg_names}
    # what Triton finds out when it launches: pointers and most numbers are multiples of 16
    attributes = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or name in ("channels", "positions", "position_stride", "sample_stride")
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": gpu.WARPS})


@pytest.mark.parametrize("kind", interface.KINDS)
@pytest.mark.parametrize(
    ("capability", "absent"), [(80, ()), (90, ABSENT)], ids=["all", "without biases and gradient of the map"]
)
@every_kernel
def test_kernels_compile_for_cards_that_are_not_here(kernel, capability, absent, kind):
    found = compiled(kernel, kind, absent=absent, capability=capability)
    assert found.asm["cubin"]
    assert f".target sm_{capability}" in found.asm["ptx"]


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("channels", [64, 1024])
@every_kernel
def test_shared_memory_is_enough_on_cards_with_the_least_of_it(kernel, channels, dtype):
    # 99 KiB on consumer cards of compute capability 8.6 and 8.9
    assert compiled(kernel, "max", capability=86, dtype=dtype, channels=channels).metadata.shared <= 99 * 2**10


def test_sizes_depend_on_the_shape_alone_and_cover_it():
    for samples, channels, positions in [(1, 1, 1), (8, 64, 65536), (8, 64, 4096), (2, 32, 128**3), (4, 3000, 17)]:
        shape = gpu.Shape(samples, channels, max(1, channels // 2), positions, (channels * positions, positions, 1))
        sizes = gpu.Sizes.of(shape)
        assert sizes.channels * sizes.blocks >= channels
        assert sizes.positions * sizes.steps * sizes.items(positions) >= positions
        assert sizes.blocks == 1 or sizes.steps == 1
        assert all(size & (size - 1) == 0 for size in (sizes.channels, sizes.positions, sizes.hidden, sizes.parts))
        assert sizes.items(positions) <= gpu.MOST_PARTS or channels > gpu.FEW_CHANNELS


@pytest.fixture
def asked_again():
    fused._find_gpu_problem.cache_clear()
    yield
    fused._find_gpu_problem.cache_clear()


@pytest.mark.usefixtures("asked_again")
def test_gpu_that_is_too_old_takes_the_formula(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert fused.gpu_problem() == "the GPU has compute capability 7.5, the kernels need 8.0"


@pytest.mark.usefixtures("asked_again")
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_what_fails_when_a_kernel_is_tried_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert fused.gpu_problem().startswith("Triton does not work here: ")
    assert "\n" not in fused.gpu_problem()
    assert "; on the GPU, plain torch operations: Triton does not work here" in fused.describe_backend()


@pytest.mark.usefixtures("asked_again")
def test_kernels_are_switched_off_by_the_environment(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("SCSE_KERNELS", "off")
    assert fused.gpu_problem() == "switched off (SCSE_KERNELS=off)"


def test_compiler_takes_the_answer_as_a_constant():
    def chosen(x):
        return x + (1 if fused.gpu_problem() else 2)

    expected = chosen(torch.zeros(2))
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(chosen, fullgraph=True, backend="eager")(torch.zeros(2)), expected)


def test_devices_without_kernels_are_named():
    assert fused.describe_backend("mps") == "plain torch operations: there are none for mps"


def test_triton_is_not_imported_before_a_map_is_on_a_gpu():
    script = "import sys, torch, scse; scse.ConcurrentSE(2)(torch.ones(1, 2, 3)); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert "'scse.blocks.kernels.cpu'" in done.stdout
    assert "'scse.blocks.kernels.gpu'" not in done.stdout
