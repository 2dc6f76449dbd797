"""Reports: tables, figures, one HTML page and one JSON document from the results of a study."""

from offbench.reports.report import ReportFiles, write_report
from offbench.reports.table_formats import to_csv, to_html, to_latex, to_markdown
from offbench.reports.tables import TableRows, aggregate_table, dataset_table

__all__ = [
    "ReportFiles",
    "TableRows",
    "aggregate_table",
    "dataset_table",
    "to_csv",
    "to_html",
    "to_latex",
    "to_markdown",
    "write_report",
]
