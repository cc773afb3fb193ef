"""Planes of slices by name."""

from typing import Literal

Plane = Literal["sagittal", "coronal", "axial", "picture"]
"""Plane of the slices of a volume; "picture" for images that are 2D."""

View = Literal["sagittal", "coronal", "axial", "picture", "volume"]
"""What a network sees of an image at once: a slice in a plane, the whole picture, or the volume itself."""
