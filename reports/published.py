"""Published scores as tables: beside a user's own in a report, and by themselves; one source a row, never pooled."""

from __future__ import annotations

import math

import pandas as pd

from offbench.analysis import Notice, ScoreTable
from offbench.analysis.published import NORMALIZED, REGRET, published_sources
from offbench.analysis.published_compare import MARGIN, beside_published
from offbench.reports.tables import Cell, TableRows, frame_table
from offbench.reports.words import MISSING, interval, number

MARKS = {
    "reproduced": "✓ reproduced",
    "close": "≈ close",
    "undecided": "? undecided",
    "differs": "✗ differs",
    "": MISSING,
}
CAPTION = (
    "Own scores beside published ones, source by source and never pooled. Difference: own minus published, with "
    "Welch's 95 % interval where the source prints spread and seeds. Verdict: reproduced: at most "
    f"{MARGIN:g} points apart and the interval inside ±{2 * MARGIN:g}; close: at most {MARGIN:g} points apart, "
    "interval wider or unknown; undecided: further apart, but the interval contains 0; differs: otherwise. "
    f"{MISSING}: no verdict, since the published number answers another question (best checkpoints, another dataset "
    "version); such numbers are printed only where there is no other, and are all in published.csv."
)


def published_table(table: ScoreTable) -> tuple[TableRows, list[Notice]]:
    """The table, and a notice for algorithms or datasets of which nothing is published here."""
    beside = beside_published(table)
    header = ["dataset", "algorithm", "own", "source", "published", "difference", "verdict", "differences in protocol"]
    rows = []
    titles = {key: f"{key} ({source.year})" if source.year else key for key, source in published_sources().items()}
    judged = set(beside.loc[beside["verdict"] != "", ["algorithm", "dataset"]].itertuples(index=False, name=None))
    for row in beside.itertuples(index=False):
        if not row.verdict and (row.algorithm, row.dataset) in judged:
            continue
        own = number(row.mean, 1) + (f" ± {number(row.std, 1)}" if math.isfinite(row.std) else "")
        theirs = number(row.published_mean, 1)
        if math.isfinite(row.published_spread) and row.spread_kind != "unreliable":
            theirs += f" ± {number(row.published_spread, 1)}"
        theirs += (
            f" ({int(row.published_seeds)})"
            if row.published_seeds == row.published_seeds and row.published_seeds
            else ""
        )
        gap = number(row.difference, 1)
        if math.isfinite(row.low):
            gap += f" {interval(row.low, row.high, 1)}"
        rows.append(
            [
                Cell(row.dataset),
                Cell(row.algorithm),
                Cell(f"{own} ({row.seeds})", value=row.mean),
                Cell(titles[row.source]),
                Cell(theirs, value=row.published_mean),
                Cell(gap, value=row.difference),
                Cell(MARKS[row.verdict]),
                Cell(row.protocol_differences or "none known"),
            ]
        )
    if not rows:
        text = "No published score is known for these algorithms and datasets (see `offbench published`)."
        return TableRows([], [], text, beside), [Notice("nothing-published", text)]
    missing = sorted(set(table.algorithms) - set(beside["algorithm"]))
    notices = []
    if missing:
        text = f"No published score is known for {', '.join(missing)} on these datasets."
        notices.append(Notice("nothing-published", text))
    return TableRows(header, rows, CAPTION, beside), notices


def verdicts(beside: pd.DataFrame) -> str:
    """How many published numbers got which verdict, in words."""
    counts = beside["verdict"].value_counts()
    judged = int(counts.drop("", errors="ignore").sum())
    parts = [f"{int(counts.get(name, 0))} {word}" for name, word in _WORDS.items()]
    cells = beside[["algorithm", "dataset"]].drop_duplicates()
    return f"{judged} published numbers of {len(cells)} cells can be judged: {', '.join(parts)}."


_WORDS = {"reproduced": "reproduced", "close": "close", "undecided": "undecided", "differs": "different"}
_LITERATURE = (
    "Published numbers, mean ± spread as printed; the kind of spread differs between sources (--json names it). "
    "Selection: which checkpoint was scored; best is chosen with the simulator."
)


def literature_table(rows: pd.DataFrame, kind: str) -> TableRows:
    """Published numbers of one dataset (by algorithm) or one algorithm (by dataset), source by source.

    Args:
        rows: from `analysis.published.published_scores`. kind: "dataset" or "algorithm", which all rows share.
    """
    other = "algorithm" if kind == "dataset" else "dataset"
    ordered = rows.sort_values([other, "condition", "source", "selection"], key=_order, kind="stable")
    cells = []
    for row in ordered.itertuples(index=False):
        places = 3 if row.unit == REGRET else 1
        known = math.isfinite(row.spread) and row.spread_kind != "unreliable"
        spread = f" ± {number(row.spread, places)}" if known else ""
        seeds = "" if row.seeds is pd.NA else f" ({row.seeds})"
        remarks = [row.condition, row.version_doubt, row.unit if row.unit != NORMALIZED else ""]
        remarks += ["copied" if row.origin == "copy" else "re-run" if row.origin == "re-run" else ""]
        remarks += [f"tuned {row.tuning}" if row.tuning == "per dataset" else ""]
        cells.append(
            [
                Cell(getattr(row, other)),
                Cell(f"{number(row.mean, places)}{spread}{seeds}", value=row.mean),
                Cell(row.selection),
                Cell(row.source),
                Cell("; ".join(filter(None, remarks))),
            ]
        )
    return TableRows([other, "score (seeds)", "selection", "source", "remarks"], cells, _LITERATURE, ordered)


def _order(column: pd.Series) -> pd.Series:
    return column.str.lower() if column.dtype != "Int64" else column


def disagreement_table(apart: pd.DataFrame, kind: str) -> TableRows:
    """How far first-hand sources are apart; see `analysis.published.disagreement`."""
    other = "algorithm" if kind == "dataset" else "dataset"
    caption = (
        "Range over first-hand sources (own runs and re-runs, no copies) on the same dataset version; offline: final "
        "checkpoints, means of the last ones, or unstated."
    )
    columns = [other, "choice", "sources", "low", "high", "range"]
    return frame_table(apart[apart["unit"] == NORMALIZED][columns], caption)
