"""The page of predicted cases: label maps over their images, volumes of structures and what is unusual about them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scse.inference.saved import Known
from scse.inference.segmenter import Segmenter, label_path
from scse.inference.volume_table import IMAGE, Volume, read_volumes
from scse.reports.rendering import NOTHING, PLANES, json_markup, read_scripts, render
from scse.reports.viewer import BUDGET, GATE_LEVELS, CaseFiles, Packer, structure_colors
from scse.support.atomic import write_atomic
from scse.support.events import UNWATCHED, Watch
from scse.support.text import counted
from scse.vocabulary.titles import network_name, variant_name

MOST_CASES = 200
"""Most cases on the page, also where more would fit into the budget."""

MOST_ROWS = 200
"""Most flags and most failed images that the page lists."""

FLAG = "⚑"

WHOLE = "the image"
"""What stands in place of a structure where the image itself is flagged."""

NETWORK, VARIANT = "segmenter", "prediction"
"""Names of the label maps in the viewer, which knows predictions of networks and variants."""

Rows = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Predicted:
    """An image that was segmented, with its rows in the table of volumes."""

    name: str
    rows: Sequence[Volume]

    @property
    def volumes(self) -> list[Volume]:
        return [row for row in self.rows if row.structure != IMAGE]

    @property
    def flagged(self) -> list[Volume]:
        return [row for row in self.rows if row.flag]


def write_prediction_page(
    page: Path,
    images: Mapping[str, Sequence[Path]],
    labels: Path,
    volumes: Path,
    *,
    segmenter: Segmenter,
    members: Mapping[Path, Segmenter],
    failed: Sequence[str] = (),
    budget: int = BUDGET,
    watch: Watch = UNWATCHED,
) -> Path:
    """Write the page of the label maps of `Segmenter.predict_files`: one file that loads nothing.

    The page is made from the files, one case at a time. Cases with more flags come first; those that exceed the budget,
    and those after the first 200, are left out.

    Args:
        page: File of the page.
        images: Files of the channels of each image in order, by image name.
        labels: Folder of the label maps.
        volumes: Table of their volumes. An image without rows in it has no label map.
        segmenter: What predicted them.
        members: The segmenters that it consists of, by folder.
        failed: A message for each image that failed, as of `predict_files`.
        budget: Most characters that images and label maps add to the page.
        watch: Receives `Progress`; checked after every case.

    Returns:
        The file of the page.

    Raises:
        DataError: An image or a label map cannot be read any more.
    """
    rows = read_volumes(volumes, images.keys() - _without_label_map(images, failed))
    cases = [_Predicted(name, rows[name]) for name in images if name in rows]
    cases.sort(key=lambda case: -len(case.flagged))
    key, names = f"{NETWORK}|{VARIANT}", [case.name for case in cases[:MOST_CASES]]
    files = [CaseFiles(name, images[name], {key: label_path(labels, name, images[name][0])}) for name in names]
    packed = Packer(segmenter.recipe, segmenter.structures).pack_all(files, budget=budget, watch=watch)
    unit = "pixels" if segmenter.recipe.view == "picture" else "ml"
    flagged = sum(bool(case.flagged) for case in cases)
    content = {
        "networks": [{"id": NETWORK, "name": NETWORK, "variants": [{"id": VARIANT, "name": VARIANT}]}],
        "structures": structure_colors(list(segmenter.structures)),
        "cases": [{**data, **_texts(case, unit)} for data, case in zip(packed, cases, strict=False)],
        "picked": {},
        "gate_levels": GATE_LEVELS,
        "view": segmenter.recipe.view,
        "notes": _notes(segmenter, flagged=flagged, left_out=len(cases) - len(packed)),
    }
    flags = [(place, case.name, row) for place, case in enumerate(cases) for row in case.flagged]
    shown = cases[: len(packed)]
    text = render(
        "predictions.html",
        scripts=read_scripts("viewer"),
        title=f"Label maps of {counted(len(cases), 'image')}",
        cases=shown,
        count=len(cases),
        flagged=flagged,
        flags=flags[:MOST_ROWS],
        more_flags=max(len(flags) - MOST_ROWS, 0),
        failed=failed[:MOST_ROWS],
        failures=len(failed),
        structures=list(segmenter.structures),
        ranges=_ranges(segmenter.known, list(segmenter.structures)),
        known=segmenter.known,
        unit=unit,
        amount=lambda volume: _marked(_amount(volume), volume),
        flag=FLAG,
        whole=WHOLE,
        sides=("left",),
        planes=PLANES if segmenter.recipe.view == "volume" else {},
        viewer=json_markup(json.dumps(content)),
        made_by=_made_by(segmenter, members),
        recipe=segmenter.recipe.describe(),
        versions=[(name, version(name)) for name in _packages(members)],
    )
    write_atomic(page, text.encode())
    return page


def _without_label_map(images: Mapping[str, Sequence[Path]], failed: Sequence[str]) -> set[str]:
    """Images that failed, by the files at the beginning of the messages; an earlier call may have left their rows."""
    of_file = {str(path): name for name, paths in images.items() for path in paths}
    return {of_file[file] for file in (message.partition(": ")[0] for message in failed) if file in of_file}


def _texts(case: _Predicted, unit: str) -> dict[str, Any]:
    """What the viewer says about a case."""
    flagged = case.flagged
    unlike = [f"{FLAG} {row.structure or WHOLE}: {row.flag}." for row in flagged]
    return {
        "title": f"{case.name} ({counted(len(flagged), 'flag')})" if flagged else case.name,
        "about": " ".join([f"{case.name}.", *unlike]),
        "amounts": [_marked(f"{_amount(volume)} {unit}", volume) for volume in case.volumes],
    }


def _notes(segmenter: Segmenter, *, flagged: int, left_out: int) -> list[str]:
    what = "numbers of pixels" if segmenter.recipe.view == "picture" else "volumes"
    return [
        "Label maps with more flags come first." if flagged else "",
        f"Left out to limit the size of the page: {counted(left_out, 'label map')}." if left_out else "",
        f"The numbers next to the names of structures are their {what} in this case.",
        "The structures are regions of labels: a picture shows of each the part that no later region covers, and the "
        "numbers are those of whole regions."
        if segmenter.regions
        else "",
    ]


def _amount(volume: Volume) -> str:
    """Millilitres, or pixels of a picture."""
    return f"{volume.voxels:,}" if math.isnan(volume.volume_ml) else _rounded(volume.volume_ml)


def _marked(text: str, volume: Volume) -> str:
    return f"{FLAG} {text}" if volume.flag else text


def _rounded(millilitres: float) -> str:
    return f"{millilitres:.0f}" if millilitres >= 100 else f"{millilitres:.3g}"


def _ranges(known: Known | None, structures: Sequence[str]) -> list[str]:
    """Volumes of each structure in the training cases; empty if they are not known."""
    ends = [] if known is None else [known.volumes[name] for name in structures]
    return [f"{_rounded(low)} {NOTHING} {_rounded(high)}" for low, high in ends]


def _made_by(segmenter: Segmenter, members: Mapping[Path, Segmenter]) -> Rows:
    """Rows (name, value) about what predicted."""
    rows = [
        ("segmenter", f"{folder}: {network_name(one.name)}, {variant_name(one.variant)}, {one.recipe.view}")
        for folder, one in members.items()
    ]
    engines = dict.fromkeys(str(one.engine or "torch") for one in members.values())
    if len(members) > 1 or all(segmenter.engine is not one.engine for one in members.values()):
        rows.append(("combination", str(segmenter.engine or segmenter)))
    if segmenter.squeeze != "window":
        rows.append(("squeeze", segmenter.squeeze))
    return [
        *rows,
        ("engine", "; ".join(engines)),
        ("clean-up", str(segmenter.cleaning)),
        ("flags", f"by {segmenter.known.cases} training cases" if segmenter.known else "none: ranges not stored"),
        ("date", datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")),
    ]


def _packages(members: Mapping[Path, Segmenter]) -> list[str]:
    engines = {one.engine.name for one in members.values() if one.engine} & {"onnxruntime", "openvino"}
    return ["scse", "torch", "numpy", "scipy", "nibabel", *sorted(engines)]
