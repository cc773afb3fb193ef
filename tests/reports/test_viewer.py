"""Data of the viewer: label maps and gates that unpack to the files on disk, within the budget."""

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from finished import Study, make_study
from scse.data.files import Image
from scse.data.recipe import Recipe
from scse.reports import viewer
from scse.reports.viewer import GATE_LEVELS, Display, chosen_slices, slices_per_case, structure_colors, viewer_data
from scse.support.events import Progress, Stage, Watch


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("viewed"))


def pack(study: Study, cache: Path, **options: Any) -> dict[str, Any]:
    structures = study.dataset.structures
    return json.loads(
        viewer_data(study.runs, study.scores, recipe=study.recipe, structures=structures, cache=cache, **options)
    )


@pytest.fixture(scope="module")
def packed(study: Study, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return pack(study, tmp_path_factory.mktemp("packed") / "viewer.json")


def unpacked(case: dict[str, Any], text: str, sizes: dict[str, Any] | None = None) -> NDArray[np.uint8]:
    sizes = sizes or case
    content = zlib.decompress(base64.b64decode(text), wbits=-zlib.MAX_WBITS)
    return np.frombuffer(content, np.uint8).reshape(len(case["slices"]), sizes["height"], sizes["width"])


def on_screen(volume: NDArray[Any], slices: list[int]) -> NDArray[Any]:
    """Display coronal slices of a volume stored as LAS: left is left, superior is up."""
    return volume[::-1][:, slices].transpose(1, 2, 0)[:, ::-1]


def test_predictions_and_reference_unpack_to_the_label_maps_on_disk(study, packed):
    for case in packed["cases"]:
        reference = unpacked(case, case["reference"])
        np.testing.assert_array_equal(reference, on_screen(study.references[case["name"]], case["slices"]))
        for variant in ("none", "scse"):
            predicted = reference + unpacked(case, case["maps"][f"unet|{variant}"])
            wanted = on_screen(study.predictions[variant, case["name"]], case["slices"])
            np.testing.assert_array_equal(predicted, wanted)


def test_values_of_no_structure_are_shown_as_background(study, tmp_path):
    structures = dict(list(study.dataset.structures.items())[:1])
    [value] = structures.values()
    cache = tmp_path / "viewer.json"
    text = viewer_data(study.runs, study.scores, recipe=study.recipe, structures=structures, cache=cache)
    for case in json.loads(text)["cases"]:
        wanted = on_screen(study.references[case["name"]], case["slices"])
        np.testing.assert_array_equal(unpacked(case, case["reference"]), wanted == value)


def test_pictures_show_the_image_as_the_labels_lie(study, packed):
    case = packed["cases"][0]
    with PIL.Image.open(io.BytesIO(base64.b64decode(case["images"][0]))) as opened:
        shown = np.asarray(opened, dtype=float)
    name = case["name"]
    source = next(c.images[0] for c in study.dataset.test_cases if c.name == name)
    wanted = on_screen(np.asarray(nib.load(source).dataobj), case["slices"])[0]
    assert shown.shape == wanted.shape
    assert np.corrcoef(shown.ravel(), wanted.ravel())[0, 1] > 0.9


def test_gates_are_those_of_the_last_block_for_these_slices(study, packed):
    case = packed["cases"][0]
    (key, gate), *others = case["gates"].items()
    assert (key, others) == ("unet|scse", [])
    levels = unpacked(case, gate["levels"], gate) / GATE_LEVELS
    shown = gate["low"] + levels * (gate["high"] - gate["low"])
    segmenter = study.runs[1].segmenter()
    image = viewer.read_image(next(c.images for c in study.dataset.test_cases if c.name == case["name"]))
    spatial = [g.spatial for g in viewer.slice_gates(segmenter, image, case["slices"]) if g.spatial is not None][-1]
    wanted = spatial[:, ::-1].transpose(0, 2, 1)[:, ::-1]
    np.testing.assert_allclose(shown, wanted, atol=(gate["high"] - gate["low"]) / GATE_LEVELS + 2e-3)


def test_cases_are_sorted_by_the_dice_of_the_plain_network(study, packed):
    dice = [np.mean(case["dice"]["unet|none"]) for case in packed["cases"]]
    assert dice == sorted(dice)
    assert len(dice) == 4
    assert packed["picked"] == {"worst": 0, "median": 2, "best": 3}
    assert packed["by"] == "plain"


def test_a_small_budget_leaves_cases_out_but_keeps_the_picked_ones(study, packed, tmp_path):
    small = pack(study, tmp_path / "viewer.json", budget=10)
    names = [case["name"] for case in packed["cases"]]
    assert [case["name"] for case in small["cases"]] == [names[0], names[2], names[3]]
    assert small["left_out"] == 1
    assert all(12 <= len(case["slices"]) < len(packed["cases"][0]["slices"]) for case in small["cases"])


def test_a_second_call_packs_nothing_and_other_scores_pack_anew(study, tmp_path):
    seen: list[type] = []
    cache, watch = tmp_path / "viewer.json", Watch(lambda event: seen.append(type(event)))
    first = pack(study, cache, watch=watch)
    assert pack(study, cache, watch=watch) == first
    assert seen == [Stage, *[Progress] * 5]  # after each of the four cases, and at the end
    pack(study, cache, budget=10, watch=watch)
    assert seen.count(Stage) == 2


@pytest.mark.parametrize(
    ("wanted", "slices"),
    [
        (100, list(range(10, 70))),
        (30, list(range(10, 70, 2))),
        (25, list(range(10, 70, 3))),
        (12, list(range(10, 70, 5))),
        (1, list(range(10, 70, 5))),
    ],
)
def test_slices_are_thinned_evenly_and_never_below_twelve(wanted, slices):
    assert chosen_slices(10, 69, wanted) == slices


def test_few_slices_are_all_kept():
    assert chosen_slices(3, 9, 12) == [3, 4, 5, 6, 7, 8, 9]


def test_the_budget_is_shared_by_all_cases():
    assert slices_per_case(10, 1_000, 500_000) == 50
    assert slices_per_case(1_000, 1_000, 500_000) == 12


def test_both_sides_of_a_pair_share_their_colour():
    names = ["left-caudate", "right-caudate", "brain-stem", "Right Thalamus", "Left Thalamus", "bright spot"]
    colors = [found["color"] for found in structure_colors(names)]
    assert colors[0] == colors[1]
    assert colors[3] == colors[4]
    assert len(set(colors)) == 4
    for pair in (("left_hippocampus", "right_hippocampus"), ("lh-cortex", "rh-cortex")):
        first, second = structure_colors([*pair])
        assert first["color"] == second["color"]


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SRA", "ASL", "IPR"])
@pytest.mark.parametrize("view", ["sagittal", "coronal", "axial"])
def test_left_is_left_and_up_is_up_however_a_volume_is_stored(codes, view):
    volume = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    ras = nib.Nifti1Image(volume, np.diag([1.0, 2.0, 3.0, 1.0]))
    turn = nib.orientations.ornt_transform(nib.io_orientation(ras.affine), nib.orientations.axcodes2ornt(codes))
    stored = ras.as_reoriented(turn)
    recipe = Recipe(view=view, spacing=None, patch=(8, 8), channels=1)
    array = np.asarray(stored.dataobj)
    plane = Display.of(Image(array[None], stored.affine), recipe)
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[view]
    wanted = np.moveaxis(volume, axis, 0).transpose(0, 2, 1)[:, ::-1]
    shown = plane.screen(array, range(plane.count))
    np.testing.assert_array_equal(sorted(shown.tolist()), sorted(wanted.tolist()))
    assert plane.pixel == tuple(np.delete([1.0, 2.0, 3.0], axis))
