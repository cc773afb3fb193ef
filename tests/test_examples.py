"""The examples run as they stand, and the blocks in them learn."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from datasets import write_nnunet, write_pictures

EXAMPLES = Path(__file__).parents[1] / "examples"


SEVERAL = """
import runpy
import sys

_, example, *calls = sys.argv
for arguments in calls:
    sys.argv = [example, *arguments.splitlines()]
    runpy.run_path(example, run_name="__main__")
    print("{END}")
"""
END = "end of a run of the example"


def run(name: str, *calls: Sequence[str | Path]) -> list[str]:
    """What the example prints for each list of arguments; in one process, as importing takes longer than training."""
    arguments = ["\n".join(map(str, call)) for call in calls]
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL.format(END=END), EXAMPLES / name, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split(f"{END}\n")[:-1]


def changes(printed: str) -> list[float]:
    """By how much every block changes its map, in percent."""
    return [float(value) for value in re.findall(r"map changed by ([\d.]+)%", printed)]


def scores(printed: str) -> list[float]:
    return [float(value) for value in re.findall(r"Dice.* ([\d.]+)$", printed, flags=re.MULTILINE)]


@pytest.mark.slow
def test_monai_trains_blocks_on_what_it_draws_and_on_a_folder(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path / "data", cases=3, shape=(40, 36, 20))
    drawn, read = run("monai_trainer.py", [], ["--folder", folder, "--epochs", "1"])
    assert len(changes(drawn)) == drawn.count("ConcurrentSE") == 8
    assert min(changes(drawn)) > 0
    assert scores(drawn)[0] > 0.5
    assert len(changes(read)) == 8
    assert 0 <= scores(read)[0] <= 1


@pytest.mark.slow
def test_lightning_trains_the_blocks_of_a_trained_smp_unet_on_what_it_draws_and_on_a_folder(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "data", cases=5)
    drawn, read = run("smp_lightning.py", [], ["--folder", folder, "--epochs", "1"])
    assert re.findall(r"^(.*): Dice", drawn, flags=re.MULTILINE) == ["plain", "blocks trained", "everything trained"]
    assert min(scores(drawn)) > 0.5
    assert len(changes(drawn)) == drawn.count("ConcurrentSE") == 9
    assert min(changes(drawn)) > 0
    assert len(scores(read)) == 3
    assert len(changes(read)) == 9


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_keras_trains_a_plain_network_and_one_with_blocks(backend: str) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"keras_{backend}.py"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.findall(r"^(.*): loss", done.stdout, flags=re.MULTILINE) == ["plain", "with scSE"]
    losses = [float(value) for value in re.findall(r"([\d.]+) in the", done.stdout)]
    assert max(losses[1::2]) < min(losses[::2]) / 2
    # all background would have 0
    assert min(scores(done.stdout)) > 0.6
