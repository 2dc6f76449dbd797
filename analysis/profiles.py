"""Performance profiles: which share of runs, or of datasets, scores above each threshold.

Agarwal et al. (NeurIPS 2021), after Dolan & More (2002). Bands are pointwise: at each threshold by itself they cover at
the nominal rate, not the whole curve at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from offbench.analysis.calibration import Method, margin, require_method
from offbench.analysis.score_checks import ScoreError
from offbench.analysis.shared_scores import Scores, SharedScores, draw_counts, shared_scores, stream_seed
from offbench.analysis.wording import number

Kind = Literal["scores", "averages"]

_CHUNK_ELEMENTS = 1 << 21  # numbers held at a time: about 16 MB


@dataclass(frozen=True)
class PerformanceProfile:
    """Profiles of several algorithms over the same datasets.

    Attributes:
        curves: algorithm, tau, position, profile, low, high. `position` is the place of tau on the non-linear axis: 1
            minus the mean profile of all algorithms, which gives the room to where algorithms differ.
        kind: "scores" (share of runs above tau) or "averages" (share of datasets whose mean is above tau).
        datasets, left_out: used, and not used because a cell is missing.
        level, method, reps: of the bands.
        notes: what a reader has to be told.
    """

    curves: pd.DataFrame
    kind: str
    datasets: tuple[str, ...]
    left_out: tuple[str, ...]
    level: float
    method: str
    reps: int
    notes: tuple[str, ...] = ()

    @property
    def algorithms(self) -> list[str]:
        return list(self.curves["algorithm"].unique())

    @property
    def taus(self) -> np.ndarray:
        return np.array(self.curves["tau"].unique(), dtype=np.float64)

    def position(self, taus: Sequence[float] | np.ndarray) -> np.ndarray:
        """Places of thresholds on the non-linear axis, e.g. of its ticks; linear between the computed ones."""
        first = self.curves[self.curves["algorithm"] == self.algorithms[0]]
        return np.interp(taus, first["tau"], first["position"])

    def dominance(self) -> pd.DataFrame:
        """Pairs whose profiles do not cross: `first` is nowhere below `second`, and somewhere above.

        Returns:
            first, second.
        """
        wide = self.curves.pivot(index="tau", columns="algorithm", values="profile")
        pairs = [
            (a, b)
            for a, b in itertools.permutations(self.algorithms, 2)
            if (wide[a] >= wide[b]).all() and (wide[a] > wide[b]).any()
        ]
        return pd.DataFrame(pairs, columns=["first", "second"])

    def at(self, tau: float) -> str:
        """What the profiles say at the computed threshold nearest to `tau`, in words."""
        nearest = float(self.taus[np.abs(self.taus - tau).argmin()])
        rows = self.curves[self.curves["tau"] == nearest].sort_values("profile", ascending=False, kind="stable")
        unit = "of runs" if self.kind == "scores" else "of datasets, by their mean"
        shares = [
            f"{row.algorithm} {100 * row.profile:.0f} %"
            + ("" if math.isnan(row.low) else f" [{100 * row.low:.0f}, {100 * row.high:.0f}]")
            for row in rows.itertuples()
        ]
        return f"Share {unit}, above a score of {number(nearest)}: {', '.join(shares)}."

    @property
    def sentence(self) -> str:
        """The profiles where they lie furthest apart, and which never cross."""
        spread = self.curves.groupby("tau")["profile"].agg(np.ptp)
        parts = [self.at(float(spread.idxmax()))]
        above: dict[str, list[str]] = {}
        for first, second in self.dominance().itertuples(index=False):
            above.setdefault(first, []).append(second)
        for first, others in above.items():
            parts.append(f"The profile of {first} is nowhere below that of {' or '.join(others)}.")
        return " ".join([*parts, *self.notes])


def performance_profile(
    scores: Scores,
    taus: Sequence[float] | np.ndarray | None = None,
    *,
    kind: Kind = "scores",
    algorithms: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    method: Method = "calibrated",
    level: float = 0.95,
    reps: int = 2000,
    seed: int = 0,
    compat: Literal["rliable"] | None = None,
) -> PerformanceProfile:
    """Performance profile of every algorithm over the datasets that all of them share.

    Args:
        scores: a table or plain arrays by algorithm; see `shared_scores`.
        taus: thresholds, increasing [K]; by default 101 from the lowest to the highest score.
        kind: "scores": F(tau) = mean over datasets of the share of runs with score > tau. "averages": share of datasets
            whose mean over runs is > tau. Both compare strictly, as rliable does.
        method: "calibrated": profile +- t * standard error from smoothed distributions, which covers with few seeds,
            too; or "percentile": bounds of the bootstrap, which draws runs within each dataset.
        level: nominal pointwise coverage. reps, seed: of the bootstrap.
        compat: "rliable" replays the stream of `rliable.library.create_performance_profile` after
            `np.random.seed(seed)`, algorithm by algorithm; percentile only.

    Raises:
        ScoreError: no shared dataset, NaN, raw returns of several datasets, thresholds that do not increase, or
            `compat` with a calibrated band or unequal seeds.
    """
    require_method(method, level)
    if kind not in ("scores", "averages"):
        raise ScoreError(f"unknown kind of profile {kind!r}", fix="use 'scores' or 'averages'")
    if compat is not None and method != "percentile":
        raise ScoreError("rliable has no calibrated band", fix="use method='percentile' with compat='rliable'")
    shared = shared_scores(scores, algorithms, datasets, common_scale=True)
    if compat is None:
        shared = shared.in_fixed_order()
    thresholds = _thresholds(taus, shared)
    stream = np.random.RandomState(seed)
    notes = list(shared.notes)
    frames = []
    for name in shared.algorithms:
        cells, sizes = shared.cells[name], shared.sizes(name)
        profile = _profile(cells, thresholds, kind)
        if sizes.min() < 2:
            low = high = np.full(len(thresholds), math.nan)
            notes.append(f"{name} has a single seed on some dataset: no band.")
        elif method == "calibrated":
            low, high = _smooth_band(cells, thresholds, kind, profile, level)
        else:
            if compat is None:
                draws = _draws(sizes, reps, np.random.default_rng(stream_seed(seed, name)))
            else:
                runs, tasks = shared.matrix(name).shape
                draws = _rliable_draws(runs, tasks, reps, stream)
            low, high = _bootstrap_band(cells, thresholds, kind, draws, level)
        frame = {"algorithm": name, "tau": thresholds, "profile": profile, "low": low, "high": high}
        frames.append(pd.DataFrame(frame))
    curves = pd.concat(frames, ignore_index=True)
    curves.insert(2, "position", 1 - curves.groupby("tau")["profile"].transform("mean"))
    return PerformanceProfile(
        curves, kind, shared.datasets, shared.left_out, level, method, reps, tuple(dict.fromkeys(notes))
    )


def _thresholds(taus: Sequence[float] | np.ndarray | None, shared: SharedScores) -> np.ndarray:
    if taus is None:
        every = np.concatenate([cell for cells in shared.cells.values() for cell in cells])
        return np.linspace(every.min(), every.max() if np.ptp(every) > 0 else every.min() + 1, 101)
    thresholds = np.asarray(taus, dtype=np.float64)
    if thresholds.ndim != 1 or not thresholds.size or not (np.diff(thresholds) > 0).all():
        raise ScoreError("thresholds of a profile must be one increasing list of numbers")
    return thresholds


def _profile(cells: Sequence[np.ndarray], taus: np.ndarray, kind: Kind) -> np.ndarray:
    """The profile itself [K]."""
    if kind == "averages":
        return np.mean([cell.mean() > taus for cell in cells], axis=0)
    return np.mean([(cell[:, None] > taus).mean(axis=0) for cell in cells], axis=0)


def _draws(sizes: np.ndarray, reps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Chunks of how often each run was drawn [b, M, max N]."""
    rows = max(1, _CHUNK_ELEMENTS // (8 * len(sizes) * int(sizes.max())))
    for start in range(0, reps, rows):
        yield draw_counts(sizes.tolist(), min(rows, reps - start), rng)


def _rliable_draws(runs: int, tasks: int, reps: int, stream: np.random.RandomState) -> Iterator[np.ndarray]:
    """The same from rliable's stream: indices [runs, tasks] for every replicate."""
    rows = max(1, _CHUNK_ELEMENTS // (8 * runs * tasks))
    for start in range(0, reps, rows):
        b = min(rows, reps - start)
        index = stream.randint(0, runs, (b, runs, tasks)).transpose(0, 2, 1)
        flat = index + runs * np.arange(b * tasks).reshape(b, tasks, 1)
        yield np.bincount(flat.ravel(), minlength=b * tasks * runs).reshape(b, tasks, runs)


def _bootstrap_band(
    cells: Sequence[np.ndarray], taus: np.ndarray, kind: Kind, draws: Iterator[np.ndarray], level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise percentile bounds [K], [K]."""
    resample = _shares_of_runs if kind == "scores" else _shares_of_datasets
    replicates = np.concatenate([resample(cells, taus, counts) for counts in draws])
    low, high = np.percentile(replicates, [50 - 50 * level, 50 + 50 * level], axis=0)
    return low, high


def _smooth_band(
    cells: Sequence[np.ndarray], taus: np.ndarray, kind: Kind, profile: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise bounds [K], [K] that do not vanish where few runs happen to lie on one side of a threshold.

    With three runs a dataset's share is 0 or 1 at most thresholds, and neither a bootstrap nor the usual variance of a
    share sees any uncertainty there. So the chance of lying above a threshold is taken from a smoothed distribution:
    of scores, by a logistic kernel with Silverman's bandwidth; of a dataset's mean, by its standard error. The bounds
    are +- t * standard error, with Satterthwaite degrees of freedom over datasets, about the profile or, for datasets'
    means, about the sum of these chances.
    """
    sizes = np.array([cell.size for cell in cells])
    chances = np.empty((len(cells), taus.size))
    for m, cell in enumerate(cells):
        spread = float(cell.std(ddof=1))
        if kind == "scores":
            chances[m] = _logistic(cell[:, None] - taus, 0.9 * spread * cell.size**-0.2).mean(axis=0)
        else:
            chances[m] = _logistic(cell.mean() - taus, spread / math.sqrt(cell.size))
    tasks = len(cells)
    variances = chances * (1 - chances) / tasks**2
    if kind == "scores":
        errors = np.sqrt(variances / (sizes - 1)[:, None])
        half = np.array([margin(column, sizes - 1, level) for column in errors.T])
        return np.maximum(profile - half, 0.0), np.minimum(profile + half, 1.0)
    half = np.array([margin(column, sizes - 1, level) for column in np.sqrt(variances).T])
    # A share of datasets is a whole number over their count: round with half a dataset as continuity correction.
    centre = chances.mean(axis=0)
    low = np.ceil(tasks * (centre - half) - 0.5) / tasks
    high = np.floor(tasks * (centre + half) + 0.5) / tasks
    return np.clip(np.minimum(low, profile), 0.0, 1.0), np.clip(np.maximum(high, profile), 0.0, 1.0)


def _logistic(distance: np.ndarray, width: float) -> np.ndarray:
    """A smooth step from 0 to 1 over about `width`, close to the normal distribution function; sharp for width 0."""
    if width == 0:
        return (distance > 0).astype(np.float64)
    return 1 / (1 + np.exp(-np.clip(1.702 * distance / width, -50, 50)))


def _shares_of_runs(cells: Sequence[np.ndarray], taus: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Resampled profiles [b, K]: drawn counts times indicators."""
    b, tasks, _ = counts.shape
    total = np.zeros((b, len(taus)))
    sizes = {cell.size for cell in cells}
    for size in sizes:  # datasets of equal N share a weight: one matrix product for all of them
        chosen = [m for m in range(tasks) if cells[m].size == size]
        above = np.concatenate([cells[m][:, None] > taus for m in chosen])
        drawn = counts[:, chosen, :size].reshape(b, -1)
        total += (drawn.astype(np.float64) @ above.astype(np.float64)) / (size * tasks)
    return total


def _shares_of_datasets(cells: Sequence[np.ndarray], taus: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Resampled profiles [b, K] of datasets' means."""
    b, tasks, _ = counts.shape
    # A mean lies above the thresholds before its place among them: count places instead of comparing with each.
    places = np.empty((b, tasks), dtype=np.int64)
    for m, cell in enumerate(cells):
        places[:, m] = np.searchsorted(taus, counts[:, m, : cell.size] @ cell / cell.size, side="left")
    width = len(taus) + 1
    rows = np.bincount((places + np.arange(b)[:, None] * width).ravel(), minlength=b * width).reshape(b, width)
    beyond = rows[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]  # above tau_k: all places beyond k
    return beyond / tasks
