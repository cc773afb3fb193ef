"""Files of figures."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from scse.support.atomic import write_atomic

PLAIN_TEXT: dict[Any, Any] = {"text.parse_math": False}
"""Settings of matplotlib for figures with names in their texts: text between dollar signs is not a formula."""

# no dates, so that equal figures give equal files
_METADATA = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def save_figure(figure: Figure, stem: Path, endings: Sequence[str] = ("png", "pdf", "svg")) -> list[Path]:
    """Write a figure to `stem`.png (150 dpi), `stem`.pdf and `stem`.svg, or to some of these; return the paths."""
    paths = []
    for ending in endings:
        buffer = io.BytesIO()
        with rc_context({"svg.hashsalt": "scse"}):  # otherwise, the identifiers in an SVG are random
            figure.savefig(buffer, format=ending, dpi=150, metadata=_METADATA[ending])
        paths.append(stem.with_name(f"{stem.name}.{ending}"))
        write_atomic(paths[-1], buffer.getvalue())
    return paths
