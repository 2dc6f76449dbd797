"""Clean synthetic logs for the tests of the lint: a damped point pushed by actions, in episodes of 100 steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from offbench.datasets import Dataset, Reference
from offbench.datasets.lint import Finding, LintReport, lint_dataset

EPISODES, STEPS = 40, 100
ROWS = EPISODES * STEPS
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)

Columns = dict[str, Any]


def clean_columns(seed: int = 0) -> Columns:
    """Position and velocity of a point in the plane; the reward is its new speed along x less an action cost."""
    rng = np.random.default_rng(seed)
    actions = np.clip(rng.normal(0, 0.6, (EPISODES, STEPS, 2)), -0.99, 0.99)
    states = np.zeros((EPISODES, STEPS + 1, 4))
    states[:, 0] = rng.normal(0, 1.0, (EPISODES, 4))
    for step in range(STEPS):
        position, velocity = states[:, step, :2], states[:, step, 2:]
        velocity = 0.95 * velocity + 0.1 * actions[:, step] + rng.normal(0, 0.01, velocity.shape)
        states[:, step + 1] = np.concatenate([position + 0.1 * velocity, velocity], axis=1)
    rewards = states[:, 1:, 2] - 0.5 * (actions**2).sum(axis=2)
    truncated = np.zeros((EPISODES, STEPS), bool)
    truncated[:, -1] = True
    return {
        "observations": flat(states[:, :-1]),
        "actions": flat(actions),
        "rewards": rewards.reshape(-1).astype(np.float32),
        "terminated": np.zeros(ROWS, bool),
        "truncated": truncated.reshape(-1),
        "next_observations": flat(states[:, 1:]),
    }


def flat(values: NDArray[Any]) -> NDArray[np.float32]:
    return values.reshape(ROWS, -1).astype(np.float32)


def reference(horizon: int | None = STEPS, **fields: Any) -> Reference:
    return Reference(**{"minimum": -100.0, "maximum": 100.0, "source": "a test", "horizon": horizon, **fields})


def dataset(columns: Columns, **options: Any) -> Dataset:
    return Dataset.from_arrays(**columns, **{"action_space": BOX, "reference": reference(), **options})


def lint(columns: Columns, **options: Any) -> LintReport:
    return lint_dataset(dataset(columns, **options))


def found(report: LintReport, check: str) -> Finding:
    """The one finding of `check`."""
    findings = [finding for finding in report.findings if finding.check == check]
    assert len(findings) == 1, [finding.check for finding in report.findings]
    return findings[0]


def checks(report: LintReport) -> set[str]:
    return {finding.check for finding in report.findings}
