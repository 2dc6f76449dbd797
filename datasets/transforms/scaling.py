"""Actions clipped or brought to another box, observations normalized, with spaces that say so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from gymnasium import spaces

from offbench.datasets.allocation import blocks
from offbench.datasets.columns import Array
from offbench.datasets.transforms.base import Transform
from offbench.errors import IncompatibleError, SpecError

if TYPE_CHECKING:
    from offbench.datasets.dataset import Dataset


def _box(dataset: Dataset, transform: str, *, bounded: bool) -> spaces.Box:
    space = dataset.action_space
    if not isinstance(space, spaces.Box):
        raise IncompatibleError(
            f"{transform} needs continuous actions, {dataset.name} has {space}", "", "leave the transform out"
        )
    if bounded and not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise IncompatibleError(
            f"the action space of {dataset.name} has no bounds: {space}",
            "",
            "declare them: dataset.replace(action_space=gymnasium.spaces.Box(low, high, ...))",
        )
    return space


@dataclass(frozen=True, kw_only=True)
class ClipActions(Transform):
    """Clip actions to a part of their box: a squashed-Gaussian policy has no likelihood on its bounds.

    Attributes:
        bound: share of the box around its centre; 0.999 is common for tanh policies (CQL's code has it).
        declare: make the smaller box the action space too. Policies then stay inside it, which the environment
            accepts; without it the action space is unchanged.
    """

    name: ClassVar[str] = "clip_actions"
    summary: ClassVar[str] = "clip actions to a share of their box"

    bound: float = 1.0
    declare: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.bound <= 1:
            raise SpecError(f"clip_actions: bound = {self.bound} is not in (0, 1]")

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with clipped actions.

        Raises:
            IncompatibleError: actions are not continuous, or have no bounds.
        """
        space = _box(dataset, self.name, bounded=True)
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        centre, half = (low + high) / 2, (high - low) / 2 * self.bound
        # float32 as the actions are, so that none is left a rounding error outside.
        lowest, highest = (centre - half).astype(np.float32), (centre + half).astype(np.float32)
        actions = np.clip(dataset.actions, lowest, highest)
        changed = (actions != dataset.actions).reshape(len(actions), -1)
        changes: dict[str, Any] = {"actions": actions}
        if self.declare:
            changes["action_space"] = spaces.Box(lowest, highest, dtype=np.float32)
        return self.changed(
            dataset,
            touched={"actions": changed.any(axis=1)},
            clean={"actions": dataset.actions},
            measured={"clipped_values": int(changed.sum()), "values": int(changed.size)},
            **changes,
        )


@dataclass(frozen=True, kw_only=True)
class ScaleActions(Transform):
    """Map actions from their box to another one, and declare that box.

    Algorithms see actions in [-1, 1] whatever the box is, so this is not needed to train; it brings datasets of one
    system with different units together. A policy then acts in the new box, which the environment does not have:
    where the box changes, the dataset has no environment to evaluate in any more.

    Attributes:
        low, high: bounds of the new box, the same for every entry.
    """

    name: ClassVar[str] = "scale_actions"
    summary: ClassVar[str] = "map actions to another box"

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise SpecError(f"scale_actions: [{self.low}, {self.high}] is not a range")

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset in the new box.

        Raises:
            IncompatibleError: actions are not continuous, or have no bounds.
        """
        old = _box(dataset, self.name, bounded=True)
        new = spaces.Box(self.low, self.high, old.shape, np.float32)
        if np.array_equal(new.low, old.low) and np.array_equal(new.high, old.high):
            return self.changed(dataset)
        low, high = old.low.astype(np.float64), old.high.astype(np.float64)
        scale = (self.high - self.low) / (high - low)

        def scaled(values: Array) -> Array:
            return (self.low + (values - low) * scale).astype(np.float32)

        infos = dict(dataset.infos)
        if "clean/actions" in infos:
            infos["clean/actions"] = scaled(infos["clean/actions"])
        changes: dict[str, Any] = {"actions": scaled(dataset.actions), "action_space": new, "infos": infos}
        if dataset.log_probs is not None:  # a density per unit of the action
            changes["log_probs"] = dataset.log_probs - np.float32(np.log(scale).sum())
        note = f"none: actions are scaled from {old} to {new}"
        return self.changed(without_environment(dataset, note), **changes)


@dataclass(frozen=True, kw_only=True)
class NormalizeObservations(Transform):
    """Standardize each entry of the observations, (s - mean) / (std + 0.001), or map its range to [0, 1].

    Suites normalize observations by themselves (`preprocessing`) and evaluate the policy with the same numbers; that is
    the way to train. This transform changes the data, for other programs and for measures, so that the environment no
    longer fits them and the dataset has none. Statistics are over all frames; mean and scale are in the record.

    Attributes:
        method: "standardize" or "range".
    """

    name: ClassVar[str] = "normalize_observations"
    summary: ClassVar[str] = "standardize observations, or map them to [0, 1]"

    method: Literal["standardize", "range"] = "standardize"

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with float32 observations and an unbounded space ([0, 1] is not promised for s' given apart)."""
        frames = dataset.observations
        if self.method == "standardize":
            offset = frames.mean(0, dtype=np.float64)
            scale = frames.std(0, dtype=np.float64) + 1e-3
        else:
            offset = frames.min(0).astype(np.float64)
            width = frames.max(0).astype(np.float64) - offset
            scale = np.where(width > 0, width, 1.0)

        def normalized(values: Array) -> Array:
            result = np.empty(values.shape, np.float32)
            for block in blocks(values):  # float64 differences: an offset may be large beside the spread
                result[block] = (values[block] - offset) / scale
            return result

        changes: dict[str, Any] = {
            "observations": normalized(frames),
            "observation_space": spaces.Box(-np.inf, np.inf, frames.shape[1:], np.float32),
        }
        if dataset.next_observations_override is not None:
            changes["next_observations_override"] = normalized(dataset.next_observations_override)
        infos = dict(dataset.infos)
        for column in ("clean/observations", "clean/next_observations"):
            if column in infos:
                infos[column] = normalized(infos[column])
        statistics = {} if offset.size > 1024 else {"offset": offset.tolist(), "scale": scale.tolist()}
        return self.changed(
            without_environment(dataset, f"none: observations are normalized ({self.method})"),
            measured=statistics,
            infos=infos,
            **changes,
        )


def without_environment(dataset: Dataset, note: str) -> Dataset:
    """The dataset with no environment to evaluate in, and why in its provenance."""
    if dataset.environment is None:
        return dataset
    details = {**dataset.provenance.details, "evaluation": f"{note}; the data are from {dataset.environment}"}
    return dataset.replace(environment=None, provenance=replace(dataset.provenance, details=details))
