"""The small networks that fill in actions and rewards: written plainly, trained on the CPU, the same for a seed."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offbench.datasets.columns import Array
from offbench.datasets.download import cache_dir
from offbench.datasets.write_aside import write_aside
from offbench.errors import StorageError

# Part of the name of every cached prediction: raise it when a change here alters what is predicted.
VERSION = 1
PREDICTED_AT_ONCE = 16_384


@dataclass(frozen=True)
class Problem:
    """A regression or classification: rows of inputs, of which some have a target.

    Attributes:
        inputs: called with row numbers; returns [n, size] float32.
        targets: [N, width] float32 to regress on, or [N] int64 classes from 0; only labelled rows are read.
        classes: number of classes; 0 for a regression.
        train, held_out, unlabelled: row numbers; the first two are of different trajectories.
    """

    inputs: Callable[[Array], Array]
    targets: Array
    classes: int
    train: Array
    held_out: Array
    unlabelled: Array


@dataclass(frozen=True)
class Settings:
    """How a network is trained: `hidden` layers with ReLU, Adam, the parameters of the best held-out loss kept."""

    hidden: tuple[int, ...]
    learning_rate: float
    batch_size: int
    updates: int
    checks: int = 20


def fit_and_predict(
    problem: Problem, settings: Settings, rng: np.random.Generator
) -> tuple[Array, dict[str, float | int]]:
    """Train a network and return (predictions for the unlabelled rows, what was measured).

    Regression is by squared error on standardized targets, classification by cross-entropy; predictions are in the
    units of the targets, or class numbers.

    Args:
        problem: the data.
        settings: of the network and its training.
        rng: of initial weights and batches.

    Returns:
        Predictions [unlabelled, width] float32 or [unlabelled] int64. Measured on the held-out rows: "held_out_mse" and
        "trivial_mse" (of the training targets' mean), averaged over entries, and "explained" = 1 - their ratio; or
        "held_out_accuracy" and "trivial_accuracy" (of the most frequent class).
    """
    import torch
    from torch import nn

    sample = problem.inputs(problem.train[:1])
    regression = problem.classes == 0
    wanted = problem.targets[problem.train]
    if regression:
        mean = wanted.mean(0, dtype=np.float64).astype(np.float32)
        spread = (wanted.std(0, dtype=np.float64) + 1e-6).astype(np.float32)
    else:
        mean, spread = np.float32(0), np.float32(1)
    center, scale = _input_statistics(problem)

    def rows(numbers: Array) -> torch.Tensor:
        return torch.from_numpy((problem.inputs(numbers) - center) / scale)

    def targets(numbers: Array) -> torch.Tensor:
        values = problem.targets[numbers]
        return torch.from_numpy((values - mean) / spread) if regression else torch.from_numpy(values)

    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    sizes = [sample.shape[1], *settings.hidden, wanted.shape[1] if regression else problem.classes]
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
        bound = fan_in**-0.5  # torch's own initialization, drawn from our generator
        with torch.no_grad():
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.uniform_(-bound, bound, generator=generator)
        layers += [layer, nn.ReLU()]
    network = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate)
    loss_of = nn.functional.mse_loss if regression else nn.functional.cross_entropy

    def predict(numbers: Array) -> torch.Tensor:
        with torch.no_grad():
            parts = [
                network(rows(numbers[start : start + PREDICTED_AT_ONCE]))
                for start in range(0, len(numbers), PREDICTED_AT_ONCE)
            ]
            return torch.cat(parts) if parts else torch.zeros(0, sizes[-1])

    best_loss, best = np.inf, {name: value.clone() for name, value in network.state_dict().items()}
    every = max(1, settings.updates // settings.checks)
    for update in range(1, settings.updates + 1):
        batch = problem.train[rng.integers(0, len(problem.train), settings.batch_size)]
        loss = loss_of(network(rows(batch)), targets(batch))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if update % every == 0 or update == settings.updates:
            held_out = float(loss_of(predict(problem.held_out), targets(problem.held_out)))
            if held_out < best_loss:
                best_loss = held_out
                best = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(best)

    measured: dict[str, float | int] = {"train_rows": len(problem.train), "held_out_rows": len(problem.held_out)}
    truth, guess = problem.targets[problem.held_out], predict(problem.held_out).numpy()
    if regression:
        error = float(np.square(guess * spread + mean - truth, dtype=np.float64).mean())
        trivial = float(np.square(mean - truth, dtype=np.float64).mean())
        measured |= {"held_out_mse": error, "trivial_mse": trivial, "explained": 1 - error / max(trivial, 1e-300)}
        return predict(problem.unlabelled).numpy() * spread + mean, measured
    frequent = int(np.bincount(wanted).argmax())
    measured |= {
        "held_out_accuracy": float((guess.argmax(1) == truth).mean()),
        "trivial_accuracy": float((truth == frequent).mean()),
    }
    return predict(problem.unlabelled).argmax(1).numpy(), measured


def _input_statistics(problem: Problem) -> tuple[Array, Array]:
    """Mean and standard deviation [size] of the inputs over at most 100,000 training rows, evenly spaced."""
    step = max(1, len(problem.train) // 100_000)
    values = problem.inputs(problem.train[::step])
    mean, deviation = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
    return mean.astype(np.float32), np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32)


def cached(
    key: Mapping[str, Any], compute: Callable[[], tuple[Array, dict[str, float | int]]]
) -> tuple[Array, dict[str, float | int]]:
    """Return what `compute()` returned for this key before, from the cache, else compute and keep it.

    Args:
        key: everything that decides the result, JSON-able.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import save_file

    name = hashlib.sha256(json.dumps({"version": VERSION, **key}, sort_keys=True).encode()).hexdigest()[:32]
    path = cache_dir() / "transforms" / f"fill-{name}.safetensors"
    if path.is_file():
        try:
            with safe_open(path, "numpy") as file:
                return file.get_tensor("filled"), json.loads(file.metadata()["measured"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            path.unlink(missing_ok=True)  # damaged
    filled, measured = compute()

    def write(aside: Path) -> None:
        save_file({"filled": np.ascontiguousarray(filled)}, aside, {"measured": json.dumps(measured)})

    with contextlib.suppress(StorageError):  # a cache that cannot be written costs time only
        write_aside(path, write, overwrite=True)
    return filled, measured
