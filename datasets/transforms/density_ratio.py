"""The transform `density_ratio`: learned sampling weights that favour reward and keep the flow of states (DW).

Source: Hong et al., Beyond Uniform Sampling: Offline RL with Imbalanced Datasets, NeurIPS 2023, arXiv 2310.04413, and
its published code.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from gymnasium import spaces

from offbench.datasets.columns import Array
from offbench.datasets.dataset import Dataset
from offbench.datasets.download import cache_dir
from offbench.datasets.sampling import effective_size, sampling_probabilities, sampling_summary
from offbench.datasets.transforms.base import Transform
from offbench.datasets.transforms.weights_rules import scaled
from offbench.datasets.write_aside import write_aside
from offbench.errors import IncompatibleError, SpecError

if TYPE_CHECKING:
    import torch

VERSION = 1  # raise it when a change here alters what a dataset and parameters give
ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, kw_only=True)
class DensityRatio(Transform):
    """Sampling weights exp(clip(f(s)) + clip(g(s, a))) of two networks, learned from rewards and transitions.

    On each batch, with w the softmax over the batch of l = clip(f(s)) + clip(g(s, a)), clips at -(1 + C) and 1 + C:

        - sum w r  +  lambda_F mean (gamma_F exp(f(s) + g(s, a)) - exp(f(s')))^2  +  lambda_K sum w log w

    is minimized, r being the reward scaled to [0, 1] over the dataset: weights go to reward, a state is entered as
    often as it is left, and the last term keeps them close to uniform. Batches are drawn by weights that are there
    already, which the learned ones multiply: `reweight(method=aw)` before it gives the paper's DW-AW.

    It differs from the paper's code in three points: the weights are learned first and then fixed, as probabilities
    of drawing (the paper learns them along with the policy, as factors of its losses; their objective does not
    contain the policy); the flow term leaves out rows whose s' is unknown or terminal, where the code compares with
    whatever the file holds; and the default number of updates is 10,000, not that of the policy's training.

    Attributes:
        flow_weight, entropy_weight: lambda_F and lambda_K; the paper searches {0.1, 1, 5} and {0.2, 1}.
        flow_discount: gamma_F.
        clip: C; the largest ratio of two weights is exp(4 (1 + C)), 121 at 0.2.
        learning_rate, updates, batch_size, hidden: of Adam and of the two networks.
        held_out: share of the episodes that are not trained on; what is measured on them goes into the record.
        seed: of initial weights, batches and the split.

    Raises:
        SpecError: a parameter is out of range.
    """

    name: ClassVar[str] = "density_ratio"
    summary: ClassVar[str] = (
        "learned sampling weights that favour reward and keep the flow of states (DW); trains a model"
    )

    flow_weight: float = 1.0
    entropy_weight: float = 0.2
    flow_discount: float = 1.0
    clip: float = 0.2
    learning_rate: float = 1e-4
    updates: int = 10_000
    batch_size: int = 256
    hidden: tuple[int, ...] = (256, 256)
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "updates", "batch_size"):
            if not getattr(self, name) > 0:
                raise SpecError(f"density_ratio: {name} is {getattr(self, name)}", "", "give a positive number")
        for name in ("flow_weight", "entropy_weight", "flow_discount", "clip"):
            if not 0 <= getattr(self, name) < np.inf:
                raise SpecError(f"density_ratio: {name} is {getattr(self, name)}", "", "give a number of at least 0")
        if not 0 <= self.held_out < 1:
            raise SpecError(f"density_ratio: held_out is {self.held_out}", "", "give a share in [0, 1), e.g. 0.1")
        if not self.hidden or min(self.hidden) < 1:
            raise SpecError(f"density_ratio: hidden is {list(self.hidden)}", "", "give widths, e.g. [256, 256]")

    def apply(self, dataset: Dataset) -> Dataset:
        if not np.ptp(dataset.rewards) > 0:
            raise IncompatibleError(
                f"the weights of {dataset.name} cannot be learned: all its rewards are {dataset.rewards[0]:g}",
                "they are learned from differences of reward",
                "relabel the rewards, or use reweight with a score of your own",
            )
        logits, measured = self._cached(dataset)
        weights = sampling_probabilities(dataset) * np.exp(logits - logits.max())
        weights /= weights.sum()
        summary = sampling_summary(dataset.replace(sampling_weights=weights))
        return self.changed(dataset, sampling_weights=weights, measured={**measured, **summary})

    def _cached(self, dataset: Dataset) -> tuple[Array, dict[str, Any]]:
        """Logits [N] float64 and what was measured: from the cache, or learned and kept there."""
        request = {"version": VERSION, "data": dataset.fingerprint, "seed": self.seed, **self.parameters}
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:32]
        path = cache_dir() / "transforms" / self.name / f"{key}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                logits, measured = stored["logits"], json.loads(str(stored["measured"]))
            if logits.shape == (dataset.num_transitions,) and np.isfinite(logits).all():
                return logits, measured
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            pass  # not there, or damaged: learn it anew
        logits, measured = self._learn(dataset)

        def write(aside: Path) -> None:
            np.savez(aside, logits=logits, measured=np.array(json.dumps(measured)))

        write_aside(path, write, overwrite=True)
        return logits, measured

    def _learn(self, dataset: Dataset) -> tuple[Array, dict[str, Any]]:
        import torch

        table = _Table(dataset)
        probabilities = sampling_probabilities(dataset)
        held_out = self._held_out_rows(dataset)
        rows = np.flatnonzero(~held_out & (probabilities > 0))
        if not len(rows):
            raise IncompatibleError(
                f"the weights of {dataset.name} cannot be learned: no transition is left to train on",
                "all that can be drawn are held out",
                "use held_out=0",
            )
        cumulative = np.cumsum(probabilities[rows])
        cumulative /= cumulative[-1]
        initial, batches = self.rng("init"), self.rng("batches")
        state_net = _network(table.states.shape[1], self.hidden, initial)
        action_net = _network(table.states.shape[1] + table.actions.shape[1], self.hidden, initial)
        optimizer = torch.optim.Adam([*state_net.parameters(), *action_net.parameters()], self.learning_rate)
        for _ in range(self.updates):
            drawn = rows[np.searchsorted(cumulative, batches.random(self.batch_size), side="right")]
            batch = table.batch(drawn)
            loss = self.loss(state_net, action_net, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        logits = np.empty(dataset.num_transitions)
        flow = np.zeros(dataset.num_transitions)
        with torch.no_grad():
            for start in range(0, len(logits), ROWS_AT_ONCE):
                part = np.arange(start, min(start + ROWS_AT_ONCE, len(logits)))
                batch = table.batch(part)
                logits[part] = _clipped(*_heads(state_net, action_net, batch), self.clip).double().numpy()
                flow[part] = self.flow_error(state_net, action_net, batch).double().numpy()
        return logits, _held_out_numbers(table, probabilities, held_out, logits, flow)

    def _held_out_rows(self, dataset: Dataset) -> Array:
        """[N] bool, the transitions of episodes that are not trained on: at least one if any are asked for."""
        held_out = np.zeros(dataset.num_episodes, np.bool_)
        if self.held_out > 0 and dataset.num_episodes > 1:
            count = min(max(1, round(self.held_out * dataset.num_episodes)), dataset.num_episodes - 1)
            held_out[self.rng("split").permutation(dataset.num_episodes)[:count]] = True
        return held_out[dataset.episode_ids]

    def loss(
        self, state_net: torch.nn.Module, action_net: torch.nn.Module, batch: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """The objective on one batch; see the class."""
        log_weights = _clipped(*_heads(state_net, action_net, batch), self.clip).log_softmax(0)
        weights = log_weights.exp()
        reward = (weights * batch["rewards"]).sum()
        entropy = (weights * log_weights).sum()
        flow = self.flow_error(state_net, action_net, batch).mean()
        return -reward + self.flow_weight * flow + self.entropy_weight * entropy

    def flow_error(
        self, state_net: torch.nn.Module, action_net: torch.nn.Module, batch: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """[B], squared difference of what flows into s' and the weight of s'; 0 where s' is unknown or terminal."""
        state, action = _heads(state_net, action_net, batch)
        following = state_net(batch["next_states"]).squeeze(-1)
        return batch["flows"] * (self.flow_discount * (state + action).exp() - following.exp()).square()


class _Table:
    """A dataset's columns as the networks read them: standardized states, actions (one-hot if discrete), rewards."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        space = dataset.observation_space
        self._one_hot = np.eye(int(space.n), dtype=np.float32) if isinstance(space, spaces.Discrete) else None
        self._start = int(space.start) if isinstance(space, spaces.Discrete) else 0
        self.states = self._features(dataset.step_observations)
        self._mean, self._scale = self.states.mean(0), self.states.std(0) + 1e-3
        self.states = (self.states - self._mean) / self._scale
        if isinstance(dataset.action_space, spaces.Discrete):
            choices = np.eye(int(dataset.action_space.n), dtype=np.float32)
            self.actions = choices[dataset.actions - int(dataset.action_space.start)]
        else:
            self.actions = dataset.actions.reshape(len(dataset.actions), -1).astype(np.float32)
        self.rewards = scaled(dataset.rewards.astype(np.float64)).astype(np.float32)
        self.flows = (dataset.next_valid & ~dataset.terminated).astype(np.float32)

    def _features(self, observations: Array) -> Array:
        if self._one_hot is not None:
            return self._one_hot[observations.reshape(-1) - self._start]
        return observations.reshape(len(observations), -1).astype(np.float32)

    def batch(self, rows: Array) -> dict[str, torch.Tensor]:
        """The rows as tensors [B, ...]: states, actions, rewards, next_states, flows."""
        import torch

        data = self._dataset
        override = data.next_observations_override
        following = override[rows] if override is not None else data.observations[data.next_frame_index[rows]]
        arrays = {
            "states": self.states[rows],
            "actions": self.actions[rows],
            "rewards": self.rewards[rows],
            "next_states": (self._features(following) - self._mean) / self._scale,
            "flows": self.flows[rows],
        }
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in arrays.items()}


def _heads(
    state_net: torch.nn.Module, action_net: torch.nn.Module, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """f(s) and g(s, a), each [B]."""
    import torch

    joint = torch.cat([batch["states"], batch["actions"]], -1)
    return state_net(batch["states"]).squeeze(-1), action_net(joint).squeeze(-1)


def _clipped(state: torch.Tensor, action: torch.Tensor, clip: float) -> torch.Tensor:
    bound = 1.0 + clip
    return state.clamp(-bound, bound) + action.clamp(-bound, bound)


def _network(size: int, hidden: tuple[int, ...], rng: np.random.Generator) -> torch.nn.Sequential:
    """An MLP with ReLU and one output; torch's default initial distribution, drawn from `rng`."""
    import torch

    layers: list[torch.nn.Module] = []
    for inputs, outputs in zip((size, *hidden), (*hidden, 1), strict=True):
        layer = torch.nn.utils.skip_init(torch.nn.Linear, inputs, outputs)
        bound = 1.0 / np.sqrt(inputs)
        with torch.no_grad():
            for parameter in layer.parameters():
                values = rng.uniform(-bound, bound, tuple(parameter.shape)).astype(np.float32)
                parameter.copy_(torch.from_numpy(values))
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def _held_out_numbers(
    table: _Table, probabilities: Array, held_out: Array, logits: Array, flow: Array
) -> dict[str, Any]:
    """What the weights do on episodes that were not trained on; {} if none of them can be drawn."""
    before = probabilities * held_out
    if not before.sum() > 0:
        return {}
    before = before / before.sum()
    after = before * np.exp(logits)
    after = after / after.sum()
    return {
        "held_out_transitions": int(held_out.sum()),
        "held_out_scaled_reward": float(after @ table.rewards),
        "held_out_scaled_reward_before": float(before @ table.rewards),
        "held_out_flow_rms": float(np.sqrt(before @ flow)),
        "held_out_effective_share": effective_size(after) / effective_size(before),
    }
