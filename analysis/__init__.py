"""Statistics over scores: the table they start from, aggregates, intervals."""

from offbench.analysis.aggregates import aggregate, comparable_datasets, per_dataset, per_domain
from offbench.analysis.budgets import (
    BanditBudget,
    CheckpointProtocols,
    ExpectedPerformance,
    budget_table,
    checkpoint_protocols,
    expected_online_performance,
    ucb_budget,
)
from offbench.analysis.comparisons import (
    Comparison,
    PairComparison,
    compare,
    difference,
    differences,
    improvement_matrix,
    probability_of_improvement,
)
from offbench.analysis.curves import (
    LearningCurve,
    StepsToThreshold,
    area_under_curve,
    learning_curve,
    steps_to_threshold,
)
from offbench.analysis.domains import domain_of, domains_of
from offbench.analysis.intervals import METHODS, Estimate, estimate
from offbench.analysis.metrics import METRICS, iqm, mean, median, optimality_gap, trimmed_mean
from offbench.analysis.pairwise_tests import PairwiseTests, WinTieLoss, pairwise_tests, win_tie_loss
from offbench.analysis.profiles import PerformanceProfile, performance_profile
from offbench.analysis.ranks import RankComparison, WilcoxonTests, friedman, wilcoxon_over_datasets
from offbench.analysis.resampling import bootstrap
from offbench.analysis.score_checks import Notice, ScoreError
from offbench.analysis.score_input import load_scores
from offbench.analysis.scores import RETURN, SCORE, ScoreTable
from offbench.analysis.seed_planning import SeedPlan, plan_seeds, seeds_needed
from offbench.analysis.selection import pick_then_evaluate, selection_report

__all__ = [
    "METHODS",
    "METRICS",
    "RETURN",
    "SCORE",
    "BanditBudget",
    "CheckpointProtocols",
    "Comparison",
    "Estimate",
    "ExpectedPerformance",
    "LearningCurve",
    "Notice",
    "PairComparison",
    "PairwiseTests",
    "PerformanceProfile",
    "RankComparison",
    "ScoreError",
    "ScoreTable",
    "SeedPlan",
    "StepsToThreshold",
    "WilcoxonTests",
    "WinTieLoss",
    "aggregate",
    "area_under_curve",
    "bootstrap",
    "budget_table",
    "checkpoint_protocols",
    "comparable_datasets",
    "compare",
    "difference",
    "differences",
    "domain_of",
    "domains_of",
    "estimate",
    "expected_online_performance",
    "friedman",
    "improvement_matrix",
    "iqm",
    "learning_curve",
    "load_scores",
    "mean",
    "median",
    "optimality_gap",
    "pairwise_tests",
    "per_dataset",
    "per_domain",
    "performance_profile",
    "pick_then_evaluate",
    "plan_seeds",
    "probability_of_improvement",
    "seeds_needed",
    "selection_report",
    "steps_to_threshold",
    "trimmed_mean",
    "ucb_budget",
    "wilcoxon_over_datasets",
    "win_tie_loss",
]
