"""How often nominal 95 % intervals cover the truth: the calibrated default beside Student t and bootstrap intervals.

    python benchmarks/coverage.py                                            # simulated scores
    python benchmarks/coverage.py --scores d3rlpy_d4rl_final.csv --out docs/results

The truth is known: scores are drawn from stated distributions, or resampled from real runs (10 per dataset and
algorithm, columns algorithm, dataset, seed, score), whose aggregate is then the truth. Every trial draws new runs and
asks each method for its interval; all bootstrap methods of a trial share their replicates. `percentile` is what
rliable prints. Writes coverage.csv (every cell) and coverage.md (the summary).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

from offbench.analysis import METRICS, bootstrap
from offbench.analysis.intervals import bootstrap_bounds, calibrated, run_acceleration, t_like
from offbench.analysis.metrics import point, trim_fraction

METHODS = ("calibrated", "t", "percentile", "basic", "bca")
TASKS = (1, 3, 5, 12, 26)
SEEDS = (2, 3, 5, 10, 20)
LEVEL, GAMMA = 0.95, 100.0
Sampler = Callable[[np.random.Generator, int], np.ndarray]  # (generator, runs) -> scores [datasets, runs]


# -- what scores are drawn from --------------------------------------------------------------------


def simulated(name: str, tasks: int) -> Sampler:
    """Distributions of a suite of `tasks` datasets; centres and spreads differ between datasets but for "close"."""
    fixed = np.random.default_rng(tasks)
    centre = fixed.permutation(np.linspace(10, 95, tasks)) if tasks > 1 else np.array([60.0])
    spread = fixed.uniform(2, 15, tasks)
    centre, spread = centre[:, None], spread[:, None]
    failing = fixed.uniform(0.05, 0.4, tasks)[:, None]
    near = 60 + fixed.normal(0, 3, tasks)[:, None]
    still = np.where(np.arange(tasks) % 3 == tasks % 3, 1.0, 0.0)[:, None]  # two of three datasets never vary

    def draw(rng: np.random.Generator, runs: int) -> np.ndarray:
        shape = (tasks, runs)
        if name == "normal":
            return centre + spread * rng.standard_normal(shape)
        if name == "close":
            return near + 8 * rng.standard_normal(shape)
        if name == "skewed":
            return centre - spread * (rng.lognormal(0, 0.8, shape) - 1)
        if name == "heavy tails":
            return centre + spread * rng.standard_t(2.5, shape) / 2
        if name == "success or failure":
            return np.where(rng.random(shape) < failing, 0.1 * centre, centre) + 2 * rng.standard_normal(shape)
        return centre + still * spread * rng.standard_normal(shape)

    return draw


SIMULATED = ("normal", "close", "skewed", "heavy tails", "success or failure", "two of three never vary")


def resampled(pool: np.ndarray) -> Sampler:
    """Runs drawn with replacement from real ones, pool [datasets, runs]."""

    def draw(rng: np.random.Generator, runs: int) -> np.ndarray:
        return np.take_along_axis(pool, rng.integers(0, pool.shape[1], (len(pool), runs)), axis=1)

    return draw


def pools(file: Path, algorithms: list[str] | None) -> Iterator[tuple[str, np.ndarray]]:
    """Name and scores [datasets, 10] of each algorithm's datasets with ten runs."""
    frame = pd.read_csv(file)
    for algorithm, rows in frame.groupby("algorithm"):
        cells = [group["score"].to_numpy()[:10] for _, group in rows.groupby("dataset") if len(group) >= 10]
        if len(cells) >= 5 and (algorithms is None or algorithm in algorithms):
            yield f"{file.stem.partition('_')[0]} {algorithm}", np.array(cells)


def truth(sampler: Sampler, pool: np.ndarray | None) -> dict[str, float]:
    """The aggregates that infinitely many runs would give; a pool is its own population."""
    scores = pool if pool is not None else sampler(np.random.default_rng(1), 200_000)
    return {metric: point(metric, list(scores), GAMMA) for metric in METRICS}


# -- trials ----------------------------------------------------------------------------------------


def intervals(strata: list[np.ndarray], reps: int, seed: int) -> dict[tuple[str, str], tuple[float, float]]:
    """(metric, method) -> bounds, all from one set of replicates; the product's functions, called one by one."""
    replicates = bootstrap(strata, reps=reps, seed=seed, gamma=GAMMA)
    found = {}
    for metric in METRICS:
        value, values = point(metric, strata, GAMMA), replicates[metric]
        smooth = t_like(metric, strata, level=LEVEL, gamma=GAMMA, seed=seed, median=True)
        found[metric, "t"] = (smooth.low, smooth.high) if metric != "median" else (math.nan, math.nan)
        if trim_fraction(metric) is not None:
            smooth = calibrated(metric, strata, values, level=LEVEL, gamma=GAMMA)
        found[metric, "calibrated"] = (smooth.low, smooth.high)
        for method in ("percentile", "basic"):
            found[metric, method] = bootstrap_bounds(values, value, method, LEVEL)
        found[metric, "bca"] = bootstrap_bounds(values, value, "bca", LEVEL, run_acceleration(metric, strata, GAMMA))
    return found


def study(sampler: Sampler, true: dict[str, float], runs: int, trials: int, reps: int) -> list[dict[str, object]]:
    """Coverage and mean width of every metric and method."""
    rng = np.random.default_rng(runs)
    hits = dict.fromkeys(((metric, method) for metric in METRICS for method in METHODS), 0)
    widths = dict.fromkeys(hits, 0.0)
    for trial in range(trials):
        for key, (low, high) in intervals(list(sampler(rng, runs)), reps, trial).items():
            slack = 1e-9 * max(1.0, abs(true[key[0]]))  # rounding, where nothing varies
            hits[key] += low - slack <= true[key[0]] <= high + slack
            widths[key] += high - low
    return [
        {
            "metric": metric,
            "method": method,
            "coverage": hits[metric, method] / trials,
            "width": widths[metric, method] / trials,
        }
        for metric, method in hits
        if not (metric == "median" and method == "t")
    ]


def suite(
    name: str, tasks: int, pool: np.ndarray | None, seeds: list[int], trials: int, reps: int
) -> list[dict[str, object]]:
    """`study` for every number of seeds."""
    sampler = simulated(name, tasks) if pool is None else resampled(pool)
    true = truth(sampler, pool)
    labels = {"scores": name, "datasets": tasks}
    return [{**labels, "seeds": runs, **cell} for runs in seeds for cell in study(sampler, true, runs, trials, reps)]


# -- report ----------------------------------------------------------------------------------------


def summary(frame: pd.DataFrame, trials: int, reps: int) -> str:
    """Markdown tables: median and range of coverage over distributions, for suites and for single datasets."""
    parts = [
        "# Coverage of 95 % intervals\n",
        "How often the interval holds the true aggregate. Each entry is the median over distributions and, in",
        "brackets, the lowest and highest. `percentile` is what rliable prints, `calibrated` is the default. BCa is",
        "offbench's (acceleration per statistic, one run left out at a time); `t` does not exist for the median.\n",
    ]
    groups = (
        ("Suites of 12 datasets and more", frame["datasets"] >= 12),
        ("Suites of 3 and 5 datasets", frame["datasets"].between(2, 11)),
        ("One dataset", frame["datasets"] == 1),
    )
    for title, chosen in groups:
        rows = frame[chosen]
        parts.append(f"\n## {title}\n")
        parts.append("Distributions: " + ", ".join(dict.fromkeys(rows["scores"])) + ".\n")
        parts.append("| metric | seeds | " + " | ".join(METHODS) + " |\n|---|---:|" + "---|" * len(METHODS))
        for metric in METRICS:
            if title == "One dataset" and metric == "median":
                continue  # the median over one dataset is its mean
            for runs in sorted(rows["seeds"].unique()):
                cells = []
                for method in METHODS:
                    here = (rows["metric"] == metric) & (rows["seeds"] == runs) & (rows["method"] == method)
                    c = rows.loc[here, "coverage"]
                    cells.append(f"{c.median():.2f} ({c.min():.2f}–{c.max():.2f})" if len(c) else "")
                parts.append(f"| {metric.replace('_', ' ')} | {runs} | " + " | ".join(cells) + " |")
    default = frame[frame["method"] == "calibrated"]
    low = default[(default["coverage"] < 0.92)].sort_values("coverage")
    inside = default["coverage"].between(0.92, 0.975).mean()
    plain = frame[frame["method"] == "percentile"]["coverage"].between(0.92, 0.975).mean()
    parts.append("\n## Where the default misses\n")
    parts.append(
        f"Of {len(default)} cells (distribution, datasets, seeds, metric) the default covers 92 to 97.5 % in "
        f"{100 * inside:.0f} %, less in {100 * len(low) / len(default):.0f} %, more in "
        f"{100 * (default['coverage'] > 0.975).mean():.0f} %; percentile intervals are in that range in "
        f"{100 * plain:.0f} % of cells. The lowest:\n"
    )
    parts.append("| scores | datasets | seeds | metric | calibrated | percentile |\n|---|---:|---:|---|---:|---:|")
    keys = ["scores", "datasets", "seeds", "metric"]
    other = frame[frame["method"] == "percentile"].set_index(keys)["coverage"]
    for row in low.head(20).itertuples():
        key = (row.scores, row.datasets, row.seeds, row.metric)
        parts.append(
            f"| {row.scores} | {row.datasets} | {row.seeds} | {str(row.metric).replace('_', ' ')} | "
            f"{row.coverage:.2f} | {other[key]:.2f} |"
        )
    parts.append(
        f"\n{trials} trials a cell (standard error {100 * math.sqrt(0.05 * 0.95 / trials):.1f} points at 95 %), "
        f"{reps} replicates. Every cell is in coverage.csv.\n"
    )
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scores", type=Path, nargs="*", default=[], help="CSV of real runs to resample from")
    parser.add_argument("--algorithms", nargs="*", help="which of the CSV's algorithms; all by default")
    parser.add_argument("--tasks", type=int, nargs="+", default=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--reps", type=int, default=800)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()

    suites: list[tuple[str, int, np.ndarray | None]] = []
    for name in SIMULATED:
        suites += [(name, tasks, None) for tasks in options.tasks]
    for file in options.scores:
        for name, pool in pools(file, options.algorithms):
            order = np.random.default_rng(0).permutation(len(pool))
            for tasks in dict.fromkeys(min(tasks, len(pool)) for tasks in options.tasks):
                suites.append((name, tasks, pool[order[:tasks]]))
    records = []
    start = time.perf_counter()
    common = (options.seeds, options.trials, options.reps)
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as executor:
        futures = {executor.submit(suite, *each, *common): each for each in suites}
        for future, (name, tasks, _) in futures.items():
            records += future.result()
            print(f"{time.perf_counter() - start:6.0f} s  {name}, {tasks} datasets", flush=True)
    frame = pd.DataFrame(records)
    options.out.mkdir(parents=True, exist_ok=True)
    wide = frame.pivot_table(
        index=["scores", "datasets", "seeds", "metric"], columns="method", values=["coverage", "width"], sort=False
    )
    wide.columns = [f"{method} {value}" for value, method in wide.columns]
    wide.round({name: 2 if name.endswith("width") else 3 for name in wide}).to_csv(
        options.out / "coverage.csv", lineterminator="\n"
    )
    text = summary(frame, options.trials, options.reps)
    (options.out / "coverage.md").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
