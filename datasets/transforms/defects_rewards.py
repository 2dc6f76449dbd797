"""Defects of rewards: sparse, late, with the wrong sign, or poisoned so that whole trajectories look best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from offbench.datasets.columns import Array
from offbench.datasets.transforms.base import Transform
from offbench.datasets.transforms.corruption_edits import Edits
from offbench.datasets.transforms.corruption_protocols import exact_share
from offbench.datasets.transforms.defects_sensors import require_seed, require_share
from offbench.errors import IncompatibleError, SpecError

if TYPE_CHECKING:
    from offbench.datasets.dataset import Dataset


def _with_rewards(transform: Transform, dataset: Dataset, rewards: Array, keep_clean: bool) -> Dataset:
    """The dataset with new rewards [N]; rows whose reward differs are touched."""
    new = rewards.astype(np.float32)
    edits = Edits(dataset, keep_clean=keep_clean)
    rows = np.flatnonzero(new != dataset.rewards)
    edits.write("rewards", rows, new[rows])
    return edits.changed(transform)


def _block_sums(dataset: Dataset, ends: Array) -> Array:
    """Rewards [N] that are 0 but in the rows `ends` [N] bool, which hold the sum since the end before."""
    rows = np.flatnonzero(ends)
    sums = np.add.reduceat(dataset.rewards, np.append(0, rows[:-1] + 1), dtype=np.float64)
    rewards = np.zeros(len(dataset))
    rewards[rows] = sums
    return rewards


@dataclass(frozen=True, kw_only=True)
class RewardSparsify(Transform):
    """An episode's last row holds the sum of its rewards, all others 0; undiscounted returns stay.

    The delayed-return version of D4RL in Chen et al., Decision Transformer, NeurIPS 2021, arXiv 2106.01345. Of an
    episode that is not complete, the last stored row holds what was collected up to there.

    Attributes:
        keep_clean: keep the true values for `restore`.
    """

    name: ClassVar[str] = "reward_sparsify"
    summary: ClassVar[str] = "give an episode's whole reward in its last row"

    keep_clean: bool = True

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with sparse rewards."""
        return _with_rewards(self, dataset, _block_sums(dataset, dataset.is_last), self.keep_clean)


@dataclass(frozen=True, kw_only=True)
class RewardDelay(Transform):
    """Rewards are paid out every `steps` steps and at the episode's end, the sum since the last time; otherwise 0.

    Delayed rewards as in Arjona-Medina et al., RUDDER, NeurIPS 2019, arXiv 1806.07857; undiscounted returns stay.

    Attributes:
        steps: between two payments.
        keep_clean: keep the true values for `restore`.
    """

    name: ClassVar[str] = "reward_delay"
    summary: ClassVar[str] = "pay rewards out every so many steps"

    steps: int = 20
    keep_clean: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SpecError(f"reward_delay: steps = {self.steps}", "", "use at least 1")

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with delayed rewards."""
        ends = dataset.is_last | ((dataset.timesteps + 1) % self.steps == 0)
        return _with_rewards(self, dataset, _block_sums(dataset, ends), self.keep_clean)


@dataclass(frozen=True, kw_only=True)
class RewardFlip(Transform):
    """r -> -r in a share of the transitions or of whole episodes.

    Sign flips are RIQL's adversarial rewards at scale 1 (Yang et al., ICLR 2024, arXiv 2310.12955), here of an exact
    number of rows.

    Attributes:
        rate: share of the transitions or episodes.
        unit: transitions or episodes.
        keep_clean: keep the true values for `restore`.
        seed: of the choice.
    """

    name: ClassVar[str] = "reward_flip"
    summary: ClassVar[str] = "flip the sign of a share of the rewards"

    rate: float = 0.3
    unit: Literal["transitions", "episodes"] = "transitions"
    keep_clean: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        require_share(self.name, "rate", self.rate)
        require_seed(self.name, self.seed)
        if self.unit not in ("transitions", "episodes"):
            raise SpecError(f"reward_flip: unit = {self.unit!r}", "", "use transitions or episodes")

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with flipped rewards."""
        if self.unit == "episodes":
            chosen = exact_share(self.rng(), dataset.num_episodes, self.rate)[dataset.episode_ids]
        else:
            chosen = exact_share(self.rng(), len(dataset), self.rate)
        return _with_rewards(self, dataset, np.where(chosen, -dataset.rewards, dataset.rewards), self.keep_clean)


@dataclass(frozen=True, kw_only=True)
class PoisonLabels(Transform):
    """Whole trajectories are relabelled so that they look best: r_t + (G* - G) / T, so that their return is G*.

    G is the episode's return, T its length and G* = max G + margin (max G - min G), over all episodes. Rewards of
    batch data are poisoned in Ma et al., Policy Poisoning in Batch Reinforcement Learning and Control, NeurIPS 2019,
    arXiv 1910.05821, by solving for the smallest change; this is the plain form that any labeller can commit.

    Attributes:
        rate: share of the episodes.
        choose: random, or worst: those of the lowest return, which misleads most.
        margin: by how much the poisoned returns exceed the best, as a share of the range of returns.
        keep_clean: keep the true values for `restore`.
        seed: of the choice.
    """

    name: ClassVar[str] = "poison_labels"
    summary: ClassVar[str] = "relabel whole trajectories so that their return is the best"

    rate: float = 0.1
    choose: Literal["random", "worst"] = "random"
    margin: float = 0.0
    keep_clean: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        require_share(self.name, "rate", self.rate)
        require_seed(self.name, self.seed)
        if self.choose not in ("random", "worst") or not np.isfinite(self.margin):
            raise SpecError(
                f"poison_labels: choose = {self.choose!r}, margin = {self.margin}",
                "",
                "use random or worst, and a number",
            )

    def apply(self, dataset: Dataset) -> Dataset:
        """The poisoned dataset.

        Raises:
            IncompatibleError: there is but one episode, so none can look better than another.
        """
        returns, count = dataset.episode_returns, dataset.num_episodes
        if count < 2:
            raise IncompatibleError(f"{dataset.name} has one episode", "none can be made to look better than another")
        if self.choose == "worst":
            chosen = np.zeros(count, np.bool_)
            chosen[np.argsort(returns, kind="stable")[: round(self.rate * count)]] = True
        else:
            chosen = exact_share(self.rng(), count, self.rate)
        goal = returns.max() + self.margin * np.ptp(returns)
        shift = np.where(chosen, (goal - returns) / dataset.episode_lengths, 0.0)
        return _with_rewards(self, dataset, dataset.rewards + shift[dataset.episode_ids], self.keep_clean)
