"""Tables of scores: plain rows for any renderer, aligned Markdown, and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from offbench.analysis import RETURN, SCORE, ScoreTable, aggregate, comparable_datasets
from offbench.analysis.aggregates import Method, leaders

MISSING = "–"
BoldRule = Literal["indistinguishable", "best", "none"]

_BOLD_RULES = {
    "indistinguishable": (
        "Bold: the highest mean of a dataset, and every mean not shown to be below it "
        "(Welch's t-test, p ≥ 0.05, not corrected for multiple comparisons)."
    ),
    "best": "Bold: the highest mean of a dataset.",
    "none": "",
}


@dataclass(frozen=True)
class Cell:
    """One printed value."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class TableRows:
    """A table ready to be rendered, for example with rich: `header` names the columns of every row of `rows`.

    The first column holds labels, the others numbers. `caption` says how to read the table.
    """

    header: list[str]
    rows: list[list[Cell]]
    caption: str
    records: pd.DataFrame = field(repr=False)  # the unrounded numbers behind the table, one cell a row


# -- numbers ---------------------------------------------------------------------------------------


def decimals(values: Sequence[float] | np.ndarray) -> int:
    """Decimals to print so that values of this size keep three to four digits."""
    finite = [abs(value) for value in values if math.isfinite(value)]
    largest = max(finite, default=0.0)
    return 0 if largest >= 1000 else 1 if largest >= 10 else 2


def number(value: float, places: int = 1) -> str:
    """A number with fixed decimals; – where undefined; never "-0.0"."""
    if not math.isfinite(value):
        return MISSING
    text = f"{value:.{places}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def interval(low: float, high: float, places: int = 1) -> str:
    return f"[{number(low, places)}, {number(high, places)}]"


def seeds_phrase(table: ScoreTable) -> str:
    counts = table.seed_counts().to_numpy()
    present = counts[counts > 0]
    low, high = int(present.min()), int(present.max())
    return f"{low} seed{'s' if low > 1 else ''}" if low == high else f"{low} to {high} seeds"


# -- tables ----------------------------------------------------------------------------------------


def dataset_table(
    table: ScoreTable,
    *,
    bold: BoldRule = "indistinguishable",
    datasets: Mapping[str, Mapping[str, Any]] | None = None,
) -> TableRows:
    """Mean ± standard deviation (ddof=1) over seeds, per dataset and algorithm.

    Datasets are rows unless there are more than six algorithms and fewer datasets than algorithms. Where
    the number of seeds differs between cells it is printed in each, as (n).

    Args:
        table: the scores.
        bold: which cells stand out; the caption says it.
        datasets: per dataset its facts; `behaviour_score` or `behaviour_return` (the mean of the policy that
            collected the data, in the unit of the dataset's scores) adds a column.
    """
    algorithms, names, units = table.algorithms, table.datasets, table.units
    counts = table.seed_counts()
    ragged = len(set(counts.to_numpy()[counts.to_numpy() > 0])) > 1
    behaviour = behaviour_values(table, datasets)
    mixed_units = len(set(units.values())) > 1

    grid: dict[tuple[str, str], Cell] = {}
    records = []
    for dataset in names:
        cells = {algorithm: table.cell(algorithm, dataset) for algorithm in algorithms}
        bolded = _bolded(cells, bold)
        places = 1 if units[dataset] == SCORE else decimals(np.concatenate(list(cells.values())))
        for algorithm, scores in cells.items():
            n = scores.size
            mean = float(scores.mean()) if n else math.nan
            std = float(scores.std(ddof=1)) if n > 1 else math.nan
            text = MISSING
            if n:
                text = f"{number(mean, places)} ± {number(std, places)}" if n > 1 else number(mean, places)
                text += f" ({n})" if ragged else ""
            grid[dataset, algorithm] = Cell(text, algorithm in bolded)
            records.append((dataset, algorithm, units[dataset], n, mean, std))
        if behaviour:
            value = behaviour.get(dataset, math.nan)
            grid[dataset, "data"] = Cell(number(value, places))

    columns = [*(["data"] if behaviour else []), *algorithms]
    labels = {name: f"{name} ({units[name].removeprefix('raw ')})" if mixed_units else name for name in names}
    if len(algorithms) > 6 and len(names) < len(algorithms):
        header = ["algorithm", *labels.values()]
        rows = [[Cell(column), *(grid[name, column] for name in names)] for column in columns]
    else:
        header = ["dataset", *columns]
        rows = [[Cell(labels[name]), *(grid[name, column] for column in columns)] for name in names]

    kinds = " / ".join(_unit_phrase(unit) for unit in dict.fromkeys(units.values()))
    spread = "mean ± standard deviation (ddof=1) over seeds" if counts.to_numpy().max() > 1 else "single runs"
    sentences = [
        f"{kinds[0].upper()}{kinds[1:]}, {spread}; {seeds_phrase(table)}" + (", n in brackets." if ragged else "."),
        f"Protocol: {table.protocol}.",
        _BOLD_RULES[bold] if len(algorithms) > 1 else "",
        f"{MISSING}: no run." if (counts.to_numpy() == 0).any() else "",
        "data: mean of the policy that collected the dataset." if behaviour else "",
    ]
    frame = pd.DataFrame.from_records(records, columns=["dataset", "algorithm", "unit", "seeds", "mean", "std"])
    return TableRows(header, rows, " ".join(filter(None, sentences)), frame)


def _bolded(cells: Mapping[str, np.ndarray], rule: BoldRule) -> set[str]:
    present = {name: scores for name, scores in cells.items() if scores.size}
    if rule == "none" or len(present) < 2:
        return set()
    if rule == "best":
        top = max(float(scores.mean()) for scores in present.values())
        return {name for name, scores in present.items() if float(scores.mean()) == top}
    return leaders(present)


def _unit_phrase(unit: str) -> str:
    return {SCORE: "normalized scores (0–100)", RETURN: "raw returns (not normalized)"}.get(unit, unit)


def aggregate_table(
    table: ScoreTable,
    *,
    method: Method = "calibrated",
    level: float = 0.95,
    reps: int = 50_000,
    seed: int = 0,
) -> TableRows:
    """IQM, mean, median and optimality gap over the datasets that all algorithms share, best IQM first.

    `rows` is empty where nothing can be aggregated; the caption then says why. The gap is printed for
    normalized scores only (gamma = 100).
    """
    datasets, why_not = comparable_datasets(table)
    frame = aggregate(table, datasets=datasets, method=method, level=level, reps=reps, seed=seed)
    if frame.empty:
        return TableRows([], [], f"No aggregate: {why_not}.", frame)
    normalized = table.units[datasets[0]] == SCORE
    if not normalized:
        frame = frame[frame["metric"] != "optimality_gap"].reset_index(drop=True)
    if len(datasets) == 1:  # the median over one dataset is its mean
        frame = frame[frame["metric"] != "median"].reset_index(drop=True)
    metrics = list(frame["metric"].unique())
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
            row.append(Cell(text))
        runs = by_cell.loc[(algorithm, "iqm")]["runs"]
        rows.append([*row, Cell(str(int(runs)))])
    header = ["algorithm", *(METRIC_TITLES[metric] for metric in metrics), "runs"]
    frame = frame.assign(unit=table.units[datasets[0]])
    return TableRows(header, rows, _aggregate_caption(table, datasets, frame), frame)


METRIC_TITLES = {"iqm": "IQM", "mean": "mean", "median": "median", "optimality_gap": "optimality gap"}


def _aggregate_caption(table: ScoreTable, datasets: Sequence[str], frame: pd.DataFrame) -> str:
    level, reps = frame["level"].iloc[0], int(frame["reps"].iloc[0])
    method = {
        "calibrated": "stratified bootstrap over seeds, calibrated for few seeds (stretched, Student t)",
        "percentile": "percentile stratified bootstrap over seeds (too narrow with few seeds)",
    }[frame["method"].iloc[0]]
    total = len(table.datasets)
    over = f"all {total} datasets" if len(datasets) == total else f"{len(datasets)} of {total} datasets"
    over = f"the dataset {datasets[0]}" if total == 1 else over
    sentences = [f"{_unit_phrase(frame['unit'].iloc[0]).capitalize()} over {over}, sorted by IQM."]
    if len(datasets) < total:
        sentences.append("Only datasets that have runs of every algorithm and normalized scores count.")
    if frame["low"].notna().any():
        sentences.append(f"Brackets: {100 * level:g} % interval, {method}, {reps:,} replicates.")
        if len(datasets) > 1:
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


# -- renderings ------------------------------------------------------------------------------------


def to_markdown(rows: TableRows) -> str:
    """A Markdown table whose columns are aligned, so that it also reads well in a terminal, and its
    caption.
    """
    if not rows.rows:
        return f"{rows.caption}\n"
    lines = [[_escape(text) for text in rows.header]]
    lines += [[f"**{_escape(c.text)}**" if c.bold else _escape(c.text) for c in row] for row in rows.rows]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(rows.header))]

    def row(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([row(lines[0]), f"|{rule}|", *map(row, lines[1:]), "", rows.caption]) + "\n"


def to_csv(rows: TableRows) -> str:
    """The unrounded numbers behind the table, one cell per line."""
    return frame_to_csv(rows.records)


def frame_to_csv(frame: pd.DataFrame) -> str:
    """CSV with "\\n" line ends and shortest round-trip floats; NaN and None become empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(frame.columns)
    for row in frame.itertuples(index=False):
        writer.writerow(["" if pd.isna(value) else _plain(value) for value in row])
    return out.getvalue()


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("\n", " ")
