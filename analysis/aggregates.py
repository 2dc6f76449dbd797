"""Aggregate scores over datasets and seeds, and intervals: per dataset, per domain and overall.

The metrics are in `metrics`, their intervals in `intervals`; here they are applied to a table of scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from offbench.analysis.domains import domains_of
from offbench.analysis.intervals import Estimate, Method, estimate
from offbench.analysis.metrics import METRICS
from offbench.analysis.pairwise_tests import welch
from offbench.analysis.rliable_engine import rliable_estimates
from offbench.analysis.score_checks import ScoreError
from offbench.analysis.scores import RETURN, SCORE, ScoreTable
from offbench.analysis.student_t import t_quantile
from offbench.errors import UnknownNameError

Engine = Literal["offbench", "rliable"]

# -- tables ----------------------------------------------------------------------------------------


def comparable_datasets(table: ScoreTable) -> tuple[list[str], str]:
    """Datasets that an aggregate may span: common to all algorithms and of one unit; and, if none, why.

    Normalized scores are averaged over datasets. Raw returns of different datasets have different scales:
    they are aggregated only if there is a single dataset.
    """
    common = table.common_datasets()
    if not common:
        return [], "no dataset has runs of every algorithm"
    units = table.units
    normalized = [dataset for dataset in common if units[dataset] == SCORE]
    if normalized or len(common) == 1:
        return normalized or common, ""
    if len({units[dataset] for dataset in common}) == 1 and units[common[0]] != RETURN:
        return common, ""
    return [], "raw returns of different datasets have no common scale"


def aggregate(
    table: ScoreTable,
    *,
    datasets: Sequence[str] | None = None,
    metrics: Sequence[str] = METRICS,
    method: Method = "calibrated",
    level: float = 0.95,
    reps: int = 50_000,
    seed: int = 0,
    gamma: float = 100.0,
    task_bootstrap: bool = False,
    compat: Literal["rliable"] | None = None,
    engine: Engine = "offbench",
) -> pd.DataFrame:
    """Aggregates of every algorithm over the same datasets.

    Args:
        datasets: which to span; by default those of `comparable_datasets`.
        metrics: "iqm", "mean", "median", "optimality_gap", "trimmed_mean(0.1)".
        method, level, reps, seed, gamma, task_bootstrap: see `intervals.estimate`.
        compat: "rliable" replays the random stream of `rliable.library.get_interval_estimates` after
            `np.random.seed(seed)`, algorithm by algorithm, so that bounds agree to rounding; for the methods that
            rliable has.
        engine: "rliable" computes with rliable itself (extra `rliable`), seeded the same way.

    Returns:
        One row per algorithm and metric: algorithm, metric, point, low, high, reason, datasets, runs, seeds_min,
        seeds_max, method, level, reps. Empty if no datasets can be compared.

    Raises:
        ScoreError: `compat` or `engine` "rliable" with a method that it lacks or unequal seeds; an algorithm
            without runs on `datasets`.
        MissingExtraError: `engine` "rliable" where it cannot be imported.
    """
    if engine not in ("offbench", "rliable") or compat not in (None, "rliable"):
        raise UnknownNameError(
            "engine", engine if compat in (None, "rliable") else str(compat), ("offbench", "rliable")
        )
    chosen = list(datasets) if datasets is not None else comparable_datasets(table)[0]
    as_given = compat == "rliable" or engine == "rliable"
    if not as_given:
        chosen = sorted(chosen)  # the order of rows must not change an interval
    cells = {}
    for algorithm in table.algorithms if chosen else []:
        strata = table.strata(algorithm, chosen)
        absent = [dataset for dataset, stratum in zip(chosen, strata, strict=True) if not stratum.size]
        if absent:
            raise ScoreError(f"{algorithm} has no runs on {', '.join(absent)}", fix="aggregate over common datasets")
        cells[algorithm] = strata if as_given else [np.sort(stratum) for stratum in strata]

    options: dict[str, Any] = {"method": method, "level": level, "reps": reps, "gamma": gamma}
    options |= {"metrics": metrics, "task_bootstrap": task_bootstrap}
    estimates: dict[str, dict[str, Estimate]]
    if engine == "rliable":
        estimates = rliable_estimates(cells, seed=seed, **options)
    else:
        stream = np.random.RandomState(seed) if compat == "rliable" else None
        estimates = {
            name: estimate(strata, seed=seed, rliable_stream=stream, **options) for name, strata in cells.items()
        }
    records = []
    for algorithm, found in estimates.items():
        sizes = [stratum.size for stratum in cells[algorithm]]
        spans = (len(chosen), sum(sizes), min(sizes), max(sizes), method, level, reps)
        records += [(algorithm, metric, e.point, e.low, e.high, e.reason, *spans) for metric, e in found.items()]
    return pd.DataFrame.from_records(records, columns=_AGGREGATE_COLUMNS)


_AGGREGATE_COLUMNS = [
    *("algorithm", "metric", "point", "low", "high", "reason", "datasets", "runs"),
    *("seeds_min", "seeds_max", "method", "level", "reps"),
]


def per_domain(
    table: ScoreTable, *, names: Mapping[str, str] | None = None, overall: str | None = "overall", **options: Any
) -> pd.DataFrame:
    """`aggregate` within each domain and over all datasets.

    Args:
        names: dataset -> domain. By default the table's column `domain`, or what `domains.domain_of` knows:
            locomotion, antmaze, adroit, ...
        overall: label of the rows that span all domains; None leaves them out.
        options: those of `aggregate` except `datasets`.

    Returns:
        The columns of `aggregate` after a column `domain`; domains in the table's order. A domain without a dataset
        that every algorithm has runs on has no rows.
    """
    rows = table.rows
    given = dict(zip(rows["dataset"], rows["domain"], strict=True)) if "domain" in rows else {}
    groups = domains_of(comparable_datasets(table)[0], {**given, **(names or {})})
    if overall is not None:
        groups[overall] = [dataset for group in groups.values() for dataset in group]
    frames = [
        aggregate(table, datasets=group, **options).assign(domain=domain) for domain, group in groups.items() if group
    ]
    columns = ["domain", *_AGGREGATE_COLUMNS]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def per_dataset(table: ScoreTable, level: float = 0.95) -> pd.DataFrame:
    """Mean, standard deviation (ddof=1) and Student-t interval of the mean over seeds, for every cell with
    runs.

    Returns:
        algorithm, dataset, unit, n, mean, std, low, high; std, low and high are NaN where n = 1.
    """
    units = table.units
    records = []
    for dataset in table.datasets:
        for algorithm in table.algorithms:
            scores = table.cell(algorithm, dataset)
            if scores.size:
                low, high = t_interval(scores, level)
                std = float(scores.std(ddof=1)) if scores.size > 1 else math.nan
                head = (algorithm, dataset, units[dataset], scores.size, float(scores.mean()))
                records.append((*head, std, low, high))
    columns = ["algorithm", "dataset", "unit", "n", "mean", "std", "low", "high"]
    return pd.DataFrame.from_records(records, columns=columns)


def t_interval(scores: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Student-t interval of the mean of scores [N]; NaN for N = 1."""
    if scores.size < 2:
        return math.nan, math.nan
    half = t_quantile(0.5 + level / 2, scores.size - 1) * scores.std(ddof=1) / math.sqrt(scores.size)
    return float(scores.mean() - half), float(scores.mean() + half)


def leaders(cells: Mapping[str, np.ndarray], alpha: float = 0.05) -> set[str]:
    """Names whose mean is the highest, or is not shown to be lower than it (Welch's t, p >= alpha,
    uncorrected).

    Cells with a single run are leaders only if their mean is the highest.
    """
    means = {name: float(scores.mean()) for name, scores in cells.items() if scores.size}
    if not means:
        return set()
    top = max(means, key=lambda name: means[name])
    tied = {name for name, value in means.items() if value == means[top]}
    return tied | {name for name in means if welch(cells[name], cells[top]).p >= alpha}
