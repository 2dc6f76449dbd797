"""`ScoreTable`: the one tidy table (algorithm, dataset, seed, score) that every statistic and report starts
from.

The seed (one training run) is the unit of replication. Episodes of a run are averaged before anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from offbench.analysis.score_checks import (
    KEYS,
    Notice,
    ScoreError,
    count,
    environment_notices,
    episodes_as_seeds,
    fraction_scale,
    mixed_scales,
    require_columns,
    require_finite,
    require_labels,
    require_one_run,
    require_unique,
    run_names,
    seed_notices,
    some,
    unequal_training,
)

SCORE = "normalized score"
RETURN = "raw return"

Metric = Literal["score", "return"]
Selection = Literal["last", "last-k", "best"]


@dataclass(frozen=True)
class ScoreTable:
    """Validated scores. Build one with `from_frame` or `from_runs`, not directly.

    Attributes:
        rows: one row per training run: algorithm, dataset, seed, score, unit (`SCORE`, `RETURN` or what the
            caller said) and, where known, step, episodes (how many the score averages), environment, run.
        curves: algorithm, dataset, seed, step, score: every evaluation of every run in `rows`; None if
            unknown.
        protocol: how a run's evaluations became its one score, in words.
        selection: "last", "last-k", "best", or "given" when the caller brought final scores.
        notices: what a reader must be told.

    Algorithms, datasets and seeds keep the order in which they first appear.
    """

    rows: pd.DataFrame
    curves: pd.DataFrame | None
    protocol: str
    selection: str
    notices: tuple[Notice, ...]

    # -- views -------------------------------------------------------------------------------------

    @property
    def algorithms(self) -> list[str]:
        return list(self.rows["algorithm"].unique())

    @property
    def datasets(self) -> list[str]:
        return list(self.rows["dataset"].unique())

    @property
    def units(self) -> dict[str, str]:
        """Unit of each dataset's scores."""
        return dict(zip(self.rows["dataset"], self.rows["unit"], strict=True))

    def cell(self, algorithm: str, dataset: str) -> np.ndarray:
        """Scores of one cell, one per seed, float64 [N]; N = 0 for a missing cell."""
        rows = self.rows
        chosen = (rows["algorithm"] == algorithm) & (rows["dataset"] == dataset)
        return rows.loc[chosen, "score"].to_numpy(dtype=np.float64)

    def strata(self, algorithm: str, datasets: Sequence[str]) -> list[np.ndarray]:
        """One array of scores per dataset, for the functions of `aggregates`."""
        return [self.cell(algorithm, dataset) for dataset in datasets]

    def seed_counts(self) -> pd.DataFrame:
        """Number of seeds, datasets as rows and algorithms as columns; 0 marks a missing cell."""
        counts = self.rows.groupby(["dataset", "algorithm"], sort=False).size().unstack(fill_value=0)
        return counts.reindex(index=self.datasets, columns=self.algorithms, fill_value=0)

    def common_datasets(self) -> list[str]:
        """Datasets on which every algorithm has at least one seed: what a fair aggregate is taken over."""
        counts = self.seed_counts()
        return [dataset for dataset in self.datasets if (counts.loc[dataset] > 0).all()]

    # -- construction ------------------------------------------------------------------------------

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        algorithm: str = "algorithm",
        dataset: str = "dataset",
        seed: str = "seed",
        score: str = "score",
        step: str | None = None,
        unit: str = SCORE,
    ) -> ScoreTable:
        """Read a table of scores, for example a CSV of published results.

        Args:
            frame: one row per training run or, with `step`, one row per evaluation of a training run.
            algorithm, dataset, seed, score, step: names of the columns in `frame`. With `step`, a run's
                score is the one at its largest step, and all steps become its learning curve.
            unit: what the scores are, e.g. "normalized score" (0-100) or "raw return".

        Raises:
            ScoreError: a column is missing, a score is not a finite number, or two rows describe the same
                run.
        """
        names = {algorithm: "algorithm", dataset: "dataset", seed: "seed", score: "score"}
        if step is not None:
            names[step] = "step"
        require_columns(frame, list(names))
        tidy = frame[list(names)].rename(columns=names).reset_index(drop=True)
        require_labels(tidy)
        tidy = _as_labels(tidy)
        tidy["score"] = require_finite(tidy, "score")
        if step is not None:
            tidy["step"] = require_finite(tidy, "step")
        episode_column = next((c for c in ("episode", "episodes", "rollout") if c in frame.columns), None)
        require_unique(tidy, KEYS if step is None else [*KEYS, "step"], episode_column)

        curves = None
        rows = tidy
        if step is not None:
            curves = tidy[[*KEYS, "step", "score"]]
            rows = tidy.loc[tidy.groupby(KEYS, sort=False)["step"].idxmax().to_numpy()].reset_index(drop=True)
        rows = rows.assign(unit=unit)
        notices = [
            *episodes_as_seeds(rows, seed),
            *([*mixed_scales(rows), *fraction_scale(rows)] if unit == SCORE else []),
            *unequal_training(rows),
            *seed_notices(rows),
        ]
        protocol = "scores as given, one per run" if step is None else "last evaluation of each run"
        return cls(rows, curves, protocol, "given" if step is None else "last", tuple(notices))

    @classmethod
    def from_runs(
        cls,
        results: pd.DataFrame,
        metric: Metric = "score",
        protocol: Selection = "last",
        *,
        last_k: int = 3,
        unfinished: Literal["leave-out", "include"] = "leave-out",
        not_finite: Literal["error", "leave-out"] = "error",
    ) -> ScoreTable:
        """Reduce per-episode results of the harness to one score per run.

        Args:
            results: one row per evaluation episode: algorithm, dataset, seed, step, episode, return and,
                optionally, score (NaN where no reference exists), final (rows of the closing evaluation),
                environment, run.
            metric: "score" for normalized scores, "return" for raw returns. A dataset with a row whose
                score is missing falls back to raw returns for all its rows, with a notice.
            protocol: "last": mean over the episodes of the closing evaluation. "last-k": mean over the last
                `last_k` evaluations. "best": the best evaluation, which only someone with the simulator can
                pick.
            unfinished: runs without a closing evaluation are left out, or included with their latest one.
            not_finite: a return that is NaN or infinite is an error, or its run is left out with a notice.

        Raises:
            ScoreError: a column is missing, returns are not finite, rows or runs are duplicated, nothing is
                left.
        """
        require_columns(results, [*KEYS, "step", "episode", "return"])
        if protocol not in ("last", "last-k", "best") or metric not in ("score", "return") or last_k < 1:
            raise ScoreError(
                f"unknown reduction: metric {metric!r}, protocol {protocol!r}, last_k {last_k}",
                fix="metric: score, return; protocol: last, last-k, best; last_k: 1 or more",
            )
        tidy = results.reset_index(drop=True)
        require_labels(tidy)
        tidy = _as_labels(tidy)
        notices: list[Notice] = []
        if not_finite == "leave-out":
            tidy, diverged = _drop_not_finite(tidy)
            notices += diverged
        tidy["return"] = require_finite(tidy, "return")
        tidy["step"] = require_finite(tidy, "step")
        if "final" not in tidy:
            tidy["final"] = tidy["step"] == tidy.groupby(KEYS)["step"].transform("max")
        tidy["final"] = tidy["final"].astype(bool)
        require_one_run(tidy)
        require_unique(tidy, [*KEYS, "step", "final", "episode"], None)

        tidy, left_out = _drop_unfinished(tidy, unfinished)
        notices += left_out
        tidy, missing_reference = _choose_values(tidy, metric)
        notices += missing_reference
        notices += environment_notices(tidy)

        # Where the closing evaluation shares its step with a regular one, the closing one (more episodes) counts.
        closing = tidy.groupby([*KEYS, "step"])["final"].transform("any")
        tidy = tidy[tidy["final"] | ~closing]
        carried = {c: (c, "first") for c in ("environment", "run") if c in tidy}
        evaluations = tidy.groupby([*KEYS, "step"], sort=False, as_index=False).agg(
            score=("value", "mean"), episodes=("value", "size"), unit=("unit", "first"), **carried
        )
        evaluations = evaluations.sort_values("step", kind="stable")
        rows, in_words = _reduce(evaluations, protocol, last_k)
        order = _order_of_appearance(tidy)
        rows = _in_order(rows, order)
        curves = _in_order(evaluations, order)[[*KEYS, "step", "score"]]
        notices += _selection_notices(protocol, evaluations, last_k)
        notices += [*unequal_training(rows), *seed_notices(rows)]
        return cls(rows, curves, in_words, protocol, tuple(notices))


# -- reduction of evaluations to one score ---------------------------------------------------------


def _order_of_appearance(tidy: pd.DataFrame) -> dict[str, list[Any]]:
    """Order of first appearance of algorithms, datasets and seeds."""
    return {key: list(tidy[key].unique()) for key in KEYS}


def _in_order(frame: pd.DataFrame, order: Mapping[str, list[Any]]) -> pd.DataFrame:
    ranks = frame[KEYS].apply(lambda column: column.map({v: i for i, v in enumerate(order[column.name])}))
    if "step" in frame:
        ranks = ranks.assign(step=frame["step"])
    return frame.loc[ranks.sort_values(list(ranks.columns), kind="stable").index].reset_index(drop=True)


def _reduce(evaluations: pd.DataFrame, protocol: Selection, last_k: int) -> tuple[pd.DataFrame, str]:
    """One row per run from rows sorted by step, and the rule in words."""
    by_run = evaluations.groupby(KEYS, sort=False)
    if protocol == "best":
        return evaluations.loc[by_run["score"].idxmax().to_numpy()], "best evaluation of each run (oracle choice)"
    last = evaluations.loc[by_run["step"].idxmax().to_numpy()]
    if protocol == "last":
        return last, "closing evaluation of each run"
    tail = by_run.tail(last_k).groupby(KEYS, sort=False).agg(score=("score", "mean"), episodes=("episodes", "sum"))
    merged = last.drop(columns=["score", "episodes"]).merge(tail.reset_index(), on=KEYS, how="left")
    return merged[list(evaluations.columns)], f"mean of the last {last_k} evaluations of each run"


def _selection_notices(protocol: Selection, evaluations: pd.DataFrame, last_k: int) -> list[Notice]:
    if protocol == "best":
        text = "Scores are each run's best evaluation, chosen with the simulator: not offline numbers."
        return [Notice("best", text)]
    sizes = evaluations.groupby(KEYS).size()
    if protocol == "last-k" and (sizes < last_k).any():
        short = count(sizes[sizes < last_k], "run")
        return [Notice("short-runs", f"{short} with fewer than {last_k} evaluations: all of theirs are averaged.")]
    return []


def _drop_unfinished(tidy: pd.DataFrame, unfinished: str) -> tuple[pd.DataFrame, list[Notice]]:
    finished = tidy.groupby(KEYS)["final"].transform("any")
    if finished.all():
        return tidy, []
    names = run_names(tidy[~finished])
    if unfinished == "include":
        text = f"{count(names, 'run')} not finished, shown with the latest evaluation so far: {some(names)}."
        return tidy, [Notice("unfinished", text)]
    if not finished.any():
        raise ScoreError(
            "no run has finished",
            "no row belongs to a closing evaluation",
            "finish the runs, or include unfinished ones",
        )
    text = f"{count(names, 'run')} not finished and left out: {some(names)}."
    return tidy[finished], [Notice("unfinished", text)]


def _drop_not_finite(tidy: pd.DataFrame) -> tuple[pd.DataFrame, list[Notice]]:
    finite = np.isfinite(tidy["return"].astype(np.float64))
    usable = finite.groupby([tidy[key] for key in KEYS]).transform("all")
    if usable.all() or not usable.any():
        return tidy, []
    names = run_names(tidy[~usable])
    text = f"{count(names, 'run')} with a return that is not finite, left out: {some(names)}. Means flatter the rest."
    return tidy[usable], [Notice("not-finite", text)]


def _choose_values(tidy: pd.DataFrame, metric: Metric) -> tuple[pd.DataFrame, list[Notice]]:
    """Add `value` and `unit` (one unit per dataset, never a mixture inside one)."""
    if metric == "return":
        return tidy.assign(value=tidy["return"], unit=RETURN), []
    scores = pd.to_numeric(tidy["score"]) if "score" in tidy else pd.Series(np.nan, index=tidy.index)
    usable = np.isfinite(scores).groupby(tidy["dataset"]).transform("all")
    raw = list(tidy.loc[~usable, "dataset"].unique())
    tidy = tidy.assign(value=scores.where(usable, tidy["return"]), unit=np.where(usable, SCORE, RETURN))
    if not raw:
        return tidy, []
    text = (
        f"No reference scores for {some(raw)}: raw returns are shown there, and they stay out of aggregates "
        "with normalized scores."
    )
    return tidy, [Notice("no-reference", text)]


def _as_labels(tidy: pd.DataFrame) -> pd.DataFrame:
    return tidy.assign(algorithm=tidy["algorithm"].astype(str), dataset=tidy["dataset"].astype(str))
