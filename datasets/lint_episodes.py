"""Checks of the episodes' ends: missing, doubled, misplaced and misnamed flags, lengths against the time limit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from offbench.datasets.columns import Array
from offbench.datasets.lint_checks import Hit, View, check, check_file, counted
from offbench.datasets.raw_columns import RawColumns

# Gymnasium's tasks that end by their time limit only.
ENDLESS = ("HalfCheetah", "Pendulum", "Swimmer", "Reacher", "Pusher", "HumanoidStandup")
FEW_CUTS = 0.05  # share of the episodes that stitched parts and stopped recordings may cut before the limit


@check(
    "no-flags",
    "error",
    finds="no row is terminated or truncated",
    why="all episodes run into one: a value is bootstrapped from the next episode's start, and no return can be "
    "computed",
    fix="say where episodes end: pass truncated=, episode_starts= or horizon= (an episode or time column in a table's "
    "schema)",
    known="D4RL files without timeouts; d3rlpy #18",
)
def no_flags(view: View) -> Iterator[Hit]:
    data = view.dataset
    if data.terminated.any() or data.truncated.any():
        return
    if view.limit is not None and view.lengths.max() <= view.limit and data.num_episodes == 1:
        return  # one unfinished episode
    rows = f"{data.num_transitions:,} rows in {counted(data.num_episodes, 'episode')}"
    if view.limit is not None and view.lengths.max() > view.limit:
        yield Hit(f"no flag is set in {rows}, although the time limit is {view.limit:,} steps ({view.limit_source})")
    else:
        yield Hit(f"no flag is set in {rows}; this is right only for a task that never ends", severity="warning")


@check(
    "both-flags",
    "warning",
    finds="a row is both terminated and truncated, although it is not the last one before the time limit",
    why="readers disagree about such rows: some bootstrap there and some do not",
    fix="keep `terminated` for ends of the task and `truncated` for cuts; if `truncated` is a copy of `done`, drop it",
    known="D4RL sets one of them only; d3rlpy #463 repairs overlaps; D4RL #85",
)
def both_flags(view: View) -> Iterator[Hit]:
    data = view.dataset
    rows = np.flatnonzero(data.terminated & data.truncated)
    if not len(rows):
        return
    at_limit = np.zeros(len(rows), bool) if view.limit is None else data.timesteps[rows] + 1 == view.limit
    if at_limit.all():
        text = f"{counted(len(rows), 'row')} terminated in the very step of the time limit; they count as terminated"
        yield Hit(text, rows, view.episodes_of(rows), severity="note")
        return
    rows = rows[~at_limit]
    text = f"{counted(len(rows), 'row')} terminated and truncated at once"
    if len(rows) > 1 and np.array_equal(data.terminated, data.truncated):
        text += ": the two columns are the same, so time limits cannot be told from ends of the task"
    yield Hit(text, rows, view.episodes_of(rows))


@check_file("both-flags")
def both_flags_in_file(raw: RawColumns) -> Iterator[Hit]:
    ends, cuts = (_flag(raw.role(role)) for role in ("terminated", "truncated"))
    if ends is not None and cuts is not None and len(ends) == len(cuts):
        rows = np.flatnonzero(ends & cuts)
        if len(rows):
            yield Hit(f"{counted(len(rows), 'row')} terminated and truncated at once", rows)


@check(
    "limit-as-terminal",
    "error",
    finds="episodes are terminated, not truncated, exactly at the time limit",
    why="the value after a time limit is taken for 0, so states late in an episode look worthless",
    fix="mark these rows truncated and not terminated: pass truncated=, or build the flags with horizon=",
    known="`done` of the old Gym API; D4RL #86 (hopper v1 has 6,327 terminals and no timeout)",
)
def limit_as_terminal(view: View) -> Iterator[Hit]:
    data = view.dataset
    ended = data.terminated[view.last] & ~data.truncated[view.last]
    if view.limit is not None:
        at_limit = view.lengths == view.limit
        episodes = np.flatnonzero(at_limit & ended)
        # A fall in the very last step is possible; a majority of them is not.
        if len(episodes) > 1 and len(episodes) > 0.5 * at_limit.sum():
            text = f"{counted(len(episodes), 'episode')} terminated exactly at the time limit of {view.limit:,} steps"
            yield Hit(f"{text} ({view.limit_source})", view.last[episodes], episodes)
        return
    longest = view.lengths.max()
    episodes = np.flatnonzero((view.lengths == longest) & ended)
    if longest > 10 and len(episodes) >= 5 and len(episodes) >= 0.2 * len(ended) and not data.truncated.any():
        text = (
            f"{counted(len(episodes), 'episode')} terminated after exactly {longest:,} steps, the greatest length, "
            "and no row is truncated: this looks like a time limit"
        )
        yield Hit(text, view.last[episodes], episodes, severity="warning")


@check(
    "terminated-endless-task",
    "error",
    finds="rows are terminated although the environment never terminates",
    why="values are cut to 0 where the task goes on",
    fix="these flags are cuts or goal switches: mark the rows truncated instead",
    known="D4RL #85 (maze2d flags of goal changes)",
)
def terminated_endless_task(view: View) -> Iterator[Hit]:
    name = (view.dataset.environment or "").rpartition("/")[2].rpartition("-v")[0]
    rows = np.flatnonzero(view.dataset.terminated)
    if name in ENDLESS and len(rows):
        text = f"{counted(len(rows), 'row')} terminated, but {view.dataset.environment} has no terminal states"
        yield Hit(text, rows, view.episodes_of(rows))


@check(
    "timeout-before-limit",
    "warning",
    finds="more than 5 % of the episodes are truncated before the time limit (fewer: a note)",
    why="flags that are out of step with the real ends join the end of one episode to the start of the next",
    fix="compare the flags with the time steps of the log; if the episodes were cut on purpose, this is fine",
    known="D4RL #77, #146 (antmaze v0), #137 (door-human alternates 200 and 100 steps)",
)
def timeout_before_limit(view: View) -> Iterator[Hit]:
    if view.limit is None:
        return
    episodes = np.flatnonzero(view.cut & (view.lengths < view.limit))
    if not len(episodes):
        return
    many = len(episodes) > FEW_CUTS * view.dataset.num_episodes
    text = (
        f"{counted(len(episodes), 'episode')} truncated before the time limit of {view.limit:,} steps "
        f"({view.limit_source}), after {_common_lengths(view.lengths[episodes])} steps"
    )
    yield Hit(text, view.last[episodes], episodes, severity=None if many else "note")


@check(
    "longer-than-limit",
    "warning",
    finds="episodes are longer than the time limit of the environment",
    why="either an end is missing, or the data were collected with another limit than policies are evaluated with",
    fix="evaluate with the limit of the data (max_episode_steps), or look for the missing flag",
    known="Minari #303 (pen: 200 steps of data, references for 100)",
)
def longer_than_limit(view: View) -> Iterator[Hit]:
    if view.limit is None:
        return
    episodes = np.flatnonzero(view.lengths > view.limit)
    if len(episodes) and (view.dataset.terminated.any() or view.dataset.truncated.any()):
        rows = view.dataset.episode_starts[episodes] + view.limit
        text = (
            f"{counted(len(episodes), 'episode')} longer than the time limit of {view.limit:,} steps "
            f"({view.limit_source}); the longest has {int(view.lengths.max()):,}"
        )
        yield Hit(text, rows, episodes)


@check(
    "mixed-time-limits",
    "warning",
    finds="truncated episodes come in two or more common lengths",
    why="the data were collected with different time limits: returns of their episodes cannot be compared",
    fix="split the dataset by length, or state both limits where you report returns",
    known="D4RL #137 (door-human alternates 200 and 100 steps)",
)
def mixed_time_limits(view: View) -> Iterator[Hit]:
    lengths = view.lengths[view.cut]
    values, counts = np.unique(lengths, return_counts=True)
    common = values[(counts >= 3) & (counts >= 0.2 * max(1, len(lengths)))]
    if len(common) > 1:
        episodes = np.flatnonzero(view.cut & np.isin(view.lengths, common))
        shown = " and ".join(f"{length:,}" for length in common[:3].tolist())
        yield Hit(f"{counted(len(episodes), 'episode')} truncated at {shown} steps", view.last[episodes], episodes)


@check(
    "trailing-partial-episode",
    "note",
    finds="the last episode ends with neither flag: the recording stopped in it",
    why="its return is not that of an episode; its last step has no known next observation unless one is stored",
    fix="nothing to do for learning from transitions; leave it out of returns",
    known="D4RL's arrays are cut at a number of steps",
)
def trailing_partial_episode(view: View) -> Iterator[Hit]:
    data = view.dataset
    if not data.episode_complete[-1] and (data.num_episodes > 1 or view.limit is not None):
        episode, row = data.num_episodes - 1, data.num_transitions - 1
        text = f"the last episode stops after {int(view.lengths[-1]):,} steps with neither flag"
        yield Hit(text, [row], [episode])


@check(
    "unended-episode",
    "warning",
    finds="an episode before the last one ends with neither flag",
    why="it is not known whether the task ended there or was cut",
    fix="set truncated on its last row if it was cut, terminated if the task ended",
    known="d3rlpy #98, #164",
)
def unended_episode(view: View) -> Iterator[Hit]:
    data = view.dataset
    episodes = np.flatnonzero(~data.episode_complete[:-1])
    if len(episodes) and (data.terminated.any() or data.truncated.any()):
        yield Hit(f"{counted(len(episodes), 'episode')} ending with neither flag", view.last[episodes], episodes)


@check(
    "single-step-episodes",
    "warning",
    finds="at least 10 % of the episodes have one step (fewer: a note)",
    why="flags that stay set after a success cut every step of the rest into an episode of its own",
    fix="end the episode at its first flag and drop what follows, or trust the timeouts only",
    known="HIQL #2 (antmaze-large-diverse-v2)",
)
def single_step_episodes(view: View) -> Iterator[Hit]:
    episodes = np.flatnonzero(view.lengths == 1)
    total = view.dataset.num_episodes
    if not len(episodes) or (len(episodes) == 1 and episodes[0] == total - 1):
        return  # a recording that stopped after the first step of an episode is the trailing partial one
    many = len(episodes) >= 0.1 * total and len(episodes) < total
    text = f"{counted(len(episodes), 'episode')} of one step"
    if len(episodes) == total:
        text += ": all of them, as in a contextual bandit"
    yield Hit(text, view.last[episodes], episodes, severity=None if many else "note")


def _common_lengths(lengths: Array) -> str:
    values, counts = np.unique(lengths, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:3]
    shown = ", ".join(f"{value:,}" for value in values[order].tolist())
    return f"{shown}{', ...' if len(values) > 3 else ''}"


def _flag(values: Array | None) -> NDArray[np.bool_] | None:
    if values is None or values.dtype.kind not in "biuf" or values[:1].size > 1:
        return None
    flags: NDArray[np.bool_] = values.reshape(-1) != 0
    return flags
