"""A user's scores beside published ones, source by source: the difference, what differs in protocol, a verdict.

The verdict's rule. Let d be the difference of the two means and [l, h] Welch's 95 % interval of it (from the number
of seeds and the sample standard deviations; a printed population standard deviation is converted).

* reproduced: |d| <= 5 points and the interval lies inside +-10 points: close, and measured well enough to say so.
* close: |d| <= 5 points, but the interval is wider, or the source prints no usable spread or number of seeds.
* undecided: |d| > 5 points, and the interval contains 0: too noisy to tell.
* differs: |d| > 5 points and the interval excludes 0 (or there is no interval).

Five points because independent re-runs of one method on the same data differ by one to five points of score; an
interval that merely contains 0 would call any sufficiently noisy result a reproduction. No verdict is given where
the published number answers another question: best checkpoints beside final ones, another dataset version, data
printed under a version that they do not have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from offbench.analysis.published import BEST, NORMALIZED, canonical_algorithm, published_scores, version_of
from offbench.analysis.scores import SCORE, ScoreTable
from offbench.analysis.student_t import t_quantile

MARGIN = 5.0
COLUMNS = [
    *("algorithm", "dataset", "seeds", "mean", "std", "source", "published_dataset", "published_mean"),
    *("published_spread", "spread_kind", "published_seeds", "difference", "low", "high", "verdict"),
    *("protocol_differences", "notes"),
]
_OFFLINE = ("last", "mean of last 10", "unstated")


@dataclass(frozen=True)
class Difference:
    """Difference of two means with Welch's interval; NaN bounds where it cannot be computed."""

    value: float
    low: float
    high: float


def welch_difference(
    mean: float, std: float, seeds: int, other_mean: float, other_std: float, other_seeds: int, level: float = 0.95
) -> Difference:
    """Interval of `mean - other_mean` from summary statistics; `std` and `other_std` have divisor n - 1."""
    value = mean - other_mean
    if min(seeds, other_seeds) < 2 or not (math.isfinite(std) and math.isfinite(other_std)):
        return Difference(value, math.nan, math.nan)
    v1, v2 = std**2 / seeds, other_std**2 / other_seeds
    if v1 + v2 == 0:
        return Difference(value, value, value)
    df = (v1 + v2) ** 2 / (v1**2 / (seeds - 1) + v2**2 / (other_seeds - 1))
    half = t_quantile(0.5 + level / 2, df) * math.sqrt(v1 + v2)
    return Difference(value, value - half, value + half)


def verdict(difference: Difference, margin: float = MARGIN) -> str:
    """ "reproduced", "close", "undecided" or "differs"; see the rule in this module's description."""
    known = math.isfinite(difference.low)
    if abs(difference.value) <= margin:
        tight = known and difference.low >= -2 * margin and difference.high <= 2 * margin
        return "reproduced" if tight else "close"
    return "undecided" if known and difference.low <= 0 <= difference.high else "differs"


def sample_std(spread: float, kind: str, seeds: int) -> float:
    """A printed spread as a standard deviation with divisor n - 1; NaN where it cannot be one.

    An unstated divisor is taken as n - 1: with four seeds the other reading is 15 % larger.
    """
    if not math.isfinite(spread) or seeds < 2 or kind in ("", "unreliable"):
        return math.nan
    if kind == "standard error":
        return spread * math.sqrt(seeds)
    return spread * math.sqrt(seeds / (seeds - 1)) if kind == "std, divisor n" else spread


def beside_published(table: ScoreTable, *, updates: int | None = None, margin: float = MARGIN) -> pd.DataFrame:
    """Every published number of the table's algorithms and datasets beside the table's own, one source a row.

    Args:
        table: normalized scores; cells in other units are skipped.
        updates: gradient steps of the table's runs, to name a difference; read from `table.rows["step"]` if absent.
        margin: points of score within which two means count as equal.

    Returns:
        Columns `COLUMNS`; `verdict` is empty where none is given. Numbers on damaged data, of online phases and in
        other units are left out. Another version of a dataset is shown only where no source has the table's own.
    """
    units = table.units
    records: list[dict[str, object]] = []
    everything = published_scores()
    everything = everything[(everything["unit"] == NORMALIZED) & (everything["condition"] == "")]
    everything = everything[everything["selection"].isin([*_OFFLINE, *BEST, "offline phase"])]
    bases = everything["dataset"].map(lambda name: version_of(name)[0])
    for algorithm in table.algorithms:
        known = canonical_algorithm(algorithm)
        if known is None:
            continue
        for dataset in table.datasets:
            scores = table.cell(algorithm, dataset)
            if not scores.size or units[dataset] != SCORE:
                continue
            rows = everything[(everything["algorithm"] == known) & (everything["dataset"] == dataset)]
            if rows.empty:
                rows = everything[(everything["algorithm"] == known) & (bases == version_of(dataset)[0])]
            steps = updates or _updates(table, algorithm, dataset)
            for row in rows.itertuples(index=False):
                records.append(_beside(algorithm, dataset, scores, row, table.selection, steps, margin))
    return pd.DataFrame.from_records(records, columns=COLUMNS)


def _updates(table: ScoreTable, algorithm: str, dataset: str) -> int | None:
    if "step" not in table.rows:
        return None
    chosen = (table.rows["algorithm"] == algorithm) & (table.rows["dataset"] == dataset)
    steps = table.rows.loc[chosen, "step"].dropna()
    return int(steps.max()) if len(steps) else None


def _beside(
    algorithm: str, dataset: str, scores: np.ndarray, row: Any, selection: str, updates: int | None, margin: float
) -> dict[str, object]:
    published = row._asdict()
    seeds = 0 if pd.isna(published["seeds"]) else int(published["seeds"])
    own_std = float(scores.std(ddof=1)) if scores.size > 1 else math.nan
    other_std = sample_std(float(published["spread"]), published["spread_kind"], seeds)
    difference = welch_difference(
        float(scores.mean()), own_std, scores.size, float(published["mean"]), other_std, seeds
    )
    names, comparable = _protocol(published, dataset, scores.size, selection, updates)
    return {
        "algorithm": algorithm,
        "dataset": dataset,
        "seeds": scores.size,
        "mean": float(scores.mean()),
        "std": own_std,
        "source": published["source"],
        "published_dataset": published["dataset"],
        "published_mean": float(published["mean"]),
        "published_spread": float(published["spread"]),
        "spread_kind": published["spread_kind"],
        "published_seeds": seeds or None,
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "verdict": verdict(difference, margin) if comparable else "",
        "protocol_differences": "; ".join(names),
        "notes": published["notes"],
    }


def _protocol(
    published: Mapping[str, Any], dataset: str, seeds: int, selection: str, updates: int | None
) -> tuple[list[str], bool]:
    """What differs from the user's runs, in words, and whether a verdict makes sense all the same."""
    names, comparable = [], True
    if published["dataset"] != dataset:
        own = version_of(dataset)[1] or "another version"
        names.append(f"{version_of(str(published['dataset']))[1]} instead of {own}")
        comparable = False
    if published["version_doubt"]:
        names.append(str(published["version_doubt"]))
        comparable = False
    theirs_best, ours_best = published["selection"] in BEST, selection == "best"
    if theirs_best != ours_best:
        names.append("their best checkpoints" if theirs_best else "your best checkpoints")
        comparable = False
    elif published["selection"] not in ("last", "best", "offline phase"):
        names.append(f"selection: {published['selection']}")
    if published["origin"] == "copy":
        names.append("copied from another paper")
    if published["tuning"] == "per dataset":
        names.append("settings tuned per dataset")
    theirs = published["updates"]
    if updates and not pd.isna(theirs) and int(theirs) != updates:
        names.append(f"{_steps(int(theirs))} updates instead of {_steps(updates)}")
    if pd.isna(published["seeds"]):
        names.append("number of seeds not stated")
    elif int(published["seeds"]) != seeds:
        names.append(f"{int(published['seeds'])} seeds instead of {seeds}")
    if published["spread_kind"] in ("standard error", "unreliable"):
        names.append(f"spread: {published['spread_kind']}")
    return names, comparable


def _steps(count: int) -> str:
    for size, suffix in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:g}{suffix}"
    return str(count)
