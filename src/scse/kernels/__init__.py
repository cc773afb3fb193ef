"""The fused CPU kernels of the blocks, and the choice between them and the plain formulas."""

from scse.kernels.fused import path, recalibrate

__all__ = ["path", "recalibrate"]
