"""The dataset type: immutable columns over transitions, episode starts, spaces, reference, provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike

from offbench.datasets import columns
from offbench.datasets.columns import Array, freeze
from offbench.datasets.episodes import boundaries, checked_starts, merge_next
from offbench.datasets.marks import NEUTRAL
from offbench.datasets.records import Provenance, Reference, TransformRecord
from offbench.datasets.spaces import unbounded_space
from offbench.errors import DatasetError, UnknownNameError

FINGERPRINT_SCHEMA = "offbench-dataset-1"
# Columns that decide what is learned; their order and names are part of the fingerprint.
CORE_COLUMNS = (
    "observations",
    "actions",
    "rewards",
    "terminated",
    "truncated",
    "episode_starts",
    "last_known",
    "next_observations_override",
    "next_known",
    "costs",
    "goals",
    "log_probs",
    "sampling_weights",
)

# Fields that describe the columns without deciding what they may hold.
LABELS = frozenset({"environment", "reference", "provenance", "name"})


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Logged trajectories as flat columns: F frames, N transitions, K episodes. Immutable.

    Each observed frame is stored once. An episode of T transitions owns T frames, or T + 1 if the frame
    after its last transition is known, so F = N + last_known.sum(). The next observation of a transition is
    found by index and never comes from another episode. An episode ends where a row is terminated or
    truncated; a time limit is a truncation, never a termination; the last episode, or one cut at an explicit
    start, may end with neither flag.

    The constructor checks every column and brings it to its canonical type; most callers want `from_arrays`.

    Attributes:
        observations: [F, *obs_shape] float32, uint8 or int64; the frames, episode after episode.
        actions: [N, *act_shape] float32 (Box) or int64 (Discrete [N], MultiDiscrete, MultiBinary).
        rewards: [N] float32. Returns are summed in float64.
        terminated: [N] bool; the environment ended: the value after this row is 0.
        truncated: [N] bool; the episode was cut (time limit). If both flags are set, the row counts as
            terminated for bootstrapping.
        episode_starts: [K] int64, the first transition of each episode; the first entry is 0.
        last_known: [K] bool, the frame after the episode's last transition is stored.
        observation_space, action_space: Gymnasium spaces of one observation and one action.
        environment: Gymnasium id that evaluates a policy for this dataset, e.g. "Hopper-v4".
        reference: what normalized scores mean for this dataset, if known.
        next_observations_override: [N, *obs_shape]; explicit next observations that differ from the frames.
        next_known: [N] bool, the rows of the override that are known; None if all are. Only with an override.
        costs, log_probs: [N] float32. goals: [N, ...].
        infos: further columns [N, ...] by name; not part of the fingerprint but for those of `datasets.marks`.
        sampling_weights: [N] float64, probability of drawing each transition; sums to 1.

    Raises:
        DatasetError: empty data, mismatched lengths, wrong types, NaN, infinity, or flags inside an episode.
    """

    observations: Array
    actions: Array
    rewards: Array
    terminated: Array
    truncated: Array
    episode_starts: Array
    last_known: Array
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    environment: str | None = None
    reference: Reference | None = None
    provenance: Provenance = field(default_factory=lambda: Provenance("arrays"))
    name: str = "arrays"
    next_observations_override: Array | None = None
    next_known: Array | None = None
    costs: Array | None = None
    goals: Array | None = None
    log_probs: Array | None = None
    infos: Mapping[str, Array] = field(default_factory=dict)
    sampling_weights: Array | None = None

    def __post_init__(self) -> None:
        self._check({entry.name for entry in fields(self)})

    def _check(self, changed: AbstractSet[str]) -> None:
        """Bring columns to their canonical type and check them; of those not in `changed` only that they still fit."""
        clean: dict[str, Any] = {}
        if "rewards" in changed:
            rewards = columns.squeeze_column(columns.numeric("rewards", self.rewards))
            clean["rewards"] = columns.floats("rewards", rewards)
            if clean["rewards"].ndim != 1 or not len(clean["rewards"]):
                raise DatasetError(
                    f"rewards have shape {clean['rewards'].shape}",
                    "a dataset needs one reward per transition, and at least one",
                )
        rows = len(clean.get("rewards", self.rewards))
        if not changed.isdisjoint(("actions", "action_space")):
            clean["actions"] = columns.actions(self.actions, self.action_space)
        for name in ("terminated", "truncated"):
            clean[name] = columns.flags(name, getattr(self, name))
        for name in ("actions", "terminated", "truncated"):
            columns.require_length(name, clean.get(name, self.actions), rows, "transition")
        clean["episode_starts"] = checked_starts(self.episode_starts, clean["terminated"] | clean["truncated"])
        clean["last_known"] = columns.flags("last_known", self.last_known)
        columns.require_length("last_known", clean["last_known"], len(clean["episode_starts"]), "episode")
        observed = "observation_space" in changed
        frames = rows + int(clean["last_known"].sum())
        if observed or "observations" in changed:
            clean["observations"] = self._checked_observations("observations", self.observations, frames, "frame")
        columns.require_length("observations", clean.get("observations", self.observations), frames, "frame")
        override = self.next_observations_override
        if override is not None:
            kind = clean.get("observations", self.observations).dtype
            if observed or "next_observations_override" in changed or override.dtype != kind:
                override = self._checked_observations("next_observations", override, rows, "transition")
                clean["next_observations_override"] = override = columns.owned(override, kind)
            columns.require_length("next_observations", override, rows, "transition")
        if self.next_known is not None:
            if override is None:
                raise DatasetError("next_known is given without next_observations_override", "", "give both or neither")
            known = columns.flags("next_known", self.next_known)
            columns.require_length("next_known", known, rows, "transition")
            clean["next_known"] = None if known.all() else known
        for name in ("costs", "goals", "log_probs"):
            if getattr(self, name) is not None:
                if name in changed:
                    values = columns.numeric(name, getattr(self, name))
                    clean[name] = columns.floats(name, values if name == "goals" else columns.squeeze_column(values))
                columns.require_length(name, clean.get(name, getattr(self, name)), rows, "transition")
        if self.sampling_weights is not None:
            if "sampling_weights" in changed:
                clean["sampling_weights"] = columns.probabilities("sampling_weights", self.sampling_weights, rows)
            columns.require_length(
                "sampling_weights", clean.get("sampling_weights", self.sampling_weights), rows, "transition"
            )
        clean["infos"] = columns.extra_columns(self.infos, rows)
        for name, value in clean.items():
            object.__setattr__(self, name, value)  # the dataclass is frozen; this is its constructor

    def _checked_observations(self, name: str, values: ArrayLike, rows: int, unit: str) -> Array:
        array = columns.observations(name, values)
        columns.require_length(name, array, rows, unit)
        if self.observation_space.shape is not None and array.shape[1:] != self.observation_space.shape:
            raise DatasetError(
                f"{name} have shape {array.shape[1:]} per row, but the observation space has "
                f"{self.observation_space.shape}",
                "",
                "pass the observation_space of the environment that the data come from",
            )
        return array

    @classmethod
    def from_arrays(
        cls,
        observations: ArrayLike,
        actions: ArrayLike,
        rewards: ArrayLike,
        terminated: ArrayLike,
        truncated: ArrayLike | None = None,
        *,
        next_observations: ArrayLike | None = None,
        episode_starts: ArrayLike | None = None,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
        environment: str | None = None,
        reference: Reference | None = None,
        horizon: int | None = None,
        name: str = "arrays",
        infos: Mapping[str, ArrayLike] | None = None,
        provenance: Provenance | None = None,
        costs: ArrayLike | None = None,
        goals: ArrayLike | None = None,
        log_probs: ArrayLike | None = None,
        sampling_weights: ArrayLike | None = None,
    ) -> Dataset:
        """Make a dataset from columns with one row per transition, in time order (the layout of D4RL).

        Args:
            observations: [N, ...], s_t.
            actions, rewards, terminated: [N, ...], [N], [N].
            truncated: [N], True where an episode was cut without terminating. If it is None the cuts come
                from `horizon` or `episode_starts`; with neither they cannot be known and an error is raised.
            next_observations: [N, ...], s_{t+1}. If they equal the next row inside every episode, only the
                last one of each episode is stored; otherwise all are kept as an override. A column that
                equals the next row across episodes too is only a shift of the rows and is ignored.
            episode_starts: [K] index of each episode's first row. If `truncated` is None, an episode that
                another one follows without a termination is marked truncated.
            observation_space: defaults to an unbounded Box of the observations' shape.
            action_space: required, e.g. Box(-1, 1, (3,)) or Discrete(4); it is never guessed from the values.
            horizon: time limit in steps; used only when both `truncated` and `episode_starts` are None.

        Raises:
            DatasetError: inconsistent or unusable columns; the message names the column and the first rows.
        """
        if action_space is None:
            raise DatasetError(
                "the action space is not given",
                "actions 0, 1, 2 may be choices or numbers; guessing would train the wrong kind of policy",
                "pass action_space=gymnasium.spaces.Box(-1, 1, (n,)) or gymnasium.spaces.Discrete(n)",
            )
        obs = columns.observations("observations", observations)
        terminals = columns.flags("terminated", terminated)
        if obs.ndim == 0 or len(obs) != len(terminals) or not len(obs):
            raise DatasetError(
                f"observations have shape {obs.shape} and terminated {terminals.shape}",
                "both need one row per transition, and at least one",
            )
        cuts, starts, boundary_rule = boundaries(terminals, truncated, episode_starts, horizon)
        details: dict[str, Any] = {"boundaries": boundary_rule}
        override, known = None, np.zeros(len(starts), dtype=np.bool_)
        if next_observations is not None:
            following = columns.observations("next_observations", next_observations)
            if following.shape != obs.shape:
                raise DatasetError(f"next_observations have shape {following.shape}, observations {obs.shape}")
            obs, known, override, details["next_observations"] = merge_next(obs, following, starts)
        if provenance is None:
            provenance = Provenance("arrays", details)
        else:
            provenance = replace(provenance, details={**provenance.details, **details})
        return cls(
            observations=obs,
            actions=np.asarray(actions),
            rewards=np.asarray(rewards),
            terminated=terminals,
            truncated=cuts,
            episode_starts=starts,
            last_known=known,
            observation_space=observation_space or unbounded_space(obs),
            action_space=action_space,
            environment=environment,
            reference=reference,
            provenance=provenance,
            name=name,
            next_observations_override=override,
            costs=None if costs is None else np.asarray(costs),
            goals=None if goals is None else np.asarray(goals),
            log_probs=None if log_probs is None else np.asarray(log_probs),
            infos={key: np.asarray(values) for key, values in (infos or {}).items()},
            sampling_weights=None if sampling_weights is None else np.asarray(sampling_weights),
        )

    @classmethod
    def from_checked(cls, fingerprint: str, **values: Any) -> Dataset:
        """Make a dataset of columns that were a dataset's before, without reading them: for memory-mapped columns.

        Args:
            fingerprint: of that dataset.
            values: every field of the class; columns read-only and of canonical type.
        """
        dataset = object.__new__(cls)
        dataset.__dict__.update({entry.name: values[entry.name] for entry in fields(cls)}, fingerprint=fingerprint)
        return dataset

    @property
    def num_transitions(self) -> int:
        """N, the number of transitions."""
        return len(self.rewards)

    @property
    def num_episodes(self) -> int:
        """K, the number of episodes."""
        return len(self.episode_starts)

    @property
    def num_frames(self) -> int:
        """F, the number of stored frames."""
        return len(self.observations)

    def __len__(self) -> int:
        return self.num_transitions

    @property
    def discrete(self) -> bool:
        """True if the action space is Discrete."""
        return isinstance(self.action_space, spaces.Discrete)

    @cached_property
    def episode_lengths(self) -> Array:
        """[K] int64, transitions per episode."""
        return freeze(np.diff(self.episode_starts, append=self.num_transitions))

    @cached_property
    def episode_ids(self) -> Array:
        """[N] int64, the episode of each transition."""
        return freeze(np.repeat(np.arange(self.num_episodes), self.episode_lengths))

    @cached_property
    def timesteps(self) -> Array:
        """[N] int64, 0-based step inside the episode."""
        return freeze(np.arange(self.num_transitions) - self.episode_starts[self.episode_ids])

    @cached_property
    def is_last(self) -> Array:
        """[N] bool, the last stored transition of its episode."""
        mask = np.zeros(self.num_transitions, dtype=np.bool_)
        mask[self.episode_starts[1:] - 1] = True
        mask[-1] = True
        return freeze(mask)

    @cached_property
    def frame_index(self) -> Array:
        """[N] int64, index into `observations` of s_t."""
        frames_before = np.cumsum(self.last_known) - self.last_known
        return freeze(np.arange(self.num_transitions) + frames_before[self.episode_ids])

    @cached_property
    def next_frame_index(self) -> Array:
        """[N] int64, index into `observations` of s_{t+1}; the row's own frame where it is not stored."""
        return freeze(self.frame_index + self._next_frame_known)

    @cached_property
    def _next_frame_known(self) -> Array:
        return freeze(~self.is_last | self.last_known[self.episode_ids])

    @cached_property
    def next_valid(self) -> Array:
        """[N] bool, s_{t+1} is known."""
        if self.next_known is not None:
            return self.next_known
        if self.next_observations_override is not None:
            return freeze(np.ones(self.num_transitions, dtype=np.bool_))
        return self._next_frame_known

    @cached_property
    def bootstrappable(self) -> Array:
        """[N] bool, rows on which a method can bootstrap: terminated, or s_{t+1} is known."""
        return freeze(self.terminated | self.next_valid)

    @cached_property
    def episode_complete(self) -> Array:
        """[K] bool, the episode's last row is terminated or truncated."""
        last = np.append(self.episode_starts[1:], self.num_transitions) - 1
        return freeze(self.terminated[last] | self.truncated[last])

    @cached_property
    def episode_returns(self) -> Array:
        """[K] float64, undiscounted sum of rewards per episode (also of incomplete ones)."""
        return freeze(np.add.reduceat(self.rewards, self.episode_starts, dtype=np.float64))

    @cached_property
    def step_observations(self) -> Array:
        """[N, *obs_shape], s_t of each transition."""
        if self.num_frames == self.num_transitions:
            return self.observations
        return freeze(self.observations[self.frame_index])

    @cached_property
    def next_observations(self) -> Array:
        """[N, *obs_shape], s_{t+1} of each transition; a placeholder (s_t) where `next_valid` is False."""
        if self.next_observations_override is not None:
            return self.next_observations_override
        return freeze(self.observations[self.next_frame_index])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the core columns; equal for the same trajectories, whatever file they come from.

        Names, spaces, reference, provenance and infos are not in it, but for the marks that decide what is learned.
        """
        digest = hashlib.sha256(FINGERPRINT_SCHEMA.encode())
        named = {name: getattr(self, name) for name in CORE_COLUMNS}
        named |= {f"infos/{name}": self.infos.get(name) for name in sorted(NEUTRAL)}
        for name, column in named.items():
            if column is None:
                continue
            little = column.astype(column.dtype.newbyteorder("<"), copy=False)
            digest.update(f"|{name}:{little.dtype.str}:{little.shape}|".encode())
            digest.update(little.data)
        return digest.hexdigest()

    def replace(self, **changes: Any) -> Dataset:
        """Return a dataset with some columns or properties replaced; the others are shared, not copied.

        Raises:
            UnknownNameError: a name is not a field of Dataset.
            DatasetError: the new columns do not fit.
        """
        known = [entry.name for entry in fields(self)]
        for name in changes:
            if name not in known:
                raise UnknownNameError("dataset column", name, known)
        if changes.get("next_observations_override", 0) is None:
            changes.setdefault("next_known", None)
        if LABELS.issuperset(changes):
            # No column changes, so none is checked again and what was computed from them stays true.
            relabelled = object.__new__(type(self))
            relabelled.__dict__.update(self.__dict__, **changes)
            return relabelled
        # Columns that stay were checked when this dataset was made.
        made = object.__new__(type(self))
        made.__dict__.update({name: getattr(self, name) for name in known}, **changes)
        made._check(changes.keys())
        return made

    def with_transform(self, record: TransformRecord, **changes: Any) -> Dataset:
        """Return `replace(**changes)` with `record` appended to the provenance."""
        provenance = replace(self.provenance, transforms=(*self.provenance.transforms, record))
        return self.replace(provenance=provenance, **changes)

    def summary(self) -> dict[str, Any]:
        """Return what the dataset holds as a JSON-able dictionary: sizes, flags, returns, spaces, origin."""
        from offbench.datasets.summary import summarize

        return summarize(self)

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}, {self.num_transitions} transitions, {self.num_episodes} episodes, "
            f"observations {self.observations.dtype}{list(self.observations.shape[1:])}, "
            f"actions {self.action_space})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Rebuilding by the constructor keeps arrays read-only in another process and leaves caches behind.
        state = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return _rebuild, ({**state, "infos": dict(self.infos)},)


def _rebuild(state: dict[str, Any]) -> Dataset:
    return Dataset(**state)
