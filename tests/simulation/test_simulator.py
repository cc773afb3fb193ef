from pathlib import Path

import numpy as np
import pytest
import torch
from test_source import scan

from datasets import save_prepared
from scse.data.inspection import CaseFacts
from scse.data.recipe import Recipe
from scse.data.schemes import LabelScheme
from scse.simulation.simulator import Simulation, Simulator, is_calibrated
from scse.support.errors import UserError

SCHEME = LabelScheme({"left-ball": 3, "right-ball": 7})
CPU = torch.device("cpu")


def facts(*, least: float = 0.0, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> list[CaseFacts]:
    return [CaseFacts("a", (24, 20, 18)[: len(spacing)], spacing, "RAS", 1, (least, 60.0), {0: 9, 3: 1}, "digest")]


def simulator(folder: Path, recipe: Recipe, *, cases: int = 1) -> Simulator:
    image, labels = scan()
    simulation = Simulation.of(facts(), recipe, contrast="source")
    found = [save_prepared(folder / f"case{n}", image[None] + 100 * n, labels[None]) for n in range(cases)]
    return Simulator(found, simulation, recipe, SCHEME, CPU)


def test_volumes_are_made_in_the_spacing_of_the_run(tmp_path: Path) -> None:
    recipe = Recipe(view="volume", spacing=(2.0, 2.0, 2.0), patch=(8, 8, 8), channels=1)
    images, labels = simulator(tmp_path, recipe).subject((0, 0, 0), whole=True)
    # 23, 19 and 17 mm between the centres of the outer voxels
    assert images.shape == (1, 1, 13, 11, 10)
    assert labels.shape == (1, 13, 11, 10)
    assert (images.dtype, labels.dtype) == (np.float32, np.uint8)
    assert set(np.unique(labels)) == {0, 1, 2}
    inside = images[0, 0][labels[0] > 0].mean() - images[0, 0][labels[0] == 0].mean()
    assert inside > 1  # standardised


@pytest.mark.parametrize(("view", "count", "plane"), [("axial", 18, (13, 11)), ("coronal", 20, (13, 10))])
def test_slices_keep_their_number_and_have_the_spacing_of_the_run(
    tmp_path: Path, view: str, count: int, plane: tuple[int, int]
) -> None:
    recipe = Recipe(view=view, spacing=(2.0, 2.0), patch=(8, 8), channels=1)
    made = simulator(tmp_path, recipe)
    images, labels = made.subject((0, 0, 0), whole=True)
    assert images.shape == (count, 1, *plane)
    assert labels.shape == (count, *plane)
    assert made.share_of_subject() == pytest.approx(1 / count)


def test_cases_take_turns_and_subjects_are_given_by_their_keys(tmp_path: Path) -> None:
    recipe = Recipe(view="volume", spacing=None, patch=(8, 8, 8), channels=1)
    made = simulator(tmp_path, recipe, cases=2)
    first = made.subject((5, 2, 0))
    assert all(np.array_equal(one, other) for one, other in zip(first, made.subject((5, 2, 0)), strict=True))
    assert not np.array_equal(first[0], made.subject((5, 2, 2))[0])
    assert [source.means.max().item() > 100 for source in made.sources] == [False, True]
    assert made.share_of_subject() == pytest.approx(8**3 / (24 * 20 * 18))


def test_subjects_for_validation_are_kept_and_differ_by_simulation(tmp_path: Path) -> None:
    recipe = Recipe(view="volume", spacing=None, patch=(8, 8, 8), channels=1)
    made = simulator(tmp_path, recipe)
    found = made.held_out(2, tmp_path / "cache")
    assert [case.name for case in found] == ["simulated 1", "simulated 2"]
    assert all(case.check(recipe, classes=3) == "" for case in found)
    # trainings never see them: numbers that a key lacks count as 0
    assert np.array_equal(found[0].images(), made.subject((1, 1, 1, 1, 0), whole=True)[0])
    assert not np.array_equal(found[0].images(), made.subject((1, 1, 1))[0])
    # they are whole, those of trainings may be cut
    assert {case.labels().shape for case in made.held_out(6, tmp_path / "cache")} == {(1, 24, 20, 18)}
    assert len({made.subject((0, 0, number))[1].shape for number in range(6)}) > 1
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    assert [case.folder for case in made.held_out(2, tmp_path / "cache")] == [case.folder for case in found]
    assert {path: path.stat().st_mtime_ns for path in written} == written
    plain, folders = made.simulation, {found[0].folder}
    for update in ({"contrast": "random"}, {"skull": True}):
        made.simulation = plain.model_copy(update=update)
        folders.add(made.held_out(1, tmp_path / "cache")[0].folder)
    assert len(folders) == 3


def test_subjects_for_validation_have_skulls_too(tmp_path: Path) -> None:
    recipe = Recipe(view="axial", spacing=(1.0, 1.0), patch=(8, 8), channels=1)
    made = simulator(tmp_path, recipe)
    before = made.share_of_subject()
    made.simulation = made.simulation.model_copy(update={"skull": True})
    shapes = {case.labels().shape for case in made.held_out(6, tmp_path / "cache")}
    assert len(shapes) > 2
    assert max(shape[0] for shape in shapes) > 60  # room for a neck
    assert made.share_of_subject() < before / 2


def test_only_brains_without_skull_get_one(tmp_path: Path) -> None:
    recipe = Recipe(view="axial", spacing=(1.0, 1.0), patch=(8, 8), channels=1)
    image, labels = scan()
    whole = np.where(image == 0, np.random.default_rng(1).normal(5, 1, image.shape), image).astype(np.float32)
    case = save_prepared(tmp_path / "whole", whole[None], labels[None])
    simulation = Simulation.of(facts(), recipe, contrast="source", skull=True)
    with pytest.raises(UserError, match=r"skull=true .* the background of .* is not empty"):
        Simulator([case], simulation, recipe, SCHEME, CPU).subject((0, 0, 0))
    picture = Recipe(view="picture", spacing=None, patch=(8, 8), channels=1)
    with pytest.raises(UserError, match="skull=true needs volumes"):
        Simulation.of(facts(spacing=(1.0, 1.0)), picture, contrast="source", skull=True)


def test_older_records_of_simulations_have_no_skull() -> None:
    recipe = Recipe(view="volume", spacing=None, patch=(8, 8, 8), channels=1)
    kept = Simulation.of(facts(), recipe, contrast="source")
    assert Simulation.model_validate(kept.model_dump(exclude={"skull"})) == kept


def test_only_images_with_negative_intensities_have_a_unit() -> None:
    recipe = Recipe(view="volume", spacing=None, patch=(8, 8, 8), channels=1)
    found = [Simulation.of(facts(least=least), recipe, contrast="source").calibrated for least in (0.0, -1024.0)]
    assert found == [False, True] == [is_calibrated(0.0), is_calibrated(-1024.0)]


def test_sources_keep_the_resolution_of_their_images(tmp_path: Path) -> None:
    volume = Recipe(view="volume", spacing=(4.0, 4.0, 4.0), patch=(8, 8, 8), channels=1)
    assert Simulation.of(facts(spacing=(1.0, 1.0, 2.5)), volume, contrast="source").recipe.spacing == (1.0, 1.0, 2.5)
    picture = Recipe(view="picture", spacing=None, patch=(8, 8), channels=1)
    assert Simulation.of(facts(spacing=(1.0, 1.0)), picture, contrast="source").recipe.view == "picture"
