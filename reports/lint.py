"""Report linting: what in a set of scores would mislead a reader, beyond what reading the table already found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from offbench.analysis import Notice, ScoreTable
from offbench.analysis.domains import domain_of
from offbench.analysis.published import version_of
from offbench.analysis.score_checks import count, some

# Columns of a user's table that say how a number came about; a difference between rows is worth a warning.
PROTOCOL_COLUMNS = ("protocol", "selection", "checkpoint", "updates", "steps", "gradient_steps", "eval_episodes")
TUNING_COLUMNS = ("tuning", "config_class", "hyperparameters")


def lint(
    table: ScoreTable,
    aggregates: pd.DataFrame,
    *,
    frame: pd.DataFrame | None = None,
    tuning: Mapping[str, str] | None = None,
) -> list[Notice]:
    """Warnings in the order of their weight.

    Args:
        table: the scores. aggregates: the records behind the table of aggregates.
        frame: the rows as the user brought them, whose further columns (`PROTOCOL_COLUMNS`, `TUNING_COLUMNS`) are read.
        tuning: algorithm -> how its settings were chosen, in words ("one setting", "per dataset").
    """
    known = {notice.code for notice in table.notices}
    found = [
        *_best_checkpoints(table, frame, known),
        *mixed_versions(table.datasets),
        *_mixed_protocols(table, frame),
        *_mixed_tuning(frame, tuning),
        *zero_width(table, aggregates),
        *_few_datasets(aggregates),
    ]
    return [notice for notice in found if notice.code not in known]


def _best_checkpoints(table: ScoreTable, frame: pd.DataFrame | None, known: set[str]) -> list[Notice]:
    if "best" in known or table.selection == "best" or frame is None:
        return []
    for column in (*PROTOCOL_COLUMNS[:3], "notes"):
        if column in frame:
            best = frame[column].astype(str).str.contains(r"\b(?:best|oracle)\b", case=False, regex=True)
            if best.any():
                where = "All" if best.all() else f"{count(frame.index[best], 'row')} of {len(frame)}:"
                text = (
                    f"{where} scores of best checkpoints (column {column!r}), picked with the simulator: not offline."
                )
                return [Notice("best", text)]
    return []


def mixed_versions(datasets: list[str]) -> list[Notice]:
    """Different versions of one dataset, or of datasets of one domain: their scores do not compare."""
    versions: dict[str, dict[str, str]] = {}
    for name in datasets:
        version = version_of(name)[1]
        if version:
            versions.setdefault(domain_of(name), {}).setdefault(version, name)
    notices = []
    for domain, examples in versions.items():
        if len(examples) > 1:
            shown = ", ".join(sorted(examples.values()))
            text = f"Versions are mixed within {domain} (e.g. {shown}): averages over them compare with no paper."
            notices.append(Notice("mixed-versions", text))
    return notices


def _mixed_protocols(table: ScoreTable, frame: pd.DataFrame | None) -> list[Notice]:
    notices = []
    for column in PROTOCOL_COLUMNS:
        if frame is None or column not in frame or not {"algorithm", "dataset"} <= set(frame.columns):
            continue
        per_dataset = frame.groupby("dataset", sort=False)[column].unique()
        uneven = {str(name): values for name, values in per_dataset.items() if len(values) > 1}
        if uneven:
            name, values = next(iter(uneven.items()))
            text = (
                f"Protocols differ in {column!r} on {some(list(uneven), 4)} "
                f"({some([str(value) for value in values], 4)} on {name}): the algorithms are not compared under one."
            )
            notices.append(Notice("mixed-protocols", text))
    if "episodes" in table.rows:
        counts = table.rows.groupby("dataset", sort=False)["episodes"].agg(["min", "max"])
        uneven_counts = counts[counts["max"] >= 2 * counts["min"]]
        if len(uneven_counts):
            low, high = int(uneven_counts["min"].min()), int(uneven_counts["max"].max())
            names = some(list(uneven_counts.index), 4)
            text = f"Runs were scored on {low} to {high} episodes on {names}: their evaluation noise differs."
            notices.append(Notice("mixed-episodes", text))
    return notices


def _mixed_tuning(frame: pd.DataFrame | None, tuning: Mapping[str, str] | None) -> list[Notice]:
    kinds: dict[str, str] = dict(tuning or {})
    for column in TUNING_COLUMNS:
        if frame is not None and column in frame and "algorithm" in frame and not kinds:
            pairs = frame[["algorithm", column]].dropna().drop_duplicates()
            kinds = {str(a): str(kind) for a, kind in pairs.itertuples(index=False)}
    groups: dict[str, list[str]] = {}
    for algorithm, kind in kinds.items():
        groups.setdefault(kind, []).append(algorithm)
    if len(groups) < 2:
        return []
    listed = "; ".join(f"{kind}: {some(names, 4)}" for kind, names in groups.items())
    return [
        Notice(
            "mixed-tuning", f"Results with different tuning stand side by side ({listed}): that favours the more tuned."
        )
    ]


def zero_width(table: ScoreTable, aggregates: pd.DataFrame) -> list[Notice]:
    """Intervals without width: identical runs, which are a copied row or a saturated score more often than luck."""
    notices = []
    flat = []
    for algorithm in table.algorithms:
        for dataset in table.datasets:
            scores = table.cell(algorithm, dataset)
            if scores.size > 1 and np.ptp(scores) == 0:
                flat.append(f"{algorithm} on {dataset}")
    if flat:
        text = (
            f"All seeds have the same score in {count(flat, 'cell')} ({some(flat, 4)}): "
            "saturated, copied, or one run listed several times; the spread of 0 is no evidence of certainty."
        )
        notices.append(Notice("identical-seeds", text))
    if len(aggregates):
        bounded = aggregates[aggregates["low"].notna() & (aggregates["low"] == aggregates["high"])]
        if len(bounded):
            names = [f"{row.metric} of {row.algorithm}" for row in bounded.itertuples()]
            text = f"Intervals of zero width: {some(names, 4)}. The runs that count are identical, not certain."
            notices.append(Notice("zero-width", text))
    return notices


def _few_datasets(aggregates: pd.DataFrame) -> list[Notice]:
    if not len(aggregates):
        return []
    datasets = int(aggregates["datasets"].iloc[0])
    if datasets >= 3:
        return []
    over = "one dataset" if datasets == 1 else f"{datasets} datasets"
    return [Notice("few-datasets", f"Aggregates span only {over}: they say little about other data.")]


def protocol_facts(frame: pd.DataFrame | None) -> dict[str, Any]:
    """Protocol columns of a user's table that hold one value throughout, to be shown as the protocol."""
    facts = {}
    for column in (*PROTOCOL_COLUMNS, *TUNING_COLUMNS):
        if frame is not None and column in frame and frame[column].nunique(dropna=False) == 1:
            facts[column] = frame[column].iloc[0]
    return facts
