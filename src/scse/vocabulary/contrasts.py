"""Contrasts of simulated subjects."""

from typing import Literal

Contrast = Literal["source", "random"]
"""Intensities like those of the image from which subjects are simulated, or any."""
