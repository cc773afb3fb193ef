"""The record of a run in its folder: it continues only with the same settings, data and code."""

from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from scse.blocks.kernels import describe_backend
from scse.data.prepared import Prepared
from scse.data.recipe import Recipe
from scse.data.schemes import LabelScheme
from scse.inference.saved import Known, Name, Regions, Structures, in_order
from scse.simulation.simulator import Simulation
from scse.support.atomic import write_atomic
from scse.support.errors import DataError
from scse.support.json_files import read_json, validated
from scse.training.settings import Settings
from scse.training.task import Task
from scse.zoo.catalogue import code_digest

RECORD = "run.json"
REMEDY = "copy the run again, or train anew in another folder"

CHOICE = "cleaning.json"
"""File in the folder of a run, with the Dice of each step of the clean-up that was tried."""

Key = Annotated[str, Field(pattern=r"^\w[\w-]*$", max_length=100)]
"""Key of prepared arrays: the name of a folder in the cache, never a path out of it."""

WRITTEN = ("checkpoint.safetensors", "log.jsonl", CHOICE, "segmenter", "scores.csv", "scores.parquet", "predictions")
"""What a run writes into its folder after the record."""


class RunRecord(BaseModel):
    """The record of a run, kept in its folder. A run continues only with an equal record.

    Attributes:
        settings: Settings of the training.
        recipe: How images are prepared.
        structures: Name -> label value.
        training, held_out: Case -> key of its prepared arrays.
        for_cleaning: The same of the held-out cases on which the clean-up is chosen; empty chooses none. It may change
            when the run is called again, because the training does not depend on it.
        code: File with the user's own network -> its digest, so that no run mixes two versions of it.
        classes, cases: The order of the structures and of the cases, because other programs may reorder the keys of a
            JSON object; None in records of earlier versions.
        software: Versions of scse and torch, and the backend of the blocks, with which the run began; None in records
            of earlier versions. They may differ when the run continues.
        fitted: Whether the network has the options that follow from the recipe, see `scse.zoo.fitting`; False in
            records of earlier versions.
        devices: The devices that the run was trained on, in order, such as "NVIDIA H200"; empty in records of earlier
            versions. They are noted, not compared: a run may continue on another device.
        regions: Name -> label values, if structures are regions of labels; empty otherwise, and in records of earlier
            versions.
        simulation: How subjects are simulated; None simulates none.
        sources: Training case -> key of its arrays as `simulation` prepares them; empty without it.
        known: What the training cases had; None if it is not known. It is not compared, because it follows from the
            cases.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: Settings
    recipe: Recipe
    structures: Structures
    training: Annotated[dict[Name, Key], Field(min_length=1)]
    held_out: dict[Name, Key]
    for_cleaning: dict[Name, Key] = {}
    code: dict[Name, Name] = {}
    classes: list[Name] | None = None
    cases: list[Name] | None = None
    software: dict[Name, Name] | None = None
    fitted: bool = False
    devices: list[Name] = []
    regions: Regions = {}
    simulation: Simulation | None = None
    sources: dict[Name, Key] = {}
    known: Known | None = None

    @model_validator(mode="after")
    def _restore_order(self) -> Self:
        for what, names, fields in (
            ("classes", self.classes, ("structures",)),
            ("cases", self.cases, ("training", "held_out")),
        ):
            listed = [name for field in fields for name in getattr(self, field)]
            if names is not None and sorted(names) != sorted(listed):
                raise ValueError(f"{what} are {names}, and {' and '.join(fields)} have {listed}")
            for field in fields if names is not None else ():
                entries = getattr(self, field)
                ordered = in_order(entries, [name for name in names or () if name in entries])
                object.__setattr__(self, field, ordered)  # the model is frozen
        return self

    @classmethod
    def of(cls, task: Task, settings: Settings) -> Self:
        """The record of a run."""
        return cls(
            settings=settings,
            recipe=task.recipe,
            structures=dict(task.structures),
            training={case.name: case.folder.name for case in task.training},
            held_out={case.name: case.folder.name for case in task.held_out},
            for_cleaning={case.name: case.folder.name for case in task.for_cleaning},
            code=code_digest(settings.network),
            classes=list(task.structures),
            cases=[case.name for case in (*task.training, *task.held_out)],
            fitted=True,
            regions={name: tuple(members) for name, members in task.regions.items()},
            simulation=task.simulation,
            sources={case.name: case.folder.name for case in task.sources},
            known=task.known,
            software={"scse": version("scse"), "torch": version("torch"), "blocks": describe_backend()},
        )


def check_record(folder: Path, record: RunRecord) -> str:
    """Write the record into the folder of a new run, or compare it with the one there.

    The cases on which the clean-up is chosen are not compared, but replaced.

    Returns:
        How the software differs from that with which the run began; "" if it does not.

    Raises:
        DataError: The folder contains a run with other settings, recipe or cases, or files of a run without a record.
    """
    path = folder / RECORD
    if not path.exists():
        if there := [folder / name for name in WRITTEN if (folder / name).exists()]:
            named = ", ".join(map(str, there))
            raise DataError(
                f"{named}: already there, but {path} is not, so this is no run of scse; choose another folder"
            )
        write_atomic(path, record.model_dump_json(indent=2).encode())
        return ""
    kept = read_record(folder)
    uncompared = {"classes", "cases", "software", "for_cleaning", "fitted", "devices", "known"}
    found, wanted = (r.model_dump(mode="json", exclude=uncompared) for r in (kept, record))
    for part in wanted:
        if found[part] != wanted[part]:
            raise DataError(f"{folder}: already contains a run with {_difference(part, found[part], wanted[part])}")
    if kept.for_cleaning != record.for_cleaning:
        again = kept.model_copy(update={"for_cleaning": record.for_cleaning})
        write_atomic(path, again.model_dump_json(indent=2).encode())
    before, now = kept.software or {}, record.software or {}
    changes = [f"{name} {before[name]}, now {now.get(name)}" for name in before if before[name] != now.get(name)]
    return f"the run in {folder} began with {'; '.join(changes)}" if changes else ""


def note_device(folder: Path, device: str) -> str:
    """Note in the record of a run that it is trained on a device from here on.

    Returns:
        The devices before, if the run continues on another one; "" otherwise.
    """
    record = read_record(folder)
    if record.devices[-1:] == [device]:
        return ""
    again = record.model_copy(update={"devices": [*record.devices, device]})
    write_atomic(folder / RECORD, again.model_dump_json(indent=2).encode())
    before = ", then ".join(record.devices)
    return f"the run in {folder} was trained on {before}, and continues on {device}" if before else ""


def _difference(part: str, found: dict[str, Any], wanted: dict[str, Any]) -> str:
    remedy = "request the same as before, or choose another folder with -o"
    key = next(key for key in {**found, **wanted} if found.get(key) != wanted.get(key))
    return f"{part} {key}={found.get(key)!r}; you requested {key}={wanted.get(key)!r}; {remedy}"


def read_record(folder: Path) -> RunRecord:
    """The record of a run.

    Raises:
        DataError: The folder contains no run, or its record cannot be read.
    """
    path = folder / RECORD
    if not path.is_file():
        raise DataError(f"{folder}: holds no run, {RECORD} is missing; give the folder that training wrote (-o)")
    return validated(RunRecord, read_json(path, remedy=REMEDY), path=path, remedy=REMEDY, strict=True)


def prepared_task(record: RunRecord, cache: Path) -> Task:
    """The data of a recorded run, from its prepared arrays.

    Raises:
        DataError: Prepared arrays are gone or damaged.
    """
    remedy = "train on the data set again with the same -o: the run goes on from its checkpoint"

    classes = len(LabelScheme(record.structures, record.regions).labels) + 1

    def found(cases: dict[str, str], recipe: Recipe = record.recipe) -> list[Prepared]:
        prepared = [Prepared(name, cache / key) for name, key in cases.items()]
        for case in prepared:
            if not case.folder.is_dir():
                raise DataError(f"{case.folder}: the prepared arrays of case {case.name} are gone; {remedy}")
            if problem := case.check(recipe, classes=classes, unsummed=True):
                raise DataError(f"the prepared arrays of case {case.name} are damaged ({problem}); {remedy}")
        return prepared

    return Task(
        found(record.training),
        found(record.held_out),
        record.recipe,
        record.structures,
        found(record.for_cleaning),
        record.regions,
        record.simulation,
        [] if record.simulation is None else found(record.sources, record.simulation.recipe),
        record.known,
    )
