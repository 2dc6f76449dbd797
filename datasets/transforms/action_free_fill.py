"""Filling in missing actions by an inverse dynamics model and missing rewards by a reward model or a constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from gymnasium import spaces

from offbench.datasets.columns import Array
from offbench.datasets.marks import MISSING, missing
from offbench.datasets.transforms.action_free_models import Problem, Settings, cached, fit_and_predict
from offbench.datasets.transforms.base import Transform
from offbench.datasets.transforms.histories import history_index
from offbench.errors import DatasetError, IncompatibleError, SpecError

if TYPE_CHECKING:
    from offbench.datasets.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class _Fill(Transform):
    """What the two models have in common.

    Attributes:
        hidden: sizes of the network's hidden layers (ReLU).
        learning_rate, batch_size, updates: of Adam.
        held_out: share of the labelled trajectories that the model does not learn from; its error on them goes into the
            provenance, and the parameters of the best one are used.
        seed: of the held-out trajectories, the initial weights and the batches.
    """

    column: ClassVar[str]

    hidden: tuple[int, ...] = (256, 256)
    learning_rate: float = 1e-3
    batch_size: int = 256
    updates: int = 5_000
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise SpecError(f"{self.name}: held_out = {self.held_out} is not in (0, 1)")
        if min(self.batch_size, self.updates, *self.hidden) < 1 or not self.learning_rate > 0:
            raise SpecError(f"{self.name}: sizes, updates and the learning rate are positive")

    def _missing(self, dataset: Dataset) -> Array:
        rows = missing(dataset, self.column)
        if rows is None:
            raise DatasetError(
                f"no {self.column} of {dataset.name} are missing",
                f'missing ones are marked by infos "{MISSING}{self.column}"',
                f"drop some with drop_{self.column}, or leave {self.name} out",
            )
        if rows.all():
            raise DatasetError(f"all {self.column} of {dataset.name} are missing", "a model has nothing to learn from")
        return rows

    def _held_out_rows(self, dataset: Dataset, labelled: Array) -> tuple[Array, Array]:
        """Labelled row numbers (train, held out), of different trajectories."""
        episodes = np.unique(dataset.episode_ids[labelled])
        if len(episodes) < 2:
            raise DatasetError(
                f"{len(episodes)} trajectory of {dataset.name} has usable {self.column}",
                "two are needed: one to learn from and one to measure the error on",
                "drop fewer",
            )
        count = min(len(episodes) - 1, max(1, round(self.held_out * len(episodes))))
        apart = np.zeros(dataset.num_episodes, np.bool_)
        apart[self.rng("held out").permutation(episodes)[:count]] = True
        kept = apart[dataset.episode_ids]
        return np.flatnonzero(labelled & ~kept), np.flatnonzero(labelled & kept)

    def _settings(self) -> Settings:
        return Settings(self.hidden, self.learning_rate, self.batch_size, self.updates)

    def _fit(self, dataset: Dataset, problem: Problem) -> tuple[Array, dict[str, float | int]]:
        # The fingerprint covers the marks, so it says which rows are missing.
        key = {"transform": self.name, "data": dataset.fingerprint, "seed": self.seed, **self.parameters}
        return cached(key, lambda: fit_and_predict(problem, self._settings(), self.rng("model")))

    def _filled(self, dataset: Dataset, values: Array, left: Array, measured: dict[str, Any]) -> Dataset:
        """The dataset with the new column; rows in `left` stay marked."""
        infos = {name: column for name, column in dataset.infos.items() if name != MISSING + self.column}
        if left.any():
            infos[MISSING + self.column] = left
            measured["left_missing"] = int(left.sum())
        column: dict[str, Any] = {self.column: values}
        return self.changed(dataset, infos=infos, measured=measured, **column)


@dataclass(frozen=True, kw_only=True)
class FillActions(_Fill):
    """Proxy actions from a multi-transition inverse dynamics model, a_t from (s_{t-k}, ..., s_t, s_{t+1}).

    Zheng et al. 2023 (SS-ORL, ICML, arXiv 2210.06518): a network learns from the trajectories that have actions and
    labels the others. Theirs is Gaussian with 2 x 1024 units, learning rate 1e-4, batches of 1024 and one past
    transition; ours is its mean only (squared error; cross-entropy for discrete actions), smaller by default. Before
    the start of a trajectory its first observation is repeated (theirs has zeros before normalization). Rows whose
    next observation is unknown cannot be labelled and stay missing.

    Attributes:
        past: k, past observations that the model sees.
    """

    name: ClassVar[str] = "fill_actions"
    summary: ClassVar[str] = "fill in missing actions by a learned inverse dynamics model (SS-ORL)"
    column: ClassVar[str] = "actions"

    past: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.past < 0:
            raise SpecError(f"fill_actions: past = {self.past} is negative")

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with proxy actions, inside the bounds of the action space.

        Raises:
            DatasetError: no actions are missing, or too few are there.
            IncompatibleError: actions are neither a Box nor Discrete.
        """
        space = dataset.action_space
        if not isinstance(space, (spaces.Box, spaces.Discrete)):
            raise IncompatibleError(f"fill_actions predicts Box and Discrete actions, {dataset.name} has {space}")
        absent, known = self._missing(dataset), dataset.next_valid
        train, apart = self._held_out_rows(dataset, ~absent & known)
        unlabelled = np.flatnonzero(absent & known)
        frames = dataset.observations.reshape(dataset.num_frames, -1)
        following = dataset.next_observations.reshape(dataset.num_transitions, -1)
        history, _ = history_index(dataset, self.past + 1)

        def inputs(rows: Array) -> Array:
            before = frames[history[rows]].reshape(len(rows), -1)
            return np.concatenate([before, following[rows]], axis=1).astype(np.float32)

        if isinstance(space, spaces.Discrete):
            targets, classes = dataset.actions - int(space.start), int(space.n)
        else:
            targets, classes = dataset.actions.reshape(dataset.num_transitions, -1), 0
        predicted, measured = self._fit(dataset, Problem(inputs, targets, classes, train, apart, unlabelled))
        if isinstance(space, spaces.Discrete):
            predicted = predicted + int(space.start)
        else:
            predicted = np.clip(predicted.reshape(-1, *space.shape), space.low, space.high).astype(np.float32)
        actions = dataset.actions.copy()
        actions[unlabelled] = predicted
        extra = _true_error(dataset, "actions", unlabelled, predicted)
        return self._filled(dataset, actions, absent & ~known, {**measured, **extra})


@dataclass(frozen=True, kw_only=True)
class FillRewards(_Fill):
    """Rewards for the trajectories without them.

    Attributes:
        method: "model" regresses r on (s, a) of the trajectories that have rewards; "zero" is UDS (Yu et al. 2022, "How
            to leverage unlabeled data in offline RL"), "minimum" the smallest known reward, which is UDS for rewards
            that do not start at 0.
    """

    name: ClassVar[str] = "fill_rewards"
    summary: ClassVar[str] = "fill in missing rewards by a learned model, or by zero (UDS)"
    column: ClassVar[str] = "rewards"

    method: Literal["model", "zero", "minimum"] = "model"

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with all rewards.

        Raises:
            DatasetError: no rewards are missing, too few are there, or the actions of rows in question are missing.
        """
        absent = self._missing(dataset)
        unlabelled, rewards = np.flatnonzero(absent), dataset.rewards.copy()
        measured: dict[str, Any] = {}
        if self.method == "model":
            rewards[unlabelled], measured = self._model(dataset, absent, unlabelled)
        else:
            rewards[unlabelled] = 0.0 if self.method == "zero" else dataset.rewards[~absent].min()
        extra = _true_error(dataset, "rewards", unlabelled, rewards[unlabelled])
        return self._filled(dataset, rewards, np.zeros_like(absent), {**measured, **extra})

    def _model(self, dataset: Dataset, absent: Array, unlabelled: Array) -> tuple[Array, dict[str, Any]]:
        without_action = missing(dataset, "actions")
        if without_action is not None and without_action[unlabelled].any():
            raise DatasetError(
                f"rows of {dataset.name} lack actions as well as rewards",
                "the model predicts a reward from the observation and the action",
                "fill the actions first: fill_actions, then fill_rewards",
            )
        labelled = ~absent if without_action is None else ~absent & ~without_action
        train, apart = self._held_out_rows(dataset, labelled)
        frames = dataset.observations.reshape(dataset.num_frames, -1)
        space = dataset.action_space
        start = space.start if isinstance(space, spaces.Discrete) else 0

        def inputs(rows: Array) -> Array:
            acted = dataset.actions[rows].reshape(len(rows), -1)
            if isinstance(space, spaces.Discrete):
                acted = acted - start == np.arange(space.n)
            return np.concatenate([frames[dataset.frame_index[rows]], acted], axis=1).astype(np.float32)

        problem = Problem(inputs, dataset.rewards[:, None], 0, train, apart, unlabelled)
        predicted, measured = self._fit(dataset, problem)
        return predicted[:, 0], measured


def _true_error(dataset: Dataset, column: str, rows: Array, predicted: Array) -> dict[str, float]:
    """The error on the filled rows themselves, where the true values were kept."""
    truth = dataset.infos.get(f"clean/{column}")
    if truth is None or not len(rows):
        return {}
    if truth.dtype.kind in "iu":
        return {"filled_accuracy": float((truth[rows] == predicted).reshape(len(rows), -1).all(1).mean())}
    return {"filled_mse": float(np.square(truth[rows] - predicted, dtype=np.float64).mean())}
