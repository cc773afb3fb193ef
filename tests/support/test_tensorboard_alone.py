"""The command line does not import TensorFlow and MLflow, and events can still be written and read."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

AFTER_THE_COMMAND_LINE = """
import contextlib
import sys
import scse.cli.app

folder = sys.argv.pop()
with contextlib.suppress(SystemExit):
    scse.cli.app.main()

import monai.visualize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

with SummaryWriter(folder) as writer:
    writer.add_scalar("loss", 0.25, 3)
events = EventAccumulator(folder)
events.Reload()
assert [(event.step, event.value) for event in events.Scalars("loss")] == [(3, 0.25)]
assert not {"tensorflow", "mlflow"} & sys.modules.keys()
"""


@pytest.mark.skipif(find_spec("tensorflow") is None, reason="TensorFlow is not installed, so nothing can import it")
@pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow is not installed, so nothing can import it")
def test_the_command_line_leaves_tensorflow_and_mlflow_out(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", AFTER_THE_COMMAND_LINE, "--version", str(tmp_path)], check=True)
