"""The page of predicted label maps: what it packs, which cases come first, and the page in a real browser."""

import base64
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from datasets import AFFINE, save_nifti, save_picture
from scse.data.files import read_image
from scse.data.schemes import LabelScheme
from scse.inference.saved import Known
from scse.inference.segmenter import Segmenter, write_prediction
from scse.inference.volume_table import IMAGE, VolumeTable
from scse.reports import predictions
from scse.reports.predictions import write_prediction_page
from scse.vocabulary.planes import View
from views import SHAPE, segmenter, volume

VALUES = {"left-a": 10, "right-a": 300, "<b>": 3}
KNOWN = Known(cases=9, volumes=dict.fromkeys(VALUES, (0.1, 0.8)), single=("<b>",))
TITLES = ["c (2 flags)", "b (1 flag)", "a", "d"]
LEFT = {"a": "0.784", "b": "0", "c": "0", "d": "0.784"}
"""Millilitres of left-a, 98 voxels of 8 mm³ or none."""


@dataclass
class Predicted:
    """Label maps that were written, (*spatial) by image, with all that the page needs."""

    folder: Path
    segmenter: Segmenter
    images: dict[str, list[Path]]
    maps: dict[str, NDArray[np.integer]]

    @property
    def table(self) -> Path:
        return self.folder / "volumes.csv"

    def write(self, failed: Sequence[str] = (), **options: Any) -> str:
        page, members = self.folder / "report" / "index.html", {Path("model"): self.segmenter}
        options = {"segmenter": self.segmenter, "members": members, "failed": failed, **options}
        assert write_prediction_page(page, self.images, self.folder / "out", self.table, **options) == page
        return page.read_text("utf-8")


def labels_of(name: str) -> NDArray[np.uint16]:
    """Boxes; b has no left-a, and c neither, but <b> in two pieces."""
    labels = np.zeros(SHAPE, np.uint16)
    labels[5:7, 2:9, 1:8] = VALUES["right-a"]
    labels[3:5, 4:8, 3:9] = VALUES["<b>"]
    if name in "ad":
        labels[1:3, 2:9, 1:8] = VALUES["left-a"]
    if name == "c":
        labels[0, 10:, :2] = VALUES["<b>"]
    return labels


def predict(folder: Path, view: View) -> Predicted:
    structures, known = VALUES, KNOWN if view != "picture" else None
    one = replace(segmenter(view), structures=structures, known=known)
    found = Predicted(folder, one, {}, {})
    with VolumeTable(found.table, LabelScheme(structures).scored, known=known) as table:
        for number, name in enumerate("abcd"):
            labels, scan = labels_of(name), volume(number)
            if view == "picture":
                labels, image = labels[4], save_picture(folder / f"{name}.png", scan[4])
            else:
                image = save_nifti(folder / f"{name}.nii.gz", scan, AFFINE)
            write_prediction(folder / "out", name, labels, image, read_image([image]))
            found.images[name], found.maps[name] = [image], labels
            table.add(name, labels, None if view == "picture" else AFFINE)
    return found


@pytest.fixture(scope="module", params=["coronal", "volume", "picture"])
def predicted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Predicted:
    return predict(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def slices(tmp_path: Path) -> Predicted:
    return predict(tmp_path, "coronal")


def packed(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="viewer-data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    content: dict[str, Any] = json.loads(found[1])
    return content


def unpacked(case: Mapping[str, Any]) -> NDArray[np.uint8]:
    (text,) = case["maps"].values()
    content = zlib.decompress(base64.b64decode(text), wbits=-zlib.MAX_WBITS)
    return np.frombuffer(content, np.uint8).reshape(len(case["slices"]), case["height"], case["width"])


def on_screen(view: View, labels: NDArray[Any], case: Mapping[str, Any]) -> NDArray[Any]:
    """Structures, counted from 1, of a label map stored as LAS as packed: left is left, superior is up."""
    numbers = np.select([labels == value for value in VALUES.values()], range(1, len(VALUES) + 1))
    if view == "picture":
        return numbers[None]
    if view == "volume":
        return numbers[np.ix_(case["columns"], case["slices"], case["rows"])].transpose(1, 2, 0)
    return numbers[::-1][:, case["slices"]].transpose(1, 2, 0)[:, ::-1]


def test_label_maps_unpack_to_the_files_on_disk(predicted: Predicted) -> None:
    content = packed(predicted.write())
    assert sorted(case["name"] for case in content["cases"]) == list(predicted.images)
    for case in content["cases"]:
        expected = on_screen(predicted.segmenter.recipe.view, predicted.maps[case["name"]], case)
        np.testing.assert_array_equal(unpacked(case), expected)
        assert case["reference"] is None
        assert set(np.unique(unpacked(case))) == set(np.unique(expected))


def test_cases_with_more_flags_come_first_with_what_is_unusual(slices: Predicted) -> None:
    html = slices.write()
    cases = packed(html)["cases"]
    assert [case["title"] for case in cases] == TITLES
    assert cases[0]["about"] == (
        "c. ⚑ left-a: absent, and all 9 training cases have it. ⚑ <b>: 2 pieces, and all 9 training cases have one."
    )
    assert cases[2]["about"] == "a."
    for case in cases:
        mark = "⚑ " if LEFT[case["name"]] == "0" else ""
        assert case["amounts"][:2] == [f"{mark}{LEFT[case['name']]} ml", "0.784 ml"]
    assert "Label maps with flags: 2 of 4." in html
    assert html.count('class="reason"') == 3
    assert '<td class="number flagged">⚑ 0</td>' in html
    assert '<td class="number faint">0.1 \N{EN DASH} 0.8</td>' in html


def test_a_flagged_image_is_listed_beside_its_structures(slices: Predicted) -> None:
    with VolumeTable(slices.table, LabelScheme(VALUES).scored) as table:  # b and c have lost their flags
        for name, flags in {"b": {}, "c": {}, "d": {IMAGE: "intensities", "right-a": "passes"}}.items():
            table.add(name, slices.maps[name], AFFINE, flags=flags)
    html = slices.write(segmenter=replace(slices.segmenter, known=None))
    first, *others = packed(html)["cases"]
    assert (first["title"], first["about"]) == ("d (2 flags)", "d. ⚑ the image: intensities. ⚑ right-a: passes.")
    assert first["amounts"] == ["0.784 ml", "⚑ 0.784 ml", "0.384 ml"]
    assert "Label maps with flags: 1 of 4." in html
    assert '<td>the image</td><td class="reason">intensities</td>' in html
    assert [case["title"] for case in others] == ["a", "b", "c"]


def test_slices_beside_the_structures_are_shown_too(slices: Predicted) -> None:
    # a quarter of the 7 slices that structures of most cases are in, rounded up, on either side
    assert [case["slices"] for case in packed(slices.write())["cases"]][2] == list(range(11))


def test_unknown_ranges_flag_nothing_and_the_page_says_so(slices: Predicted) -> None:
    slices.table.unlink()
    with VolumeTable(slices.table, LabelScheme(VALUES).scored) as table:
        for name, labels in slices.maps.items():
            table.add(name, labels, AFFINE)
    html = slices.write(segmenter=replace(slices.segmenter, known=None))
    assert "Nothing is compared with the training cases, because their ranges are not stored" in html
    assert [case["title"] for case in packed(html)["cases"]] == list("abcd")
    assert "⚑" not in html


def test_the_page_says_what_made_the_label_maps(slices: Predicted) -> None:
    html = slices.write(members={Path("first"): slices.segmenter, Path("second"): slices.segmenter})
    for row in ("first: mine.py:make, plain, coronal", "second: mine.py:make, plain, coronal", "by 9 training cases"):
        assert f"<dd>{row}</dd>" in html
    for name in ("combination", "engine", "clean-up", "plane", "scse", "torch"):
        assert f"<dt>{name}</dt>" in html
    assert "<dt>combination</dt>" not in slices.write()


def test_regions_are_shown_as_painted_and_measured_as_wholes(slices: Predicted) -> None:
    one = replace(slices.segmenter, regions={"left-a": [10, 300, 3], "right-a": [300, 3], "<b>": [3]}, known=None)
    slices.table.unlink()
    with VolumeTable(slices.table, one.scheme.scored) as table:
        table.add("a", slices.maps["a"], AFFINE)
    content = packed(slices.write(segmenter=one))
    [case] = content["cases"]
    np.testing.assert_array_equal(unpacked(case), on_screen("coronal", slices.maps["a"], case))
    sizes = [(slices.maps["a"] == value).sum() * 0.008 for value in VALUES.values()]
    assert case["amounts"] == [f"{sum(sizes[n:]):.3g} ml" for n in range(3)]
    assert any("regions of labels" in note for note in content["notes"])


def test_failed_images_are_named_and_their_rows_of_earlier_calls_are_not_shown(slices: Predicted) -> None:
    messages = [f"{slices.images['c'][0]}: is truncated", "elsewhere/x.nii.gz: is no image"]
    html = slices.write(messages)
    assert [case["name"] for case in packed(html)["cases"]] == ["b", "a", "d"]
    assert all(f"<li>{message}</li>" in html for message in messages)
    assert "Images that failed: 2 of 5." in html


def test_a_page_without_any_label_map_names_the_failures(slices: Predicted) -> None:
    html = slices.write([f"{path}: is damaged" for (path,) in slices.images.values()])
    assert html.count(": is damaged</li>") == 4
    assert "viewer-data" not in html


def test_ten_thousand_images_make_a_page_within_the_budget(slices: Predicted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "MOST_CASES", 20)
    rows = {name: [[name, s, "1", "5", "0.04", ""] for s in VALUES] for name in (f"i{n:04d}" for n in range(10_000))}
    for row in rows["i0007"], rows["i0300"], rows["i9999"]:
        row[0][-1] = "absent"
    unlike = [[f"u{n:03d}", "left-a", "1", "5", "0.04", "absent"] for n in range(300)]
    VolumeTable(slices.table, LabelScheme(VALUES).scored).put({**rows, **{row[0]: [row] * 3 for row in unlike}})
    for name in [*rows, *(row[0] for row in unlike)]:
        slices.images[name] = slices.images["a"]
    for n in range(4):  # the fourth exceeds the budget, and of the others there are no files
        (slices.folder / "out" / f"u{n:03d}.nii.gz").write_bytes((slices.folder / "out" / "a.nii.gz").read_bytes())
    html = slices.write([f"gone{n}: is damaged" for n in range(5_000)], budget=5_000)
    content = packed(html)
    assert [case["name"] for case in content["cases"]] == ["u000", "u001", "u002"]
    assert "Left out to limit the size of the page: 10301 label maps." in content["notes"]
    assert "and 4800 more" in html
    assert html.count('class="reason"') == predictions.MOST_ROWS
    assert len(html) < 150_000


def test_names_are_no_markup(slices: Predicted) -> None:
    html = slices.write(["</li><script>alert(1)</script>: is damaged"])
    assert "<b>" not in html.replace('<b class="', "")
    assert "<script>alert" not in html


@pytest.fixture(scope="module")
def page(browser: Any, predicted: Predicted) -> Iterator[Any]:
    predicted.write(["x.nii.gz: is damaged"])
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.complaints, page.requests = [], []
    page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto((predicted.folder / "report" / "index.html").as_uri())
    page.wait_for_selector("canvas[data-drawn]")
    yield page
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    page.close()


def drawn(page: Any, name: str) -> dict[str, Any]:
    """What the first canvas shows, once it shows a case."""
    page.wait_for_function(
        "name => JSON.parse(document.querySelector('canvas').dataset.drawn).case === name && "
        "document.querySelector('canvas').getAttribute('aria-label').startsWith(`${name},`)",
        arg=name,
    )
    found: dict[str, Any] = json.loads(page.get_attribute("canvas", "data-drawn"))
    return found


def coloured(page: Any, right: Callable[[int], bool]) -> int:
    """Number of pixels of the first canvas that are not grey, once it is right."""
    script = """() => {
      const c = document.querySelector('canvas');
      const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
      let n = 0;
      for (let i = 0; i < d.length; i += 4) {
        const pixel = d.slice(i, i + 3);
        n += Math.max(...pixel) - Math.min(...pixel) > 20;
      }
      return n;
    }"""
    for _ in range(100):
        if right(count := int(page.evaluate(script))):
            return count
        page.wait_for_timeout(50)
    raise AssertionError(count)


def test_links_and_the_list_open_cases_with_their_labels(page: Any, predicted: Predicted) -> None:
    view = predicted.segmenter.recipe.view
    first = "a" if view == "picture" else "c"
    assert drawn(page, first)["errors"] == 0
    page.click("a[data-case]:has-text('d') >> nth=0")
    found = drawn(page, "d")
    case = next(case for case in packed(predicted.write())["cases"] if case["name"] == "d")
    place = case["slices"].index(found["slice"])
    assert found["predicted"] == np.count_nonzero(on_screen(view, predicted.maps["d"], case)[place])
    assert page.get_attribute("canvas", "aria-label").endswith(f"prediction: {found['predicted']} labelled pixels")
    page.select_option("#v-case", label="b" if view == "picture" else "b (1 flag)")
    drawn(page, "b")
    amounts = page.locator("#v-structures .faint").all_inner_texts()
    assert amounts[:2] == (["0 pixels", "0 pixels"] if view == "picture" else ["⚑ 0 ml", "0.784 ml"])


def test_outlines_and_fill_are_those_of_the_prediction(page: Any) -> None:
    page.select_option("#v-case", label="d")
    drawn(page, "d")
    both = coloured(page, lambda count: count > 0)
    page.click("#v-prediction")
    outlines = coloured(page, lambda count: 0 < count < both)
    page.click("#v-reference")
    coloured(page, lambda count: count == 0)
    page.click("#v-prediction")
    coloured(page, lambda count: outlines < count <= both)
    page.click("#v-reference")
    coloured(page, lambda count: count == both)


def test_the_structure_under_the_crosshair_or_pointer_is_named(page: Any) -> None:
    page.hover("canvas >> nth=0", position={"x": 3, "y": 3})
    page.click("canvas >> nth=0", position={"x": 3, "y": 3})
    page.wait_for_function("document.getElementById('v-under').textContent.endsWith('background.')")
    assert "Dice" not in page.locator("main").inner_text()
    assert not any(page.locator(f"#v-{name}").is_visible() for name in ("errors", "gate", "network", "left", "picked"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: Any, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=scheme)
    found = Axe().run(page).response["violations"]
    assert [(violation["id"], violation["nodes"][0]["html"]) for violation in found] == []


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_nothing_scrolls_sideways(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 1280, "height": 900})
