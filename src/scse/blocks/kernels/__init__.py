"""The fused CPU kernels of the blocks, and the choice between them and the plain formulas."""

from scse.blocks.kernels.fused import path, recalibrate

__all__ = ["path", "recalibrate"]
