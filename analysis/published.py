"""Published scores as data: what papers and repositories print per algorithm and dataset, source by source.

`published_scores.csv` holds one row per printed number; `published_sources.csv` says where each source is. Numbers of
different sources are never pooled: they come from different settings, dataset versions and rules of selection, and
many are copies of each other. `disagreement` therefore reports ranges over first-hand sources only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from offbench.errors import UnknownNameError

SCORES = Path(__file__).with_name("published_scores.csv")
SOURCES = Path(__file__).with_name("published_sources.csv")
NORMALIZED = "normalized score"
REGRET = "cumulative regret (0-1, lower is better)"
BEST = ("best", "best in part")

_ALIASES = {
    "percentbc": "BC-10%",
    "bc10": "BC-10%",
    "10bc": "BC-10%",
    "decisiontransformer": "DT",
    "behaviorcloning": "BC",
    "behaviouralcloning": "BC",
    "sac100": "SAC-N",
    "xqltuned": "XQL",
    "extremeqlearning": "XQL",
    "implicitqlearning": "IQL",
    "conservativeqlearning": "CQL",
}


@dataclass(frozen=True)
class Source:
    """Where numbers come from; `year` and `link` are empty where they are not known."""

    key: str
    title: str
    year: str
    link: str


@cache
def published_sources() -> dict[str, Source]:
    """Every source by its key."""
    table = pd.read_csv(SOURCES, dtype=str, keep_default_na=False)
    return {row.source: Source(row.source, row.title, row.year, row.link) for row in table.itertuples(index=False)}


@cache
def _scores() -> pd.DataFrame:
    text = ["spread_kind", "version_doubt", "condition", "notes", "printed_algorithm"]
    frame = pd.read_csv(SCORES, dtype={"seeds": "Int64", "updates": "Int64"})
    return frame.assign(**{name: frame[name].fillna("") for name in text})


def published_scores(dataset: str | None = None, algorithm: str | None = None) -> pd.DataFrame:
    """The table, or its rows of one dataset and/or algorithm (canonical names).

    Returns:
        source (a key of `published_sources`), algorithm, dataset (D4RL's id), mean, spread, spread_kind
        ("std, divisor n", "std, divisor n - 1", "std, divisor unstated", "standard error", "unreliable" or "" where
        none is printed), seeds, unit (`NORMALIZED`, raw game scores, or regret), selection ("last", "best", "mean of
        last 10", "offline phase", "after online training", "unstated"...), updates, tuning ("per dataset", "one
        setting", "unstated"), origin ("own": the authors ran it; "re-run": somebody else did; "copy": printed from
        another paper), version_doubt, condition (of the data, e.g. corruption), notes, printed_algorithm and
        printed_source (as in the source, where they differ).
    """
    frame = _scores()
    if dataset is not None:
        frame = frame[frame["dataset"] == dataset]
    if algorithm is not None:
        frame = frame[frame["algorithm"] == algorithm]
    return frame.reset_index(drop=True)


def _key(name: str) -> str:
    """Spelling without case and punctuation: "td3_bc", "TD3+BC" and "TD3-BC" are one algorithm."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _algorithm_names() -> dict[str, str]:
    return {_key(name): name for name in _scores()["algorithm"].unique()} | _ALIASES


def canonical_algorithm(name: str) -> str | None:
    """The table's name of an algorithm, whatever its spelling; None if the table has no such algorithm."""
    return _algorithm_names().get(_key(name))


def find(name: str) -> tuple[str, str]:
    """Whether a name is a dataset or an algorithm of the table.

    Returns:
        ("dataset", id) or ("algorithm", canonical name).

    Raises:
        UnknownNameError: it is neither; the message names near ones.
    """
    datasets = {_key(dataset): dataset for dataset in _scores()["dataset"].unique()}
    if _key(name) in datasets:
        return "dataset", datasets[_key(name)]
    algorithm = canonical_algorithm(name)
    if algorithm is not None:
        return "algorithm", algorithm
    known = [*datasets.values(), *_scores()["algorithm"].unique()]
    raise UnknownNameError(
        "dataset or algorithm", name, known, "see all: offbench published --list, or docs/reports.md for the sources"
    )


def version_of(dataset: str) -> tuple[str, str]:
    """ "hopper-medium-v2" as ("hopper-medium", "v2"); the version is empty where the name has none."""
    base, dash, version = dataset.rpartition("-")
    return (base, version) if dash and re.fullmatch(r"v\d+", version) else (dataset, "")


def disagreement(rows: pd.DataFrame) -> pd.DataFrame:
    """How far sources are apart, per dataset, algorithm, unit and way of choosing the checkpoint.

    Counted are first-hand numbers (origin "own" or "re-run") on undamaged data; "last", "mean of last 10" and
    "unstated" are one group, because all claim to be offline numbers, "best" is another.

    Returns:
        dataset, algorithm, unit, choice ("offline" or "best"), sources, low, high, range; only where two or more
        sources give a number; the largest range first.
    """
    columns = ["dataset", "algorithm", "unit", "choice", "sources", "low", "high", "range"]
    counted = rows[(rows["origin"] != "copy") & (rows["condition"] == "")]
    choice = np.select(
        [
            counted["selection"].isin(BEST),
            counted["selection"].isin(["last", "mean of last 10", "unstated"]),
        ],
        ["best", "offline"],
        default="",
    )
    counted = counted.assign(choice=choice)
    counted = counted[(counted["choice"] != "") & (counted["spread_kind"] != "unreliable")]
    keys = ["dataset", "algorithm", "unit", "choice"]
    if counted.empty:
        return pd.DataFrame(columns=columns)
    grouped = counted.groupby(keys, sort=False)
    table = grouped.agg(sources=("source", "nunique"), low=("mean", "min"), high=("mean", "max")).reset_index()
    table = table[table["sources"] >= 2].assign(range=lambda frame: frame["high"] - frame["low"])
    return table.sort_values("range", ascending=False, kind="stable")[columns].reset_index(drop=True)
