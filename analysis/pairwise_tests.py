"""Tests between two algorithms dataset by dataset, and counts of wins, ties and losses by a stated rule.

Welch's t is the robust default (Colas, Sigaud & Oudeyer, "A Hitchhiker's Guide to Statistical Comparisons of RL
Algorithms", 2019). The permutation and Mann-Whitney tests assume no distribution, but with few seeds and a correction
for many datasets they cannot reject, whatever the scores; results say so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from offbench.analysis.exact_tests import holm, mann_whitney_test, permutation_test, seeds_to_reject, smallest_p
from offbench.analysis.score_checks import ScoreError
from offbench.analysis.scores import ScoreTable
from offbench.analysis.shared_scores import Scores, SharedScores, shared_scores
from offbench.analysis.student_t import t_cdf
from offbench.analysis.wording import counted
from offbench.errors import UnknownNameError

Test = Literal["welch", "permutation", "mann-whitney"]
Correction = Literal["holm", "none"]

_IN_WORDS = {
    "welch": "Welch's t-test",
    "permutation": "exact permutation test of means",
    "mann-whitney": "exact Mann-Whitney test",
}


@dataclass(frozen=True)
class Welch:
    """Welch's t between two groups; `p` is two-sided."""

    t: float
    df: float
    p: float


@dataclass(frozen=True)
class PairwiseTests:
    """Tests of every pair on every dataset that the pair shares.

    Attributes:
        frame: first, second, dataset, n_first, n_second, difference (of means), statistic (t, the difference or U), df,
            p, p_corrected, winner ("" if not significant), smallest_p (attainable by this test at these sizes),
            exact, error (standard error of a Monte Carlo p). p is NaN where a test needs more runs.
        test, correction, alpha, family: "pair" or "all": what the correction spans.
        sentences: one per pair, with what cannot be tested.
    """

    frame: pd.DataFrame
    test: str
    correction: str
    alpha: float
    family: str
    sentences: tuple[str, ...]

    @property
    def sentence(self) -> str:
        return " ".join(self.sentences)


@dataclass(frozen=True)
class WinTieLoss:
    """Counts over datasets.

    Attributes:
        frame: first, second, wins, ties, losses (of `first`), datasets, sentence.
        rule: what counts as a win.
    """

    frame: pd.DataFrame
    rule: str

    @property
    def sentence(self) -> str:
        return " ".join([*self.frame["sentence"], f"({self.rule})"])


def welch(first: np.ndarray, second: np.ndarray) -> Welch:
    """Welch's t-test between scores [N_1] and [N_2]; NaN if either has fewer than two runs.

    Two groups without any spread differ for certain (p = 0) or not at all (p = 1).
    """
    if min(first.size, second.size) < 2:
        return Welch(math.nan, math.nan, math.nan)
    v1, v2 = float(first.var(ddof=1)) / first.size, float(second.var(ddof=1)) / second.size
    gap = float(first.mean() - second.mean())
    if v1 + v2 == 0:
        return Welch(0.0, math.nan, 1.0) if gap == 0 else Welch(math.copysign(math.inf, gap), math.nan, 0.0)
    t = gap / math.sqrt(v1 + v2)
    share = v1 / (v1 + v2)
    df = 1 / (share**2 / (first.size - 1) + (1 - share) ** 2 / (second.size - 1))
    return Welch(t, df, min(1.0, 2 * t_cdf(-abs(t), df)))


def pairwise_tests(
    scores: Scores,
    test: Test = "welch",
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    correction: Correction = "holm",
    family: Literal["pair", "all"] = "pair",
    alpha: float = 0.05,
    datasets: Sequence[str] | None = None,
    seed: int = 0,
) -> PairwiseTests:
    """Two-sided test of every pair on every dataset that both have.

    Args:
        scores: a table or plain arrays by algorithm; see `shared_scores`.
        test: "welch", "permutation" (of means) or "mann-whitney"; see `exact_tests` for sizes and ties.
        pairs: which to test; by default all, in the order of the input.
        correction: "holm" or "none". family: correct over the datasets of each pair, or over all tests made.
        alpha: level of the winner.
        datasets: which to use; by default those that a pair shares.
        seed: of the Monte Carlo permutation test, used beyond 40 pooled runs.

    Raises:
        ScoreError: a pair without a shared dataset, or NaN.
        UnknownNameError: an unknown test, algorithm or dataset.
    """
    if test not in _IN_WORDS:
        raise UnknownNameError("test", test, _IN_WORDS)
    if correction not in ("holm", "none") or family not in ("pair", "all"):
        raise ScoreError(f"unknown correction {correction!r} over {family!r}", fix="holm or none; over pair or all")
    frames, sides = [], []
    for first, second in _pairs(scores, pairs):
        shared = shared_scores(scores, [first, second], datasets, common_scale=False)
        sides.append(shared)
        frames.append(_tests_of_pair(shared, test, seed))
    frame = pd.concat(frames, ignore_index=True)
    corrected = frame["p"].copy()
    if correction == "holm":
        groups = [frame.index] if family == "all" else [part.index for part in _by_pair(frame)]
        for index in groups:
            corrected.loc[index] = holm(frame.loc[index, "p"].to_numpy())
    frame.insert(frame.columns.get_loc("p") + 1, "p_corrected", corrected)
    better = np.where(frame["difference"] > 0, frame["first"], frame["second"])
    frame.insert(frame.columns.get_loc("p_corrected") + 1, "winner", np.where(corrected < alpha, better, ""))
    number = len(frame) if family == "all" else None
    sentences = [
        _sentence(part, shared, test, correction, alpha, number)
        for part, shared in zip(_by_pair(frame), sides, strict=True)
    ]
    return PairwiseTests(frame, test, correction, alpha, family, tuple(sentences))


def win_tie_loss(
    scores: Scores,
    *,
    rule: Literal["mean", "test"] = "mean",
    margin: float = 0.0,
    test: Test = "welch",
    correction: Correction = "holm",
    alpha: float = 0.05,
    pairs: Sequence[tuple[str, str]] | None = None,
    datasets: Sequence[str] | None = None,
) -> WinTieLoss:
    """On how many shared datasets each algorithm of a pair is better.

    Args:
        rule: "mean": the higher mean wins, and means at most `margin` apart tie. "test": only a difference that `test`
            finds significant at `alpha` after `correction` over the pair's datasets is a win; the rest tie.
        pairs: by default all, in the order of the input.
        datasets: by default those that a pair shares.
    """
    if rule == "test":
        found = pairwise_tests(scores, test, pairs=pairs, correction=correction, alpha=alpha, datasets=datasets)
        decided = [(part, part["winner"].to_numpy()) for part in _by_pair(found.frame)]
        over = " with Holm's correction over datasets" if correction == "holm" else ""
        words = f"a win is a difference with p < {alpha:g} by {_IN_WORDS[test]}{over}; the rest are ties"
    elif rule == "mean":
        if margin < 0:
            raise ScoreError(f"a margin is not negative, got {margin}")
        decided = []
        for first, second in _pairs(scores, pairs):
            shared = shared_scores(scores, [first, second], datasets, common_scale=False)
            gaps = np.subtract(*shared.means().T)
            part = pd.DataFrame({"first": first, "second": second, "dataset": shared.datasets})
            winner = np.where(gaps > margin, first, np.where(gaps < -margin, second, ""))
            decided.append((part, winner))
        words = "a win is a higher mean over seeds" + (f" by more than {margin:g}" if margin else "")
    else:
        raise ScoreError(f"unknown rule {rule!r}", fix="use 'mean' or 'test'")
    records = []
    for part, winner in decided:
        first, second, total = part["first"].iloc[0], part["second"].iloc[0], len(part)
        wins, losses = int((winner == first).sum()), int((winner == second).sum())
        ties = total - wins - losses
        text = f"{first} against {second}: {counted(wins, 'win')}, {counted(ties, 'tie')}, {counted(losses, 'loss')}."
        records.append((first, second, wins, ties, losses, total, text))
    columns = ["first", "second", "wins", "ties", "losses", "datasets", "sentence"]
    return WinTieLoss(pd.DataFrame.from_records(records, columns=columns), words)


# -- parts -----------------------------------------------------------------------------------------


def _pairs(scores: Scores, pairs: Sequence[tuple[str, str]] | None) -> list[tuple[str, str]]:
    if pairs is not None:
        return list(dict.fromkeys((first, second) for first, second in pairs))
    names = scores.algorithms if isinstance(scores, ScoreTable) else list(scores)
    if len(names) < 2:
        raise ScoreError("a comparison needs at least two algorithms", f"there is {', '.join(names) or 'none'}")
    return list(itertools.combinations(names, 2))


def _by_pair(frame: pd.DataFrame) -> list[pd.DataFrame]:
    return [part for _, part in frame.groupby(["first", "second"], sort=False)]


def _tests_of_pair(shared: SharedScores, test: Test, seed: int) -> pd.DataFrame:
    first, second = shared.algorithms
    records = []
    for dataset, x, y in zip(shared.datasets, shared.cells[first], shared.cells[second], strict=True):
        df, exact, error, floor = math.nan, True, 0.0, 0.0
        if test == "welch":
            result = welch(x, y)
            statistic, df, p = result.t, result.df, result.p
        else:
            found = permutation_test(x, y, seed=seed) if test == "permutation" else mann_whitney_test(x, y)
            statistic, p, exact, error = found.statistic, found.p, found.exact, found.error
            floor = smallest_p(x.size, y.size)
        gap = float(x.mean() - y.mean())
        records.append((first, second, dataset, x.size, y.size, gap, statistic, df, p, floor, exact, error))
    columns = ["first", "second", "dataset", "n_first", "n_second", "difference", "statistic", "df", "p"]
    return pd.DataFrame.from_records(records, columns=[*columns, "smallest_p", "exact", "error"])


def _sentence(
    part: pd.DataFrame, shared: SharedScores, test: Test, correction: Correction, alpha: float, family: int | None
) -> str:
    first, second = shared.algorithms
    wins, losses = int((part["winner"] == first).sum()), int((part["winner"] == second).sum())
    made = int(part["p"].notna().sum())
    tests = family or made
    over = f" with Holm's correction over {tests} tests" if correction == "holm" and tests > 1 else ""
    text = (
        f"{first} is significantly better than {second} on {wins} of {made} datasets and worse on {losses} "
        f"({_IN_WORDS[test]}, two-sided p < {alpha:g}{over})."
    )
    if made < len(part):
        text += f" {len(part) - made} more cannot be tested: a side has a single seed."
    worst = float(part["smallest_p"].min())
    factor = tests if correction == "holm" else 1
    if test != "welch" and worst * factor >= alpha:
        needed = seeds_to_reject(factor, alpha)
        most = part.loc[part["smallest_p"].idxmin()]
        times = f", times {factor} tests {min(1.0, worst * factor):.2g}" if factor > 1 else ""
        text += (
            f" With {most['n_first']} seeds against {most['n_second']} this test cannot reject on any dataset, "
            f"whatever the scores: its smallest p is {worst:.2g}{times}. It takes at least {needed} seeds each."
        )
    sampled = part[(part["error"] > 0)]
    if len(sampled):
        text += f" On {counted(len(sampled), 'dataset')} p is a Monte Carlo estimate (standard error up to "
        text += f"{sampled['error'].max():.2g})."
    return " ".join([text, *shared.notes])
