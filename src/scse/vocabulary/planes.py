"""Planes of slices by name."""

from typing import Literal

Plane = Literal["sagittal", "coronal", "axial", "picture"]
"""Plane of the slices of a volume; "picture" for images that are 2D."""
