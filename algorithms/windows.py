"""Windows: parts of episodes as batches, and the memory of the running episodes that a policy on windows acts with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from offbench.algorithms.base import Batch, ProblemSpec, Requires
from offbench.algorithms.batches import (
    Normalizer,
    Preprocessing,
    cumulative_weights,
    draw_weighted,
    unit_actions,
    usable_rows,
)
from offbench.datasets.returns import returns_to_go
from offbench.errors import DatasetError

if TYPE_CHECKING:
    from offbench.datasets import Dataset


class WindowBuffer:
    """A dataset's usable rows in time order on the training device; one gather makes a batch of windows.

    A window starts at any row and has K steps of its episode, or fewer where the episode ends; it is then padded on the
    left. Rows are drawn uniformly, so an episode is drawn in proportion to its length, or by the dataset's sampling
    weights, where the weight of a row is that of the window which starts with it (Chen et al. 2021, authors' code).

    Returns-to-go are undiscounted and in the environment's units: a preprocessing's reward settings do not apply to
    them, because an acting policy is told the environment's rewards.

    Args:
        dataset: the data.
        requires: what the algorithm needs, with a window length; rows without it are left out.
        preprocessing: normalization of observations.
        device: where the rows live.

    Raises:
        DatasetError: no usable row, or none that is ever drawn.
    """

    def __init__(
        self,
        dataset: Dataset,
        requires: Requires,
        preprocessing: Preprocessing,
        device: torch.device | str = "cpu",
    ) -> None:
        self.space = space = ProblemSpec.of(dataset)
        self.window = requires.window or 1
        kept = np.flatnonzero(usable_rows(dataset, requires))
        if not len(kept):
            raise DatasetError(f"{dataset.name} has no row that the algorithm can use")
        normalizer = Normalizer.fit(dataset, preprocessing.observations)
        mean, spread = normalizer.mean.numpy(), normalizer.scale.numpy()

        self._action_columns = 1 if space.discrete else space.action_size
        size, end = space.observation_size, space.observation_size + self._action_columns
        rows = np.zeros((len(kept) + 1, end + 2), np.float32)  # the last row is what windows are padded with
        frames = dataset.observations.reshape(len(dataset.observations), -1)
        # In blocks, so that no second full-size copy of the observations is held.
        for start in range(0, len(kept), 262_144):
            part = kept[start : start + 262_144]
            rows[start : start + len(part), :size] = (frames[dataset.frame_index[part]] - mean) / spread
        rows[:-1, size:end] = unit_actions(dataset.actions[kept], space)
        rows[:-1, end] = returns_to_go(dataset.rewards, dataset.episode_starts, 1.0)[kept]
        rows[:-1, end + 1] = dataset.timesteps[kept]

        # Where the next row is another episode's, or is not the next step because that one was left out.
        ends = np.flatnonzero(np.append((np.diff(kept) != 1) | dataset.is_last[kept[:-1]], True))
        numbers = np.arange(len(kept))
        lengths = np.minimum(ends[np.searchsorted(ends, numbers)] - numbers + 1, self.window)

        self._starts, self._cumulative = numbers, None
        if dataset.sampling_weights is not None:
            weights = dataset.sampling_weights[kept]
            if not weights.sum() > 0:
                raise DatasetError(f"the sampling weights of {dataset.name} are zero on every usable row")
            self._starts = np.flatnonzero(weights > 0)
            self._cumulative = cumulative_weights((weights / weights.sum())[self._starts])
        self.normalizer = Normalizer(normalizer.mean.to(device), normalizer.scale.to(device))
        self._rows, self._lengths = torch.from_numpy(rows).to(device), torch.from_numpy(lengths).to(device)
        self.device = self._rows.device
        self._positions = torch.arange(self.window, device=self.device)

    def __len__(self) -> int:
        return len(self._rows) - 1

    def draw_indices(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Numbers of the rows that windows start with: uniform, or by the dataset's sampling weights."""
        if self._cumulative is None:
            return rng.integers(0, len(self), shape)
        return self._starts[draw_weighted(self._cumulative, rng, shape)]

    def gather(self, indices: Tensor) -> Batch:
        """The windows that start with rows [L, B].

        Returns:
            observations [L, B, K, S], actions [L, B, K, A] in [-1, 1] or [L, B, K] int64, returns [L, B, K],
            timesteps [L, B, K] int64 from 0, mask [L, B, K] with 1 where there is a step. All are 0 at padding.
        """
        padding = self.window - self._lengths[indices]
        positions = self._positions - padding.unsqueeze(-1)
        mask = positions >= 0
        numbers = torch.where(mask, indices.unsqueeze(-1) + positions, len(self))
        rows = self._rows.index_select(0, numbers.reshape(-1)).view(*numbers.shape, -1)
        size, end = self.space.observation_size, self.space.observation_size + self._action_columns
        discrete = self.space.discrete
        return {
            "observations": rows.narrow(-1, 0, size),
            "actions": rows.select(-1, size).long() if discrete else rows.narrow(-1, size, self._action_columns),
            "returns": rows.select(-1, end),
            "timesteps": rows.select(-1, end + 1).long(),
            "mask": mask.to(rows.dtype),
        }


class EpisodeContext:
    """The last K steps of episodes that are played side by side, for policies that act on windows.

    What is asked of the policy starts at a target return and decreases by every reward (Chen et al. 2021).

    Args:
        policy: actions in [-1, 1] [L, W, A] or indices from 0 [L, W] of windows [L, W, K, ...] as `WindowBuffer` makes
            them; the last action of a window is not yet known and 0.
        space: sizes of the problem.
        window: K.
        targets: [L], the return that each lane asks for, in the environment's units.
    """

    def __init__(self, policy: Callable[[Batch], Tensor], space: ProblemSpec, window: int, targets: Tensor) -> None:
        self._policy, self._space, self._window, self._targets = policy, space, window, targets.unsqueeze(1)
        self._batch: Batch = {}
        self._due = self._step = torch.empty(0)

    def _forget(self, shape: torch.Size) -> None:
        """Empty windows for episodes [L, W]."""
        device, columns = self._targets.device, (*shape, self._window)
        discrete = self._space.discrete
        actions = columns if discrete else (*columns, self._space.action_size)
        self._batch = {
            "observations": torch.zeros((*columns, self._space.observation_size), device=device),
            "actions": torch.zeros(actions, dtype=torch.int64 if discrete else torch.float32, device=device),
            "returns": torch.zeros(columns, device=device),
            "timesteps": torch.zeros(columns, dtype=torch.int64, device=device),
            "mask": torch.zeros(columns, device=device),
        }
        self._due = torch.zeros(shape, device=device)
        self._step = torch.zeros(shape, dtype=torch.int64, device=device)

    def observe(self, rewards: Tensor, first: Tensor) -> None:
        """Take note of what the last actions led to; called before every `act`.

        Args:
            rewards: [L, W], of the last actions, in the environment's units; not read where `first`.
            first: [L, W] bool, where an episode starts with the observation that comes next.
        """
        if not self._batch or self._due.shape != first.shape:
            self._forget(first.shape)
        for values in self._batch.values():
            values.masked_fill_(first.view(*first.shape, *[1] * (values.ndim - 2)), 0)
        self._due = torch.where(first, self._targets, self._due - rewards)
        self._step = torch.where(first, 0, self._step + 1)

    def act(self, observations: Tensor) -> Tensor:
        """Actions in [-1, 1] or indices from 0 for normalized observations [L, W, observation_size]."""
        newest = {
            "observations": observations,
            "actions": torch.zeros_like(self._batch["actions"][:, :, 0]),
            "returns": self._due,
            "timesteps": self._step,
            "mask": torch.ones_like(self._due),
        }
        for name, value in newest.items():
            self._batch[name] = torch.cat([self._batch[name][:, :, 1:], value.unsqueeze(2)], 2)
        actions = self._policy(self._batch)
        self._batch["actions"][:, :, -1] = actions
        return actions
