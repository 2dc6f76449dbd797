"""DSRL's dataset filters: density, outliers, noise, inpainting and epsilon, for data with costs.

Liu et al., Datasets and Benchmarks for Offline Safe Reinforcement Learning, arXiv 2306.09303; the code is
dsrl/offline_env.py, `pre_process_data`. Like there, an episode counts if it is terminated or truncated: a trailing
unfinished one goes. Differences, all from being a pure function with a seed: episodes keep the order of the data (there
the density filter groups them by bin); the density filter draws from the transform's seed (there from Python's global
generator).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from offbench.datasets.columns import Array
from offbench.datasets.transforms.base import Transform
from offbench.datasets.transforms.corruption_edits import Edits
from offbench.datasets.transforms.corruption_protocols import add_noise
from offbench.datasets.transforms.defects_sensors import require_seed
from offbench.datasets.transforms.subsets import take_episodes
from offbench.errors import IncompatibleError, SpecError

if TYPE_CHECKING:
    from offbench.datasets.dataset import Dataset

OUTLIER_FACTOR = 1.5  # rewards of an outlier are multiplied by this
DSRL_SEED = 1234  # the authors' generator: PCG64(1234)


def _returns(transform: str, dataset: Dataset) -> tuple[Array, Array, Array]:
    """Numbers of the complete episodes, their sums of costs and their returns, [M] each, float64."""
    if dataset.costs is None:
        raise IncompatibleError(
            f"{transform} does not apply to {dataset.name}",
            "it has no costs",
            "read a DSRL file, or pass costs= to Dataset.from_arrays",
        )
    complete = np.flatnonzero(dataset.episode_complete)
    if not len(complete):
        raise IncompatibleError(f"{transform} does not apply to {dataset.name}", "no episode of it is complete")
    costs = np.add.reduceat(dataset.costs, dataset.episode_starts, dtype=np.float64)
    return complete, costs[complete], dataset.episode_returns[complete]


def _kept(transform: Transform, dataset: Dataset, episodes: Array) -> Dataset:
    if not len(episodes):
        raise IncompatibleError(f"{transform.name} would remove every episode of {dataset.name}")
    measured = {"episodes_before": dataset.num_episodes, "episodes_after": len(episodes)}
    return transform.changed(take_episodes(dataset, np.sort(episodes)), measured=measured)


@dataclass(frozen=True, kw_only=True)
class DsrlDensity(Transform):
    """Thin out episodes where there are many: a grid over (cost, return) keeps at most `max_per_bin` in each bin.

    Bins with at most `min_per_bin` episodes are emptied, as in the authors' code. The largest cost or return has a bin
    of its own, because bins are floor((x - min) / width). DSRL's settings per task and density are in its infos.py
    (DENSITY_CFG: cbins, rbins, max_npb, min_npb).

    Attributes:
        cost_bins, return_bins: cbins and rbins.
        max_per_bin, min_per_bin: max_npb and min_npb.
        seed: of the draws within bins.
    """

    name: ClassVar[str] = "dsrl_density"
    summary: ClassVar[str] = "DSRL: at most so many episodes per bin of cost and return"

    cost_bins: int = 10
    return_bins: int = 50
    max_per_bin: int = 5
    min_per_bin: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        require_seed(self.name, self.seed)
        if min(self.cost_bins, self.return_bins, self.max_per_bin) < 1 or self.min_per_bin < 0:
            raise SpecError("dsrl_density: bins and max_per_bin are at least 1, min_per_bin at least 0")

    def apply(self, dataset: Dataset) -> Dataset:
        """The thinned dataset.

        Raises:
            IncompatibleError: no costs, no complete episode, or none would be left.
        """
        complete, costs, returns = _returns(self.name, dataset)
        bins = np.stack([_bins(costs, self.cost_bins), _bins(returns, self.return_bins)], 1)
        _, group, sizes = np.unique(bins, axis=0, return_inverse=True, return_counts=True)
        group = group.reshape(-1)
        order = self.rng().permutation(len(complete))
        order = order[np.argsort(group[order], kind="stable")]  # by bin, in random order inside
        place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        size = sizes[group[order]]
        # A bin above the maximum is cut to it, even where the maximum is not above the minimum (the authors' order).
        keep = (place < self.max_per_bin) & ((size > self.max_per_bin) | (size > self.min_per_bin))
        return _kept(self, dataset, complete[order[keep]])


def _bins(values: Array, count: int) -> Array:
    width = (values.max() - values.min()) / count
    return np.floor_divide(values - values.min(), width) if width > 0 else np.zeros(len(values))


@dataclass(frozen=True, kw_only=True)
class DsrlOutliers(Transform):
    """Make some risky, rewarding episodes look safe and even better: rewards x 1.5, costs a few single 1s.

    max(int(fraction M), 1) episodes are drawn without replacement from those with cost >= max_cost / 2 and return >=
    max_return / 2; each gets c steps of cost 1, c drawn from 0 .. cost_limit - 1, all others 0. The draws are the
    authors' (NumPy's PCG64, in their order).

    Attributes:
        fraction: share p of the episodes.
        cost_limit: the limit kappa.
        max_cost, max_return: the task's largest values; those of the data if not given (DSRL takes them from a table).
        keep_clean: keep the true values for `restore`.
        seed: the authors' is 1234.
    """

    name: ClassVar[str] = "dsrl_outliers"
    summary: ClassVar[str] = "DSRL: disguise some risky episodes as safe and rewarding ones"

    fraction: float = 0.1
    cost_limit: float
    max_cost: float | None = None
    max_return: float | None = None
    keep_clean: bool = True
    seed: int = DSRL_SEED

    def __post_init__(self) -> None:
        require_seed(self.name, self.seed)
        if not 0 < self.fraction <= 1 or not self.cost_limit >= 1:
            raise SpecError(
                f"dsrl_outliers: fraction = {self.fraction}, cost_limit = {self.cost_limit}",
                "",
                "use a share in (0, 1] and a limit of at least 1",
            )

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with outliers; a trailing unfinished episode stays.

        Raises:
            IncompatibleError: no costs, or too few episodes that qualify.
        """
        complete, costs, returns = _returns(self.name, dataset)
        number = max(int(len(complete) * self.fraction), 1)
        max_cost = costs.max() if self.max_cost is None else self.max_cost
        max_return = returns.max() if self.max_return is None else self.max_return
        candidates = np.flatnonzero((costs >= max_cost / 2) & (returns >= max_return / 2))
        if len(candidates) < number:
            raise IncompatibleError(
                f"{dataset.name} has {len(candidates)} episodes of cost and return above half the largest",
                f"{number} outliers are to be made of them",
                "use a smaller fraction, or give max_cost and max_return of the task",
            )
        rng = np.random.Generator(np.random.PCG64(self.seed))
        chosen = rng.choice(candidates, size=number, replace=False)
        counts = rng.choice(np.arange(int(self.cost_limit)), size=number)
        edits = Edits(dataset, keep_clean=self.keep_clean)
        for episode, count in zip(complete[chosen], counts, strict=True):
            start, length = dataset.episode_starts[episode], dataset.episode_lengths[episode]
            rows = np.arange(start, start + length)
            new = np.zeros(length, np.float32)
            new[rng.choice(np.arange(length), min(int(count), int(length)), replace=False)] = 1.0
            edits.write("costs", rows, new)
            edits.write("rewards", rows, np.float32(OUTLIER_FACTOR) * dataset.rewards[rows])
        return edits.changed(self, {"episodes": np.sort(complete[chosen]).tolist()})


@dataclass(frozen=True, kw_only=True)
class DsrlNoise(Transform):
    """Gaussian noise on s and s', independently, with one std over the whole array: scale N(0, std).

    The draws are the authors' (NumPy's PCG64: all of s, then all of s'); a row whose s' is unknown keeps its hole.

    Attributes:
        scale: noise_scale.
        keep_clean: keep the true values for `restore`.
        seed: the authors' is 1234.
    """

    name: ClassVar[str] = "dsrl_noise"
    summary: ClassVar[str] = "DSRL: Gaussian noise on s and s', one std for the whole array"

    scale: float = 0.1
    keep_clean: bool = True
    seed: int = DSRL_SEED

    def __post_init__(self) -> None:
        require_seed(self.name, self.seed)
        if not (np.isfinite(self.scale) and self.scale >= 0):
            raise SpecError(f"dsrl_noise: scale = {self.scale}", "", "use a number from 0")

    def apply(self, dataset: Dataset) -> Dataset:
        """The noisy dataset.

        Raises:
            IncompatibleError: observations are integers.
        """
        if dataset.observations.dtype.kind != "f":
            raise IncompatibleError(
                f"observations of {dataset.name} are {dataset.observations.dtype}", "", "use gaussian_noise"
            )
        rng = np.random.Generator(np.random.PCG64(self.seed))
        edits, rows = Edits(dataset, keep_clean=self.keep_clean), np.arange(len(dataset))
        for column, values in (
            ("observations", dataset.step_observations),
            ("next_observations", dataset.next_observations[dataset.next_valid]),
        ):
            std = float(values.std(dtype=np.float64)) if values.size else 0.0
            usable = None if column == "observations" else dataset.next_valid
            add_noise(edits, column, rows, np.array(self.scale * std), rng.standard_normal, usable=usable)
        return edits.changed(self)


@dataclass(frozen=True, kw_only=True)
class DsrlInpaint(Transform):
    """Remove the episodes inside rectangles of the plane of cost and return.

    Attributes:
        ranges: [cost from, cost to, return from, return to] each, as shares of the data's range, ends included.
    """

    name: ClassVar[str] = "dsrl_inpaint"
    summary: ClassVar[str] = "DSRL: remove episodes in ranges of cost and return"

    ranges: list[tuple[float, float, float, float]]

    def __post_init__(self) -> None:
        for entry in self.ranges:
            if len(entry) != 4 or entry[0] > entry[1] or entry[2] > entry[3]:
                raise SpecError(
                    f"dsrl_inpaint: range {list(entry)}", "", "give [cost from, cost to, return from, return to]"
                )
        if not self.ranges:
            raise SpecError("dsrl_inpaint: ranges is empty", "", "give e.g. [[0.2, 0.4, 0.0, 1.0]]")

    def apply(self, dataset: Dataset) -> Dataset:
        """What is left.

        Raises:
            IncompatibleError: no costs, no complete episode, or nothing is left.
        """
        complete, costs, returns = _returns(self.name, dataset)
        removed = np.zeros(len(complete), np.bool_)
        for cost_from, cost_to, return_from, return_to in self.ranges:
            removed |= _inside(costs, cost_from, cost_to) & _inside(returns, return_from, return_to)
        return _kept(self, dataset, complete[~removed])


def _inside(values: Array, low: float, high: float) -> Array:
    spread = values.max() - values.min()
    return (values >= spread * low + values.min()) & (values <= spread * high + values.min())


@dataclass(frozen=True, kw_only=True)
class DsrlEpsilon(Transform):
    """Remove the safe episodes within `epsilon` of the best safe return (harder), or, if negative, the unsafe ones.

    Safe is a cost of at most `cost_limit`.

    Attributes:
        epsilon: width of the removed band, in units of return; negative for the unsafe side.
        cost_limit: the limit kappa.
    """

    name: ClassVar[str] = "dsrl_epsilon"
    summary: ClassVar[str] = "DSRL: remove the best safe episodes, or the best unsafe ones"

    epsilon: float
    cost_limit: float

    def __post_init__(self) -> None:
        if not np.isfinite(self.epsilon) or self.epsilon == 0:
            raise SpecError(f"dsrl_epsilon: epsilon = {self.epsilon}", "", "use a positive or a negative number")

    def apply(self, dataset: Dataset) -> Dataset:
        """What is left.

        Raises:
            IncompatibleError: no costs, no complete episode, no episode on that side, or nothing is left.
        """
        complete, costs, returns = _returns(self.name, dataset)
        side = costs <= self.cost_limit if self.epsilon > 0 else costs > self.cost_limit
        if not side.any():
            kind = "safe" if self.epsilon > 0 else "unsafe"
            raise IncompatibleError(f"{dataset.name} has no {kind} episode at cost_limit {self.cost_limit}")
        best = returns[side].max()
        return _kept(self, dataset, complete[~(side & (returns >= best - abs(self.epsilon)))])
