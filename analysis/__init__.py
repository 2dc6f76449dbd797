"""Statistics over scores: the table they start from, aggregates, intervals."""

from offbench.analysis.aggregates import aggregate, comparable_datasets, per_dataset, per_domain
from offbench.analysis.domains import domain_of, domains_of
from offbench.analysis.intervals import METHODS, Estimate, estimate
from offbench.analysis.metrics import METRICS, iqm, mean, median, optimality_gap, trimmed_mean
from offbench.analysis.resampling import bootstrap
from offbench.analysis.score_checks import Notice, ScoreError
from offbench.analysis.scores import RETURN, SCORE, ScoreTable

__all__ = [
    "METHODS",
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
    "domain_of",
    "domains_of",
    "estimate",
    "iqm",
    "mean",
    "median",
    "optimality_gap",
    "per_dataset",
    "per_domain",
    "trimmed_mean",
]
