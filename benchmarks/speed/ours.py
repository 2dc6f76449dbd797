"""offbench as a contestant of the speed benchmark: `python ours.py THREADS DEVICE MATMUL`."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
import numpy as np
import torch
from contestant import ACTION, CHOICES, TRANSITIONS, Step, random_data, serve

from offbench.algorithms import get_algorithm
from offbench.algorithms.allocation import keep_freed_memory
from offbench.algorithms.base import make_config
from offbench.algorithms.batches import LaneSampler, Preprocessing, make_buffer
from offbench.algorithms.matmul import select_matmul
from offbench.datasets import Dataset

DEVICE, MATMUL = sys.argv[2:]


def make(name: str, width: int, batch: int, lanes: int) -> tuple[Step, float]:
    """One update of all lanes, its batch included; for "matmul" a product of two matrices, counted in GFLOP."""
    if name == "matmul":
        a, b = torch.randn(1, batch, width), torch.randn(1, width, width)
        return lambda: torch.bmm(a, b), 2e-9 * batch * width * width
    algorithm_class = get_algorithm(name)
    discrete = "continuous" not in algorithm_class.requires.actions
    space: gymnasium.Space[Any] = gymnasium.spaces.Box(-1.0, 1.0, (ACTION,))
    if discrete:
        space = gymnasium.spaces.Discrete(CHOICES)
    dataset = Dataset.from_arrays(
        **random_data(discrete), truncated=np.zeros(TRANSITIONS, bool), action_space=space, name="random"
    )
    default = algorithm_class.config_class()
    fields: dict[str, Any] = {
        field: (width,) * len(getattr(default, field))
        for field in ("hidden", "critic_hidden", "value_hidden", "vae_hidden")
        if hasattr(default, field)
    }
    if name == "decision_transformer":
        fields = {"width": width}
    if discrete:
        fields["activation"] = "relu"  # d3rlpy has no selu
    config = make_config(algorithm_class.config_class, fields)
    buffer = make_buffer(dataset, algorithm_class.needs(config), Preprocessing(), DEVICE)
    seeds = list(range(lanes))
    algorithm = algorithm_class([config] * lanes, buffer.space, seeds, DEVICE)
    algorithm.attach(buffer)
    sampler = LaneSampler(buffer, seeds, batch, algorithm.noise_spec(batch))
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        algorithm.update(*sampler.draw(count), count)

    return step, lanes


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    keep_freed_memory()
    select_matmul(MATMUL)
    serve(make)
