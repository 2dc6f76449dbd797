"""Datasets put together: concatenation with checks, mixtures by ratio, imbalanced mixtures of good and poor data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from gymnasium import spaces

from offbench.datasets.columns import Array, freeze
from offbench.datasets.marks import NEUTRAL
from offbench.datasets.records import Provenance, Reference
from offbench.datasets.transforms.base import CLEAN, TOUCHED, Transform
from offbench.datasets.transforms.subsets import take_episodes, take_rows
from offbench.errors import DatasetError, IncompatibleError, SpecError

if TYPE_CHECKING:
    from offbench.datasets.dataset import Dataset


def concatenate(datasets: Sequence[Dataset], *, force: bool = False, name: str | None = None) -> Dataset:
    """Return the episodes of all datasets, one dataset after the other.

    Every part keeps its next observations, flags and rewards. Where a part has sampling weights, each part is drawn
    by its share of the transitions and inside by its own weights. Marks of earlier transforms are filled in for parts
    without them; other infos and log_probs that not all parts have in one shape are left out, and the provenance says
    which.

    Args:
        datasets: at least one.
        force: accept other environments and references than the first one's, which then hold for the whole.
        name: defaults to the names joined by "+".

    Raises:
        IncompatibleError: spaces, dtypes, environments or references differ, or costs or goals are only in some parts.
    """
    if not datasets:
        raise DatasetError("there is no dataset to concatenate")
    first = datasets[0]
    for other in datasets[1:]:
        _require_same_kind(first, other)
        if not force:
            _require_same_task(first, other)
    columns, left_out = _join_columns(datasets)
    details: dict[str, Any] = {"parts": [_describe_part(part) for part in datasets]}
    if left_out:
        details["left_out"] = left_out
    reference = next((part.reference for part in datasets if part.reference is not None), None)
    return first.replace(
        name=name or "+".join(part.name for part in datasets),
        environment=next((part.environment for part in datasets if part.environment is not None), None),
        reference=first.reference if force else reference,
        provenance=Provenance("concatenated", details),
        observation_space=_common_space([part.observation_space for part in datasets]),
        **columns,
    )


def _describe_part(part: Dataset) -> dict[str, Any]:
    return {
        "name": part.name,
        "fingerprint": part.fingerprint,
        "transitions": part.num_transitions,
        "episodes": part.num_episodes,
        "source": part.provenance.source,
        "transforms": [
            {"name": record.name, "parameters": dict(record.parameters), "seed": record.seed}
            for record in part.provenance.transforms
        ],
    }


def _require_same_kind(first: Dataset, other: Dataset) -> None:
    """Raise IncompatibleError unless both pose a problem of the same shapes, types and actions."""
    names = f"{first.name} and {other.name}"
    if first.observations.shape[1:] != other.observations.shape[1:]:
        raise IncompatibleError(
            f"{names} have observations of different shapes",
            f"{first.observations.shape[1:]} and {other.observations.shape[1:]}",
            "concatenate datasets of one environment",
        )
    if first.observations.dtype != other.observations.dtype:
        raise IncompatibleError(
            f"{names} have observations of different types",
            f"{first.observations.dtype} and {other.observations.dtype}",
            "convert one of them: dataset.replace(observations=..., observation_space=...)",
        )
    if first.action_space != other.action_space:
        raise IncompatibleError(
            f"{names} have different action spaces",
            f"{first.action_space} and {other.action_space}",
            "the same number would be another action; bring Box actions to one box with scale_actions",
        )
    for column in ("costs", "goals"):
        mine, theirs = getattr(first, column), getattr(other, column)
        if (mine is None) != (theirs is None) or (mine is not None and mine.shape[1:] != theirs.shape[1:]):
            without = first.name if mine is None else other.name
            raise IncompatibleError(
                f"{names} do not have the same {column}",
                f"{without} has none" if mine is None or theirs is None else f"{mine.shape[1:]} and {theirs.shape[1:]}",
                f"leave them out of both: dataset.replace({column}=None)",
            )


def _require_same_task(first: Dataset, other: Dataset) -> None:
    """Raise IncompatibleError unless both come from one environment and are normalized alike."""
    names = f"{first.name} and {other.name}"
    references = [part.reference for part in (first, other) if part.reference is not None]
    same = first.environment == other.environment or any(
        _covers(reference, first.environment) and _covers(reference, other.environment) for reference in references
    )
    if not same:
        raise IncompatibleError(
            f"{names} come from different environments",
            f"{first.environment or 'an unknown one'} and {other.environment or 'an unknown one'}; versions differ in "
            "dynamics and rewards",
            "name the environment of both (`environment=` when loading), or force it: it will be read as one task",
        )
    if len(references) == 2 and (references[0].minimum, references[0].maximum) != (
        references[1].minimum,
        references[1].maximum,
    ):
        raise IncompatibleError(
            f"{names} have different references of normalized scores",
            f"[{references[0].minimum}, {references[0].maximum}] ({references[0].source}) and "
            f"[{references[1].minimum}, {references[1].maximum}] ({references[1].source})",
            "give both the same `reference=`, or force it: the first one's holds then",
        )


def _covers(reference: Reference, environment: str | None) -> bool:
    """Whether the reference was measured in, or is stated to hold in, this very environment."""
    return environment is not None and environment in (reference.environment, *reference.compatible)


def _common_space(parts: Sequence[spaces.Space[Any]]) -> spaces.Space[Any]:
    """Return the smallest space that holds all: Boxes of one shape may have different bounds."""
    first = parts[0]
    if all(part == first for part in parts):
        return first
    boxes = [part for part in parts if isinstance(part, spaces.Box) and part.dtype == parts[0].dtype]
    if len(boxes) < len(parts):
        raise IncompatibleError(
            "the observation spaces are of different kinds", ", ".join(map(str, parts)), "pass the same space to both"
        )
    low = np.min([box.low for box in boxes], axis=0)
    high = np.max([box.high for box in boxes], axis=0)
    return spaces.Box(low, high, dtype=boxes[0].dtype.type)


def _join_columns(datasets: Sequence[Dataset]) -> tuple[dict[str, Any], list[str]]:
    """Return the columns of all datasets one after the other, and the names of those left out."""
    sizes = [part.num_transitions for part in datasets]
    offsets = np.cumsum([0, *sizes[:-1]])
    columns: dict[str, Any] = {
        name: freeze(np.concatenate([getattr(part, name) for part in datasets]))
        for name in ("observations", "actions", "rewards", "terminated", "truncated", "last_known", "costs", "goals")
        if getattr(datasets[0], name) is not None
    }
    columns["episode_starts"] = np.concatenate(
        [part.episode_starts + offset for part, offset in zip(datasets, offsets, strict=True)]
    )
    if any(part.next_observations_override is not None for part in datasets):
        columns["next_observations_override"] = freeze(np.concatenate([part.next_observations for part in datasets]))
        columns["next_known"] = np.concatenate([part.next_valid for part in datasets])
    if any(part.sampling_weights is not None for part in datasets):
        share = 1 / sum(sizes)
        weights = [
            np.full(size, share) if part.sampling_weights is None else part.sampling_weights * (size * share)
            for part, size in zip(datasets, sizes, strict=True)
        ]
        columns["sampling_weights"] = np.concatenate(weights)
    left_out = []
    have = [part.log_probs is not None for part in datasets]
    columns["log_probs"] = np.concatenate([part.log_probs for part in datasets]) if all(have) else None
    if any(have) and not all(have):
        left_out.append("log_probs")
    columns["infos"], dropped = _join_infos(datasets)
    return columns, left_out + dropped


def _join_infos(datasets: Sequence[Dataset]) -> tuple[dict[str, Array], list[str]]:
    infos: dict[str, Array] = {}
    left_out: list[str] = []
    for name in sorted({name for part in datasets for name in part.infos}):
        parts = [_info(part, name) for part in datasets]
        kinds = {None if part is None else (part.shape[1:], part.dtype.kind) for part in parts}
        if len(kinds) == 1 and None not in kinds:
            infos[name] = np.concatenate(parts)  # type: ignore[arg-type]
        else:
            left_out.append(f"infos/{name}")
    return infos, left_out


def _info(part: Dataset, name: str) -> Array | None:
    """Return an info column of a part; where it has none, what its absence means, or None if that is not known."""
    if name in part.infos:
        return part.infos[name]
    if name.startswith(TOUCHED):
        return np.zeros(part.num_transitions, np.bool_)
    if name.startswith(CLEAN):  # nothing was changed there
        column = name.removeprefix(CLEAN)
        return part.step_observations if column == "observations" else getattr(part, column, None)
    if name in NEUTRAL:
        return np.full(part.num_transitions, NEUTRAL[name])
    return None


def load_part(other: Any) -> Dataset:
    """Return the dataset that a parameter means.

    Args:
        other: a `Dataset`; an id or path for `load_dataset`; or a mapping with the key `dataset` (id or path) and
            further options of `load_dataset`, e.g. {"dataset": "hopper/medium", "transforms": [...]}.

    Raises:
        SpecError: it is none of these.
    """
    from offbench.datasets.dataset import Dataset
    from offbench.datasets.registry import load_dataset

    if isinstance(other, Dataset):
        return other
    if isinstance(other, (str, Path)):
        return load_dataset(other)
    if isinstance(other, Mapping) and isinstance(other.get("dataset"), (str, Path)):
        options = {str(key): value for key, value in other.items() if key != "dataset"}
        return load_dataset(other["dataset"], **options)
    raise SpecError(f"{other!r} is no dataset", "", "give an id, a path, or {dataset: ID, ...options of load_dataset}")


def _described(other: Any) -> Any:
    """A parameter that names a dataset, for the provenance: objects by name and content."""
    fingerprint = getattr(other, "fingerprint", None)
    return other if fingerprint is None else {"name": other.name, "fingerprint": fingerprint}


@dataclass(frozen=True, kw_only=True)
class Concatenate(Transform):
    """Append other datasets; see `concatenate`, which is the same in Python.

    Attributes:
        others: ids, paths, mappings {dataset: ID, ...} or `Dataset` objects.
        force: accept another environment or reference.
    """

    name: ClassVar[str] = "concatenate"
    summary: ClassVar[str] = "append other datasets after checking that they fit"

    others: list[Any]
    force: bool = False

    def __post_init__(self) -> None:
        if not self.others:
            raise SpecError("concatenate: others is empty", "", "write concatenate(others=[hopper/expert])")

    @property
    def parameters(self) -> dict[str, Any]:
        """Every parameter, JSON-able."""
        return {"others": [_described(other) for other in self.others], "force": self.force}

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset followed by the others.

        Raises:
            IncompatibleError: they do not fit.
        """
        joined = concatenate([dataset, *map(load_part, self.others)], force=self.force)
        return _recorded(self, dataset, joined)


def _recorded(transform: Transform, dataset: Dataset, joined: Dataset) -> Dataset:
    """The joined dataset with the first part's provenance, and what was joined as a measurement of the transform."""
    details = dict(joined.provenance.details)
    kept = joined.replace(provenance=dataset.provenance, name=dataset.name)
    return transform.changed(kept, measured=details)


@dataclass(frozen=True, kw_only=True)
class Mix(Transform):
    """Whole episodes of several datasets by shares of the transitions, drawn without replacement.

    Each part gives random episodes until it has at least its share of `size` transitions.

    Attributes:
        others: as of `concatenate`.
        ratios: share of the dataset itself and of each other one, in order; divided by their sum.
        size: transitions in all, about (episodes are kept whole); by default the most that all parts can give.
        force: accept another environment or reference.
        seed: of the draws.
    """

    name: ClassVar[str] = "mix"
    summary: ClassVar[str] = "mix whole episodes of several datasets in given shares"

    others: list[Any]
    ratios: list[float]
    size: int | None = None
    force: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.ratios) != len(self.others) + 1 or not self.others:
            raise SpecError(
                f"mix has {len(self.ratios)} ratios for the dataset and {len(self.others)} others",
                "",
                "write e.g. mix(others=[hopper/expert], ratios=[0.9, 0.1]); the first ratio is the dataset's own",
            )
        if min(self.ratios) <= 0 or not np.isfinite(self.ratios).all():
            raise SpecError(f"mix: ratios = {self.ratios}", "", "give positive numbers")
        if self.size is not None and self.size < 1:
            raise SpecError(f"mix: size = {self.size}", "", "give a positive number of transitions")

    @property
    def parameters(self) -> dict[str, Any]:
        """Every parameter but the seed, JSON-able."""
        return {
            "others": [_described(other) for other in self.others],
            "ratios": list(self.ratios),
            "size": self.size,
            "force": self.force,
        }

    def apply(self, dataset: Dataset) -> Dataset:
        """The mixture, part after part.

        Raises:
            IncompatibleError: the parts do not fit.
            DatasetError: a part has fewer transitions than its share.
        """
        parts = [dataset, *map(load_part, self.others)]
        shares = np.asarray(self.ratios, np.float64) / np.sum(self.ratios)
        available = np.array([part.num_transitions for part in parts])
        size = float((available / shares).min()) if self.size is None else float(self.size)
        short = np.flatnonzero(available < np.floor(shares * size + 1e-6))
        if len(short):
            number = int(short[0])
            raise DatasetError(
                f"{parts[number].name} has {available[number]} transitions, its share is {shares[number] * size:.0f}",
                "episodes are drawn without replacement",
                f"lower size to {int((available / shares).min())}, or leave it out",
            )
        chosen = []
        for number, part in enumerate(parts):
            order = self.rng(number).permutation(part.num_episodes)
            total = np.cumsum(part.episode_lengths[order])
            count = int(np.searchsorted(total, shares[number] * size - 1e-6)) + 1
            chosen.append(take_episodes(part, np.sort(order[:count])))
        return _recorded(self, dataset, concatenate(chosen, force=self.force))


@dataclass(frozen=True, kw_only=True)
class ImbalancedMix(Transform):
    """The mixtures of Hong et al. (ICLR 2023, arXiv 2306.13085): a few good trajectories among many poor ones.

    The dataset is the good one. As in the paper's code (williamd4112/suboptimal_offline_datasets), good trajectories
    are drawn uniformly with replacement until they have more than `share * size` transitions, then poor ones until all
    have more than `size`; they stay in that order.

    Attributes:
        other: the poor dataset, as one of `concatenate`'s others.
        share: sigma, the share of transitions from good trajectories; the paper has 0.01, 0.05, 0.1, 0.25 and 0.5.
        size: n, transitions in all, about; by default those of the good dataset.
        segments: the paper's partial variant: of each drawn trajectory of T steps only a piece, from a uniform start in
            [0, max(T - 10, 1)), of a uniform length in [10, 50), marked truncated at its last step unless terminated.
        force: accept another environment or reference.
        seed: of the draws.
    """

    name: ClassVar[str] = "imbalanced_mix"
    summary: ClassVar[str] = "a few good trajectories among many poor ones (trajectory weighting, Hong et al. 2023)"

    other: Any
    share: float
    size: int | None = None
    segments: bool = False
    force: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise SpecError(f"imbalanced_mix: share = {self.share} is not in (0, 1)")
        if self.size is not None and self.size < 1:
            raise SpecError(f"imbalanced_mix: size = {self.size}", "", "give a positive number of transitions")

    @property
    def parameters(self) -> dict[str, Any]:
        """Every parameter but the seed, JSON-able."""
        plain = {"share": self.share, "size": self.size, "segments": self.segments, "force": self.force}
        return {"other": _described(self.other), **plain}

    def apply(self, dataset: Dataset) -> Dataset:
        """The mixture: good trajectories, then poor ones.

        Raises:
            IncompatibleError: the two datasets do not fit.
        """
        poor, size = load_part(self.other), self.size or dataset.num_transitions
        good = self._draw(dataset, self.share * size, "good")
        rest = self._draw(poor, size - good.num_transitions, "poor")
        joined = concatenate([good, rest], force=self.force)
        marked = joined.replace(infos={**joined.infos, "mix/good": np.arange(len(joined)) < good.num_transitions})
        return _recorded(self, dataset, marked)

    def _draw(self, part: Dataset, enough: float, stream: str) -> Dataset:
        """Trajectories of `part`, with replacement, until they have more than `enough` transitions."""
        pieces = list(self._pieces(part, enough, stream))
        if not self.segments:
            return take_episodes(part, np.array([episode for episode, _, _ in pieces]))
        starts = part.episode_starts
        rows = np.concatenate([np.arange(starts[e] + start, starts[e] + stop) for e, start, stop in pieces])
        lengths = np.array([stop - start for _, start, stop in pieces])
        # A piece may happen to go on where the one before it ended, and is a trajectory of its own all the same.
        taken = take_rows(part, rows, cuts=np.cumsum(lengths) - lengths)
        last = np.append(taken.episode_starts[1:], taken.num_transitions) - 1
        truncated = taken.truncated.copy()
        truncated[last] |= ~taken.terminated[last]
        return taken.replace(truncated=truncated)

    def _pieces(self, part: Dataset, enough: float, stream: str) -> Iterator[tuple[int, int, int]]:
        """Yield (episode, first step, step after the last)."""
        rng, total = self.rng(stream), 0
        lengths = part.episode_lengths
        while total <= enough:
            episode = int(rng.integers(part.num_episodes))
            length = int(lengths[episode])
            start, stop = 0, length
            if self.segments:
                start = int(rng.integers(max(length - 10, 1)))
                stop = min(length, start + int(rng.integers(10, 50)))
            total += stop - start
            yield episode, start, stop
