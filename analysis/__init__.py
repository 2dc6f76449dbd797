"""Statistics over scores: the table they start from, aggregates, intervals."""

from offbench.analysis.aggregates import (
    METRICS,
    Estimate,
    aggregate,
    bootstrap,
    comparable_datasets,
    estimate,
    iqm,
    mean,
    median,
    optimality_gap,
    per_dataset,
)
from offbench.analysis.score_checks import Notice, ScoreError
from offbench.analysis.scores import RETURN, SCORE, ScoreTable

__all__ = [
    "METRICS",
    "RETURN",
    "SCORE",
    "Estimate",
    "Notice",
    "ScoreError",
    "ScoreTable",
    "aggregate",
    "bootstrap",
    "comparable_datasets",
    "estimate",
    "iqm",
    "mean",
    "median",
    "optimality_gap",
    "per_dataset",
]
