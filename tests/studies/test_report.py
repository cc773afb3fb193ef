"""The report of a study: its files, its words, and the page in a real browser."""

import dataclasses
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from scse.evaluation import compare
from scse.studies.report import StudyFacts, table_text, write_report

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
        (network, variant, count + added[variant], 0.412 * (1 + 2 * gain), 1 + 2 * gain, 3.1, 1 + gain)
        for network, count in NETWORKS.items()
        for variant, gain in GAINS.items()
    ]
    names = ["network", "variant", "parameters", "step_seconds", "step_ratio", "predict_seconds", "predict_ratio"]
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
    machine="Intel Xeon, 2 threads, no accelerator",
    duration_seconds=5_400.0,
)


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    return make_scores()


@pytest.fixture(scope="module")
def small(scores: pd.DataFrame) -> pd.DataFrame:
    """One network, two structures: quick to draw."""
    return scores[(scores["network"] == "unet") & scores["structure"].isin(["left-caudate", "brain-stem"])]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, scores: pd.DataFrame) -> Path:
    folder = tmp_path_factory.mktemp("study") / "report"
    return write_report(folder, scores=scores, costs=make_costs(), curves=make_curves(), facts=FACTS)


def write(folder: Path, scores: pd.DataFrame, **changes: object) -> str:
    facts = dataclasses.replace(FACTS, **changes)
    empty = make_curves().iloc[:0]
    return write_report(folder, scores=scores, costs=make_costs(), curves=empty, facts=facts).read_text()


def words(html: str) -> str:
    """The page's text: no scripts, no styles, no tags."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", bare).split())


def test_the_folder_holds_page_table_and_figures_and_nothing_else(report: Path) -> None:
    figures = [f"boxplot_{network}.{ending}" for network in NETWORKS for ending in ("pdf", "png")]
    assert sorted(p.name for p in report.parent.iterdir()) == sorted(["index.html", "table.csv", *figures])


def test_the_csv_is_the_summary_of_every_metric(report: Path, scores: pd.DataFrame) -> None:
    table = pd.read_csv(report.parent / "table.csv")
    assert len(table) == 2 * 4 * 3
    dice = table[table["metric"] == "dice"].drop(columns="metric")
    pd.testing.assert_frame_equal(dice.reset_index(drop=True), compare(scores).summary, check_dtype=False)


def test_the_page_loads_nothing_from_elsewhere(report: Path) -> None:
    html = re.sub(r"<script>.*?</script>", "", report.read_text(), flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["'](?!data:)""", html)
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
    assert "U-Net : nothing to compare with scSE." in text


def test_a_study_without_plain_is_compared_with_its_first_variant(tmp_path: Path, small: pd.DataFrame) -> None:
    text = words(write(tmp_path, small[small["variant"].isin(["cse", "scse"])]))
    assert "scSE is better than cSE by" in text


def test_few_cases_and_absent_structures_are_said_so(tmp_path: Path, small: pd.DataFrame) -> None:
    few = small[small["case"] < "1004"].copy()
    few.loc[few["structure"] == "brain-stem", "value"] = np.nan
    text = words(write(tmp_path, few))
    assert "no significance can be reached with fewer than 6 paired subjects" in text
    assert "Holm-corrected; 4 subjects" in text
    assert "With fewer than 6 pairs no significance can be reached and no p is given" in text
    assert "16 scores are left out" in text
    assert "0 pairs, 4 missing" in text


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


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_page_works_from_disk_in_chromium(browser, report: Path, width: int, height: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": height})
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 4")
    assert re.search(r"is better than the plain network by .* scSE is better by", page.locator(".verdict").inner_text())
    assert page.locator("#result + * table tbody tr").count() == 2
    assert page.locator(".banner").is_visible()
    assert page.locator("#boxes-unet g.trace.boxes").count() == 4
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    page.close()


def test_figures_take_the_colours_of_the_dark_page(browser, report: Path) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(report.as_uri())
    page.wait_for_function("document.querySelector('#boxes-unet .xtick text')")
    ink = page.evaluate("getComputedStyle(document.body).color")
    page.wait_for_function(
        "ink => getComputedStyle(document.querySelector('#boxes-unet .xtick text')).fill === ink", arg=ink
    )
    page.close()
