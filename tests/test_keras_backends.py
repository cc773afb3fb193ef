"""The tests of tests/keras in a process of its own for each backend, because Keras chooses its backend only once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

TESTS = Path(__file__).parent
TABLE = TESTS.parent / "docs" / "keras.md"
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "torch"}
POLICIES = ("float64", "float32", "mixed_float16", "mixed_bfloat16")
SECONDS = 600


def test_the_torch_side_never_imports_keras():
    code = "import sys, scse; scse.ConcurrentSE(4); scse.networks.UNet; print('keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
@pytest.mark.parametrize("backend", sorted(BACKENDS))  # jax, which takes longest, first
def test_keras_side_passes_on_every_backend(backend, tmp_path, record_property):
    # one process a backend and not a file: importing a framework takes 4 to 7 seconds
    report = tmp_path / "report.xml"
    own = ["-o", "addopts=", "-p", "no:xdist", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'inner'}"]
    own += ["-o", "junit_family=xunit1"]  # the one that knows properties of a test
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *own, "--junitxml", report, TESTS / "keras"],
        cwd=TESTS.parent,
        env={**os.environ, "KERAS_BACKEND": backend},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    # 0 says that every test passed; without any test it would be 5
    assert done.returncode == 0, done.stdout
    for cell in ElementTree.parse(report).iterfind(".//property[@name='cell']"):
        record_property("cell", json.loads(cell.attrib["value"]))


def test_table_in_the_documentation_has_the_same_cells_for_every_backend():
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert header[1:] == [f"{name} {policy}" for name in BACKENDS.values() for policy in POLICIES]
    assert {"cSE", "sSE", "scSE, add", "UNet, scSE", "SDNet, scSE", "FCDenseNet, scSE"} <= {row[0] for row in rows}
    for _, *cells in rows:
        tensorflow, jax, torch = ([bool(cell) for cell in cells[start : start + 4]] for start in (0, 4, 8))
        assert tensorflow == jax == torch
        assert tensorflow[0]
