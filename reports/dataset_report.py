"""A dataset's report: one self-contained HTML page of verdict, measures, the plane of TQ and SACo, card and lint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from offbench.analysis.quality import DatasetQuality, QualityTable
from offbench.analysis.verdict import Verdict
from offbench.datasets import Dataset, DatasetEntry
from offbench.datasets.lint import LintReport
from offbench.errors import StorageError
from offbench.reports.card import to_html
from offbench.reports.card_facts import Grid, Pairs, card_of
from offbench.reports.html import inline_svg
from offbench.reports.plots import Plot
from offbench.reports.words import MISSING


def write_dataset_report(
    dataset: Dataset,
    path: str | Path,
    *,
    table: QualityTable,
    verdict: Verdict,
    plots: Mapping[str, Plot],
    entry: DatasetEntry | None = None,
    report: LintReport | None = None,
    call: str | None = None,
) -> Path:
    """Write the page to a file, whose folder is made if it is not there.

    Args:
        dataset: the dataset, which must be one of the table's.
        table: its measures. verdict: what they say. plots: pictures of the plane, by name.
        entry, report, call: see `card.write_card`.

    Raises:
        StorageError: the file cannot be written.
    """
    row = next(row for row in table.datasets if row.fingerprint == dataset.fingerprint)
    page = to_html(
        card_of(dataset, entry=entry, report=report, call=call),
        "dataset_report.html.j2",
        reading=verdict,
        figures=[(inline_svg(plot.render("svg"), name), plot.caption) for name, plot in plots.items()],
        reference=reference_facts(table),
        measured=[
            {"title": m.title, "value": number_text(row.values[m.name]), "meaning": m.meaning}
            for m in table.measures
            if math.isfinite(row.values[m.name])
        ],
        missing=[(reason, ", ".join(titles)) for reason, titles in missing_measures(table, [row]).items()],
        formulas=Grid(
            ("measure", "formula", "reference needed", "source"),
            [(m.title, m.formula, m.reference or "none", m.source) for m in table.measures],
        ),
    )
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        raise StorageError(f"cannot write the report to {path}", str(error), "choose another file") from error
    return path


def reference_facts(table: QualityTable) -> Pairs:
    """What the numbers refer to, labelled."""
    reference, settings = table.reference, table.settings
    facts: Pairs = []
    for level, side in ((0, "minimum"), (1, "maximum")):
        if reference[side] is not None:
            facts.append((f"TQ {level}", f"a return of {reference[side]:.6g} ({reference[f'{side}_source']})"))
    if reference["dataset"] is not None:
        facts.append(("SACo 1", str(reference["dataset"])))
    facts.append(("cells", bins_words(table)))
    if settings.first_rows is not None:
        facts.append(("counted", f"the first {settings.first_rows:,} transitions"))
    error = max(row.error for row in table.datasets)
    if error:
        facts.append(("counts", f"estimates with a relative standard error of {100 * error:.2g} %"))
    return facts


def bins_words(table: QualityTable) -> str:
    """The bins of a table's counts in words."""
    against = table.reference["dataset"] or "a reference dataset"
    extremes = {"own": "each dataset", "pooled": "all datasets", "reference": against}
    preset = f"preset {table.preset}: " if table.preset != "custom" else ""
    return f"{preset}{table.settings.edges} edges between the extremes of {extremes[table.settings.bounds]}"


def missing_measures(table: QualityTable, rows: Sequence[DatasetQuality]) -> dict[str, list[str]]:
    """Titles of measures without a value, by the reason."""
    missing: dict[str, list[str]] = {}
    for measure in table.measures:
        for reason in dict.fromkeys(row.reasons[measure.name] for row in rows if measure.name in row.reasons):
            missing.setdefault(reason, []).append(measure.title)
    return missing


def number_text(value: float) -> str:
    """A measured number for a table."""
    if math.isnan(value):
        return MISSING
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 100 else f"{value:.3f}" if size >= 0.0005 or size == 0 else f"{value:.0e}"
