"""The rules of reweighting as functions of scores: softmax at a temperature, the best share, a first state's value.

Sources: Hong et al., Harnessing Mixed Offline RL Datasets via Trajectory Weighting, ICLR 2023, arXiv 2306.13085, and
its published code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from offbench.datasets.columns import Array
from offbench.datasets.dataset import Dataset

# Penalties that the cross-fitted ridge regression tries, per observation of a standardized feature.
PENALTIES = 10.0 ** np.arange(-6.0, 4.0)


def scaled(scores: Array) -> Array:
    """Return scores scaled to [0, 1] by their least and largest; zeros if all are equal."""
    spread = np.ptp(scores)
    return (scores - scores.min()) / spread if spread > 0 else np.zeros(len(scores))


def softmax_weights(scores: Array, temperature: float) -> Array:
    """Return exp(scaled(scores) / temperature) up to a factor; the largest is 1, so nothing overflows."""
    relative = scaled(scores)
    return np.exp((relative - relative.max()) / temperature)


def best(scores: Array, *, fraction: float | None = None, count: int | None = None) -> Array:
    """Return [n] bool, the highest scores: floor(n * fraction) or `count` of them, at least one and at most all.

    Of equal scores the earlier win. The floor is taken of the exact product: 0.29 * 100, which is 28.999999999999996
    in floating point, gives 29.
    """
    if count is None:
        count = int(np.floor(len(scores) * (fraction or 0.0) * (1 + 1e-12)))
    chosen = np.zeros(len(scores), np.bool_)
    chosen[np.argsort(-scores, kind="stable")[: max(1, count)]] = True
    return chosen


def first_features(dataset: Dataset, episodes: Array) -> Array:
    """Return [n, features] float64 of the episodes' first observations: flattened, or one-hot where discrete."""
    frames = dataset.observations[dataset.frame_index[dataset.episode_starts[episodes]]]
    space = dataset.observation_space
    if isinstance(space, spaces.Discrete):
        return np.eye(int(space.n))[frames.reshape(-1) - int(space.start)]
    return frames.reshape(len(frames), -1).astype(np.float64)


def least_squares_value(features: Array, returns: Array) -> Array:
    """Return [n], the ordinary least-squares fit (with intercept) of returns [n] on features, at the same points.

    It is what the paper's code uses (scikit-learn's LinearRegression, fitted and evaluated on the same episodes).
    """
    centred = features - features.mean(axis=0)
    slope, *_ = np.linalg.lstsq(centred, returns - returns.mean(), rcond=None)
    return returns.mean() + centred @ slope


@dataclass(frozen=True)
class CrossFit:
    """A ridge regression whose value at each episode does not know that episode.

    Attributes:
        values: [n], the prediction at each episode by the fit to all others.
        penalty: the chosen one of `PENALTIES`.
        explained: 1 - squared error / squared error of the mean of the others; 0 or less if the features say nothing.
    """

    values: Array
    penalty: float
    explained: float


def ridge_value(features: Array, returns: Array) -> CrossFit:
    """Fit returns [n] on standardized features by ridge regression with an intercept that is not penalized.

    The penalty is the one of `PENALTIES` (times n) with the least leave-one-out error. Leave-one-out predictions have
    a closed form: the residual of the fit divided by one less the leverage (Hastie, Tibshirani, Friedman, equation
    7.64), so that nothing is refitted.

    Args:
        features: [n, d] with n > 1; a feature without spread is ignored.
    """
    count = len(returns)
    spread = features.std(axis=0)
    use = spread > 1e-12 * (1.0 + np.abs(features).max(axis=0, initial=0.0))
    table = (features[:, use] - features[:, use].mean(axis=0)) / spread[use]
    centred = returns - returns.mean()
    axes, sizes, _ = np.linalg.svd(table, full_matrices=False)
    projected = axes.T @ centred
    fits = []
    for penalty in PENALTIES:
        shrink = sizes**2 / (sizes**2 + penalty * count)
        leverage = 1.0 / count + np.square(axes) @ shrink
        residual = centred - axes @ (shrink * projected)
        fits.append(residual / np.maximum(1.0 - leverage, 1e-12))
    errors = [float(np.mean(left_out**2)) for left_out in fits]
    chosen = int(np.argmin(errors))
    alone = float(np.mean((centred * count / (count - 1)) ** 2))  # the mean of the others as the prediction
    return CrossFit(
        values=returns - fits[chosen],
        penalty=float(PENALTIES[chosen]),
        explained=1.0 - errors[chosen] / alone if alone > 0 else 0.0,
    )
