"""`write_report`: from scores to a folder of tables, figures, one HTML page and one JSON document."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from offbench.analysis import Notice, ScoreTable
from offbench.analysis.aggregates import Engine
from offbench.analysis.intervals import Method
from offbench.analysis.score_checks import require_columns
from offbench.analysis.scores import Metric, Selection
from offbench.errors import StorageError
from offbench.reports.content import Content, Options, build
from offbench.reports.report_json import to_json
from offbench.reports.table_formats import frame_to_csv, to_csv, to_html, to_latex, to_markdown
from offbench.reports.tables import BoldRule, Spread, TableRows

if TYPE_CHECKING:
    from offbench.reports.plots import Format

TABLES = (
    *("scores", "averages", "aggregates", "pairs", "tests", "published", "robustness"),
    *("perspective", "perspective_paper", "correlations"),
)
FIGURES = (
    *("intervals", "profiles", "improvement", "ranks", "efficiency", "curves", "robustness", "robustness_scale"),
    *("strips", "tq_saco", "performance_planes", "performance_planes_paper", "correlations"),
)
TABLE_FORMATS = {"md": to_markdown, "tex": to_latex, "csv": to_csv, "html": to_html}


@dataclass(frozen=True)
class ReportFiles:
    """The files of a report, and its tables and warnings for whoever wants to print them.

    Attributes:
        html: the page. markdown: all tables as one text. json: everything. scores: one row per run.
        tables, figures: name -> format -> file. What has nothing to show is absent: curves need at least two
            evaluations per run, comparisons two algorithms, aggregates datasets that all algorithms share.
        dataset_table, aggregate_table: the two main tables.
        sentences: the comparisons in words. notices: what would mislead a reader who is not told.
    """

    html: Path
    markdown: Path
    json: Path
    scores: Path
    tables: Mapping[str, Mapping[str, Path]]
    figures: Mapping[str, Mapping[str, Path]]
    dataset_table: TableRows
    aggregate_table: TableRows
    sentences: tuple[str, ...]
    notices: tuple[Notice, ...]

    @property
    def paths(self) -> list[Path]:
        """All files that were written."""
        groups = [*self.tables.values(), *self.figures.values()]
        return [
            self.html,
            self.markdown,
            self.json,
            self.scores,
            *(path for group in groups for path in group.values()),
        ]


def write_report(
    results: pd.DataFrame | ScoreTable,
    directory: Path,
    *,
    title: str,
    protocol: Mapping[str, Any] | None = None,
    datasets: Mapping[str, Mapping[str, Any]] | None = None,
    domains: Mapping[str, str] | None = None,
    incomplete: Sequence[str] | None = None,
    tuning: Mapping[str, str] | None = None,
    metric: Metric = "score",
    selection: Selection = "last",
    method: Method = "calibrated",
    engine: Engine = "offbench",
    bold: BoldRule = "not-worse",
    spread: Spread = "std",
    reps: int = 50_000,
    seed: int = 0,
    published: bool = False,
    severity: str | None = None,
    formats: Sequence[Format] = ("png", "svg"),
    frame: pd.DataFrame | None = None,
) -> ReportFiles:
    """Write report.html, report.json, table.md, scores.csv, tables/ and figures/.

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
        domains: dataset -> domain, for averages; by default from the names.
        incomplete: runs that are not in `results` because they failed or have not finished, in words.
        tuning: algorithm -> how its settings were chosen, to warn where that differs.
        metric, selection: how runs are reduced to scores; see `ScoreTable.from_runs`.
        method, engine, reps, seed: of the aggregates' intervals; see `analysis.aggregate`. "rliable" computes them
            with rliable itself (extra `rliable`) and needs one of its methods, e.g. "percentile".
        bold, spread: see `tables.dataset_table`.
        published: set published scores beside the own ones.
        severity: column of `results` (or `frame`) that says how strongly data or environment were disturbed. The main
            tables then hold each dataset at its lowest severity (a `ScoreTable` must hold just that), and a figure
            shows scores against it.
        formats: of the figures: "png", "svg", "pdf" (which takes longest to write).
        frame: the rows behind a `ScoreTable`, if it has more columns than that keeps.

    Raises:
        ScoreError: the results cannot be used (missing columns, NaN, duplicates, no rows).
        StorageError: a file cannot be written.
    """
    rows = results if isinstance(results, pd.DataFrame) else frame
    disturbed = None
    if severity is not None and rows is not None:
        disturbed, lowest = split_by_severity(rows, severity)
        if isinstance(results, pd.DataFrame):
            results = rows = lowest
    table = results if isinstance(results, ScoreTable) else _score_table(results, metric, selection)
    if severity is not None:
        text = f"Tables hold each dataset at its lowest {severity}; all of them are in the robustness figure."
        table = _with_notice(table, Notice("severity", text))
    content = build(
        table,
        title,
        Options(bold, spread, method, engine, reps, seed, published, severity),
        frame=rows,
        disturbed=disturbed,
        protocol=protocol,
        datasets=datasets,
        domains=domains,
        incomplete=incomplete,
        tuning=tuning,
        versions=versions(),
    )
    return write_content(content, Path(directory), formats)


def write_content(content: Content, directory: Path, formats: Sequence[Format]) -> ReportFiles:
    """Render what a report says into all its files."""
    from offbench.reports import html

    tables = {
        name: {suffix: f"tables/{name}.{suffix}" for suffix in TABLE_FORMATS}
        for name, rows in content.tables.items()
        if rows.rows
    }
    figures: dict[str, dict[str, str]] = {
        name: {suffix: f"figures/{name}.{suffix}" for suffix in formats} for name in content.figures
    }
    pictures = {name: plot.render("svg") for name, plot in content.figures.items()}
    contents: dict[str, bytes] = {
        "scores.csv": frame_to_csv(content.table.rows).encode(),
        "table.md": markdown(content).encode(),
        "report.html": html.render(content, pictures).encode(),
        "report.json": to_json(content, tables, figures).encode(),
    }
    for name, files in tables.items():
        for suffix, file in files.items():
            contents[file] = _table_text(name, suffix, content.tables[name]).encode()
    for name, files in figures.items():
        for suffix, file in files.items():
            plot = content.figures[name]
            contents[file] = pictures[name] if suffix == "svg" else plot.render(suffix)  # type: ignore[arg-type]
    earlier = [f"tables/{name}.{suffix}" for name in TABLES for suffix in TABLE_FORMATS]
    earlier += [f"figures/{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg", "pdf")]
    for name in earlier:
        if name not in contents:
            _remove(directory / name)
    for name, data in contents.items():
        _write(directory / name, data)
    return ReportFiles(
        html=directory / "report.html",
        markdown=directory / "table.md",
        json=directory / "report.json",
        scores=directory / "scores.csv",
        tables={name: {s: directory / file for s, file in files.items()} for name, files in tables.items()},
        figures={name: {s: directory / file for s, file in files.items()} for name, files in figures.items()},
        dataset_table=content.headline,
        aggregate_table=content.aggregates,
        sentences=content.sentences,
        notices=content.notices,
    )


def _table_text(name: str, suffix: str, rows: TableRows) -> str:
    return to_latex(rows, label=f"tab:{name}") if suffix == "tex" else TABLE_FORMATS[suffix](rows)


def split_by_severity(rows: pd.DataFrame, severity: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All rows with a numeric severity, and of each dataset those at its lowest one."""
    require_columns(rows, ["algorithm", "dataset", "seed", "score", severity])
    numeric = rows.assign(**{severity: pd.to_numeric(rows[severity])})
    lowest = numeric.groupby("dataset")[severity].transform("min")
    return numeric, numeric[numeric[severity] == lowest].reset_index(drop=True)


def _with_notice(table: ScoreTable, notice: Notice) -> ScoreTable:
    from dataclasses import replace

    return replace(table, notices=(*table.notices, notice))


def _score_table(results: pd.DataFrame, metric: Metric, selection: Selection) -> ScoreTable:
    if "episode" not in results.columns and "score" in results.columns:
        stepped = "step" in results.columns and pd.api.types.is_numeric_dtype(results["step"])
        return ScoreTable.from_frame(results, step="step" if stepped else None)
    # A report of a study that was just started shows how far it is, and says so.
    started = "final" in results.columns and not results["final"].any()
    return ScoreTable.from_runs(
        results, metric, selection, unfinished="include" if started else "leave-out", not_finite="leave-out"
    )


_HEADINGS = {
    "scores": "Scores per dataset",
    "aggregates": "Aggregates over datasets",
    "pairs": "Pairs",
    "published": "Beside published scores",
    "robustness": "Robustness",
    "perspective": "TQ, SACo and performance",
    "perspective_paper": "TQ, SACo and performance by the paper's rule",
    "correlations": "Correlations with TQ and SACo",
}


def markdown(content: Content) -> str:
    """The tables with captions, the comparisons in words, and the warnings."""
    parts = [f"# {content.title}\n"]
    if content.notices:
        parts += ["## Read with care\n", "".join(f"- {notice.text}\n" for notice in content.notices)]
    for name, heading in _HEADINGS.items():
        if name in content.tables:
            parts += [f"## {heading}\n", to_markdown(content.tables[name])]
    if content.sentences:
        parts += ["## In words\n", "".join(f"- {sentence}\n" for sentence in content.sentences)]
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


def _write(path: Path, content: bytes) -> None:
    """Write aside and rename."""
    aside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        raise _storage_error(path, error) from error


def _remove(path: Path) -> None:
    """What an earlier report left and this one has not."""
    try:
        path.unlink(missing_ok=True)
    except NotADirectoryError:
        return  # writing into it will say what is wrong
    except OSError as error:
        raise _storage_error(path, error) from error


def _storage_error(path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot write {path}", str(error), "choose a folder that is writable and has room")
