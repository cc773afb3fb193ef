"""How a GPU computes in a run is set, and set back; none of it needs one."""

import os

import pytest
import torch

from scse.support.errors import UserError
from scse.training.arithmetic import FIXED_WORKSPACE, WORKSPACE, arithmetic

GPU = torch.device("cuda")


def found() -> tuple[object, ...]:
    return (
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32,
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        os.environ.get(WORKSPACE),
    )


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WORKSPACE, raising=False)


@pytest.mark.parametrize("deterministic", [False, True])
def test_it_holds_during_a_run_on_a_gpu(deterministic: bool) -> None:
    before = found()
    with arithmetic(GPU, deterministic=deterministic):
        assert found() == (not deterministic, True, "high", deterministic, FIXED_WORKSPACE)
    assert found() == before
    with pytest.raises(RuntimeError, match="out of memory"), arithmetic(GPU, deterministic=deterministic):
        raise RuntimeError("out of memory")
    assert found() == before


def test_a_cpu_computes_as_before() -> None:
    before = found()
    with arithmetic(torch.device("cpu"), deterministic=True):
        assert found() == before


def test_the_users_own_workspace_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":16:8")
    with arithmetic(GPU, deterministic=True):
        assert os.environ[WORKSPACE] == ":16:8"
    assert os.environ[WORKSPACE] == ":16:8"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "max_unpooling2d_forward_out does not have a deterministic implementation, but you set "
            "'torch.use_deterministic_algorithms(True)'. You can turn off determinism",
            "deterministic=true: max_unpooling2d_forward_out of this network does not repeat its bits on a GPU; leave",
        ),
        (
            "Deterministic behavior was enabled with either ..., you must set an environment variable before running "
            "your PyTorch application: CUBLAS_WORKSPACE_CONFIG=:4096:8 or",
            "deterministic=true needs the environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8 before the first matrix",
        ),
    ],
)
def test_what_cannot_be_deterministic_is_named(message: str, expected: str) -> None:
    with pytest.raises(UserError) as caught, arithmetic(GPU, deterministic=True):
        raise RuntimeError(message)
    assert str(caught.value).startswith(expected)
    with pytest.raises(RuntimeError, match="eterministic"), arithmetic(GPU, deterministic=False):
        raise RuntimeError(message)
