"""Rewards relabelled: scale, shift, clipping, the range of returns, a function of the transitions, returns-to-go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from offbench.datasets.columns import Array
from offbench.datasets.marks import complete_returns, missing
from offbench.datasets.returns import returns_to_go
from offbench.datasets.transforms.base import Transform
from offbench.errors import DatasetError, IncompatibleError, SpecError

if TYPE_CHECKING:
    from offbench.datasets.dataset import Dataset

RETURN_TO_GO = "return_to_go"


@dataclass(frozen=True, kw_only=True)
class RelabelRewards(Transform):
    """r -> clip((r / range or r) * scale + shift), in this order, of every transition.

    Scores are not affected: policies are evaluated with the environment's own rewards. Measures of the dataset that
    use its reference are: their unit is the environment's reward. The original rewards are kept as
    infos "clean/rewards", and `restore` puts them back.

    Attributes:
        scale, shift: AntMaze's usual relabelling of rewards 1 and 0 to 0 and -1 is shift = -1 (Kumar et al. 2020, CQL;
            Kostrikov et al. 2021, IQL).
        normalize: "return_range" first divides by (largest - smallest return of the complete episodes), so that with
            scale = 1000 it is IQL's normalization for locomotion (Kostrikov et al. 2021); "standardize" first subtracts
            the mean reward and divides by the standard deviation.
        clip: [low, high] after everything else.
    """

    name: ClassVar[str] = "relabel_rewards"
    summary: ClassVar[str] = "scale, shift, clip or normalize rewards"

    scale: float = 1.0
    shift: float = 0.0
    normalize: Literal["none", "return_range", "standardize"] = "none"
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not np.isfinite([self.scale, self.shift]).all() or self.scale == 0:
            raise SpecError(f"relabel_rewards: scale = {self.scale}, shift = {self.shift}", "", "give finite numbers")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise SpecError(f"relabel_rewards: clip = {list(self.clip)}", "", "give [low, high] with low below high")
        if (self.scale, self.shift, self.normalize, self.clip) == (1.0, 0.0, "none", None):
            raise SpecError("relabel_rewards changes nothing", "", "give scale, shift, normalize or clip")

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with the new rewards.

        Raises:
            IncompatibleError: there is no range or no spread to normalize by.
        """
        absent = missing(dataset, "rewards")
        known = np.ones(dataset.num_transitions, np.bool_) if absent is None else ~absent
        rewards = dataset.rewards.astype(np.float64)
        measured: dict[str, float] = {}
        if self.normalize == "return_range":
            measured["return_range"] = spread = _return_range(dataset)
            rewards /= spread
        elif self.normalize == "standardize":
            mean, spread = float(rewards[known].mean()), float(rewards[known].std())
            if not spread > 0:
                raise IncompatibleError(f"all rewards of {dataset.name} are {mean:.6g}", "they have no spread")
            measured |= {"mean": mean, "standard_deviation": spread}
            rewards = (rewards - mean) / spread
        rewards = rewards * self.scale + self.shift
        if self.clip is not None:
            measured["clipped"] = int(((rewards < self.clip[0]) | (rewards > self.clip[1]))[known].sum())
            rewards = np.clip(rewards, *self.clip)
        return _with_rewards(self, dataset, np.where(known, rewards, dataset.rewards), measured)


def _return_range(dataset: Dataset) -> float:
    returns = dataset.episode_returns[complete_returns(dataset)]
    spread = float(returns.max() - returns.min()) if len(returns) else 0.0
    if not spread > 0:
        raise IncompatibleError(
            f"rewards of {dataset.name} cannot be normalized by the range of returns",
            "it has fewer than two complete episodes of different return",
            "give scale instead",
        )
    return spread


def _with_rewards(transform: Transform, dataset: Dataset, rewards: Array, measured: dict[str, Any]) -> Dataset:
    new = rewards.astype(np.float32)
    return transform.changed(
        dataset,
        touched={"rewards": new != dataset.rewards},
        clean={"rewards": dataset.rewards},
        measured=measured,
        rewards=new,
    )


@dataclass(frozen=True, kw_only=True)
class RelabelByFunction(Transform):
    """Rewards computed by a function of the transitions; for Python, as a function has no form in YAML.

    Attributes:
        function: called once with (observations [N, ...], actions [N, ...], rewards [N], next_observations [N, ...]),
            read-only; returns [N] finite rewards. Rows whose next observation is unknown keep their reward: the
            function sees their own observation in its place.
        needs_next: False if the function ignores next observations, so that every row is relabelled.
    """

    name: ClassVar[str] = "relabel_by_function"
    summary: ClassVar[str] = "rewards from a Python function of the transitions"

    function: Callable[[Array, Array, Array, Array], ArrayLike]
    needs_next: bool = True

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with the new rewards.

        Raises:
            DatasetError: the function does not return one finite number per transition.
        """
        given = (dataset.step_observations, dataset.actions, dataset.rewards, dataset.next_observations)
        rewards = np.asarray(self.function(*given))
        if rewards.shape != (dataset.num_transitions,) or not np.isfinite(rewards).all():
            raise DatasetError(
                f"the reward function returned an array of shape {rewards.shape}"
                + ("" if np.isfinite(rewards).all() else " with NaN or infinite values"),
                f"one finite number for each of {dataset.num_transitions} transitions is expected",
            )
        kept = np.flatnonzero(~dataset.next_valid) if self.needs_next else np.zeros(0, np.int64)
        rewards = rewards.astype(np.float64)
        rewards[kept] = dataset.rewards[kept]
        return _with_rewards(self, dataset, rewards, {"unknown_next": len(kept)})


@dataclass(frozen=True, kw_only=True)
class ReturnsToGo(Transform):
    """Adds infos "return_to_go": the discounted sum of rewards from a transition to its episode's end.

    In an episode that is neither terminated nor truncated it is the sum of what is known, a lower part of the return.
    Algorithms that need returns-to-go compute them by themselves; this column is for analysis and for other programs.

    Attributes:
        discount: of later rewards.
    """

    name: ClassVar[str] = "returns_to_go"
    summary: ClassVar[str] = "add the discounted return-to-go as a column"

    discount: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.discount <= 1:
            raise SpecError(f"returns_to_go: discount = {self.discount} is not in [0, 1]")

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with the column, float32."""
        values = returns_to_go(dataset.rewards, dataset.episode_starts, self.discount).astype(np.float32)
        return self.changed(dataset, infos={**dataset.infos, RETURN_TO_GO: values})
