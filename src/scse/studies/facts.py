"""Facts about a study for its report."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from scse.evaluation.statistics import FEWEST_TRAININGS
from scse.reports.page import StudyFacts
from scse.reports.provenance import data_digest, describe_machine, git_commit
from scse.simulation.writing import COHORT_NAME
from scse.studies.plan import Plan, shared_settings, warnings_of
from scse.support.text import counted
from scse.training.record import read_record
from scse.training.setup import resolve_precision
from scse.vocabulary.variants import PLAIN
from scse.zoo.catalogue import LIBRARIES

FEW_SEEDS_NOTE = (
    f"Fewer than {FEWEST_TRAININGS} seeds: there is no verdict, because two trainings of one network often differ by "
    f"more than two networks do. The same command with --seeds {FEWEST_TRAININGS} adds the missing trainings."
)
SIMULATED_NOTE = (
    "The subjects are simulated: deformed, re-contrasted and noisy copies of one atlas brain. "
    "They show that everything works, not what recalibration does on real scans."
)

DEVICES_NOTE = (
    "The runs were trained on several devices: {}. Their training times cannot be compared with each other, and with "
    "precision=auto they may have been computed in different precision."
)


def facts_of(
    plan: Plan, places: Sequence[tuple[str, str]], notes: Sequence[str], command: str, seconds: float
) -> StudyFacts:
    """The facts of the report.

    Args:
        plan: Plan of the study.
        places: Rows (what, patterns) of the places of blocks.
        notes: Caveats of the user.
        command: Command or call that does the same again.
        seconds: Duration of the study.
    """
    first, simulated = plan.folds[0], plan.dataset.name == COHORT_NAME
    seeds = ", ".join(map(str, sorted({run.seed for run in plan.runs})))
    left_out = plan.inspection.left_out()
    libraries = [LIBRARIES[network.source] for network in plan.networks if network.source in LIBRARIES]
    known = ["scse", "torch", "monai", "numpy", "scipy", "pandas", "nibabel", "simpleitk"]
    packages = dict.fromkeys([*known, *(library.package for library in libraries)])
    digests = {fact.name: fact.digest for fact in plan.inspection.facts_of(plan.dataset)}
    rows = [("runs", str(len(plan.runs))), ("seeds", seeds), ("folds", str(len(plan.folds)))]
    rows += [*places, *shared_settings(plan)]
    devices = [tuple(read_record(plan.folder(run)).devices) for run in plan.runs]
    trained_on = _listed(devices)
    rows += [("trained on", trained_on)]
    rows += [("precision", resolve_precision(plan.settings.precision, plan.device))]
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
            *([DEVICES_NOTE.format(trained_on)] if len({name for names in devices for name in names}) > 1 else []),
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


def _listed(devices: Sequence[Sequence[str]]) -> str:
    """The devices that each run was trained on as text, with the numbers of runs if they differ."""
    counts = Counter(", then ".join(names) or "not recorded" for names in devices)  # earlier versions recorded none
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{names} ({counted(count, 'run')})" for names, count in counts.items())
