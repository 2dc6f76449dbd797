"""Measures that need a trained network: how random the actions of a cloned policy are, and how well it predicts them.

One small clone per dataset serves all of them. It is plain behaviour cloning: two hidden layers of 100 rectified units
(Swazinna et al. 2021), actions as a tanh-Gaussian or a softmax. A fifth of the episodes is held out: the snapshot that
predicts it best counts, and every number is one of held-out rows, so that what the network knows by heart does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from offbench.analysis.quality_registry import measure
from offbench.analysis.quality_view import Float, NotMeasurableError, View, sample_rows, states_at
from offbench.datasets import Dataset

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 20_000  # that a clone learns from, and is tested on, at most
UPDATES, BATCH, WIDTH, LEARNING_RATE = 2000, 256, 100, 1e-3
LEAST_UPDATES, EPOCHS = 500, 50  # of small data
LOOKS = 10  # at the held-out rows during training
HELD_OUT = 0.2
EDGE = 0.999  # actions nearer to a bound count as there, because atanh(1) is infinite
_LEAST_SIGMA = 1e-3
_SWAZINNA = "Swazinna, Udluft, Runkler 2021, arXiv 2111.13461"
_COST = f"2 x {WIDTH} units, up to {UPDATES:,} updates of {BATCH} of up to {ROWS:,} rows: some 3 s on one core"


@dataclass(frozen=True)
class Clone:
    """What a cloned policy says about the held-out rows.

    Attributes:
        stochasticity: mean predicted standard deviation before tanh (continuous actions), or mean entropy of the
            softmax over its maximum (choices).
        log_likelihood: mean log-likelihood of the held-out actions, nats.
        marginal: the same of a policy that does not look at the state.
        discrete: which of the two kinds of actions.
    """

    stochasticity: float
    log_likelihood: float
    marginal: float
    discrete: bool


def clone(dataset: Dataset, seed: int = 0, *, updates: int | None = None) -> Clone:
    """Clone the behaviour of a dataset and test the clone on episodes that it has not seen.

    Args:
        updates: by default 50 times through the data, at least 500 and at most 2,000.

    Raises:
        NotMeasurableError: actions that are neither choices nor vectors of numbers, a single action, or fewer than 10
            rows.
    """
    discrete = isinstance(dataset.action_space, spaces.Discrete)
    if not discrete and not isinstance(dataset.action_space, spaces.Box):
        raise NotMeasurableError("actions are neither choices nor vectors of numbers")
    if discrete and int(dataset.action_space.n) < 2:  # type: ignore[attr-defined]
        raise NotMeasurableError("there is a single action")
    rows = sample_rows(dataset, ROWS, seed)
    if len(rows) < 10:
        raise NotMeasurableError(f"{len(rows)} rows are too few to train and test a clone")
    if updates is None:
        updates = min(UPDATES, max(LEAST_UPDATES, EPOCHS * len(rows) // BATCH))
    held = _held_out(dataset, rows, seed)
    states = states_at(dataset, rows)
    mean, deviation = states[~held].mean(axis=0), states[~held].std(axis=0)
    states = (states - mean) / np.where(deviation > 1e-12 * (1 + np.abs(mean)), deviation, 1.0)
    if discrete:
        space: Any = dataset.action_space
        actions = (dataset.actions[rows].reshape(-1) - int(space.start)).astype(np.int64)
        return _clone_choices(states, actions, int(space.n), held, seed, updates)
    targets, slope = unsquashed(dataset, rows)
    return _clone_numbers(states, targets, slope, held, seed, updates)


def unsquashed(dataset: Dataset, rows: NDArray[np.int64]) -> tuple[Float, Float]:
    """Return atanh of actions [n, A] scaled to (-1, 1), and the log of the density's change [n], summed over A.

    Columns are scaled by the bounds of the action space, or by their extremes where it has none. A column
    without width becomes 0.
    """
    table = dataset.actions[rows].reshape(len(rows), -1).astype(np.float64)
    space: Any = dataset.action_space
    low, high = (np.asarray(bound, np.float64).reshape(-1) for bound in (space.low, space.high))
    low = np.where(np.isfinite(low), low, table.min(axis=0))
    high = np.where(np.isfinite(high), high, table.max(axis=0))
    width = np.where(high > low, high - low, 1.0)
    scaled = np.where(high > low, np.clip(2 * (table - low) / width - 1, -EDGE, EDGE), 0.0)
    return np.arctanh(scaled), -np.log((1 - scaled**2) * width / 2).sum(axis=1)


def _held_out(dataset: Dataset, rows: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """[n] rows of a fifth of the episodes; of ten blocks of rows where there are fewer than 10 episodes."""
    groups = dataset.episode_ids[rows]
    if len(np.unique(groups)) < 10:
        groups = np.arange(len(rows)) * 10 // len(rows)
    names = np.random.default_rng([seed, 5]).permutation(np.unique(groups))
    return np.isin(groups, names[: max(1, round(HELD_OUT * len(names)))])


def _clone_choices(
    states: Float, actions: NDArray[np.int64], count: int, held: NDArray[np.bool_], seed: int, updates: int
) -> Clone:
    import torch

    def likelihood(output: Tensor, target: Tensor) -> Tensor:
        return torch.log_softmax(output, dim=1).gather(1, target[:, None])[:, 0]

    output, best = _train(states, torch.from_numpy(actions), count, held, likelihood, seed, updates)
    logs = torch.log_softmax(output, dim=1)
    entropy = -(logs.exp() * logs).sum(dim=1).mean().item() / math.log(count)
    shares = np.bincount(actions[~held], minlength=count) + 1.0
    marginal = np.log(shares / shares.sum())[actions[held]].mean()
    return Clone(entropy, best, float(marginal), True)


def _clone_numbers(
    states: Float, targets: Float, slope: Float, held: NDArray[np.bool_], seed: int, updates: int
) -> Clone:
    import torch

    def parts(output: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = output.chunk(2, dim=1)
        return mean, torch.nn.functional.softplus(raw) + _LEAST_SIGMA

    def likelihood(output: Tensor, target: Tensor) -> Tensor:
        mean, sigma = parts(output)
        return (-0.5 * ((target - mean) / sigma) ** 2 - sigma.log() - 0.5 * math.log(2 * math.pi)).sum(dim=1)

    wanted = torch.from_numpy(targets.astype(np.float32))
    output, best = _train(states, wanted, 2 * targets.shape[1], held, likelihood, seed, updates)
    change = float(slope[held].mean())
    center, spread = targets[~held].mean(axis=0), np.maximum(targets[~held].std(axis=0), _LEAST_SIGMA)
    gaussian = -0.5 * ((targets[held] - center) / spread) ** 2 - np.log(spread) - 0.5 * math.log(2 * math.pi)
    marginal = float(gaussian.sum(axis=1).mean())
    return Clone(parts(output)[1].mean().item(), best + change, marginal + change, False)


def _train(
    states: Float, targets: Tensor, outputs: int, held: NDArray[np.bool_], likelihood: Any, seed: int, updates: int
) -> tuple[Tensor, float]:
    """Return the outputs of the best snapshot for the held-out rows, and the mean log-likelihood of their actions."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    table = torch.from_numpy(states.astype(np.float32))
    seen, unseen = torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))
    weights = []
    for inputs, width in ((table.shape[1], WIDTH), (WIDTH, WIDTH), (WIDTH, outputs)):
        bound = 1 / math.sqrt(inputs)
        layer = [(2 * torch.rand(shape, generator=generator) - 1) * bound for shape in ((inputs, width), (width,))]
        weights += [part.requires_grad_() for part in layer]
    optimizer = torch.optim.Adam(weights, lr=LEARNING_RATE)

    def forward(rows: Tensor) -> Tensor:
        hidden = rows
        for weight, bias in (weights[0:2], weights[2:4]):
            hidden = torch.relu(torch.addmm(bias, hidden, weight))
        return torch.addmm(weights[5], hidden, weights[4])

    best: tuple[Tensor, float] | None = None
    for update in range(1, updates + 1):
        batch = seen[torch.randint(len(seen), (BATCH,), generator=generator)]
        loss = -likelihood(forward(table[batch]), targets[batch]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if update % max(1, updates // LOOKS) == 0:
            with torch.no_grad():
                output = forward(table[unseen])
                score = likelihood(output, targets[unseen]).mean().item()
            if best is None or score > best[1]:
                best = (output, score)
    if best is None or not math.isfinite(best[1]):
        raise NotMeasurableError("the clone could not be trained: observations or actions are not finite")
    return best


def _clone_of(view: View) -> Clone:
    key = ("clone", view.dataset.fingerprint)
    return view.reference.once(key, lambda: clone(view.dataset, view.settings.seed))


@measure(
    "eas",
    "EAS",
    formula="mean standard deviation, before tanh, of the tanh-Gaussian cloned from the data, over held-out rows",
    source=_SWAZINNA,
    cost=_COST,
    meaning="the same state was met with different actions: a noisy policy or several; continuous actions",
)
def _eas(view: View) -> float:
    if view.dataset.discrete:
        raise NotMeasurableError("actions are choices: see BC entropy")
    return _clone_of(view).stochasticity


@measure(
    "bc_entropy",
    "BC entropy",
    formula="mean entropy of the softmax cloned from the data / log of the number of actions, over held-out rows",
    source="code of Schweighofer et al. 2022 and its successor DissectOfflineRL",
    cost=_COST,
    meaning="the same state was met with different actions: 1 for a random policy; choices",
)
def _bc_entropy(view: View) -> float:
    if not view.dataset.discrete:
        raise NotMeasurableError("actions are numbers: see EAS")
    return _clone_of(view).stochasticity


@measure(
    "bc_gain",
    "BC, held-out gain",
    formula="mean log-likelihood of held-out actions: of the clone less of one that ignores the state; nats per action",
    source="elementary; the held-out number of EAS and BC entropy",
    cost=_COST,
    meaning="the state tells the action, so that cloning has something to learn; 0 for random actions",
)
def _bc_gain(view: View) -> float:
    found = _clone_of(view)
    return found.log_likelihood - found.marginal
