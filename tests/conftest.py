"""What all tests share: where real data lies, and the tables of docs/ that a test run can write."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from scse.support.tensorboard_alone import use_monai_alone, use_tensorboard_alone

# a worker a core: more threads would spend their time waiting for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")
use_tensorboard_alone()
use_monai_alone()

DATA = Path(os.environ.get("SCSE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-table", type=Path, help="replace the table of this file by what the tests record")


def pytest_configure(config: pytest.Config) -> None:
    if sys.dont_write_bytecode and not Path(pytest.__cached__).is_file():
        share_bytecode(config)
    path = config.getoption("--write-table")
    if path is not None and not hasattr(config, "workerinput"):  # workers report to the main process
        config.pluginmanager.register(TableWriter(path))


def share_bytecode(config: pytest.Config) -> None:
    """Let all processes of this run compile each module once; importing torch alone compiles for two seconds."""
    folder = tempfile.mkdtemp(prefix="scse-bytecode-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    sys.pycache_prefix, sys.dont_write_bytecode = folder, False
    os.environ["PYTHONPYCACHEPREFIX"] = folder
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # workers and the processes that tests start have this environment


LONG = (
    *("test_keras_backends.py", "test_kernel_library.py", "test_trainers.py", "test_examples.py"),
    "test_installation.py",
)
"""Files with tests of a minute: they start first, in this order, so that no worker is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in [item for item in items if item.get_closest_marker("cuda")]:
        import torch  # here, after the number of threads is set

        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


class TableWriter:
    """Puts the cells that tests record below the text of a file; a test that failed leaves its cell empty."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.above, _, table = path.read_text().partition("\n| ")
        self.corner, _, _ = table.partition(" |")
        self.cells: dict[tuple[str, str], str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for key, cell in report.user_properties:
            if key == "cell" and report.when == "call":
                row, column, found = cell
                self.cells[tuple(row), tuple(column)] = found

    def pytest_sessionfinish(self) -> None:
        # rows and columns are (place, name), because workers end in any order
        rows, columns = (sorted({cell[axis] for cell in self.cells}) for axis in (0, 1))
        lines = [[self.corner, *(name for _, name in columns)], ["---"] * (len(columns) + 1)]
        lines += [[row[1], *(self.cells.get((row, column), "") for column in columns)] for row in rows]
        self.path.write_text(f"{self.above}\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines))


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Return the folder of a real data set, or skip with the reason."""

    def find(name: str) -> Path:
        folder = DATA / name
        if not folder.is_dir():
            pytest.skip(f"real data not found at {folder}; set SCSE_DATA to the folder that holds it")
        return folder

    return find


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The file of a user's own network: `make`, with a convolution `first` to attach to, and an option `width`."""
    path = tmp_path / "my code" / "mine.py"
    path.parent.mkdir()
    path.write_text("""
from torch import nn

class Net(nn.Module):
    def __init__(self, channels, classes, width):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        return self.last(self.first(x).relu())

def make(*, in_channels, classes, spatial_dims, width=4):
    return Net(in_channels, classes, width)
""")
    return path
