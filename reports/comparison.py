"""The comparisons of a report: every pair of algorithms in numbers and plain sentences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from offbench.analysis import ScoreError, ScoreTable, comparable_datasets
from offbench.analysis.comparisons import PairComparison, compare, improvement_matrix
from offbench.analysis.curves import LearningCurve, learning_curve
from offbench.analysis.intervals import Method
from offbench.analysis.metrics import iqm
from offbench.analysis.pairwise_tests import pairwise_tests
from offbench.analysis.profiles import PerformanceProfile, performance_profile
from offbench.analysis.ranks import RankComparison, friedman
from offbench.reports.tables import Cell, TableRows, frame_table
from offbench.reports.words import decimals, interval, number, p_text

MANY = 6  # algorithms; beyond, pairs are those of the best with the others


@dataclass(frozen=True)
class Comparisons:
    """What the figures, tables and sentences of a report's comparison are made from."""

    improvement: pd.DataFrame = field(default_factory=pd.DataFrame)
    profiles: list[PerformanceProfile] = field(default_factory=list)
    ranks: RankComparison | None = None
    efficiency: LearningCurve | None = None
    tables: Mapping[str, TableRows] = field(default_factory=dict)
    sentences: tuple[str, ...] = ()


def compare_all(table: ScoreTable, *, method: Method = "calibrated", seed: int = 0, reps: int = 2000) -> Comparisons:
    """Compare all algorithms over the datasets that they share; empty where nothing can be compared.

    Args:
        method: of the intervals; anything but "percentile" is "calibrated" here.
        reps, seed: of the bootstrap.
    """
    datasets, _ = comparable_datasets(table)
    if len(table.algorithms) < 2 or not datasets:
        return Comparisons()
    kind: Method = "percentile" if method == "percentile" else "calibrated"
    options: dict[str, Any] = {"method": kind, "seed": seed, "reps": reps}
    order = sorted(table.algorithms, key=lambda name: -iqm(table.strata(name, datasets)))
    sentences: list[str] = []
    tables: dict[str, TableRows] = {}

    pairs = list(itertools.combinations(order, 2))
    if len(order) > MANY:
        pairs = [(order[0], other) for other in order[1:]]
    found = [compare(table, first, second, datasets=datasets, **options) for first, second in pairs]
    sentences += [pair.sentence for pair in found if pair.first == order[0]]
    tables["pairs"] = _pairs_table(found, kind, table, datasets)

    tests = pairwise_tests(table, "welch", pairs=pairs, datasets=datasets)
    tables["tests"] = _tests_table(tests.frame, table)
    if len(order) <= MANY:
        sentences += [text for text in tests.sentences if text.startswith(order[0])]

    profiles = [
        performance_profile(table, kind="scores", datasets=datasets, **options),
        performance_profile(table, kind="averages", datasets=datasets, **options),
    ]
    if len(datasets) < 3:
        profiles = profiles[:1]
    improvement = improvement_matrix(table, datasets=datasets, **options)
    ranks = _ranks(table)
    if ranks is not None:
        sentences.append(ranks.sentence)
    efficiency = _efficiency(table, datasets, options)
    return Comparisons(improvement, profiles, ranks, efficiency, tables, tuple(dict.fromkeys(sentences)))


def _efficiency(table: ScoreTable, datasets: list[str], options: dict[str, Any]) -> LearningCurve | None:
    """IQM over the shared datasets at every step that all runs were evaluated at; None without two such steps."""
    if table.curves is None or len(datasets) < 2:
        return None
    try:
        found = learning_curve(table, "iqm", datasets=datasets, algorithms=table.algorithms, **options)
    except ScoreError:  # runs without common steps have no common curve; each dataset has its own in the figure
        return None
    return found if found.frame["step"].nunique() > 1 else None


def _ranks(table: ScoreTable) -> RankComparison | None:
    """Ranks over all shared datasets, raw returns included; None with fewer than three datasets or algorithms."""
    datasets = table.common_datasets()
    if len(datasets) < 3 or len(table.algorithms) < 3:
        return None
    try:
        return friedman(table, datasets=datasets)
    except ScoreError:  # raw returns: only their order within a dataset can be compared
        return friedman(table, datasets=datasets, cliques_by="nemenyi")


def _pairs_table(found: list[PairComparison], kind: str, table: ScoreTable, datasets: list[str]) -> TableRows:
    rows, records = [], []
    places = max(1, decimals([pair.difference.point for pair in found]))
    for pair in found:
        gap, chance = pair.difference, pair.probability
        rows.append(
            [
                Cell(pair.first),
                Cell(pair.second),
                Cell(f"{pair.wins}/{pair.ties}/{pair.losses}", value=pair.wins - pair.losses),
                Cell(_with_bounds(gap.point, gap.low, gap.high, places), value=gap.point),
                Cell(_with_bounds(chance.point, chance.low, chance.high, 2), value=chance.point),
            ]
        )
        head = (pair.first, pair.second, pair.wins, pair.ties, pair.losses)
        records.append((*head, gap.point, gap.low, gap.high, chance.point, chance.low, chance.high, pair.sentence))
    columns = ["first", "second", "wins", "ties", "losses", "iqm_difference", "iqm_low", "iqm_high"]
    columns += ["improvement", "improvement_low", "improvement_high", "sentence"]
    pairs_shown = "" if len(table.algorithms) <= MANY else " Pairs of the best IQM with the others."
    caption = (
        f"First against second over {len(datasets)} dataset{'s' if len(datasets) != 1 else ''}: datasets on which its "
        f"mean is higher, equal, lower; difference in IQM; probability that one of its runs scores higher. Brackets: "
        f"95 % {kind} bootstrap intervals, not corrected for the number of pairs.{pairs_shown}"
    )
    header = ["first", "second", "wins/ties/losses", "difference in IQM", "probability of improvement"]
    return TableRows(header, rows, caption, pd.DataFrame.from_records(records, columns=columns))


def _with_bounds(point: float, low: float, high: float, places: int) -> str:
    return f"{number(point, places)} {interval(low, high, places)}" if math.isfinite(low) else number(point, places)


def _tests_table(frame: pd.DataFrame, table: ScoreTable) -> TableRows:
    shown = frame[["dataset", "first", "second", "difference", "p", "p_corrected", "winner"]]
    caption = (
        "Welch's t-test of every pair on every dataset; p corrected by Holm over the datasets of a pair; the winner is "
        "named where it is below 0.05."
    )
    rows = frame_table(shown, caption, places=1)
    for row, record in zip(rows.rows, shown.itertuples(index=False), strict=True):
        row[4:6] = [Cell(p_text(float(p)), value=float(p)) for p in (record.p, record.p_corrected)]
    titles = ["dataset", "first", "second", "difference", "p", "p (Holm)", "winner"]
    return TableRows(titles, rows.rows, caption, frame)
