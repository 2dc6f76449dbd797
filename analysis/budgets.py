"""Scores under a budget: what is to be expected when settings are tried out, and what choosing a checkpoint adds.

Expected online performance: Kurenkov & Kolesnikov, "Showing Your Offline Reinforcement Learning Work" (ICML 2022). The
budget there is the number of settings that are trained and evaluated without noise; `ucb_budget` counts evaluation
episodes instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from offbench.analysis.calibration import Method, require_method, stretch
from offbench.analysis.score_checks import KEYS, ScoreError, require_columns, require_finite, some
from offbench.analysis.scores import ScoreTable

Settings = Sequence[np.ndarray] | np.ndarray


@dataclass(frozen=True)
class ExpectedPerformance:
    """Expected best score when `budget` settings are drawn and the best one is kept.

    Attributes:
        frame: budget, mean, std (over draws of settings), low, high (band over seeds; NaN without seeds), bias.
        replacement: whether a setting may be drawn twice.
        settings: number of settings. seeds_min, seeds_max: of a setting; 0 where only means are known.
        method, level, reps: of the band. notes: what a reader has to be told.
    """

    frame: pd.DataFrame
    replacement: bool
    settings: int
    seeds_min: int
    seeds_max: int
    method: str
    level: float
    reps: int
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        rows = self.frame.iloc[sorted({0, min(4, len(self.frame) - 1), len(self.frame) - 1})]
        parts = [
            f"{row.mean:.1f} with {row.budget} setting{'' if row.budget == 1 else 's'}"
            + ("" if math.isnan(row.low) else f" [{row.low:.1f}, {row.high:.1f}]")
            for row in rows.itertuples(index=False)
        ]
        how = "with" if self.replacement else "without"
        text = f"Expected best score of settings drawn {how} replacement from {self.settings}: {', '.join(parts)}."
        return " ".join([text, *self.notes])


def expected_online_performance(
    settings: Settings,
    *,
    budgets: Sequence[int] | None = None,
    replacement: bool = True,
    method: Method = "calibrated",
    level: float = 0.95,
    reps: int = 2000,
    seed: int = 0,
) -> ExpectedPerformance:
    """Expected maximum of the mean scores of n settings drawn at random, for every budget n.

    With sorted means y_1 <= ... <= y_S, the maximum of n draws is y_i with probability (i/S)^n - ((i-1)/S)^n with
    replacement (the paper's estimate) and C(i-1, n-1) / C(S, n) without (unbiased for the settings' distribution).

    Args:
        settings: one array of scores over seeds [N_s] per setting, or an array [settings, seeds]; a flat array
            [settings] holds means over seeds and gives no band.
        budgets: numbers of settings, 1 to S; by default all.
        replacement: see above.
        method, level, reps, seed: of the band, which resamples seeds within each setting; "calibrated" widens it for
            few seeds. The best of noisy means is flattering: resampled means have more noise and a higher maximum. The
            mean excess of the replicates is reported as `bias` (about as much as the estimate itself may flatter), and
            the band is moved down by it, so that it belongs to the estimate.

    Raises:
        ScoreError: no settings, a setting without scores, NaN, or a budget outside 1 to S.
    """
    require_method(method, level)
    cells = _settings(settings)
    count = len(cells)
    sizes = np.array([cell.size for cell in cells])
    wanted = np.arange(1, count + 1) if budgets is None else np.asarray(budgets, dtype=np.int64)
    if not wanted.size or wanted.min() < 1 or wanted.max() > count:
        raise ScoreError(f"a budget is a number of settings from 1 to {count}", f"got {some(list(map(str, wanted)))}")
    weights = best_of_weights(count, wanted, replacement)
    means = np.sort([cell.mean() for cell in cells])
    expected = weights @ means
    std = np.sqrt(np.maximum(((means - expected[:, None]) ** 2 * weights).sum(axis=1), 0.0))
    low = high = bias = np.full(wanted.size, math.nan)
    only_means = isinstance(settings, np.ndarray) and settings.ndim == 1
    notes = []
    if only_means:
        notes.append("Only means over seeds are known: no band.")
    elif sizes.min() < 2:
        notes.append(f"{int((sizes < 2).sum())} of {count} settings have a single seed: no band.")
    else:
        replicates = _resampled_means(cells, reps, np.random.default_rng(seed))
        replicates.sort(axis=1)
        curves = replicates @ weights.T
        bias = curves.mean(axis=0) - expected
        low, high = np.percentile(curves, [50 - 50 * level, 50 + 50 * level], axis=0) - bias
        if method == "calibrated":
            # a setting's mean moves the curve by the weight of its place
            places = np.argsort(np.argsort([cell.mean() for cell in cells], kind="stable"))
            errors = np.array([cell.var(ddof=1) for cell in cells]) / sizes
            factors = np.array([stretch(row[places] ** 2 * errors, sizes, level) for row in weights])
            low, high = expected + (low - expected) * factors, expected + (high - expected) * factors
    columns = {"budget": wanted, "mean": expected, "std": std, "low": low, "high": high, "bias": bias}
    frame = pd.DataFrame(columns)
    fewest, most = (0, 0) if only_means else (int(sizes.min()), int(sizes.max()))
    return ExpectedPerformance(frame, replacement, count, fewest, most, method, level, reps, tuple(notes))


def best_of_weights(count: int, budgets: Sequence[int] | np.ndarray, replacement: bool) -> np.ndarray:
    """Probability that the i-th smallest of `count` values is the best of n drawn [budgets, count]."""
    n = np.asarray(budgets, dtype=np.float64)[:, None]
    if replacement:
        edges = (np.arange(count + 1) / count) ** n
        return np.diff(edges, axis=1)
    # whole numbers of any size, divided only at the end
    found = np.zeros((len(n), count))
    for row, budget in enumerate(np.asarray(budgets, dtype=np.int64)):
        for i in range(int(budget), count + 1):
            found[row, i - 1] = math.comb(i - 1, int(budget) - 1) / math.comb(count, int(budget))
    return found


def budget_table(
    frame: pd.DataFrame,
    *,
    algorithm: str = "algorithm",
    dataset: str = "dataset",
    setting: str = "config",
    score: str = "score",
    seed: str | None = None,
    replacement: bool = True,
    method: Method = "calibrated",
    level: float = 0.95,
    reps: int = 2000,
    random_seed: int = 0,
) -> pd.DataFrame:
    """Expected online performance of every algorithm and dataset in a tidy table.

    Args:
        frame: one row per setting or, with `seed`, per training run.
        algorithm, dataset, setting, score, seed: names of the columns.

    Returns:
        algorithm, dataset, settings, budget, mean, std, low, high, bias.

    Raises:
        ScoreError: a column is missing, a score is not finite, or a run or setting is repeated.
    """
    keys = [algorithm, dataset, setting, *([seed] if seed else [])]
    require_columns(frame, [*keys, score])
    tidy = frame.reset_index(drop=True)
    tidy = tidy.assign(**{score: require_finite(tidy, score)})
    if tidy.duplicated(keys).any():
        again = tidy.index[tidy.duplicated(keys)]
        fix = "" if seed else "name the column of seeds: seed='seed'"
        raise ScoreError(f"rows repeat the same {', '.join(keys)}", f"row {again[0]}, {len(again)} in all", fix)
    parts = []
    for (a, d), part in tidy.groupby([algorithm, dataset], sort=False):
        cells = [group.to_numpy() for _, group in part.groupby(setting, sort=False)[score]]
        given: Settings = cells if seed else np.concatenate(cells)
        found = expected_online_performance(
            given, replacement=replacement, method=method, level=level, reps=reps, seed=random_seed
        )
        parts.append(found.frame.assign(algorithm=a, dataset=d, settings=found.settings))
    columns = ["algorithm", "dataset", "settings", "budget", "mean", "std", "low", "high", "bias"]
    return pd.concat(parts, ignore_index=True)[columns]


def _settings(settings: Settings) -> list[np.ndarray]:
    if isinstance(settings, np.ndarray) and settings.dtype != object:
        if settings.ndim not in (1, 2):
            raise ScoreError(f"settings must be [settings] or [settings, seeds], got shape {settings.shape}")
        settings = list(settings[:, None] if settings.ndim == 1 else settings)
    cells = [np.atleast_1d(np.asarray(cell, dtype=np.float64)) for cell in settings]
    bad = [str(i) for i, cell in enumerate(cells) if cell.ndim != 1 or not cell.size or not np.isfinite(cell).all()]
    if not cells or bad:
        raise ScoreError("every setting needs finite scores, one per seed", f"not so for {some(bad) or 'any: empty'}")
    return cells


def _resampled_means(cells: Sequence[np.ndarray], reps: int, rng: np.random.Generator) -> np.ndarray:
    """Means [reps, settings] of seeds drawn with replacement within each setting."""
    found = np.empty((reps, len(cells)))
    for s, cell in enumerate(cells):
        found[:, s] = cell[rng.integers(0, cell.size, size=(reps, cell.size))].mean(axis=1)
    return found


# -- last, last-k and best from the same records ---------------------------------------------------

BEST = "best (chosen with the simulator)"


@dataclass(frozen=True)
class CheckpointProtocols:
    """The same runs scored by their last, last-k and best evaluation.

    Attributes:
        runs: algorithm, dataset, seed, last, last_k, best.
        frame: protocol, algorithm, dataset, seeds, mean, std (ddof = 1).
        last_k: evaluations averaged.
    """

    runs: pd.DataFrame
    frame: pd.DataFrame
    last_k: int

    @property
    def protocols(self) -> tuple[str, str, str]:
        return _protocols(self.last_k)

    def averages(self) -> pd.DataFrame:
        """Mean over the datasets that all algorithms share; algorithms as rows, protocols as columns."""
        counts = self.frame.groupby("dataset")["algorithm"].nunique()
        shared = counts.index[counts == self.frame["algorithm"].nunique()]
        rows = self.frame[self.frame["dataset"].isin(shared)]
        wide = rows.groupby(["algorithm", "protocol"], sort=False)["mean"].mean().unstack()
        return wide[list(self.protocols)]

    @property
    def sentence(self) -> str:
        wide = self.averages()
        if wide.empty:
            return "The algorithms share no dataset."
        first = [str(wide[protocol].idxmax()) for protocol in self.protocols]
        gain = wide[BEST] - wide["last"]
        text = (
            f"Choosing each run's best evaluation with the simulator adds {gain.min():.1f} to {gain.max():.1f} points "
            f"to an average ({gain.idxmax()} gains most)."
        )
        if len(set(first)) > 1:
            ranked = ", ".join(f"{name} by {protocol}" for name, protocol in zip(first, self.protocols, strict=True))
            text += f" It changes who is first: {ranked}."
        return text


def checkpoint_protocols(table: ScoreTable, last_k: int = 3) -> CheckpointProtocols:
    """Last evaluation, mean of the last `last_k` and best evaluation of every run of a table with curves.

    "best" is an online result: only someone with the simulator can pick it, so it is labelled so.

    Raises:
        ScoreError: no curves, NaN, or `last_k` below 1.
    """
    if table.curves is None:
        raise ScoreError("the score table has no learning curves", fix="read it with step=..., or from run folders")
    if last_k < 1:
        raise ScoreError(f"last_k is a number of evaluations, 1 or more, got {last_k}")
    frame = table.curves.reset_index(drop=True)
    require_finite(frame, "score")
    by_run = frame.sort_values("step", kind="stable").groupby(KEYS, sort=False)["score"]
    runs = pd.DataFrame(
        {"last": by_run.last(), "last_k": by_run.apply(lambda s: s.tail(last_k).mean()), "best": by_run.max()}
    )
    runs = runs.reindex(pd.MultiIndex.from_frame(table.rows[KEYS])).reset_index()
    parts = []
    for protocol, column in zip(_protocols(last_k), ("last", "last_k", "best"), strict=True):
        cells = runs.groupby(["algorithm", "dataset"], sort=False)[column].agg(["size", "mean", "std"]).reset_index()
        cells = cells.rename(columns={"size": "seeds"})
        cells.insert(0, "protocol", protocol)
        parts.append(cells)
    return CheckpointProtocols(runs, pd.concat(parts, ignore_index=True), last_k)


def _protocols(last_k: int) -> tuple[str, str, str]:
    return "last", f"mean of the last {last_k}", BEST


# -- a budget of episodes --------------------------------------------------------------------------


@dataclass(frozen=True)
class BanditBudget:
    """Expected true score of the policy that a bandit recommends after each evaluation episode.

    Attributes:
        frame: episodes, mean, low, high.
        arms: policies at a time. scale: of the bonus, in units of returns.
        settings, seeds_min, seeds_max, episodes_min: of the pool.
        level, resamples, trials: pools drawn for the band, and bandits played on each.
        notes: what a reader has to be told.
    """

    frame: pd.DataFrame
    arms: int
    alpha: float
    scale: float
    settings: int
    seeds_min: int
    seeds_max: int
    episodes_min: int
    level: float
    resamples: int
    trials: int
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        first, last = self.frame.iloc[0], self.frame.iloc[-1]
        band = f" [{last['low']:.1f}, {last['high']:.1f}]"
        text = (
            f"With {self.arms} of {self.settings} settings, each trained once, the policy recommended after one "
            f"episode has an expected return of {first['mean']:.1f}, after {last['episodes']:.0f} episodes of "
            f"{last['mean']:.1f}{band} (UCB, exploration scaled by {self.scale:.3g})."
        )
        return " ".join([text, *self.notes])


def ucb_budget(
    returns: Sequence[Sequence[np.ndarray]] | Mapping[str, Sequence[np.ndarray]],
    *,
    episodes: int = 200,
    arms: int = 8,
    alpha: float = 2.0,
    scale: float | None = None,
    level: float = 0.95,
    resamples: int = 200,
    trials: int = 50,
    seed: int = 0,
) -> BanditBudget:
    """Choosing among trained policies by evaluating them, episode by episode, with a UCB bandit.

    The protocol of Jackson et al., "A Clean Slate for Offline Reinforcement Learning" (NeurIPS 2025): `arms` policies;
    every pull is one stored return of a policy; the next pull goes to the largest mean + scale sqrt(alpha ln t / n);
    after each one, the true mean of the policy with the best empirical mean counts. What is different here:

    1. The bonus is in units of the returns' standard deviation (`scale`). On scores of 0-100 the original bonus is
       below one point, and the bandit is greedy after one pull per arm.
    2. The band resamples the pool: settings, then the seeds of each. Resampling bandit trials on one fixed pool shrinks
       with the number of trials and says nothing about other seeds or settings.
    3. An arm is one setting, trained once: trials draw settings and then one seed of each, instead of policies from a
       pool in which seeds and settings are mixed and one setting may sit on several arms.

    Policies that were not pulled yet are never recommended, whatever the sign of the returns.

    Args:
        returns: setting -> seed -> returns of the episodes of one trained policy [E]; a mapping or nested sequences.
        episodes: length of a trial. arms: settings in a trial, at most all of them.
        alpha: of the bonus.
        scale: of the bonus; by default the standard deviation of all stored returns, policies weighted equally.
        level: of the band. resamples: pools drawn for it; their spread about their own mean is put around the curve,
            since a pool with repeated settings has a lower maximum. trials: bandits played on each pool, and on the
            whole one `resamples` times as many.
        seed: of the generator.

    Raises:
        ScoreError: no settings, a policy without episodes, NaN, or fewer than one arm or episode.
    """
    pool = _Pool.of(returns)
    if episodes < 1 or arms < 1 or resamples < 2 or trials < 1:
        raise ScoreError(f"nothing to play: {episodes} episodes, {arms} arms, {resamples} pools of {trials} trials")
    notes = []
    count = len(pool.first)
    if arms > count:
        notes.append(f"There are only {count} settings: each trial has them all.")
        arms = count
    if pool.lengths.min() < 100:
        notes.append(f"Some policy has only {pool.lengths.min()} stored episodes: its true mean is uncertain itself.")
    if pool.seeds.min() == 1:
        notes.append("Some setting has a single seed: the band lacks the variation between its seeds.")
    spread = math.sqrt(float((pool.variances + (pool.means - pool.means.mean()) ** 2).mean()))
    unit = spread if scale is None else float(scale)
    rng = np.random.default_rng(seed)

    whole = pool.draw(resamples * trials, arms, rng)
    curve = _play(pool, whole, episodes, alpha, unit, rng).mean(axis=0)
    chosen = np.concatenate([pool.draw_resampled(trials, arms, rng) for _ in range(resamples)])
    played = _play(pool, chosen, episodes, alpha, unit, rng).reshape(resamples, trials, episodes)
    # A pool's mean over trials still has Monte Carlo noise, which would widen the band: shrink it away.
    means = played.mean(axis=1)
    noise = played.var(axis=1, ddof=1).mean(axis=0) / trials if trials > 1 else np.zeros(episodes)
    total = means.var(axis=0, ddof=1)
    share = np.sqrt(np.clip(1 - np.divide(noise, total, out=np.zeros(episodes), where=total > 0), 0.0, 1.0))
    centred = (means - means.mean(axis=0)) * share
    low, high = np.percentile(centred, [50 - 50 * level, 50 + 50 * level], axis=0)
    frame = pd.DataFrame(
        {"episodes": np.arange(1, episodes + 1), "mean": curve, "low": curve + low, "high": curve + high}
    )
    return BanditBudget(
        frame,
        arms,
        alpha,
        unit,
        count,
        int(pool.seeds.min()),
        int(pool.seeds.max()),
        int(pool.lengths.min()),
        level,
        resamples,
        trials,
        tuple(notes),
    )


@dataclass(frozen=True)
class _Pool:
    """Trained policies [P], those of one setting in a row.

    Attributes:
        returns: all episodes in a row. starts, lengths: of each policy in it [P].
        means, variances: of each policy's episodes [P].
        first, seeds: first policy and number of policies of each setting [S].
    """

    returns: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    means: np.ndarray
    variances: np.ndarray
    first: np.ndarray
    seeds: np.ndarray

    @classmethod
    def of(cls, returns: Sequence[Sequence[np.ndarray]] | Mapping[str, Sequence[np.ndarray]]) -> _Pool:
        settings = list(returns.values()) if isinstance(returns, Mapping) else list(returns)
        policies = [np.atleast_1d(np.asarray(p, dtype=np.float64)) for setting in settings for p in setting]
        seeds = np.array([len(setting) for setting in settings])
        if not policies or seeds.min() == 0:
            raise ScoreError("every setting needs at least one trained policy")
        bad = [str(i) for i, p in enumerate(policies) if p.ndim != 1 or not p.size or not np.isfinite(p).all()]
        if bad:
            raise ScoreError("every policy needs finite returns of its episodes", f"not so for policy {some(bad)}")
        lengths = np.array([p.size for p in policies])
        return cls(
            np.concatenate(policies),
            np.concatenate([[0], np.cumsum(lengths)[:-1]]),
            lengths,
            np.array([p.mean() for p in policies]),
            np.array([p.var() for p in policies]),
            np.concatenate([[0], np.cumsum(seeds)[:-1]]),
            seeds,
        )

    def draw(self, trials: int, arms: int, rng: np.random.Generator) -> np.ndarray:
        """Policies [trials, arms]: settings without replacement, one seed of each."""
        settings = np.argsort(rng.random((trials, len(self.first))), axis=1)[:, :arms]
        return self.first[settings] + rng.integers(0, self.seeds[settings])

    def draw_resampled(self, trials: int, arms: int, rng: np.random.Generator) -> np.ndarray:
        """The same from one bootstrap pool: settings drawn with replacement, then the seeds of each."""
        count = len(self.first)
        drawn = rng.integers(0, count, size=count)
        width = int(self.seeds.max())
        # seeds of each drawn setting, themselves drawn with replacement
        inside = rng.integers(0, self.seeds[drawn][:, None], size=(count, width))
        places = np.argsort(rng.random((trials, count)), axis=1)[:, :arms]
        chosen = rng.integers(0, self.seeds[drawn][places])
        return self.first[drawn[places]] + inside[places, chosen]


def _play(
    pool: _Pool, policies: np.ndarray, episodes: int, alpha: float, scale: float, rng: np.random.Generator
) -> np.ndarray:
    """True mean of the recommended policy after each pull [trials, episodes], all trials in step."""
    trials, arms = policies.shape
    rows = np.arange(trials)
    truth = pool.means[policies]
    counts, sums = np.zeros((trials, arms)), np.zeros((trials, arms))
    means = np.full((trials, arms), -np.inf)
    order = np.argsort(rng.random((trials, arms)), axis=1)  # every arm once, in random order
    found = np.empty((trials, episodes))
    for t in range(1, episodes + 1):
        if t <= arms:
            arm = order[:, t - 1]
        else:
            arm = (means + scale * np.sqrt(alpha * math.log(t) / counts)).argmax(axis=1)
        policy = policies[rows, arm]
        reward = pool.returns[pool.starts[policy] + rng.integers(0, pool.lengths[policy])]
        counts[rows, arm] += 1
        sums[rows, arm] += reward
        means[rows, arm] = sums[rows, arm] / counts[rows, arm]
        found[:, t - 1] = truth[rows, means.argmax(axis=1)]
    return found
