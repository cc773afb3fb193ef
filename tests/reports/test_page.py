"""The report of a study: its files, its text, and the page in a real browser."""

import base64
import dataclasses
import hashlib
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
from scse.gates.channel_gates import channel_gates
from scse.reports.page import StudyFacts, latex_table, table_text, write_report
from scse.reports.viewer import viewer_data

NETWORKS = {"unet": 2_153_792, "sdnet": 1_600_000}
GAINS = {"none": 0.0, "cse": 0.0005, "sse": 0.008, "scse": 0.015}
SEEDS, CONTROL = 3, 2
SIDED = (
    "cerebral-white-matter", "cerebral-cortex", "lateral-ventricle", "cerebellum-white-matter", "cerebellum-cortex",
    "thalamus", "caudate", "putamen", "pallidum", "hippocampus", "amygdala", "ventral-dc",
)  # fmt: skip
STRUCTURES = [f"{side}-{name}" for side in ("left", "right") for name in SIDED]
STRUCTURES += ["third-ventricle", "fourth-ventricle", "brain-stem"]
COLUMNS = ["network", "variant", "seed", "fold", "case", "structure", "metric", "value"]


def make_scores(*, cases: int = 15) -> pd.DataFrame:
    """Three trainings of each variant with random differences, and two more trainings of the plain U-Net."""
    rng = np.random.default_rng(0)
    ease, luck = np.linspace(0.93, 0.72, len(STRUCTURES)), rng.normal(0, 0.015, cases)
    rows = []
    runs = [(n, v, seed) for n in NETWORKS for v in GAINS for seed in range(SEEDS)]
    runs += [("unet", "none", SEEDS + seed) for seed in range(CONTROL)]
    for network, variant, seed in runs:
        of_training = GAINS[variant] + rng.normal(0, 0.0005)
        dice = ease + luck[:, None] + of_training + rng.normal(0, 0.004, (cases, len(STRUCTURES)))
        for (case, structure), value in np.ndenumerate(dice.clip(0, 0.99)):
            key = (network, variant, seed, 0, f"{1000 + case}_3", STRUCTURES[structure])
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
    command="scse study --networks unet,sdnet --control -o studies/simulated",
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
    """One network with two structures, which is fast to draw."""
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


def write(folder: Path, scores: pd.DataFrame, *, margin: float | None = None, **changes: object) -> str:
    facts = dataclasses.replace(FACTS, **changes)
    return write_report(folder, scores=scores, facts=facts, margin=margin).read_text()


def words(html: str) -> str:
    """The text of the page, without scripts, styles and tags."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.DOTALL)
    bare = re.sub(r'<span class="option">(.*?)</span>', r"\1", bare)
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


def test_the_device_of_the_costs_is_named_where_it_is_known(scores: pd.DataFrame, tmp_path: Path) -> None:
    for costs, text in (
        (make_costs(), "each with its difference to plain."),
        (make_costs().assign(device="NVIDIA H200"), "each with its difference to plain; measured on NVIDIA H200."),
    ):
        page = write_report(tmp_path, scores=scores, facts=FACTS, costs=costs)
        assert text in words(page.read_text())


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


def test_the_page_runs_its_own_scripts_alone_and_asks_no_network(report: Path) -> None:
    html = report.read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1].replace("&#39;", "'")
    rules = {name: sources.split() for name, _, sources in (rule.strip().partition(" ") for rule in policy.split(";"))}
    scripts = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert rules["script-src"] == [f"'sha256-{digest}'" for digest in digests]
    assert len(digests) == 3
    assert rules["default-src"] == ["'none'"]
    assert "connect-src" not in rules


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
    assert "The study estimates" not in text
    assert "Ranking" not in text


def test_a_study_without_plain_is_compared_with_its_first_variant(tmp_path: Path, small: pd.DataFrame) -> None:
    text = words(write(tmp_path, small[small["variant"].isin(["cse", "scse"])]))
    assert "scSE is better than cSE: +0." in text


def test_few_cases_and_absent_structures_are_said_so(tmp_path: Path, small: pd.DataFrame) -> None:
    few = small[small["case"] < "1004"].copy()
    few.loc[few["structure"] == "brain-stem", "value"] = np.nan
    text = words(write(tmp_path, few))
    assert "U-Net: too few cases to decide" in text
    assert "3 trainings and 4 cases; a verdict needs 6 or more cases" in text
    assert "without tests, which need at least 3 trainings and 6 cases" in text
    assert f"{SEEDS * 4 * len(GAINS)} scores are left out" in text
    assert f"(0 cases, {SEEDS * 4} pairs missing)" in text
    assert "Detectable differences" not in text


def test_scores_alone_make_a_page_without_what_was_not_measured(tmp_path: Path, small: pd.DataFrame) -> None:
    html = write(tmp_path, small, digests={}, code=(), caveats=())
    text = words(html)
    left_out = ("Cost", "Learning curves", "Channel gates", "Ablations", "Caveats")
    assert [section for section in left_out if f">{section}" in html] == []
    assert "Difference to plain" in text
    assert "viewer-data" not in html


def test_a_variant_without_any_pair_has_a_report_too(tmp_path: Path, small: pd.DataFrame) -> None:
    alone = small.assign(value=small["value"].where(small["variant"] != "scse"))
    text = words(write(tmp_path, alone))
    assert "scSE: too few cases: no effect observed" in text
    assert "cSE is equivalent to plain" in text


def test_one_seed_has_no_interval_and_no_p_and_its_verdict_says_why(tmp_path: Path, small: pd.DataFrame) -> None:
    html = write(tmp_path, small[small["seed"] == 0])
    text = words(html)
    assert "U-Net: too few trainings to decide" in text
    assert "1 training and 15 cases; a verdict needs 3 or more trainings (--seeds 3)" in text
    assert "The difference between two trainings of plain is unknown; scse study --control" in text
    assert "There are too few trainings or cases for intervals" in text
    assert "With one seed, other trainings may rank differently" in text
    assert not re.search(r"\bp([ =<]+[\d.]| of)|\[\W?\d\.\d", text)
    assert 'id="seeds"' not in html


def test_a_p_never_stands_without_its_difference_and_interval(report: Path) -> None:
    text = words(report.read_text())
    found = [text[: match.start()] for match in re.finditer(r",? p [=<]? ?\d", text)]
    assert len(found) > len(STRUCTURES) * 2 * 3
    effect = r"[+\N{MINUS SIGN}][\d.]+ (Dice )?\[[^]]+\](, equivalence( p [=<] [\d.]+, difference)?)?$"
    of_noise = "has$"
    assert [before[-60:] for before in found if not re.search(f"{effect}|{of_noise}", before)] == []


def test_the_verdict_counts_trainings_and_cases_and_names_what_is_estimated(report: Path) -> None:
    text = words(report.read_text())
    assert re.search(
        r"scSE is better than plain: \+0\.01\d Dice \[[^]]+\], p = 0\.001\d*, 3 trainings and 15 cases", text
    )
    estimand = "mean difference in Dice between a variant and plain over new cases and new trainings of this recipe"
    assert f"The study estimates the {estimand}." in text


def test_equivalence_is_shown_with_the_margin(tmp_path: Path, report: Path, small: pd.DataFrame) -> None:
    text = words(report.read_text())
    assert re.search(r"cSE is equivalent to plain within 0\.005 Dice: [^,]+, [^,]+\], equivalence p [=<] [\d.]+", text)
    assert "margin ± 0.005" in text
    assert "≈ equivalent" in text
    wide = words(write(tmp_path, small, margin=0.03))
    assert "scSE is equivalent to plain within 0.03 Dice" in wide
    assert "margin ± 0.03" in wide


def test_the_margin_is_that_of_dice_alone(tmp_path: Path, small: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="margin must be positive, in units of dice"):
        write(tmp_path, small, margin=0.0)


def test_the_noise_floor_is_that_of_all_plain_trainings(report: Path) -> None:
    text = words(report.read_text())
    assert re.search(
        r"Two trainings of plain differ by 0\.\d+ Dice on average \(5 trainings\); plain compared with", text
    )
    assert re.search(r"average difference of two trainings of plain: 0\.\d+", text)
    assert (
        "Dice on average (3 trainings); scse study --control trains plain at least 4 times to compare plain with itself"
        in text
    )


def test_trainings_that_only_plain_has_are_in_no_table_and_no_figure(
    tmp_path: Path, report: Path, small: pd.DataFrame
) -> None:
    html = report.read_text()
    seeds = re.search(r'id="seeds".*?</table>', html, flags=re.DOTALL)
    assert seeds is not None
    plain = re.search(r"plain</td>.*?</tr>", seeds[0], flags=re.DOTALL)
    assert plain is not None
    assert len(re.findall(r"0\.\d{3}", plain[0])) == 2 + SEEDS
    write(tmp_path / "with", small)
    write(tmp_path / "without", small[small["seed"] < SEEDS])
    for name in ("table.csv", "boxplot_unet.svg"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()


def test_detectable_differences_are_listed_for_every_variant(report: Path, scores: pd.DataFrame) -> None:
    html = report.read_text()
    section = re.search(r'id="detectable".*?</section>', html, flags=re.DOTALL)
    assert section is not None
    text = words(section[0])
    for row in compare(scores).tests.dropna(subset=["detectable"]).to_dict("records"):
        spreads = " ".join(f"{row[name]:.3f}" for name in ("sd_trainings", "sd_blocks", "sd_rest"))
        assert f"{row['detectable']:.3f} {row['needed']:.0f} {spreads}" in text
    assert "with 80 % power" in text
    assert "Between cases" in text


def test_a_difference_that_no_number_of_trainings_shows_needs_more_cases(tmp_path: Path, small: pd.DataFrame) -> None:
    of_case = small["case"].rank(method="dense") * 0.02 * (small["variant"] == "scse")
    text = words(write(tmp_path, small.assign(value=small["value"] - of_case)))
    assert "1,000 trainings are not enough without more cases" in text
    assert re.search(r"U-Net scSE 0\.\d{3} more cases", text)


def test_a_cross_validation_varies_between_folds(tmp_path: Path, small: pd.DataFrame) -> None:
    folds = small.assign(fold=small["case"].rank(method="dense").astype(int) % 5)
    text = words(write(tmp_path, folds))
    assert "Between folds" in text
    assert "Between cases" not in text


def test_the_spread_over_seeds_stands_beside_that_over_cases(tmp_path: Path, small: pd.DataFrame) -> None:
    first = small[small["seed"] == 0]
    both = pd.concat([first, first.assign(seed=1, value=first["value"] - 0.01)])
    text = words(write(tmp_path, both))
    row = compare(both).summary.iloc[0]
    assert row["sd_seeds"] == pytest.approx(0.01 / np.sqrt(2))
    assert f"U-Net plain {row['sd']:.3f} 0.007" in text


def test_each_seed_stands_with_its_own_difference_to_plain(tmp_path: Path, small: pd.DataFrame) -> None:
    first = small[small["seed"] == 0]
    both = pd.concat([first, first.assign(seed=1, value=first["value"] - 0.5 * (first["variant"] == "scse"))])
    text = words(write(tmp_path, both))
    dice = first[first["metric"] == "dice"].groupby("variant")["value"].mean()
    change = dice["scse"] - dice["none"]
    assert change > 0
    told = f"{change:+.3f}, \N{MINUS SIGN}{0.5 - change:.3f}"
    assert re.search(rf"U-Net scSE [\d. ]+, [\d.]+ {re.escape(told)}", text)
    assert re.search(r"U-Net plain [\d. ]+, [\d.]+ \N{EN DASH}", text)


def test_a_swept_study_has_its_figures(tmp_path: Path, small: pd.DataFrame) -> None:
    html = write(tmp_path, pd.concat([small.assign(epochs=epochs) for epochs in (3, 6, 12, 24)]))
    assert "U-Net: difference over epochs" in words(html)
    folded = re.search(r"<details class=\"figures\">\s*<summary>([^<]*)</summary>", html)
    assert folded is not None
    assert folded[1].startswith("U-Net, 24 epochs: ")


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
def page(browser, report: Path) -> Iterator[Any]:
    """The report in a new browser window; `complaints` and `requests` are its console messages and network requests."""
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
    """Wait until a canvas shows the expected content, and return it."""
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
    """A checksum of the picture."""
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


@pytest.mark.parametrize(("width", "media"), [(1280, "screen"), (390, "screen"), (320, "screen"), (720, "print")])
def test_nothing_scrolls_sideways(page: Any, width: int, media: str) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(media=media)
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 1280, "height": 900})


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, small: pd.DataFrame) -> Path:
    """The report of one network and three variants, with only scores."""
    folder = tmp_path_factory.mktemp("single")
    write(folder, small)
    return folder / "index.html"


def first_screen(browser: Any, address: str, width: int, height: int) -> dict[str, Any]:
    """Positions in pixels from the top of the parts of the verdict, and the width of the page."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(address)
    page.wait_for_selector("#trainings-unet .main-svg")
    box = "(selector) => { const b = document.querySelector(selector).getBoundingClientRect();"
    box += " return { top: b.top, bottom: b.bottom, left: b.left, right: b.right }; }"
    parts = {"verdict": ".verdict h3", "sentences": ".verdict ul", "noise": ".noise", "figure": "#trainings-unet"}
    found = {name: page.evaluate(box, selector) for name, selector in parts.items()}
    found["width"] = page.evaluate("document.documentElement.scrollWidth")
    found["svg"] = page.evaluate(box, "#trainings-unet .main-svg")
    page.close()
    return found


def test_verdict_noise_floor_and_figure_are_on_the_first_screen(browser, single: Path) -> None:
    found = first_screen(browser, single.as_uri(), 1280, 800)
    parts = ("verdict", "sentences", "noise", "figure")
    assert {name: found[name]["bottom"] for name in parts if found[name]["bottom"] >= 800} == {}
    assert found["figure"]["left"] > found["sentences"]["right"]


def test_verdict_and_figure_are_on_the_first_screen_of_a_telephone(browser, single: Path) -> None:
    found = first_screen(browser, single.as_uri(), 390, 844)
    assert found["verdict"]["bottom"] <= found["figure"]["top"] < 844 - 100
    assert found["width"] <= 390
    assert found["svg"]["right"] <= 390 - 20


def test_figures_of_several_networks_stand_beside_each_other_and_do_not_overlap(browser, report: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(report.as_uri())
    page.wait_for_selector("#trainings-sdnet .main-svg")
    box = "n => { const b = document.querySelector(`#trainings-${n} .main-svg`).getBoundingClientRect();"
    box += " return [b.left, b.right, b.top]; }"
    first, second = (page.evaluate(box, network) for network in NETWORKS)
    assert first[1] <= second[0]
    assert first[2] == second[2]
    page.close()


HOSTILE = (
    "<a href='//e.org'>a</a>",
    "<script>alert(1)</script>",
    "<a href=javascript:alert()>",
    '{{7*7}} %{x} &lt; $\\frac$ "</script>',
)
"""Names that are markup to a browser, plotly, jinja, matplotlib or a terminal."""


def test_names_are_shown_as_they_are_and_are_no_markup_anywhere(browser, tmp_path: Path, small: pd.DataFrame) -> None:
    link, script, image, quotes = HOSTILE
    structures = dict(zip(small["structure"].unique(), (link, quotes), strict=True))
    renamed = small.assign(
        structure=small["structure"].map(structures),
        case=small["case"] + image,
        network=script,
        variant=small["variant"].replace({"sse": link, "cse": quotes}),
    )
    curves = make_curves()
    curves = curves[curves["network"] == "unet"].assign(network=script).replace({"variant": {"sse": link}})
    gates = pd.DataFrame(
        [(script, link, quotes, 1.0, c, image, 0.5) for c in range(3)],
        columns=["network", "variant", "block", "identity", "channel", "case", "gate"],
    )
    facts = dataclasses.replace(FACTS, title=script, dataset=link, caveats=[quotes], command=image)
    path = write_report(tmp_path, scores=renamed, facts=facts, curves=curves, gates=gates)
    page = browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("#downloads button")
    assert complaints == []
    assert page.title().startswith(script)
    # the page has one image; its empty icon is not an element
    assert page.locator("a[href*='e.org'], a[href^='javascript'], body img, svg a").count() == 0
    figures = page.locator(".js-plotly-plot")
    shown = "".join(figures.nth(number).text_content() for number in range(figures.count()))
    for name in (link, quotes):
        assert name in shown
    assert "</a>" in page.locator(".verdict, .verdicts, main").first.inner_text()
    page.close()


def test_the_policy_stops_a_script_that_got_in_and_every_request(browser, single: Path, tmp_path: Path) -> None:
    taken = "<script>document.title = 'taken'</script>"
    taken += "<img src='https://example.org/x.png' onerror=\"document.title='taken'\">"
    (tmp_path / "index.html").write_text(single.read_text().replace("<main>", f"<main>{taken}", 1))
    page = browser.new_page()
    stopped: list[str] = []
    page.on("requestfailed", lambda request: stopped.append(f"{request.failure} {request.url}"))
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_selector("#downloads button")
    assert page.title() != "taken"
    assert stopped == ["csp https://example.org/x.png"]
    page.close()


def test_the_page_of_scores_alone_works_too(browser, single: Path) -> None:
    page = browser.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(single.as_uri())
    page.wait_for_selector("#downloads button")
    assert complaints == []
    page.close()
