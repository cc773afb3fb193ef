"""The blocks, the formulas that define them, and their fused kernels; torch and NumPy are all they need."""

from scse.blocks.modules import ChannelSE, ConcurrentSE, SpatialSE

__all__ = ["ChannelSE", "ConcurrentSE", "SpatialSE"]
