"""Where episodes begin and end, and which next observations are known: the rules every reader shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from offbench.datasets import columns
from offbench.datasets.allocation import allocate, blocks
from offbench.datasets.columns import Array, freeze
from offbench.errors import DatasetError


def boundaries(
    terminated: Array, truncated: ArrayLike | None, episode_starts: ArrayLike | None, horizon: int | None
) -> tuple[Array, Array, str]:
    """Return (truncated [N], episode_starts [K], the rule used in words) from what was given."""
    rows = len(terminated)
    if truncated is not None:
        cuts = columns.flags("truncated", truncated)
        columns.require_length("truncated", cuts, rows, "transition")
        if episode_starts is not None:
            return (
                cuts,
                checked_starts(episode_starts, terminated | cuts),
                "truncated flags and episode starts",
            )
        return cuts, starts_after(terminated | cuts), "truncated flags"
    if episode_starts is not None:
        starts = checked_starts(episode_starts, terminated)
        cuts = np.zeros(rows, dtype=np.bool_)
        cuts[starts[1:] - 1] = True
        return (
            freeze(cuts & ~terminated),
            starts,
            "episode starts; a start without a termination before it is a cut",
        )
    if horizon is None:
        raise DatasetError(
            "the ends of the episodes are not known",
            "there are no truncated flags, so time limits cannot be told from running episodes",
            "pass truncated=, horizon= (time limit in steps) or episode_starts=; "
            "if the environment has no time limit, pass truncated flags that are all False",
        )
    cuts = truncated_at_horizon(terminated, horizon)
    return cuts, starts_after(terminated | cuts), f"truncated at horizon {horizon}"


def starts_after(ends: Array) -> Array:
    """Return [K] the first row of each episode, given [N] the rows that end one."""
    return freeze(np.concatenate(([0], np.flatnonzero(ends[:-1]) + 1)))


def truncated_at_horizon(terminated: Array, horizon: int) -> Array:
    """Return [N] True where an episode reaches `horizon` steps without being terminated there."""
    if horizon < 1:
        raise DatasetError(f"horizon is {horizon}", "", "pass the environment's time limit in steps, at least 1")
    starts = starts_after(terminated)
    steps = np.arange(len(terminated)) - np.repeat(starts, np.diff(starts, append=len(terminated)))
    return freeze(((steps + 1) % horizon == 0) & ~terminated)


def merge_next(observations: Array, following: Array, starts: Array) -> tuple[Array, Array, Array | None, str]:
    """Return (frames, last_known, override or None, what was found) for a column of next observations."""
    rows = len(observations)
    last = np.append(starts[1:], rows) - 1
    equal = np.empty(rows - 1, np.bool_)
    axes = tuple(range(1, observations.ndim))
    for block in blocks(observations[1:]):
        equal[block] = (following[:-1][block] == observations[1:][block]).all(axis=axes)
    boundary = last[:-1]
    at_boundary = equal[boundary]
    equal[boundary] = True
    mismatches = len(equal) - int(np.count_nonzero(equal))
    unknown = freeze(np.zeros(len(last), dtype=np.bool_))
    if mismatches:
        return observations, unknown, following, f"kept: {mismatches} rows differ from the next row"
    if len(boundary) and at_boundary.all() and (following[boundary] != observations[boundary]).any():
        # The column is a shift of all rows: at an episode's end it shows the next episode's first frame.
        return (
            observations,
            unknown,
            None,
            "ignored: it runs across episodes, so it is only a shift of the rows",
        )
    known = freeze(np.ones(len(last), dtype=np.bool_))
    return interleave(observations, following[last], starts, known), known, None, "last of each episode kept"


def interleave(observations: Array, last_frames: Array, starts: Array, known: Array) -> Array:
    """Return the frames of a dataset, whose episodes are followed by their last frame where it is known.

    Args:
        observations: [N, ...], s_t.
        last_frames: [number of known ones, ...], the frame after the last row of each such episode.
        starts: [K] the first row of each episode.
        known: [K] bool.
    """
    if not len(last_frames):
        return observations
    ends = np.append(starts[1:], len(observations))
    before = np.cumsum(known) - known  # frames inserted before each episode
    frames = allocate((len(observations) + len(last_frames), *observations.shape[1:]), observations.dtype)
    for block in blocks(observations):
        rows = np.arange(block.start, block.stop)
        first, last = np.searchsorted(starts, [block.start, block.stop - 1], side="right") - 1
        cut = np.clip(ends[first : last + 1], block.start, block.stop)
        frames[rows + np.repeat(before[first : last + 1], np.diff(cut, prepend=block.start))] = observations[block]
    frames[last_frame_index(starts, known, len(observations))] = last_frames
    return freeze(frames)


def step_frames(starts: Array, known: Array, rows: slice) -> Array:
    """Return the frame index of each row in `rows` of a dataset: `Dataset.frame_index[rows]` without the whole."""
    before = np.cumsum(known) - known
    numbers = np.arange(rows.start, rows.stop)
    return numbers + before[np.searchsorted(starts, numbers, side="right") - 1]


def last_frame_index(starts: Array, known: Array, rows: int) -> Array:
    """Return the frame index of the frame after each episode's last row, where it is known, of a dataset of `rows`."""
    ends = np.append(starts[1:], rows)
    return (ends + np.cumsum(known) - known)[known]


def checked_starts(values: ArrayLike, ends: Array) -> Array:
    """Return episode starts as int64, or raise DatasetError if they do not fit the rows [N] that end an episode."""
    starts = columns.numeric("episode_starts", values)
    if starts.dtype.kind not in "iu" or starts.ndim != 1 or not len(starts):
        raise DatasetError(
            f"episode_starts are {starts.dtype} of shape {starts.shape}",
            "",
            "give one integer row index per episode",
        )
    starts = columns.owned(starts, np.int64)
    if starts[0] != 0 or (np.diff(starts) <= 0).any() or starts[-1] >= len(ends):
        raise DatasetError(
            "episode_starts must begin with 0 and rise strictly below the number of transitions",
            f"got {starts[:5].tolist()}{'...' if len(starts) > 5 else ''} for {len(ends)} transitions",
        )
    inside = ends.copy()
    inside[starts[1:] - 1] = False
    inside[-1] = False
    if inside.any():
        raise DatasetError(
            f"terminated or truncated is set inside an episode in {columns.first_rows(inside)}",
            "an episode ends where either flag is set",
            "start a new episode after each such row, or clear the flag",
        )
    return starts
