"""Overlapping windows over volumes: the blended result is that of MONAI, and arrives in parts."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from scse.inference.windows import Room, bands_of, blended_rows, in_band, in_windows, windows_of


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 3, padding=1)).eval()


def volume(*size: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(2, *size)).astype(np.float32))


def reader(given: Tensor) -> Callable[[tuple[slice, ...]], Tensor]:
    return lambda window: given[(slice(None), *window)]


@pytest.mark.parametrize("overlap", [0.5, 0.25])
@pytest.mark.parametrize("size", [(8, 6, 10), (21, 6, 10), (8, 17, 12), (30, 13, 25), (9, 7, 11)])
def test_the_result_is_that_of_monai(network: nn.Module, size: tuple[int, ...], overlap: float) -> None:
    given, patch = volume(*size), (8, 6, 10)
    with torch.inference_mode():
        parts = [part.clone() for part in blended_rows(reader(given), size, patch, network, overlap=overlap)]
        expected = sliding_window_inference(given[None], patch, 1, network, overlap=overlap, mode="gaussian")[0]
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "patch"), [((8, 6), (8, 6)), ((21, 6), (8, 6)), ((30, 13), (8, 5)), ((9, 7, 11), (8, 6, 10))]
)
@pytest.mark.parametrize("batch_size", [None, 1, 5])
def test_windows_over_several_images_are_those_of_monai(
    size: tuple[int, ...], patch: tuple[int, ...], batch_size: int | None
) -> None:
    torch.manual_seed(0)
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[len(size)](2, 3, 3, padding=1)
    images = torch.randn(3, 2, *size)
    with torch.inference_mode():
        expected = sliding_window_inference(images, patch, 4, conv, overlap=0.5, mode="gaussian")
        torch.testing.assert_close(in_windows(images, patch, conv, batch_size=batch_size), expected)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_windows_of_a_batch_give_the_same(network: nn.Module, batch_size: int) -> None:
    given, patch, counts = volume(21, 17, 12), (8, 6, 10), []

    def forward(windows: Tensor) -> Tensor:
        counts.append(len(windows))
        found: Tensor = network(windows)
        return found

    with torch.inference_mode():
        parts = blended_rows(reader(given), given.shape[1:], patch, forward, batch_size=batch_size)
        found = torch.cat([part.clone() for part in parts], 1)
        expected = sliding_window_inference(given[None], patch, 1, network, overlap=0.5, mode="gaussian")[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert max(counts) == min(batch_size, 5 * 2)  # the windows that begin at the same row


def test_parts_have_at_most_as_many_rows_as_a_window(network: nn.Module) -> None:
    seen: list[tuple[int, int]] = []
    with torch.inference_mode():
        read, size = reader(volume(40, 12, 10)), (40, 12, 10)
        parts = blended_rows(read, size, (8, 6, 10), network, progress=lambda *count: seen.append(count))
        assert [part.shape[1] for part in parts] == [4] * 8 + [8]
    assert seen == [(done, 9 * 3) for done in range(1, 28)]


@pytest.mark.parametrize("most", [1, 10, 17, 26, 33, 1000])
@pytest.mark.parametrize("overlap", [0.5, 0.25])
def test_bands_have_the_bits_of_the_whole(network: nn.Module, most: int, overlap: float) -> None:
    given, patch = volume(21, 13, 43), (8, 6, 10)
    size = tuple(given.shape[1:])
    windows = windows_of(size, patch, overlap=overlap)
    bands = bands_of(windows, most)
    assert [band.start for band in bands] == [0, *(band.stop for band in bands[:-1])]
    assert bands[-1].stop == size[2]
    assert len(bands) == 1 or max(band.stop - band.start for band in bands) <= max(most, patch[2])
    with torch.inference_mode():
        [whole] = [
            torch.cat([p.clone() for p in blended_rows(reader(given), size, patch, network, overlap=overlap)], 1)
        ]
        room = Room(bands)
        for band in bands:
            seen: list[tuple[int, int]] = []
            parts = blended_rows(
                reader(given),
                size,
                patch,
                network,
                overlap=overlap,
                band=band,
                room=room,
                progress=lambda *count, seen=seen: seen.append(count),
            )
            assert torch.equal(torch.cat([part.clone() for part in parts], 1), whole[..., band])
            assert seen[-1] == (len(in_band(windows, band)),) * 2


def test_few_windows_run_twice_for_bands() -> None:
    windows = windows_of((8, 6, 60), (8, 6, 10))
    bands = bands_of(windows, 30)
    assert bands == [slice(0, 30), slice(30, 60)]
    assert sum(len(in_band(windows, band)) for band in bands) == len(windows) + 1
