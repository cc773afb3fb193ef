import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.integrate import solve_ivp

from scse.simulation.fields import blurred, flow, gradient, identity, resized, sampled, smooth_noise

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [(9, 12), (7, 9, 8)])
def test_the_gaussian_filter_is_that_of_scipy(size: tuple[int, ...]) -> None:
    maps = np.random.default_rng(0).normal(size=(2, *size)).astype(np.float32)
    deviations = [0.7, 0.0, 1.9][: len(size)]
    found = blurred(torch.from_numpy(maps), deviations).numpy()
    reach = [max(1, int(np.ceil(3 * sigma))) if sigma else 0 for sigma in deviations]
    expected = [
        ndimage.gaussian_filter(channel.astype(np.float64), deviations, mode="nearest", radius=reach)
        for channel in maps
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(9, 12), (7, 9, 8)])
def test_samples_are_those_of_scipy(size: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    maps = rng.normal(size=(2, *size)).astype(np.float32)
    positions = rng.uniform(-1.2, 1.2, (len(size), 5, 6, 4)[: len(size) + 1]).astype(np.float32)
    voxels = [(place + 1) / 2 * (n - 1) for place, n in zip(positions, size, strict=True)]
    for mode, order in (("bilinear", 1), ("nearest", 0)):
        found = sampled(torch.from_numpy(maps), torch.from_numpy(positions), mode=mode).numpy()
        inside = [np.clip(place, 0, n - 1) for place, n in zip(voxels, size, strict=True)]
        expected = [ndimage.map_coordinates(channel, inside, order=order, mode="nearest") for channel in maps]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_samples_at_the_points_of_a_grid_are_its_values() -> None:
    maps = torch.rand(1, 5, 1, 7)
    assert torch.allclose(sampled(maps, identity((5, 1, 7), CPU)), maps, atol=1e-6)


def test_resizing_keeps_the_corners() -> None:
    maps = torch.rand(2, 4, 5, 3)
    found = resized(maps, (9, 11, 7))
    assert found.shape == (2, 9, 11, 7)
    corners = (slice(None), *[slice(None, None, n - 1) for n in (4, 5, 3)])
    of_found = (slice(None), *[slice(None, None, n - 1) for n in (9, 11, 7)])
    assert torch.allclose(found[of_found], maps[corners])
    assert resized(maps, (4, 5, 3)) is maps


def test_the_flow_solves_the_differential_equation() -> None:
    """A position moves with the velocity where it is, for unit time."""
    size = (21, 25)
    velocity = 0.3 * smooth_noise(2, size, (4.0, 4.0), torch.Generator().manual_seed(0))
    displacement = flow(velocity)

    def at(_: float, place: np.ndarray) -> np.ndarray:
        voxel = (place + 1) / 2 * (np.array(size) - 1)
        voxel = np.clip(voxel, 0, np.array(size) - 1)
        return np.array([ndimage.map_coordinates(part, voxel[:, None], order=1)[0] for part in velocity.numpy()])

    start = identity(size, CPU)
    for row, column in ((10, 12), (6, 8), (14, 15)):
        begin = start[:, row, column].numpy().astype(np.float64)
        end = solve_ivp(at, (0, 1), begin, rtol=1e-8, atol=1e-10).y[:, -1]
        np.testing.assert_allclose(displacement[:, row, column].numpy() + begin, end, atol=4e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_flow_is_invertible(seed: int) -> None:
    """No two positions change places, and the flow back leads to where it began."""
    size = (24, 22, 20)
    velocity = 0.05 * smooth_noise(3, size, (3.0, 3.0, 3.0), torch.Generator().manual_seed(seed))
    positions = identity(size, CPU) + flow(velocity)
    slopes = torch.stack([gradient(part) for part in positions])  # (axes of positions, axes of the grid, *size)
    assert torch.linalg.det(slopes.flatten(2).permute(2, 0, 1)).min() > 0
    back = positions + sampled(flow(-velocity), positions)
    inner = (slice(None), *[slice(4, -4)] * 3)  # the border continues outwards, which has no inverse
    assert (back - identity(size, CPU))[inner].abs().max() < 0.02


@pytest.mark.parametrize("smoothness", [(0.8, 0.8), (3.0, 1.5), (5.0, 5.0)])
def test_noise_has_the_deviation_and_the_smoothness_that_were_asked_for(smoothness: tuple[float, float]) -> None:
    noise = smooth_noise(50, (61, 61), smoothness, torch.Generator().manual_seed(0)).double()
    assert noise.shape == (50, 61, 61)
    # linear interpolation lowers the deviation between the points that are drawn
    assert 0.8 < noise.flatten(1).std(1).mean() < 1.1
    centred = noise - noise.flatten(1).mean(1).reshape(-1, 1, 1)
    lag = max(1, round(smoothness[0]))
    alike = (centred[:, lag:] * centred[:, :-lag]).mean() / (centred**2).mean()
    expected = np.exp(-(lag**2) / (4 * smoothness[0] ** 2))  # of white noise after a Gaussian filter
    assert alike == pytest.approx(expected, abs=0.15)


def test_slopes_of_an_axis_of_one_point_are_zero() -> None:
    assert torch.equal(gradient(torch.arange(5.0)[:, None]), torch.stack([torch.ones(5, 1), torch.zeros(5, 1)]))
