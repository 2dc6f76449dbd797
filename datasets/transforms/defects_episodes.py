"""Defects of logs as a whole: unknown next observations, episodes that are there twice, episodes out of order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from offbench.datasets.columns import freeze
from offbench.datasets.transforms.base import Transform
from offbench.datasets.transforms.corruption_protocols import exact_share
from offbench.datasets.transforms.defects_sensors import require_seed, require_share
from offbench.datasets.transforms.subsets import take_episodes, take_rows
from offbench.errors import IncompatibleError, SpecError

if TYPE_CHECKING:
    from offbench.datasets.columns import Array
    from offbench.datasets.dataset import Dataset

# What the episodes of a reordered dataset were before, by transition.
SOURCE = "source_episode"
DUPLICATE = "duplicate"


@dataclass(frozen=True, kw_only=True)
class MissingNext(Transform):
    """s' becomes unknown in a share of the transitions where it was known.

    Methods that bootstrap leave such rows out unless they are terminal; the hole shows the row's own observation, so
    nothing of the lost s' is left. The next row keeps its s, as in a log that was joined from two tables.

    Attributes:
        rate: share of the rows with a known s'.
        drop: remove these rows instead; episodes are cut there.
        keep_clean: keep the true values for `restore` (not with `drop`).
        seed: of the choice.
    """

    name: ClassVar[str] = "missing_next"
    summary: ClassVar[str] = "make a share of the next observations unknown, or drop those rows"

    rate: float = 0.1
    drop: bool = False
    keep_clean: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        require_share(self.name, "rate", self.rate)
        require_seed(self.name, self.seed)

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with holes.

        Raises:
            IncompatibleError: no next observation is known.
            DatasetError: no row is left.
        """
        known = np.flatnonzero(dataset.next_valid)
        if not len(known):
            raise IncompatibleError(f"{dataset.name} has no known next observation that could be lost")
        lost = np.zeros(len(dataset), np.bool_)
        lost[known[exact_share(self.rng(), len(known), self.rate)]] = True
        if self.drop:
            return self.changed(take_rows(dataset, ~lost), measured={"dropped": int(lost.sum())})
        following = dataset.next_observations.copy()
        following[lost] = dataset.observations[dataset.frame_index[lost]]
        clean: dict[str, Array] = {}
        if self.keep_clean:
            clean = {"next_observations": dataset.next_observations, "next_known": dataset.next_valid}
        return self.changed(
            dataset,
            touched={"next_observations": lost},
            clean=clean,
            next_observations_override=freeze(following),
            next_known=freeze(dataset.next_valid & ~lost),
        )


def _reordered(transform: Transform, dataset: Dataset, episodes: Array, copies: Array | None = None) -> Dataset:
    """The dataset of the given episodes; infos tell each row's episode before, and whether it is a copy."""
    part = take_episodes(dataset, episodes)
    infos = dict(part.infos)
    earlier = dataset.infos.get(SOURCE)
    first = dataset.episode_starts[episodes]
    source = episodes if earlier is None else earlier[first]
    infos[SOURCE] = freeze(source[part.episode_ids])
    if copies is not None:
        infos[DUPLICATE] = freeze(copies[part.episode_ids] | infos.get(DUPLICATE, np.zeros(len(part), np.bool_)))
    measured = {"episodes": len(episodes)}
    return transform.changed(part, measured=measured, infos=infos)


@dataclass(frozen=True, kw_only=True)
class DuplicateEpisodes(Transform):
    """A share of the episodes is there more than once, as after a log was ingested twice.

    infos "duplicate" tells the copies, "source_episode" where each row comes from.

    Attributes:
        rate: share of the episodes that are copied.
        copies: further ones of each.
        choose: random, best or worst by return: copies of the best help imitation, which a benchmark should notice.
        place: end: after all others; beside: behind the original.
        seed: of the choice.
    """

    name: ClassVar[str] = "duplicate_episodes"
    summary: ClassVar[str] = "copy a share of the episodes"

    rate: float = 0.1
    copies: int = 1
    choose: Literal["random", "best", "worst"] = "random"
    place: Literal["end", "beside"] = "end"
    seed: int = 0

    def __post_init__(self) -> None:
        require_share(self.name, "rate", self.rate)
        require_seed(self.name, self.seed)
        if self.copies < 1:
            raise SpecError(f"duplicate_episodes: copies = {self.copies}", "", "use at least 1")
        if self.choose not in ("random", "best", "worst") or self.place not in ("end", "beside"):
            raise SpecError(
                f"duplicate_episodes: choose = {self.choose!r}, place = {self.place!r}",
                "",
                "use random, best or worst, and end or beside",
            )

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with copies; sampling weights count the copies too and are divided by their sum."""
        count = dataset.num_episodes
        chosen = exact_share(self.rng(), count, self.rate)
        if self.choose != "random":
            order = np.argsort(dataset.episode_returns, kind="stable")
            number = int(chosen.sum())
            chosen[:] = False
            chosen[order[:number] if self.choose == "worst" else order[count - number :]] = True
        again = np.repeat(np.flatnonzero(chosen), self.copies)
        episodes, copies = np.append(np.arange(count), again), np.arange(count + len(again)) >= count
        if self.place == "beside":
            order = np.argsort(episodes, kind="stable")
            episodes, copies = episodes[order], copies[order]
        return _reordered(self, dataset, episodes, copies)


@dataclass(frozen=True, kw_only=True)
class ShuffleEpisodes(Transform):
    """Episodes in random order, each unchanged inside; infos "source_episode" tells where each row comes from.

    Uniform sampling does not care; what reads a replay log as time (the first half, non-stationarity) does.

    Attributes:
        seed: of the order.
    """

    name: ClassVar[str] = "shuffle_episodes"
    summary: ClassVar[str] = "put the episodes into random order"

    seed: int = 0

    def __post_init__(self) -> None:
        require_seed(self.name, self.seed)

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with its episodes reordered."""
        return _reordered(self, dataset, self.rng().permutation(dataset.num_episodes))
