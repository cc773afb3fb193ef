"""The study: train and test every variant of every network on the same cases, compare, report."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scse.blocks.modules import VARIANTS
from scse.data.cohort import COHORT_NAME, simulate
from scse.data.dataset import Case
from scse.data.files import read_image, read_label
from scse.data.folds import make_folds
from scse.data.inspection import open_checked
from scse.data.prepared import cache_folder
from scse.data.recipe import Recipe, View
from scse.evaluation.comparison import Comparison, chosen_margin, compare
from scse.evaluation.pairing import SCORE_COLUMNS
from scse.evaluation.quality import RUN
from scse.evaluation.reading import read_table, tidy
from scse.evaluation.scores import score, write_scores
from scse.evaluation.statistics import FEWEST_TRAININGS
from scse.evaluation.verdict import verdict_text
from scse.gates.channel_gates import channel_gates
from scse.inference.finished import FinishedRun
from scse.inference.segmenter import Segmenter, write_prediction
from scse.reports.page import StudyFacts, write_report
from scse.reports.provenance import command_text, data_digest, describe_machine, git_commit
from scse.reports.viewer import viewer_data
from scse.studies.costs import measure_costs
from scse.studies.estimate import parse_budget, plan_time
from scse.studies.grid import Run, expand_variants, grid
from scse.studies.plan import Plan, describe, find_places, shared_settings, warnings_of
from scse.studies.prospect import keep_spread, prospect
from scse.studies.sharing import claimed
from scse.support.atomic import write_atomic
from scse.support.errors import DataError, UserError
from scse.training.loop import Event
from scse.training.record import RunRecord, check_record
from scse.training.run import OnEvent, Stop, StoppedError, counting, read_log, resolve_precision, train
from scse.training.settings import make_settings, reject_unused
from scse.vocabulary.variants import PLAIN, Variant
from scse.zoo.building import find_factory
from scse.zoo.catalogue import LIBRARIES, read_network

COHORT_CASES, COHORT_SEED, COHORT_SPACING = 30, 0, 3.0
COHORT_SETTINGS = {"epochs": 4, "slices_per_epoch": 1000}
"""With 3 mm, what the preset quick becomes for the built-in cohort, so that 12 runs take less than 10 minutes."""
SCORES = "scores.parquet"
LOCKS = "locks"
COST_NAMES = ["network", "variant"]
COST_NUMBERS = ["parameters", "kept_mib", "step_seconds", "step_ratio", "predict_seconds", "predict_ratio"]

WRITTEN = (
    "scores.csv",
    "scores.parquet",
    "costs.csv",
    "curves.csv",
    "viewer.json",
    "gates.parquet",
    "report",
    "cohort",
)
"""What a study writes into its folder once the locks are there."""
CURVE_COLUMNS = ["epoch", "seconds", "loss", "dice"]
FEW_SEEDS_NOTE = (
    f"Fewer than {FEWEST_TRAININGS} seeds: there is no verdict, because two trainings of one network often differ by "
    f"more than two networks do. The same command with --seeds {FEWEST_TRAININGS} adds the missing trainings."
)
SIMULATED_NOTE = (
    "The subjects are simulated: deformed, re-contrasted and noisy copies of one atlas brain. "
    "They show that everything works, not what recalibration does on real scans."
)


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    Attributes:
        folder: with `runs`, `scores.parquet`, `scores.csv`, `costs.csv`, `curves.csv` and `report`.
        scores: the tidy table of all runs.
        costs: parameters and times of every variant.
        comparison: of the variants' Dice.
        report: the page.
    """

    folder: Path
    scores: pd.DataFrame
    costs: pd.DataFrame
    comparison: Comparison
    report: Path

    def __str__(self) -> str:
        """The verdict, in words."""
        return verdict_text(self.comparison, self.costs)


def study(
    dataset: Path | str | None = None,
    *,
    networks: Sequence[str] = ("unet",),
    variants: Sequence[str] = VARIANTS,
    reductions: Sequence[int] = (),
    aggregations: Sequence[str] = (),
    placements: Sequence[str] = (),
    attach_to: str = "auto",
    seeds: int = 3,
    control: bool = False,
    margin: float | None = None,
    folds: int | None = None,
    out: Path | str = "scse-study",
    preset: str = "quick",
    epochs: Sequence[int] = (),
    train_cases: Sequence[int] = (),
    budget: str | None = None,
    settings: Mapping[str, Any] | None = None,
    view: View | None = None,
    spacing: float | None = None,
    skip_bad: bool = False,
    notes: Sequence[str] = (),
    cache: Path | None = None,
    on_event: OnEvent = lambda event: None,
    stop: Stop = lambda: False,
) -> StudyResult:
    """Train and compare variants on the same cases, order, augmentation and shared initial weights.

    A second call with the same arguments skips finished runs and goes on with interrupted ones. One that is made while
    the first goes on, in another process, shares the runs with it.

    Args:
        dataset: its folder, in any layout that `Dataset.open` knows; None simulates the built-in cohort.
        networks: "unet", "sdnet", "densenet", or others: "smp:CLASS", "monai:CLASS" or "FILE.py:FUNCTION" (called
            with in_channels, classes and spatial_dims; returns a module that gives logits at the size of its input),
            with options in brackets, such as "smp:Unet[encoder_name=resnet18]".
        variants: of "none", "cse", "sse", "scse", the last three with or without options in brackets, such as
            "scse[reduction=4,aggregation=max,placement=encoder]", see `scse.variants`; "none" must be among them.
        reductions: values of the paper's r; every variant that has one is run with each.
        aggregations: of "add", "max", "multiply"; "scse" is run with each.
        placements: of "encoder", "decoder", "both", "both+bottleneck"; every variant but "none" is run with each. For
            our networks.
        attach_to: where others get their blocks, see `to` of `scse.attach`; ours have their own places.
        seeds: how many trainings of each variant, counted from 0; a verdict needs 3 or more.
        control: train the plain variant with as many further seeds and compare it with itself: the noise floor.
        margin: differences in Dice below it do not matter; 0.005 by default.
        folds: see `make_folds`.
        out: the study's folder.
        preset: "quick" or "paper".
        epochs: one number instead of the preset's (of the built-in cohort: 4). Several are varied: every
            network is trained anew for each, and is "unet[epochs=3]" in the scores.
        train_cases: numbers of training cases to vary; by default all are used. Fewer are always among more, the same
            for all variants and seeds, see `choose_cases`. In the scores, the network is "unet[train_cases=6]".
        budget: time for the whole study, such as "2h" or "1h30m", that the number of epochs is fitted to, equally for
            all runs; kept in the folder, so that a second call goes on with the same.
        settings: fields of `Settings` that replace the preset's.
        view: plane of the slices; derived from the data by default.
        spacing: mm per pixel in the plane; by default the data's own, and 3 mm for the built-in cohort.
        skip_bad: leave out the cases with problems instead of refusing.
        notes: caveats for the report.
        cache: folder of the prepared arrays.
        on_event: told of everything that happens; `event["event"]` says what.
        stop: asked after every step and case.

    Raises:
        ValueError: a wrong argument.
        DataError: something is wrong with the data, or `out` holds another study.
        StoppedError: `stop` said so; call again to go on.
    """
    command = command_text(study, dict(locals()))
    began = time.monotonic()
    out = Path(out)
    _check_folder(out)
    if swept := sorted({"network", "variant", "attach_to", "seed"} & set(settings or ())):
        options = "networks, variants, attach_to and seeds"
        raise UserError(f"settings must not name {', '.join(swept)}: {options} choose them")
    specs = [read_network(network) for network in networks]
    chosen_variants = expand_variants(
        [Variant.parse(variant, name="variants") for variant in variants],
        reductions=reductions,
        aggregations=aggregations,
        placements=placements,
    )
    given = {**(settings or {}), "attach_to": attach_to, **_one_number(epochs, settings or {}, budget)}
    if dataset is None and preset == "quick":
        given = {**COHORT_SETTINGS, **given}
    # wrong names are told before any file is read
    expand = partial(grid, specs, chosen_variants, seeds=seeds, epochs=epochs, train_cases=train_cases, control=control)
    expand(folds=1)
    chosen_margin("dice", margin)
    reject_unused(specs, chosen_variants, given)
    chosen = make_settings(preset, given)
    for spec in specs:
        find_factory(spec)
    if dataset is None:
        dataset, spacing = _cohort(out, on_event, stop), COHORT_SPACING if spacing is None else spacing
    inspection, cases = open_checked(Path(dataset), skip_bad=skip_bad, progress=counting("inspect", on_event, stop))
    splits = make_folds(cases, folds)
    plan = Plan(
        inspection=inspection,
        dataset=cases,
        recipe=Recipe.derive(inspection.facts_of(cases), view=view, spacing=spacing),
        settings=chosen,
        folds=splits,
        runs=expand(folds=len(splits)),
        out=out,
        cache=cache or cache_folder(),
        epochs=epochs,
        train_cases=train_cases,
        budget=budget or "",
        margin=margin,
    )
    for run in plan.runs:
        plan.training(run)  # too few cases are told before anything is trained
    places = find_places(plan)
    with claimed(out / LOCKS / "plan.lock", stop, wait=True):  # a budget's epochs are fitted once
        plan, duration = plan_time(plan, on_event, stop)
    rows = [*describe(plan, places), *duration, prospect(plan)]
    on_event({"event": "plan", "rows": rows, "runs": len(plan.runs)})
    elsewhere = [numbered for numbered in enumerate(plan.runs, start=1) if not _take(plan, *numbered, on_event, stop)]
    for numbered in elsewhere:  # by now done, or left by a process that ended
        _take(plan, *numbered, on_event, stop, wait=True)
    with claimed(out / LOCKS / "report.lock", stop, wait=True):
        return _finish(plan, partial(_facts, plan, places, notes, command), began, on_event, stop)


def _finish(
    plan: Plan, facts: Callable[[float], StudyFacts], began: float, on_event: OnEvent, stop: Stop
) -> StudyResult:
    """Gather what the runs left, measure costs, and write the report; its facts wait for the seconds of the study."""
    out = plan.out

    def told(event: Event) -> None:
        on_event(event)
        if stop():
            raise StoppedError("stopped while the report was made; all runs are finished and kept")

    scores = pd.concat([_read_scores(plan, run) for run in plan.runs], ignore_index=True)
    write_scores(scores, out)
    costs = _costs(plan, told, stop)
    curves = _curves(plan)
    # of a study that went on, or was shared, this call is only a part
    seconds = max(time.monotonic() - began, curves.groupby(RUN)["seconds"].max().sum())
    finished = [
        FinishedRun(r.label, r.variant, r.seed, r.fold, plan.folder(r), plan.folds[r.fold].test, r.network)
        for r in plan.runs
    ]
    viewer = viewer_data(
        finished,
        scores,
        recipe=plan.recipe,
        structures=plan.dataset.structures,
        colors=plan.dataset.colors,
        cache=out / "viewer.json",
        on_event=told,
    )
    gates = channel_gates(finished, cache=out / "gates.parquet", on_event=told)
    report = write_report(
        out / "report",
        scores=scores,
        costs=costs,
        curves=curves,
        facts=facts(seconds),
        viewer=viewer,
        gates=gates,
        margin=plan.margin,
        on_event=told,
    )
    comparison = compare(scores, margin=plan.margin)
    keep_spread(plan, comparison)
    on_event({"event": "report", "path": report, "folder": out})
    return StudyResult(out, scores, costs, comparison, report)


def _one_number(epochs: Sequence[int], settings: Mapping[str, Any], budget: str | None) -> dict[str, int]:
    """The epochs as a setting, if they are one number and not varied."""
    given = [
        name for name, value in (("epochs", epochs), ("settings", "epochs" in settings), ("budget", budget)) if value
    ]
    if len(given) > 1:
        raise UserError(f"{', '.join(given)} each say how many epochs; give one of them")
    if budget is not None:
        parse_budget(budget)
    return {"epochs": epochs[0]} if len(epochs) == 1 else {}


def _check_folder(out: Path) -> None:
    """Refuse a folder with files of a study's names, but without its locks or runs: they are the user's."""
    if (out / LOCKS).exists() or (out / "runs").exists():
        return
    if there := [str(out / name) for name in WRITTEN if (out / name).exists()]:
        raise UserError(f"{', '.join(there)}: already there, and not of a study of scse; choose another folder")


def _cohort(out: Path, on_event: OnEvent, stop: Stop) -> Path:
    folder = out / "cohort"
    with claimed(out / LOCKS / "cohort.lock", stop, wait=True):
        if not folder.exists():
            simulate(folder, cases=COHORT_CASES, seed=COHORT_SEED, progress=counting("simulate", on_event, stop))
    return folder


def _take(plan: Plan, number: int, run: Run, on_event: OnEvent, stop: Stop, *, wait: bool = False) -> bool:
    """Do a run, unless another process is at it; with `wait`, wait for that one, and do what it left."""
    with claimed(plan.out / LOCKS / f"{run.name}.lock", stop, wait=wait) as ours:
        if not ours:
            on_event({"event": "stage", "what": f"{run.name} is left to another process"})
            return False
        told = {"run": run.name, "folder": plan.folder(run)}
        asked = {**plan.run_settings(run).model_dump(), "fold": run.fold, "train_cases": len(plan.training(run))}
        on_event({"event": "run", **told, "number": number, "runs": len(plan.runs), "settings": asked})
        skipped = _do_run(plan, run, on_event, stop)
        means = _read_scores(plan, run).groupby("metric")["value"].mean()
        on_event({"event": "scored", **told, "scores": means.to_dict(), "skipped": skipped})
    return True


def _do_run(plan: Plan, run: Run, on_event: OnEvent, stop: Stop) -> bool:
    """Train and score a run; returns whether it was finished before."""
    folder = plan.folder(run)
    task, settings = plan.task(run, on_event, stop), plan.run_settings(run)
    if (folder / SCORES).exists():
        check_record(folder, RunRecord.of(task, settings))
        if not (folder / "scores.csv").exists():
            write_scores(_read_scores(plan, run), folder)
        return True
    segmenter = train(task, settings, folder, on_event=on_event, stop=stop)
    test, absent, tables = plan.folds[run.fold].test, plan.absent(run), []
    count = counting("score", on_event, stop)
    for done, case in enumerate(test, start=1):
        table = _score_case(segmenter, case, plan, folder / "predictions")
        # what was never learned has no score: 0 would count as a failure of the network
        table.loc[table["structure"].isin(absent), "value"] = float("nan")
        tables.append(table.assign(network=run.label, variant=str(run.variant), seed=run.seed, fold=run.fold))
        count(done, len(test))
    write_scores(pd.concat(tables, ignore_index=True)[list(SCORE_COLUMNS)], folder)
    return False


def _read_scores(plan: Plan, run: Run) -> pd.DataFrame:
    """The scores of a finished run."""
    path = plan.folder(run) / SCORES
    remedy = "delete it, and call the same command again, which predicts and scores the run anew"
    try:
        table = tidy(read_table(path), path).reset_index(drop=True)
    except DataError as error:
        raise DataError(f"{error}; {remedy}") from error
    own = {"network": run.label, "variant": str(run.variant), "seed": run.seed, "fold": run.fold}
    for column, value in own.items():
        if wrong := [found for found in table[column].unique() if found != value]:
            raise DataError(f"{path}: {column} is {wrong[0]!r}, where the run has {value!r}; {remedy}")
    return table


def _score_case(segmenter: Segmenter, case: Case, plan: Plan, folder: Path) -> pd.DataFrame:
    if case.label is None:
        raise UserError(f"case {case.name} has no label map to be scored against")
    image = read_image(case.images)
    predicted = segmenter.predict_image(image)
    write_prediction(folder, case.name, predicted, case.images[0], image)
    dataset = plan.dataset
    reference = read_label(case.label, colors=dataset.colors).array
    table = score(predicted, reference, spacing=image.spacing, structures=dataset.structures, ignored=dataset.ignored)
    return table.assign(case=case.name)


def _costs(plan: Plan, on_event: OnEvent, stop: Stop) -> pd.DataFrame:
    """Costs of every network's variants; measured once, and again only if a variant or label is added.

    Epochs and training cases change no cost: what is measured for a network stands at all of its labels.
    """
    path = plan.out / "costs.csv"
    if path.exists():
        known = _known_costs(path)
        if set(known.index) == {(run.label, str(run.variant)) for run in plan.runs}:
            return known.reset_index()

    def asked() -> None:
        if stop():
            raise StoppedError("stopped while the costs were measured; all runs are finished and kept")

    on_event({"event": "stage", "what": "measuring the cost of each variant"})
    case = plan.folds[0].test[0]
    tables = []
    for network in plan.networks:
        runs = [run for run in plan.runs if run.network == network]
        first = {run.variant: run for run in reversed(runs)}
        variants = sorted(first, key=lambda variant: VARIANTS.index(variant.kind))
        segmenters = {
            variant: Segmenter.load(plan.folder(first[variant]), network=network.text) for variant in variants
        }
        task, settings = plan.task(runs[0], on_event, stop), plan.run_settings(runs[0])
        table = measure_costs(task, settings, segmenters, read_image(case.images), before=asked)
        tables += [table.assign(network=label) for label in dict.fromkeys(run.label for run in runs)]
    costs = pd.concat(tables, ignore_index=True)
    write_atomic(path, costs.to_csv(index=False).encode())
    return costs


def _known_costs(path: Path) -> pd.DataFrame:
    """Costs that were measured, by network and variant; none if the file is damaged or of an earlier version."""
    none = pd.DataFrame(index=pd.MultiIndex.from_tuples([], names=COST_NAMES))
    try:
        known = pd.read_csv(path, keep_default_na=False)
    except (OSError, ValueError):
        return none
    if not {*COST_NAMES, *COST_NUMBERS} <= set(known.columns):
        return none
    numbers = known[COST_NUMBERS].apply(pd.to_numeric, errors="coerce")
    sound = np.isfinite(numbers).all(axis=None) and (numbers >= 0).all(axis=None)
    return known.set_index(COST_NAMES) if sound and not known.duplicated(COST_NAMES).any() else none


def _curves(plan: Plan) -> pd.DataFrame:
    """Every epoch of every run, written as `curves.csv` too."""
    tables = []
    for run in plan.runs:
        rows = pd.DataFrame(read_log(plan.folder(run)))
        tables.append(rows.assign(network=run.label, variant=str(run.variant), seed=run.seed, fold=run.fold))
    curves = pd.concat(tables, ignore_index=True)[[*RUN, *CURVE_COLUMNS]]
    write_atomic(plan.out / "curves.csv", curves.to_csv(index=False).encode())
    return curves


def _facts(
    plan: Plan, places: Sequence[tuple[str, str]], notes: Sequence[str], command: str, seconds: float
) -> StudyFacts:
    first, simulated = plan.folds[0], plan.dataset.name == COHORT_NAME
    seeds = ", ".join(map(str, sorted({run.seed for run in plan.runs})))
    left_out = plan.inspection.left_out()
    libraries = [LIBRARIES[network.source] for network in plan.networks if network.source in LIBRARIES]
    known = ["scse", "torch", "monai", "numpy", "scipy", "pandas", "nibabel"]
    packages = dict.fromkeys([*known, *(library.package for library in libraries)])
    digests = {fact.name: fact.digest for fact in plan.inspection.facts_of(plan.dataset)}
    rows = [("runs", str(len(plan.runs))), ("seeds", seeds), ("folds", str(len(plan.folds)))]
    rows += [*places, *shared_settings(plan)]
    rows += [("precision", resolve_precision(plan.settings.precision))]
    return StudyFacts(
        title="A study of squeeze & excitation",
        dataset=f"the {COHORT_NAME}" if simulated else plan.dataset.name,
        simulated=simulated,
        training_cases=len(first.training),
        test_cases=len({case.name for fold in plan.folds for case in fold.test}),
        structures=len(plan.dataset.structures),
        caveats=[
            *([SIMULATED_NOTE] if simulated else []),
            *([FEW_SEEDS_NOTE] if len({run.seed for run in plan.runs if run.variant != PLAIN}) in (1, 2) else []),
            *(f"Cases left out, because something is wrong with their files: {names}." for _, names in left_out),
            *(f"Structures without a training case. {text}." for _, text in warnings_of(plan)),
            *(f"{what.capitalize()}: {text}." for what, text in plan.inspection.notices()),
            *notes,
        ],
        command=command,
        recipe=plan.recipe.describe(),
        settings=rows,
        versions={name: version(name) for name in packages},
        machine=describe_machine(),
        duration_seconds=seconds,
        code=[
            ("date", datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")),
            ("git commit", git_commit(Path.cwd()) or "none: the working directory is in no repository"),
            ("data set", str(plan.dataset.path)),
            ("data SHA-256", data_digest(digests)),
        ],
        digests=digests,
    )
