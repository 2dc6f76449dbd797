"""Histories of observations as index views that never cross an episode, and datasets of stacked frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from gymnasium import spaces

from offbench.datasets.allocation import allocate, blocks
from offbench.datasets.columns import Array, freeze
from offbench.datasets.environments import stacked_id
from offbench.datasets.transforms.base import CLEAN, Transform
from offbench.errors import IncompatibleError, SpecError

if TYPE_CHECKING:
    from offbench.datasets.dataset import Dataset


def history_index(dataset: Dataset, length: int) -> tuple[Array, Array]:
    """Return ([N, length] int64, [N, length] bool): the frames up to s_t of each transition, the oldest first.

    `dataset.observations[index[t]]` is s_{t-length+1}, ..., s_t. Before the start of the episode its first frame is
    repeated, and the mask is False there.

    Args:
        length: number of frames, from 1.
    """
    return _history(dataset.frame_index, dataset.frame_index[dataset.episode_starts][dataset.episode_ids], length)


def frame_history(dataset: Dataset, length: int) -> tuple[Array, Array]:
    """Return the same as `history_index` for every stored frame, [F, length], so also for those after the last row."""
    lengths = dataset.episode_lengths + dataset.last_known
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return _history(np.arange(dataset.num_frames), first, length)


def _history(frames: Array, first: Array, length: int) -> tuple[Array, Array]:
    if length < 1:
        raise SpecError(f"a history of {length} frames", "", "give a positive length")
    index = frames[:, None] + np.arange(1 - length, 1)
    inside = index >= first[:, None]
    return freeze(np.maximum(index, first[:, None])), freeze(inside)


@dataclass(frozen=True, kw_only=True)
class FrameStack(Transform):
    """Observations [size, ...] of the last frames, oldest first; before the start of an episode its first is repeated.

    The same as `gymnasium.wrappers.FrameStackObservation(env, size)`, with which policies are evaluated: the
    dataset's environment becomes "ID?frame_stack=SIZE", an id that all of offbench makes with that wrapper, and its
    reference holds there. The stacked observations take `size` times the memory; `history_index` is the view without
    that cost.

    Attributes:
        size: frames in a stack.
    """

    name: ClassVar[str] = "frame_stack"
    summary: ClassVar[str] = "stack the last frames as one observation, in evaluation too"

    size: int

    def __post_init__(self) -> None:
        if self.size < 2:
            raise SpecError(f"frame_stack: size = {self.size}", "", "stack at least 2 frames")

    def apply(self, dataset: Dataset) -> Dataset:
        """The stacked dataset.

        Raises:
            IncompatibleError: observations are no Box, or stacked already.
        """
        space = dataset.observation_space
        if not isinstance(space, spaces.Box):
            raise IncompatibleError(f"observations of {space} cannot be stacked", "", "encode them as a Box first")
        if any(record.name == self.name for record in dataset.provenance.transforms):
            raise IncompatibleError(f"{dataset.name} is stacked already", "", f"give one frame_stack(size={self.size})")
        index, _ = frame_history(dataset, self.size)
        changes: dict[str, Any] = {"observations": _gathered(dataset.observations, index)}
        if dataset.next_observations_override is not None:
            changes["next_observations_override"] = self._with_newest(
                dataset, dataset.observations, index, dataset.next_observations_override
            )
        infos = dict(dataset.infos)
        clean_frames = dataset.observations
        if CLEAN + "observations" in infos:
            clean_frames = dataset.observations.copy()
            clean_frames[dataset.frame_index] = infos[CLEAN + "observations"]
            infos[CLEAN + "observations"] = clean_frames[index[dataset.frame_index]]
        if CLEAN + "next_observations" in infos:
            following = infos[CLEAN + "next_observations"]
            infos[CLEAN + "next_observations"] = self._with_newest(dataset, clean_frames, index, following)
        if dataset.environment is not None:
            changes["environment"] = stacked = stacked_id(dataset.environment, self.size)
            reference = dataset.reference
            if reference is not None and reference.holds_in(dataset.environment):
                changes["reference"] = replace(reference, compatible=(*reference.compatible, stacked))
        low, high = (np.stack([bound] * self.size) for bound in (space.low, space.high))
        changes["observation_space"] = spaces.Box(low, high, dtype=space.dtype.type)
        return self.changed(dataset, infos=infos, **changes)

    def _with_newest(self, dataset: Dataset, frames: Array, index: Array, newest: Array) -> Array:
        """[N, size, ...]: the stack of s', whose newest frame is given apart."""
        older = index[dataset.frame_index][:, 1:]
        return np.concatenate([frames[older], newest[:, None]], axis=1)


def _gathered(frames: Array, index: Array) -> Array:
    stacked = allocate((*index.shape, *frames.shape[1:]), frames.dtype)
    for block in blocks(stacked):
        stacked[block] = frames[index[block]]
    return freeze(stacked)
