"""Figures of the page: differences, heat map, sweeps, times and channel gates draw the numbers they are given."""

import numpy as np
import pandas as pd
import pytest

from scse.evaluation import Comparison, compare
from scse.evaluation.comparison import ALL
from scse.evaluation.pairing import COLUMNS
from scse.reports.interactive import differences, gate_strips, heat_map, sweeps, time_ratios


def make_scores(networks: tuple[str, ...], variants: tuple[str, ...]) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (network, variant, 0, 0, f"case{case}", structure, "dice", rng.uniform(0.6, 0.9))
        for network in networks
        for variant in variants
        for case in range(7)
        for structure in ("cortex", "stem", "thalamus")
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(make_scores(("unet", "sdnet"), ("none", "cse", "scse")), resamples=200)


def test_differences_have_a_panel_per_variant_sorted_with_their_intervals(comparison: Comparison) -> None:
    figure = differences(comparison, "unet")
    assert [trace.name for trace in figure.data] == ["cSE", "scSE"]
    tests = comparison.tests.query("network == 'unet' and structure != @ALL", local_dict={"ALL": ALL})
    order = tests.groupby("structure")["median_difference"].mean().sort_values().index
    assert list(figure.layout.yaxis.categoryarray) == list(order)
    for trace, variant in zip(figure.data, ("cse", "scse"), strict=True):
        rows = tests[tests["variant"] == variant].set_index("structure").loc[list(trace.y)]
        np.testing.assert_allclose(trace.x, rows["median_difference"], atol=1e-5)
        np.testing.assert_allclose(np.add(trace.x, trace.error_x.array), rows["high"], atol=2e-5)
        np.testing.assert_allclose(np.subtract(trace.x, trace.error_x.arrayminus), rows["low"], atol=2e-5)


@pytest.mark.parametrize("structures", [1, 2, 30])
def test_differences_in_several_rows_have_room_for_ticks_and_titles_between_them(structures: int) -> None:
    variants = ("none", *(f"scse[reduction={r}]" for r in (2, 4, 8, 16)), "cse", "sse")
    scores = make_scores(("unet",), variants)
    one = scores[scores["structure"] == "stem"]
    found = compare(pd.concat(one.assign(structure=f"part {i}") for i in range(structures)), resamples=20)
    figure = differences(found, "unet")
    layout = figure.layout
    pixels = layout.height - layout.margin.t - layout.margin.b
    upper, lower = layout.yaxis.domain, layout.yaxis5.domain
    assert (upper[0] - lower[1]) * pixels >= 60
    assert (upper[1] - upper[0]) * pixels >= 24 * structures


def test_differences_of_one_structure_fit_into_one_row() -> None:
    scores = make_scores(("unet",), ("none", "scse"))
    figure = differences(compare(scores[scores["structure"] == "stem"], resamples=20), "unet")
    assert list(figure.data[0].y) == ["stem"]


def test_the_heat_map_is_symmetric_about_zero(comparison: Comparison) -> None:
    figure = heat_map(comparison)
    assert [trace.name for trace in figure.data] == ["U-Net", "SD-Net"]
    largest = comparison.tests.query("structure != @ALL", local_dict={"ALL": ALL})["median_difference"].abs().max()
    assert figure.layout.coloraxis.cmax == -figure.layout.coloraxis.cmin == largest
    row = comparison.tests.query("network == 'sdnet' and variant == 'scse' and structure == 'stem'").iloc[0]
    trace = figure.data[1]
    assert trace.z[list(trace.y).index("stem")][list(trace.x).index("scSE")] == pytest.approx(
        row["median_difference"], abs=1e-4
    )


def test_what_was_swept_is_drawn_over_its_values() -> None:
    networks = ("unet[epochs=3,train_cases=6]", "unet[epochs=12,train_cases=6]")
    found = compare(
        make_scores(networks, ("none", "sse", "scse", "scse[reduction=16]", "scse[reduction=4]")), resamples=200
    )
    (epochs, by_epochs), (reduction, by_reduction) = sweeps(found)
    assert epochs == "U-Net: difference over epochs"
    assert reduction.endswith("difference over reduction r")
    assert {trace.name for trace in by_epochs.data} == {"sSE", *(f"scSE, reduction r {r}" for r in (2, 4, 16))}
    assert all(list(trace.x) == ["3", "12"] for trace in by_epochs.data)
    assert {trace.name for trace in by_reduction.data} == {f"scSE, epochs {n}" for n in (3, 12)}
    assert all(list(trace.x) == ["2", "4", "16"] for trace in by_reduction.data)
    trace = next(trace for trace in by_reduction.data if trace.name == "scSE, epochs 12")
    rows = found.tests[(found.tests["network"] == networks[1]) & (found.tests["structure"] == ALL)]
    wanted = rows.set_index("variant")["median_difference"]
    np.testing.assert_allclose(trace.y, wanted[["scse", "scse[reduction=4]", "scse[reduction=16]"]], atol=1e-5)


def test_values_without_an_order_are_not_joined_by_lines() -> None:
    variants = ("none", "scse", "scse[reduction=4]", "scse[aggregation=max]")
    found = compare(make_scores(("unet",), variants), resamples=20)
    modes = {caption.split()[-1]: {trace.mode for trace in figure.data} for caption, figure in sweeps(found)}
    assert modes == {"r": {"lines+markers"}, "aggregation": {"markers"}}


def test_nothing_swept_draws_nothing(comparison: Comparison) -> None:
    assert sweeps(comparison) == []


def test_times_are_percent_more_than_plain() -> None:
    costs = pd.DataFrame(
        {"network": "unet", "variant": ["none", "scse"], "step_ratio": [1.0, 1.05], "predict_ratio": [1.0, 0.98]}
    )
    step, predict = time_ratios(costs).data
    assert (list(step.x), list(predict.x), list(step.y)) == ([5.0], [-2.0], ["U-Net scSE"])


def test_gates_show_the_range_of_each_channel_over_the_cases() -> None:
    values = {("encoder.0", 0): (0.2, 0.3, 0.6), ("encoder.0", 1): (0.1, 0.1, 0.1), ("decoder.0", 0): (0.9, 0.8, 1.0)}
    rows = [
        ("unet", variant, block, identity, channel, case, gate)
        for variant, identity in (("cse", 1.0), ("scse", 0.5))
        for (block, channel), gates in values.items()
        for case, gate in zip("abc", gates, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["network", "variant", "block", "identity", "channel", "case", "gate"])
    figure = gate_strips(table, "unet")
    assert [mark.text for mark in figure.layout.annotations] == ["shut", "as it is (scSE)", "as it is (cSE)"]
    hidden, shown = figure.data
    assert (hidden.visible, shown.visible) == ("legendonly", True)
    assert list(shown.x) == [0.1, 0.3, 0.9]
    assert list(shown.text) == ["encoder.0, channel 1", "encoder.0, channel 0", "decoder.0, channel 0"]
    assert list(shown.error_x.array) == pytest.approx([0.0, 0.3, 0.1])
    assert list(shown.error_x.arrayminus) == pytest.approx([0.0, 0.1, 0.1])
