"""The examples run as they stand, and the blocks in them learn."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from datasets import write_nnunet, write_pictures

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def changes(printed: str) -> list[float]:
    """By how much every block changes its map, in percent."""
    return [float(value) for value in re.findall(r"map changed by ([\d.]+)%", printed)]


def scores(printed: str) -> list[float]:
    return [float(value) for value in re.findall(r"Dice.* ([\d.]+)$", printed, flags=re.MULTILINE)]


@pytest.mark.slow
def test_monai_trains_blocks_on_what_it_draws() -> None:
    printed = run("monai_trainer.py")
    assert len(changes(printed)) == printed.count("ConcurrentSE") == 8
    assert min(changes(printed)) > 0
    assert scores(printed)[0] > 0.5


@pytest.mark.slow
def test_monai_trains_blocks_on_a_folder(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path / "data", cases=3, shape=(40, 36, 20))
    printed = run("monai_trainer.py", "--folder", folder, "--epochs", "1")
    assert len(changes(printed)) == 8
    assert 0 <= scores(printed)[0] <= 1


@pytest.mark.slow
def test_lightning_trains_the_blocks_of_a_trained_smp_unet() -> None:
    printed = run("smp_lightning.py")
    assert re.findall(r"^(.*): Dice", printed, flags=re.MULTILINE) == ["plain", "blocks trained", "everything trained"]
    plain, blocks, everything = scores(printed)
    assert min(plain, blocks, everything) > 0.5
    assert len(changes(printed)) == printed.count("ConcurrentSE") == 9
    assert min(changes(printed)) > 0


@pytest.mark.slow
def test_lightning_trains_blocks_on_a_folder(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "data", cases=5)
    printed = run("smp_lightning.py", "--folder", folder, "--epochs", "1")
    assert len(scores(printed)) == 3
    assert len(changes(printed)) == 9


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_keras_trains_a_plain_network_and_one_with_blocks(backend: str) -> None:
    printed = run(f"keras_{backend}.py")
    assert re.findall(r"^(.*): loss", printed, flags=re.MULTILINE) == ["plain", "with scSE"]
    losses = [float(value) for value in re.findall(r"([\d.]+) in the", printed)]
    assert max(losses[1::2]) < min(losses[::2]) / 2
    # all background would have 0
    assert min(scores(printed)) > 0.6
