"""Learning curves: sample-efficiency curves whose intervals resample whole runs, area under the curve, steps to a
threshold.

A run is resampled with all its evaluations. Resampling each step by itself, as is usual, leaves the band at one step as
it is but tears runs apart, which is wrong for everything that spans steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import pandas as pd

from offbench.analysis.calibration import Method, margin, require_method, standard_error
from offbench.analysis.metrics import RowStatistics, point, trim_fraction
from offbench.analysis.score_checks import KEYS, ScoreError, require_finite, require_unique, some
from offbench.analysis.scores import ScoreTable
from offbench.analysis.shared_scores import Scores, shared_scores, stream_seed
from offbench.analysis.wording import counted, with_interval

Curves: TypeAlias = ScoreTable | Mapping[str, Sequence[np.ndarray]]

_CHUNK_ELEMENTS = 1 << 20  # scores resampled at a time: about 8 MB


@dataclass(frozen=True)
class RunCurves:
    """Curves of the runs of some algorithms, all at the same steps.

    Attributes:
        steps: of the evaluations [S], increasing.
        values: algorithm -> dataset -> scores [N_m, S].
        datasets, left_out: used, and not used because a cell is missing.
        smoothing: what was done to each run, in words.
        notes: what a reader has to be told.
    """

    steps: np.ndarray
    values: Mapping[str, Mapping[str, np.ndarray]]
    datasets: tuple[str, ...]
    left_out: tuple[str, ...]
    smoothing: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class LearningCurve:
    """Curves of an aggregate with pointwise intervals.

    Attributes:
        frame: algorithm, dataset ("" where it spans all), step, point, low, high, runs.
        metric: of each step. smoothing: what was done to each run, in words.
        datasets, left_out: used, and not used because a cell is missing.
        level, method, reps: of the intervals, which cover each step by itself.
        notes: what a reader has to be told.
    """

    frame: pd.DataFrame
    metric: str
    smoothing: str
    datasets: tuple[str, ...]
    left_out: tuple[str, ...]
    level: float
    method: str
    reps: int
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The last step, in words."""
        last = self.frame[self.frame["step"] == self.frame["step"].max()]
        parts = []
        for dataset, rows in last.groupby("dataset", sort=False):
            ordered = rows.sort_values("point", ascending=False, kind="stable")
            found = [f"{row.algorithm} {with_interval(row.point, row.low, row.high)}" for row in ordered.itertuples()]
            where = f"on {dataset}" if dataset else f"over {counted(len(self.datasets), 'dataset')}"
            parts.append(
                f"{self.metric.replace('iqm', 'IQM')} {where} at step {last['step'].iloc[0]:g}: {', '.join(found)}."
            )
        return " ".join([*parts, f"Smoothing: {self.smoothing}.", *self.notes])


@dataclass(frozen=True)
class StepsToThreshold:
    """How long runs took to reach a score; runs that never did are censored at their last evaluation.

    Attributes:
        runs: algorithm, dataset, seed, steps (of the first evaluation at or above the threshold; of the last evaluation
            where it was not reached), reached, threshold.
        summary: algorithm, dataset, threshold, runs, reached, median, low, high (steps by which half of the runs reach
            the threshold, Kaplan-Meier; infinite where fewer do), mean (steps spent below the threshold up to
            `horizon`, restricted mean), mean_low, mean_high, horizon, sentence.
        smoothing: what was done to each run, in words. hold: evaluations in a row that must reach the threshold.
        level, reps: of the percentile intervals, which resample runs.
    """

    runs: pd.DataFrame
    summary: pd.DataFrame
    smoothing: str
    hold: int
    level: float
    reps: int

    @property
    def sentence(self) -> str:
        return " ".join([*self.summary["sentence"], f"Smoothing: {self.smoothing}."])


# -- the runs --------------------------------------------------------------------------------------


def run_curves(
    curves: Curves,
    *,
    algorithms: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    steps: Sequence[float] | np.ndarray | None = None,
    interpolate: bool = False,
    smoothing: int = 1,
    common_scale: bool = True,
) -> RunCurves:
    """Every run's curve at common steps, smoothed.

    Args:
        curves: a `ScoreTable` with curves, or plain arrays: algorithm -> one array [N_m, S] per dataset, whose steps
            are then `steps`.
        steps: of plain arrays; for a table, those to use: by default the steps at which every run was evaluated.
        interpolate: where runs were evaluated at different steps, connect each run's evaluations by straight lines,
            from the latest first step to the earliest last step; nothing is extrapolated.
        smoothing: each evaluation becomes the mean of the last `smoothing` evaluations of its run (of fewer at the
            start); 1 leaves runs as they are.
        common_scale: whether datasets will be averaged, which raw returns do not allow.

    Raises:
        ScoreError: no curves, NaN, no common steps, steps outside of a run, no shared dataset.
    """
    if smoothing < 1:
        raise ScoreError(f"smoothing is a number of evaluations, 1 or more, got {smoothing}")
    runs, notes = _runs(curves, steps)
    shared = shared_scores(_final(curves), algorithms, datasets, common_scale=common_scale)
    used = {a: {d: runs[a][d] for d in shared.datasets} for a in shared.algorithms}
    every = [run for by_dataset in used.values() for cell in by_dataset.values() for run in cell]
    grid, note = _grid(every, steps if isinstance(curves, ScoreTable) else None, interpolate)
    values = {
        a: {d: _smooth(np.array([_on(run, grid, interpolate) for run in cell]), smoothing) for d, cell in by.items()}
        for a, by in used.items()
    }
    words = "none" if smoothing == 1 else f"mean of the last {smoothing} evaluations of each run"
    notes = (*shared.notes, *notes, *note)
    return RunCurves(grid, values, shared.datasets, shared.left_out, words, notes)


_Run: TypeAlias = tuple[np.ndarray, np.ndarray]  # steps [S] increasing, scores [S]


def _runs(
    curves: Curves, steps: Sequence[float] | np.ndarray | None
) -> tuple[dict[str, dict[str, list[_Run]]], tuple[str, ...]]:
    """algorithm -> dataset -> runs."""
    if isinstance(curves, ScoreTable):
        frame = _curve_rows(curves)
        found: dict[str, dict[str, list[_Run]]] = {a: {d: [] for d in curves.datasets} for a in curves.algorithms}
        ordered = frame.sort_values("step", kind="stable")
        for (algorithm, dataset, _), run in ordered.groupby(KEYS, sort=False):
            found[algorithm][dataset].append((run["step"].to_numpy(np.float64), run["score"].to_numpy(np.float64)))
        return found, ()
    if steps is None:
        raise ScoreError("arrays of curves need their steps", fix="pass steps=[...], one for each column")
    grid = np.asarray(steps, dtype=np.float64)
    if grid.ndim != 1 or not grid.size or not (np.diff(grid) > 0).all():
        raise ScoreError("the steps of a curve must be one increasing list of numbers")
    arrays: dict[str, dict[str, list[_Run]]] = {}
    for name, cells in curves.items():
        arrays[name] = {}
        for m, cell in enumerate(cells):
            values = np.asarray(cell, dtype=np.float64)
            if values.ndim != 2 or values.shape[1] != grid.size:
                raise ScoreError(
                    f"curves of {name}, dataset {m + 1}, must be [runs, {grid.size} steps]", f"got {values.shape}"
                )
            if not np.isfinite(values).all():
                raise ScoreError(f"curves of {name}, dataset {m + 1}, hold numbers that are not finite")
            arrays[name][f"dataset {m + 1}"] = [(grid, run) for run in values]
    return arrays, ()


def _curve_rows(table: ScoreTable) -> pd.DataFrame:
    if table.curves is None:
        raise ScoreError(
            "the score table has no learning curves",
            "it holds one score per run",
            "read it with step=..., one row per evaluation, or from run folders",
        )
    frame = table.curves.reset_index(drop=True)
    require_finite(frame, "score")
    require_unique(frame, [*KEYS, "step"], None)
    return frame


def _final(curves: Curves) -> Scores:
    """What decides on shared datasets."""
    if isinstance(curves, ScoreTable):
        return curves
    return {name: [np.asarray(cell)[:, -1] for cell in cells] for name, cells in curves.items()}


def _grid(
    runs: Sequence[_Run], steps: Sequence[float] | np.ndarray | None, interpolate: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    first, last = max(run[0][0] for run in runs), min(run[0][-1] for run in runs)
    shared = runs[0][0]
    for run in runs[1:]:
        shared = shared if run[0] is shared else np.intersect1d(shared, run[0])
    if steps is not None:
        grid = np.asarray(steps, dtype=np.float64)
        known = (grid >= first) & (grid <= last) if interpolate else np.isin(grid, shared)
        if not known.all():
            raise ScoreError(
                f"not every run was evaluated at step(s) {some([f'{s:g}' for s in grid[~known]])}",
                f"all were from {first:g} to {last:g}",
                "" if interpolate else "interpolate=True connects evaluations by straight lines",
            )
        return grid, ()
    if interpolate:
        every = np.unique(np.concatenate([run[0] for run in runs]))
        grid = every[(every >= first) & (every <= last)]
        if not grid.size:
            raise ScoreError("runs have no range of steps in common", f"one starts at {first:g}, one ends at {last:g}")
        return grid, () if grid.size == shared.size else ("Evaluations are connected by straight lines.",)
    if not shared.size:
        raise ScoreError(
            "runs share no step at which they were evaluated",
            fix="interpolate=True connects each run's evaluations by straight lines",
        )
    most = max(run[0].size for run in runs)
    if shared.size < most:
        return shared, (f"Only the {shared.size} steps at which every run was evaluated are shown (of up to {most}).",)
    return shared, ()


def _on(run: _Run, grid: np.ndarray, interpolate: bool) -> np.ndarray:
    """A run's scores at the grid's steps."""
    steps, scores = run
    return np.interp(grid, steps, scores) if interpolate else scores[np.searchsorted(steps, grid)]


def _smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` evaluations, of fewer at the start; values [N, S]."""
    if window == 1:
        return values
    sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
    places = np.arange(1, values.shape[1] + 1)
    starts = np.maximum(places - window, 0)
    return (sums[:, places] - sums[:, starts]) / (places - starts)


# -- sample efficiency -----------------------------------------------------------------------------


def learning_curve(
    curves: Curves,
    metric: str = "iqm",
    *,
    by_dataset: bool = False,
    algorithms: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    steps: Sequence[float] | np.ndarray | None = None,
    interpolate: bool = False,
    smoothing: int = 1,
    method: Method = "calibrated",
    level: float = 0.95,
    reps: int = 2000,
    seed: int = 0,
    gamma: float = 100.0,
) -> LearningCurve:
    """An aggregate at every step, over the datasets that all algorithms share, with pointwise intervals.

    Args:
        metric: "iqm", "mean", "median", "optimality_gap" or "trimmed_mean(FRACTION)".
        by_dataset: one curve per dataset instead of one over all of them.
        method, level, reps, seed, gamma: of the interval and of the optimality gap, as in `aggregate`.
        curves, algorithms, datasets, steps, interpolate, smoothing: as in `run_curves`.

    Raises:
        ScoreError: as `run_curves`. UnknownNameError: an unknown metric, algorithm or dataset.
    """
    require_method(method, level)
    trim_fraction(metric)
    runs = run_curves(
        curves,
        algorithms=algorithms,
        datasets=datasets,
        steps=steps,
        interpolate=interpolate,
        smoothing=smoothing,
        common_scale=not by_dataset,
    )
    notes, frames = list(runs.notes), []
    groups = [(d, (d,)) for d in runs.datasets] if by_dataset else [("", runs.datasets)]
    for name, cells in runs.values.items():
        for label, chosen in groups:
            # in a fixed order, so that the order of rows cannot change an interval
            values = [cells[d][np.lexsort(cells[d].T)] for d in sorted(chosen)]
            low, high = _bounds(values, metric, level, method, reps, stream_seed(seed, f"{name}/{label}"), gamma)
            if np.isnan(low).all():
                notes.append(f"{name} has a single seed on some dataset: no interval.")
            points = [point(metric, [cell[:, s] for cell in values], gamma) for s in range(runs.steps.size)]
            count = sum(len(cell) for cell in values)
            frame = {"algorithm": name, "dataset": label, "step": runs.steps, "point": points, "low": low, "high": high}
            frames.append(pd.DataFrame(frame).assign(runs=count))
    joined = pd.concat(frames, ignore_index=True)
    unique = tuple(dict.fromkeys(notes))
    return LearningCurve(joined, metric, runs.smoothing, runs.datasets, runs.left_out, level, method, reps, unique)


def _bounds(
    cells: Sequence[np.ndarray], metric: str, level: float, method: Method, reps: int, seed: int, gamma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise bounds [S], [S] from resampling whole runs [N_m, S] within each dataset; NaN for single runs."""
    sizes = [len(cell) for cell in cells]
    steps = cells[0].shape[1]
    if min(sizes) < 2:
        return np.full(steps, math.nan), np.full(steps, math.nan)
    statistics = RowStatistics((metric,), tuple(sizes), gamma)
    by_step = np.ascontiguousarray(np.concatenate(cells).T)  # [S, n]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK_ELEMENTS // by_step.size)
    parts = []
    for start in range(0, reps, rows):
        b = min(rows, reps - start)
        index = np.hstack([first + rng.integers(0, n, size=(b, n)) for first, n in zip(starts, sizes, strict=True)])
        chunk = by_step[:, index].reshape(steps * b, -1)  # the same runs at every step
        parts.append(statistics(chunk)[metric].reshape(steps, b))
    replicates = np.concatenate(parts, axis=1)
    low, high = np.percentile(replicates, [50 - 50 * level, 50 + 50 * level], axis=1)
    if method == "calibrated":
        for s in range(steps):
            at_step = [cell[:, s] for cell in cells]
            error, freedom = standard_error(metric, at_step, replicates=replicates[s], gamma=gamma, seed=seed)
            centre, half = point(metric, at_step, gamma), margin([error], [freedom], level)
            low[s], high[s] = centre - half, centre + half
    return low, high


# -- area under the curve --------------------------------------------------------------------------


def area_under_curve(
    table: ScoreTable, *, first_step: float | None = None, last_step: float | None = None
) -> ScoreTable:
    """The mean height of each run's curve as its score: the area by the trapezoid rule over the range of steps.

    The result is a `ScoreTable`, so every aggregate, comparison and test applies to it; runs are its unit.

    Args:
        first_step, last_step: the range; by default, on each dataset, the one in which all its runs were evaluated.
            Between evaluations curves are straight lines.

    Raises:
        ScoreError: no curves, NaN, a run that was not evaluated over the whole range, or a range without length.
    """
    runs, _ = _runs(table, None)
    heights = {}
    for dataset in table.datasets:
        cells = [run for algorithm in table.algorithms for run in runs[algorithm][dataset]]
        first = max(run[0][0] for run in cells) if first_step is None else first_step
        last = min(run[0][-1] for run in cells) if last_step is None else last_step
        if first >= last or any(first < run[0][0] or last > run[0][-1] for run in cells):
            raise ScoreError(
                f"runs on {dataset} were not all evaluated from step {first:g} to {last:g}",
                "the area under a curve needs at least two evaluations of every run in a shared range",
            )
        heights[dataset] = (first, last)
    frame = _curve_rows(table).sort_values("step", kind="stable")
    area = {}
    for (algorithm, dataset, seed), run in frame.groupby(KEYS, sort=False):
        steps, scores = run["step"].to_numpy(np.float64), run["score"].to_numpy(np.float64)
        area[algorithm, dataset, seed] = mean_height(steps, scores, *heights[dataset])
    rows = table.rows.copy()
    rows["score"] = [area[key] for key in rows[KEYS].itertuples(index=False, name=None)]
    return replace(table, rows=rows, selection="given", protocol="mean height of each run's learning curve (area)")


def mean_height(steps: np.ndarray, scores: np.ndarray, first: float, last: float) -> float:
    """Area under straight lines through (steps, scores) [S] from `first` to `last`, divided by last - first."""
    inside = (steps > first) & (steps < last)
    x = np.concatenate([[first], steps[inside], [last]])
    y = np.interp(x, steps, scores)
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (last - first))


# -- steps to a threshold --------------------------------------------------------------------------


def steps_to_threshold(
    table: ScoreTable,
    threshold: float | Mapping[str, float],
    *,
    algorithms: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    smoothing: int = 1,
    hold: int = 1,
    level: float = 0.95,
    reps: int = 2000,
    seed: int = 0,
) -> StepsToThreshold:
    """First evaluation of each run at or above a score, per algorithm and dataset; nothing is interpolated.

    Args:
        threshold: the score, or one for each dataset.
        smoothing: as in `run_curves`, on each run's own evaluations.
        hold: how many evaluations in a row must reach the threshold; the step of the first of them counts.
        level, reps, seed: of the percentile bootstrap over runs.

    Raises:
        ScoreError: no curves, NaN, a dataset without a threshold. UnknownNameError: unknown algorithm or dataset.
    """
    if smoothing < 1 or hold < 1:
        raise ScoreError(f"smoothing and hold are numbers of evaluations, 1 or more, got {smoothing} and {hold}")
    chosen = shared_scores(table, algorithms, datasets, common_scale=False) if algorithms or datasets else None
    names = list(chosen.algorithms) if chosen else table.algorithms
    places = list(datasets) if datasets else table.datasets
    frame = _curve_rows(table)
    frame = frame[frame["algorithm"].isin(names) & frame["dataset"].isin(places)].sort_values("step", kind="stable")
    goals = {d: threshold[d] if isinstance(threshold, Mapping) and d in threshold else threshold for d in places}
    for dataset, goal in goals.items():
        if isinstance(goal, Mapping):
            raise ScoreError(f"there is no threshold for {dataset}", fix="give one number, or one for each dataset")
    records = []
    for (algorithm, dataset, label), run in frame.groupby(KEYS, sort=False):
        scores = _smooth(run["score"].to_numpy(np.float64)[None], smoothing)[0]
        above = scores >= goals[dataset]
        steps = run["step"].to_numpy(np.float64)
        held = np.empty(0, dtype=np.int64)
        if above.size >= hold:
            held = np.flatnonzero(np.convolve(above, np.ones(hold), mode="valid") >= hold)
        reached = held.size > 0
        records.append((algorithm, dataset, label, steps[held[0]] if reached else steps[-1], reached, goals[dataset]))
    runs = pd.DataFrame.from_records(records, columns=[*KEYS, "steps", "reached", "threshold"])
    ends = frame.groupby(KEYS, sort=False)["step"].max().groupby(level="dataset", sort=False).min()
    rows = []
    for dataset in places:
        for algorithm in names:
            part = runs[(runs["algorithm"] == algorithm) & (runs["dataset"] == dataset)]
            if len(part):
                key = stream_seed(seed, f"{algorithm}/{dataset}")
                rows.append(_summary(part, float(ends[dataset]), level, reps, np.random.default_rng(key)))
    words = "none" if smoothing == 1 else f"mean of the last {smoothing} evaluations of each run"
    return StepsToThreshold(runs, pd.DataFrame(rows), words, hold, level, reps)


def _summary(
    part: pd.DataFrame, horizon: float, level: float, reps: int, rng: np.random.Generator
) -> dict[str, object]:
    part = part.sort_values(["steps", "reached"], ascending=[True, False], kind="stable")  # events before censored
    times, events, n = part["steps"].to_numpy(), part["reached"].to_numpy(), len(part)
    median, mean = _survival(times, events, np.ones((1, n)), horizon)
    low = high = mean_low = mean_high = math.nan
    if n > 1:
        index = rng.integers(0, n, size=(reps, n))
        counts = np.bincount((index + n * np.arange(reps)[:, None]).ravel(), minlength=reps * n).reshape(reps, n)
        medians, means = _survival(times, events, counts.astype(np.float64), horizon)
        bounds = [0.5 - level / 2, 0.5 + level / 2]
        low, high = np.quantile(medians, bounds, method="inverted_cdf")  # order statistics: medians may be infinite
        mean_low, mean_high = np.quantile(means, bounds)
    first, reached = part.iloc[0], int(events.sum())
    half = "fewer than half reach it" if math.isinf(median[0]) else f"half of them by step {median[0]:g}"
    upper = "not reached" if math.isinf(high) else f"{high:g}"
    bounds_text = "" if math.isnan(low) or math.isinf(low) else f" [{low:g}, {upper}]"
    text = f"{first['algorithm']} reaches {first['threshold']:g} on {first['dataset']} in {reached} of {n} runs, {half}"
    return {
        "algorithm": first["algorithm"],
        "dataset": first["dataset"],
        "threshold": first["threshold"],
        "runs": n,
        "reached": reached,
        "median": float(median[0]),
        "low": float(low),
        "high": float(high),
        "mean": float(mean[0]),
        "mean_low": float(mean_low),
        "mean_high": float(mean_high),
        "horizon": horizon,
        "sentence": f"{text}{bounds_text}.",
    }


def _survival(
    times: np.ndarray, events: np.ndarray, counts: np.ndarray, horizon: float
) -> tuple[np.ndarray, np.ndarray]:
    """Kaplan-Meier median and restricted mean [b] of sorted times [N], each counted `counts` times [b, N]."""
    at_risk = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    alive = np.cumprod(1 - np.divide(counts * events, at_risk, out=np.zeros_like(counts), where=at_risk > 0), axis=1)
    below = alive <= 0.5 + 1e-12
    median = np.where(below.any(axis=1), times[below.argmax(axis=1)], math.inf)
    edges = np.concatenate([[0.0], np.minimum(times, horizon), [horizon]])
    heights = np.concatenate([np.ones((len(counts), 1)), alive], axis=1)
    return median, heights @ np.diff(edges)
