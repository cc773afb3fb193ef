"""What scSE costs here: a row for every size of the network's blocks, within the time that it is given."""

import math
import time

import pytest
import torch

from named import build
from scse.networks import UNet
from scse.studies import bench

QUICK = {"size": 32, "batch": 2, "seconds": 0.1}


def numbers(found: bench.Bench) -> list[float]:
    blocks = [[block.seconds, block.formula, block.smp or 1.0, block.copies] for block in found.blocks]
    return sum(blocks, [number for row in found.network for number in (row.seconds, row.ratio)])


@pytest.fixture(scope="module")
def found() -> bench.Bench:
    return bench.bench(in_channels=3, **QUICK)


def test_a_row_for_every_size_of_the_networks_blocks_the_largest_first(found):
    assert [block.shape for block in found.blocks] == [(2, 32, 32, 32), (2, 32, 16, 16), (2, 32, 8, 8)]
    assert [row.what for row in found.network] == ["training step", "inference"]


def test_times_and_ratios_are_finite_and_positive(found):
    assert all(math.isfinite(number) and number > 0 for number in numbers(found))
    assert all(block.smp is not None for block in found.blocks)


def test_it_tells_what_the_blocks_run_on(found):
    assert found.path == bench.describe_backend()


def test_rows_are_for_people():
    block = bench.BlockTime((4, 32, 64, 48), 0.0123, 2.345, None, 7.89)
    assert block.row() == ("32 channels, 64 x 48", "12.30 ms", "2.35 x", "not installed", "7.9")
    slow = bench.BlockTime((4, 32, 64), 1.234, 2, 3, 7)
    assert slow.row() == ("32 channels, 64", "1234 ms", "2.00 x", "3.00 x", "7.0")
    assert bench.NetworkTime("inference", 0.05, 1.1).row() == ("inference", "50.00 ms", "1.10 x")


def test_blocks_of_other_sizes_are_found_where_attach_put_them():
    network = build(
        "monai:BasicUNet[features=(4,4,8,8,16,4)]", {"in_channels": 1, "classes": 2}, variant="scse", size=(32, 32)
    )
    shapes = bench.block_shapes(network, torch.zeros(1, 1, 32, 32))
    assert (1, 4, 32, 32) in shapes
    assert len(set(shapes)) == len(shapes)
    assert shapes == sorted(shapes, key=math.prod, reverse=True)


def test_finding_the_sizes_leaves_no_hook_behind():
    network = UNet(1, classes=2, width=4, depth=2, recalibration="scse")
    before = [len(module._forward_pre_hooks) for module in network.modules()]
    bench.block_shapes(network, torch.zeros(1, 1, 16, 16))
    assert [len(module._forward_pre_hooks) for module in network.modules()] == before


def test_of_many_sizes_the_largest_are_measured(monkeypatch):
    monkeypatch.setattr(bench, "MOST_SIZES", 1)
    assert [block.shape for block in bench.bench(**QUICK).blocks] == [(2, 32, 32, 32)]


def test_volumes_have_blocks_of_three_axes_and_no_peer(monkeypatch):
    monkeypatch.setattr(bench, "MOST_SIZES", 2)
    found = bench.bench(size=16, batch=1, dims=3, seconds=0.1)
    assert found.images == (1, 1, 16, 16, 16)
    assert [block.shape for block in found.blocks] == [(1, 24, 16, 16, 16), (1, 24, 8, 8, 8)]
    assert [block.row()[3] for block in found.blocks] == ["slices only"] * 2
    assert all(math.isfinite(row.ratio) and row.ratio > 0 for row in found.network)
    with pytest.raises(ValueError, match="spatial_dims must be 2 or 3, got 4"):
        bench.bench(dims=4)


def test_without_smp_its_column_is_empty(monkeypatch):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(bench, "import_module", missing)
    monkeypatch.setattr(bench, "MOST_SIZES", 1)
    (block,) = bench.bench(**QUICK).blocks
    assert block.smp is None
    assert block.formula > 0


def test_the_formula_that_is_raced_gives_the_blocks_output():
    torch.manual_seed(0)
    block, x = bench.ConcurrentSE(6), torch.randn(2, 6, 5, 4)
    torch.testing.assert_close(bench.plain_formula(block, x), block(x))


def test_the_time_is_kept():
    bench.bench(**QUICK)  # imports what it needs
    began = time.perf_counter()
    bench.bench(**{**QUICK, "seconds": 2.0})
    assert time.perf_counter() - began < 3 * 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "vnet"}, "network must be one of 'unet', 'sdnet', 'densenet', smp:CLASS,"),
        ({"network": "smp:Net"}, "the network of smp must be one of"),
        ({"size": 0}, "size must be a whole number of at least 1, got 0"),
        ({"size": 4}, "needs every spatial axis to be at least 8"),
        ({"batch": 0}, "batch must be a whole number of at least 1, got 0"),
        ({"in_channels": 0}, "in_channels must be a whole number of at least 1, got 0"),
        ({"classes": 0}, "classes must be a whole number of at least 1, got 0"),
        ({"seconds": 0}, "seconds must be a positive number, got 0"),
        ({"seconds": math.nan}, "seconds must be a positive number, got nan"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        bench.bench(**{**QUICK, **options})
