"""A study whose networks are trained on subjects simulated from the training cases of each run."""

from pathlib import Path

from datasets import write_nnunet
from quick_studies import study_once
from scse.training.record import read_record

SETTINGS = {"width": 2, "depth": 1, "slices_per_epoch": 8, "precision": "32", "simulate": 0.5, "contrast": "random"}


def test_each_run_simulates_from_its_own_training_cases(tmp_path: Path) -> None:
    data = write_nnunet(tmp_path / "set", cases=3, tests=2, shape=(9, 6, 9))
    found = study_once(data, tmp_path, variants=["none"], seeds=1, epochs=[1], train_cases=[1, 3], settings=SETTINGS)
    records = [read_record(folder) for folder in sorted((tmp_path / "study" / "runs").iterdir())]
    assert [len(record.sources) for record in records] == [1, 3]
    for record in records:
        assert list(record.sources) == list(record.training)
        assert record.simulation is not None
        assert record.simulation.contrast == "random"
    assert found.scores["value"].notna().any()
    assert "simulate" in found.report.read_text()
