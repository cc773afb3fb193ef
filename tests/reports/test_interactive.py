"""Figures of the page: trainings, differences, heat map, sweeps, times and gates draw the correct numbers."""

import numpy as np
import pandas as pd
import pytest

from scse.evaluation import Comparison, compare
from scse.evaluation.comparison import ALL
from scse.evaluation.pairing import SCORE_COLUMNS
from scse.reports.interactive import differences, gate_strips, heat_map, sweeps, time_ratios, trainings
from scse.vocabulary.titles import Setup


def make_scores(networks: tuple[str, ...], variants: tuple[str, ...], *, seeds: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (network, variant, seed, 0, f"case{case}", structure, "dice", rng.uniform(0.6, 0.9))
        for network in networks
        for variant in variants
        for seed in range(seeds)
        for case in range(7)
        for structure in ("cortex", "stem", "thalamus")
    ]
    return pd.DataFrame(rows, columns=list(SCORE_COLUMNS))


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(make_scores(("unet", "sdnet"), ("none", "cse", "scse")))


@pytest.fixture(scope="module")
def one_seed() -> Comparison:
    return compare(make_scores(("unet",), ("none", "scse"), seeds=1))


def test_each_training_is_a_dot_that_names_its_seed(comparison: Comparison) -> None:
    dots = [trace for trace in trainings(comparison, Setup("unet")).data if trace.marker.symbol is None]
    for trace, variant in zip(dots, ("cse", "scse"), strict=True):
        seeds = comparison.seeds.query("network == 'unet' and variant == @variant", local_dict={"variant": variant})
        np.testing.assert_allclose(trace.x, seeds["difference"], atol=1e-5)
        assert [text.partition(", ")[2] for text in trace.text] == ["seed 0", "seed 1", "seed 2"]


def test_the_mean_over_trainings_has_its_interval(comparison: Comparison) -> None:
    found = comparison.tests.query(
        "network == 'unet' and variant == 'scse' and structure == @ALL", local_dict={"ALL": ALL}
    )
    (row,) = found.to_dict("records")
    mean = trainings(comparison, Setup("unet")).data[-1]
    assert mean.x[0] == pytest.approx(row["difference"], abs=1e-5)
    assert mean.x[0] + mean.error_x.array[0] == pytest.approx(row["high"], abs=2e-5)
    assert mean.x[0] - mean.error_x.arrayminus[0] == pytest.approx(row["low"], abs=2e-5)
    assert mean.text[0].endswith(f"{row['high']:.3f}], 3 trainings, 7 cases")


def test_margin_and_distance_of_two_trainings_are_marked_on_both_sides(comparison: Comparison) -> None:
    shapes = [(shape.type, shape.x0, shape.x1) for shape in trainings(comparison, Setup("unet")).layout.shapes]
    apart = comparison.noise.set_index("network").loc["unet", "apart"]
    assert shapes == [("rect", -0.005, 0.005), ("line", -apart, -apart), ("line", apart, apart)]


def test_what_is_better_lies_on_the_side_that_says_so(comparison: Comparison) -> None:
    def sides(found: Comparison) -> list[str]:
        return [mark.text for mark in trainings(found, Setup("unet")).layout.annotations]

    assert sides(comparison) == ["← worse", "better →"]
    distances = make_scores(("unet",), ("none", "scse")).assign(metric="hd95")
    assert sides(compare(distances, metric="hd95")) == ["← better", "worse →"]


def test_figures_of_trainings_share_a_scale_that_shows_all_of_them(comparison: Comparison) -> None:
    figures = [trainings(comparison, Setup(network)) for network in ("unet", "sdnet")]
    (low, high), other = (figure.layout.xaxis.range for figure in figures)
    assert (low, high) == other
    assert low == -high
    tests = comparison.tests[comparison.tests["structure"] == ALL]
    assert high > tests[["low", "high"]].abs().to_numpy().max()


def test_each_variant_adds_a_row_of_the_same_height() -> None:
    names = ("none", "cse", "sse", "scse", "scse[reduction=16,placement=encoder]")
    heights = []
    for count in (2, 3, 5):
        figure = trainings(compare(make_scores(("unet",), names[:count])), Setup("unet"))
        heights.append(figure.layout.height)
    assert heights[1] - heights[0] == (heights[2] - heights[1]) / 2 <= 40
    assert heights[0] <= 100
    assert figure.layout.yaxis.ticktext[-1] == "scSE (r = 16,\nencoder only)"


def test_one_seed_has_a_dot_and_no_interval_in_any_figure(one_seed: Comparison) -> None:
    dot, mean = trainings(one_seed, Setup("unet")).data
    assert len(dot.x) == 1
    assert mean.error_x.array == mean.error_x.arrayminus == (None,)
    assert mean.text[0].endswith(", 1 training, 7 cases")
    (panel,) = differences(one_seed, Setup("unet")).data
    assert set(panel.error_x.array) == {None}
    figures = [trainings(one_seed, Setup("unet")), differences(one_seed, Setup("unet")), heat_map(one_seed)]
    assert [figure for figure in figures if "NaN" in figure.to_json()] == []


def test_differences_have_a_panel_per_variant_sorted_with_their_intervals(comparison: Comparison) -> None:
    figure = differences(comparison, Setup("unet"))
    assert [trace.name for trace in figure.data] == ["cSE", "scSE"]
    tests = comparison.tests.query("network == 'unet' and structure != @ALL", local_dict={"ALL": ALL})
    order = tests.groupby("structure")["difference"].mean().sort_values().index
    assert list(figure.layout.yaxis.categoryarray) == list(order)
    for trace, variant in zip(figure.data, ("cse", "scse"), strict=True):
        rows = tests[tests["variant"] == variant].set_index("structure").loc[list(trace.y)]
        np.testing.assert_allclose(trace.x, rows["difference"], atol=1e-5)
        np.testing.assert_allclose(np.add(trace.x, trace.error_x.array), rows["high"], atol=2e-5)
        np.testing.assert_allclose(np.subtract(trace.x, trace.error_x.arrayminus), rows["low"], atol=2e-5)


@pytest.mark.parametrize("structures", [1, 2, 30])
def test_rows_of_differences_have_room_for_ticks_and_titles(structures: int) -> None:
    variants = ("none", *(f"scse[reduction={r}]" for r in (2, 4, 8, 16)), "cse", "sse")
    scores = make_scores(("unet",), variants)
    one = scores[scores["structure"] == "stem"]
    found = compare(pd.concat(one.assign(structure=f"part {i}") for i in range(structures)))
    figure = differences(found, Setup("unet"))
    layout = figure.layout
    pixels = layout.height - layout.margin.t - layout.margin.b
    upper, lower = layout.yaxis.domain, layout.yaxis5.domain
    assert (upper[0] - lower[1]) * pixels >= 60
    assert (upper[1] - upper[0]) * pixels >= 24 * structures


def test_differences_of_one_structure_fit_into_one_row() -> None:
    scores = make_scores(("unet",), ("none", "scse"))
    figure = differences(compare(scores[scores["structure"] == "stem"]), Setup("unet"))
    assert list(figure.data[0].y) == ["stem"]


def test_the_heat_map_is_symmetric_about_zero(comparison: Comparison) -> None:
    figure = heat_map(comparison)
    assert [trace.name for trace in figure.data] == ["U-Net", "SD-Net"]
    largest = comparison.tests.query("structure != @ALL", local_dict={"ALL": ALL})["difference"].abs().max()
    assert figure.layout.coloraxis.cmax == -figure.layout.coloraxis.cmin == largest
    row = comparison.tests.query("network == 'sdnet' and variant == 'scse' and structure == 'stem'").iloc[0]
    trace = figure.data[1]
    assert trace.z[list(trace.y).index("stem")][list(trace.x).index("scSE")] == pytest.approx(
        row["difference"], abs=1e-4
    )


def test_what_was_swept_is_drawn_over_its_values() -> None:
    variants = ("none", "sse", "scse", "scse[reduction=16]", "scse[reduction=4]")
    scores = make_scores(("3", "12"), variants)
    found = compare(scores.assign(epochs=scores["network"].astype(int), train_cases=6, network="unet"))
    (epochs, by_epochs), (reduction, by_reduction) = sweeps(found)
    assert epochs == "U-Net: difference over epochs"
    assert reduction == "U-Net: difference over reduction r"
    assert {trace.name for trace in by_epochs.data} == {"sSE", *(f"scSE, reduction r {r}" for r in (2, 4, 16))}
    assert all(list(trace.x) == ["3", "12"] for trace in by_epochs.data)
    assert {trace.name for trace in by_reduction.data} == {f"scSE, epochs {n}" for n in (3, 12)}
    assert all(list(trace.x) == ["2", "4", "16"] for trace in by_reduction.data)
    trace = next(trace for trace in by_reduction.data if trace.name == "scSE, epochs 12")
    rows = found.tests[(found.tests["epochs"] == 12) & (found.tests["structure"] == ALL)]
    wanted = rows.set_index("variant")["difference"]
    np.testing.assert_allclose(trace.y, wanted[["scse", "scse[reduction=4]", "scse[reduction=16]"]], atol=1e-5)


def test_values_without_an_order_are_not_joined_by_lines() -> None:
    variants = ("none", "scse", "scse[reduction=4]", "scse[aggregation=max]")
    found = compare(make_scores(("unet",), variants))
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
    figure = gate_strips(table, Setup("unet"))
    assert [mark.text for mark in figure.layout.annotations] == ["shut", "identity (scSE)", "identity (cSE)"]
    hidden, shown = figure.data
    assert (hidden.visible, shown.visible) == ("legendonly", True)
    assert list(shown.x) == [0.1, 0.3, 0.9]
    assert list(shown.text) == ["encoder.0, channel 1", "encoder.0, channel 0", "decoder.0, channel 0"]
    assert list(shown.error_x.array) == pytest.approx([0.0, 0.3, 0.1])
    assert list(shown.error_x.arrayminus) == pytest.approx([0.0, 0.1, 0.1])
