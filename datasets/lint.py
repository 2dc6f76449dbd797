"""`lint_dataset` and `lint_path`: run the table of checks over a loaded dataset, or over a file that may not load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from offbench.datasets import (
    lint_actions,
    lint_duplicates,
    lint_episodes,
    lint_files,
    lint_observations,
    lint_references,
    lint_rewards,
    lint_timing,
)
from offbench.datasets.dataset import Dataset
from offbench.datasets.lint_checks import CHECKS, Check, View, time_limit
from offbench.datasets.lint_findings import Finding, LintReport, Severity, ordered
from offbench.datasets.raw_columns import RawColumns, read_raw
from offbench.datasets.registry import DatasetEntry, find_entry, load_dataset
from offbench.datasets.table_schema import TableSchema
from offbench.errors import DatasetError

__all__ = ["CHECKS", "Check", "Finding", "LintReport", "Severity", "lint_dataset", "lint_path", "lint_raw"]

# Importing a module of checks enters them into the table. Findings of one severity come in this order.
_MODULES = (
    lint_files,
    lint_episodes,
    lint_observations,
    lint_duplicates,
    lint_actions,
    lint_rewards,
    lint_timing,
    lint_references,
)


def lint_dataset(dataset: Dataset, *, entry: DatasetEntry | None = None) -> LintReport:
    """Check a loaded dataset.

    Args:
        dataset: the dataset.
        entry: what the catalogue knows about it; its horizon serves where the environment is not registered.

    Returns:
        The findings, errors first. Clean data give notes at most.
    """
    limit, source = time_limit(dataset, None if entry is None else entry.horizon)
    view = View(dataset, limit, source)
    findings = [finding for check in _checks() for finding in check.findings(view)]
    return LintReport(
        name=dataset.name,
        findings=ordered(findings),
        fingerprint=dataset.fingerprint,
        transitions=dataset.num_transitions,
        episodes=dataset.num_episodes,
    )


def lint_path(id_or_path: str | Path, **options: Any) -> LintReport:
    """Check a dataset by id or path; a file that cannot be loaded is checked column by column.

    Args:
        id_or_path, options: as for `load_dataset`.

    Raises:
        UnknownNameError, SpecError: no dataset of that id, or an option that it does not take.
        DatasetError: nothing is there, or it cannot be downloaded.
    """
    try:
        dataset = load_dataset(id_or_path, **options)
    except DatasetError as error:
        path = Path(id_or_path).expanduser()
        if not path.exists():
            raise
        reason = f"{error.what}: {error.why}" if error.why else error.what
        schema = options.get("schema")
        if schema is not None and not isinstance(schema, TableSchema):
            schema = TableSchema.from_yaml(schema)
        return lint_raw(replace(read_raw(path, schema), error=reason, fix=error.fix))
    return lint_dataset(dataset, entry=find_entry(id_or_path))


def lint_raw(raw: RawColumns) -> LintReport:
    """Check the stored columns of a file that cannot be loaded."""
    findings = [finding for check in _checks() for finding in check.findings(raw)]
    return LintReport(name=raw.path.name, findings=ordered(findings))


def _checks() -> list[Check]:
    """The table in the order of _MODULES, whichever of them was imported first."""
    modules = [module.__name__ for module in _MODULES]
    return sorted(CHECKS.values(), key=lambda check: modules.index((check.run or check.run_file).__module__))
