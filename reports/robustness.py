"""The report of a robustness study: a usual report over all corruptions, with clean scores and curves beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from offbench.analysis import Notice, ScoreTable
from offbench.analysis.robustness import CLEAN, Condition, robustness_rows, severity_rows, worst_conditions
from offbench.errors import DatasetError
from offbench.reports.content import Options, build
from offbench.reports.report import ReportFiles, versions, write_content
from offbench.reports.tables import TableRows, dataset_table

if TYPE_CHECKING:
    from offbench.reports.plots import Format, Plot


def write_robustness(
    results: pd.DataFrame,
    conditions: Mapping[str, Condition],
    directory: Path,
    *,
    title: str,
    formats: Sequence[Format] = ("png", "svg"),
    **facts: Any,
) -> tuple[ReportFiles, TableRows]:
    """Write the report of a study over corrupted data; return its files and the robustness table.

    Aggregates, ranks and comparisons span the corrupted datasets only; the robustness table and the curves have the
    clean ones too.

    Args:
        results: per-episode results of the harness (or one row per run: algorithm, dataset, seed, score), whose
            datasets are the keys of `conditions`.
        conditions: what was done to each.
        directory: see `report.write_report`.
        facts: protocol, datasets, incomplete, tuning; see `report.write_report`.

    Raises:
        DatasetError: no corrupted dataset has results.
        ScoreError, StorageError: see `report.write_report`.
    """
    results, conditions = _short_names(results, conditions)
    corrupted = results[[not conditions[name].clean for name in results["dataset"]]]
    if corrupted.empty:
        raise DatasetError("no run on a corrupted dataset has finished", "", "see `offbench status`")
    table, everything = _scores(corrupted), _scores(results)
    table = replace(table, notices=(*table.notices, _not_a_sample(conditions)))
    rows = robustness_table(everything, conditions)
    content = build(table, title, Options(), frame=corrupted, versions=versions(), **facts)
    figures = dict(content.figures)
    for name, severity in (("robustness", "rate"), ("robustness_scale", "scale")):
        plot = strength_curves(everything, conditions, severity)
        if plot is not None:
            figures[name] = plot
    content = replace(content, tables={**content.tables, "robustness": rows}, figures=figures)
    return write_content(content, Path(directory), formats), rows


def robustness_table(table: ScoreTable, conditions: Mapping[str, Condition]) -> TableRows:
    """Clean, every corruption, their average, the worst one and the change from clean, per algorithm.

    Args:
        table: final scores whose datasets are the conditions, the clean ones among them.
        conditions: what was done to each.
    """
    made = dataset_table(robustness_rows(table, conditions))
    worst = worst_conditions(table, conditions)
    several = len({dataset for dataset, _ in worst}) > 1
    named = [f"{a} {k}" + (f" ({d})" if several else "") for (d, a), k in worst.items()]
    caption = (
        f"{made.caption} Average of corruptions: of a seed's scores, then over seeds. Worst corruption: the one with "
        f"an algorithm's lowest mean ({'; '.join(named)}), which chance favours to be low. Change from clean: average "
        "minus clean of the same seed."
    )
    return replace(made, caption=caption)


def strength_curves(table: ScoreTable, conditions: Mapping[str, Condition], severity: str) -> Plot | None:
    """Scores against the rate or the scale of each kind of corruption, from the clean data on; None without any."""
    from offbench.reports.plots_curves import robustness_curves

    rows = severity_rows(table.rows, conditions, severity)
    if rows.empty:
        return None
    units = list(dict.fromkeys(table.units.values()))
    return robustness_curves(rows, table.algorithms, severity=severity, unit=units[0] if len(units) == 1 else "")


def _short_names(
    results: pd.DataFrame, conditions: Mapping[str, Condition]
) -> tuple[pd.DataFrame, dict[str, Condition]]:
    """Results and conditions without the dataset's name, where all are of one dataset."""
    if len({condition.dataset for condition in conditions.values()}) > 1:
        return results, dict(conditions)
    short = {
        name: CLEAN if condition.clean else condition.title.removeprefix(f"{condition.dataset}, ")
        for name, condition in conditions.items()
    }
    return results.assign(dataset=results["dataset"].map(short)), {short[name]: c for name, c in conditions.items()}


def _not_a_sample(conditions: Mapping[str, Condition]) -> Notice:
    clean = list(dict.fromkeys(condition.dataset for condition in conditions.values()))
    text = (
        f"The datasets of this report are corruptions of {', '.join(clean)}, not a sample of tasks: aggregates, ranks "
        "and tests over them speak of these corruptions. Algorithms that do not read a corrupted column have the same "
        "scores with and without its corruption."
    )
    return Notice("corruptions", text)


def _scores(results: pd.DataFrame) -> ScoreTable:
    if "episode" in results.columns:
        return ScoreTable.from_runs(results, not_finite="leave-out")
    return ScoreTable.from_frame(results)
