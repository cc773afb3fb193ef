"""The scripts of docs/reliability.md: what they call a fault is one, and the same seed makes the same inputs."""

import struct
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from scse.support.errors import DataError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def fuzzing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from fuzzing import images, mutations, plain_nifti, sandbox

    package = ModuleType("together")
    package.images, package.mutations, package.plain, package.sandbox = images, mutations, plain_nifti, sandbox
    return package


@pytest.fixture
def limited(fuzzing: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The sandbox with limits that are reached soon."""
    monkeypatch.setattr(fuzzing.sandbox, "MOST_SECONDS", 3.0)
    monkeypatch.setattr(fuzzing.sandbox, "MOST_BYTES", 2**28)
    return fuzzing.sandbox


def refused(path: str) -> None:
    raise DataError(f"{path}: is damaged; copy it again")


def bug() -> None:
    raise KeyError("labels")


def greedy() -> None:
    parts = []
    while True:
        parts.append(np.ones(2**24))


@pytest.mark.parametrize(
    ("run", "must", "what"),
    [
        (lambda: 3, "either", "accepted"),
        (lambda: 3, "refuse", "wrong"),
        (lambda: 4, "either", "wrong"),
        (lambda: refused("a.json"), "either", "refused"),
        (lambda: refused("a.json"), "accept", "wrong"),
        (lambda: refused("b.json"), "either", "unclear"),
        (bug, "either", "traceback"),
        (lambda: time.sleep(60), "either", "time"),
        (greedy, "either", "memory"),
    ],
)
def test_sandbox_tells_what_came_of_an_input(
    limited: ModuleType, tmp_path: Path, run: Callable[[], Any], must: str, what: str
) -> None:

    def make(folder: Path) -> Any:
        return limited.Trial("none", run, ["a.json"], must, lambda result: None if result == 3 else "not 3")

    outcome = limited.attempt(make, tmp_path / "input")

    assert outcome.what == what, outcome
    assert outcome.mutation == "none"


def test_same_seed_makes_the_same_inputs(fuzzing: ModuleType, tmp_path: Path) -> None:
    made = []
    for attempt in ("first", "second"):
        for number in range(20):
            folder = tmp_path / attempt / str(number)
            folder.mkdir(parents=True)
            trial = fuzzing.images.nifti_bytes(np.random.default_rng([5, number]), folder)
            made.append((trial.mutation, *(path.read_bytes() for path in folder.glob("*.nii"))))

    assert made[:20] == made[20:]
    assert len({mutation for mutation, *_ in made}) > 10


@pytest.mark.parametrize("form", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", "<>")
def test_second_reader_of_nifti_agrees_with_nibabel(fuzzing: ModuleType, form: Any, order: str) -> None:
    voxels = np.random.default_rng(0).integers(0, 50, (4, 5, 6)).astype(f"{order}i2")
    image = form(voxels, np.diag([-1.0, 2.0, 3.0, 1.0]), form.header_class(endianness=order))
    image.header.set_slope_inter(0.5, 3)

    array, affine = fuzzing.plain.read_plain(image.to_bytes())

    again = form.from_bytes(image.to_bytes())
    np.testing.assert_allclose(array, np.asanyarray(again.dataobj))
    np.testing.assert_allclose(affine, again.affine)


def test_second_reader_refuses_what_has_no_meaning(fuzzing: ModuleType) -> None:
    content = bytearray(nib.Nifti1Image(np.zeros((3, 3, 3), np.int16), np.eye(4)).to_bytes())
    struct.pack_into("<h", content, 42, 4)

    with pytest.raises(fuzzing.plain.NoNiftiError, match="too short"):
        fuzzing.plain.read_plain(bytes(content))


def test_chunks_of_a_png_are_checked_without_pillow(fuzzing: ModuleType) -> None:
    whole = fuzzing.images.saved(fuzzing.images.of_mode(np.zeros((4, 4), np.uint8), "L"), "PNG")
    start = whole.index(b"IDAT")
    flipped = whole[: start + 6] + bytes([whole[start + 6] ^ 1]) + whole[start + 7 :]

    assert fuzzing.images.png_sound(whole)
    assert not fuzzing.images.png_sound(flipped)
