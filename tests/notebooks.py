"""The notebooks of docs/: their cells run in order. `python tests/notebooks.py FILES` stores what they print."""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def printed(path: Path) -> Iterator[str]:
    """What each code cell prints, run one after the other in one namespace, as Jupyter does."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(json.loads(path.read_text())), start=1):
        with redirect_stdout(io.StringIO()) as output:
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)
        yield output.getvalue()


def store(path: Path) -> None:
    """Run a notebook, and write what its cells print into it."""
    notebook = json.loads(path.read_text())
    for number, (cell, text) in enumerate(zip(code_cells(notebook), printed(path), strict=True), start=1):
        lines = text.splitlines(keepends=True)
        cell["execution_count"] = number
        cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": lines}] if text else []
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    from scse.support.tensorboard_alone import use_monai_alone, use_tensorboard_alone

    use_tensorboard_alone()  # quicker where TensorFlow is installed too
    use_monai_alone()
    for argument in sys.argv[1:]:
        store(Path(argument))
