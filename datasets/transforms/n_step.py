"""n-step returns as a mark of the dataset, and their columns for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from offbench.datasets.columns import Array
from offbench.datasets.marks import N_STEP, N_STEP_DISCOUNT, bootstrap_view
from offbench.datasets.transforms.base import Transform
from offbench.errors import SpecError

if TYPE_CHECKING:
    from offbench.datasets.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class NStep(Transform):
    """Bootstrap after n steps: the target is sum_{k<m} discount^k r_{t+k} + discount^m V(s_{t+m}), m <= n.

    m is n where the episode goes on so far, else what is left of it (see `marks.bootstrap_view`); a window that reaches
    a termination bootstraps nothing. There is no correction for the behaviour policy, as in Rainbow (Hessel et al.
    2018). Every algorithm that bootstraps honours it. The dataset's own columns stay those of single steps.

    Attributes:
        steps: n.
        discount: of the rewards inside the window; give the algorithm's discount.
    """

    name: ClassVar[str] = "n_step"
    summary: ClassVar[str] = "bootstrap after n steps"

    steps: int
    discount: float = 0.99

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 10_000:
            raise SpecError(f"n_step: steps = {self.steps}", "", "give a positive number")
        if not 0 <= self.discount <= 1:
            raise SpecError(f"n_step: discount = {self.discount} is not in [0, 1]")

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with the mark; an earlier one is replaced."""
        marks = {
            N_STEP: np.full(dataset.num_transitions, self.steps, np.int32),
            N_STEP_DISCOUNT: np.full(dataset.num_transitions, self.discount, np.float32),
        }
        return self.changed(dataset, infos={**dataset.infos, **marks})


def n_step_columns(dataset: Dataset) -> dict[str, Array]:
    """Return the n-step transitions of a dataset as plain columns, for programs that know nothing of its marks.

    Returns:
        observations [N, ...], actions [N, ...], rewards [N] float32 (the discounted sum), next_observations [N, ...],
        terminated [N] bool, steps [N] int64 (m), bootstrap [N] float32: with the discount gamma of the transform, a
        target is rewards + gamma * bootstrap * V(next_observations), where bootstrap = gamma^(m-1), or 0 after a
        termination; valid [N] bool: False where s_{t+m} is not known and a placeholder stands there.
    """
    view = bootstrap_view(dataset)
    terminated = dataset.terminated[view.last]
    return {
        "observations": dataset.step_observations,
        "actions": dataset.actions,
        "rewards": view.rewards.astype(np.float32),
        "next_observations": dataset.next_observations[view.last],
        "terminated": terminated,
        "steps": view.last - np.arange(dataset.num_transitions) + 1,
        "bootstrap": (view.factor * ~terminated).astype(np.float32),
        "valid": dataset.next_valid[view.last],
    }
