"""Policy selection without a simulator: how well estimated values choose among policies whose true values are known.

All functions take estimates and true values of the same policies [n], higher is better for both: negate losses and
errors. NaN is an error, never skipped. Where estimates tie at the edge of the top k, the result is the mean over all
ways to break the tie (over 2000 random ways if there are more), so the order of policies never matters.

The regret at k has several definitions in the literature; each is named:

- "dope": max V - max V of the chosen k (Fu et al., "Benchmarks for Deep Off-Policy Evaluation", ICLR 2021).
- "dope-normalized": the same over max V, as that benchmark's notebook prints it; refused unless max V > 0.
- "range": the same over max V - min V, between 0 and 1.
- "scope": sum of the k best true values - sum of the chosen k (SCOPE-RL, Kiyohara et al., 2023).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd

from offbench.analysis.budgets import best_of_weights
from offbench.analysis.exact_tests import midranks
from offbench.analysis.score_checks import ScoreError, some
from offbench.analysis.wording import number
from offbench.errors import UnknownNameError

Regret = Literal["dope", "dope-normalized", "range", "scope"]
Values: TypeAlias = Sequence[float] | np.ndarray

REGRETS: tuple[Regret, ...] = ("dope", "dope-normalized", "range", "scope")
_MOST_WAYS = 2000


# -- agreement of orders ---------------------------------------------------------------------------


def spearman(estimates: Values, values: Values) -> float:
    """Spearman's rank correlation with midranks for ties; NaN if either side is constant."""
    x, y = _checked(estimates, values)
    return _correlation(midranks(x), midranks(y))


def kendall(estimates: Values, values: Values) -> float:
    """Kendall's tau-b: (concordant - discordant) / sqrt((P - ties_x) (P - ties_y)) over all P = n (n-1) / 2 pairs; NaN
    if either side is constant.
    """
    x, y = _checked(estimates, values)
    upper = np.triu_indices(x.size, 1)
    dx, dy = np.sign(x[upper[0]] - x[upper[1]]), np.sign(y[upper[0]] - y[upper[1]])
    untied = math.sqrt(float((dx != 0).sum())) * math.sqrt(float((dy != 0).sum()))
    return float((dx * dy).sum()) / untied if untied > 0 else math.nan


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    spread = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / spread if spread > 0 else math.nan


# -- the top k -------------------------------------------------------------------------------------


def regret_at_k(estimates: Values, values: Values, k: int, definition: Regret = "dope") -> float:
    """What choosing the k policies with the highest estimates loses; `definition` as in the module's description.

    Raises:
        ScoreError: "dope-normalized" with max V <= 0, where it has no meaning; `k` outside 1 to n; NaN.
        UnknownNameError: an unknown definition.
    """
    if definition not in REGRETS:
        raise UnknownNameError("definition of regret", definition, REGRETS)
    x, y = _checked(estimates, values, k)
    chosen = y[_top(x, k)]
    if definition == "scope":
        return float(np.sort(y)[-k:].sum() - chosen.sum(axis=1).mean())
    lost = float(y.max() - chosen.max(axis=1).mean())
    if definition == "dope":
        return lost
    if definition == "range":
        return lost / float(np.ptp(y)) if np.ptp(y) > 0 else 0.0
    if y.max() <= 0:
        raise ScoreError(
            "regret over the best value needs a positive best value",
            f"the best true value is {y.max():g}",
            "use definition='range', which is meaningful for returns of any sign",
        )
    return lost / float(y.max())


def best_at_k(estimates: Values, values: Values, k: int) -> float:
    """Highest true value among the k policies with the highest estimates."""
    x, y = _checked(estimates, values, k)
    return float(y[_top(x, k)].max(axis=1).mean())


def worst_at_k(estimates: Values, values: Values, k: int) -> float:
    """Lowest true value among the k policies with the highest estimates."""
    x, y = _checked(estimates, values, k)
    return float(y[_top(x, k)].min(axis=1).mean())


def mean_at_k(estimates: Values, values: Values, k: int) -> float:
    """Mean true value of the k policies with the highest estimates."""
    x, y = _checked(estimates, values, k)
    return float(y[_top(x, k)].mean())


def std_at_k(estimates: Values, values: Values, k: int) -> float:
    """Standard deviation (ddof = 1) of the true values of the k policies with the highest estimates; NaN for k = 1."""
    x, y = _checked(estimates, values, k)
    return float(y[_top(x, k)].std(axis=1, ddof=1).mean()) if k > 1 else math.nan


def sharpe_ratio_at_k(
    estimates: Values, values: Values, k: int, behaviour: float, *, clip: float | None = None
) -> float:
    """SharpeRatio@k = max(best@k - J(behaviour), 0) / std@k (Kiyohara et al., "Towards Assessing and Benchmarking
    Risk-Return Tradeoff of Off-Policy Evaluation", ICLR 2024).

    Args:
        behaviour: true value of the policy that collected the data.
        clip: largest value to return; SCOPE-RL clips at 100 on request.

    Returns:
        NaN for k = 1, where no deviation exists. Without deviation: infinite if the best one beats the behaviour, else
        0. Ties at the edge: the mean over the ways to break them.
    """
    x, y = _checked(estimates, values, k)
    if not math.isfinite(behaviour):
        raise ScoreError(f"the behaviour's value is a finite number, got {behaviour}")
    if k == 1:
        return math.nan
    chosen = y[_top(x, k)]
    gain, risk = np.maximum(chosen.max(axis=1) - behaviour, 0.0), chosen.std(axis=1, ddof=1)
    flat = np.ptp(chosen, axis=1) == 0  # rounding may leave a deviation of 1e-17
    safe = np.where(flat, 1.0, risk)
    ratios = np.where(flat, np.where(gain > 0, math.inf, 0.0), gain / safe)
    return float(np.minimum(ratios, math.inf if clip is None else clip).mean())


def _top(estimates: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k highest estimates, one row for each way to break a tie at the edge [ways, k]."""
    edge = np.sort(estimates)[-k]
    sure, tied = np.flatnonzero(estimates > edge), np.flatnonzero(estimates == edge)
    free = k - sure.size
    if math.comb(tied.size, free) <= _MOST_WAYS:
        rest = np.array(list(itertools.combinations(tied.tolist(), free)), dtype=np.int64)
    else:
        keys = np.random.default_rng(0).random((_MOST_WAYS, tied.size))
        rest = tied[np.argsort(keys, axis=1)[:, :free]]
    return np.hstack([np.broadcast_to(sure, (len(rest), sure.size)), rest])


def _checked(estimates: Values, values: Values, k: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(estimates, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not x.size:
        raise ScoreError(
            "estimates and true values must be lists of the same policies", f"their shapes are {x.shape} and {y.shape}"
        )
    for name, numbers in (("estimates", x), ("true values", y)):
        bad = np.flatnonzero(~np.isfinite(numbers))
        if bad.size:
            raise ScoreError(
                f"{name} of {bad.size} of {x.size} policies are not finite",
                f"policies {some([str(b) for b in bad])}",
                "leave these policies out on both sides and say so, or give a diverged estimate its rank as a number",
            )
    if k is not None and not 1 <= k <= x.size:
        raise ScoreError(f"k is a number of policies from 1 to {x.size}, got {k}")
    return x, y


# -- pick by an estimate, then evaluate k online ---------------------------------------------------


def pick_then_evaluate(estimates: Values, values: Values) -> pd.DataFrame:
    """True value to expect when the k policies with the highest estimates are evaluated and the best one is kept.

    Without noise in that evaluation this is best@k for k = 1, 2, ..., beside what no estimate and a perfect one give.

    Returns:
        k, picked, random (the k policies drawn at random, without replacement), oracle (the best policy).
    """
    x, y = _checked(estimates, values)
    # The best of k where groups of tied estimates come in order and, within a group, at random: exact, for every k.
    picked, best = np.empty(y.size), -math.inf
    order = np.argsort(-x, kind="stable")
    start = 0
    while start < x.size:
        group = np.sort(y[order[start:][x[order[start:]] == x[order[start]]]])
        weights = best_of_weights(group.size, np.arange(1, group.size + 1), replacement=False)
        picked[start : start + group.size] = weights @ np.maximum(group, best)
        best = max(best, float(group[-1]))
        start += group.size
    k = np.arange(1, y.size + 1)
    random = best_of_weights(y.size, k, replacement=False) @ np.sort(y)
    return pd.DataFrame({"k": k, "picked": picked, "random": random, "oracle": float(y.max())})


# -- a table ---------------------------------------------------------------------------------------


def selection_report(
    estimates: Mapping[str, Values],
    values: Values,
    *,
    ks: Sequence[int] = (1, 3, 5),
    regrets: Sequence[Regret] = ("dope", "range", "scope"),
    behaviour: float | None = None,
    level: float = 0.95,
    reps: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """All metrics of several estimators on the same policies, with intervals.

    Args:
        estimates: estimator -> estimated values, higher is better.
        values: true values of the same policies.
        ks: sizes of the top; those beyond the number of policies are left out.
        regrets: definitions to print.
        behaviour: value of the behaviour policy; without it there is no SharpeRatio@k.
        level, reps, seed: of the percentile bootstrap over policies for the rank correlations and regret@1, as DOPE
            does; a bootstrap says little about the metrics of larger k. reps = 0 leaves it out.

    Returns:
        estimator, metric ("spearman", "kendall", "regret@3", "best@3", ...), definition, k (missing for correlations),
        value, low, high, policies, sentence.
    """
    records: list[tuple[object, ...]] = []
    for name, numbers in estimates.items():
        x, y = _checked(numbers, values)
        index = np.random.default_rng(seed).integers(0, x.size, size=(reps, x.size))
        for metric, function in (("spearman", spearman), ("kendall", kendall)):
            draws = [function(x[i], y[i]) for i in index]
            low, high = _bounds(draws, level)
            agreement = function(x, y)
            text = f"{metric.capitalize()}'s correlation of {name} with the true values is {agreement:.2f}."
            records.append(
                (name, metric, "tau-b" if metric == "kendall" else "midranks", None, agreement, low, high, text)
            )
        for k in (k for k in ks if k <= x.size):
            for definition in regrets:
                low = high = math.nan
                if k == 1 and definition != "dope-normalized":
                    low, high = _bounds([regret_at_k(x[i], y[i], 1, definition) for i in index], level)
                lost = regret_at_k(x, y, k, definition)
                text = f"Choosing {k} by {name} has regret@{k} {number(lost)} ({definition})."
                records.append((name, f"regret@{k}", definition, k, lost, low, high, text))
            simple = {"best": best_at_k, "worst": worst_at_k, "mean": mean_at_k, "std": std_at_k}
            for metric, at_k in simple.items():
                found = at_k(x, y, k)
                text = f"The {metric} true value of the {k} chosen by {name} is {number(found)}."
                rule = "ddof 1" if metric == "std" else "true values"
                records.append((name, f"{metric}@{k}", rule, k, found, math.nan, math.nan, text))
            if behaviour is not None:
                ratio = sharpe_ratio_at_k(x, y, k, behaviour)
                text = f"SharpeRatio@{k} of {name} over the behaviour's {number(behaviour)} is {number(ratio)}."
                records.append((name, f"SharpeRatio@{k}", "SCOPE-RL", k, ratio, math.nan, math.nan, text))
    columns = ["estimator", "metric", "definition", "k", "value", "low", "high", "sentence"]
    frame = pd.DataFrame.from_records(records, columns=columns).astype({"k": "Int64"})
    frame.insert(7, "policies", len(np.asarray(values)))
    return frame


def _bounds(draws: Sequence[float], level: float) -> tuple[float, float]:
    """Percentile bounds; resamples in which all policies are one have no correlation and are left out."""
    known = np.array(draws)[~np.isnan(draws)] if len(draws) else np.empty(0)
    if known.size < 2:
        return math.nan, math.nan
    low, high = np.percentile(known, [50 - 50 * level, 50 + 50 * level])
    return float(low), float(high)
