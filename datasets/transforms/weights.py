"""The transform `reweight`: sampling weights by return, advantage, rank or any score, or given by the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from offbench.datasets.columns import Array, listed
from offbench.datasets.dataset import Dataset
from offbench.datasets.marks import complete_returns, rewarded_episodes
from offbench.datasets.returns import positive_sided_variance, relative_positive_sided_variance
from offbench.datasets.sampling import episode_shares, sampling_probabilities, sampling_summary
from offbench.datasets.transforms.base import Transform, array_digest
from offbench.datasets.transforms.weights_columns import read_column
from offbench.datasets.transforms.weights_rules import (
    best,
    first_features,
    least_squares_value,
    ridge_value,
    softmax_weights,
)
from offbench.errors import DatasetError, IncompatibleError, SpecError

Method = Literal["uniform", "rw", "aw", "pf", "top_k", "softmax", "custom"]
Unit = Literal["episode", "transition"]
TEMPERATURE = 0.1  # the paper's for IQL and TD3+BC; 0.2 for CQL
FRACTION = 0.1  # the paper's "Top 10 %"
# What each method takes; giving it anything else is an error, as it would be ignored.
OPTIONS: dict[str, tuple[str, ...]] = {
    "uniform": ("unit",),
    "rw": ("temperature", "partial"),
    "aw": ("temperature", "value", "partial"),
    "pf": ("fraction", "partial"),
    "top_k": ("fraction", "count", "score", "unit", "partial"),
    "softmax": ("temperature", "score", "unit", "partial"),
    "custom": ("weights", "unit"),
}


@dataclass(frozen=True, kw_only=True)
class Reweight(Transform):
    """Sampling weights for the transitions; every algorithm draws its batches by them.

    With the return G_i and length T_i of episode i, x_i a score scaled to [0, 1] over the eligible episodes, and
    weights that are there already as a factor:

    * "rw": weight exp(x_i / temperature) for each transition of episode i, x from G (Hong et al. 2023, RW).
    * "aw": the same with x from G_i - V(s_i0), V linear in the first observation (AW).
    * "pf": 1 for the transitions of the floor(n * fraction) episodes of highest return, else 0 (percentage filtering).
    * "top_k": the same by any score and for a fraction or count of episodes or of transitions.
    * "softmax": as "rw" by any score, for episodes or transitions.
    * "custom": the given weights.
    * "uniform": equal weights. It alone forgets weights that are there.

    The result is normalized to sum to 1. Episode i is drawn with probability T_i w_i / sum_j T_j w_j: as if the
    dataset held it w_i times.

    Attributes:
        method: see above.
        temperature: of "rw", "aw", "softmax"; default 0.1, the paper's for IQL and TD3+BC (0.2 for CQL).
        value: V of "aw". "paper" (default) is ordinary least squares on the raw observations, evaluated where it was
            fitted, as in the paper's code; "ridge" predicts each episode from the others, so that an episode's own
            luck does not count as the value of its first state.
        fraction: of "pf" and "top_k", in (0, 1]; default 0.1.
        count: of "top_k", instead of `fraction`.
        score: of "top_k" and "softmax": "return" (default), "length", "infos/NAME", a .npy or .csv file, or an array;
            larger is better. A column per transition is averaged over each episode where the unit is the episode.
        unit: what is scored or weighted: "episode" (default; for "uniform" and "custom" it is "transition").
        weights: of "custom": "infos/NAME", a .npy or .csv file, or an array; one for each transition (or episode, by
            `unit`), not negative.
        partial: episodes that end with neither flag have no known return and length. "last" (default) gives weight 0
            to such an episode at the end of the data, where the file was cut, and refuses others; "drop" gives
            weight 0 to all; "refuse" accepts none.

    Raises:
        SpecError: options that do not fit the method, or out of range.
    """

    name: ClassVar[str] = "reweight"
    summary: ClassVar[str] = "sampling weights by return (rw), advantage (aw), rank (pf, top_k), score or your own"

    method: Method
    temperature: float | None = None
    value: Literal["paper", "ridge"] | None = None
    fraction: float | None = None
    count: int | None = None
    score: str | np.ndarray | None = None
    unit: Unit | None = None
    weights: str | np.ndarray | None = None
    partial: Literal["last", "drop", "refuse"] | None = None

    def __post_init__(self) -> None:
        if self.method not in OPTIONS:
            raise SpecError(f"reweight: method is {self.method!r}", "", f"use one of {', '.join(get_args(Method))}")
        for option in ("temperature", "value", "fraction", "count", "score", "unit", "weights", "partial"):
            if getattr(self, option) is not None and option not in OPTIONS[self.method]:
                takes = ", ".join(OPTIONS[self.method])
                raise SpecError(
                    f"reweight: method {self.method} has no {option}", "it would be ignored", f"it takes {takes}"
                )
        for option, allowed in (
            ("value", ("paper", "ridge")),
            ("unit", get_args(Unit)),
            ("partial", ("last", "drop", "refuse")),
        ):
            if getattr(self, option) not in (None, *allowed):
                raise SpecError(f"reweight: {option} is {getattr(self, option)!r}", "", f"use {' or '.join(allowed)}")
        if self.temperature is not None and not 0 < self.temperature < np.inf:
            raise SpecError(
                f"reweight: temperature is {self.temperature}", "it divides scores in [0, 1]", "give e.g. 0.1"
            )
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise SpecError(f"reweight: fraction is {self.fraction}", "", "give a share in (0, 1], e.g. 0.1")
        if self.count is not None and (self.count < 1 or self.fraction is not None):
            raise SpecError(
                f"reweight: count is {self.count}", "", "give a count of at least 1, or a fraction, not both"
            )
        if self.method == "custom" and self.weights is None:
            raise SpecError("reweight: method custom needs weights", "", "give an array, a file or infos/NAME")

    def apply(self, dataset: Dataset) -> Dataset:
        measured: dict[str, Any] = {}
        if self.method == "uniform":
            weights = self._uniform(dataset)
        else:
            given, measured = self._custom(dataset) if self.method == "custom" else self._scored(dataset)
            weights = sampling_probabilities(dataset) * given
        total = float(weights.sum())
        if not 0 < total < np.inf:
            raise IncompatibleError(
                f"{dataset.name} has no transition left to draw",
                "the new weights are zero wherever the weights that were there are not",
                "put reweight(method=uniform) before it to forget earlier weights",
            )
        result = dataset.replace(sampling_weights=weights / total)
        return self.changed(
            dataset, sampling_weights=result.sampling_weights, measured={**measured, **sampling_summary(result)}
        )

    def _uniform(self, dataset: Dataset) -> Array:
        if self.unit == "episode":
            return 1.0 / dataset.episode_lengths[dataset.episode_ids]
        return np.ones(dataset.num_transitions)

    def _custom(self, dataset: Dataset) -> tuple[Array, dict[str, Any]]:
        values, digest = self._column(dataset, self.weights, self.unit or "transition", "weights")
        if (values < 0).any():
            raise DatasetError(f"weights are negative in {listed(np.flatnonzero(values < 0))}")
        largest = values.max()
        if largest <= 0:
            raise DatasetError("the weights are all zero", "nothing could be drawn")
        values = values / largest
        per_row = values if len(values) == dataset.num_transitions else values[dataset.episode_ids]
        return per_row, {"weights": digest}

    def _scored(self, dataset: Dataset) -> tuple[Array, dict[str, Any]]:
        """The factor [N] of a method that scores episodes or transitions, and what was measured on the way."""
        unit = self.unit or "episode"
        score = "return" if self.score is None else self.score
        measured: dict[str, Any] = {}
        if unit == "transition":
            if isinstance(score, str) and score in ("return", "length"):
                raise SpecError(
                    f"reweight: transitions have no {score}",
                    "",
                    "use unit=episode or score infos/NAME, a file or an array",
                )
            scores, measured["score"] = self._column(dataset, score, unit, "score")
            eligible = sampling_probabilities(dataset) > 0
        else:
            eligible = self._eligible(dataset, needs_ends=isinstance(score, str) and score in ("return", "length"))
            if isinstance(score, str) and score == "return":
                scores = dataset.episode_returns
                known = scores[complete_returns(dataset)]
                measured |= {"psv": positive_sided_variance(known), "rpsv": relative_positive_sided_variance(known)}
            elif isinstance(score, str) and score == "length":
                scores = dataset.episode_lengths.astype(np.float64)
            else:
                scores, measured["score"] = self._column(dataset, score, unit, "score")
            measured["episodes_excluded"] = int(np.count_nonzero(~eligible))
        if self.method == "aw":
            advantage, found = self._advantage(dataset, np.flatnonzero(eligible))
            scores, measured = scores.copy(), measured | found
            scores[eligible] = advantage
        factor = np.zeros(len(scores))
        if self.method in ("pf", "top_k"):
            fraction = None if self.count is not None else self.fraction or FRACTION
            factor[eligible] = best(scores[eligible], fraction=fraction, count=self.count)
        else:
            factor[eligible] = softmax_weights(scores[eligible], self.temperature or TEMPERATURE)
        return (factor if unit == "transition" else factor[dataset.episode_ids]), measured

    def _eligible(self, dataset: Dataset, *, needs_ends: bool) -> Array:
        """[K] bool, the episodes that take part: those that can be drawn and, where it matters, are complete."""
        reachable = episode_shares(dataset) > 0
        partial = self.partial or "last"
        open_ended = ~dataset.episode_complete
        if not needs_ends and (self.partial is None or partial == "last"):
            open_ended = np.zeros(dataset.num_episodes, np.bool_)  # the user's score needs no end
        if self.score is None or (isinstance(self.score, str) and self.score == "return"):
            unrewarded = ~rewarded_episodes(dataset)
            if partial != "drop" and (unrewarded & reachable).any():
                raise IncompatibleError(
                    f"returns of {dataset.name} are not known",
                    f"rewards are missing in {listed(np.flatnonzero(unrewarded & reachable))}",
                    "fill them in with fill_rewards, or use partial=drop to give those episodes weight 0",
                )
            open_ended = open_ended | unrewarded
        refused = open_ended & reachable
        if partial == "drop":
            refused[:] = False
        elif partial == "last":
            refused[-1] = False
        if refused.any():
            what = self.method if self.score is None else f"the score {self.score!r}"
            raise IncompatibleError(
                f"{what} does not apply to {dataset.name}: incomplete episodes, {listed(np.flatnonzero(refused))}",
                "they end with neither a termination nor a truncation, so their return and length are not known",
                "use partial=drop to give them weight 0, or mark where they were cut as truncated",
            )
        eligible = reachable & ~open_ended
        if not eligible.any():
            raise IncompatibleError(
                f"{dataset.name} has no episode to weight",
                "none that can be drawn is complete: returns are not known",
                "use method=custom, or a score that needs no end",
            )
        return eligible

    def _advantage(self, dataset: Dataset, episodes: Array) -> tuple[Array, dict[str, Any]]:
        """G - V(s_0) of the episodes, and how V was fitted."""
        returns, features = dataset.episode_returns[episodes], first_features(dataset, episodes)
        if self.value == "ridge":
            if len(episodes) < 3:
                raise IncompatibleError(
                    f"aw does not apply to {dataset.name}: it has {len(episodes)} episodes to fit a value to",
                    "the value of each first state is predicted from the other episodes",
                    "use method=rw",
                )
            fit = ridge_value(features, returns)
            return returns - fit.values, {"value_explained_held_out": fit.explained, "value_penalty": fit.penalty}
        advantage = returns - least_squares_value(features, returns)
        spread = float(returns.std())
        if spread > 0 and float(advantage.std()) < 1e-6 * spread:
            raise IncompatibleError(
                f"aw does not apply to {dataset.name}: the linear value fits all {len(episodes)} returns exactly",
                f"a first observation has {features.shape[1]} numbers, so what is left is rounding, not advantage",
                "use value=ridge, which predicts each episode from the others, or method=rw",
            )
        return advantage, {"value_explained_in_sample": 1.0 - float((advantage.std() / spread) ** 2) if spread else 0.0}

    def _column(self, dataset: Dataset, given: str | Array | None, unit: Unit, role: str) -> tuple[Array, str]:
        """A score or weight per episode or transition, float64 and finite, and a description for the provenance."""
        values = read_column(dataset, given, role)
        digest = f"float64[{len(values)}] {array_digest(values)}"
        rows = dataset.num_transitions
        if unit == "episode" and len(values) == dataset.num_episodes:
            return values, digest
        if unit == "episode" and len(values) == rows and role == "score":
            return np.add.reduceat(values, dataset.episode_starts) / dataset.episode_lengths, digest
        if unit == "transition" and len(values) == rows:
            return values, digest
        expected = f"{dataset.num_episodes} episodes" if unit == "episode" else f"{rows} transitions"
        raise DatasetError(
            f"{role} has {len(values)} values, but {dataset.name} has {expected}",
            "",
            "give one value for each, or set unit=episode or unit=transition",
        )
