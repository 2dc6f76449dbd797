"""Comparison of two algorithms over several datasets: probability of improvement, differences of aggregates, and the
plain sentence that says both.

Definitions follow Agarwal et al., "Deep RL at the Edge of the Statistical Precipice" (NeurIPS 2021). Runs are resampled
within each dataset, independently for the two algorithms, since their seeds are not matched. Two intervals that overlap
are not a test of the difference; the interval of the difference is what to look at.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from offbench.analysis.calibration import Method, interval, margin, require_method, standard_error, stretch
from offbench.analysis.metrics import point as aggregate_point
from offbench.analysis.metrics import trim_fraction
from offbench.analysis.resampling import bootstrap
from offbench.analysis.score_checks import ScoreError
from offbench.analysis.shared_scores import Scores, SharedScores, draw_counts, shared_scores, stream_seed
from offbench.analysis.wording import counted, with_interval

_CHUNK_ELEMENTS = 1 << 20  # counts held at a time: about 8 MB for each side
_NAMES = {"iqm": "IQM", "mean": "mean", "median": "median", "optimality_gap": "optimality gap"}


@dataclass(frozen=True)
class Comparison:
    """One quantity that compares two algorithms.

    Attributes:
        quantity: "probability of improvement" or "difference in IQM" (mean, median, optimality gap).
        first, second: the algorithms.
        point, low, high: the estimate and its interval; NaN bounds have a `reason`.
        level, method, reps: of the interval.
        datasets, left_out: used, and not used because a cell is missing.
        seeds_min, seeds_max: fewest and most runs in a used cell.
        notes: what a reader has to be told.
    """

    quantity: str
    first: str
    second: str
    point: float
    low: float
    high: float
    reason: str
    level: float
    method: str
    reps: int
    datasets: tuple[str, ...]
    left_out: tuple[str, ...]
    seeds_min: int
    seeds_max: int
    notes: tuple[str, ...] = ()

    @property
    def estimate(self) -> str:
        """The estimate in words, e.g. "0.71 [0.67, 0.75]"."""
        return with_interval(self.point, self.low, self.high, self.reason)

    @property
    def sentence(self) -> str:
        over = f"over {counted(len(self.datasets), 'dataset')}"
        if self.quantity == "probability of improvement":
            text = (
                f"A run of {self.first} scores higher than one of {self.second} on the same dataset with probability "
                f"{self.estimate}, {over}."
            )
        else:
            lower = " (lower is better)" if "gap" in self.quantity else ""
            text = f"The {self.quantity}{lower} of {self.first} minus {self.second} is {self.estimate}, {over}."
        return " ".join([text, *self.notes])


@dataclass(frozen=True)
class PairComparison:
    """Two algorithms compared in full.

    Attributes:
        wins, ties, losses: datasets on which the first one's mean is higher, equal, lower.
        difference: of an aggregate. probability: of improvement.
    """

    first: str
    second: str
    wins: int
    ties: int
    losses: int
    difference: Comparison
    probability: Comparison

    @property
    def sentence(self) -> str:
        total = self.wins + self.ties + self.losses
        tied = f" (tied on {self.ties})" if self.ties else ""
        undecided = ", which includes 0" if self.difference.low <= 0 <= self.difference.high else ""
        text = (
            f"{self.first} is better than {self.second} on {self.wins} of {total} datasets{tied}; the "
            f"{self.difference.quantity} is {self.difference.estimate}{undecided}; the probability of improvement is "
            f"{self.probability.estimate}."
        )
        notes = dict.fromkeys([*self.difference.notes, *self.probability.notes])
        return " ".join([text, *notes])


# -- probability of improvement --------------------------------------------------------------------


def probability_of_improvement(
    scores: Scores,
    first: str,
    second: str,
    *,
    datasets: Sequence[str] | None = None,
    method: Method = "calibrated",
    level: float = 0.95,
    reps: int = 10_000,
    seed: int = 0,
    compat: Literal["rliable"] | None = None,
) -> Comparison:
    """Probability that a random run of `first` scores higher than one of `second` on the same dataset, ties counting
    half, averaged over datasets: the mean of U / (N_1 N_2) with the Mann-Whitney U.

    Args:
        scores: a table or plain arrays by algorithm; see `shared_scores`. Numbers of runs may differ.
        datasets: which to use; by default those on which both have runs.
        method: "calibrated" (wider for few seeds) or "percentile".
        level: nominal coverage. reps, seed: of the bootstrap.
        compat: "rliable" replays the stream of `rliable.library.get_interval_estimates` with
            `rliable.metrics.probability_of_improvement` after `np.random.seed(seed)`; percentile only.

    Raises:
        ScoreError: no shared dataset, NaN, or `compat` with a calibrated interval or unequal seeds of one algorithm.
    """
    require_method(method, level)
    if compat is not None and method != "percentile":
        raise ScoreError("rliable has no calibrated interval", fix="use method='percentile' with compat='rliable'")
    shared = shared_scores(scores, [first, second], datasets, common_scale=False)
    if compat is None:
        shared = shared.in_fixed_order()
    tensor = _comparisons(shared, first, second)
    sizes_1, sizes_2 = shared.sizes(first), shared.sizes(second)
    weights = tensor / (sizes_1 * sizes_2)[:, None, None] / len(sizes_1)
    point = float(weights.sum())
    low, high, reason = math.nan, math.nan, _single_seed(shared)
    if not reason:
        if compat is None:
            generators = [np.random.default_rng(stream_seed(seed, name)) for name in (first, second)]
            draws = _draws(sizes_1, sizes_2, reps, generators)
        else:
            runs = (len(shared.matrix(first)), len(shared.matrix(second)))
            draws = _rliable_draws(*runs, len(sizes_1), reps, np.random.RandomState(seed))
        # [M, b, R1] @ [M, R1, R2], weighted by the second side's counts
        replicates = np.concatenate([
            np.einsum("mbr,bmr->b", np.matmul(one.transpose(1, 0, 2), weights), other) for one, other in draws
        ])  # fmt: skip
        factor = 1.0
        if method == "calibrated":
            factor = stretch(_projections(tensor, sizes_1, sizes_2), np.concatenate([sizes_1, sizes_2]), level)
        low, high = interval(replicates, point, level, factor, 0.0, 1.0)
    notes = shared.notes
    if low == high:
        notes += ("The probability's interval has no width, since resampled runs never change their order.",)
    return _comparison("probability of improvement", shared, point, low, high, reason, level, method, reps, notes)


def _comparisons(shared: SharedScores, first: str, second: str) -> np.ndarray:
    """1 where a run of the first beats one of the second, 0.5 for ties; 0 in the padding. [M, max N_1, max N_2]"""
    sizes_1, sizes_2 = shared.sizes(first), shared.sizes(second)
    tensor = np.zeros((len(sizes_1), sizes_1.max(), sizes_2.max()))
    for m, (x, y) in enumerate(zip(shared.cells[first], shared.cells[second], strict=True)):
        tensor[m, : x.size, : y.size] = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    return tensor


def _projections(tensor: np.ndarray, sizes_1: np.ndarray, sizes_2: np.ndarray) -> np.ndarray:
    """Contribution of each side of each dataset to the squared standard error: the variance of the share of opponents
    that a run beats, over N (DeLong, DeLong & Clarke-Pearson 1988). [2 M]
    """
    found = np.empty((2, len(tensor)))
    for m, (n1, n2) in enumerate(zip(sizes_1, sizes_2, strict=True)):
        block = tensor[m, :n1, :n2]
        found[:, m] = block.mean(axis=1).var(ddof=1) / n1, block.mean(axis=0).var(ddof=1) / n2
    return found.ravel() / len(tensor) ** 2


def _draws(
    sizes_1: np.ndarray, sizes_2: np.ndarray, reps: int, generators: Sequence[np.random.Generator]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chunks of how often each run was drawn, for both sides: [b, M, max N]."""
    rows = max(1, _CHUNK_ELEMENTS // (len(sizes_1) * int(max(sizes_1.max(), sizes_2.max()))))
    for start in range(0, reps, rows):
        b = min(rows, reps - start)
        one, other = (
            draw_counts(sizes.tolist(), b, rng).astype(np.float64)
            for sizes, rng in zip((sizes_1, sizes_2), generators, strict=True)
        )
        yield one, other


def _rliable_draws(
    runs_1: int, runs_2: int, tasks: int, reps: int, stream: np.random.RandomState
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same from rliable's stream: for every replicate, indices of the first side, then of the second."""
    columns = np.arange(tasks)
    for _ in range(reps):
        pair = []
        for runs in (runs_1, runs_2):
            counts = np.zeros((1, tasks, runs))
            np.add.at(counts[0], (columns, stream.randint(0, runs, (runs, tasks))), 1.0)
            pair.append(counts)
        yield pair[0], pair[1]


def improvement_matrix(
    scores: Scores, *, algorithms: Sequence[str] | None = None, datasets: Sequence[str] | None = None, **options: Any
) -> pd.DataFrame:
    """Probability of improvement of every ordered pair, over the datasets that all of them share.

    Args:
        options: `method`, `level`, `reps`, `seed` of `probability_of_improvement`.

    Returns:
        One row per ordered pair: first, second, point, low, high, reason, datasets, sentence.
    """
    shared = shared_scores(scores, algorithms, datasets, common_scale=False)
    pairs = itertools.permutations(shared.algorithms, 2)
    found = [probability_of_improvement(scores, a, b, datasets=_names(shared), **options) for a, b in pairs]
    return _as_frame(found)


# -- differences of aggregates ---------------------------------------------------------------------


def difference(
    scores: Scores,
    first: str,
    second: str,
    metric: str = "iqm",
    *,
    datasets: Sequence[str] | None = None,
    method: Method = "calibrated",
    level: float = 0.95,
    reps: int = 10_000,
    seed: int = 0,
    gamma: float = 100.0,
) -> Comparison:
    """Aggregate of `first` minus that of `second` over the datasets that both have, with its interval.

    Args:
        scores: a table or plain arrays by algorithm; see `shared_scores`.
        metric: "iqm", "mean", "median", "trimmed_mean(FRACTION)" or "optimality_gap" (where a negative difference
            favours `first`).
        datasets: which to use; by default those on which both have runs.
        method: "calibrated" (wider for few seeds) or "percentile".
        level: nominal coverage. reps, seed: of the bootstrap. gamma: of the optimality gap.

    Raises:
        ScoreError: no shared dataset, NaN, or raw returns of several datasets.
        UnknownNameError: an unknown metric, algorithm or dataset.
    """
    require_method(method, level)
    trim_fraction(metric)  # refuses unknown names
    shared = shared_scores(scores, [first, second], datasets, common_scale=True).in_fixed_order()
    sides = [shared.cells[first], shared.cells[second]]
    point = aggregate_point(metric, sides[0], gamma) - aggregate_point(metric, sides[1], gamma)
    low, high, reason = math.nan, math.nan, _single_seed(shared)
    notes = shared.notes
    if not reason:
        seeds = [stream_seed(seed, name) for name in (first, second)]
        draws = [
            bootstrap(cells, reps=reps, seed=key, gamma=gamma, metrics=(metric,))[metric]
            for key, cells in zip(seeds, sides, strict=True)
        ]
        if method == "percentile":
            low, high = interval(draws[0] - draws[1], point, level)
        else:
            errors, freedom = zip(
                *(
                    standard_error(metric, cells, replicates=replicates, gamma=gamma, seed=key)
                    for cells, replicates, key in zip(sides, draws, seeds, strict=True)
                ),
                strict=True,
            )
            half = margin(errors, freedom, level)
            low, high = point - half, point + half
        if low == high:
            notes += ("The difference's interval has no width, since the runs that count are identical.",)
    name = f"difference in {_NAMES.get(metric, metric)}"
    return _comparison(name, shared, point, low, high, reason, level, method, reps, notes)


def differences(
    scores: Scores,
    metric: str = "iqm",
    *,
    algorithms: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Difference of every pair, in the order of the input, over the datasets that all of them share.

    Args:
        options: `method`, `level`, `reps`, `seed`, `gamma` of `difference`.

    Returns:
        One row per pair: first, second, quantity, point, low, high, reason, level, method, datasets, sentence.
    """
    shared = shared_scores(scores, algorithms, datasets, common_scale=True)
    pairs = itertools.combinations(shared.algorithms, 2)
    return _as_frame([difference(scores, a, b, metric, datasets=_names(shared), **options) for a, b in pairs])


def compare(
    scores: Scores,
    first: str,
    second: str,
    *,
    metric: str = "iqm",
    datasets: Sequence[str] | None = None,
    method: Method = "calibrated",
    level: float = 0.95,
    reps: int = 10_000,
    seed: int = 0,
    gamma: float = 100.0,
) -> PairComparison:
    """Wins over datasets, the difference of an aggregate and the probability of improvement; `.sentence` says it all.

    Arguments are those of `difference`; all three use the same datasets.
    """
    options: dict[str, Any] = {"method": method, "level": level, "reps": reps, "seed": seed}
    gap = difference(scores, first, second, metric, datasets=datasets, gamma=gamma, **options)
    shared = shared_scores(scores, [first, second], datasets, common_scale=True)
    chance = probability_of_improvement(scores, first, second, datasets=_names(shared), **options)
    gaps = np.subtract(*shared.means().T)
    wins, losses = int((gaps > 0).sum()), int((gaps < 0).sum())
    return PairComparison(first, second, wins, len(gaps) - wins - losses, losses, gap, chance)


# -- parts of both ---------------------------------------------------------------------------------


def _names(shared: SharedScores) -> list[str]:
    return list(shared.datasets)


def _single_seed(shared: SharedScores) -> str:
    alone = [a for a in shared.algorithms if shared.sizes(a).min() < 2]
    return f"a single seed of {' and '.join(alone)}: run-to-run variation is unknown" if alone else ""


def _comparison(
    quantity: str,
    shared: SharedScores,
    point: float,
    low: float,
    high: float,
    reason: str,
    level: float,
    method: str,
    reps: int,
    notes: tuple[str, ...],
) -> Comparison:
    sizes = np.concatenate([shared.sizes(a) for a in shared.algorithms])
    first, second = shared.algorithms
    return Comparison(
        quantity,
        first,
        second,
        point,
        low,
        high,
        reason,
        level,
        method,
        reps,
        shared.datasets,
        shared.left_out,
        int(sizes.min()),
        int(sizes.max()),
        notes,
    )


def _as_frame(found: Sequence[Comparison]) -> pd.DataFrame:
    columns = ["first", "second", "quantity", "point", "low", "high", "reason", "level", "method"]
    rows = [{c: getattr(f, c) for c in columns} | {"datasets": len(f.datasets), "sentence": f.sentence} for f in found]
    return pd.DataFrame.from_records(rows, columns=[*columns, "datasets", "sentence"])
