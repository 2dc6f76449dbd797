"""Tables of scores as plain rows for any renderer: per dataset with averages over domains, and aggregates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from offbench.analysis import SCORE, ScoreTable, aggregate, comparable_datasets
from offbench.analysis.aggregates import Engine, leaders, t_interval
from offbench.analysis.domains import domains_of
from offbench.analysis.intervals import Method
from offbench.reports.summaries import Summary, not_below
from offbench.reports.words import (
    METHOD_TITLES,
    METRIC_TITLES,
    MISSING,
    decimals,
    interval,
    number,
    seeds_phrase,
    unit_phrase,
)

BoldRule = Literal["not-worse", "best", "within-95", "none"]
Spread = Literal["std", "se", "interval"]

_BOLD_RULES = {
    "not-worse": (
        "Bold: the highest mean of a row, and every mean not shown to be below it "
        "(Welch's t-test, p ≥ 0.05, not corrected for multiple comparisons)."
    ),
    "best": "Bold: the highest mean of a row.",
    "within-95": "Bold: means of at least 95 % of the highest of a row (only the highest where it is not positive).",
    "none": "",
}
_SPREADS = {
    "std": "mean ± standard deviation (ddof=1) over seeds",
    "se": "mean ± standard error over seeds",
    "interval": "mean and 95 % Student-t interval over seeds",
}


@dataclass(frozen=True)
class Cell:
    """One printed value.

    Attributes:
        text: as printed.
        bold: it stands out by the table's rule.
        value: the number by which a reader may sort; NaN for labels and missing values.
        runs: (seed, score) behind the number, where it is a cell of scores.
    """

    text: str
    bold: bool = False
    value: float = math.nan
    runs: tuple[tuple[Any, float], ...] = ()


@dataclass(frozen=True)
class TableRows:
    """A table ready to be rendered, for example with rich: `header` names the columns of every row of `rows`.

    The first column holds labels, the others numbers. `caption` says how to read the table. `averages` tells how many
    of the last rows (or columns, where algorithms are rows) are averages over the others.
    """

    header: list[str]
    rows: list[list[Cell]]
    caption: str
    records: pd.DataFrame = field(repr=False)  # the unrounded numbers behind the table, one cell a row
    average_rows: int = 0
    average_columns: int = 0
    averages: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)  # the unrounded averages, one cell a row


# -- scores per dataset ----------------------------------------------------------------------------


def dataset_table(
    table: ScoreTable,
    *,
    bold: BoldRule = "not-worse",
    spread: Spread = "std",
    averages: bool = False,
    domains: Mapping[str, str] | None = None,
    datasets: Mapping[str, Mapping[str, Any]] | None = None,
) -> TableRows:
    """Mean and spread over seeds, per dataset and algorithm.

    Datasets are rows unless there are more than six algorithms and fewer datasets than algorithms. Where
    the number of seeds differs between cells it is printed in each, as (n).

    Args:
        table: the scores.
        bold: which cells stand out; the caption says it.
        spread: what follows the mean; the caption says it.
        averages: add averages over the domains and over all datasets with normalized scores. An algorithm that
            lacks a dataset has no average over it.
        domains: dataset -> domain; by default the table's column `domain`, else from the names.
        datasets: per dataset its facts; `behaviour_score` or `behaviour_return` (the mean of the policy that
            collected the data, in the unit of the dataset's scores) adds a column.
    """
    algorithms, names, units = table.algorithms, table.datasets, table.units
    counts = table.seed_counts()
    present = counts.to_numpy()[counts.to_numpy() > 0]
    ragged = len(set(present)) > 1
    behaviour = behaviour_values(table, datasets)
    mixed_units = len(set(units.values())) > 1

    grid: dict[tuple[str, str], Cell] = {}
    summaries: dict[tuple[str, str], Summary] = {}
    records, mean_records = [], []
    for dataset in names:
        cells = {algorithm: table.cell(algorithm, dataset) for algorithm in algorithms}
        found = {algorithm: Summary.of(scores) for algorithm, scores in cells.items()}
        summaries |= {(dataset, algorithm): summary for algorithm, summary in found.items()}
        bolded = _bolded(cells, found, bold)
        places = 1 if units[dataset] == SCORE else decimals(np.concatenate(list(cells.values())))
        for algorithm, scores in cells.items():
            summary = found[algorithm]
            text = _text(summary, spread, places) + (f" ({summary.seeds})" if ragged and summary.seeds else "")
            grid[dataset, algorithm] = Cell(text, algorithm in bolded, summary.mean, _runs(table, algorithm, dataset))
            low, high = t_interval(scores)
            head = (dataset, algorithm, units[dataset], summary.seeds, summary.mean, summary.std, summary.se)
            records.append((*head, low, high, algorithm in bolded))
        if behaviour:
            value = behaviour.get(dataset, math.nan)
            grid[dataset, "data"] = Cell(number(value, places), value=value)
    groups = _groups(table, domains) if averages else {}
    averaged = {title: _averages(members, algorithms, summaries) for title, members in groups.items()}
    groups = {title: members for title, members in groups.items() if averaged[title]}
    for title, members in groups.items():
        found = averaged[title]
        bolded = _bolded_averages(found, bold)
        for algorithm in algorithms:
            average = found.get(algorithm)
            text = MISSING if average is None else _text(average, spread, 1)
            value = math.nan if average is None else average.mean
            grid[title, algorithm] = Cell(text, algorithm in bolded, value)
            if average is not None:
                facts = (title, algorithm, len(members), average.seeds, average.mean, average.se)
                mean_records.append((*facts, *average.interval(), algorithm in bolded))
        values = [behaviour[name] for name in members if name in behaviour]
        mean = float(np.mean(values)) if len(values) == len(members) else math.nan
        grid[title, "data"] = Cell(number(mean), value=mean)

    columns = [*(["data"] if behaviour else []), *algorithms]
    labels = {name: f"{name} ({units[name].removeprefix('raw ')})" if mixed_units else name for name in names}
    labels |= {title: title for title in groups}
    across = len(algorithms) > 6 and len(names) < len(algorithms)
    if across:
        header = ["algorithm", *labels.values()]
        rows = [[Cell(column), *(grid[name, column] for name in labels)] for column in columns]
    else:
        header = ["dataset", *columns]
        rows = [[Cell(labels[name]), *(grid[name, column] for column in columns)] for name in labels]
    spreads = ["seeds", "mean", "std", "se", "low", "high", "bold"]
    frame = pd.DataFrame.from_records(records, columns=["dataset", "algorithm", "unit", *spreads])
    spreads.remove("std")
    means = pd.DataFrame.from_records(mean_records, columns=["average", "algorithm", "datasets", *spreads])
    caption = _dataset_caption(table, bold, spread, ragged, bool(groups), bool(behaviour), across)
    return TableRows(header, rows, caption, frame, *((0, len(groups)) if across else (len(groups), 0)), means)


def _dataset_caption(
    table: ScoreTable, bold: BoldRule, spread: Spread, ragged: bool, averages: bool, behaviour: bool, across: bool
) -> str:
    counts = table.seed_counts().to_numpy()
    kinds = " / ".join(unit_phrase(unit) for unit in dict.fromkeys(table.units.values()))
    values = _SPREADS[spread] if counts.max() > 1 else "single runs"
    protocol = table.protocol.rstrip(".")
    sentences = [
        f"{kinds[0].upper()}{kinds[1:]}, {values}; {seeds_phrase(table)}" + (", n in brackets." if ragged else "."),
        f"Protocol: {protocol}.",
        _BOLD_RULES[bold].replace("of a row", "of a dataset" if across else "of a row")
        if len(table.algorithms) > 1
        else "",
        f"{MISSING}: no run." if (counts == 0).any() else "",
        "data: mean of the policy that collected the dataset." if behaviour else "",
    ]
    if averages:
        followed = {
            "std": "; they carry no standard deviation",
            "se": ", ± standard error (stratified over datasets)",
            "interval": ", with a stratified t interval",
        }[spread]
        sentences.append(f"Averages are means of the datasets' means{followed}.")
    return " ".join(filter(None, sentences))


def _text(summary: Summary, spread: Spread, places: int) -> str:
    if not summary.seeds:
        return MISSING
    text = number(summary.mean, places)
    if spread == "interval":
        low, high = summary.interval()
        return f"{text} {interval(low, high, places)}" if math.isfinite(low) else text
    width = summary.std if spread == "std" else summary.se
    return f"{text} ± {number(width, places)}" if math.isfinite(width) else text


def _runs(table: ScoreTable, algorithm: str, dataset: str) -> tuple[tuple[Any, float], ...]:
    rows = table.rows
    chosen = rows[(rows["algorithm"] == algorithm) & (rows["dataset"] == dataset)]
    return tuple(zip(chosen["seed"].tolist(), chosen["score"].tolist(), strict=True))


def _groups(table: ScoreTable, domains: Mapping[str, str] | None) -> dict[str, list[str]]:
    """Averages worth a row: domains of two or more datasets if there are several, all, and those that all
    algorithms share if these are fewer.
    """
    names = [name for name, unit in table.units.items() if unit == SCORE]
    if len(names) < 2:
        return {}
    counts = table.seed_counts()
    complete = [algorithm for algorithm in table.algorithms if (counts.loc[names, algorithm] > 0).all()]
    shared = [name for name in names if (counts.loc[name] > 0).all()]
    if domains is None and "domain" in table.rows:
        domains = dict(zip(table.rows["dataset"], table.rows["domain"], strict=True))
    found = {name: members for name, members in domains_of(names, domains).items() if len(members) > 1}
    groups = {f"average, {name} ({len(members)})": members for name, members in found.items()}
    if any(len(members) == len(names) for members in found.values()):
        groups = {}
    if complete:
        groups[f"average, all ({len(names)})"] = names
    if 2 <= len(shared) < len(names):
        groups[f"average, shared by all algorithms ({len(shared)})"] = shared
    return groups


def _averages(
    members: Sequence[str], algorithms: Sequence[str], summaries: Mapping[tuple[str, str], Summary]
) -> dict[str, Summary]:
    """Averages of the algorithms that have runs on all members."""
    found = {}
    for algorithm in algorithms:
        cells = [summaries[name, algorithm] for name in members]
        if all(cell.seeds for cell in cells):
            found[algorithm] = Summary.over(cells)
    return found


def _bolded(cells: Mapping[str, np.ndarray], found: Mapping[str, Summary], rule: BoldRule) -> set[str]:
    present = {name: scores for name, scores in cells.items() if scores.size}
    if rule == "none" or len(present) < 2:
        return set()
    if rule == "not-worse":
        return leaders(present)
    return _highest({name: found[name].mean for name in present}, rule)


def _bolded_averages(found: Mapping[str, Summary], rule: BoldRule) -> set[str]:
    if rule == "none" or len(found) < 2:
        return set()
    means = {name: summary.mean for name, summary in found.items()}
    if rule != "not-worse":
        return _highest(means, rule)
    top = max(means, key=lambda name: means[name])
    return {name for name in found if means[name] == means[top] or not_below(found[name], found[top])}


def _highest(means: Mapping[str, float], rule: BoldRule) -> set[str]:
    top = max(means.values())
    threshold = 0.95 * top if rule == "within-95" and top > 0 else top
    return {name for name, value in means.items() if value >= threshold}


# -- aggregates ------------------------------------------------------------------------------------


def aggregate_table(
    table: ScoreTable,
    *,
    method: Method = "calibrated",
    engine: Engine = "offbench",
    level: float = 0.95,
    reps: int = 50_000,
    seed: int = 0,
    total: int | None = None,
) -> TableRows:
    """IQM, mean, median and optimality gap over the datasets that all algorithms share, best IQM first.

    `rows` is empty where nothing can be aggregated; the caption then says why. The gap is printed for
    normalized scores only (gamma = 100).

    Args:
        method, engine, level, reps, seed: see `analysis.aggregate`.
        total: number of datasets that the caption counts, where `table` is a part of another.
    """
    datasets, why_not = comparable_datasets(table)
    frame = aggregate(table, datasets=datasets, method=method, engine=engine, level=level, reps=reps, seed=seed)
    if frame.empty:
        return TableRows([], [], f"No aggregate: {why_not}.", frame)
    normalized = table.units[datasets[0]] == SCORE
    if not normalized:
        frame = frame[frame["metric"] != "optimality_gap"].reset_index(drop=True)
    if len(datasets) == 1:  # the median over one dataset is its mean
        frame = frame[frame["metric"] != "median"].reset_index(drop=True)
    metrics = [metric for metric in METRIC_TITLES if metric in set(frame["metric"])]
    by_cell = frame.set_index(["algorithm", "metric"])
    order = by_cell.xs("iqm", level="metric")["point"].sort_values(ascending=False, kind="stable").index
    places = 1 if normalized else decimals(frame["point"].to_numpy())
    rows = []
    for algorithm in order:
        row = [Cell(algorithm)]
        for metric in metrics:
            value = by_cell.loc[(algorithm, metric)]
            text = number(value["point"], places)
            if math.isfinite(value["low"]):
                text += " " + interval(value["low"], value["high"], places)
            row.append(Cell(text, value=float(value["point"])))
        runs = int(by_cell.loc[(algorithm, "iqm")]["runs"])
        rows.append([*row, Cell(str(runs), value=runs)])
    header = ["algorithm", *(METRIC_TITLES[metric] for metric in metrics), "runs"]
    frame = frame[frame["metric"].isin(metrics)].reset_index(drop=True).assign(unit=table.units[datasets[0]])
    return TableRows(header, rows, _aggregate_caption(total or len(table.datasets), datasets, frame), frame)


def _aggregate_caption(total: int, datasets: Sequence[str], frame: pd.DataFrame) -> str:
    level, reps = frame["level"].iloc[0], int(frame["reps"].iloc[0])
    kind = frame["method"].iloc[0]
    kind = frame["method"].iloc[0]
    method = METHOD_TITLES[kind] + ("" if kind == "t" else f", {reps:,} replicates")
    over = f"all {total} datasets" if len(datasets) == total else f"{len(datasets)} of {total} datasets"
    over = f"the dataset {datasets[0]}" if total == 1 else over
    sentences = [f"{unit_phrase(frame['unit'].iloc[0]).capitalize()} over {over}, sorted by IQM."]
    if len(datasets) < total:
        sentences.append("Only datasets that have runs of every algorithm and normalized scores count.")
    if frame["low"].notna().any():
        sentences.append(f"Brackets: {100 * level:g} % {method}.")
        if len(datasets) > 1 and "median" in set(frame["metric"]):
            sentences.append("The median's interval is only indicative: the median rests on one or two datasets.")
    reasons = sorted(set(frame["reason"]) - {""})
    if reasons:
        sentences.append(f"No interval where there is {'; '.join(reasons)}.")
    if "optimality_gap" in set(frame["metric"]):
        sentences.append("Optimality gap: mean shortfall below 100; lower is better.")
    return " ".join(sentences)


def behaviour_values(table: ScoreTable, datasets: Mapping[str, Mapping[str, Any]] | None) -> dict[str, float]:
    """Mean of the data-collecting policy per dataset, in the unit of the dataset's scores, where known."""
    values = {}
    for name, unit in table.units.items():
        facts = (datasets or {}).get(name, {})
        value = facts.get("behaviour_score" if unit == SCORE else "behaviour_return")
        if value is not None and math.isfinite(float(value)):
            values[name] = float(value)
    return values


# -- any frame -------------------------------------------------------------------------------------


def frame_table(
    frame: pd.DataFrame, caption: str, *, places: int = 1, titles: Mapping[str, str] | None = None
) -> TableRows:
    """A tidy frame as a table: text stays, floats get `places` decimals, counts none."""
    rows = []
    for record in frame.itertuples(index=False):
        cells = []
        for value in record:
            if isinstance(value, (float, np.floating)):
                cells.append(Cell(number(float(value), places), value=float(value)))
            elif isinstance(value, (int, np.integer)) and not isinstance(value, bool):
                cells.append(Cell(f"{value:,}", value=float(value)))
            else:
                cells.append(Cell(MISSING if value is None or value is pd.NA else str(value)))
        rows.append(cells)
    header = [(titles or {}).get(str(name), str(name).replace("_", " ")) for name in frame.columns]
    return TableRows(header, rows, caption, frame)
