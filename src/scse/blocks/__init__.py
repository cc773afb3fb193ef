"""The blocks, the formulas that define them, and their fused kernels. They need torch and NumPy alone."""

from scse.blocks.modules import ChannelSE, ConcurrentSE, ProjectExcite, SpatialSE

__all__ = ["ChannelSE", "ConcurrentSE", "ProjectExcite", "SpatialSE"]
