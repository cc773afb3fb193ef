"""Measures the simulation of subjects from one labelled image, and draws some beside their source.

    python benchmarks/simulation.py
    python benchmarks/simulation.py --figure docs/simulation.png --malc ../shared/data/malc

The first command times subjects of 128 x 128 x 128 voxels with 30 structures, and brains without and with a head. With
`--figure`, subjects of the built-in brain atlas are drawn, without and with heads; with `--malc`, also volumes and
intensities of structures of simulated subjects beside those of the real ones of a data set with the same structures.
"""

import argparse
import itertools
import statistics
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from measuring import machine, markdown
from scipy import ndimage

from scse.data.files import read_image, read_label
from scse.data.prepared import cache_folder
from scse.simulation.brain import STRUCTURES, VARIATION, brain_atlas
from scse.simulation.source import Source
from scse.simulation.subjects import draw_subject
from scse.vocabulary.sides import partner_classes

SHOWN = 6
SUBJECTS = 30


def main() -> None:
    """Print the table, or draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--figure", type=Path, help="PNG of subjects of the brain atlas")
    parser.add_argument("--malc", type=Path, help="folder of the MALC data set, for volumes and intensities")
    chosen = parser.parse_args()
    if chosen.figure is None:
        measure(chosen.repeats)
        return
    source = brain()
    draw(source, chosen.figure)
    draw_heads(source, chosen.figure.with_stem(f"{chosen.figure.stem}_heads"))
    if chosen.malc is not None:
        compare(source, chosen.malc, chosen.figure.with_stem(f"{chosen.figure.stem}_volumes"))


def measure(repeats: int) -> None:
    """Seconds for a subject with 30 structures, and for a million voxels of brains and heads."""
    rng = np.random.default_rng(0)
    smooth = ndimage.zoom(rng.random((5, 5, 5)), 128 / 5, order=1)
    labels = np.clip(smooth * 31, 0, 30).astype(np.uint8)
    image = (smooth + rng.normal(0, 0.02, smooth.shape)).astype(np.float32)[None]
    source = Source.of(image, labels, spacing=(1, 1, 1))
    rows = []
    for contrast in ("source", "random"):
        seconds = []
        for number in range(repeats + 1):
            began = time.perf_counter()
            draw_subject(source, (0, number), contrast=contrast)
            seconds.append(time.perf_counter() - began)
        rows.append((contrast, f"{statistics.median(seconds[1:]):.2f}", f"{max(seconds[1:]):.2f}"))
    print(machine() + f"; 128 x 128 x 128 voxels, {len(np.unique(labels)) - 1} structures, {repeats} subjects\n")
    print(markdown(("contrast", "median, s", "greatest, s"), rows) + "\n")
    source, seconds = brain(), {False: [], True: []}
    for number in range(4 * repeats):
        began = time.perf_counter()
        image, _ = draw_subject(source, (0, number), variation=VARIATION, skull=True)
        took = time.perf_counter() - began
        seconds[tuple(image.shape[1:]) != source.size].append((took, took / image[0].numel() * 1e6))
    medians = {head: np.median(times, 0) for head, times in seconds.items()}
    rows = [(name, *(f"{value:.2f}" for value in medians[head])) for name, head in (("brain", False), ("head", True))]
    print(markdown(("subject", "median, s", "for a million voxels, s"), rows))


def brain() -> Source:
    """The built-in atlas."""
    [case] = brain_atlas(cache_folder()).cases
    image, label = read_image(case.images), read_label(case.label)
    return Source.of(image.array, label.array, spacing=image.spacing, partners=partner_classes(list(STRUCTURES)))


def draw(source: Source, path: Path) -> None:
    """The atlas, and subjects with its contrast and with any contrast."""
    figure, axes = plt.subplots(3, SHOWN, figsize=(2 * SHOWN, 6.2), facecolor="black")
    level = source.size[1] // 2
    subjects = [draw_subject(source, (0, number), variation=VARIATION) for number in range(SHOWN - 1)]
    atlas = source.image, torch.where(source.labels < 256, source.labels, 0)
    for place, (image, labels) in enumerate([atlas, *subjects]):
        axes[0, place].imshow(np.rot90(image[0, :, level]), cmap="gray")
        axes[1, place].imshow(np.rot90(labels[:, level]), cmap="nipy_spectral", vmin=0, vmax=28, interpolation="none")
    for place in range(SHOWN):
        image, _ = draw_subject(source, (0, place), contrast="random", variation=VARIATION)
        axes[2, place].imshow(np.rot90(image[0, :, level]), cmap="gray")
    for place in axes.flat:
        place.axis("off")
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=100, facecolor="black")


def draw_heads(source: Source, path: Path) -> None:
    """Heads around brains of the atlas, from the side and from the front."""
    subjects = (draw_subject(source, (0, number), variation=VARIATION, skull=True) for number in itertools.count())
    heads = itertools.islice(((i, n) for i, n in subjects if tuple(n.shape) != source.size), SHOWN)
    figure, axes = plt.subplots(2, SHOWN, figsize=(2 * SHOWN, 4.6), facecolor="black")
    for place, (image, labels) in enumerate(heads):
        middle = torch.nonzero(labels).double().mean(0).round().long()
        for row, axis in enumerate((0, 1)):
            shown = image[0].select(axis, int(middle[axis]))
            axes[row, place].imshow(np.rot90(shown), cmap="gray", vmin=0, vmax=np.percentile(image, 99.7))
            axes[row, place].axis("off")
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=100, facecolor="black")


def compare(source: Source, folder: Path, path: Path) -> None:
    """Volumes and intensities of structures of simulated and of real subjects."""
    made = [draw_subject(source, (1, number), variation=VARIATION) for number in range(SUBJECTS)]
    simulated = [facts(image[0].numpy(), labels.numpy(), source.spacing) for image, labels in made]
    real = []
    for part in ("Tr", "Ts"):
        for file in sorted((folder / f"labels{part}").glob("*.nii.gz")):
            image = read_image([folder / f"images{part}" / f"{file.name.removesuffix('.nii.gz')}_0000.nii.gz"])
            real.append(facts(image.array[0], read_label(file).array, image.spacing))
    groups = [np.stack(real), np.stack(simulated)]  # (subjects, 2, structures)
    volumes = groups[0][:, 0].mean(0)
    figure, axes = plt.subplots(2, figsize=(11, 7.5), sharex=True)
    for axis, kind, scale, title in (
        (axes[0], 0, volumes, "volume / mean of the real subjects"),
        (axes[1], 1, 1.0, "median intensity, standardised"),
    ):
        for group, offset, color, name in zip(
            groups, (-0.2, 0.2), ("#555555", "#c4652f"), ("real", "simulated"), strict=True
        ):
            axis.boxplot(
                group[:, kind] / scale,
                positions=np.arange(len(STRUCTURES)) + offset,
                widths=0.3,
                patch_artist=True,
                boxprops={"facecolor": color},
                medianprops={"color": "white"},
                flierprops={"markersize": 3, "markeredgecolor": color},
                label=f"{len(group)} {name} subjects",
            )
        axis.set_ylabel(title)
    axes[0].axhline(1, color="#999999", linewidth=0.8, zorder=0)
    axes[1].set_xticks(np.arange(len(STRUCTURES)), list(STRUCTURES), rotation=60, ha="right", fontsize=8)
    axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    columns = [
        [f"{mean:.{digits}f} ± {spread:.{digits}f}" for mean, spread in zip(*moments, strict=True)]
        for kind, digits in ((0, 1), (1, 2))
        for moments in [(group[:, kind].mean(0), group[:, kind].std(0)) for group in groups]
    ]
    names = ("structure", "real, ml", "simulated, ml", "real, intensity", "simulated, intensity")
    print(markdown(names, list(zip(STRUCTURES, *columns, strict=True))))


def facts(image: np.ndarray, labels: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Millilitres and standardised median intensity of each structure, (2, structures)."""
    inside = image[labels > 0]
    standardised = (image - inside.mean()) / inside.std()
    numbers = np.arange(1, len(STRUCTURES) + 1)
    volumes = np.bincount(labels.ravel(), minlength=len(numbers) + 1)[1:] * np.prod(spacing) / 1000
    return np.stack([volumes, ndimage.median(standardised, labels, numbers)])


if __name__ == "__main__":
    main()
