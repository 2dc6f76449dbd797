"""Checks of a table of scores: what is an error, and what a reader has to be told."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass

import numpy as np
import pandas as pd

from offbench.errors import OffbenchError

KEYS = ["algorithm", "dataset", "seed"]
FEW_SEEDS = 5


class ScoreError(OffbenchError):
    """A table of scores cannot be used: missing columns, duplicates, NaN, nothing left."""

    exit_status = 2


@dataclass(frozen=True)
class Notice:
    """Something about the data that would mislead a reader who is not told. `code` is stable, `text` is for
    people.
    """

    code: str
    text: str


# -- checks that end in an error -------------------------------------------------------------------


def require_columns(frame: pd.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise ScoreError(
            f"the score table lacks the column(s) {', '.join(map(repr, missing))}",
            f"it has: {', '.join(map(str, frame.columns))}",
            "name the columns, e.g. ScoreTable.from_frame(frame, score='final_score')",
        )
    if frame.empty:
        raise ScoreError("the score table is empty", "no run has been evaluated yet")


def require_labels(tidy: pd.DataFrame) -> None:
    for key in KEYS:
        bad = tidy.index[tidy[key].isna()]
        if len(bad):
            raise ScoreError(f"column {key!r} is empty in {count(bad, 'row')}", _rows(tidy, bad))


def require_finite(tidy: pd.DataFrame, column: str) -> pd.Series:
    numbers = pd.to_numeric(tidy[column], errors="coerce").astype(np.float64)
    bad = tidy.index[~np.isfinite(numbers)]
    if len(bad):
        raise ScoreError(
            f"column {column!r} is not a finite number in {count(bad, 'row')}",
            _rows(tidy, bad),
            "a run that diverged still has a score: give its evaluated return, or leave the run out and say so",
        )
    return numbers


def require_unique(tidy: pd.DataFrame, key: list[str], episode_column: str | None) -> None:
    repeated = tidy.index[tidy.duplicated(key, keep=False)]
    if not len(repeated):
        return
    fix = "give runs with different settings different algorithm labels"
    if episode_column is not None:
        fix = f"rows look like episodes (column {episode_column!r}): average them per run, or use from_runs"
    elif "step" not in key:
        fix += "; pass step=... if the rows are evaluations during training"
    raise ScoreError(f"{len(repeated)} rows repeat the same {', '.join(key)}", _rows(tidy, repeated), fix)


def require_one_run(tidy: pd.DataFrame) -> None:
    if "run" not in tidy:
        return
    runs = tidy[[*KEYS, "run"]].drop_duplicates()
    several = runs[runs.duplicated(KEYS, keep=False)]
    if len(several):
        raise ScoreError(
            "different runs share one algorithm, dataset and seed",
            some([str(run) for run in several["run"]], limit=4),
            "give differently configured runs different labels, or report on one study at a time",
        )


# -- checks that end in a notice -------------------------------------------------------------------


def seed_notices(rows: pd.DataFrame) -> list[Notice]:
    counts = rows.groupby(["dataset", "algorithm"], sort=False).size().unstack()
    present = counts.to_numpy()[~np.isnan(counts.to_numpy())].astype(int)
    fewest, most = int(present.min()), int(present.max())
    notices = []
    if fewest == 1:
        cells = int((present == 1).sum())
        text = f"{count(range(cells), 'cell')} with a single seed: run-to-run variation is unknown there."
        notices.append(Notice("single-seed", text))
    elif fewest < FEW_SEEDS:
        where = "Only" if fewest == most else "Some cells have only"
        text = f"{where} {fewest} seeds: standard deviations are rough and differences of a few points mean little."
        notices.append(Notice("few-seeds", text))
    if fewest != most:
        text = f"Unequal numbers of seeds ({fewest} to {most}): IQM pools runs, so cells with more weigh more."
        notices.append(Notice("ragged", text))
    gaps = int(counts.isna().to_numpy().sum())
    if gaps:
        notices.append(Notice("missing", f"{count(range(gaps), 'cell')} without any run, shown as –."))
    return notices


def unequal_training(rows: pd.DataFrame) -> list[Notice]:
    if "step" not in rows:
        return []
    spread = rows.groupby("dataset", sort=False)["step"].nunique()
    uneven = list(spread.index[spread > 1])
    if not uneven:
        return []
    where = "all datasets" if len(uneven) == len(spread) > 1 else some(uneven)
    return [Notice("unequal-training", f"Scores come from different numbers of updates on {where}.")]


def environment_notices(tidy: pd.DataFrame) -> list[Notice]:
    if "environment" not in tidy:
        return []
    known = tidy.dropna(subset=["environment"])
    notices = []
    per_dataset = known.groupby("dataset", sort=False)["environment"].unique()
    for dataset, environments in per_dataset.items():
        if len(environments) > 1:
            text = f"{dataset} was evaluated in different environments: {', '.join(sorted(environments))}."
            notices.append(Notice("mixed-environments", text))
    versions: dict[str, set[str]] = {}
    for name in known["environment"].unique():
        versions.setdefault(str(name).rpartition("-v")[0] or str(name), set()).add(str(name))
    for names in versions.values():
        if len(names) > 1:
            both = ", ".join(sorted(names))
            text = f"Datasets use different versions of one environment ({both}): scores may not compare."
            notices.append(Notice("mixed-environments", text))
    return notices


def episodes_as_seeds(rows: pd.DataFrame, seed_column: str) -> list[Notice]:
    """The mistake that gives intervals which are far too narrow: evaluation episodes on the seed axis."""
    sizes = rows.groupby(["algorithm", "dataset"], sort=False)["score"].agg(["size", "nunique"])
    named = any(word in seed_column.lower() for word in ("episode", "rollout", "trial"))
    many = bool((sizes["size"] >= 50).any())
    success_or_not = bool(((sizes["size"] >= 10) & (sizes["nunique"] == 2)).any())
    if not (named or many or success_or_not):
        return []
    suspects = sizes[(sizes["size"] >= 50) | ((sizes["size"] >= 10) & (sizes["nunique"] == 2))]
    first = (suspects if len(suspects) else sizes).index[0]
    where = rows.index[(rows["algorithm"] == first[0]) & (rows["dataset"] == first[1])]
    text = (
        f"The rows look like evaluation episodes used as seeds ({int(sizes['size'].max())} per cell, for example "
        f"{first[0]} on {first[1]}, {row_ranges(where)}). A seed is one training run: average its episodes first, or "
        "intervals come out far too narrow."
    )
    return [Notice("episodes-as-seeds", text)]


def mixed_scales(rows: pd.DataFrame) -> list[Notice]:
    """Groups in 0-1 units among groups in 0-100 units."""
    notices = []
    for key in ("algorithm", "dataset"):
        groups = rows.groupby(key, sort=False)["score"].agg(["min", "max", "median"])
        fraction = (groups["max"] <= 1.5) & (groups["min"] >= -0.5) & (groups["median"] > 0.15)
        percent = groups["median"] > 10.0
        if fraction.any() and percent.any():
            names = list(groups.index[fraction])
            where = row_ranges(rows.index[rows[key].isin(names)])
            text = (
                f"{some(names)} ({where}): scores look like 0-1 while others look like 0-100. Bring them to one scale."
            )
            notices.append(Notice("mixed-scales", text))
    return notices


def fraction_scale(rows: pd.DataFrame) -> list[Notice]:
    """All scores in 0-1 units, where normalized scores are 0-100."""
    scores = rows["score"]
    if scores.max() > 1.5 or scores.min() < -0.5 or scores.median() <= 0.05:
        return []
    text = (
        f"All scores lie between {scores.min():.3g} and {scores.max():.3g}: they look like 0-1, and normalized scores "
        "are 0-100. Multiply them by 100 (scale=100), or the optimality gap is taken from 100."
    )
    return [Notice("fraction-scale", text)]


# -- words -----------------------------------------------------------------------------------------


def _rows(tidy: pd.DataFrame, index: pd.Index, limit: int = 4) -> str:
    shown = tidy.loc[index[:limit], [c for c in [*KEYS, "step", "episode"] if c in tidy]]
    lines = [f"row {label}: " + ", ".join(f"{k} {v}" for k, v in row.items()) for label, row in shown.iterrows()]
    return "; ".join(lines) + (f"; and {len(index) - limit} more" if len(index) > limit else "")


def row_ranges(index: Sequence[int] | pd.Index, limit: int = 4) -> str:
    """Row numbers in words, neighbours joined: "rows 3-7, 12 and 40 more"; rows count from 0, without the header."""
    numbers = sorted(int(i) for i in index)
    starts = [i for i, n in enumerate(numbers) if i == 0 or n != numbers[i - 1] + 1]
    spans = [(numbers[a], numbers[b - 1]) for a, b in zip(starts, [*starts[1:], len(numbers)], strict=True)]
    shown = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in spans[:limit])
    rest = sum(high - low + 1 for low, high in spans[limit:])
    return f"row{'' if len(numbers) == 1 else 's'} {shown}" + (f" and {rest} more" if rest else "")


def run_names(tidy: pd.DataFrame) -> list[str]:
    runs = tidy[KEYS].drop_duplicates()
    return [f"{a} on {d}, seed {s}" for a, d, s in runs.itertuples(index=False)]


def some(names: Sequence[str], limit: int = 6) -> str:
    shown = ", ".join(map(str, names[:limit]))
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def count(things: Sized, noun: str) -> str:
    number = len(things)
    return f"{number} {noun}{'' if number == 1 else 's'}"
