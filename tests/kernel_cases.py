"""Maps, weights and the reference of the blocks, for the tests of the kernels of CPUs and of GPUs."""

import torch

import reference

# odd sizes, one channel, one pixel, and both fewer and more channels and pixels than a vector or a tile holds
SHAPES = [(2, 5, 7), (1, 1, 3), (5, 6, 1), (3, 16, 4, 4), (2, 20, 33, 5), (2, 8, 5, 6, 7), (1, 3, 70, 70), (2, 130, 65)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
"""Rounding error of outputs in the dtype of the map, relative to the largest value."""


def random(*shape, dtype=torch.float64, seed=0, device="cpu"):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(device, dtype)


def feature_map(shape, *, last, dtype=torch.float64, seed=1, device="cpu"):
    x = random(*shape, dtype=dtype, seed=seed, device=device)
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x


def weights_of(kind, channels, *, dtype=torch.float64, grad=False, bias=True, hidden=None, device="cpu"):
    hidden = hidden or max(1, channels // 2)
    shapes = [(hidden, channels), (hidden,), (channels, hidden), (channels,), (1, channels), (1,)]
    used = [kind != "sse"] * 4 + [kind != "cse"] * 2
    return tuple(
        (random(*shape, dtype=dtype, seed=n, device=device) / 2).requires_grad_(grad)
        if use and (bias or n % 2 == 0)
        else None
        for n, (shape, use) in enumerate(zip(shapes, used, strict=True))
    )


def numpy_reference(x, weights, kind, **options):
    u, *layers = (None if t is None else t.detach().double().cpu().numpy() for t in (x, *weights))
    channel, spatial = layers[:4], layers[4:]
    if kind == "cse":
        return reference.cse(u, *channel, **options)
    if kind == "sse":
        return reference.sse(u, *spatial, **options)
    return reference.scse(u, channel, spatial, kind, **options)


def assert_close(found, expected, tolerance):
    found, expected = found.detach().double().cpu(), torch.as_tensor(expected, dtype=torch.float64).detach().cpu()
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * (float(expected.abs().max()) + 1e-2))
