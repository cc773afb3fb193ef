"""The report of a study: its files, its words, and the page in a real browser."""

import dataclasses
import io
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from finished import Study, make_study
from scse.evaluation import compare
from scse.evaluation.scores import write_scores
from scse.reports.channel_gates import channel_gates
from scse.reports.page import StudyFacts, latex_table, table_text, write_report
from scse.reports.viewer import viewer_data

CHROMIUM = Path("/usr/bin/chromium")
NETWORKS = {"unet": 2_153_792, "sdnet": 1_600_000}
GAINS = {"none": 0.0, "cse": 0.002, "sse": 0.008, "scse": 0.015}
SIDED = (
    "cerebral-white-matter", "cerebral-cortex", "lateral-ventricle", "cerebellum-white-matter", "cerebellum-cortex",
    "thalamus", "caudate", "putamen", "pallidum", "hippocampus", "amygdala", "ventral-dc",
)  # fmt: skip
STRUCTURES = [f"{side}-{name}" for side in ("left", "right") for name in SIDED]
STRUCTURES += ["third-ventricle", "fourth-ventricle", "brain-stem"]
COLUMNS = ["network", "variant", "seed", "fold", "case", "structure", "metric", "value"]


def make_scores(*, cases: int = 15) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    ease, luck = np.linspace(0.93, 0.72, len(STRUCTURES)), rng.normal(0, 0.015, cases)
    rows = []
    for network in NETWORKS:
        for variant, gain in GAINS.items():
            dice = ease + luck[:, None] + gain + rng.normal(0, 0.02, (cases, len(STRUCTURES)))
            for (case, structure), value in np.ndenumerate(dice.clip(0, 0.99)):
                key = (network, variant, 0, 0, f"{1000 + case}_3", STRUCTURES[structure])
                rows += [(*key, "dice", value), (*key, "hd95", 20 * (1 - value)), (*key, "msd", 4 * (1 - value))]
    return pd.DataFrame(rows, columns=COLUMNS)


def make_costs() -> pd.DataFrame:
    added = {"none": 0, "cse": 33_536, "sse": 520, "scse": 34_056}
    rows = [
        (
            network,
            variant,
            count + added[variant],
            1200 + 34.4 * (gain > 0),
            0.412 * (1 + 2 * gain),
            1 + 2 * gain,
            3.1,
            1 + gain,
        )
        for network, count in NETWORKS.items()
        for variant, gain in GAINS.items()
    ]
    names = ["network", "variant", "parameters", "kept_mib"]
    names += ["step_seconds", "step_ratio", "predict_seconds", "predict_ratio"]
    return pd.DataFrame(rows, columns=names)


def make_curves() -> pd.DataFrame:
    rows = [
        (network, variant, seed, 0, epoch, 60.0 * epoch, 1 / epoch, 0.87 + gain - 0.6 * np.exp(-epoch / (3 + seed)))
        for network in NETWORKS
        for variant, gain in GAINS.items()
        for seed in (0, 1)
        for epoch in range(1, 13)
    ]
    return pd.DataFrame(rows, columns=["network", "variant", "seed", "fold", "epoch", "seconds", "loss", "dice"])


FACTS = StudyFacts(
    title="scse study",
    dataset="simulated brains",
    simulated=True,
    training_cases=15,
    test_cases=15,
    structures=27,
    caveats=("Intensities are <b>drawn</b> per structure & smoothed.", "Trained for 12 epochs only."),
    command="scse study --networks unet,sdnet --seeds 2 -o studies/simulated",
    recipe=(("view", "coronal"), ("spacing", "2 x 2 mm"), ("intensity", "0.5 to 99.5 % to 0 to 1")),
    settings=(("optimizer", "AdamW, one cycle to 3e-3"), ("batch", "8"), ("epochs", "12"), ("width", "32")),
    versions={"scse": "0.1.0", "torch": "2.14.1", "monai": "1.6.1"},
    machine=(("processor", "Intel Xeon"), ("accelerator", "none")),
    duration_seconds=5_400.0,
    code=(("git commit", "0123abc (dirty)"), ("data SHA-256", "f00d")),
    digests={"1000_3": "ab" * 32},
)


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    return make_scores()


@pytest.fixture(scope="module")
def small(scores: pd.DataFrame) -> pd.DataFrame:
    """One network, two structures: quick to draw."""
    return scores[(scores["network"] == "unet") & scores["structure"].isin(["left-caudate", "brain-stem"])]


@pytest.fixture(scope="module")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("viewed"))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, scores: pd.DataFrame, viewed: Study) -> Path:
    folder = tmp_path_factory.mktemp("study")
    structures = viewed.dataset.structures
    viewer = viewer_data(
        viewed.runs, viewed.scores, recipe=viewed.recipe, structures=structures, cache=folder / "viewer.json"
    )
    return write_report(
        folder / "report",
        scores=scores,
        costs=make_costs(),
        curves=make_curves(),
        gates=channel_gates(viewed.runs, cache=folder / "gates.parquet"),
        viewer=viewer,
        facts=FACTS,
    )


def write(folder: Path, scores: pd.DataFrame, **changes: object) -> str:
    return write_report(folder, scores=scores, facts=dataclasses.replace(FACTS, **changes)).read_text()


def words(html: str) -> str:
    """The page's text: no scripts, no styles, no tags."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", bare).split())


def test_the_folder_holds_page_table_and_figures_and_nothing_else(report: Path) -> None:
    figures = [f"boxplot_{network}.{ending}" for network in NETWORKS for ending in ("pdf", "png", "svg")]
    assert sorted(p.name for p in report.parent.iterdir()) == sorted(["index.html", "table.csv", "table.tex", *figures])


def test_the_csv_is_the_summary_of_every_metric(report: Path, scores: pd.DataFrame) -> None:
    table = pd.read_csv(report.parent / "table.csv")
    assert len(table) == 2 * 4 * 3
    dice = table[table["metric"] == "dice"].drop(columns="metric")
    summary = compare(scores).summary[list(dice.columns)]
    pd.testing.assert_frame_equal(dice.reset_index(drop=True), summary, check_dtype=False)


def test_every_cost_stands_beside_its_difference_to_plain(report: Path) -> None:
    text = words(report.read_text())
    assert "1,200 MiB" in text
    assert "1,234 MiB +2.9 %" in text


def test_the_latex_table_has_booktabs_rules_and_the_best_in_bold(report: Path, scores: pd.DataFrame) -> None:
    text = (report.parent / "table.tex").read_text()
    assert all(rule in text for rule in ("\\toprule", "\\midrule", "\\bottomrule"))
    best = compare(scores).summary.query("network == 'unet' and variant == 'scse'").iloc[0]
    assert f"\\textbf{{{best['mean']:.3f} $\\pm$ {best['sd']:.3f}}}" in text
    assert text.count("\\textbf") == 2


def test_latex_escapes_names(small: pd.DataFrame) -> None:
    text = latex_table(compare(small.replace({"network": {"unet": "smp:Unet[encoder_name=x]"}})))
    assert "encoder\\_name" in text


def test_the_page_loads_nothing_from_elsewhere(report: Path) -> None:
    html = re.sub(r"<script>.*?</script>", "", report.read_text(), flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", html)
    assert "url(" not in html


def test_the_page_escapes_what_users_named(report: Path) -> None:
    assert "&lt;b&gt;drawn&lt;/b&gt; per structure &amp; smoothed" in report.read_text()


def test_structure_and_case_names_cannot_break_out_of_the_page(tmp_path: Path, small: pd.DataFrame) -> None:
    evil = "</script><img src=x>"
    renamed = small.assign(case=small["case"] + evil, structure=small["structure"] + evil)
    html = write(tmp_path, renamed, dataset=evil)
    assert evil not in html


def test_simulated_data_is_named_at_every_table_and_figure(report: Path) -> None:
    html = report.read_text()
    captions = re.findall(r"<(?:fig)?caption>(.*?)</(?:fig)?caption>", html, flags=re.DOTALL)
    assert len(captions) >= 10
    assert all("simulated data" in caption for caption in captions)
    assert 'class="banner"' in html


def test_real_data_is_not_called_simulated(tmp_path: Path, small: pd.DataFrame) -> None:
    assert (
        "simulated"
        not in words(write(tmp_path, small, simulated=False, dataset="MALC", command="scse study malc")).lower()
    )


def test_a_study_of_one_variant_has_a_report_too(tmp_path: Path, small: pd.DataFrame) -> None:
    text = words(write(tmp_path, small[small["variant"] == "scse"]))
    assert "U-Net: nothing to compare with scSE" in text
    assert "Difference to" not in text
    assert "Ranking" not in text


def test_a_study_without_plain_is_compared_with_its_first_variant(tmp_path: Path, small: pd.DataFrame) -> None:
    text = words(write(tmp_path, small[small["variant"].isin(["cse", "scse"])]))
    assert "scSE is better than cSE: +0." in text


def test_few_cases_and_absent_structures_are_said_so(tmp_path: Path, small: pd.DataFrame) -> None:
    few = small[small["case"] < "1004"].copy()
    few.loc[few["structure"] == "brain-stem", "value"] = np.nan
    text = words(write(tmp_path, few))
    assert "too little data" in text
    assert "no significance can be reached with fewer than 6 paired subjects" in text
    assert "With fewer than 6 pairs no significance can be reached and no p is given" in text
    assert "16 scores are left out" in text
    assert "0 pairs, 4 missing" in text


def test_scores_alone_make_a_page_without_what_was_not_measured(tmp_path: Path, small: pd.DataFrame) -> None:
    html = write(tmp_path, small, digests={}, code=(), caveats=())
    text = words(html)
    left_out = ("Cost", "Learning curves", "Cases", "Channel gates", "Ablations", "Caveats", "Would another seed")
    assert [section for section in left_out if f">{section}" in html] == []
    assert "Difference to plain" in text
    assert "viewer-data" not in html


def test_the_spread_over_seeds_stands_beside_that_over_subjects(tmp_path: Path, small: pd.DataFrame) -> None:
    other = small.assign(seed=1, value=small["value"] - 0.01)
    text = words(write(tmp_path, pd.concat([small, other])))
    row = compare(pd.concat([small, other])).summary.iloc[0]
    assert row["sd_seeds"] == pytest.approx(0.01 / np.sqrt(2))
    assert f"U-Net plain {row['sd']:.3f} 0.007" in text


def test_each_seed_stands_with_its_own_difference_to_plain(tmp_path: Path, small: pd.DataFrame) -> None:
    worse = small.assign(seed=1, value=small["value"] - 0.5 * (small["variant"] == "scse"))
    both = pd.concat([small, worse])
    text = words(write(tmp_path, both))
    dice = small[small["metric"] == "dice"].groupby("variant")["value"].mean()
    change = dice["scse"] - dice["none"]
    assert change > 0
    told = f"{change:+.3f}, \N{MINUS SIGN}{0.5 - change:.3f}"
    assert re.search(rf"U-Net scSE [\d. ]+, [\d.]+ {re.escape(told)}", text)
    assert re.search(r"U-Net plain [\d. ]+, [\d.]+ \N{EN DASH}", text)


def test_a_swept_study_has_its_figures(tmp_path: Path, small: pd.DataFrame) -> None:
    labels = [small.assign(network=f"unet[epochs={epochs}]") for epochs in (3, 6)]
    text = words(write(tmp_path, pd.concat(labels)))
    assert "U-Net: difference over epochs" in text


def test_scores_without_dice_are_refused(tmp_path: Path, small: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="metric 'dice' does not occur"):
        write(tmp_path, small[small["metric"] == "hd95"])


def test_the_terminal_table_shows_mean_and_deviation_with_the_best_in_bold(scores: pd.DataFrame) -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system="standard")
    comparison = compare(scores)
    console.print(table_text(comparison))
    text = console.file.getvalue()
    best = comparison.summary.query("network == 'unet' and variant == 'scse'").iloc[0]
    assert re.search(rf"\x1b\[1m *{best['mean']:.3f} ± {best['sd']:.3f}", text)
    assert all(name in text for name in ("U-Net", "SD-Net", "plain", "cSE", "sSE", "scSE"))


def test_lowest_distance_is_the_best(scores: pd.DataFrame) -> None:
    table = table_text(compare(scores, metric="hd95"))
    cells = {str(column.header): next(iter(column.cells)) for column in table.columns}
    assert cells["scSE"].style == "bold"
    assert cells["plain"].style == ""


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}; apt-get install chromium")
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def page(browser, report: Path) -> Iterator[Any]:
    """The report in a window of its own; `complaints` and `requests` are what it said and asked for."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.complaints, page.requests = [], []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 4")
    page.wait_for_selector("#v-right-canvas[data-drawn]")
    yield page
    page.close()


def drawn(page: Any, side: str, **wanted: object) -> dict[str, Any]:
    """What a canvas shows, once it shows what is wanted."""
    page.wait_for_function(
        "([side, wanted]) => { const d = JSON.parse(document.getElementById(`v-${side}-canvas`).dataset.drawn);"
        " return Object.entries(wanted).every(([key, value]) => d[key] === value); }",
        arg=[side, wanted],
    )
    return json.loads(page.get_attribute(f"#v-{side}-canvas", "data-drawn"))


def wrong_pixels(viewed: Study, variant: str, case: str, number: int, values: tuple[int, ...] = (1, 2)) -> int:
    reference, predicted = viewed.references[case][:, number], viewed.predictions[variant, case][:, number]
    touched = np.isin(reference, values) | np.isin(predicted, values)
    return int(((reference != predicted) & touched).sum())


def test_the_page_works_from_disk_in_chromium(page: Any) -> None:
    assert "scSE is better than plain" in page.locator(".verdict").inner_text()
    assert page.locator("#result + * table tbody tr").count() == 2
    assert page.locator(".banner").is_visible()
    assert page.locator("#boxes-unet g.trace.boxes").count() == 4
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def test_the_viewer_opens_with_the_median_case_and_plain_beside_scse(page: Any, viewed: Study) -> None:
    left, right = drawn(page, "left"), drawn(page, "right")
    assert (left["variant"], right["variant"]) == ("none", "scse")
    assert page.get_attribute("#v-picked [aria-pressed=true]", "data-index") == "2"
    for found in (left, right):
        assert found["errors"] == wrong_pixels(viewed, found["variant"], found["case"], found["slice"])
    assert left["errors"] > right["errors"] > 0


def test_slider_and_arrow_keys_show_other_slices(page: Any, viewed: Study) -> None:
    before = drawn(page, "left")["slice"]
    page.focus("#v-slice")
    page.keyboard.press("ArrowRight")
    after = drawn(page, "left", slice=before + 1)
    assert after["errors"] == wrong_pixels(viewed, "none", after["case"], before + 1)
    page.focus("#v-left-canvas")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    drawn(page, "right", slice=before - 1)
    page.keyboard.press("ArrowUp")
    drawn(page, "right", slice=before)


def test_cases_and_variants_are_chosen(page: Any, viewed: Study) -> None:
    page.click("#v-picked button:has-text('worst')")
    worst = page.locator("#v-case option").nth(0).inner_text()
    found = drawn(page, "left", case=worst)
    page.select_option("#v-left", "scse")
    drawn(page, "left", variant="scse")
    page.select_option("#v-left", "none")
    page.select_option("#v-case", label=found["case"])
    page.click("#v-picked button:has-text('best')")
    best = page.locator("#v-case option").last.inner_text()
    found = drawn(page, "right", case=best)
    assert found["errors"] == wrong_pixels(viewed, "scse", best, found["slice"]) == 0


def test_structures_are_switched_on_and_off(page: Any, viewed: Study) -> None:
    page.click("#v-picked button:has-text('worst')")
    every = drawn(page, "left", case=page.locator("#v-case option").nth(0).inner_text())
    page.click("#v-structures label:has-text('left') input")
    wanted = wrong_pixels(viewed, "none", every["case"], every["slice"], values=(2,))
    assert 0 < wanted < every["errors"]
    drawn(page, "left", errors=wanted)
    page.click("#v-none")
    drawn(page, "left", errors=0, predicted=0)
    page.click("#v-all")
    drawn(page, "left", errors=every["errors"], predicted=every["predicted"])


def pixels(page: Any, side: str) -> int:
    """A number that changes with the picture."""
    return page.evaluate(
        "side => { const c = document.getElementById(`v-${side}-canvas`); return c"
        ".getContext('2d').getImageData(0, 0, c.width, c.height).data.reduce((a, b) => (31 * a + b) | 0, 7); }",
        side,
    )


def test_every_overlay_changes_the_picture_and_opacity_none_hides_the_gate(page: Any) -> None:
    def after(action: Callable[[], object]) -> int:
        action()
        page.wait_for_timeout(150)
        return pixels(page, "right")

    first = after(lambda: None)
    for name in ("image", "reference", "prediction", "errors", "gate"):
        assert after(partial(page.click, f"#v-{name}")) != first, name
        assert after(partial(page.click, f"#v-{name}")) == first, name
    page.click("#v-prediction")
    without = after(partial(page.fill, "#v-opacity", "0"))
    assert after(partial(page.click, "#v-gate")) == without
    assert after(partial(page.fill, "#v-opacity", "80")) != without
    page.click("#v-gate")
    page.click("#v-prediction")
    page.fill("#v-opacity", "50")


def test_pointing_at_the_picture_names_what_lies_there(page: Any) -> None:
    page.hover("#v-left-canvas")
    assert re.search(r"Reference: (background|left|right).* plain: ", page.locator("#v-under").inner_text())


def test_learning_curves_switch_between_minutes_and_epochs(page: Any) -> None:
    x = "[...document.getElementById('curves-unet').data[0].x]"
    assert page.evaluate(x)[:2] == [1.0, 2.0]
    page.check("input[name=curve-axis][value=epochs]")
    assert page.evaluate("document.getElementById('curves-unet').layout.xaxis.title.text") == "epoch"
    page.check("input[name=curve-axis][value=minutes]")
    assert page.evaluate("document.getElementById('curves-unet').layout.xaxis.title.text") == "minutes of training"


def test_downloads_are_the_files_beside_the_page_and_the_scores(page: Any, report: Path, scores: pd.DataFrame) -> None:
    def saved(name: str) -> bytes:
        with page.expect_download() as download:
            page.click(f"#downloads button:has-text('{name}')")
        assert download.value.suggested_filename == name
        return Path(download.value.path()).read_bytes()

    _, table = write_scores(scores, report.parent.parent / "scores")
    assert saved("scores.csv") == table.read_bytes()
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(saved("scores.parquet"))), scores)
    for name in ("table.tex", "boxplot_unet.svg", "boxplot_unet.pdf"):
        assert saved(name) == (report.parent / name).read_bytes()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_figures_take_the_colours_of_the_page(page: Any, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=scheme)
    ink = page.evaluate("getComputedStyle(document.body).color")
    page.wait_for_function(
        "ink => getComputedStyle(document.querySelector('#boxes-unet .xtick text')).fill === ink", arg=ink
    )
    found = Axe().run(page).response["violations"]
    assert [(violation["id"], violation["nodes"][0]["html"]) for violation in found] == []
    page.emulate_media(color_scheme="light")


@pytest.mark.parametrize(("width", "media"), [(1280, "screen"), (320, "screen"), (720, "print")])
def test_nothing_scrolls_sideways(page: Any, width: int, media: str) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(media=media)
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 1280, "height": 900})


def test_the_page_of_scores_alone_works_too(browser, tmp_path: Path, small: pd.DataFrame) -> None:
    write(tmp_path, small)
    page = browser.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_selector("#downloads button")
    assert complaints == []
    page.close()
