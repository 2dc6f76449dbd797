"""A controller for Gymnasium-Robotics' PointMaze environments: along the shortest path of cells to the goal.

Like the data-collecting controller of D4RL's Maze2D (Fu et al. 2020, section 5), a PD controller on waypoints; in a
point maze with the task's default settings it stays at the goal when it is there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbench.datasets.environments import make_environment

Cell = tuple[int, int]
GAIN, DAMPING = 10.0, 1.0  # of the position error and of the velocity, as in D4RL's controller


@dataclass(frozen=True)
class WaypointController:
    """Plays flat PointMaze observations [E, 8]: achieved goal (2), desired goal (2), position (2), velocity (2).

    Attributes:
        walls: bool [rows, columns] of the maze.
        centres: [rows, columns, 2], x and y of each cell's centre.
        size: of a cell, in metres.
    """

    walls: NDArray[np.bool_]
    centres: NDArray[np.float64]
    size: float

    @classmethod
    def of(cls, environment: str) -> WaypointController:
        """The controller for the maze of a PointMaze id; raises MissingExtraError without the simulator."""
        env = make_environment(environment)
        maze: Any = env.unwrapped.maze  # type: ignore[attr-defined]
        walls = np.asarray([[cell == 1 for cell in row] for row in maze.maze_map])
        centres = np.stack([[maze.cell_rowcol_to_xy(np.asarray(cell)) for cell in row] for row in _cells(*walls.shape)])
        size = float(maze.maze_size_scaling)
        env.close()
        return cls(walls, centres, size)

    @cached_property
    def _next_cells(self) -> dict[tuple[Cell, Cell], Cell]:
        """(cell, goal cell) -> the next cell on a shortest path, by breadth-first search from every goal."""
        following: dict[tuple[Cell, Cell], Cell] = {}
        free = [(int(row), int(column)) for row, column in np.argwhere(~self.walls)]
        for goal in free:
            following[goal, goal] = goal
            queue = deque([goal])
            while queue:
                row, column = queue.popleft()
                for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                    if not self.walls[cell] and (cell, goal) not in following:
                        following[cell, goal] = (row, column)
                        queue.append(cell)
        return following

    def cell(self, position: NDArray[Any]) -> Cell:
        """The free cell whose centre is nearest to x, y."""
        distance = np.abs(self.centres - position).max(axis=2) + np.where(self.walls, np.inf, 0)
        row, column = np.unravel_index(distance.argmin(), distance.shape)
        return int(row), int(column)

    def waypoint(self, position: NDArray[Any], goal: NDArray[Any]) -> NDArray[Any]:
        """Where to steer: the goal from its cell, else the centre of the next cell."""
        here, there = self.cell(position), self.cell(goal)
        if here == there:
            return goal
        return self.centres[self._next_cells[here, there]]

    def act(self, observations: NDArray[Any], rng: np.random.Generator) -> NDArray[np.float32]:
        """Forces [E, 2] in [-1, 1]; `rng` is not used."""
        actions = []
        for row in observations:
            goal, position, velocity = row[2:4], row[4:6], row[6:8]
            actions.append(GAIN * (self.waypoint(position, goal) - position) / self.size - DAMPING * velocity)
        return np.clip(np.asarray(actions), -1, 1).astype(np.float32)


def _cells(rows: int, columns: int) -> list[list[Cell]]:
    return [[(row, column) for column in range(columns)] for row in range(rows)]
