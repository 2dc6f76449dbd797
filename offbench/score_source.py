"""Scores from whatever a user names on the command line: run folders, a table, an earlier report, others' logs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offbench.errors import SpecError

if TYPE_CHECKING:
    import pandas as pd

    from offbench.analysis import ScoreTable
    from offbench.analysis.scores import Selection
    from offbench.reports import ReportFiles

TABLE_SUFFIXES = (".csv", ".parquet", ".gz")


@dataclass(frozen=True)
class ScoreSource:
    """Scores and where they came from.

    Attributes:
        path: what the user gave. kind: "runs", "report" or "table".
        table: the scores; for a table with a severity, each dataset at its lowest.
        frame: the rows behind them, with all columns of the user's table; None where there are no more.
    """

    path: Path
    kind: str
    table: ScoreTable
    frame: pd.DataFrame | None


def kind_of(path: Path) -> str:
    """ "report" (a folder with report.json), "runs" (a folder with run folders in it) or "table" (anything else).

    Raises:
        SpecError: there is no such file or folder.
    """
    from offbench.runs import RunStore

    if not path.exists():
        raise SpecError(
            f"there is no file or folder {path}", "", "give run folders, a CSV or Parquet table, or a report's folder"
        )
    if path.is_file():
        return "report" if path.name == "report.json" else "table"
    if (path / "report.json").is_file():
        return "report"
    return "runs" if next(iter(RunStore(path).folders()), None) is not None else "table"


def open_scores(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    severity: str | None = None,
    selection: Selection = "last",
    **options: Any,
) -> ScoreSource:
    """Read scores from run folders, a report (its folder or report.json), or anything that `load_scores` reads.

    Args:
        columns: our name of a column -> the table's, e.g. {"algorithm": "algo"}.
        severity: the table's column that says how strongly data or environment were disturbed.
        selection: how evaluations become one score; see `ScoreTable.from_runs`.
        options: further ones of `load_scores` (layout, key, normalize, scale, missing...).

    Raises:
        OffbenchError: nothing there, or nothing that can be used.
    """
    path = Path(path).expanduser()
    kind = kind_of(path)
    if kind == "report":
        return ScoreSource(path, kind, _from_report(path), None)
    if kind == "runs":
        from offbench.analysis import ScoreTable
        from offbench.results import load_results

        results = load_results(path)
        return ScoreSource(path, kind, ScoreTable.from_runs(results, protocol=selection), results)
    return _from_table(path, columns or {}, severity, selection, options)


def _from_table(
    path: Path, columns: Mapping[str, str], severity: str | None, selection: Selection, options: Mapping[str, Any]
) -> ScoreSource:
    import pandas as pd

    from offbench.analysis import ScoreError
    from offbench.analysis.score_input import load_scores

    if path.is_dir() or options.get("layout") is not None:
        return ScoreSource(
            path,
            "table",
            load_scores(path, columns=columns, protocol=selection, **options),
            None,
        )
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise ScoreError(f"{path} cannot be read as {path.suffix or 'CSV'}", str(error)) from error
    frame = frame.rename(columns={theirs: ours for ours, theirs in columns.items() if theirs in frame})
    missing = [theirs for ours, theirs in columns.items() if ours not in frame]
    if missing:
        raise ScoreError(f"{path.name} has no column {missing[0]!r}", f"it has: {', '.join(map(str, frame.columns))}")
    counted = frame
    if severity is not None:
        from offbench.reports.report import split_by_severity

        frame, counted = split_by_severity(frame, severity)
    # A column that says which evaluation ("final") instead of counting updates is no learning curve.
    if "step" in counted and not pd.api.types.is_numeric_dtype(counted["step"]):
        counted = counted.drop(columns="step")
    return ScoreSource(path, "table", load_scores(counted, protocol=selection, **options), frame)


def _from_report(path: Path) -> ScoreTable:
    """The scores that a report was made from, with its protocol and warnings."""
    import pandas as pd

    from offbench.analysis import Notice, ScoreTable

    file = path if path.is_file() else path / "report.json"
    document = json.loads(file.read_text("utf-8"))
    curves = pd.DataFrame(document["curves"]) if document.get("curves") else None
    return ScoreTable(
        pd.DataFrame(document["runs"]),
        curves,
        document["protocol"]["scores"],
        document["protocol"]["selection"],
        tuple(Notice(notice["code"], notice["text"]) for notice in document["notices"]),
    )


def write_table_report(
    source: ScoreSource, output: Path | None = None, *, title: str | None = None, **options: Any
) -> ReportFiles:
    """The report of a table, by default in `<name>-report` beside it.

    Args:
        source: from `open_scores`.
        output: folder to write into.
        title: of the page; by default the file's name.
        options: of `write_report`.
    """
    from offbench.reports import write_report

    name = source.path.name.split(".")[0] if source.path.is_file() else source.path.name
    folder = output or source.path.parent / f"{name}-report"
    return write_report(source.table, folder, title=title or name, frame=source.frame, **options)
