"""Box plots and learning curves: their content and files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from scse.reports.figures import COLORS, box_plots
from scse.reports.interactive import box_plots_interactive, learning_curves
from scse.support.figure_files import save_figure
from scse.vocabulary.titles import Setup

VARIANTS = ("none", "cse", "sse", "scse")
STRUCTURES = ("left-cerebral-white-matter", "brain-stem", "absent")
NAMES = ["plain", "cSE", "sSE", "scSE"]


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (network, variant, seed, 0, f"case{case}", structure, metric, rng.uniform(0.6, 0.9))
        for network in ("unet", "sdnet")
        for variant in VARIANTS
        for seed in (0, 1)
        for case in range(7)
        for structure in STRUCTURES
        for metric in ("dice", "hd95")
    ]
    columns = ["network", "variant", "seed", "fold", "case", "structure", "metric", "value"]
    frame = pd.DataFrame(rows, columns=columns)
    frame.loc[frame["structure"] == "absent", "value"] = np.nan
    return frame


@pytest.fixture(scope="module")
def curves() -> pd.DataFrame:
    rows = [
        ("unet", variant, seed, 0, epoch, 90.0 * epoch, 1.0, 0.1 * epoch)
        for variant in VARIANTS
        for seed in (0, 1)
        for epoch in (1, 2, 3)
    ]
    columns = ["network", "variant", "seed", "fold", "epoch", "seconds", "loss", "dice"]
    return pd.DataFrame(rows, columns=columns)


def test_a_box_is_drawn_for_each_structure_and_variant(scores: pd.DataFrame) -> None:
    (axes,) = box_plots(scores, Setup("unet")).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["left-cerebral-white-matter", "brain-stem"]
    assert len(axes.patches) == 2 * 4
    assert [text.get_text() for text in axes.get_legend().get_texts()] == NAMES
    assert axes.get_ylabel() == "Dice"


def test_the_printed_figure_says_what_is_drawn_and_nothing_is_cut_off(scores: pd.DataFrame) -> None:
    many = pd.concat([scores.assign(structure=scores["structure"] + str(n)) for n in range(9)])
    for table in (scores, many):
        figure = box_plots(table, Setup("unet"))
        (text,) = figure.texts
        words = " ".join(text.get_text().split())
        assert words.startswith("Boxes: quartiles and median. Whiskers: up to 1.5 interquartile ranges. Points: test c")
        figure.draw_without_rendering()
        box, whole = text.get_window_extent(), figure.bbox
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0
        labels = figure.axes[0].get_xticklabels()
        assert box.y1 <= min(label.get_window_extent().y0 for label in labels)


def test_a_point_is_the_mean_of_a_case_over_seeds(scores: pd.DataFrame) -> None:
    (axes,) = box_plots(scores, Setup("unet")).axes
    plain = axes.collections[0].get_offsets()[:7, 1]
    rows = scores.query("network == 'unet' and variant == 'none' and metric == 'dice'")
    rows = rows[rows["structure"] == STRUCTURES[0]]
    np.testing.assert_allclose(plain, rows.groupby("case")["value"].mean())


def test_interactive_boxes_name_their_cases(scores: pd.DataFrame) -> None:
    figure = box_plots_interactive(scores, Setup("sdnet"), note="simulated data")
    assert [trace.name for trace in figure.data] == NAMES
    assert all(len(trace.y) == 2 * 7 for trace in figure.data)
    assert set(figure.data[0].text) == {f"case{i}" for i in range(7)}
    assert figure.layout.title.text == "SD-Net, simulated data"


def test_a_variant_has_the_same_colour_in_every_figure(scores: pd.DataFrame, curves: pd.DataFrame) -> None:
    boxes = [trace.marker.color for trace in box_plots_interactive(scores, Setup("unet")).data]
    lines = [trace.line.color for trace in learning_curves(curves, Setup("unet")).data][::2]
    assert boxes == lines == [COLORS[v] for v in VARIANTS]


def test_unknown_variants_get_colours_of_their_own(scores: pd.DataFrame) -> None:
    renamed = scores.replace({"variant": {"cse": "eca", "sse": "cbam"}})
    colors = [trace.marker.color for trace in box_plots_interactive(renamed, Setup("unet")).data]
    assert len(set(colors)) == 4


def test_learning_curves_have_a_line_per_run_and_a_legend_entry_per_variant(curves: pd.DataFrame) -> None:
    figure = learning_curves(curves, Setup("unet"))
    assert len(figure.data) == 8
    assert [trace.name for trace in figure.data if trace.showlegend] == NAMES
    assert list(figure.data[0].x) == figure.data[0].meta["minutes"] == [1.5, 3.0, 4.5]
    assert figure.data[0].meta["epochs"] == [1, 2, 3]
    assert list(figure.data[0].y) == pytest.approx([0.1, 0.2, 0.3])


def test_figures_are_written_as_png_pdf_and_svg(scores: pd.DataFrame, tmp_path: Path) -> None:
    figure = box_plots(scores, Setup("unet"))
    png, pdf, svg = save_figure(figure, tmp_path / "new" / "box.plot")
    assert [path.name for path in (png, pdf, svg)] == ["box.plot.png", "box.plot.pdf", "box.plot.svg"]
    with Image.open(png) as image:
        assert image.width == pytest.approx(150 * figure.get_figwidth(), abs=2)
    assert pdf.read_bytes().startswith(b"%PDF")
    assert b"<svg" in svg.read_bytes()


def test_the_same_scores_give_the_same_files(scores: pd.DataFrame, tmp_path: Path) -> None:
    first = save_figure(box_plots(scores, Setup("unet")), tmp_path / "first")
    second = save_figure(box_plots(scores, Setup("unet")), tmp_path / "second")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_long_name_of_a_network_is_wrapped_in_print_and_cut_on_the_page(scores: pd.DataFrame) -> None:
    name = "monai:DynUNet[kernel_size=(3,3,3),strides=(1,2,2),upsample_kernel_size=(2,2),filters=(4,8,8),act_name=relu]"
    renamed = scores.replace({"network": {"unet": name}})
    figure = box_plots(renamed, Setup(name), note="simulated data")
    (axes,) = figure.axes
    figure.canvas.draw()
    box = axes.title.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    assert "".join(axes.get_title().split()) == f"{name},simulateddata"
    shown = box_plots_interactive(renamed, Setup(name), note="simulated data").layout.title.text
    assert shown == f"{name[:32]}…, simulated data"


def test_a_network_without_scores_is_refused(scores: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"network 'vnet'.*unet, sdnet"):
        box_plots(scores, Setup("vnet"))
