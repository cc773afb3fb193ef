"""The trained segmenters of one network and variant of a study: all folds and seeds, to be averaged."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from pydantic import BaseModel, Field

from scse.inference.saved import DESCRIPTION
from scse.inference.segmenter import Segmenter
from scse.studies.grid import MOST_SEEDS, RUNS, Run
from scse.studies.request import REQUEST
from scse.support.errors import DataError
from scse.support.json_files import read_json, validated
from scse.support.text import shortened_list
from scse.training.record import RECORD, RunRecord, read_record
from scse.vocabulary.titles import title
from scse.vocabulary.variants import Variant

FOLD = re.compile(r"-fold(\d{1,9})\Z")


@dataclass(frozen=True)
class Ensemble:
    """The runs of one network and variant of a study.

    Attributes:
        study: Folder of the study.
        runs: Trained runs, in the order of seeds and folds.
        unfinished: Names of the runs that the study has planned and not trained yet.
        training: Names of all cases that one of the runs was trained on.
    """

    study: Path
    runs: Sequence[Run]
    unfinished: Sequence[str]
    training: frozenset[str]

    def __str__(self) -> str:
        """Network, variant and number of runs, such as "unet, scse: 6 of 6 runs"."""
        run = self.runs[0]
        return f"{run.setup.text}, {run.variant}: {len(self.runs)} of {len(self.runs) + len(self.unfinished)} runs"

    def segmenters(self, *, network: str | None = None, device: str | torch.device = "cpu") -> list[Segmenter]:
        """Load the segmenters.

        Args:
            network: The factory FILE.py:FUNCTION, if the network is your own, see `Segmenter.load`.
            device: Device of the networks, see `Segmenter.load`.

        Raises:
            DataError, UserError: As for `Segmenter.load`.
        """
        return [Segmenter.load(folder, network=own, device=device) for folder, own in self.members(network=network)]

    def members(self, *, network: str | None = None) -> list[tuple[Path, str | None]]:
        """The folder of each run, with the factory FILE.py:FUNCTION that loads it, or None."""
        first = self.runs[0]
        if network is not None:
            # what the study varies is part of the name by which the runs were chosen, and not of the network
            network = network.removesuffix(first.setup.text.removeprefix(first.network.text))
        named = network if first.network.is_file else None
        return [(run.folder(self.study), named) for run in self.runs]


class _Requested(BaseModel):
    """The part of a study's request that says how many trainings each variant has."""

    seeds: int = Field(ge=1, le=MOST_SEEDS)
    folds: int | None = Field(default=None, ge=2)


def find_ensemble(study: Path | str, *, network: str | None = None, variant: str | None = None) -> Ensemble:
    """Find the trained runs of one network and variant of a study, without loading their weights.

    Args:
        study: Folder of the study.
        network: Network of the runs: as in the study, such as "unet"; "unet[epochs=6]" or
            "unet[epochs=6,train_cases=12]" if the study varies these numbers. It may be omitted if there is only one.
        variant: Variant of the runs, such as "scse". It may be omitted if there is only one.

    Raises:
        DataError: The folder contains no study, several networks or variants fit, or none of their runs is trained.
        UserError: The text of the variant is not a variant.
    """
    study = Path(study)
    if not (study / RUNS).is_dir():
        raise DataError(f"{study}: contains no study, {RUNS} is missing; give the folder that scse study wrote (-o)")
    records = _records(study)
    wanted = None if variant is None else Variant.parse(variant)
    names = {run.setup: {run.setup.text, run.network.text} for run in records}
    chosen = [
        run
        for run in records
        if (network is None or title(network) in map(title, names[run.setup])) and wanted in {None, run.variant}
    ]
    groups = dict.fromkeys((run.setup.text, str(run.variant)) for run in chosen)
    if len(groups) != 1:
        what = f"has {'several' if groups else 'no such'} networks and variants"
        there = _listed(groups or ((run.setup.text, str(run.variant)) for run in records))
        remedy = "choose one with --network and --variant (network= and variant= in Python)"
        raise DataError(f"{study}: {what}; {f'there are: {there}' if there else 'it has no runs yet'}; {remedy}")
    trained = sorted((run for run in chosen if _is_trained(study, run)), key=lambda run: (run.seed, run.fold))
    begun = {(run.seed, run.fold) for run in chosen}
    missing = begun.union(_planned(study, records)) - {(run.seed, run.fold) for run in trained}
    first = chosen[0]
    unfinished = [
        Run(first.network, first.variant, seed, fold, first.epochs, first.train_cases).name
        for seed, fold in sorted(missing)
    ]
    if not trained:
        raise DataError(
            f"{study}: none of its {len(unfinished)} runs of {first.setup.text}, {first.variant} is trained yet; "
            "call scse study again to continue it"
        )
    cases = frozenset(name for run in trained for name in records[run].training)
    return Ensemble(study, trained, unfinished, cases)


def _records(study: Path) -> dict[Run, RunRecord]:
    """The runs of a study that have begun, with their records."""
    folders = sorted(path.parent for path in (study / RUNS).glob(f"*/{RECORD}"))
    return {_run_of(folder, record): record for folder, record in ((path, read_record(path)) for path in folders)}


def _run_of(folder: Path, record: RunRecord) -> Run:
    """The run of a folder. What the record does not say, the fold and what the study varies, is in the folder's name.

    Raises:
        DataError: The name of the folder is not that of its run.
    """
    settings, fold = record.settings, FOLD.search(folder.name)
    for epochs, cases in product((None, settings.epochs), (None, len(record.training))):
        if fold is None:
            break
        run = Run(settings.network, settings.variant, settings.seed, int(fold[1]), epochs, cases)
        if run.name == folder.name:
            return run
    raise DataError(
        f"{folder}: the name of the folder is not that of its run, of {settings.network}, {settings.variant}, seed "
        f"{settings.seed}; give it the name again that scse study gave it, or move it out of the study"
    )


def _planned(study: Path, begun: Iterable[Run]) -> Iterable[tuple[int, int]]:
    """Seed and fold of each training that the last request asked for; none if the study is of an earlier version."""
    path = study / REQUEST
    if not path.exists():
        return ()
    remedy = "call scse study again with the same arguments, which writes it anew"
    requested = validated(_Requested, read_json(path, remedy=remedy), path=path, remedy=remedy)
    folds = requested.folds or 1 + max(run.fold for run in begun)
    return product(range(requested.seeds), range(folds))


def _is_trained(study: Path, run: Run) -> bool:
    return (run.folder(study) / "segmenter" / DESCRIPTION).is_file()  # written last


def _listed(groups: Iterable[tuple[str, str]]) -> str:
    return shortened_list([f"--network {network} --variant {variant}" for network, variant in groups], 12)
