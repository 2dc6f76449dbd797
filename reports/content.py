"""What a report says: its tables, figures, sentences and warnings, computed once for every output format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from offbench.analysis import SCORE, Notice, ScoreTable, comparable_datasets
from offbench.analysis.aggregates import Engine
from offbench.analysis.intervals import Method
from offbench.analysis.score_checks import some
from offbench.reports.comparison import Comparisons, compare_all
from offbench.reports.lint import lint, protocol_facts
from offbench.reports.published import published_table
from offbench.reports.tables import (
    BoldRule,
    Spread,
    TableRows,
    aggregate_table,
    behaviour_values,
    dataset_table,
    frame_table,
)

if TYPE_CHECKING:
    from offbench.reports.plots import Plot


@dataclass(frozen=True)
class Options:
    """How a report is made; every field is written into report.json.

    Attributes:
        bold, spread: of the table per dataset; see `tables.dataset_table`.
        method, engine, reps, seed: of the aggregates' intervals; see `analysis.aggregate`.
        published: set published scores beside the own ones.
        severity: column that says how strongly the data or environment were disturbed.
    """

    bold: BoldRule = "not-worse"
    spread: Spread = "std"
    method: Method = "calibrated"
    engine: Engine = "offbench"
    reps: int = 50_000
    seed: int = 0
    published: bool = False
    severity: str | None = None


@dataclass(frozen=True)
class Content:
    """Everything that the files of a report show."""

    title: str
    table: ScoreTable
    options: Options
    tables: Mapping[str, TableRows]
    figures: Mapping[str, Plot]
    sentences: tuple[str, ...]
    notices: tuple[Notice, ...]
    protocol: Mapping[str, Any]
    datasets: Mapping[str, Mapping[str, Any]]
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def headline(self) -> TableRows:
        """Scores per dataset."""
        return self.tables["scores"]

    @property
    def aggregates(self) -> TableRows:
        """Aggregates over datasets."""
        return self.tables["aggregates"]


def build(
    table: ScoreTable,
    title: str,
    options: Options,
    *,
    frame: pd.DataFrame | None = None,
    disturbed: pd.DataFrame | None = None,
    protocol: Mapping[str, Any] | None = None,
    datasets: Mapping[str, Mapping[str, Any]] | None = None,
    domains: Mapping[str, str] | None = None,
    incomplete: Sequence[str] | None = None,
    tuning: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
) -> Content:
    """Compute a report.

    Args:
        table: the scores.
        frame: the rows they came from, for linting.
        disturbed: rows at all severities (algorithm, dataset, seed, score, severity), where there are any.
        protocol, datasets, domains, incomplete, tuning: see `report.write_report`.
        versions: of what computes and draws.
    """
    facts = {name: dict((datasets or {}).get(name, {})) for name in table.datasets}
    compared, alone = comparable_part(table)
    tables = {
        "scores": dataset_table(
            table, bold=options.bold, spread=options.spread, averages=True, domains=domains, datasets=facts
        ),
        "aggregates": aggregate_table(
            compared,
            method=options.method,
            engine=options.engine,
            reps=options.reps,
            seed=options.seed,
            total=len(table.datasets),
        ),
    }
    averages = tables["scores"].averages
    if len(averages):
        shown = averages.drop(columns="bold").rename(columns={"low": "low (95 %)", "high": "high (95 %)"})
        caption = (
            "Means over datasets of the means over seeds, with standard errors stratified over datasets and Student-t "
            "intervals; seeds: fewest in a cell."
        )
        tables["averages"] = frame_table(shown, caption)
    notices = list(table.notices)
    if incomplete:
        runs = f"{len(incomplete)} run{'s are' if len(incomplete) > 1 else ' is'} missing from this report"
        notices.insert(0, Notice("incomplete", f"{runs} (failed or not finished): {some(list(incomplete))}."))
    notices += alone
    notices += lint(table, tables["aggregates"].records, frame=frame, tuning=tuning)
    comparisons = compare_all(compared, method=options.method, seed=options.seed)
    tables |= comparisons.tables
    if options.published:
        tables["published"], nothing = published_table(table)
        notices += nothing
    if disturbed is not None and options.severity is not None:
        from offbench.reports.plots_curves import severity_table

        robustness = severity_table(disturbed, options.severity)
        if len(robustness):
            tables["robustness"] = frame_table(
                robustness,
                f"Scores against {options.severity}: at the lowest value, mean height of the curve, the worst mean and "
                "where it is; retained: worst over lowest.",
                places=2,
            )
    return Content(
        title=title,
        table=table,
        options=options,
        tables=tables,
        figures=_figures(table, tables, comparisons, facts, options, disturbed),
        sentences=comparisons.sentences,
        notices=tuple(dict.fromkeys(notices)),
        protocol={**protocol_facts(frame), **(protocol or {})},
        datasets=facts if any(facts.values()) else {},
        versions=versions or {},
    )


def comparable_part(table: ScoreTable) -> tuple[ScoreTable, list[Notice]]:
    """The table without the algorithms that leave no dataset to compare all on, and a notice that names them.

    Where no dataset has runs of every algorithm, the algorithm without which most datasets are shared goes first, of
    equals the one with the fewest datasets, until some dataset is shared.
    """
    present = table.seed_counts() > 0
    kept = list(table.algorithms)
    while len(kept) > 2 and not present[kept].all(axis=1).any():
        gains = {
            name: (present[[other for other in kept if other != name]].all(axis=1).sum(), -present[name].sum())
            for name in kept
        }
        kept.remove(max(kept, key=lambda name: gains[name]))
    left_out = [name for name in table.algorithms if name not in kept]
    if not left_out or not present[kept].all(axis=1).any():
        return table, []
    text = f"No dataset has runs of every algorithm: aggregates and comparisons leave out {some(left_out)}."
    rows = table.rows[table.rows["algorithm"].isin(kept)].reset_index(drop=True)
    return replace(table, rows=rows), [Notice("not-comparable", text)]


def _figures(
    table: ScoreTable,
    tables: Mapping[str, TableRows],
    comparisons: Comparisons,
    facts: Mapping[str, Mapping[str, Any]],
    options: Options,
    disturbed: pd.DataFrame | None,
) -> dict[str, Plot]:
    """Every figure that has something to show, in the order of the page."""
    from offbench.reports import plots_curves, plots_pairs, plots_profiles, plots_scores

    found: dict[str, Plot | None] = {
        "intervals": plots_scores.interval_plot(tables["aggregates"].records, table.algorithms)
    }
    shared, _ = comparable_datasets(table)
    unit = table.units[shared[0]] if shared else SCORE
    found["profiles"] = plots_profiles.profile_plot(comparisons.profiles, table.algorithms, unit=unit)
    found["improvement"] = plots_pairs.improvement_matrix_plot(comparisons.improvement, table.algorithms)
    if comparisons.ranks is not None:
        found["ranks"] = plots_pairs.critical_difference_plot(comparisons.ranks, table.algorithms)
    if comparisons.efficiency is not None:
        found["efficiency"] = plots_curves.efficiency_plot(comparisons.efficiency, table.algorithms, unit=unit)
    found["curves"] = plots_curves.learning_curves(table, behaviour=behaviour_values(table, facts))
    if disturbed is not None and options.severity is not None:
        found["robustness"] = plots_curves.robustness_curves(
            disturbed, table.algorithms, severity=options.severity, unit=unit
        )
    found["strips"] = plots_scores.seed_strips(table)
    return {name: plot for name, plot in found.items() if plot is not None}
