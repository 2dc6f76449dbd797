"""Trajectories without actions or without rewards: values dropped for a share of the trajectories (SS-ORL, UDS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from gymnasium import spaces

from offbench.datasets.columns import Array
from offbench.datasets.marks import MISSING
from offbench.datasets.transforms.base import Transform
from offbench.errors import DatasetError, SpecError

if TYPE_CHECKING:
    from offbench.datasets.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class _Drop(Transform):
    """What dropping actions and dropping rewards have in common.

    Attributes:
        fraction: share of the trajectories that lose the values, rounded; at least one keeps them.
        labelled_from: [low, high], quantiles of return between which the trajectories that keep them are drawn. The
            setting of SS-ORL's code (Zheng et al. 2023; facebookresearch/ssorl), labels for 10 % of the trajectories,
            drawn from the worse half, is `fraction=0.9, labelled_from=[0.0, 0.5]`.
        seed: of the draw.
    """

    column: ClassVar[str]

    fraction: float
    labelled_from: tuple[float, float] = (0.0, 1.0)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise SpecError(f"{self.name}: fraction = {self.fraction} is not in (0, 1)")
        low, high = self.labelled_from
        if not 0 <= low < high <= 1:
            raise SpecError(
                f"{self.name}: labelled_from = {list(self.labelled_from)}", "", "give [0.0, 0.5] or the like"
            )

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with fillers in place of the values, and the rows marked.

        Raises:
            DatasetError: fewer than two trajectories, or fewer between the quantiles than are to keep the values.
        """
        dropped = self._rows(dataset)
        values = getattr(dataset, self.column)
        column = values.copy()
        column[dropped] = self._filler(dataset)
        infos, mark = dict(dataset.infos), MISSING + self.column
        infos[mark] = dropped | infos[mark] if mark in infos else dropped
        return self.changed(
            dataset,
            infos=infos,
            touched={self.column: dropped},
            clean={self.column: values},
            measured={"trajectories": int(np.logical_or.reduceat(dropped, dataset.episode_starts).sum())},
            **{self.column: column},
        )

    def _rows(self, dataset: Dataset) -> Array:
        count = dataset.num_episodes
        keep = max(1, count - round(self.fraction * count))
        if keep >= count:
            raise DatasetError(
                f"{dataset.name} has {count} trajectories, of which {self.fraction:.3g} is none",
                "values are dropped for whole trajectories",
                "raise the fraction, or use more trajectories",
            )
        low, high = self.labelled_from
        ranked = np.argsort(dataset.episode_returns, kind="stable")[round(low * count) : round(high * count)]
        if len(ranked) < keep:
            raise DatasetError(
                f"{keep} trajectories are to keep their {self.column}, but {len(ranked)} lie between the quantiles",
                f"{low} and {high} of return, of {count} trajectories",
                "raise the fraction, or widen labelled_from",
            )
        labelled = np.zeros(count, np.bool_)
        labelled[self.rng().permutation(ranked)[:keep]] = True
        return ~labelled[dataset.episode_ids]

    def _filler(self, dataset: Dataset) -> Any:
        return 0


@dataclass(frozen=True, kw_only=True)
class DropActions(_Drop):
    """The actions of a share of the trajectories become unknown.

    A filler stands in their place (the middle of the box, or the first choice) and infos "missing/actions" marks the
    rows: training leaves them out until `fill_actions` has filled them. The true ones are kept as "clean/actions", for
    measuring the error; no algorithm sees them.
    """

    name: ClassVar[str] = "drop_actions"
    summary: ClassVar[str] = "make the actions of a share of the trajectories unknown"
    column: ClassVar[str] = "actions"

    def _filler(self, dataset: Dataset) -> Any:
        space = dataset.action_space
        if isinstance(space, spaces.Box):
            bounded = np.isfinite(space.low) & np.isfinite(space.high)
            low, high = (np.where(bounded, bound, 0).astype(np.float64) for bound in (space.low, space.high))
            return ((low + high) / 2).astype(np.float32)
        return getattr(space, "start", 0)


@dataclass(frozen=True, kw_only=True)
class DropRewards(_Drop):
    """The rewards of a share of the trajectories become unknown.

    Zeros stand in their place and infos "missing/rewards" marks the rows: algorithms that use rewards leave them out
    until `fill_rewards` has filled them; imitation uses them. The true ones are kept as "clean/rewards".
    """

    name: ClassVar[str] = "drop_rewards"
    summary: ClassVar[str] = "make the rewards of a share of the trajectories unknown"
    column: ClassVar[str] = "rewards"
