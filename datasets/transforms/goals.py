"""Goal relabelling: goals that a trajectory reached later, and the sparse rewards that they mean (hindsight)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from gymnasium import spaces

from offbench.datasets.columns import Array
from offbench.datasets.marks import BOOTSTRAP_DISCOUNT
from offbench.datasets.transforms.base import Transform
from offbench.datasets.transforms.scaling import without_environment
from offbench.datasets.transforms.subsets import take_rows
from offbench.errors import DatasetError, IncompatibleError, SpecError

if TYPE_CHECKING:
    from offbench.datasets.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Hindsight(Transform):
    """Hindsight experience replay (Andrychowicz et al. 2017) for a fixed dataset: one goal per transition.

    The goal of row t is what the same episode achieved at a later step t' > t, phi(s_{t'}), or a kept or random one.
    The reward is that of reaching it: 0 if |phi(s_{t+1}) - g| <= threshold, else -1. Several goals per transition are
    several datasets of different seeds, put together with `concatenate`. Rows whose s' is unknown are left out,
    because nothing is known to be achieved there.

    Attributes:
        strategy: how t' is drawn, from t + 1 to the last known step: "future" uniformly (HER), "final" the last one,
            "geometric" t + j with probability proportional to discount^j, cut at the last one (contrastive RL,
            Eysenbach et al. 2022; OGBench); "random" any frame of the dataset, also of other episodes.
        share: of the rows that get such a goal; the others keep the column `goals`. HER with k = 4 is 0.8.
        achieved: entries of the flattened observation that make up phi(s); by default all.
        threshold: Euclidean distance up to which a goal counts as reached; 0 means equal.
        rewards: [when reached, otherwise]; (0, -1) in HER, (1, 0) in some benchmarks.
        terminate: nothing is bootstrapped where the goal is reached, as in OGBench.
        append: append the goal to the flattened observation, so that any algorithm learns from it. Without it, the
            goals are the column `goals` only.
        discount: of "geometric".
        seed: of the draws.
    """

    name: ClassVar[str] = "hindsight"
    summary: ClassVar[str] = "goals that the trajectory reached later, with sparse rewards (HER)"

    strategy: Literal["future", "final", "geometric", "random"] = "future"
    share: float = 1.0
    achieved: list[int] | None = None
    threshold: float = 0.0
    rewards: tuple[float, float] = (0.0, -1.0)
    terminate: bool = False
    append: bool = False
    discount: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise SpecError(f"hindsight: share = {self.share} is not in (0, 1]")
        if not self.threshold >= 0:
            raise SpecError(f"hindsight: threshold = {self.threshold} is negative")
        if not 0 < self.discount < 1:
            raise SpecError(f"hindsight: discount = {self.discount} is not in (0, 1)")
        if self.achieved is not None and (not self.achieved or min(self.achieved) < 0):
            raise SpecError(f"hindsight: achieved = {self.achieved}", "", "list entries of the observation, from 0")
        if not np.isfinite(self.rewards).all():
            raise SpecError(f"hindsight: rewards = {list(self.rewards)}", "", "give two finite numbers")

    def apply(self, dataset: Dataset) -> Dataset:
        """The relabelled dataset.

        Raises:
            IncompatibleError: goals that should be kept are not there or of another size, or `achieved` does not fit.
            DatasetError: no next observation is known.
        """
        if not dataset.next_valid.any():
            raise DatasetError(f"no next observation of {dataset.name} is known", "so nothing is known to be achieved")
        left_out = int((~dataset.next_valid).sum())
        if left_out:
            dataset = take_rows(dataset, dataset.next_valid)
        count = dataset.num_transitions
        following = self._achieved(dataset, dataset.next_observations)
        chosen = self._rows(dataset)
        goals = following[chosen]
        relabelled = np.ones(count, np.bool_)
        if self.share < 1:
            relabelled = self.rng("share").random(count) < self.share
            goals[~relabelled] = self._kept(dataset, goals)[~relabelled]
        distance = np.linalg.norm(following.astype(np.float64) - goals, axis=1)
        reached = distance <= self.threshold
        infos = dict(dataset.infos)
        if self.terminate:
            earlier = infos.get(BOOTSTRAP_DISCOUNT, np.ones(count, np.float32))
            infos[BOOTSTRAP_DISCOUNT] = np.where(reached, np.float32(0), earlier)
        rewards = np.where(reached, *self.rewards).astype(np.float32)
        changes: dict[str, Any] = {"goals": goals, "rewards": rewards, "infos": infos}
        touched, clean = {"rewards": rewards != dataset.rewards}, {"rewards": dataset.rewards}
        measured = {"reached": float(reached.mean()), "relabelled": int(relabelled.sum()), "left_out": left_out}
        if self.append:
            changes |= self._appended(dataset, goals)
            dataset = without_environment(dataset, "none: policies need the goal appended to the observation")
        return self.changed(dataset, touched=touched, clean=clean, measured=measured, **changes)

    def _achieved(self, dataset: Dataset, observations: Array) -> Array:
        flat = observations.reshape(len(observations), -1)
        if self.achieved is None:
            return flat.astype(np.float32)
        if max(self.achieved) >= flat.shape[1]:
            raise IncompatibleError(
                f"achieved = {self.achieved}, but an observation of {dataset.name} has {flat.shape[1]} entries"
            )
        return flat[:, self.achieved].astype(np.float32)

    def _rows(self, dataset: Dataset) -> Array:
        """[N] the row t' - 1 whose next observation is the goal: of the same episode and not before the row itself."""
        rows, rng = np.arange(dataset.num_transitions), self.rng("goals")
        last = (dataset.episode_starts + dataset.episode_lengths - 1)[dataset.episode_ids]
        if self.strategy == "random":
            return rng.integers(0, dataset.num_transitions, dataset.num_transitions)
        if self.strategy == "final":
            return last
        if self.strategy == "future":
            return rng.integers(rows, last + 1)
        return np.minimum(rows + rng.geometric(1 - self.discount, len(rows)) - 1, last)

    def _kept(self, dataset: Dataset, goals: Array) -> Array:
        given = None if dataset.goals is None else dataset.goals.reshape(len(goals), -1)
        if given is None or given.shape != goals.shape:
            have = "none" if given is None else f"goals of {given.shape[1]} entries"
            raise IncompatibleError(
                f"hindsight with share = {self.share} keeps some goals, but {dataset.name} has {have}",
                f"a relabelled goal has {goals.shape[1]} entries",
                "give share=1.0, or `achieved` with the entries that goals have",
            )
        return given

    def _appended(self, dataset: Dataset, goals: Array) -> dict[str, Any]:
        """Columns of observations with the goal behind them; s' has the goal of its row, so it is given apart."""
        following = dataset.next_observations.reshape(len(goals), -1)
        now = dataset.step_observations.reshape(len(goals), -1)
        size = now.shape[1] + goals.shape[1]
        return {
            "observations": np.concatenate([now, goals], axis=1).astype(np.float32),
            "next_observations_override": np.concatenate([following, goals], axis=1).astype(np.float32),
            "last_known": np.zeros(dataset.num_episodes, np.bool_),
            "observation_space": spaces.Box(-np.inf, np.inf, (size,), np.float32),
        }
