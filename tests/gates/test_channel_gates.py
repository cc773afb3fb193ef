"""Channel gates of a study: measurement, caching and counting."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from finished import make_study
from scse.data.files import read_image
from scse.evaluation.setups import setups
from scse.gates.channel_gates import channel_gates, shut_channels
from scse.gates.explaining import slice_gates
from scse.support.events import Progress, Stage, Watch
from scse.vocabulary.titles import Setup


def test_gates_are_the_mean_over_the_slices_of_each_case_and_measured_once(tmp_path):
    study = make_study(tmp_path / "study", cases=2)
    events: list[object] = []
    watch = Watch(events.append)
    gates = channel_gates(study.runs, cache=tmp_path / "gates.parquet", watch=watch)
    assert set(gates["variant"]) == {"scse"}
    assert set(gates["case"]) == {case.name for case in study.dataset.test_cases}
    segmenter, case = study.runs[1].segmenter(), study.dataset.test_cases[0]
    slices = sorted({round(i) for i in np.linspace(0, 47, 18)[1:-1]})
    blocks = slice_gates(segmenter, read_image(case.images), slices)
    of_case = gates[gates["case"] == case.name]
    assert list(of_case["block"].unique()) == [block.where for block in blocks]
    wanted = np.concatenate([block.channel.mean(axis=0) for block in blocks])
    np.testing.assert_allclose(of_case["gate"], wanted, rtol=1e-5)
    assert set(of_case["identity"]) == {0.5}
    again = channel_gates(study.runs, cache=tmp_path / "gates.parquet", watch=watch)
    pd.testing.assert_frame_equal(again, gates)
    assert events == [Stage("measuring channel gates"), Progress("gates", 1, 1)]  # only one run has gates


def test_gates_of_an_earlier_version_are_not_measured_again(tmp_path):
    study = make_study(tmp_path / "study", cases=1)
    cache, events = tmp_path / "gates.parquet", []
    runs = [dataclasses.replace(run, setup=Setup("unet", 2)) for run in study.runs]
    gates = channel_gates(runs, cache=cache)
    assert list(gates.columns[:3]) == ["network", "epochs", "variant"]
    earlier = gates.drop(columns="epochs").assign(network="unet[epochs=2]")
    assert earlier.attrs == gates.attrs
    earlier.to_parquet(cache, index=False)
    pd.testing.assert_frame_equal(
        channel_gates(runs, cache=cache, watch=Watch(events.append)), gates, check_dtype=False
    )
    assert events == []
    assert setups(shut_channels(gates)) == [Setup("unet", 2)]


def test_a_study_without_channel_gates_has_an_empty_table(tmp_path):
    study = make_study(tmp_path / "study", cases=1)
    gates = channel_gates(study.runs[:1], cache=tmp_path / "gates.parquet")
    assert gates.empty
    assert list(gates.columns) == ["network", "variant", "block", "identity", "channel", "case", "gate"]


def test_a_channel_is_shut_if_its_gate_is_low_in_every_case():
    values = {0: (0.02, 0.09), 1: (0.02, 0.11), 2: (0.5, 0.7)}
    rows = [
        ("unet", "cse", "encoder.0", 1.0, channel, case, gate)
        for channel, pair in values.items()
        for case, gate in zip("ab", pair, strict=True)
    ]
    gates = pd.DataFrame(rows, columns=["network", "variant", "block", "identity", "channel", "case", "gate"])
    (row,) = shut_channels(gates).to_dict("records")
    assert (row["channels"], row["shut"], row["which"]) == (3, 1, [0])
    assert row["change"] == pytest.approx(np.mean([0.98, 0.91, 0.98, 0.89, 0.5, 0.3]))
