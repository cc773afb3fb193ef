"""Studies that are trained in full, with costs measured once."""

from pathlib import Path
from typing import Any

import pytest

import scse
from scse.studies import costs
from scse.studies.runner import StudyResult


def study_once(data: Path, folder: Path, **options: Any) -> StudyResult:
    """The study of a data set in `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "STEP_ROUNDS", 1)
        patch.setattr(costs, "PREDICT_ROUNDS", 1)
        return scse.study(data, out=folder / "study", cache=folder / "cache", **options)
