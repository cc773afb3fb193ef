"""The fused CPU kernels of the blocks, and the choice between them and the plain formulas."""

from scse.blocks.kernels.fused import describe_backend, recalibrate

__all__ = ["describe_backend", "recalibrate"]
