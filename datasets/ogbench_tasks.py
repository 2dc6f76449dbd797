"""Rewards of OGBench's single-task datasets, computed from the logged states: what `-singletask` in a name means.

Rule (Park et al. 2025, OGBench, https://github.com/seohongpark/ogbench, `relabel_utils.py` of version 1.2): row t is
judged by the state of row t. Its reward is the number of subtasks that hold minus the number of subtasks, and the row
is terminal where all hold. A maze has one subtask, the agent (or the ball) within the tolerance of the goal; a cube
within 4 cm of its target, a button in its state, a drawer or window within 4 cm are one each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from offbench.datasets.columns import Array
from offbench.errors import DatasetError, SpecError

MANIPULATION_TOLERANCE = 0.04  # metres
FIRST_CUBE = 14  # index in qpos of the first cube's position, after the arm's joints
CUBE_SIZE = 7  # position and quaternion
BALL = 15  # index in qpos of the ball's position, after the ant's joints
CELL, OFFSET = 4.0, 4.0  # metres per maze cell; cell (i, j) lies at x = 4 j - 4, y = 4 i - 4

# Goal cells (row, column) of task 1 to 5 by maze, from the environments' definitions.
MAZE_GOALS: dict[str, tuple[tuple[int, int], ...]] = {
    "medium": ((6, 6), (1, 6), (4, 2), (6, 1), (1, 1)),
    "large": ((7, 10), (7, 1), (1, 10), (5, 4), (5, 4)),
    "giant": ((10, 14), (10, 1), (1, 1), (5, 12), (3, 8)),
    "teleport": ((7, 1), (7, 10), (7, 10), (7, 10), (7, 1)),
}
SOCCER_GOALS: dict[str, tuple[tuple[int, int], ...]] = {
    "arena": ((5, 2), (2, 2), (6, 6), (6, 1), (1, 6)),
    "medium": ((6, 6), (1, 1), (6, 5), (5, 3), (1, 6)),
}
DEFAULT_MAZE_TASK, DEFAULT_SOCCER_TASK = 1, 4
_NAME = re.compile(
    r"(?:visual-)?(?P<body>point|ant|humanoid)(?P<kind>maze|soccer)-(?P<maze>[a-z]+)-\w+"
    r"-singletask(?:-task(?P<task>[1-5]))?-v0"
)


@dataclass(frozen=True)
class OGBenchTask:
    """The goal of a single task; give only the fields that its environment has.

    Attributes:
        goal: (x, y) in metres that the agent, or the ball, must reach.
        tolerance: distance in metres at which the goal is reached: 1.0 for pointmaze, 0.5 for the others.
        ball: the goal is the ball's (antsoccer).
        cubes: target (x, y, z) of each cube.
        buttons: target state of each button.
        drawer, window: target positions of the drawer and the window of `scene`.
    """

    goal: tuple[float, float] | None = None
    tolerance: float = 0.5
    ball: bool = False
    cubes: tuple[tuple[float, float, float], ...] = ()
    buttons: tuple[int, ...] = ()
    drawer: float | None = None
    window: float | None = None

    def subtasks(self, states: Mapping[str, Array]) -> Array:
        """Return [F, subtasks] bool, which subtasks hold in each stored state.

        Args:
            states: `qpos` [F, ...] and, for buttons, `button_states` [F, buttons].

        Raises:
            DatasetError: a state that the task needs is not stored, or has too few entries.
        """
        try:
            held = list(self._held(states))
        except (KeyError, IndexError, ValueError) as error:
            raise DatasetError(
                f"the single-task reward cannot be computed from {', '.join(states) or 'a file without states'}",
                f"{type(error).__name__}: {error}; it needs qpos, and button_states where there are buttons",
                "use the dataset of the environment that the task belongs to",
            ) from error
        if not held:
            raise SpecError("the task has no goal", "", "give goal=, cubes=, buttons=, drawer= or window=")
        return np.concatenate(held, axis=1)

    def _held(self, states: Mapping[str, Array]) -> list[Array]:
        held: list[Array] = []
        if self.goal is not None:
            first = BALL if self.ball else 0
            distance = _part(states["qpos"], first, 2) - np.asarray(self.goal)
            held.append((np.linalg.norm(distance, axis=1) <= self.tolerance)[:, None])
        for index, target in enumerate(self.cubes):
            distance = _part(states["qpos"], FIRST_CUBE + index * CUBE_SIZE, 3) - np.asarray(target)
            held.append((np.linalg.norm(distance, axis=1) <= MANIPULATION_TOLERANCE)[:, None])
        if self.buttons:
            held.append(states["button_states"] == np.asarray(self.buttons))
        slides = FIRST_CUBE + len(self.cubes) * CUBE_SIZE + len(self.buttons)
        for index, position in ((slides, self.drawer), (slides + 1, self.window)):
            if position is not None:
                held.append(np.abs(_part(states["qpos"], index, 1) - position) <= MANIPULATION_TOLERANCE)
        return held

    def rewards(self, states: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return (rewards [F] float32, terminated [F] bool)."""
        held = self.subtasks(states)
        return (held.sum(axis=1) - held.shape[1]).astype(np.float32), np.asarray(held.all(axis=1))


def _part(values: Array, first: int, size: int) -> Array:
    if values.ndim != 2 or values.shape[1] < first + size:
        raise IndexError(f"a state of shape {values.shape[1:]} has no entries {first} to {first + size - 1}")
    return values[:, first : first + size]


def named_task(name: str) -> OGBenchTask:
    """Return the task that a dataset name such as "antmaze-large-navigate-singletask-task2-v0" stands for.

    Known are the mazes and soccer; without a number it is OGBench's default task. The targets of cubes, scenes and
    puzzles are many: pass them as an `OGBenchTask`.

    Raises:
        SpecError: the name is of no known task.
    """
    match = _NAME.fullmatch(name)
    soccer = match is not None and match["kind"] == "soccer"
    goals = (SOCCER_GOALS if soccer else MAZE_GOALS).get(match["maze"]) if match else None
    if match is None or goals is None:
        raise SpecError(
            f"the goal of task {name!r} is not known",
            "names of mazes and soccer are, such as antmaze-large-navigate-singletask-task2-v0",
            "pass task=OGBenchTask(goal=..., cubes=..., buttons=...) with the targets of the environment",
        )
    number = int(match["task"] or (DEFAULT_SOCCER_TASK if soccer else DEFAULT_MAZE_TASK))
    row, column = goals[number - 1]
    return OGBenchTask(
        goal=(column * CELL - OFFSET, row * CELL - OFFSET),
        tolerance=1.0 if match["body"] == "point" else 0.5,
        ball=soccer,
    )
