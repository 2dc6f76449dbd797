"""Nearest neighbours and clusters of points, by blocks of exact distances; no index structure, for samples only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offbench.analysis.quality_view import Float

_BLOCK_VALUES = 1 << 22  # distances of a block: 32 MB


def nearest(points: Float, k: int, queries: Float | None = None) -> tuple[Float, NDArray[np.int64]]:
    """Return distances and indices [m, k] of the k nearest points of each query, nearest first.

    Args:
        points: [n, D].
        queries: [m, D]; None asks for the neighbours of each point among the others.
    """
    itself = queries is None
    asked = points if queries is None else queries
    k = min(k, len(points) - itself)
    center = points.mean(axis=0)  # small numbers keep the digits of differences
    points, asked = points - center, asked - center
    norms = np.einsum("ij,ij->i", points, points)
    found = np.empty((len(asked), k), np.int64)
    # A product of matrices is fast but cancels for close points: it picks candidates, whose distances are computed.
    spare = min(len(points) - itself, k + 4)
    distances = np.empty((len(asked), k))
    step = max(1, _BLOCK_VALUES // max(1, len(points)))
    for start in range(0, len(asked), step):
        block = asked[start : start + step]
        squares = norms - 2.0 * (block @ points.T)
        rows = np.arange(len(block))
        if itself:
            squares[rows, start + rows] = np.inf
        candidates = np.argpartition(squares, spare - 1, axis=1)[:, :spare]
        exact = np.linalg.norm(points[candidates] - block[:, None, :], axis=2)
        order = np.argsort(exact, axis=1, kind="stable")[:, :k]
        found[start : start + step] = np.take_along_axis(candidates, order, axis=1)
        distances[start : start + step] = np.take_along_axis(exact, order, axis=1)
    return distances, found


def squared_distances(points: Float, centers: Float) -> Float:
    """Return [n, k] squared Euclidean distances, at least 0."""
    squares = np.einsum("ij,ij->i", points, points)[:, None] - 2.0 * (points @ centers.T)
    return np.maximum(squares + np.einsum("ij,ij->i", centers, centers), 0.0)


def k_means(points: Float, k: int, seed: int, rounds: int = 25) -> Float:
    """Return up to k centers [k', D] by Lloyd's algorithm from k-means++ starts (Arthur and Vassilvitskii 2007)."""
    rng = np.random.default_rng([seed, 3])
    centers = [points[rng.integers(len(points))]]
    nearest_square = squared_distances(points, centers[0][None])[:, 0]
    while len(centers) < k and nearest_square.sum() > 0:
        chosen = rng.choice(len(points), p=nearest_square / nearest_square.sum())
        centers.append(points[chosen])
        nearest_square = np.minimum(nearest_square, squared_distances(points, centers[-1][None])[:, 0])
    result = np.array(centers)
    for _ in range(rounds):
        labels = squared_distances(points, result).argmin(axis=1)
        sizes = np.bincount(labels, minlength=len(result))
        sums = np.zeros_like(result)
        np.add.at(sums, labels, points)
        moved = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], result)
        if np.array_equal(moved, result):
            break
        result = moved
    return result
