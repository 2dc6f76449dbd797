"""Defects of sensors and actuators: Gaussian noise, lost readings, biased sensors, actions that are recorded late."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from gymnasium import spaces

from offbench.datasets.columns import Array
from offbench.datasets.transforms.base import Transform
from offbench.datasets.transforms.corruption_edits import Edits, as_column, step_std
from offbench.datasets.transforms.corruption_protocols import add_noise, exact_share, fast_generator
from offbench.errors import IncompatibleError, SpecError

if TYPE_CHECKING:
    from offbench.datasets.dataset import Dataset


def require_share(transform: str, name: str, value: float) -> None:
    """Raise SpecError unless a parameter is in [0, 1]."""
    if not 0 <= value <= 1:
        raise SpecError(f"{transform}: {name} = {value}", "it is a share", "use 0 to 1")


def require_seed(transform: str, seed: int) -> None:
    """Raise SpecError for a negative seed."""
    if seed < 0:
        raise SpecError(f"{transform}: seed = {seed}", "", "use 0 or more")


def _chosen_dimensions(transform: str, dataset: Dataset, dimensions: list[int] | None) -> Array:
    """Positions in a flattened observation; all if none are given."""
    width = int(np.prod(dataset.observations.shape[1:]))
    if dimensions is None:
        return np.arange(width)
    if not dimensions or min(dimensions) < 0 or max(dimensions) >= width:
        raise SpecError(
            f"{transform}: dimensions = {dimensions}", f"observations have {width}", f"use 0 to {width - 1}"
        )
    return np.unique(dimensions)


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Transform):
    """x + scale std(x) N(0, 1), independent per dimension, std that of the dimension over the data.

    The usual model of a noisy sensor, actuator or reward. (DSRL's noise has one std for the whole array, see
    `dsrl_noise`.)

    Attributes:
        target: observations, actions or rewards. Continuous actions are clipped to their box.
        scale: of the noise, in standard deviations.
        rate: share of the transitions, for observations with next=same of the recorded frames.
        next: for observations: "same" is a noisy sensor, whose reading is s in one row and s' in the row before;
            "clean" leaves every s' true; "independent" draws s' anew.
        keep_clean: keep the true values for `restore`.
        seed: of rows and noise.
    """

    name: ClassVar[str] = "gaussian_noise"
    summary: ClassVar[str] = "Gaussian noise on observations, actions or rewards, in standard deviations per dimension"

    target: Literal["observations", "actions", "rewards"] = "observations"
    scale: float = 0.1
    rate: float = 1.0
    next: Literal["same", "clean", "independent"] = "same"
    keep_clean: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        require_share(self.name, "rate", self.rate)
        require_seed(self.name, self.seed)
        if not (np.isfinite(self.scale) and self.scale >= 0):
            raise SpecError(f"gaussian_noise: scale = {self.scale}", "", "use a number of standard deviations")
        if self.target not in ("observations", "actions", "rewards"):
            raise SpecError(f"gaussian_noise: target = {self.target!r}", "", "use observations, actions or rewards")
        if self.next not in ("same", "clean", "independent"):
            raise SpecError(f"gaussian_noise: next = {self.next!r}", "", "use same, clean or independent")

    def apply(self, dataset: Dataset) -> Dataset:
        """The noisy dataset.

        Raises:
            IncompatibleError: actions are not continuous, or next=same where s' is a column of its own.
        """
        edits = Edits(dataset, keep_clean=self.keep_clean)
        if self.target == "observations" and self.next == "same":
            self._add_to_frames(dataset, edits)
            return edits.changed(self)
        if self.target == "actions" and not isinstance(dataset.action_space, spaces.Box):
            raise IncompatibleError(
                f"actions of {dataset.name} take no Gaussian noise",
                f"they are {dataset.action_space}",
                "use corrupt(target=actions), which replaces them by other ones",
            )
        columns: list[str] = [self.target]
        if self.target == "observations" and self.next == "independent":
            columns.append("next_observations")
        for column in columns:
            rows = np.flatnonzero(exact_share(self.rng("rows", column), len(dataset), self.rate))
            draw: Any = partial(fast_generator(self.rng("noise", column)).standard_normal, dtype=np.float32)
            space = dataset.action_space if column == "actions" else dataset.observation_space
            add_noise(
                edits,
                column,
                rows,
                self.scale * step_std(dataset, column),
                draw,
                usable=dataset.next_valid[rows] if column == "next_observations" else None,
                bounds=(space.low, space.high) if isinstance(space, spaces.Box) and column == "actions" else None,
                space=None if column == "rewards" else space,
            )
        return edits.changed(self)

    def _add_to_frames(self, dataset: Dataset, edits: Edits) -> None:
        array, rng = edits.frames(), fast_generator(self.rng("noise", "frames"))
        std = (step_std(dataset, "observations") * self.scale).astype(np.float32)
        noisy = exact_share(self.rng("rows", "frames"), len(array), self.rate)
        rows = np.flatnonzero(noisy)
        for start in range(0, len(rows), 8192):
            part = rows[start : start + 8192]
            noise = rng.standard_normal((len(part), *array.shape[1:]), np.float32) * std
            array[part] = as_column(array[part] + noise, array.dtype, dataset.observation_space)
        edits.touch_frames(noisy)


@dataclass(frozen=True, kw_only=True)
class SensorDropout(Transform):
    """Readings are lost: entries of recorded frames become 0, the dimension's mean, or the last value that was read.

    The reading is lost in s of its row and in s' of the row before. Sensor dropout as in Liu et al., Learning
    End-to-end Multimodal Sensor Policies for Autonomous Navigation, CoRL 2017, here in logged data.

    Attributes:
        rate: probability that an entry (unit=dimensions) or a whole frame (unit=rows) is lost; rate = 1 with
            `dimensions` is a dead sensor.
        unit: dimensions, each by itself, or rows.
        fill: zero, mean (over the transitions) or previous: the episode's last reading of the dimension; its first
            frame is never lost then.
        dimensions: positions in the flattened observation that may fail; all if not given.
        keep_clean: keep the true values for `restore`.
        seed: of the losses.
    """

    name: ClassVar[str] = "sensor_dropout"
    summary: ClassVar[str] = "lose entries of observations or whole ones: 0, mean or previous value instead"

    rate: float = 0.1
    unit: Literal["dimensions", "rows"] = "dimensions"
    fill: Literal["zero", "mean", "previous"] = "zero"
    dimensions: list[int] | None = None
    keep_clean: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        require_share(self.name, "rate", self.rate)
        require_seed(self.name, self.seed)
        if self.unit not in ("dimensions", "rows") or self.fill not in ("zero", "mean", "previous"):
            raise SpecError(
                f"sensor_dropout: unit = {self.unit!r}, fill = {self.fill!r}",
                "",
                "use unit dimensions or rows, fill zero, mean or previous",
            )

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with lost readings.

        Raises:
            SpecError: a dimension that the observations do not have.
            IncompatibleError: s' is a column of its own.
        """
        dimensions = _chosen_dimensions(self.name, dataset, self.dimensions)
        edits = Edits(dataset, keep_clean=self.keep_clean)
        array = edits.frames()
        flat = array.reshape(len(array), -1)
        rng, lost_any = self.rng(), np.zeros(len(flat), np.bool_)
        first = dataset.frame_index[dataset.episode_starts]
        episode_of = np.zeros(len(flat), np.int64)
        episode_of[first[1:]] = 1
        begins = first[np.cumsum(episode_of)]
        whole = rng.random(len(flat), np.float32) < self.rate if self.unit == "rows" else None
        for j in dimensions:
            lost = rng.random(len(flat), np.float32) < self.rate if whole is None else whole.copy()
            if self.fill == "previous":
                lost[first] = False
                # The latest frame of the episode that was read.
                latest = np.maximum.accumulate(np.where(lost, begins, np.arange(len(flat))))
                flat[:, j] = flat[latest, j]
            elif self.fill == "mean":
                mean = dataset.observations.reshape(len(flat), -1)[dataset.frame_index, j].mean(dtype=np.float64)
                flat[lost, j] = as_column(np.array(mean), array.dtype)
            else:
                flat[lost, j] = 0
            lost_any |= lost
        edits.touch_frames(lost_any)
        return edits.changed(self)


@dataclass(frozen=True, kw_only=True)
class SensorBias(Transform):
    """Sensors that read too high or too low: frames + b std, b ~ U[-scale, scale] per dimension.

    The same frame shows the bias as s and as s' of the row before.

    Attributes:
        scale: largest bias, in standard deviations of the dimension.
        per: dataset: one bias for all; episode: a new one for each (recalibrated between episodes).
        rate: share of the episodes that are biased.
        dimensions: positions in the flattened observation; all if not given.
        keep_clean: keep the true values for `restore`.
        seed: of the biases.
    """

    name: ClassVar[str] = "sensor_bias"
    summary: ClassVar[str] = "constant offsets of observations, for the dataset or per episode"

    scale: float = 0.5
    per: Literal["dataset", "episode"] = "dataset"
    rate: float = 1.0
    dimensions: list[int] | None = None
    keep_clean: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        require_share(self.name, "rate", self.rate)
        require_seed(self.name, self.seed)
        if not (np.isfinite(self.scale) and self.scale >= 0) or self.per not in ("dataset", "episode"):
            raise SpecError(
                f"sensor_bias: scale = {self.scale}, per = {self.per!r}", "", "use a number and dataset or episode"
            )

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with biased readings.

        Raises:
            SpecError: a dimension that the observations do not have.
            IncompatibleError: s' is a column of its own.
        """
        dimensions = _chosen_dimensions(self.name, dataset, self.dimensions)
        edits, episodes = Edits(dataset, keep_clean=self.keep_clean), dataset.num_episodes
        array = edits.frames()
        std = step_std(dataset, "observations").reshape(-1)
        biased = exact_share(self.rng("episodes"), episodes, self.rate)
        count = episodes if self.per == "episode" else 1
        bias = np.zeros((count, std.size))
        bias[:, dimensions] = self.rng("bias").uniform(-self.scale, self.scale, (count, len(dimensions)))
        offsets = (np.broadcast_to(bias, (episodes, std.size)) * std).astype(np.float32).reshape(-1, *array.shape[1:])
        first = dataset.frame_index[dataset.episode_starts]
        ends = np.append(first[1:], len(array))
        touched = np.zeros(len(array), np.bool_)
        for episode in np.flatnonzero(biased):
            part = slice(first[episode], ends[episode])
            array[part] = as_column(array[part] + offsets[episode], array.dtype, dataset.observation_space)
            touched[part] = True
        edits.touch_frames(touched)
        return edits.changed(self, {"bias": bias[0].tolist()} if self.per == "dataset" else None)


@dataclass(frozen=True, kw_only=True)
class ActionDelay(Transform):
    """Actions are recorded late: row t holds the one of `steps` rows earlier, the first rows the episode's first one.

    Delayed actions as in Katsikopoulos and Engelbrecht, Markov decision processes with delays and asynchronous cost
    collection, IEEE TAC 2003, here as a defect of the log.

    Attributes:
        steps: of delay.
        keep_clean: keep the true values for `restore`.
    """

    name: ClassVar[str] = "action_delay"
    summary: ClassVar[str] = "record each action some steps late"

    steps: int = 1
    keep_clean: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SpecError(f"action_delay: steps = {self.steps}", "", "use at least 1")

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with delayed actions."""
        rows = np.arange(len(dataset))
        source = np.maximum(rows - self.steps, dataset.episode_starts[dataset.episode_ids])
        edits = Edits(dataset, keep_clean=self.keep_clean)
        moved = source != rows
        edits.write("actions", moved, dataset.actions[source[moved]])
        return edits.changed(self)
