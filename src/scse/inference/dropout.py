"""Passes of one network with its dropout on, whose mean is a prediction and whose spread its uncertainty.

Gal and Ghahramani 2016 ("Dropout as a Bayesian approximation", ICML); Roy et al. 2019 ("Bayesian QuickNAT", NeuroImage
195), which takes the uncertainty of structures from such passes.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from scse.inference.engines import Engine
from scse.inference.segmenter import Segmenter
from scse.support.errors import UserError


def with_dropout(segmenter: Segmenter, passes: int) -> list[Segmenter]:
    """The same segmenter several times, each with other masks of dropout, to be averaged by `combined` and others.

    The masks of a pass are the same at every call for maps of one shape.

    Args:
        segmenter: Segmenter whose network has layers of dropout.
        passes: Number of passes; 0 returns the segmenter itself, without dropout.

    Raises:
        UserError: There is 1 pass, the network has no dropout, or another engine than torch runs it.
    """
    if passes == 0:
        return [segmenter]
    if passes < 2:
        raise UserError(
            f"dropout must be 2 or more passes, got {passes}; leave it out for a prediction without dropout"
        )
    if not any(map(_is_on, segmenter.network.modules())):
        raise UserError(
            f"dropout: the network {segmenter.name} has no layers of dropout; train one that has, such as "
            "monai:UNet[dropout=0.2], or leave it out"
        )
    if segmenter.engine is not None and segmenter.engine.name != "torch":
        raise UserError(f"dropout needs the engine torch, got {segmenter.engine.name}; leave one of them out")
    return [
        replace(segmenter, engine=Engine("torch", f"dropout, pass {1 + seed}", _Dropping(segmenter.network, seed)))
        for seed in range(passes)
    ]


class _Dropping:
    """A network in evaluation mode, but with its dropout on.

    Args:
        network: Network.
        seed: Seed of the masks.
    """

    def __init__(self, network: nn.Module, seed: int) -> None:
        self.network, self.seed = network, seed

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, *spatial) to logits (N, classes, *spatial)."""
        devices = [images.device] if images.is_cuda else []
        with _dropping(self.network), torch.random.fork_rng(devices):
            torch.manual_seed(self.seed)
            logits: Tensor = self.network(images)
        return logits


def _is_on(module: nn.Module) -> bool:
    return isinstance(module, _DropoutNd) and module.p > 0


@contextmanager
def _dropping(network: nn.Module) -> Generator[None]:
    layers = [module for module in network.modules() if _is_on(module)]
    try:
        for layer in layers:
            layer.train()
        yield
    finally:
        for layer in layers:
            layer.eval()
