"""`write_report`: from the results of a study to a folder of tables, plots and one HTML page."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from offbench.analysis import Notice, ScoreTable
from offbench.analysis.aggregates import Method
from offbench.analysis.score_checks import some
from offbench.analysis.scores import Metric, Selection
from offbench.errors import StorageError
from offbench.reports.tables import (
    BoldRule,
    TableRows,
    aggregate_table,
    behaviour_values,
    dataset_table,
    frame_to_csv,
    to_markdown,
)


@dataclass(frozen=True)
class ReportFiles:
    """The files of a report, and its tables and warnings for whoever wants to print them.

    Plots that have nothing to show are None: curves need at least two evaluations per run, intervals need datasets
    that all algorithms share.
    """

    markdown: Path
    scores: Path
    html: Path
    curves_png: Path | None
    curves_svg: Path | None
    intervals_png: Path | None
    intervals_svg: Path | None
    dataset_table: TableRows
    aggregate_table: TableRows
    notices: tuple[Notice, ...]

    @property
    def paths(self) -> list[Path]:
        """All files that were written."""
        plots = (self.curves_png, self.curves_svg, self.intervals_png, self.intervals_svg)
        return [self.markdown, self.scores, self.html, *(path for path in plots if path is not None)]


def write_report(
    results: pd.DataFrame | ScoreTable,
    directory: Path,
    *,
    title: str,
    protocol: Mapping[str, Any] | None = None,
    datasets: Mapping[str, Mapping[str, Any]] | None = None,
    incomplete: Sequence[str] | None = None,
    metric: Metric = "score",
    selection: Selection = "last",
    method: Method = "calibrated",
    bold: BoldRule = "indistinguishable",
    reps: int = 50_000,
    seed: int = 0,
) -> ReportFiles:
    """Write table.md, scores.csv, report.html and the plots curves and intervals (PNG and SVG).

    The same input gives the same bytes. Each file is written aside and renamed, so a reader never sees half
    of one.

    Args:
        results: per-episode results of the harness, a table of final scores (algorithm, dataset, seed,
            score), or a `ScoreTable`.
        directory: created if needed; files of an earlier report are replaced.
        title: of the page.
        protocol: settings of the study, shown as they are (nested mappings become dotted names).
        datasets: per dataset its facts. Known keys: environment, episodes, transitions, fingerprint,
            reference, behaviour_score and behaviour_return (means of the policy that collected the data).
            Others are shown too.
        incomplete: runs that are not in `results` because they failed or have not finished, in words.
        metric, selection: how runs are reduced to scores; see `ScoreTable.from_runs`.
        method, reps, seed: of the intervals; see `analysis.estimate`.
        bold: see `tables.dataset_table`.

    Raises:
        ScoreError: the results cannot be used (missing columns, NaN, duplicates, no rows).
        StorageError: a file cannot be written.
    """
    from offbench.reports import html, plots

    table = results if isinstance(results, ScoreTable) else _score_table(results, metric, selection)
    notices = list(table.notices)
    if incomplete:
        runs = f"{len(incomplete)} run{'s are' if len(incomplete) > 1 else ' is'} missing from this report"
        notices.insert(0, Notice("incomplete", f"{runs} (failed or not finished): {some(list(incomplete))}."))
    facts = {name: dict((datasets or {}).get(name, {})) for name in table.datasets}
    headline = dataset_table(table, bold=bold, datasets=facts)
    aggregates = aggregate_table(table, method=method, reps=reps, seed=seed)
    curves = plots.learning_curves(table, behaviour=behaviour_values(table, facts))
    intervals = plots.interval_plot(aggregates.records, table.algorithms)
    page = html.Page(
        title=title,
        table=table,
        headline=headline,
        aggregates=aggregates,
        curves=curves,
        intervals=intervals,
        notices=notices,
        protocol=protocol or {},
        datasets=facts if any(facts.values()) else {},
        versions=versions(),
    )

    directory = Path(directory)
    contents: dict[str, bytes | None] = {
        "scores.csv": frame_to_csv(table.rows).encode(),
        "curves.png": curves.render("png") if curves else None,
        "curves.svg": curves.render("svg") if curves else None,
        "intervals.png": intervals.render("png") if intervals else None,
        "intervals.svg": intervals.render("svg") if intervals else None,
        "table.md": markdown(title, headline, aggregates, notices).encode(),
        "report.html": html.render(page).encode(),
    }
    written = {name: _write(directory / name, content) for name, content in contents.items()}
    return ReportFiles(
        markdown=directory / "table.md",
        scores=directory / "scores.csv",
        html=directory / "report.html",
        curves_png=written["curves.png"],
        curves_svg=written["curves.svg"],
        intervals_png=written["intervals.png"],
        intervals_svg=written["intervals.svg"],
        dataset_table=headline,
        aggregate_table=aggregates,
        notices=tuple(notices),
    )


def _score_table(results: pd.DataFrame, metric: Metric, selection: Selection) -> ScoreTable:
    if "episode" not in results.columns and "score" in results.columns:
        stepped = "step" in results.columns and pd.api.types.is_numeric_dtype(results["step"])
        return ScoreTable.from_frame(results, step="step" if stepped else None)
    # A report of a study that was just started shows how far it is, and says so.
    started = "final" in results.columns and not results["final"].any()
    return ScoreTable.from_runs(
        results, metric, selection, unfinished="include" if started else "leave-out", not_finite="leave-out"
    )


def markdown(title: str, headline: TableRows, aggregates: TableRows, notices: Sequence[Notice]) -> str:
    """Both tables with captions and warnings."""
    parts = [f"# {title}\n", "## Scores per dataset\n", to_markdown(headline)]
    parts += ["## Aggregates over datasets\n", to_markdown(aggregates)]
    if notices:
        parts += ["## Read with care\n", "".join(f"- {notice.text}\n" for notice in notices)]
    return "\n".join(parts)


def versions() -> dict[str, str]:
    """Versions of what computed and drew the report."""
    found = {}
    for package in ("offbench", "numpy", "pandas", "matplotlib"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {**found, "Python": platform.python_version()}


def _write(path: Path, content: bytes | None) -> Path | None:
    """Write aside and rename; None removes what an earlier report left."""
    aside = path.with_name(f".{path.name}.part")
    try:
        if content is None:
            path.unlink(missing_ok=True)
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}", str(error), "choose a folder that is writable and has room"
        ) from error
    return path
