"""False alarms and power of the test that a verdict rests on, beside other tests: simulated, and from real trainings.

    python benchmarks/false_alarms.py                       # simulated: a minute
    python benchmarks/false_alarms.py SCORES [SCORES ...]   # also plain against plain, in the studies with these scores

Simulated differences are mean + training + case + rest, normal unless said otherwise, in thousandths of Dice. "ours" is
`scse.evaluation.statistics.estimate`; "Hillis" has the same variance with the degrees of freedom of Hillis (2007),
"Satterthwaite" with those of all three mean squares; "bootstrap" is the percentile interval of the pigeonhole bootstrap
(Owen 2007); "t over trainings" and "Wilcoxon over cases" leave out the other one.
"""

import argparse
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
from measuring import markdown
from numpy.typing import NDArray
from scipy import stats

from scse.evaluation import read_scores
from scse.evaluation.noise import splits
from scse.evaluation.pairing import grids, mean
from scse.evaluation.power import Design, Spread, detectable, power
from scse.evaluation.statistics import LEVEL, Estimate, estimate

Floats = NDArray[np.float64]
SD = list(product((0.0, 2.0, 6.0), (0.0, 3.0, 6.0, 12.0)))
"""Standard deviations of trainings and cases; that of the rest is 6."""
CASES = (15, 40, 200)
TRAININGS = (2, 3, 4, 6, 8)
STUDIES = 2000
BOOTSTRAPS = 400
FOLDS = 5


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, nargs="*", help="tables of studies with 4 or more plain trainings")
    parser.add_argument("--studies", type=int, default=STUDIES, help="simulated in each setting")
    arguments = parser.parse_args()
    print("\n\n".join(simulated(arguments.studies)))
    if arguments.scores:
        print(f"\n{real(arguments.scores)}")


def simulated(studies: int) -> Iterator[str]:
    """The tables of simulated studies, in Markdown."""
    yield alarms_of_tests(studies)
    yield alarms_of_shapes(studies)
    yield alarms_of_folds(studies)
    yield powers(studies)


def draw(
    rng: np.random.Generator,
    studies: int,
    trainings: int,
    cases: int,
    *,
    sd: tuple[float, float],
    shape: str = "normal",
) -> Floats:
    """Tables (studies, trainings, cases) of differences without an effect."""
    noise: dict[str, Callable[[tuple[int, ...]], Floats]] = {
        "normal": lambda size: rng.normal(size=size),
        "heavy tails": lambda size: rng.standard_t(3, size=size) / np.sqrt(3),
        "skewed": lambda size: rng.exponential(size=size) - 1,
    }
    one = noise[shape]
    of_trainings = sd[0] * rng.normal(size=(studies, trainings, 1))
    return of_trainings + sd[1] * one((studies, 1, cases)) + 6.0 * one((studies, trainings, cases))


def hillis(found: Estimate) -> Floats:
    """P with the degrees of freedom of Hillis (2007)."""
    freedom = (found.of_trainings + found.of_blocks) ** 2 / (found.of_trainings**2 / (found.trainings - 1))
    return np.asarray(2 * stats.t.sf(np.abs(found.difference) / found.error, freedom))


def satterthwaite(found: Estimate) -> Floats:
    """P with the degrees of freedom of all three mean squares (Satterthwaite 1946)."""
    _, blocks, rest = found.mean_squares
    count, others = found.trainings * found.blocks, (found.trainings - 1) * (found.blocks - 1)
    of_blocks = np.where(found.of_blocks > 0, blocks**2 / (found.blocks - 1) + rest**2 / others, 0.0) / count**2
    freedom = found.error**4 / (found.of_trainings**2 / (found.trainings - 1) + of_blocks)
    return np.asarray(2 * stats.t.sf(np.abs(found.difference) / found.error, freedom))


def bootstrap(tables: Floats, rng: np.random.Generator) -> float:
    """Share of tables whose percentile interval of the pigeonhole bootstrap excludes zero."""
    _, trainings, cases = tables.shape
    rows = rng.multinomial(trainings, np.full(trainings, 1 / trainings), size=BOOTSTRAPS) / trainings
    columns = rng.multinomial(cases, np.full(cases, 1 / cases), size=BOOTSTRAPS) / cases
    means = ((rows @ tables) * columns).sum(axis=-1)
    low, high = np.percentile(means, [2.5, 97.5], axis=1)
    return float(((low > 0) | (high < 0)).mean())


def alarms_of_tests(studies: int) -> str:
    """Share of studies without an effect in which each test finds one: mean, and the worst of all settings."""
    rows = []
    for trainings in TRAININGS:
        shares: dict[str, list[float]] = {}
        for seed, (cases, sd) in enumerate(product(CASES, SD)):
            rng = np.random.default_rng([trainings, seed])
            tables = draw(rng, studies, trainings, cases, sd=sd)
            found = estimate(tables)
            p = {
                "ours": found.p(),
                "Hillis": hillis(found),
                "Satterthwaite": satterthwaite(found),
                "t over trainings": stats.ttest_1samp(tables.mean(axis=2), 0, axis=1).pvalue,
                "Wilcoxon over cases": stats.wilcoxon(tables.mean(axis=1), axis=1, method="approx").pvalue,
            }
            for name, values in p.items():
                shares.setdefault(name, []).append(float((values < LEVEL).mean()))
            shares.setdefault("bootstrap", []).append(bootstrap(tables[: studies // 4], rng))
        rows.append((str(trainings), *(f"{np.mean(each):.1%}, {max(each):.1%}" for each in shares.values())))
    settings = len(CASES) * len(SD)
    title = (
        f"False alarms without an effect, mean and worst of {settings} settings (cases {CASES}, {studies} studies each)"
    )
    return f"{title}\n\n{markdown(['trainings', *shares], rows)}"


def alarms_of_shapes(studies: int) -> str:
    """The same of our test where cases and the rest are not normal."""
    rows = []
    for shape in ("normal", "heavy tails", "skewed"):
        cells = []
        for trainings in TRAININGS:
            shares = []
            for seed, (cases, sd) in enumerate(product(CASES, SD)):
                rng = np.random.default_rng([trainings, seed, 1])
                p = estimate(draw(rng, studies, trainings, cases, sd=sd, shape=shape)).p()
                shares.append(float((p < LEVEL).mean()))
            cells.append(f"{np.mean(shares):.1%}, {max(shares):.1%}")
        rows.append((shape, *cells))
    heads = ["cases and rest", *(f"{trainings} trainings" for trainings in TRAININGS)]
    return f"Our test where differences are not normal, mean and worst\n\n{markdown(heads, rows)}"


def alarms_of_folds(studies: int) -> str:
    """False alarms in a cross-validation of 200 cases, by what its training sets do to the difference."""
    cases = 200
    fold = cases // FOLDS
    rows = []
    for name, size in (
        ("nothing", 0.0),
        ("correlated 1/F", 2.0),
        ("correlated 1/F", 5.0),
        ("linear", 1.0),
        ("linear", 3.0),
    ):
        shares: dict[str, list[float]] = {}
        for seed, (trainings, sd) in enumerate(product((3, 6), ((0.0, 0.0), (3.0, 6.0), (3.0, 20.0)))):
            rng = np.random.default_rng([seed, 2])
            tables = draw(rng, studies, trainings, cases, sd=sd).reshape(studies, trainings, FOLDS, fold)
            tables += 5 * rng.normal(
                size=(studies, trainings, FOLDS, 1)
            )  # each fold of a seed is a training of its own
            tables += _of_training_sets(rng, name, size, studies, cases)
            found = {
                "cases as blocks": estimate(tables.reshape(studies, trainings, cases)),
                "folds, not corrected": estimate(tables.mean(axis=3)),
                "folds, corrected (ours)": estimate(tables.mean(axis=3), overlap=FOLDS / (FOLDS - 1)),
            }
            for way, each in found.items():
                shares.setdefault(way, []).append(float((each.p() < LEVEL).mean()))
        cells = (f"{np.mean(each):.1%}, {max(each):.1%}" for each in shares.values())
        rows.append((name if name == "nothing" else f"{name}, sd {size:g}", *cells))
    heads = ["training sets", *shares]
    title = f"Cross-validation in {FOLDS} folds of {fold} cases, 3 and 6 trainings, mean and worst"
    return f"{title}\n\n{markdown(heads, rows)}"


def _of_training_sets(rng: np.random.Generator, name: str, size: float, studies: int, cases: int) -> Floats:
    """What the training set of each fold adds to its differences: (studies, 1, folds, 1)."""
    if name == "linear":  # each case moves what is learned from it by a little: the folds' sum is nearly the same
        each = size * np.sqrt(cases) * rng.normal(size=(studies, FOLDS, cases // FOLDS))
        added = (each.sum(axis=(1, 2))[:, None] - each.sum(axis=2)) / (cases - cases // FOLDS)
    else:  # with the correlation that Nadeau and Bengio (2003) assume
        rho = 1 / FOLDS
        common, own = rng.normal(size=(studies, 1)), rng.normal(size=(studies, FOLDS))
        added = size * (np.sqrt(rho) * common + np.sqrt(1 - rho) * own)
    return np.asarray(added[:, None, :, None])


def powers(studies: int) -> str:
    """Share of simulated studies that find a planted difference, beside the power that `power` says."""
    spread = Spread(trainings=0.006, blocks=0.004, rest=0.012)
    rows = []
    for trainings, cases in product((3, 5, 8), (15, 40)):
        design = Design(cases)
        planted = detectable(spread, design, trainings)
        cells = []
        for difference in (0.5 * planted, planted):
            rng = np.random.default_rng([trainings, cases, 3])
            shapes = (2 * studies, trainings, 1), (2 * studies, 1, cases), (2 * studies, trainings, cases)
            sd = spread.trainings, spread.blocks, spread.rest
            tables = difference + sum(s * rng.normal(size=shape) for s, shape in zip(sd, shapes, strict=True))
            found = estimate(tables)
            seen = ((found.p() < LEVEL) & (found.difference > 0)).mean()
            cells.append(f"{difference:.4f}: {seen:.1%} ({power(spread, design, trainings, difference):.1%})")
        rows.append((str(trainings), str(cases), *cells))
    heads = ["trainings", "cases", "half the detectable difference: found (theory)", "the detectable difference"]
    title = f"Power: sd of trainings {spread.trainings}, cases {spread.blocks}, rest {spread.rest}"
    return f"{title}\n\n{markdown(heads, rows)}"


def real(paths: list[Path]) -> str:
    """Plain against plain in real studies: how often each test calls trainings of one network different."""
    rows = []
    for path in paths:
        scores = read_scores(path)
        for grid in grids(scores[scores["variant"] == "none"], "dice"):
            table = mean(grid.by_training(grid.values[0]), axis=2)[..., 0]
            table = table[:, np.isfinite(table).all(axis=0)]
            count = len(table)
            sides = sorted({1, 3, 6, count // 2} & set(range(1, count // 2 + 1)))
            rows += [(path.parent.name, grid.setup.name, *_real_row(table, side)) for side in sides]
    heads = ["study", "network", "trainings", "cases", "against", "comparisons", "Wilcoxon over cases", "ours"]
    return f"Real trainings of plain against each other, share with p < {LEVEL}\n\n{markdown(heads, rows)}"


def _real_row(table: Floats, side: int) -> tuple[str, ...]:
    count, cases = table.shape
    table = table[np.argsort(table.mean(axis=1))]  # as `noise_floor` does
    ways, exact = splits(count, side)
    differences = table[ways[:, 0]] - table[ways[:, 1]]
    old = stats.wilcoxon(differences.mean(axis=1), axis=1).pvalue
    ours = "no verdict" if side < 2 else f"{(estimate(differences).p() < LEVEL).mean():.1%}"
    counted = f"{len(ways):,}{'' if exact else ' at random'}"
    return str(count), str(cases), f"{side} : {side}", counted, f"{(old < LEVEL).mean():.1%}", ours


if __name__ == "__main__":
    main()
