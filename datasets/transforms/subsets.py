"""Parts of a dataset: rows, episodes, subsamples and train/validation splits that keep every known next observation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from offbench.datasets.columns import Array, freeze
from offbench.datasets.transforms.base import Transform
from offbench.errors import DatasetError, SpecError

if TYPE_CHECKING:
    from offbench.datasets.dataset import Dataset

# Columns with one entry per transition; infos and sampling weights are treated by themselves.
ROW_COLUMNS = (
    "actions",
    "rewards",
    "terminated",
    "truncated",
    "next_observations_override",
    "next_known",
    "costs",
    "goals",
    "log_probs",
)


def take_rows(dataset: Dataset, rows: Array, cuts: Array | None = None) -> Dataset:
    """Return the transitions `rows` in their order; each contiguous run of them is an episode of its own.

    A run ends where the next row is not the following step of the same episode. Its last next observation stays known
    where it was known, and a run that was cut before the episode's end is neither terminated nor truncated, so a method
    bootstraps from it and no return is taken for complete. Sampling weights are divided by their sum.

    Args:
        dataset: the data.
        rows: [M] row numbers, which may repeat, or a mask [N] bool.
        cuts: positions in `rows` at which a run begins in any case.

    Returns:
        M transitions; provenance and labels as before (a transform adds its record).

    Raises:
        DatasetError: no row is kept, a row does not exist, or the kept rows have no sampling weight.
    """
    rows = _row_numbers(rows, dataset.num_transitions, "transition")
    follows = (np.diff(rows) == 1) & ~dataset.is_last[rows[:-1]]
    if cuts is not None:
        follows[np.setdiff1d(cuts, [0]) - 1] = False
    starts = np.concatenate(([0], np.flatnonzero(~follows) + 1))
    lasts = rows[np.append(starts[1:], len(rows)) - 1]
    frames = dataset.frame_index
    # A flag cannot hold inside a run, because an episode ends at it.
    known = (~dataset.is_last | dataset.last_known[dataset.episode_ids])[lasts]
    index = np.insert(frames[rows], np.append(starts[1:], len(rows))[known], frames[lasts[known]] + 1)
    return _with_rows(dataset, rows, index, starts, known)


def take_episodes(dataset: Dataset, episodes: Array) -> Dataset:
    """Return whole episodes in the given order; an episode may be given more than once.

    Args:
        dataset: the data.
        episodes: [M] episode numbers, or a mask [K] bool.

    Raises:
        DatasetError: no episode is kept, one does not exist, or the kept ones have no sampling weight.
    """
    episodes = _row_numbers(episodes, dataset.num_episodes, "episode")
    lengths, known = dataset.episode_lengths[episodes], dataset.last_known[episodes]
    rows = _ranges(dataset.episode_starts[episodes], lengths)
    index = _ranges(dataset.frame_index[dataset.episode_starts[episodes]], lengths + known)
    return _with_rows(dataset, rows, index, np.cumsum(lengths) - lengths, known)


def _row_numbers(chosen: Array, count: int, unit: str) -> Array:
    chosen = np.asarray(chosen)
    if chosen.dtype == np.bool_ and chosen.shape != (count,):
        raise DatasetError(f"a mask of shape {chosen.shape} does not fit {count} {unit}s")
    numbers = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
    if not len(numbers):
        raise DatasetError(f"no {unit} is left", "a dataset has at least one", "keep more")
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= count:
        raise DatasetError(f"the {unit}s to keep are not numbers from 0 to {count - 1}")
    return numbers.astype(np.int64, copy=False)


def _ranges(starts: Array, lengths: Array) -> Array:
    """Return the concatenation of start, start + 1, ..., start + length - 1 of each entry."""
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)


def _with_rows(dataset: Dataset, rows: Array, frames: Array, starts: Array, known: Array) -> Dataset:
    changes: dict[str, Any] = {
        name: freeze(getattr(dataset, name)[rows]) for name in ROW_COLUMNS if getattr(dataset, name) is not None
    }
    if dataset.sampling_weights is not None:
        weights = dataset.sampling_weights[rows]
        total = weights.sum()
        if not total > 0:
            raise DatasetError(
                f"the sampling weights of {dataset.name} are zero on every row that is kept",
                "nothing could be drawn from it",
                "weight the rows after the part is taken",
            )
        # All rows stay what they are, bit for bit, although their sum may differ from 1 by rounding.
        changes["sampling_weights"] = weights if abs(total - 1) < 1e-12 else weights / total
    return dataset.replace(
        observations=freeze(dataset.observations[frames]),
        episode_starts=starts,
        last_known=known,
        infos={name: freeze(column[rows]) for name, column in dataset.infos.items()},
        **changes,
    )


def stratified_order(returns: Array, strata: int, rng: np.random.Generator) -> Array:
    """Return a random order of episodes whose every prefix takes from all strata of return as evenly as it can.

    Args:
        returns: [K].
        strata: number of groups of (nearly) equal size, by rank of return.
    """
    count = len(returns)
    ranks = np.empty(count, np.int64)
    ranks[np.argsort(returns, kind="stable")] = np.arange(count)
    group = ranks * min(strata, count) // count
    # Position of each episode in its group's shuffled order, as a share of the group: groups advance side by side.
    shuffled = rng.permutation(count)
    place = np.empty(count, np.float64)
    for number in range(group.max() + 1):
        members = shuffled[group[shuffled] == number]
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(place, kind="stable")


@dataclass(frozen=True, kw_only=True)
class Subsample(Transform):
    """Keep a random part, without replacement, in the order of the data.

    Attributes:
        unit: "episodes"; "transitions", uniformly over all rows, so that most runs are a row long; "segments" keeps
            contiguous pieces of episodes of up to `length` steps.
        fraction: share of the units that is kept, rounded to the nearest count, at least one.
        count: the number of units to keep, in place of `fraction`.
        stratified: draw evenly from ten groups of episodes by return, so that few episodes keep its distribution.
        length: steps of a segment.
        seed: of the draws.
    """

    name: ClassVar[str] = "subsample"
    summary: ClassVar[str] = "keep a random share of the episodes, transitions or segments"

    unit: Literal["episodes", "transitions", "segments"] = "episodes"
    fraction: float | None = None
    count: int | None = None
    stratified: bool = False
    length: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.fraction is None) == (self.count is None):
            raise SpecError("subsample needs a fraction or a count", "", "write subsample(fraction=0.1)")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise SpecError(f"subsample: fraction = {self.fraction} is not in (0, 1]")
        if self.count is not None and self.count < 1:
            raise SpecError(f"subsample: count = {self.count}", "", "keep at least one")
        if self.stratified and self.unit != "episodes":
            raise SpecError("subsample: only episodes can be stratified by return", "", "write unit=episodes")
        if self.length < 1:
            raise SpecError(f"subsample: length = {self.length}", "", "a segment has at least one step")

    def apply(self, dataset: Dataset) -> Dataset:
        """The part; sampling weights are normalized over it.

        Raises:
            DatasetError: fewer units than `count`.
        """
        rng = self.rng()
        if self.unit == "transitions":
            kept = self._choose(rng.permutation(dataset.num_transitions), "transitions")
            part = take_rows(dataset, kept)
        elif self.unit == "segments":
            pieces = -(-dataset.episode_lengths // self.length)
            episodes = np.repeat(np.arange(dataset.num_episodes), pieces)
            first = dataset.episode_starts[episodes] + self.length * _ranges(np.zeros_like(pieces), pieces)
            ends = dataset.episode_starts[episodes] + dataset.episode_lengths[episodes]
            sizes = np.minimum(first + self.length, ends) - first
            kept = self._choose(rng.permutation(len(first)), "segments")
            # Two neighbouring segments that are both kept stay one run: nothing was cut between them.
            part = take_rows(dataset, _ranges(first[kept], sizes[kept]))
        else:
            if self.stratified:
                order = stratified_order(dataset.episode_returns, 10, rng)
            else:
                order = rng.permutation(dataset.num_episodes)
            kept = self._choose(order, "episodes")
            part = take_episodes(dataset, kept)
        return self.changed(part, measured={self.unit: len(kept), "transitions": part.num_transitions})

    def _choose(self, order: Array, unit: str) -> Array:
        if self.count is not None and self.count > len(order):
            raise DatasetError(f"{self.count} {unit} are asked for, there are {len(order)}", "", "lower count")
        share = 1.0 if self.fraction is None else self.fraction
        kept = self.count if self.count is not None else max(1, round(share * len(order)))
        return np.sort(order[:kept])


@dataclass(frozen=True, kw_only=True)
class FilterEpisodes(Transform):
    """Keep the episodes whose return and length lie in a range (all bounds inclusive).

    Attributes:
        minimum_return, maximum_return: undiscounted return.
        minimum_length, maximum_length: steps.
        complete: leave out episodes that are neither terminated nor truncated.
    """

    name: ClassVar[str] = "filter_episodes"
    summary: ClassVar[str] = "keep the episodes of a range of returns or lengths"

    minimum_return: float | None = None
    maximum_return: float | None = None
    minimum_length: int | None = None
    maximum_length: int | None = None
    complete: bool = False

    def __post_init__(self) -> None:
        if not self.complete and not any(
            value is not None for value in (*self._bounds("return"), *self._bounds("length"))
        ):
            raise SpecError("filter_episodes keeps everything", "", "give a bound, e.g. minimum_return=1000")

    def _bounds(self, what: str) -> tuple[float | None, float | None]:
        return getattr(self, f"minimum_{what}"), getattr(self, f"maximum_{what}")

    def apply(self, dataset: Dataset) -> Dataset:
        """The episodes in range.

        Raises:
            DatasetError: none is.
        """
        kept = dataset.episode_complete.copy() if self.complete else np.ones(dataset.num_episodes, np.bool_)
        for what, values in (("return", dataset.episode_returns), ("length", dataset.episode_lengths)):
            low, high = self._bounds(what)
            kept &= (values >= (-np.inf if low is None else low)) & (values <= (np.inf if high is None else high))
        if not kept.any():
            returns, lengths = dataset.episode_returns, dataset.episode_lengths
            raise DatasetError(
                f"no episode of {dataset.name} is in the range",
                f"returns go from {returns.min():.6g} to {returns.max():.6g}, lengths from {lengths.min()} to "
                f"{lengths.max()}",
                "widen the bounds",
            )
        return self.changed(take_episodes(dataset, kept), measured={"episodes": int(kept.sum())})


def split_episodes(
    dataset: Dataset, fraction: float = 0.9, *, seed: int = 0, stratified: bool = False
) -> tuple[Dataset, Dataset]:
    """Return (train, validation), which share no episode and together hold all of them, in the order of the data.

    Args:
        dataset: the data, of at least two episodes.
        fraction: share of the episodes that train gets, rounded; each part has at least one.
        seed: of the draw.
        stratified: give both parts about the same distribution of returns.

    Raises:
        DatasetError: fewer than two episodes.
        SpecError: the fraction is not in (0, 1).
    """
    train = Split(part="train", fraction=fraction, seed=seed, stratified=stratified)
    return train.apply(dataset), Split(part="validation", fraction=fraction, seed=seed, stratified=stratified).apply(
        dataset
    )


@dataclass(frozen=True, kw_only=True)
class Split(Transform):
    """One part of a split by episode; the other part of the same fraction and seed has the other episodes.

    Attributes:
        part: "train" or "validation".
        fraction: share of the episodes that train gets, rounded; each part has at least one.
        stratified: give both parts about the same distribution of returns.
        seed: of the draw.
    """

    name: ClassVar[str] = "split"
    summary: ClassVar[str] = "keep the training or the validation part of a split by episode"

    part: Literal["train", "validation"]
    fraction: float = 0.9
    stratified: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise SpecError(f"split: fraction = {self.fraction} is not in (0, 1)")

    def apply(self, dataset: Dataset) -> Dataset:
        """The part.

        Raises:
            DatasetError: fewer than two episodes.
        """
        count = dataset.num_episodes
        if count < 2:
            raise DatasetError(
                f"{dataset.name} has one episode",
                "a split by episode needs two, and a split inside one leaks: neighbouring steps are nearly equal",
                "load more episodes",
            )
        if self.stratified:
            order = stratified_order(dataset.episode_returns, 10, self.rng())
        else:
            order = self.rng().permutation(count)
        size = min(count - 1, max(1, round(self.fraction * count)))
        kept = np.sort(order[:size] if self.part == "train" else order[size:])
        return self.changed(take_episodes(dataset, kept), measured={"episodes": len(kept), "of": count})
