"""Speed of corruption: random, against a copy of the touched columns; adversarial, all rows at once against one by one.

    python benchmarks/corruption.py
    python benchmarks/corruption.py --rows 100000 --attacked 2000

The data are Gaussian: 17 columns of observations and 6 of actions (HalfCheetah's sizes), episodes of 1000 steps. Times
are seconds of one processor, the best of the rounds, so that other work on the machine hardly counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box

from offbench.algorithms.adversary import DEFAULT_EDAC, PAPER_EDAC, Adversary
from offbench.algorithms.attacks import AttackRule
from offbench.algorithms.base import ProblemSpec, make_config
from offbench.algorithms.batches import Normalizer
from offbench.algorithms.edac import EDAC
from offbench.datasets import Dataset
from offbench.datasets.transforms.corruption import Corrupt

STATES, ACTIONS, LENGTH = 17, 6, 1000


def synthetic(rows: int) -> Dataset:
    rng = np.random.default_rng(0)
    ends = np.arange(1, rows + 1) % LENGTH == 0
    return Dataset.from_arrays(
        rng.standard_normal((rows, STATES), np.float32),
        rng.uniform(-1, 1, (rows, ACTIONS)).astype(np.float32),
        rng.standard_normal(rows, np.float32),
        np.zeros(rows, bool),
        ends,
        action_space=Box(-1, 1, (ACTIONS,)),
    )


def best(call: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def random_corruption(rows: int, rounds: int) -> None:
    dataset = synthetic(rows)
    # Views that every user of a dataset makes once; they are kept with it.
    _ = dataset.frame_index, dataset.next_frame_index, dataset.next_valid
    touched = {
        "observations": [dataset.observations, dataset.next_observations],
        "actions": [dataset.actions],
        "rewards": [dataset.rewards],
        "dynamics": [dataset.next_observations],
    }
    touched["all"] = [dataset.observations, dataset.next_observations, dataset.actions, dataset.rewards]
    print(f"{rows:,} transitions of {STATES} + {ACTIONS} columns, rate 0.3, scale 1.0, random")
    print("| target | copy of the columns, ms | clean, ms | copies | riql, ms | copies |")
    print("|---|---:|---:|---:|---:|---:|")
    for target, columns in touched.items():
        copy = best(lambda columns=columns: [column.copy() for column in columns], 3 * rounds)
        row = f"| {target} | {1e3 * copy:.0f} |"
        for preset in ("clean", "riql"):
            transform = Corrupt(target=target, preset=preset)
            took = best(lambda transform=transform: transform.apply(dataset), rounds)
            row += f" {1e3 * took:.0f} | {took / copy:.1f} |"
        print(row)


def adversarial_corruption(attacked: int, single: int, rounds: int) -> None:
    rng = np.random.default_rng(0)
    s = rng.standard_normal((attacked, STATES), np.float32)
    a = rng.uniform(-1, 1, (attacked, ACTIONS)).astype(np.float32)
    space = ProblemSpec(STATES, ACTIONS, False, (-1.0,) * ACTIONS, (1.0,) * ACTIONS)
    rule, std = AttackRule("sign", 100, 0.025, 1.0), np.ones(STATES, np.float32)
    print(f"\nattack on observations, 100 steps: {attacked:,} rows at once, {single} rows one by one")
    print("| critic | rows per second, at once | one by one | ratio |")
    print("|---|---:|---:|---:|")
    for name, config in (("EDAC 10 x (128, 128)", DEFAULT_EDAC), ("EDAC 10 x (256, 256, 256)", PAPER_EDAC)):
        algorithm = EDAC([make_config(EDAC.config_class, config)], space, [0])
        adversary = Adversary(algorithm, Normalizer(torch.zeros(STATES), torch.ones(STATES)))

        def attack(rows: slice, adversary: Adversary = adversary) -> None:
            adversary.attack("observations", s[rows], a[rows], std, np.zeros_like(s[rows]), rule)

        together = attacked / best(lambda attack=attack: attack(slice(0, attacked)), rounds)
        alone = single / best(lambda attack=attack: [attack(slice(i, i + 1)) for i in range(single)], rounds)
        print(f"| {name} | {together:.0f} | {alone:.1f} | {together / alone:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--attacked", type=int, default=4096)
    parser.add_argument("--single", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    random_corruption(options.rows, options.rounds)
    adversarial_corruption(options.attacked, options.single, 1)


if __name__ == "__main__":
    sys.exit(main())
