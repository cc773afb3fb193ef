"""The choice of a clean-up: only steps that raise Dice on held-out cases, in runs that are stopped too, not in studies.

The network of these tests gives every pixel the class that the image names there.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets import save_nifti, write_nnunet
from scse.data.inspection import open_checked
from scse.data.prepared import IGNORED_CLASS, Prepared
from scse.data.recipe import Recipe
from scse.inference.saved import DESCRIPTION, NO_CLEANING, Cleaning
from scse.inference.segmenter import Segmenter
from scse.support.errors import UserError
from scse.support.events import UNWATCHED, CleaningChosen, Event, Planned, Progress, StoppedError, Trained, Watch
from scse.training.cleaning_choice import affordable, choose_cleaning
from scse.training.record import CHOICE, RECORD, RunRecord, check_record, read_record
from scse.training.run import resume, train_on
from scse.training.settings import Settings
from scse.training.task import MONITORED, MOST_FOR_CLEANING, Task, make_task

PICTURE = Recipe(view="picture", spacing=None, patch=(8, 8), channels=1)
SLICES = Recipe(view="axial", spacing=None, patch=(8, 8), channels=1)
VOLUME = Recipe(view="volume", spacing=None, patch=(4, 8, 8), channels=1)
TINY: dict[str, Any] = {"width": 4, "depth": 2, "epochs": 4, "learning_rate": 0.02, "precision": "32"}


class Named(torch.nn.Module):
    """The class of each pixel is its value in the image."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.numbers = torch.nn.Parameter(torch.arange(float(classes)))

    def forward(self, images: Tensor) -> Tensor:
        return -((images - self.numbers.reshape(-1, *(1,) * (images.ndim - 2))) ** 2)


def segmenter(recipe: Recipe = PICTURE, names: Iterable[str] = ("a", "b")) -> Segmenter:
    structures = {name: 10 * number for number, name in enumerate(names, start=1)}
    return Segmenter(Named(len(structures) + 1), "unet", {}, "none", recipe, structures)


def case(folder: Path, predicted: Any, reference: Any) -> Prepared:
    """A case of which (slices, *spatial) is predicted, or (*spatial) of a picture or volume."""
    folder.mkdir(parents=True)
    predicted, reference = np.asarray(predicted), np.asarray(reference)
    np.save(folder / "images.npy", predicted[:, None].astype(np.float32))
    np.save(folder / "labels.npy", reference.astype(np.uint8))
    return Prepared(folder.name, folder)


def blank(*shape: int) -> NDArray[np.uint8]:
    return np.zeros(shape or (1, 8, 8), np.uint8)


def choose(one: Segmenter, *cases: Prepared) -> tuple[Cleaning, CleaningChosen]:
    return choose_cleaning(one, cases, batch_size=2, watch=UNWATCHED)


def test_an_island_is_removed_because_that_raises_dice(tmp_path: Path) -> None:
    reference = blank()
    reference[0, :4, :4] = 1
    reference[0, 5:, 5:] = 2
    predicted = reference.copy()
    predicted[0, 0, 6] = 1
    cleaning, choice = choose(segmenter(), case(tmp_path / "c", predicted, reference))
    # the largest component of all together would remove structure b
    assert cleaning == Cleaning(keep_largest=("a",))
    assert choice.cases == ("c",)
    assert (choice.before, choice.after) == (pytest.approx((32 / 33 + 1) / 2), 1.0)
    assert [(step.what, step.kept) for step in choice.steps] == [
        ("largest component of all structures together", False),
        ("largest component of a", True),
    ]
    assert (choice.steps[1].before, choice.steps[1].after) == (pytest.approx(32 / 33), 1.0)


def test_a_structure_of_two_true_parts_keeps_both(tmp_path: Path) -> None:
    reference = blank()
    reference[0, :3, :3] = reference[0, 5:, 5:] = 1
    predicted = reference.copy()
    predicted[0, 0, 6] = 1  # an island, too
    one = segmenter(names=["a"])
    cleaning, choice = choose(one, case(tmp_path / "c", predicted, reference))
    assert cleaning == NO_CLEANING
    assert choice.before == choice.after == pytest.approx(36 / 37)
    assert [(step.what, step.kept) for step in choice.steps] == [("largest component of a", False)]


@pytest.mark.parametrize("names", ["a", "ab"])
@pytest.mark.parametrize(("island", "kept"), [(2, False), (6, True)])  # Dice rises by 0.00024 and by 0.00073
def test_a_step_that_raises_dice_by_less_than_it_is_printed_with_is_not_kept(
    tmp_path: Path, names: str, island: int, kept: bool
) -> None:
    reference = blank(1, 80, 80)
    reference[0, :64, :64] = 1
    predicted = reference.copy()
    predicted[0, 79, :island] = 1
    one = segmenter(Recipe(view="picture", spacing=None, patch=(80, 80), channels=1), names=names)
    cleaning, choice = choose(one, case(tmp_path / "c", predicted, reference))
    assert bool(cleaning) is kept
    assert choice.steps[0].kept is kept
    assert (choice.after > choice.before) is kept


def test_the_mean_over_cases_decides(tmp_path: Path) -> None:
    reference = blank()
    reference[0, :4, :4] = 1
    island = reference.copy()
    island[0, 6:, 6:] = 1
    two = reference.copy()
    two[0, 6, 6] = 1
    better, worse = case(tmp_path / "better", island, reference), case(tmp_path / "worse", two, two)
    one = segmenter(names=["a"])
    assert choose(one, better, worse)[0] == Cleaning(keep_largest=("a",))
    smaller = case(tmp_path / "smaller", two, reference)
    part = case(tmp_path / "part", island, island)
    assert choose(one, smaller, part)[0] == NO_CLEANING


def test_all_structures_together_are_cleaned_first(tmp_path: Path) -> None:
    reference = blank()
    reference[0, :4, :2], reference[0, :4, 2:4] = 1, 2
    predicted = reference.copy()
    predicted[0, 6, 6], predicted[0, 6, 7] = 1, 2
    cleaning, choice = choose(segmenter(), case(tmp_path / "c", predicted, reference))
    assert cleaning == Cleaning(largest_foreground=True)
    assert choice.after == 1


def test_one_structure_that_loses_keeps_all_together_from_being_cleaned(tmp_path: Path) -> None:
    reference = blank()
    reference[0, :4, :2], reference[0, 7, 7] = 1, 2
    reference[0, :4, 2:4] = 2
    predicted = reference.copy()
    predicted[0, 6, :6] = 1
    cleaning, choice = choose(segmenter(), case(tmp_path / "c", predicted, reference))
    (together, *_) = choice.steps
    assert together.after > together.before
    assert not together.kept
    assert cleaning == Cleaning(keep_largest=("a",))


def test_holes_are_filled_where_that_raises_dice(tmp_path: Path) -> None:
    full, ring = blank(), blank()
    full[0, :3, :3], full[0, 5:, 5:] = 1, 2
    full[0, 6, 6] = 0  # structure b has a true hole
    ring[:] = full
    ring[0, 1, 1] = 0
    cleaning, choice = choose(segmenter(), case(tmp_path / "c", ring, full))
    assert cleaning == Cleaning(fill_holes=("a",))
    assert {step.what: step.kept for step in choice.steps[1:]} == {
        "holes filled of a": True,
        "holes filled of b": False,
    }


def test_nothing_is_chosen_where_nothing_changes(tmp_path: Path) -> None:
    reference = blank()
    reference[0, :4, :4], reference[0, :4, 4:6] = 1, 2
    assert choose(segmenter(), case(tmp_path / "same", reference, reference)) == (
        NO_CLEANING,
        CleaningChosen(("same",), 1.0, 1.0, ()),
    )


def test_absent_structures_count_for_nothing(tmp_path: Path) -> None:
    reference = blank()
    reference[0, :4, :4] = 1
    predicted = reference.copy()
    predicted[0, 6, 6] = 1
    one = segmenter(names="abc")
    cleaning, choice = choose(one, case(tmp_path / "c", predicted, reference))
    assert cleaning == Cleaning(largest_foreground=True)
    assert choice.after == 1
    _, nothing = choose(one, case(tmp_path / "empty", blank(), blank()))
    assert np.isnan([nothing.before, nothing.after]).all()
    assert nothing.steps == ()


def test_ignored_voxels_decide_nothing(tmp_path: Path) -> None:
    reference = blank()
    reference[0, :4, :4] = 1
    predicted = reference.copy()
    predicted[0, 6, 6] = 1
    reference[0, 6, 6] = IGNORED_CLASS
    cleaning, choice = choose(segmenter(), case(tmp_path / "c", predicted, reference))
    assert (cleaning, choice.before, choice.steps) == (NO_CLEANING, 1.0, ())


def test_slices_of_a_volume_are_cleaned_as_one_volume(tmp_path: Path) -> None:
    reference = blank(5, 8, 8)
    reference[:4, 2:4, 2:4] = 1  # one part in space
    reference[0, 4:6, 4:6] = 1
    predicted = reference.copy()
    predicted[4, 7, 7] = 1
    cleaning, choice = choose(segmenter(SLICES, names=["a"]), case(tmp_path / "c", predicted, reference))
    assert cleaning == Cleaning(keep_largest=("a",))
    assert choice.after == 1


def test_volumes_are_predicted_in_windows(tmp_path: Path) -> None:
    reference = blank(1, 9, 11, 8)
    reference[0, 1:8, 2:9, 1:6] = 1
    reference[0, 4, 5, 3] = 0
    predicted = reference.copy()
    predicted[0, 8, 10, 7] = 1
    cleaning, choice = choose(segmenter(VOLUME, names=["a"]), case(tmp_path / "c", predicted, reference))
    assert (cleaning, choice.after) == (Cleaning(keep_largest=("a",)), 1.0)
    assert [step.what for step in choice.steps if not step.kept] == ["holes filled of a"]


def test_scores_that_are_no_numbers_do_not_end_the_run(tmp_path: Path) -> None:
    one = segmenter()
    torch.nn.init.constant_(one.network.numbers, float("nan"))
    reference = blank()
    reference[0, :4, :4] = 1
    assert choose(one, case(tmp_path / "c", reference, reference))[1].before < 1


def test_the_cases_cost_at_most_a_quarter_of_the_training(tmp_path: Path) -> None:
    cases = [case(tmp_path / f"c{n}", blank(), blank()) for n in range(8)]
    assert affordable(cases, 4 * 8 * 64) == cases
    assert affordable(cases[::-1], 10**9) == cases
    assert [each.name for each in affordable(cases, 4 * 2 * 64)] == ["c2", "c6"]
    assert [each.name for each in affordable(cases, 0)] == ["c4"]


def test_progress_is_reported_and_it_stops_on_request(tmp_path: Path) -> None:
    cases = [case(tmp_path / f"c{n}", blank(3, 8, 8), blank(3, 8, 8)) for n in range(2)]
    events: list[Event] = []
    choose_cleaning(segmenter(SLICES), cases, batch_size=2, watch=Watch(events.append))
    assert events == [Progress("cleaning", 1, 2), Progress("cleaning", 2, 2)]
    for volume, recipe in ((False, SLICES), (True, VOLUME)):
        shape = (1, 4, 8, 8) if volume else (3, 8, 8)
        one = case(tmp_path / recipe.view, blank(*shape), blank(*shape))
        with pytest.raises(StoppedError, match="stopped while the clean-up of label maps was chosen; all epochs are"):
            choose_cleaning(segmenter(recipe), [one], batch_size=2, watch=Watch(stop=lambda: True))


# In a run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training cases, two for validation with a bright speck far from the structures, and a test case."""
    folder = write_nnunet(tmp_path_factory.mktemp("data") / "set", cases=4, tests=1, values=(300, 3))
    for name in ("c2", "c3"):
        path = folder / "imagesTr" / f"{name}_0000.nii.gz"
        image = np.asarray(nib.load(path).dataobj).copy()
        image[-4:-1, -4:-1, -4:-1] = 200
        save_nifti(path, image)
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["c0", "c1"], "val": ["c2", "c3"]}] * 2))
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


Learned = tuple[Path, list[Event]]


@pytest.fixture(scope="module")
def learned(folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """A run, which takes the specks for a structure, and its events."""
    out, events = tmp_path_factory.mktemp("run") / "run", []
    train_on(folder, out=out, settings=TINY, folds=2, cache=cache, on_event=events.append)
    return out, events


def description(run: Path) -> dict[str, Any]:
    return json.loads((run / "segmenter" / DESCRIPTION).read_text())


def test_a_run_chooses_stores_and_reports_a_clean_up(learned: Learned, cache: Path) -> None:
    run, events = learned
    (choice,) = (event for event in events if isinstance(event, CleaningChosen))
    assert isinstance(events[-1], Trained)
    assert choice.after > choice.before
    assert len(choice.cases) == 2
    plan = dict(next(event.rows for event in events if isinstance(event, Planned)))
    assert plan["clean-up"] == "chosen after the last epoch, on at most 2 cases of the validation"
    written = json.loads((run / CHOICE).read_text())
    assert written["cases"] == list(choice.cases)
    assert (written["before"], written["after"]) == (choice.before, choice.after)
    assert [step["what"] for step in written["steps"]] == [step.what for step in choice.steps]
    segmenter = Segmenter.load(run)
    assert segmenter.cleaning
    assert Cleaning.model_validate(description(run)["cleaning"]) == segmenter.cleaning
    cases = [Prepared(name, cache / key) for name, key in read_record(run).for_cleaning.items()]
    again = choose_cleaning(segmenter, sorted(cases, key=lambda case: case.name), batch_size=32, watch=UNWATCHED)
    assert again == (segmenter.cleaning, choice)


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_run_that_was_stopped_after_its_last_epoch_still_chooses(
    folder: Path, cache: Path, learned: Learned, tmp_path: Path, when: str
) -> None:
    call: dict[str, Any] = {"out": tmp_path / "run", "settings": TINY, "folds": 2, "cache": cache}
    events: list[Event] = []
    if when == "before":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("scse.training.run.choose_cleaning", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                train_on(folder, **call)
    else:

        def stop() -> bool:
            return events[-1:] == [Progress("cleaning", 1, 2)]

        with pytest.raises(StoppedError, match="all epochs are done and kept"):
            train_on(folder, **call, on_event=events.append, stop=stop)
    assert not (tmp_path / "run" / "segmenter").exists()
    resume(tmp_path / "run", cache=cache)
    assert description(tmp_path / "run") == description(learned[0])
    assert (tmp_path / "run" / CHOICE).read_bytes() == (learned[0] / CHOICE).read_bytes()


def test_another_choice_needs_no_other_training(folder: Path, cache: Path, learned: Learned, tmp_path: Path) -> None:
    call: dict[str, Any] = {"out": tmp_path / "run", "settings": TINY, "folds": 2, "cache": cache}
    events: list[Event] = []
    train_on(folder, **call, cleaning="none", on_event=events.append)
    assert not [event for event in events if isinstance(event, CleaningChosen)]
    assert dict(next(event.rows for event in events if isinstance(event, Planned)))["clean-up"] == "none"
    assert "cleaning" not in description(tmp_path / "run")
    weights, record = (tmp_path / "run/segmenter/weights.safetensors").read_bytes(), read_record(tmp_path / "run")
    train_on(folder, **call, cleaning="learned")
    assert description(tmp_path / "run") == description(learned[0])
    assert (tmp_path / "run/segmenter/weights.safetensors").read_bytes() == weights
    resume(tmp_path / "run", cache=cache)
    assert description(tmp_path / "run") == description(learned[0])
    train_on(folder, **call, cleaning="none")
    assert "cleaning" not in description(tmp_path / "run")
    assert not (tmp_path / "run" / CHOICE).exists()
    assert read_record(tmp_path / "run") == record


def test_the_own_test_cases_of_a_data_set_choose_only_on_request(folder: Path, cache: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    call: dict[str, Any] = {"out": tmp_path / "run", "settings": TINY, "cache": cache, "on_event": events.append}
    train_on(folder, **call)
    plan = dict(next(event.rows for event in events if isinstance(event, Planned)))
    assert plan["clean-up"].startswith("none: it would be chosen on the data set's own test cases; --folds 5 holds")
    assert read_record(tmp_path / "run").for_cleaning == {}
    train_on(folder, **call, cleaning="learned")
    (choice,) = (event for event in events if isinstance(event, CleaningChosen))
    assert choice.cases == ("t0",)
    with pytest.raises(UserError, match="cleaning: Input should be 'learned' or 'none', got 'all'"):
        train_on(folder, **call, cleaning="all")


def test_cases_for_the_clean_up_are_spread_over_the_held_out_ones(tmp_path: Path) -> None:
    tests = 2 * MOST_FOR_CLEANING
    dataset = open_checked(write_nnunet(tmp_path / "set", cases=1, tests=tests, shape=(9, 4, 9)))
    inspection, cases = dataset
    where: dict[str, Any] = {
        "training": cases.cases,
        "held_out": cases.test_cases,
        "recipe": Recipe.derive(inspection.facts),
        "cache": tmp_path / "cache",
    }
    assert make_task(inspection, **where).for_cleaning == []
    task = make_task(inspection, **where, choose_cleaning=True)
    assert [each.name for each in task.held_out] == [case.name for case in cases.test_cases[:MONITORED]]
    assert [each.name for each in task.for_cleaning] == [case.name for case in cases.test_cases[1::2]]
    assert all(each.check(task.recipe, classes=3) == "" for each in task.for_cleaning)


def test_the_record_keeps_the_cases_and_one_without_them_has_none(task: Task, cache: Path, tmp_path: Path) -> None:
    chosen = replace(task, for_cleaning=[task.held_out[1]])
    plain, with_cases = (RunRecord.of(each, Settings()) for each in (task, chosen))
    assert check_record(tmp_path, plain) == ""
    content = json.loads((tmp_path / RECORD).read_text())
    del content["for_cleaning"]
    (tmp_path / RECORD).write_text(json.dumps(content))
    assert read_record(tmp_path) == plain
    assert check_record(tmp_path, plain) == ""
    assert json.loads((tmp_path / RECORD).read_text()) == content, "an earlier record is left as it is"
    assert check_record(tmp_path, with_cases) == ""
    assert read_record(tmp_path) == with_cases


def test_none_is_chosen_for_regions(tmp_path: Path) -> None:
    of_regions = replace(segmenter(), regions={"a": (10, 20), "b": (20,)})
    with pytest.raises(UserError, match="a clean-up is chosen for exclusive structures only"):
        choose(of_regions, case(tmp_path / "c", blank(), blank()))
