"""Exact nearest neighbours of many queries at once, on any device: a k-d tree that is walked level by level."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_LEAF = 8  # largest number of rows in a leaf
_FAN = 4  # children per inner node: two binary splits, so that a level is worth its kernel calls
_TOP = 64  # nodes of the first level that is looked at, at most
_PAIRS = 1 << 14  # pairs of query and leaf whose distances are computed at once, for memory
# A box may be this much farther than the bound: more than the rounding of either squared distance.
_SLACK = 1.0 + 1e-5


class NeighbourIndex:
    """Rows that can be asked for the nearest one, by Euclidean distance.

    The rows are split at medians of the widest dimension into 2^k leaves of equal size (one row more or less). A query
    comes with a bound: its squared distance to any row, which its caller knows. A first descent into the nearest boxes
    tightens it. Then all queries go down the tree together; a node is left out when its box is farther from the query
    than the bound. Distances in the leaves that remain are sums of squared float32 differences, so nothing is lost to
    cancellation, and there is no approximation.

    Building is done once on the CPU. A search waits for the device some times, because what remains has to be counted.

    Args:
        rows: [N, D] float32.
    """

    def __init__(self, rows: Tensor) -> None:
        device, values = rows.device, rows.detach().cpu().numpy()
        self._count = len(rows)
        parts = _halved(values)
        size = max(len(part) for part in parts)
        # Short leaves repeat their first row, which changes neither the smallest distance nor the row that has it.
        numbers = np.stack([np.append(part, np.repeat(part[:1], size - len(part))) for part in parts])
        self._numbers = torch.from_numpy(numbers).to(device)  # [leaves, size], row numbers
        self._leaves = rows.detach()[self._numbers]  # [leaves, size, D]
        low, high = self._leaves.amin(1), self._leaves.amax(1)
        self._levels = [(low, high)]  # boxes [nodes, D] from the top to the leaves
        while len(self._levels[0][0]) > _TOP:
            low, high = self._levels[0]
            self._levels.insert(0, (low.unflatten(0, (-1, _FAN)).amin(1), high.unflatten(0, (-1, _FAN)).amax(1)))

    def nearest(self, queries: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest row of every query; of several that are equally near, the one of the smallest number.

        Args:
            queries: [Q, D].
            bound: [Q], the squared distance to some row. The tighter, the faster.

        Returns:
            Row numbers [Q] int64 and squared distances [Q]. The distance of a query that is not finite is infinite,
            its row number 0.
        """
        bound = torch.minimum(bound, self._first_guess(queries))
        query, leaf = self._reachable(queries, bound * _SLACK)
        best = torch.full_like(bound, float("inf"))
        row = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
        for some_queries, some_leaves in zip(query.split(_PAIRS), leaf.split(_PAIRS), strict=True):
            differences = self._leaves[some_leaves] - queries[some_queries].unsqueeze(1)
            distances = differences.square_().sum(-1)  # [pairs, size]
            before = best.clone()
            best.scatter_reduce_(0, some_queries, distances.amin(1), "amin")
            row.masked_fill_(best < before, self._count)  # larger than any row's number
            is_best = distances == best[some_queries].unsqueeze(1)
            numbers = self._numbers[some_leaves].masked_fill(~is_best, self._count)
            row.scatter_reduce_(0, some_queries, numbers.amin(1), "amin")
        return row, best

    def _first_guess(self, queries: Tensor) -> Tensor:
        """Squared distances [Q] to a row that should be near: the best of the leaf that the nearest boxes lead to."""
        low, high = self._levels[0]
        node = _squared_gap(queries.unsqueeze(1), low, high).argmin(1)
        children = torch.arange(_FAN, device=queries.device)
        for low, high in self._levels[1:]:
            nodes = node.unsqueeze(1) * _FAN + children
            nearest = _squared_gap(queries.unsqueeze(1), low[nodes], high[nodes]).argmin(1, keepdim=True)
            node = nodes.gather(1, nearest).squeeze(1)
        return (self._leaves[node] - queries.unsqueeze(1)).square_().sum(-1).amin(1)

    def _reachable(self, queries: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs (query, leaf) [P] whose boxes are not farther apart than the bound."""
        low, high = self._levels[0]
        near = _squared_gap(queries.unsqueeze(1), low, high) <= bound.unsqueeze(1)
        query, node = near.nonzero(as_tuple=True)
        children = torch.arange(_FAN, device=queries.device)
        for low, high in self._levels[1:]:
            nodes = node.unsqueeze(1) * _FAN + children  # [P, fan]
            near = _squared_gap(queries[query].unsqueeze(1), low[nodes], high[nodes]) <= bound[query].unsqueeze(1)
            parent, child = near.nonzero(as_tuple=True)
            query, node = query[parent], nodes[parent, child]
        return query, node


def _squared_gap(points: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Squared distances of points from boxes, zero inside, summed over the last axis."""
    return torch.maximum(low - points, points - high).clamp_(min=0.0).square_().sum(-1)


def _halved(values: np.ndarray) -> list[np.ndarray]:
    """Row numbers of the leaves, each split made at the median of the part's widest dimension."""
    parts = [np.arange(len(values))]
    while len(parts[0]) > _LEAF:  # the first part is never the smaller one
        halves = []
        for part in parts:
            inside = values[part]
            widest = int(np.argmax(inside.max(0) - inside.min(0)))
            middle = (len(part) + 1) // 2
            order = part[np.argpartition(inside[:, widest], middle - 1)]
            halves += [order[:middle], order[middle:]]
        parts = halves
    return parts
