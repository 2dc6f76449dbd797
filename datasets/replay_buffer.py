"""Datasets from a replay buffer of Stable-Baselines3 (version 2), which is not imported: its arrays are read.

Layout: `observations`, `actions`, `rewards`, `dones`, `timeouts` [size, environments, ...] used as a ring, with `pos`
the next place to write and `full` true once it has wrapped around. Each environment's rows are a stream of episodes
in the order of time. `optimize_memory_usage` keeps no next observations: row i + 1 serves, which after an episode's
end is the next episode's first observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from offbench.datasets import columns
from offbench.datasets.columns import Array
from offbench.datasets.dataset import Dataset
from offbench.datasets.episodes import interleave
from offbench.datasets.records import Provenance, Reference
from offbench.datasets.spaces import flat_space, flatten_batch
from offbench.errors import DatasetError, SpecError

ATTRIBUTES = (
    "observations",
    "actions",
    "rewards",
    "dones",
    "timeouts",
    "pos",
    "full",
    "handle_timeout_termination",
    "optimize_memory_usage",
    "observation_space",
    "action_space",
)


def from_replay_buffer(
    buffer: Any,
    *,
    environment: str | None = None,
    reference: Reference | None = None,
    horizon: int | None = None,
    dones_are_terminations: bool = False,
    scaled_actions: bool | None = None,
    name: str = "replay-buffer",
    source: str = "replay buffer of stable-baselines3",
) -> Dataset:
    """Return the transitions in a `ReplayBuffer` or `DictReplayBuffer`, oldest first, one environment after another.

    Dict observations are flattened by the rule of `gymnasium.spaces.flatten`. Rows that the ring has half overwritten
    are left out.

    Args:
        buffer: e.g. `model.replay_buffer` after `model.learn`.
        environment: Gymnasium id that evaluates policies.
        reference: of the normalized score.
        horizon: time limit in steps, for a buffer with `handle_timeout_termination=False`, which does not tell
            terminations from time limits: an end at this step is a truncation. What is left of an episode whose
            beginning was overwritten is then left out.
        dones_are_terminations: instead of `horizon`: the environment has no time limit.
        scaled_actions: True if the actions are scaled to [-1, 1], as `learn` of SAC, TD3 and DDPG stores them; False
            if they were added as the environment takes them. Needed only if the action space is another Box than
            [-1, 1], and never guessed.
        name: of the dataset.
        source: recorded in the provenance.

    Raises:
        SpecError: not such a buffer, or an argument above is needed.
        DatasetError: the buffer is empty or holds unusable values.
    """
    missing = [key for key in ATTRIBUTES if not hasattr(buffer, key)]
    if missing:
        raise SpecError(
            f"a {type(buffer).__name__} is not a replay buffer of Stable-Baselines3",
            f"it has no {', '.join(missing)}",
            "pass model.replay_buffer",
        )
    rows = _rows_in_time(buffer)
    done, timeout = (_streams(getattr(buffer, key), rows) != 0 for key in ("dones", "timeouts"))
    streams = np.asarray(buffer.dones).shape[1]
    first_of_stream = np.arange(streams) * len(rows)
    last_of_stream = first_of_stream + len(rows) - 1
    starts = np.union1d(first_of_stream, np.flatnonzero(done[:-1]) + 1)
    keep = np.ones(len(done), np.bool_)
    if not buffer.handle_timeout_termination:
        if horizon is None and not dones_are_terminations:
            raise SpecError(
                "the buffer does not tell time limits from terminations",
                "it was made with handle_timeout_termination=False, so `dones` marks both",
                "pass horizon= (time limit in steps), or dones_are_terminations=True if there is no time limit",
            )
        timeout = np.zeros_like(done)
        if horizon is not None:
            step = np.arange(len(done)) - np.repeat(starts, np.diff(starts, append=len(done))) + 1
            timeout = done & (step == horizon)
            if buffer.full:
                # The length of an episode that lost its beginning is not known, so its end has no meaning.
                begun = np.repeat(np.isin(starts, first_of_stream), np.diff(starts, append=len(done)))
                keep = ~begun
    if not keep.any():
        raise DatasetError("no episode in the replay buffer has its beginning", "", "use a larger buffer")
    observations, following, space = _observations(buffer, rows)
    shift = np.cumsum(keep) - 1
    starts = shift[starts[keep[starts]]]
    columns_ = {
        "actions": _actions(buffer, _streams(buffer.actions, rows), scaled_actions)[keep],
        "rewards": _streams(buffer.rewards, rows)[keep],
        "terminated": (done & ~timeout)[keep],
        "truncated": (done & timeout)[keep],
    }
    properties: dict[str, Any] = {
        "episode_starts": starts,
        "observation_space": space,
        "action_space": buffer.action_space,
        "environment": environment,
        "reference": reference,
        "name": name,
    }
    details: dict[str, Any] = {"environments": streams, "overwritten": bool(buffer.full)}
    if not keep.all():
        details["left_out"] = f"{int((~keep).sum())} rows of episodes without their beginning"
    if not buffer.optimize_memory_usage:
        return Dataset.from_arrays(
            observations[keep],
            next_observations=following[keep],
            provenance=Provenance(source, details),
            **columns_,
            **properties,
        )
    # Only the newest row of each stream is followed by its own next observation, even if it ended an episode.
    ends = np.append(starts[1:], len(columns_["rewards"])) - 1
    newest = shift[last_of_stream[keep[last_of_stream]]]
    known = np.isin(ends, newest)
    frames = columns.observations("observations", observations[keep])
    last = columns.observations("next_observations", following[keep][ends[known]])
    return Dataset(
        observations=interleave(frames, last, starts, known),
        last_known=known,
        provenance=Provenance(source, {**details, "next_observations": "unknown after an episode's end"}),
        **columns_,
        **properties,
    )


def _rows_in_time(buffer: Any) -> Array:
    """Return the ring's usable rows, oldest first."""
    size, position = len(buffer.rewards), int(buffer.pos)
    if not buffer.full:
        rows = np.arange(position)
    else:
        rows = (np.arange(size) + position) % size
        if buffer.optimize_memory_usage:
            rows = rows[1:]  # the oldest observation was overwritten by the newest next observation
    if not len(rows):
        raise DatasetError("the replay buffer is empty", "", "fill it first")
    return rows


def _streams(values: Any, rows: Array) -> Array:
    """Turn an array [size, environments, ...] into [environments * rows, ...], one environment after another."""
    chosen = np.asarray(values)[rows]
    return np.swapaxes(chosen, 0, 1).reshape(-1, *chosen.shape[2:])


def _observations(buffer: Any, rows: Array) -> tuple[Array, Array, spaces.Space[Any]]:
    """Return s and s' [environments * rows, ...] and the space of one observation."""
    space = buffer.observation_space
    if not isinstance(buffer.observations, Mapping):
        after = (
            _streams(buffer.observations, (rows + 1) % len(buffer.rewards))
            if buffer.optimize_memory_usage
            else _streams(buffer.next_observations, rows)
        )
        shape = (len(after), *(space.shape or ()))
        return _streams(buffer.observations, rows).reshape(shape), after.reshape(shape), space
    now, after = (
        flatten_batch(space, {key: _streams(values, rows) for key, values in stored.items()})
        for stored in (buffer.observations, buffer.next_observations)
    )
    return now, after, flat_space(space)


def _actions(buffer: Any, actions: Array, scaled: bool | None) -> Array:
    """Return actions as the environment takes them."""
    space = buffer.action_space
    actions = actions.reshape(len(actions), *(space.shape or ()))
    if not isinstance(space, spaces.Box) or ((space.low == -1).all() and (space.high == 1).all()):
        return actions
    if scaled is None:
        raise SpecError(
            f"the action space is {space}, and the buffer does not tell the scale of its actions",
            "learn() of SAC, TD3 and DDPG stores actions scaled to [-1, 1]; buffer.add() stores what it is given",
            "pass scaled_actions=True or scaled_actions=False",
        )
    if not scaled:
        return actions
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return low + (actions.astype(np.float64) + 1.0) * 0.5 * (high - low)
