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
print([(event.step, event.value) for event in events.Scalars("loss")], {"tensorflow", "mlflow"} & sys.modules.keys())
"""


@pytest.mark.skipif(find_spec("tensorflow") is None, reason="TensorFlow is not installed, so nothing can import it")
@pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow is not installed, so nothing can import it")
def test_the_command_line_leaves_tensorflow_and_mlflow_out(tmp_path: Path) -> None:
    command = [sys.executable, "-c", AFTER_THE_COMMAND_LINE, "--version", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[(3, 0.25)] set()"
