"""How corruption chooses rows and noise: the protocol of RIQL's authors to the letter, and one without its slips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from gymnasium import spaces

from offbench.datasets.columns import Array
from offbench.datasets.transforms.corruption_edits import Edits, as_column, column_std, step_std

if TYPE_CHECKING:
    from offbench.datasets.dataset import Dataset

ORDER = ("observations", "actions", "rewards", "dynamics")
COLUMN = {target: target for target in ORDER} | {"dynamics": "next_observations"}
REWARD_FACTOR = 30.0  # attack.py, corrupt_rew
# Rows that are changed at once: their noise stays in the processor's cache.
CHUNK_VALUES = 1 << 17


class Rules(Protocol):
    """What the two protocols decide for a target (observations, actions, rewards, dynamics)."""

    def rows(self, target: str) -> Array:
        """The transitions that are drawn, [n] rising; called once per target, in ORDER."""

    def usable(self, target: str, rows: Array) -> Array:
        """Which of the drawn ones can be changed, [n] bool."""

    def std(self, target: str) -> Array:
        """The unit of the noise, one number per dimension."""

    def uniform(self, target: str) -> Callable[[tuple[int, ...]], Array]:
        """A function that draws the next numbers of U[-scale, scale]."""

    def integers(self, target: str) -> Callable[[int, int, int], Array]:
        """A function (low, high, count) that draws the next integers in [low, high)."""

    def action_box(self) -> tuple[Array, Array] | None:
        """Bounds that corrupted actions are clipped to, if they are."""

    def random_rewards(self, rewards: Array, noise: Array) -> Array:
        """Corrupted rewards from true ones and U[-scale, scale]."""

    def worst_rewards(self, rewards: Array) -> Array:
        """Adversarial rewards from true ones."""


@dataclass
class RiqlRules:
    """attack.py of Yang et al. (https://github.com/YangRui2015/RIQL), whose input is d4rl.qlearning_dataset.

    One RandomState(seed) serves all targets in the order observations, actions, rewards, dynamics; for each it gives a
    number u per row (attacked where u < rate), then, in random mode, the noise. The rows are those that
    qlearning_dataset gives: without the ones at time limits and without the dataset's last one; others are never
    attacked. There s' is the next row's s, also behind a terminal row; the std of s' is taken over that.
    """

    dataset: Dataset
    rate: float
    scale: float
    seed: int

    def __post_init__(self) -> None:
        self._random = np.random.RandomState(self.seed)  # the authors' generator, a private one

    @cached_property
    def protocol(self) -> Array:
        """[N] bool, the rows that qlearning_dataset gives."""
        rows = ~self.dataset.truncated
        rows[-1] = False
        return rows

    def rows(self, target: str) -> Array:
        candidates = np.flatnonzero(self.protocol)
        return candidates[self._random.random_sample(len(candidates)) < self.rate]

    def usable(self, target: str, rows: Array) -> Array:
        # Behind a terminal row the authors' s' is the next episode's first state, which nothing reads.
        return self.dataset.next_valid[rows] if target == "dynamics" else np.ones(len(rows), np.bool_)

    def std(self, target: str) -> Array:
        dataset, left_out = self.dataset, np.flatnonzero(~self.protocol)
        override = dataset.next_observations_override
        if target in ("actions", "rewards"):
            return column_std(getattr(dataset, target), left_out)
        if target == "dynamics" and override is not None:
            return column_std(override, left_out)
        if target == "dynamics":
            left_out = np.append(left_out[:-1] + 1, 0)  # the rows that are no other row's s'
        extra = np.ones(dataset.num_frames, np.bool_)
        extra[dataset.frame_index] = False
        extra[dataset.frame_index[left_out]] = True
        return column_std(dataset.observations, np.flatnonzero(extra))

    def uniform(self, target: str) -> Callable[[tuple[int, ...]], Array]:
        return lambda shape: self._random.uniform(-self.scale, self.scale, shape)

    def integers(self, target: str) -> Callable[[int, int, int], Array]:
        return self._random.randint

    def action_box(self) -> tuple[Array, Array] | None:
        return None

    def random_rewards(self, rewards: Array, noise: Array) -> Array:
        return REWARD_FACTOR * noise

    def worst_rewards(self, rewards: Array) -> Array:
        return -self.scale * rewards


@dataclass
class CleanRules:
    """The same idea without the slips: an exact number of rows, actions in their box, rewards in units of their std.

    `stream` gives the generator of a named stream of draws, so that a target's draws do not depend on the others.
    """

    dataset: Dataset
    rate: float
    scale: float
    stream: Callable[..., np.random.Generator]
    same_rows: bool = False

    def rows(self, target: str) -> Array:
        if self.same_rows:
            return self._shared
        candidates = np.flatnonzero(self.dataset.next_valid) if target == "dynamics" else np.arange(len(self.dataset))
        return self._draw(candidates, target)

    @cached_property
    def _shared(self) -> Array:
        return self._draw(np.arange(len(self.dataset)), "all")

    def _draw(self, candidates: Array, name: str) -> Array:
        return candidates[exact_share(self.stream("rows", name), len(candidates), self.rate)]

    def usable(self, target: str, rows: Array) -> Array:
        return self.dataset.next_valid[rows] if target == "dynamics" else np.ones(len(rows), np.bool_)

    def std(self, target: str) -> Array:
        return step_std(self.dataset, COLUMN[target])

    @cached_property
    def _reward_moments(self) -> tuple[float, float]:
        return float(self.dataset.rewards.mean(dtype=np.float64)), float(self.std("rewards"))

    def uniform(self, target: str) -> Callable[[tuple[int, ...]], Array]:
        rng, scale = fast_generator(self.stream("noise", target)), np.float32(self.scale)

        def draw(shape: tuple[int, ...]) -> Array:
            values = rng.random(shape, np.float32)
            values *= 2 * scale
            values -= scale
            return values

        return draw

    def integers(self, target: str) -> Callable[[int, int, int], Array]:
        return self.stream("noise", target).integers

    def action_box(self) -> tuple[Array, Array] | None:
        space = self.dataset.action_space
        return (space.low, space.high) if isinstance(space, spaces.Box) else None

    def random_rewards(self, rewards: Array, noise: Array) -> Array:
        return rewards + self._reward_moments[1] * noise

    def worst_rewards(self, rewards: Array) -> Array:
        mean, std = self._reward_moments
        return rewards - self.scale * std * np.sign(rewards - mean)


def exact_share(rng: np.random.Generator, count: int, rate: float) -> Array:
    """A mask [count] with exactly round(rate * count) entries set, all such masks being equally likely."""
    wanted = round(rate * count)
    if wanted in (0, count):
        return np.full(count, wanted > 0)
    # The smallest of random keys; a partition costs a fraction of what draws without replacement do.
    keys = rng.integers(0, 1 << 32, count, np.uint32)
    limit = np.partition(keys, wanted - 1)[wanted - 1]
    chosen = keys < limit
    ties = np.flatnonzero(keys == limit)
    chosen[ties[: wanted - int(np.count_nonzero(chosen))]] = True
    return chosen


def fast_generator(rng: np.random.Generator) -> np.random.Generator:
    """A generator seeded by another one, twice as fast in drawing many numbers."""
    return np.random.Generator(np.random.SFC64(rng.integers(0, 1 << 63, 4).tolist()))


def add_noise(
    edits: Edits,
    column: str,
    rows: Array,
    std: Array,
    draw: Callable[[tuple[int, ...]], Array],
    *,
    usable: Array | None = None,
    bounds: tuple[Array, Array] | None = None,
    space: spaces.Space[Any] | None = None,
) -> None:
    """Add draw(shape) * std to a column's values in `rows` [n], a few thousand at a time, and mark them as touched.

    Args:
        std: one number per dimension, or one for all.
        usable: [n] bool, the rows that are written; numbers are drawn for all.
        bounds: the lowest and highest values that may result.
        space: of the column's entries; integers are rounded and kept within its bounds.
    """
    array, places = edits.array(column), edits.places(column, rows)
    shape = array.shape[1:]
    step = max(1, CHUNK_VALUES // max(1, int(np.prod(shape))))
    # One entry per value of a chunk: numpy is slow where it repeats a short row.
    chunk = (min(step, len(rows)), *shape)
    tiled, limits = np.empty(0), [np.broadcast_to(bound, chunk).copy() for bound in bounds or ()]
    for start in range(0, len(rows), step):
        where = places[start : start + step]
        noise = draw((len(where), *shape))
        if usable is not None:
            kept = usable[start : start + step]
            where, noise = where[kept], noise[kept]
        if not tiled.size:
            tiled = np.broadcast_to(np.asarray(std, noise.dtype), chunk).copy()
        noise *= tiled[: len(noise)]
        noise += array[where]
        if limits:
            np.clip(noise, *(limit[: len(noise)] for limit in limits), out=noise)
        array[where] = as_column(noise, array.dtype, space)
    edits.touch(column, rows if usable is None else rows[usable])


def other_actions(actions: Array, space: spaces.Space[Any], draw: Callable[[int, int, int], Array]) -> Array:
    """Discrete actions replaced by uniformly drawn other ones; of MultiDiscrete and MultiBinary, every component."""
    flat = actions.reshape(len(actions), -1)
    sizes, starts = np.full(flat.shape[1], 2), np.zeros(flat.shape[1], np.int64)
    if isinstance(space, spaces.Discrete):
        sizes[:], starts[:] = space.n, space.start
    elif isinstance(space, spaces.MultiDiscrete):
        sizes[:], starts[:] = space.nvec.ravel(), space.start.ravel()
    result = np.empty_like(flat)
    for j, (size, first) in enumerate(zip(sizes.tolist(), starts.tolist(), strict=True)):
        shift = draw(1, size, len(flat)) if size > 1 else 0
        result[:, j] = (flat[:, j] - first + shift) % size + first
    return result.reshape(actions.shape)
