"""Records that describe a dataset: the reference of normalized scores, origin, transforms applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offbench.errors import DatasetError, IncompatibleError


@dataclass(frozen=True)
class Reference:
    """Returns that map to the normalized scores 0 and 100, and the environment in which they were measured.

    Attributes:
        minimum: return of score 0, usually a random policy.
        maximum: return of score 100, usually an expert.
        source: where the two numbers come from, in words.
        environment: Gymnasium id with version, e.g. "Hopper-v4"; None if unknown.
        horizon: time limit of that environment in steps.
        compatible: further environment ids for which the numbers are accepted.
    """

    minimum: float
    maximum: float
    source: str
    environment: str | None = None
    horizon: int | None = None
    compatible: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (np.isfinite(self.minimum) and np.isfinite(self.maximum) and self.minimum < self.maximum):
            raise DatasetError(
                f"reference scores are minimum {self.minimum} and maximum {self.maximum}",
                "the minimum must be below the maximum and both finite",
            )

    def holds_in(self, environment: str | None) -> bool:
        """Whether the numbers are accepted for returns from `environment`; an unknown one (None) passes."""
        return environment is None or self.environment is None or environment in (self.environment, *self.compatible)

    def normalize(
        self, returns: ArrayLike, *, environment: str | None = None, force: bool = False
    ) -> NDArray[np.float64]:
        """Return 100 * (returns - minimum) / (maximum - minimum) (Fu et al. 2020, D4RL, section 5).

        Args:
            returns: undiscounted episode returns, any shape.
            environment: id of the environment that gave the returns; None skips the check.
            force: accept returns of an environment for which the reference was not measured.

        Raises:
            IncompatibleError: `environment` is neither the reference's nor a compatible one.
        """
        if not (force or self.holds_in(environment)):
            accepted = (self.environment, *self.compatible)
            raise IncompatibleError(
                f"returns from {environment!r} cannot be normalized with a reference of {self.environment!r}",
                "environment versions differ in dynamics and rewards, so the score would mean nothing",
                f"evaluate in one of {', '.join(map(str, accepted))}, or force it and say so in the report",
            )
        return 100.0 * (np.asarray(returns, np.float64) - self.minimum) / (self.maximum - self.minimum)


@dataclass(frozen=True)
class TransformRecord:
    """One transform that was applied to a dataset: its name, parameters (JSON-able) and seed."""

    name: str
    parameters: Mapping[str, Any]
    seed: int | None = None


@dataclass(frozen=True)
class Provenance:
    """Origin of a dataset: a source such as "d4rl:hopper-medium-v2", details (JSON-able), transforms."""

    source: str
    details: Mapping[str, Any] = field(default_factory=dict)
    transforms: tuple[TransformRecord, ...] = ()
