"""Printed figures as files."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from scse.support.atomic import write_atomic

PLAIN_TEXT: dict[Any, Any] = {"text.parse_math": False}
"""Settings of matplotlib for figures whose texts hold names: what stands between dollar signs is no formula."""

# without dates the same figure gives the same file
_METADATA = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def save_figure(figure: Figure, stem: Path, endings: Sequence[str] = ("png", "pdf", "svg")) -> list[Path]:
    """Write a figure as `stem`.png (150 dpi), `stem`.pdf and `stem`.svg, or as some of them; returns the paths."""
    paths = []
    for ending in endings:
        buffer = io.BytesIO()
        with rc_context({"svg.hashsalt": "scse"}):  # else names in an SVG would be random
            figure.savefig(buffer, format=ending, dpi=150, metadata=_METADATA[ending])
        paths.append(stem.with_name(f"{stem.name}.{ending}"))
        write_atomic(paths[-1], buffer.getvalue())
    return paths
