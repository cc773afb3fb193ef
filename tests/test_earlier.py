"""Folders that scse 0.1.0 of 2026-11-27 wrote, before requests, values and events: they load and continue.

earlier.tar.xz has a data set (3 training and 2 test cases of 12 x 10 x 8 voxels), the cache of its prepared arrays, a
run that was stopped in its second of two epochs, the segmenter of the same run without a stop, and a finished study
that varies the epochs.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import scse
from earlier_folders import unpack_earlier
from scse.data.files import read_image
from scse.support.events import EpochDone, Event, Scored, Stage, StepDone
from scse.training.run import resume

SETTINGS = {"width": 2, "depth": 1, "batch_size": 8, "precision": "32", "slices_per_epoch": 16}
STUDY = {"networks": ["unet"], "variants": ["none", "scse[reduction=4]"], "seeds": 1, "epochs": [1, 2]}


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    return unpack_earlier(tmp_path)


def test_a_segmenter_is_loaded_and_predicts(earlier: Path) -> None:
    segmenter = scse.Segmenter.load(earlier / "whole" / "segmenter")
    assert (segmenter.name, segmenter.variant) == ("unet", "scse[reduction=4]")
    image = read_image([earlier / "data" / "imagesTs" / "t0_0000.nii.gz"])
    labels = segmenter.predict_image(image)
    assert labels.shape == (12, 10, 8)
    assert set(np.unique(labels)) <= {0, 1, 2}


def test_a_stopped_run_continues_to_the_weights_of_one_that_was_not(earlier: Path) -> None:
    events: list[Event] = []
    before = (earlier / "run" / "log.jsonl").read_text()
    found = resume(earlier / "run", cache=earlier / "cache", on_event=events.append)
    assert [event.epoch for event in events if isinstance(event, EpochDone)] == [2]
    log = (earlier / "run" / "log.jsonl").read_text()
    assert log.startswith(before)
    assert [json.loads(line)["epoch"] for line in log.splitlines()] == [1, 2]
    whole = scse.Segmenter.load(earlier / "whole")
    # processors may add in another order, so that the bits are those of the machine that wrote the folder alone
    for name, weights in whole.network.state_dict().items():
        torch.testing.assert_close(found.network.state_dict()[name], weights, rtol=1e-3, atol=1e-4)


def test_a_study_is_read_again_without_training(earlier: Path) -> None:
    events: list[Event] = []
    scores = pd.read_parquet(earlier / "study" / "scores.parquet")
    costs = pd.read_csv(earlier / "study" / "costs.csv", keep_default_na=False)
    result = scse.study(
        earlier / "data",
        settings={**SETTINGS, "class_weights": "median-frequency"},  # the default of then
        out=earlier / "study",
        cache=earlier / "cache",
        on_event=events.append,
        **STUDY,
    )
    # neither costs nor gates are measured again; the viewer's data have another format now
    assert [event for event in events if isinstance(event, StepDone | Stage)] == [
        Stage("packing cases for the report's viewer")
    ]
    assert [event.skipped for event in events if isinstance(event, Scored)] == [True] * 4
    for read, table in ((result.scores, scores), (result.costs, costs)):
        epochs = table["network"].map({"unet[epochs=1]": 1, "unet[epochs=2]": 2})
        table.insert(1, "epochs", epochs)
        pd.testing.assert_frame_equal(read, table.assign(network="unet"), check_dtype=False)
    assert result.report.is_file()
