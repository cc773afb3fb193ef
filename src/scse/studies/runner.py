"""The study: train and test every variant of every network on the same cases, compare, report."""

import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from scse.atomic import write_atomic
from scse.blocks import VARIANTS
from scse.data.cohort import COHORT_NAME, simulate
from scse.data.dataset import Case, Dataset
from scse.data.files import read_image, read_label
from scse.data.folds import Fold, make_folds
from scse.data.inspection import Inspection, checked
from scse.data.prepared import cache_folder
from scse.data.recipe import Recipe, View
from scse.evaluation.comparison import COLUMNS, Comparison, compare, network_name, verdict
from scse.evaluation.scores import score, write_scores
from scse.networks.library import LIBRARIES, build_network, check_network, describe_places, find_maker
from scse.segmenter import Segmenter, write_prediction
from scse.studies.costs import measure_costs
from scse.studies.grid import Run, grid
from scse.studies.report import StudyFacts, write_report
from scse.training.record import RunRecord, check_record
from scse.training.run import LOG, OnEvent, Stop, counting, resolve_precision, train
from scse.training.settings import OWN_SIZES, Settings, check_sense, make_settings
from scse.training.task import Task, make_task

COHORT_CASES, COHORT_SEED, COHORT_SPACING = 30, 0, 2.0  # 2 mm, so that the built-in study takes minutes
SCORES = "scores.parquet"
RUN_COLUMNS = ["network", "variant", "seed", "fold"]
SIMULATED_NOTE = (
    "The subjects are simulated: deformed, re-contrasted and noisy copies of one atlas brain. "
    "They show that everything works, not what recalibration does on real scans."
)


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    Attributes:
        folder: with `runs`, `scores.parquet`, `scores.csv`, `costs.csv` and `report`.
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
        return verdict(self.comparison)


@dataclass(frozen=True)
class _Plan:
    """A study ready to run: what `study` was asked, with all choices made."""

    inspection: Inspection
    dataset: Dataset
    recipe: Recipe
    settings: Settings
    folds: list[Fold]
    runs: list[Run]
    out: Path
    cache: Path

    @property
    def networks(self) -> list[str]:
        return list(dict.fromkeys(run.network for run in self.runs))

    def folder(self, run: Run) -> Path:
        return self.out / "runs" / run.name

    def run_settings(self, run: Run) -> Settings:
        return self.settings.model_copy(update={"network": run.network, "variant": run.variant, "seed": run.seed})

    def task(self, run: Run, on_event: OnEvent, stop: Stop) -> Task:
        fold = self.folds[run.fold]
        return make_task(
            self.inspection,
            training=fold.training,
            held_out=fold.test,
            recipe=self.recipe,
            cache=self.cache,
            progress=counting("prepare", on_event, stop),
        )


def study(
    dataset: Path | str | None = None,
    *,
    networks: Sequence[str] = ("unet",),
    variants: Sequence[str] = VARIANTS,
    attach_to: str = "auto",
    seeds: int = 1,
    folds: int | None = None,
    out: Path | str = "scse-study",
    preset: str = "quick",
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

    A second call with the same arguments skips finished runs and goes on with interrupted ones.

    Args:
        dataset: its folder, in any layout that `Dataset.open` knows; None simulates the built-in cohort.
        networks: "unet", "sdnet", "densenet", or others: "smp:CLASS", "monai:CLASS" or "FILE.py:FUNCTION" (called
            with in_channels, classes and spatial_dims; returns a module that gives logits at the size of its input),
            with options in brackets, such as "smp:Unet[encoder_name=resnet18]".
        variants: of "none", "cse", "sse", "scse"; "none" must be among them.
        attach_to: where others get their blocks, see `to` of `scse.attach`; ours have their own places.
        seeds: how many, counted from 0.
        folds: see `make_folds`.
        out: the study's folder.
        preset: "quick" or "paper".
        settings: fields of `Settings` that replace the preset's.
        view: plane of the slices; derived from the data by default.
        spacing: mm per pixel in the plane; by default the data's own, and 2 mm for the built-in cohort.
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
    began = time.monotonic()
    out = Path(out)
    if swept := sorted({"network", "variant", "attach_to", "seed"} & set(settings or ())):
        options = "networks, variants, attach_to and seeds"
        raise ValueError(f"settings must not name {', '.join(swept)}: {options} choose them")
    grid(networks, variants, seeds=seeds, folds=1)  # wrong names are told before any file is read
    check_sense(networks, variants, {**(settings or {}), "attach_to": attach_to})
    chosen = make_settings(preset, {**(settings or {}), "attach_to": attach_to})
    for network in networks:
        find_maker(check_network(network))
    if dataset is None:
        dataset, spacing = _cohort(out, on_event, stop), COHORT_SPACING if spacing is None else spacing
    path = Path(dataset)
    inspection, cases = checked(path, skip_bad=skip_bad, progress=counting("inspect", on_event, stop))
    splits = make_folds(cases, folds)
    plan = _Plan(
        inspection=inspection,
        dataset=cases,
        recipe=Recipe.derive(inspection.facts_of(cases), view=view, spacing=spacing),
        settings=chosen,
        folds=splits,
        runs=grid(networks, variants, seeds=seeds, folds=len(splits)),
        out=out,
        cache=cache or cache_folder(),
    )
    places = _find_places(plan)
    on_event({"event": "plan", "rows": _description(plan, places), "runs": len(plan.runs)})
    for number, run in enumerate(plan.runs, start=1):
        on_event({"event": "run", "run": run.name, "number": number, "runs": len(plan.runs)})
        _do_run(plan, run, on_event, stop)
    scores = pd.concat([pd.read_parquet(plan.folder(run) / SCORES) for run in plan.runs], ignore_index=True)
    write_scores(scores, out)
    costs = _costs(plan, on_event, stop)
    curves = _curves(plan)
    # of a study that went on, this call is only a part
    seconds = max(time.monotonic() - began, curves.groupby(RUN_COLUMNS)["seconds"].max().sum())
    facts = _facts(plan, path, places, notes=notes, simulated=cases.name == COHORT_NAME, seconds=seconds)
    report = write_report(out / "report", scores=scores, costs=costs, curves=curves, facts=facts)
    return StudyResult(out, scores, costs, compare(scores), report)


def _cohort(out: Path, on_event: OnEvent, stop: Stop) -> Path:
    folder = out / "cohort"
    if not folder.exists():
        simulate(folder, cases=COHORT_CASES, seed=COHORT_SEED, progress=counting("simulate", on_event, stop))
    return folder


def _find_places(plan: _Plan) -> list[tuple[str, str]]:
    """Where networks that are not ours get their blocks: each is built once, as a row (what, patterns).

    So a network that is wrong is told before others are trained for hours.
    """
    variant = next((run.variant for run in plan.runs if run.variant != "none"), "none")
    arguments = {"in_channels": plan.recipe.channels, "classes": len(plan.dataset.structures) + 1}
    rows = []
    for network in plan.networks:
        if check_network(network).source:
            built = build_network(
                network,
                arguments,
                variant=variant,
                size=plan.recipe.patch,
                attach_to=plan.settings.attach_to,
                pretrained=False,
            )
            rows.append((f"blocks of {network_name(network)}", describe_places(built) or "none"))
    return rows


def _do_run(plan: _Plan, run: Run, on_event: OnEvent, stop: Stop) -> None:
    folder = plan.folder(run)
    task, settings = plan.task(run, on_event, stop), plan.run_settings(run)
    if (folder / SCORES).exists():
        check_record(folder, RunRecord.of(task, settings))
        return
    segmenter = train(task, settings, folder, on_event=on_event, stop=stop)
    test, tables = plan.folds[run.fold].test, []
    count = counting("score", on_event, stop)
    for done, case in enumerate(test, start=1):
        table = _score_case(segmenter, case, plan, folder / "predictions")
        tables.append(table.assign(network=run.network, variant=run.variant, seed=run.seed, fold=run.fold))
        count(done, len(test))
    write_scores(pd.concat(tables, ignore_index=True)[list(COLUMNS)], folder)


def _score_case(segmenter: Segmenter, case: Case, plan: _Plan, folder: Path) -> pd.DataFrame:
    if case.label is None:
        raise ValueError(f"case {case.name} has no label map to be scored against")
    image = read_image(case.images)
    predicted = segmenter.predict_image(image)
    write_prediction(folder, case.name, predicted, case.images[0], image)
    reference = read_label(case.label, colors=plan.dataset.colors).array
    table = score(predicted, reference, spacing=image.spacing, structures=plan.dataset.structures)
    return table.assign(case=case.name)


def _costs(plan: _Plan, on_event: OnEvent, stop: Stop) -> pd.DataFrame:
    """Costs of every network's variants; measured once, and again only if a variant is added."""
    path = plan.out / "costs.csv"
    networks = plan.networks
    variants = sorted({run.variant for run in plan.runs}, key=VARIANTS.index)
    if path.exists():
        known = pd.read_csv(path, keep_default_na=False)
        if set(zip(known["network"], known["variant"], strict=True)) == set(product(networks, variants)):
            return known
    on_event({"event": "stage", "what": "measuring the cost of each variant"})
    case = plan.folds[0].test[0]
    tables = []
    for network in networks:
        first = [Run(network, variant, 0, 0) for variant in variants]
        segmenters = {run.variant: Segmenter.load(plan.folder(run), network=network) for run in first}
        task, settings = plan.task(first[0], on_event, stop), plan.run_settings(first[0])
        tables.append(measure_costs(task, settings, segmenters, read_image(case.images)))
    costs = pd.concat(tables, ignore_index=True)
    write_atomic(path, costs.to_csv(index=False).encode())
    return costs


def _curves(plan: _Plan) -> pd.DataFrame:
    tables = []
    for run in plan.runs:
        rows = pd.read_json(plan.folder(run) / LOG, lines=True)
        tables.append(rows.assign(network=run.network, variant=run.variant, seed=run.seed, fold=run.fold))
    return pd.concat(tables, ignore_index=True)


def _description(plan: _Plan, places: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    first = plan.folds[0]
    precision = resolve_precision(plan.settings.precision)
    return [
        ("data set", f"{plan.dataset.name} ({plan.dataset.path})"),
        ("cases", f"{len(first.training)} for training, {len(first.test)} for testing, {len(plan.folds)} fold(s)"),
        *plan.inspection.left_out(),
        ("structures", str(len(plan.dataset.structures))),
        *plan.recipe.describe(),
        *places,
        *_shared(plan),
        ("computed in", f"{'bfloat16' if precision == 'bf16' else 'float32'} convolutions"),
        ("runs", str(len(plan.runs))),
    ]


def _shared(plan: _Plan) -> list[tuple[str, str]]:
    """The settings that are the same in all runs; sizes of our networks say whose they are, where there are others."""
    own = [network_name(network) for network in plan.networks if not check_network(network).source]
    label = "" if len(own) == len(plan.networks) else f" ({', '.join(own)})"
    left_out = {"network", "variant", "attach_to", "seed", "precision", *([] if own else OWN_SIZES)}
    return [
        (name.replace("_", " ") + (label if name in OWN_SIZES else ""), str(value))
        for name, value in plan.settings.model_dump(exclude=left_out).items()
    ]


def _facts(
    plan: _Plan, path: Path, places: Sequence[tuple[str, str]], *, notes: Sequence[str], simulated: bool, seconds: float
) -> StudyFacts:
    first = plan.folds[0]
    seeds = len({run.seed for run in plan.runs})
    left_out = plan.inspection.left_out()
    libraries = [
        LIBRARIES[source] for network in plan.networks if (source := check_network(network).source) in LIBRARIES
    ]
    packages = dict.fromkeys(["scse", "torch", "monai", "numpy", *(library.package for library in libraries)])
    rows = [("runs", str(len(plan.runs))), ("seeds", str(seeds)), ("folds", str(len(plan.folds)))]
    rows += [*places, *_shared(plan)]
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
            *(f"Cases left out, because something is wrong with their files: {names}." for _, names in left_out),
            *notes,
        ],
        command=shlex.join(["scse", *sys.argv[1:]])
        if Path(sys.argv[0]).name == "scse"
        else f"scse.study({str(path)!r})",
        recipe=plan.recipe.describe(),
        settings=rows,
        versions={name: version(name) for name in packages},
        machine=f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        duration_seconds=seconds,
    )
