"""The report of a dataset-perspective study: the usual report with TQ, SACo, performance over them and correlations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from offbench.analysis import ScoreTable
from offbench.analysis.perspective import ALL, SCHEMES, Rule, correlations, performance
from offbench.errors import DatasetError
from offbench.reports.content import Options, build
from offbench.reports.report import ReportFiles, versions, write_content
from offbench.reports.tables import Cell, TableRows
from offbench.reports.words import MISSING

if TYPE_CHECKING:
    from offbench.reports.plots import Format, Plot

_RULES = {
    "last": "the mean of the final evaluation over seeds",
    "paper": "the largest, over evaluations, of the mean over seeds: the paper's rule, which is optimistic",
}
# Column of a table -> measure and decimals.
_QUALITY = {
    "TQ": ("tq", 3),
    "SACo": ("saco", 3),
    "lSACo": ("lsaco", 3),
    "pairs": ("pairs", 0),
    "episodes": ("episodes", 0),
    "return of TQ 0": ("minimum", 1),
    "return of TQ 1": ("maximum", 1),
}


def write_perspective(
    results: pd.DataFrame,
    points: pd.DataFrame,
    directory: Path,
    *,
    title: str,
    formats: Sequence[Format] = ("png", "svg"),
    **facts: Any,
) -> tuple[ReportFiles, dict[str, TableRows]]:
    """Write the report of the study; return its files and its own tables.

    Args:
        results: per-episode results of the harness.
        points: see `offbench.analysis.perspective.performance`.
        directory: see `report.write_report`. Its `performance.csv` and `datasets.csv` hold the unrounded numbers.
        facts: protocol, datasets, incomplete, tuning; see `report.write_report`.

    Raises:
        DatasetError: no run on a dataset of the study has finished.
        ScoreError, StorageError: see `report.write_report`.
    """
    from offbench.reports.plots_perspective import correlation_bars, dataset_planes

    table = performance(results, points)
    if table.empty:
        raise DatasetError("no run of the study has finished", "", "see `offbench status`")
    related = correlations(table)
    own = {
        "perspective": perspective_table(table, "last"),
        "perspective_paper": perspective_table(table, "paper"),
        "correlations": correlation_table(related),
    }
    scores = ScoreTable.from_runs(results, not_finite="leave-out")
    content = build(scores, title, Options(), frame=results, versions=versions(), **facts)
    figures = {
        "tq_saco": dataset_planes(points),
        "performance_planes": _planes(table, "last"),
        "performance_planes_paper": _planes(table, "paper"),
        "correlations": correlation_bars(related),
    }
    drawn = {name: plot for name, plot in figures.items() if plot is not None}
    content = replace(content, tables={**content.tables, **own}, figures={**content.figures, **drawn})
    written = write_content(content, directory, formats)
    table.to_csv(directory / "performance.csv", index=False, float_format="%.6g", lineterminator="\n")
    points.to_csv(directory / "datasets.csv", index=False, float_format="%.6g", lineterminator="\n")
    return written, own


def _planes(table: pd.DataFrame, rule: Rule) -> Plot | None:
    """Performance of each algorithm over the plane of TQ and SACo."""
    from offbench.reports.plots_quality import score_planes

    data = table.drop_duplicates("dataset").set_index("dataset")
    return score_planes(
        {str(name): (row["tq"], row["saco"]) for name, row in data.iterrows()},
        {
            str(algorithm): dict(zip(rows["dataset"], rows[rule], strict=True))
            for algorithm, rows in table.groupby("algorithm", sort=False)
        },
        groups=data["environment"].to_dict(),
        settings=f"Scores are {_RULES[rule]}; 0: the random data's mean return, 100: the best online evaluation",
    )


def perspective_table(table: pd.DataFrame, rule: Rule) -> TableRows:
    """TQ, SACo and the performance of each algorithm per environment and scheme, means over dataset-creation runs.

    Args:
        table: as `offbench.analysis.perspective.performance` gives it.
    """
    algorithms = list(dict.fromkeys(table["algorithm"]))
    rows, records = [], []
    order = sorted(set(table["scheme"]), key=lambda scheme: [*SCHEMES, scheme].index(scheme))
    for environment in dict.fromkeys(table["environment"]):
        for scheme in order:
            inside = table[(table["environment"] == environment) & (table["scheme"] == scheme)]
            if inside.empty:
                continue
            data = inside.drop_duplicates("dataset")
            cells = [Cell(f"{environment} {scheme}"), _spread(data["tq"], 2), _spread(data["saco"], 2)]
            for algorithm in algorithms:
                values = inside.loc[inside["algorithm"] == algorithm, rule]
                cells.append(_spread(values, 1))
                records.append(
                    {
                        "environment": environment,
                        "scheme": scheme,
                        "algorithm": algorithm,
                        "mean": values.mean(),
                        "std": values.std(),
                        "runs": len(values),
                    }
                )
            rows.append(cells)
    caption = (
        f"TQ, SACo and performance (0: the random data's mean return, 100: the best online evaluation of the same "
        f"run), mean ± standard deviation over {table['run'].nunique()} dataset-creation runs. Performance: "
        f"{_RULES[rule]} ({_seeds(table)} per dataset)."
    )
    return TableRows(["dataset", "TQ", "SACo", *algorithms], rows, caption, pd.DataFrame(records))


def quality_table(points: pd.DataFrame) -> TableRows:
    """TQ, SACo and lSACo per environment and scheme, means and spread over dataset-creation runs.

    Args:
        points: as `offbench.perspective.PerspectiveStudy.quality` gives it.
    """
    rows = []
    for (environment, scheme), inside in points.groupby(["environment", "scheme"], sort=False):
        spreads = [_spread(inside[name], places) for name, places in _QUALITY.values()]
        rows.append([Cell(f"{environment} {scheme}"), *spreads])
    runs, presets = dict.fromkeys(points["run"]), sorted(set(points["preset"]))
    caption = (
        f"Mean ± standard deviation over the dataset-creation runs {', '.join(map(str, runs))}; preset "
        f"{', '.join(presets)}. TQ 0: mean return of the random data of the same run; TQ 1: the best online "
        "evaluation. SACo 1: the replay data."
    )
    return TableRows(["dataset", *_QUALITY], rows, caption, points)


def correlation_table(related: pd.DataFrame) -> TableRows:
    """Pearson's r of performance with TQ and SACo, per algorithm and domain.

    Args:
        related: as `offbench.analysis.perspective.correlations` gives it.
    """
    domains = list(dict.fromkeys(related["domain"]))
    columns = list(itertools.product(domains, ("tq", "saco"), ("last", "paper")))
    by_cell = related.set_index(["algorithm", "domain", "measure", "rule"])["r"]
    header = ["algorithm"]
    for domain, measure, rule in columns:
        name = "" if domain == ALL or len(domains) == 1 else f"{domain}, "
        header.append(f"{name}{'TQ' if measure == 'tq' else 'SACo'}{'' if rule == 'last' else ' (paper)'}")
    rows = [
        [Cell(algorithm), *(_number(by_cell[algorithm, domain, measure, rule]) for domain, measure, rule in columns)]
        for algorithm in dict.fromkeys(related["algorithm"])
    ]
    caption = (
        f"Pearson correlation of performance with TQ and SACo over {related['points'].max()} datasets"
        f"{' of all environments, then within each' if len(domains) > 1 else ''}. Columns without a word: performance "
        f"is {_RULES['last']}; (paper): {_RULES['paper']}. Datasets of one environment are few and not independent."
    )
    return TableRows(header, rows, caption, related)


def _spread(values: pd.Series, places: int) -> Cell:
    if values.empty or not math.isfinite(values.mean()):
        return Cell(MISSING)
    mean, std = float(values.mean()), float(values.std())
    return Cell(f"{mean:.{places}f}" + (f" ± {std:.{places}f}" if math.isfinite(std) else ""), value=mean)


def _number(value: float) -> Cell:
    return Cell(f"{value:.2f}", value=value) if math.isfinite(value) else Cell(MISSING)


def _seeds(table: pd.DataFrame) -> str:
    counts = sorted(set(table["seeds"]))
    words = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{words} seed{'' if words == '1' else 's'}"
