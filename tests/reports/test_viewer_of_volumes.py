"""The viewer of volumes: packed stacks that hold the voxels on disk, and three linked planes in a real browser."""

import base64
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from numpy.typing import NDArray

from finished import Study, make_study
from scse.data.files import read_image
from scse.data.recipe import Recipe
from scse.gates.explaining import slice_gates
from scse.reports import viewer
from scse.reports.page import StudyFacts, write_report
from scse.reports.viewer import GATE_LEVELS, chosen_steps, viewer_data, voxels_per_case

VOLUMES = Recipe(view="volume", spacing=None, patch=(16, 16, 16), channels=1)
SHAPE = (26, 12, 18)
AFFINE = np.array([[0, 0, -1.5, 0], [-1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1.0]])
"""Voxels stored from anterior to posterior, inferior to superior and right to left."""

FACTS = StudyFacts(
    title="volumes",
    dataset="boxes",
    simulated=False,
    training_cases=2,
    test_cases=4,
    structures=2,
    caveats=(),
    command="scse study --dims 3",
    recipe=(),
    settings=(),
    versions={},
    machine=(),
    duration_seconds=1.0,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("volumes")
    return make_study(folder, cases=4, recipe=VOLUMES, shape=SHAPE, affine=AFFINE)


def pack(study: Study, cache: Path, **options: Any) -> str:
    structures = study.dataset.structures
    return viewer_data(study.runs, study.scores, recipe=study.recipe, structures=structures, cache=cache, **options)


@pytest.fixture(scope="module")
def packed(study: Study, tmp_path_factory: pytest.TempPathFactory) -> str:
    return pack(study, tmp_path_factory.mktemp("packed") / "viewer.json")


def unpacked(case: dict[str, Any], text: str) -> NDArray[np.uint8]:
    content = zlib.decompress(base64.b64decode(text), wbits=-zlib.MAX_WBITS)
    return np.frombuffer(content, np.uint8).reshape(len(case["slices"]), case["height"], case["width"])


def kept(volume: NDArray[Any], case: dict[str, Any]) -> NDArray[Any]:
    """The packed voxels of a stored volume (anterior to posterior, inferior to superior, right to left)."""
    return volume[np.ix_(case["slices"], case["rows"], case["columns"])]


def check_labels(study: Study, case: dict[str, Any]) -> None:
    reference = unpacked(case, case["reference"])
    np.testing.assert_array_equal(reference, kept(study.references[case["name"]], case))
    for variant in ("none", "scse"):
        predicted = reference + unpacked(case, case["maps"][f"unet|{variant}"])
        np.testing.assert_array_equal(predicted, kept(study.predictions[variant, case["name"]], case))


def test_a_stack_holds_the_labels_from_anterior_superior_left(study: Study, packed: str) -> None:
    content = json.loads(packed)
    assert content["view"] == "volume"
    for case in content["cases"]:
        check_labels(study, case)
        assert case["counts"] == list(SHAPE)
        assert case["voxel"] == [1, 2, 1.5]
        first, last = (
            AFFINE[:3, :3] @ [case[name][place] for name in ("slices", "rows", "columns")] for place in (0, -1)
        )
        assert first[0] < last[0]  # to the right
        assert first[1] > last[1]  # to posterior
        assert first[2] > last[2]  # to inferior


def test_the_image_is_one_picture_of_all_slices(study: Study, packed: str) -> None:
    case = json.loads(packed)["cases"][0]
    (text,) = case["images"]
    with PIL.Image.open(io.BytesIO(base64.b64decode(text))) as opened:
        tiled = np.asarray(opened, dtype=float)
    rows = tiled.reshape(-1, case["height"], case["tiles"], case["width"]).swapaxes(1, 2)
    shown = rows.reshape(-1, case["height"], case["width"])[: len(case["slices"])]
    source = next(c.images for c in study.dataset.test_cases if c.name == case["name"])
    wanted = kept(read_image(source).array[0], case)
    assert np.corrcoef(shown.ravel(), wanted.ravel())[0, 1] > 0.9


def test_gates_lie_on_the_stack(study: Study, packed: str) -> None:
    case = json.loads(packed)["cases"][0]
    ((key, gate),) = case["gates"].items()
    assert key == "unet|scse"
    assert (gate["height"], gate["width"]) == (case["height"], case["width"])
    shown = gate["low"] + unpacked(case, gate["levels"]) / GATE_LEVELS * (gate["high"] - gate["low"])
    image = read_image(next(c.images for c in study.dataset.test_cases if c.name == case["name"]))
    spatial = [g.spatial for g in slice_gates(study.runs[1].segmenter(), image, case["slices"])][-1]
    assert spatial is not None
    wanted = spatial[:, case["rows"]][:, :, case["columns"]]
    np.testing.assert_allclose(shown, wanted, atol=(gate["high"] - gate["low"]) / GATE_LEVELS + 2e-3)


def test_large_volumes_are_reduced_to_the_budget(
    study: Study, packed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer, "FEWEST_VOXELS", 500)
    budget = len(packed) // 2
    text = pack(study, tmp_path / "viewer.json", budget=budget)
    content = json.loads(text)
    assert len(text) <= budget + 1_000  # of which the description of the study is a part
    assert content["left_out"] == 0
    for case in content["cases"]:
        check_labels(study, case)
        assert 250 < len(case["slices"]) * case["height"] * case["width"] < np.prod(SHAPE) / 2
        steps = [abs(case[name][1] - case[name][0]) for name in ("slices", "rows", "columns")]
        assert case["voxel"] == [1 * steps[0], 2 * steps[1], 1.5 * steps[2]]
        assert max(steps) > 1


def test_a_small_budget_leaves_volumes_out(study: Study, packed: str, tmp_path: Path) -> None:
    names = [case["name"] for case in json.loads(packed)["cases"]]
    small = json.loads(pack(study, tmp_path / "viewer.json", budget=10))
    assert [case["name"] for case in small["cases"]] == [names[0], names[2], names[3]]
    assert small["left_out"] == 1


def test_volumes_are_cropped_to_reference_and_predictions(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer, "MARGIN", 0)
    for case in json.loads(pack(study, tmp_path / "viewer.json"))["cases"]:
        name = case["name"]
        labels = [study.references[name], *(study.predictions[variant, name] for variant in ("none", "scse"))]
        found = np.argwhere(np.any(labels, axis=0))
        ends = [sorted((case[axis][0], case[axis][-1])) for axis in ("slices", "rows", "columns")]
        assert ends == np.stack([found.min(0), found.max(0)], axis=1).tolist()
        check_labels(study, case)


@pytest.mark.parametrize(
    ("sizes", "spacing", "wanted", "steps"),
    [
        ((10, 10, 10), (1, 1, 1), 1000, [1, 1, 1]),
        ((10, 10, 10), (1, 1, 1), 999, [2, 1, 1]),
        ((10, 10, 10), (1, 1, 1), 125, [2, 2, 2]),
        ((10, 10, 10), (3, 1, 1), 250, [1, 2, 2]),
        ((10, 10, 10), (3, 1, 1), 1, [10, 10, 10]),
        ((1, 8, 8), (0.001, 1, 1), 32, [1, 2, 1]),
    ],
)
def test_the_finest_axis_is_reduced_first(sizes, spacing, wanted, steps) -> None:
    assert chosen_steps(sizes, spacing, wanted) == steps


def test_the_budget_is_shared_by_all_volumes() -> None:
    assert voxels_per_case(10, 0.5, 5_000_000) == 1_000_000
    assert voxels_per_case(1_000, 0.5, 5_000_000) == viewer.FEWEST_VOXELS
    assert voxels_per_case(1, 0.01, 5_000_000) == viewer.MOST_VOXELS


@pytest.fixture(scope="module")
def page(browser, study: Study, packed: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    scores = pd.concat([study.scores.assign(seed=seed) for seed in (0, 1)])
    report = write_report(tmp_path_factory.mktemp("report"), scores=scores, facts=FACTS, viewer=packed)
    page = browser.new_page(viewport={"width": 1280, "height": 1400})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report.as_uri())
    page.wait_for_selector("#v-right-canvas-sagittal[data-drawn]")
    yield page
    page.close()
    assert complaints == []


PLANES = ("coronal", "axial", "sagittal")
ACROSS = {"coronal": ("sagittal", "axial"), "axial": ("sagittal", "coronal"), "sagittal": ("coronal", "axial")}
"""Planes whose slices are passed to the right and downwards."""


DRAWN = """() => ['left', 'right'].every(side => ['coronal', 'axial', 'sagittal'].every(plane => {
  const at = name => document.getElementById(`v-${name}`);
  const drawn = JSON.parse(at(`${side}-canvas-${plane}`).dataset.drawn);
  return at(`number-${plane}`).textContent.startsWith(`${drawn.slice + 1} of`) && drawn.variant === at(side).value
    && drawn.case === at('case').selectedOptions[0].text;
}))"""


def drawn(page: Any, side: str = "left") -> dict[str, dict[str, Any]]:
    """What the canvases of a row show, by plane, once they show what the controls say."""
    page.wait_for_function(DRAWN)
    return {plane: json.loads(page.get_attribute(f"#v-{side}-canvas-{plane}", "data-drawn")) for plane in PLANES}


def voxel(page: Any) -> tuple[int, ...]:
    """Stored index of the voxel at the crosshair; `SHAPE` is coronal, axial and sagittal slices."""
    shown = drawn(page)
    return tuple(shown[plane]["slice"] for plane in PLANES)


def on_screen(case: dict[str, Any], volume: NDArray[Any], plane: str, at: tuple[int, ...]) -> NDArray[Any]:
    """A slice of a stored volume with left on the left, superior or anterior up, and in sagittal slices anterior right.

    Volumes are stored from anterior to posterior, inferior to superior, right to left.
    """
    slices, rows, columns = (np.sort(case[name]) for name in ("slices", "rows", "columns"))
    box = volume[np.ix_(slices, rows, columns)]
    place = [int(np.flatnonzero(along == index)[0]) for along, index in zip((slices, rows, columns), at, strict=True)]
    return {
        "coronal": box[place[0]][::-1, ::-1],
        "axial": box[:, place[1]][:, ::-1],
        "sagittal": box[:, :, place[2]].T[::-1, ::-1],
    }[plane]


def point_at(page: Any, side: str, plane: str, x: float, y: float) -> tuple[float, float]:
    """Place on the screen of a fraction of the width and height of a canvas."""
    canvas = page.locator(f"#v-{side}-canvas-{plane}")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def grid(page: Any, side: str, plane: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Colours (*shape, 4) of a canvas at the centres of its voxels."""
    script = """([id, height, width]) => {
      const c = document.getElementById(id);
      const all = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
      const found = [];
      for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
        const [i, j] = [Math.floor((y + 0.5) / height * c.height), Math.floor((x + 0.5) / width * c.width)];
        found.push(...all.slice(4 * (i * c.width + j), 4 * (i * c.width + j) + 4));
      }
      return found;
    }"""
    colors = page.evaluate(script, [f"v-{side}-canvas-{plane}", *shape])
    return np.array(colors, np.uint8).reshape(*shape, 4)


def current(page: Any, packed: str) -> dict[str, Any]:
    return json.loads(packed)["cases"][int(page.input_value("#v-case"))]


def test_all_planes_open_where_the_structures_are_largest(page: Any, study: Study) -> None:
    at, case = voxel(page), drawn(page)["axial"]["case"]
    labels = study.references[case] > 0
    areas = [labels.sum(axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]
    assert [area[i] for area, i in zip(areas, at, strict=True)] == [area.max() for area in areas]
    letters = [page.locator(f"div:has(> #v-left-canvas-{plane}) b").all_inner_texts() for plane in PLANES]
    assert letters == [["L", "R", "S", "I"], ["L", "R", "A", "P"], ["P", "A", "S", "I"]]


@pytest.mark.parametrize("plane", PLANES)
def test_a_click_in_one_plane_moves_the_others_and_names_the_label_there(
    page: Any, study: Study, packed: str, plane: str
) -> None:
    case = current(page, packed)
    before = voxel(page)
    reference, found = study.references[case["name"]], study.predictions["none", case["name"]]
    wanted = on_screen(case, np.arange(reference.size).reshape(reference.shape), plane, before)
    for x, y in ((0.2, 0.4), (0.6, 0.45), (0.52, 0.8)):
        i, j = int(y * wanted.shape[0]), int(x * wanted.shape[1])
        page.mouse.click(*point_at(page, "left", plane, (j + 0.5) / wanted.shape[1], (i + 0.5) / wanted.shape[0]))
        at = voxel(page)
        assert at == np.unravel_index(wanted[i, j], reference.shape)
        assert at[PLANES.index(plane)] == before[PLANES.index(plane)]
        names = {0: "background", **{value: name for name, value in study.dataset.structures.items()}}
        text = page.locator("#v-under").inner_text()
        assert re.match(rf"At the crosshair: reference {names[reference[at]]}\. plain: {names[found[at]]}\b", text), (
            text
        )


@pytest.mark.parametrize("plane", PLANES)
def test_every_plane_shows_labels_and_image_as_they_lie(page: Any, study: Study, packed: str, plane: str) -> None:
    page.click("#v-picked button:has-text('median')")
    at, case = voxel(page), current(page, packed)
    found = on_screen(case, study.predictions["none", case["name"]], plane, at)
    canvas = page.evaluate(f"(c => [c.width, c.height])(document.getElementById('v-left-canvas-{plane}'))")
    mm = dict(zip(PLANES, ((1.5, 2), (1.5, 1), (1, 2)), strict=True))[plane]
    assert canvas[0] / canvas[1] == pytest.approx(found.shape[1] * mm[0] / (found.shape[0] * mm[1]), rel=0.01)
    source = next(c.images for c in study.dataset.test_cases if c.name == case["name"])
    image = on_screen(case, read_image(source).array[0], plane, at)
    for name in ("reference", "prediction"):
        page.uncheck(f"#v-{name}")
    grey = grid(page, "left", plane, image.shape)[..., 0].astype(float)
    assert np.corrcoef(grey.ravel(), image.ravel())[0, 1] > 0.9
    page.uncheck("#v-image")
    page.check("#v-prediction")
    # both structures have the same colour, as a pair
    for structure in (1, 2):
        page.click("#v-none")
        page.locator("#v-structures input").nth(structure - 1).check()
        shown = grid(page, "left", plane, found.shape)
        np.testing.assert_array_equal(shown[..., :3].any(axis=-1), found == structure)
    page.click("#v-all")
    for name in ("image", "reference"):
        page.check(f"#v-{name}")


def test_dragging_keys_wheel_and_sliders_move_the_crosshair(page: Any) -> None:
    page.mouse.move(*point_at(page, "right", "axial", 0.5, 0.5))
    page.mouse.down()
    start = voxel(page)
    page.mouse.move(*point_at(page, "right", "axial", 0.8, 0.3))
    page.mouse.up()
    moved = voxel(page)
    assert moved[0] < start[0]  # up is anterior, which is stored first
    assert moved[1] == start[1]
    assert moved[2] < start[2]  # right is stored first
    page.mouse.move(*point_at(page, "right", "axial", 0.1, 0.9))
    assert voxel(page) == moved  # a pointer that is not pressed moves nothing
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    assert voxel(page) == (moved[0] + 1, moved[1], moved[2] + 1)
    page.keyboard.press("PageUp")
    assert voxel(page)[1] == moved[1] + 1
    page.mouse.wheel(0, 100)
    assert voxel(page)[1] == moved[1]
    page.focus("#v-slice-sagittal")
    page.mouse.wheel(0, 100)  # scrolls the page
    page.keyboard.press("ArrowRight")
    assert voxel(page) == (moved[0] + 1, moved[1], moved[2] + 2)
    number = page.locator("#v-number-sagittal").inner_text()
    assert number == f"{moved[2] + 3} of {SHAPE[2]}"


def test_the_crosshair_lies_on_its_voxel_and_can_be_hidden(page: Any) -> None:
    x, y = point_at(page, "left", "coronal", 0.3, 0.6)
    page.mouse.click(x, y)
    lines = page.locator("div:has(> #v-left-canvas-coronal) i")
    across, down = lines.nth(0).bounding_box(), lines.nth(1).bounding_box()
    box = page.locator("#v-left-canvas-coronal").bounding_box()
    rows, columns = (int(page.get_attribute(f"#v-slice-{plane}", "max")) + 1 for plane in ("axial", "sagittal"))
    assert abs(across["y"] - y) <= box["height"] / rows / 2 + 1
    assert abs(down["x"] - x) <= box["width"] / columns / 2 + 1
    page.uncheck("#v-crosshair")
    assert not lines.nth(0).is_visible()
    page.check("#v-crosshair")


def test_gates_errors_and_cases_are_shown_in_every_plane(page: Any, study: Study, packed: str) -> None:
    page.select_option("#v-right", "scse")
    page.click("#v-picked button:has-text('worst')")
    case, at, shown = current(page, packed), voxel(page), drawn(page, "right")
    for plane in PLANES:
        reference, found = (
            on_screen(case, labels, plane, at)
            for labels in (study.references[case["name"]], study.predictions["scse", case["name"]])
        )
        assert shown[plane]["errors"] == (reference != found).sum()
        assert shown[plane]["case"] == case["name"]
    before = [grid(page, "right", plane, (5, 5)) for plane in PLANES]
    page.check("#v-gate")
    page.wait_for_timeout(150)
    assert all((grid(page, "right", plane, (5, 5)) != old).any() for plane, old in zip(PLANES, before, strict=True))
    assert "gate from" in page.locator("#v-right-caption").inner_text()
    page.uncheck("#v-gate")


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_three_planes_fit_the_screen(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [page.locator(f"#v-left-canvas-{plane}").bounding_box() for plane in PLANES]
    coronal, axial, sagittal = boxes
    assert coronal["height"] == pytest.approx(sagittal["height"], rel=0.02)
    assert coronal["width"] == pytest.approx(axial["width"], rel=0.02)
    assert (axial["y"] > coronal["y"]) == (width < 600)
    page.set_viewport_size({"width": 1280, "height": 1400})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_the_viewer(page: Any, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=scheme)
    found = Axe().run(page).response["violations"]
    assert [(violation["id"], violation["nodes"][0]["html"]) for violation in found] == []
    page.emulate_media(color_scheme="light")
