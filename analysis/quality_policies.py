"""How many policies the episodes of a dataset come from: classes of episodes whose first half predicts the second.

Episodes are clustered by the policy that explains their actions best, as in Hu, Wang, Du 2025 (arXiv 2506.09202,
policy-guided k-means), with policies that are linear in random features of the state, so that each is a least-squares
solution. The number of classes is the one that predicts episodes which were held out: their first half chooses the
class, the actions of the second half are predicted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offbench.analysis.quality_registry import measure
from offbench.analysis.quality_view import Float, NotMeasurableError, View, encoded_actions, states_at
from offbench.datasets import Dataset

MOST = 8  # classes that are tried
EPISODES, STEPS = 400, 20_000  # that are looked at, at most
FEATURES = 48
STARTS, ROUNDS = 3, 20
GAIN = 0.025  # nats per action dimension and step that a class more must bring, beside twice its standard error
_RIDGE = 1e-2
_LEAST_VARIANCE = 1e-4  # of standardized actions


@dataclass(frozen=True)
class Episodes:
    """Steps of some episodes, one after the other.

    Attributes:
        features: [n, F]. actions: [n, A], standardized. starts: [E + 1] where episodes begin. early: [n] first halves.
    """

    features: Float
    actions: Float
    starts: NDArray[np.int64]
    early: NDArray[np.bool_]

    def of(self, chosen: NDArray[np.int64]) -> Episodes:
        """Some of the episodes."""
        rows = [np.arange(self.starts[e], self.starts[e + 1]) for e in chosen]
        starts = np.concatenate([[0], np.cumsum([len(part) for part in rows])])
        index = np.concatenate(rows)
        return Episodes(self.features[index], self.actions[index], starts, self.early[index])

    def sums(self, values: Float) -> Float:
        """Sums [E, ...] of [n, ...] over the steps of each episode."""
        return np.add.reduceat(values, self.starts[:-1], axis=0)


def policy_classes(episodes: Episodes, seed: int, most: int = MOST) -> tuple[int, list[float]]:
    """Return the number of classes, and held-out log-likelihoods (per action dimension and step) of 1, 2, ... classes.

    Half of the episodes form the classes that predict the other half, and the reverse. A class more counts if it brings
    `GAIN` and twice the standard error of what it brings, over episodes.
    """
    count = len(episodes.starts) - 1
    order = np.random.default_rng([seed, 6]).permutation(count)
    folds = [order[: count // 2], order[count // 2 :]]
    scores: list[Float] = []
    for classes in range(1, min(most, count // 4) + 1):
        held = np.empty(count)
        for fold, other in (folds, folds[::-1]):
            model = _best_classes(episodes.of(fold), classes, seed)
            held[other] = _predict(episodes.of(other), model)
        scores.append(held)
        if len(scores) > 2 and scores[-1].mean() <= scores[-2].mean() <= scores[-3].mean():
            break
    chosen = 0
    for classes in range(1, len(scores)):
        gain = scores[classes] - scores[chosen]
        error = gain.std(ddof=1) / math.sqrt(count)
        if gain.mean() > max(GAIN * (classes - chosen), 2 * error):
            chosen = classes
    return chosen + 1, [float(score.mean()) for score in scores]


@dataclass(frozen=True)
class _Classes:
    """weights [K, F, A] and variances [K, A] of linear-Gaussian policies."""

    weights: Float
    variances: Float

    def log_likelihood(self, episodes: Episodes) -> Float:
        """[n, K] of each step, mean over action dimensions."""
        fits = []
        for weight, variance in zip(self.weights, self.variances, strict=True):
            squares = (episodes.actions - episodes.features @ weight) ** 2 / variance
            fits.append(-0.5 * (squares + np.log(2 * math.pi * variance)).mean(axis=1))
        return np.stack(fits, axis=1)


def _best_classes(episodes: Episodes, classes: int, seed: int) -> _Classes:
    """The most likely classes of a few starts of k-means over policies."""
    grams, moments, squares, lengths = _statistics(episodes)
    rng = np.random.default_rng([seed, 7, classes])
    best: tuple[float, _Classes] | None = None
    everything = np.zeros(len(lengths), np.int64)
    for _ in range(STARTS if classes > 1 else 1):
        labels = _first_labels(grams, moments, classes, rng) if classes > 1 else everything
        for _ in range(ROUNDS):
            model = _fit(grams, moments, squares, lengths, labels, classes)
            fits = episodes.sums(model.log_likelihood(episodes))
            moved = fits.argmax(axis=1)
            if np.array_equal(moved, labels):
                break
            labels = moved
        total = float(fits.max(axis=1).sum())
        if best is None or total > best[0]:
            best = (total, model)
    if best is None:
        raise NotMeasurableError("there are no episodes")
    return best[1]


def _statistics(episodes: Episodes) -> tuple[Float, Float, Float, Float]:
    """Per episode: X'X [E, F, F], X'Y [E, F, A], sum of Y^2 [E, A], number of steps [E]."""
    bounds = zip(episodes.starts[:-1], episodes.starts[1:], strict=True)
    parts = [(episodes.features[a:b], episodes.actions[a:b]) for a, b in bounds]
    grams = np.stack([x.T @ x for x, _ in parts])
    moments = np.stack([x.T @ y for x, y in parts])
    return grams, moments, episodes.sums(episodes.actions**2), np.diff(episodes.starts).astype(np.float64)


def _fit(
    grams: Float, moments: Float, squares: Float, lengths: Float, labels: NDArray[np.int64], classes: int
) -> _Classes:
    """Least squares per class, drawn a little towards the policy of all episodes."""
    features = grams.shape[1]
    prior = _RIDGE * lengths.sum() / classes * np.eye(features)
    common = np.linalg.solve(grams.sum(axis=0) + prior, moments.sum(axis=0))
    weights, variances = [], []
    for k in range(classes):
        inside = labels == k
        gram, moment, square = (part[inside].sum(axis=0) for part in (grams, moments, squares))
        weight = np.linalg.solve(gram + prior, moment + prior @ common)
        residual = square - 2 * (weight * moment).sum(axis=0) + (weight * (gram @ weight)).sum(axis=0)
        weights.append(weight)
        variances.append(np.maximum(residual / max(1.0, lengths[inside].sum()), _LEAST_VARIANCE))
    return _Classes(np.stack(weights), np.stack(variances))


def _first_labels(grams: Float, moments: Float, classes: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Classes around the policies of single episodes, far apart as in k-means++ (Arthur and Vassilvitskii 2007)."""
    total = grams.sum(axis=0)
    prior = 0.1 * total / len(grams) + 1e-6 * np.trace(total) / len(total) * np.eye(len(total))
    common = np.linalg.solve(total + 1e-6 * np.trace(total) / len(total) * np.eye(len(total)), moments.sum(axis=0))
    own = np.stack([np.linalg.solve(g + prior, m + prior @ common) for g, m in zip(grams, moments, strict=True)])
    # The distance of two policies is that of their actions in the states of all episodes.
    root = np.linalg.cholesky(total / len(grams) + 1e-9 * np.trace(total) * np.eye(len(total)))
    points = (root.T @ own).reshape(len(own), -1)
    centers = [int(rng.integers(len(points)))]
    distances = ((points - points[centers[0]]) ** 2).sum(axis=1)
    while len(centers) < classes and distances.sum() > 0:
        centers.append(int(rng.choice(len(points), p=distances / distances.sum())))
        distances = np.minimum(distances, ((points - points[centers[-1]]) ** 2).sum(axis=1))
    squares = np.stack([((points - points[center]) ** 2).sum(axis=1) for center in centers], axis=1)
    return squares.argmin(axis=1)


def _predict(episodes: Episodes, model: _Classes) -> Float:
    """[E] mean log-likelihood of the second half of each episode under the class that its first half chooses."""
    fits = model.log_likelihood(episodes)
    early = episodes.early[:, None]
    chosen = episodes.sums(np.where(early, fits, 0.0)).argmax(axis=1)
    late = episodes.sums(np.where(early, 0.0, fits)) / episodes.sums(np.where(early, 0.0, 1.0))
    return late[np.arange(len(late)), chosen]


def episodes_of(dataset: Dataset, seed: int) -> Episodes:
    """Features and actions of up to 400 episodes, at most 40,000 steps of them.

    Features: 1, the standardized state, and 48 random Fourier features of it (Rahimi and Recht 2007).

    Raises:
        NotMeasurableError: fewer than 8 episodes of 4 steps or more.
    """
    rng = np.random.default_rng([seed, 8])
    long = np.flatnonzero(dataset.episode_lengths >= 4)
    if len(long) < 8:
        raise NotMeasurableError("fewer than 8 episodes have 4 steps or more")
    # Drawn by length, or the few long episodes of a mixture would be missed among many short ones.
    shares = dataset.episode_lengths[long] / dataset.episode_lengths[long].sum()
    chosen = np.sort(rng.choice(long, min(EPISODES, len(long)), replace=False, p=shares))
    each = max(4, STEPS // len(chosen))
    rows, early = [], []
    for episode in chosen:
        start, length = int(dataset.episode_starts[episode]), int(dataset.episode_lengths[episode])
        steps = np.unique(np.linspace(0, length - 1, min(length, each)).astype(np.int64))
        rows.append(start + steps)
        early.append(steps < (length + 1) // 2)
    index = np.concatenate(rows)
    states, actions = (_standardized(part) for part in (states_at(dataset, index), _actions(dataset, index)))
    if not actions.shape[1]:
        raise NotMeasurableError("all actions are equal")
    frequencies = rng.normal(size=(states.shape[1], FEATURES)) / math.sqrt(max(1, states.shape[1]))
    waves = math.sqrt(2) * np.cos(states @ frequencies + rng.uniform(0, 2 * math.pi, FEATURES))
    features = np.concatenate([np.ones((len(index), 1)), states, waves], axis=1)
    starts = np.concatenate([[0], np.cumsum([len(part) for part in rows])])
    return Episodes(features, actions, starts, np.concatenate(early))


def _actions(dataset: Dataset, rows: NDArray[np.int64]) -> Float:
    """Actions as numbers; of choices all but one, which follows from the others."""
    table = encoded_actions(dataset, rows)
    return table[:, 1:] if dataset.discrete else table


def _standardized(table: Float) -> Float:
    """Columns that vary, in standard deviations."""
    deviation = table.std(axis=0)
    varying = deviation > 1e-9 * (1 + np.abs(table).max(axis=0))
    return (table[:, varying] - table[:, varying].mean(axis=0)) / deviation[varying]


@measure(
    "policies",
    "behaviour policies",
    formula=f"number of classes of episodes, 1 to {MOST}, whose first half predicts the actions of the second",
    source="clustering after Hu, Wang, Du 2025, arXiv 2506.09202; the choice of the number is ours",
    cost=f"least squares on up to {STEPS:,} steps of {EPISODES} episodes, some seconds",
    meaning="several policies made the data, as far as their episodes can be told apart",
)
def _policies(view: View) -> float:
    return float(policy_classes(episodes_of(view.dataset, view.settings.seed), view.settings.seed)[0])
