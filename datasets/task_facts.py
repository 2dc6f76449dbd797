"""What follows from the environment that a reader is told: spaces, time limit, reference scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gymnasium import spaces

from offbench.datasets.records import Reference
from offbench.datasets.references import entry_for_environment
from offbench.datasets.spaces import environment_facts
from offbench.errors import DatasetError


@dataclass(frozen=True)
class TaskFacts:
    """What a file does not store about its task; None where it is not known."""

    environment: str | None
    action_space: spaces.Space[Any] | None
    observation_space: spaces.Space[Any] | None
    horizon: int | None
    reference: Reference | None

    def require_action_space(self, what: str) -> spaces.Space[Any]:
        """Return the action space, or raise DatasetError naming `what` lacks it."""
        if self.action_space is None:
            raise DatasetError(
                f"the action space of {what} is not known",
                "the file does not store it and it is never guessed from the values",
                "pass environment='Hopper-v4' (or another known task) or action_space=gymnasium.spaces.Box(...)",
            )
        return self.action_space


def task_facts(
    environment: str | None,
    *,
    action_space: spaces.Space[Any] | None = None,
    observation_space: spaces.Space[Any] | None = None,
    horizon: int | None = None,
    reference: Reference | None = None,
) -> TaskFacts:
    """Complete what was given by what D4RL's table or Gymnasium knows about `environment`; what was given wins.

    Raises:
        DatasetError: the action space is not given and Gymnasium cannot make the environment.
    """
    known = entry_for_environment(environment) if environment else None
    if known is not None:
        reference = reference or known.reference
        horizon = horizon or known.horizon
        action_space = action_space or known.action_space
    elif environment is not None and (action_space is None or horizon is None):
        try:
            facts = environment_facts(environment)
        except DatasetError:
            # Many benchmarks' environments live in packages of their own; with an action space the data are usable.
            if action_space is None:
                raise
            return TaskFacts(environment, action_space, observation_space, horizon, reference)
        action_space = action_space or facts.action_space
        observation_space = observation_space or facts.observation_space
        horizon = horizon or facts.horizon
    return TaskFacts(environment, action_space, observation_space, horizon, reference)
