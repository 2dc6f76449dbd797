"""Logs of training runs: a run's actions and seed, from which its replay buffer is played again, exactly.

Simulators are deterministic: the seeds of the resets and the sequence of actions determine every observation and
reward. So the true replay buffer of a training run ships as a byte or less per number. Where unstable dynamics
would turn another processor's rounding into another trajectory, the simulator's state is stored as well at regular
steps: playing the log corrects differences in the last digits there, and refuses larger ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from offbench.datasets.environments import make_environment
from offbench.datasets.rollout import Episode, collect
from offbench.errors import OffbenchError

STATES_EVERY = 25  # steps between stored states
TOLERANCE = 1e-6  # of a state or return, relative to 1 + its size: far above rounding, far below other dynamics
GRID = 127  # codes of continuous actions reach from -GRID to GRID

Progress = Callable[[int, int], None]


class LoggedStep(NamedTuple):
    """One environment step of a training run.

    Attributes:
        done: steps so far, this one included.
        action: int8 scalar (Discrete) or [A] code of `grid_action` (Box).
        ended: the episode ended with this step.
        snapshot: the policy's tensors after the step, where one is due.
    """

    done: int
    action: NDArray[np.int8] | np.int8
    reward: float
    ended: bool
    snapshot: dict[str, NDArray[np.float32]] | None


class DivergedError(OffbenchError):
    """Playing a log does not give the episodes that were logged: the simulator differs."""


@dataclass(frozen=True)
class TrainingLog:
    """A run's actions and what is needed to play and to check them.

    Attributes:
        seed: of the run; gives the seeds of all resets.
        actions: int8 [N] (Discrete) or codes [N, A] (Box).
        lengths: int32 [K], of the episodes that ended. returns: float64 [K].
        states: float64 [ceil(N / STATES_EVERY), S], the simulator's state before every STATES_EVERY-th step;
            None where the environment has no simple state.
    """

    seed: int
    actions: NDArray[np.int8]
    lengths: NDArray[np.int32]
    returns: NDArray[np.float64]
    states: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.actions)

    @classmethod
    def unchecked(cls, seed: int, actions: NDArray[np.int8]) -> TrainingLog:
        """A log that says nothing about what playing it should give, as after training on this machine."""
        return cls(seed, actions, np.zeros(0, np.int32), np.zeros(0))

    def first(self, steps: int) -> TrainingLog:
        """The log of the first `steps` steps."""
        kept = int(np.searchsorted(np.cumsum(self.lengths), steps, side="right"))
        states = None if self.states is None else self.states[: -(-steps // STATES_EVERY)]
        return TrainingLog(self.seed, self.actions[:steps], self.lengths[:kept], self.returns[:kept], states)


def reset_seeds(seed: int) -> Iterator[int]:
    """Seeds of the resets of a training run, one for each episode."""
    rng = np.random.default_rng([seed, 1])
    while True:
        yield int(rng.integers(2**31))


def grid_action(
    wanted: NDArray[Any], low: NDArray[np.float32], high: NDArray[np.float32]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The nearest action on the grid of training logs: its code and itself, in the bounds.

    Args:
        wanted: [A], between -1 (`low`) and 1 (`high`).
    """
    code = np.clip(np.rint(GRID * wanted), -GRID, GRID).astype(np.int8)
    return code, decode_action(code, low, high)


def decode_action(code: NDArray[np.int8], low: NDArray[np.float32], high: NDArray[np.float32]) -> NDArray[np.float32]:
    """The action [..., A] float32 that a code of `grid_action` stands for."""
    share = (code.astype(np.float32) + np.float32(GRID)) / np.float32(2 * GRID)
    return np.clip(low + share * (high - low), low, high).astype(np.float32)


def play(environment: str, log: TrainingLog, progress: Progress | None = None) -> list[Episode]:
    """The episodes of a training run, in order; the last one may be cut where the log ends.

    Raises:
        DivergedError: lengths, returns or states differ from what was logged.
        MissingExtraError: the simulator is not installed.
    """
    env = make_environment(environment)
    try:
        return _play(env, log, progress)
    finally:
        env.close()


def _play(env: gymnasium.Env[Any, Any], log: TrainingLog, progress: Progress | None) -> list[Episode]:
    seeds = reset_seeds(log.seed)
    actions = playable(log.actions, env.action_space)
    episodes: list[Episode] = []
    frames, steps = [env.reset(seed=next(seeds))[0]], []
    for index, action in enumerate(actions):
        if log.states is not None and index % STATES_EVERY == 0:
            _correct(env, log.states[index // STATES_EVERY])
        frame, reward, terminated, truncated, _ = env.step(action)
        frames.append(frame)
        steps.append((action, reward, terminated, truncated))
        if terminated or truncated:
            episode = collect(frames, steps)
            if len(log.lengths):
                _check(episode, log, len(episodes))
            episodes.append(episode)
            frames, steps = [env.reset(seed=next(seeds))[0]], []
        if progress is not None and (index % 1000 == 999 or index == len(log) - 1):
            progress(index + 1, len(log))
    if steps:
        episodes.append(collect(frames, steps))
    return episodes


def playable(codes: NDArray[np.int8], space: spaces.Space[Any]) -> NDArray[Any]:
    """Logged actions as the environment takes them: int64 [N] or float32 [N, A]."""
    if isinstance(space, spaces.Box):
        return decode_action(codes, space.low, space.high)
    return codes.astype(np.int64)


def _check(episode: Episode, log: TrainingLog, number: int) -> None:
    total = float(episode.rewards.sum())
    logged = float(log.returns[number]) if number < len(log.returns) else np.nan
    if (
        number >= len(log.lengths)
        or len(episode) != log.lengths[number]
        or not abs(total - logged) <= TOLERANCE * (1 + abs(logged)) * len(episode)
    ):
        raise DivergedError(f"episode {number} of the training log ends differently when it is played here")


def state_of(env: gymnasium.Env[Any, Any]) -> NDArray[np.float64] | None:
    """The simulator's state [S] of MuJoCo and classic-control environments, else None."""
    base: Any = env.unwrapped
    if hasattr(base, "data") and hasattr(base, "set_state"):
        return np.concatenate([base.data.qpos, base.data.qvel])
    state = getattr(base, "state", None)
    return None if state is None or callable(state) else np.asarray(state, np.float64)


def _correct(env: gymnasium.Env[Any, Any], logged: NDArray[np.float64]) -> None:
    """Put the simulator into the logged state if it is off by rounding; exact agreement is left untouched."""
    here = state_of(env)
    if here is None or here.shape != logged.shape or not _close(here, logged):
        raise DivergedError("the simulator's state differs from the training log's")
    if not np.array_equal(here, logged):
        base: Any = env.unwrapped
        if hasattr(base, "set_state"):
            base.set_state(logged[: base.model.nq], logged[base.model.nq :])
        else:
            base.state = logged.copy()


def _close(here: NDArray[np.float64], logged: NDArray[np.float64]) -> bool:
    return bool((np.abs(here - logged) <= TOLERANCE * (1 + np.abs(logged))).all())


def record(environment: str, seed: int, codes: NDArray[np.int8]) -> TrainingLog:
    """Complete the log of a run from its actions, by playing them."""
    env = make_environment(environment)
    try:
        seeds = reset_seeds(seed)
        env.reset(seed=next(seeds))
        states: list[NDArray[np.float64]] = []
        lengths, returns, length, total = [], [], 0, 0.0
        for index, action in enumerate(playable(codes, env.action_space)):
            state = state_of(env)
            if index % STATES_EVERY == 0 and state is not None:
                states.append(state)
            _, reward, terminated, truncated, _ = env.step(action)
            length, total = length + 1, total + float(reward)
            if terminated or truncated:
                lengths.append(length)
                returns.append(total)
                length, total = 0, 0.0
                env.reset(seed=next(seeds))
    finally:
        env.close()
    return TrainingLog(
        seed, codes, np.asarray(lengths, np.int32), np.asarray(returns), np.stack(states) if states else None
    )


def save_log(log: TrainingLog, path: Path) -> None:
    """Write a log as compressed bytes in a safetensors file."""
    columns = {"actions": _packed(log.actions), "lengths": log.lengths, "returns": log.returns}
    if log.states is not None:
        columns["states"] = log.states
    tensors = {f"{name}.zlib": _compressed(column) for name, column in columns.items()}
    shape = [len(log), 0 if log.actions.ndim == 1 else log.actions.shape[1], _bits(log.actions)]
    tensors["seed"] = np.asarray([log.seed], np.int64)
    tensors["shape"] = np.asarray([*shape, 0 if log.states is None else log.states.shape[1]], np.int64)
    save_file(tensors, path)


def load_log(path: Path) -> TrainingLog:
    """Read what `save_log` wrote."""
    tensors = load_file(path)
    steps, width, bits, state_size = tensors["shape"].tolist()

    def column(name: str, dtype: Any) -> NDArray[Any]:
        return np.frombuffer(zlib.decompress(tensors[f"{name}.zlib"].tobytes()), dtype)

    if width:
        actions = column("actions", np.int8).reshape(width, steps).T
    else:
        digits = np.unpackbits(column("actions", np.uint8), count=steps * bits).reshape(steps, bits)
        actions = np.packbits(np.pad(digits, ((0, 0), (8 - bits, 0))), axis=1)[:, 0].astype(np.int8)
    return TrainingLog(
        seed=int(tensors["seed"][0]),
        actions=np.ascontiguousarray(actions),
        lengths=column("lengths", np.int32),
        returns=column("returns", np.float64),
        states=column("states", np.float64).reshape(-1, state_size) if state_size else None,
    )


def _bits(actions: NDArray[np.int8]) -> int:
    """Bits for one discrete action."""
    return max(1, int(actions.max()).bit_length()) if actions.ndim == 1 else 8


def _packed(actions: NDArray[np.int8]) -> NDArray[Any]:
    """Discrete actions in as few bits as they need; continuous ones dimension by dimension."""
    if actions.ndim == 2:
        return actions.T
    digits = np.unpackbits(actions.astype(np.uint8)[:, None], axis=1)[:, 8 - _bits(actions) :]
    return np.packbits(digits)


def _compressed(column: NDArray[Any]) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.compress(np.ascontiguousarray(column).tobytes(), 9), np.uint8)
