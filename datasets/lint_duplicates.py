"""Checks for copies: episodes and rows that occur more than once in data that cannot repeat themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from offbench.datasets.columns import Array
from offbench.datasets.lint_checks import Hit, View, check, counted
from offbench.datasets.lint_findings import Severity

# Copies of a row from which on the environment, not the logger, repeats itself.
RECURRING = 4


@check(
    "duplicate-episodes",
    "warning",
    finds="an episode equals an earlier one in observations, actions and rewards (a note where states repeat)",
    why="its transitions count twice, and a split into training and validation data leaks",
    fix="drop the copies; if episodes were drawn with replacement on purpose, say so where you report",
    known="datasets mixed by drawing trajectories with replacement",
)
def duplicate_episodes(view: View) -> Iterator[Hit]:
    _, episodes = _copies(view)
    if len(episodes):
        rows = view.dataset.episode_starts[episodes]
        # Two short episodes of a grid world may agree by chance; floats may not.
        text = f"{len(episodes):,} of {view.dataset.num_episodes:,} episodes equal an earlier one"
        yield Hit(text, rows, episodes, severity=None if view.continuous else "note")


@check(
    "duplicate-rows",
    "warning",
    finds="a row equals an earlier one in observation, action and reward, outside of copied episodes "
    "(a note where it recurs often)",
    why="a logger that repeats rows, or files that were joined twice, put wrong steps between the real ones",
    fix="drop the copies and check the episodes around them",
    known="joined log files",
)
def duplicate_rows(view: View) -> Iterator[Hit]:
    if not view.continuous:
        return
    rows, episodes = _copies(view)
    if len(episodes):
        rows = rows[~np.isin(view.dataset.episode_ids[rows], episodes)]
    # A logger or a join repeats a row once or twice; what comes again and again is a state of the simulator, such as
    # standing still at a wall and the steps that follow from it.
    _, inverse, counts = np.unique(view.hashes[rows], return_inverse=True, return_counts=True)
    recurring = counts[inverse] >= RECURRING
    ids = view.dataset.episode_ids[rows]
    begins = np.flatnonzero(np.append(True, (np.diff(rows) != 1) | (np.diff(ids) != 0))[: len(rows)])
    before = np.cumsum(recurring)
    lengths = np.diff(begins, append=len(rows))
    recurring |= before > np.repeat(before[begins] - recurring[begins], lengths)  # from the first one of a run on
    readings: list[tuple[Array, Severity | None, str]] = [
        (rows[~recurring], None, ""),
        (rows[recurring], "note", f", {RECURRING} times and more: states to which the environment returns"),
    ]
    for found, severity, reading in readings:
        if len(found):
            text = f"{counted(len(found), 'row')} equal to an earlier one{reading}"
            yield Hit(text, found, view.episodes_of(found), severity=severity)


def _copies(view: View) -> tuple[Array, Array]:
    """Return (rows, episodes) that equal an earlier one."""
    hashes = view.hashes
    # An episode's hash weighs each row's by its place, so that the order counts.
    place = _scramble(view.dataset.timesteps.astype(np.uint64)) | np.uint64(1)
    with np.errstate(over="ignore"):
        whole = np.add.reduceat(hashes * place, view.dataset.episode_starts, dtype=np.uint64)
    return _later_equal(hashes), _later_equal(whole)


def _later_equal(hashes: NDArray[np.uint64]) -> Array:
    """Indices whose value occurred before, in order."""
    order = np.argsort(hashes, kind="stable")
    same = hashes[order][1:] == hashes[order][:-1]
    return np.sort(order[1:][same])


def _scramble(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        mixed = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        return (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)
