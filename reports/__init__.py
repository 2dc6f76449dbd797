"""Reports: tables, plots and one HTML page from the results of a study."""

from offbench.reports.report import ReportFiles, write_report
from offbench.reports.tables import TableRows, aggregate_table, dataset_table, to_csv, to_markdown

__all__ = [
    "ReportFiles",
    "TableRows",
    "aggregate_table",
    "dataset_table",
    "to_csv",
    "to_markdown",
    "write_report",
]
