"""One training by 1, 2 and 3 processes on this machine: are the losses the same, and how long does it take?

    python benchmarks/several_processes.py --processes 1,2,3

Every training is `scse train` on the same simulated cohort, with the same global batch. "largest difference" is that of
the loss of an epoch from the one of one process, relative to it; "seconds" are those of the log, without validation.
Processes on one machine share its cores, so seconds show what sharing costs here, and nothing about other machines.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import machine, markdown

from scse.training.log import read_log

SETTINGS = ("--epochs", "3", "--set", "batch_size=6", "--set", "slices_per_epoch=36", "--set", "precision=32",
            "--set", "width=16", "--folds", "2", "--cleaning", "none", "--device", "cpu")  # fmt: skip


def trained(data: Path, out: Path, processes: int) -> tuple[list[float], list[float], float]:
    """Loss and Dice of the epochs, and the seconds."""
    command = [sys.executable, "-m", "scse", "train", str(data), "-o", str(out), *SETTINGS]
    # as many threads as cores over all processes, as Fabric sets them
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    subprocess.run([*command, "--devices", str(processes)], check=True, stdout=subprocess.DEVNULL, env=environment)
    log = read_log(out)
    return [epoch.loss for epoch in log], [epoch.dice for epoch in log], log[-1].seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2,3")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "cohort"
        simulate = [sys.executable, "-m", "scse", "simulate", "-o", str(data), "--cases", "4"]
        subprocess.run([*simulate, "--seed", "0"], check=True, stdout=subprocess.DEVNULL)
        rows, alone = [], [1.0]
        for processes in map(int, options.processes.split(",")):
            losses, dice, seconds = trained(data, Path(folder) / f"run{processes}", processes)
            alone = losses if processes == 1 else alone
            difference = max(abs(loss - one) / one for loss, one in zip(losses, alone, strict=True))
            shown = [", ".join(f"{value:.6f}" for value in values) for values in (losses, dice)]
            rows.append([str(processes), *shown, f"{difference:.1e}", f"{seconds:.0f}"])
    print(machine())
    print(markdown(["processes", "loss", "Dice", "largest difference", "seconds"], rows))


if __name__ == "__main__":
    main()
