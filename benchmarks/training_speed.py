"""Updates per second of every algorithm, by lanes and threads, beside CORL where a checkout of it is given.

    python benchmarks/training_speed.py                       # offbench alone
    python benchmarks/training_speed.py --corl path/to/CORL   # with ratios, all in one run on one machine

One update includes drawing its batch from 100,000 transitions of Hopper's sizes (of four actions where they are
discrete). Hidden layers are as many as the algorithm's default has; SAC-N and EDAC have ten critics. Every variant is
timed in rounds that take turns, so that a machine that slows down slows all of them; a figure is the median over
rounds, and a ratio is the median over rounds of the ratio within a round. CORL's own files are loaded and run unchanged
but for the widths of their layers; its imports of gym, d4rl, wandb, pyrallis and tqdm are replaced by empty modules
while they load.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from offbench.algorithms import algorithm_names, get_algorithm
from offbench.algorithms.base import make_config
from offbench.algorithms.batches import LaneSampler, Preprocessing, make_buffer
from offbench.algorithms.matmul import select_matmul
from offbench.datasets import Dataset

OBSERVATION, ACTION, TRANSITIONS = 11, 3, 100_000
# CORL's ReBRAC is written in JAX; its other algorithms are in torch.
CORL_FILES = {
    "bc": "any_percent_bc",
    "td3_bc": "td3_bc",
    "iql": "iql",
    "awac": "awac",
    "cql": "cql",
    "sac_n": "sac_n",
    "edac": "edac",
}
Step = Callable[[], object]


def random_data() -> dict[str, np.ndarray]:
    """Transitions of Hopper's sizes; a two-hundredth of them terminal."""
    rng = np.random.default_rng(0)
    return {
        "observations": rng.standard_normal((TRANSITIONS, OBSERVATION), np.float32),
        "actions": rng.uniform(-1, 1, (TRANSITIONS, ACTION)).astype(np.float32),
        "rewards": rng.standard_normal(TRANSITIONS, np.float32),
        "terminated": np.arange(1, TRANSITIONS + 1) % 200 == 0,
    }


def ours(name: str, width: int, batch: int, lanes: int, device: str) -> Step:
    """One update of all lanes, its batch included."""
    data, algorithm_class = random_data(), get_algorithm(name)
    space: gymnasium.Space[Any] = gymnasium.spaces.Box(-1.0, 1.0, (ACTION,))
    if "continuous" not in algorithm_class.requires.actions:
        space = gymnasium.spaces.Discrete(4)
        data["actions"] = np.random.default_rng(1).integers(0, 4, TRANSITIONS)
    dataset = Dataset.from_arrays(**data, truncated=np.zeros(TRANSITIONS, bool), action_space=space, name="random")
    default = algorithm_class.config_class()
    widths = {
        field: (width,) * len(getattr(default, field))
        for field in ("hidden", "critic_hidden", "value_hidden", "vae_hidden")
        if hasattr(default, field)
    }
    config = make_config(algorithm_class.config_class, widths)
    buffer = make_buffer(dataset, algorithm_class.needs(config), Preprocessing(), device)
    seeds = list(range(lanes))
    algorithm = algorithm_class([config] * lanes, buffer.space, seeds, device)
    algorithm.attach(buffer)
    sampler = LaneSampler(buffer, seeds, batch, algorithm.noise_spec(batch))
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        algorithm.update(*sampler.draw(count), count)

    return step


def load_corl(checkout: Path, name: str) -> types.ModuleType:
    """CORL's file of an algorithm as a module."""
    stand_ins = {module: types.ModuleType(module) for module in ("gym", "d4rl", "wandb", "pyrallis", "tqdm")}
    stand_ins["gym"].Env = object  # type: ignore[attr-defined]
    stand_ins["tqdm"].trange = range  # type: ignore[attr-defined]
    stand_ins["pyrallis"].wrap = lambda *a, **k: lambda function: function  # type: ignore[attr-defined]
    file = checkout / "algorithms" / "offline" / f"{CORL_FILES[name]}.py"
    module = types.ModuleType(f"corl_{name}")
    before = {key: sys.modules.get(key) for key in stand_ins}
    sys.modules.update(stand_ins)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        exec(compile(file.read_text("utf-8"), str(file), "exec"), module.__dict__)
    finally:
        for key, value in before.items():
            if value is None:
                del sys.modules[key]
            else:
                sys.modules[key] = value
    return module


def with_width(network: torch.nn.Module, width: int) -> torch.nn.Module:
    """Replace CORL's layers of 256 by layers of `width`, initialized anew as torch does."""

    def size(features: int) -> int:
        return width if features == 256 else features

    for module in list(network.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, torch.nn.Linear):
                setattr(module, name, torch.nn.Linear(size(layer.in_features), size(layer.out_features)))
    return network


def corl(checkout: Path, name: str, width: int, batch: int) -> Step:
    """One update by CORL's own trainer, its batch from CORL's own buffer included."""
    module = load_corl(checkout, name)
    data = random_data()
    buffer = module.ReplayBuffer(OBSERVATION, ACTION, TRANSITIONS, "cpu")
    with contextlib.redirect_stdout(io.StringIO()):
        buffer.load_d4rl_dataset(
            {
                **{key: data[key] for key in ("observations", "actions", "rewards")},
                "next_observations": np.roll(data["observations"], -1, 0),
                "terminals": data["terminated"],
            }
        )

    def made(network: torch.nn.Module) -> tuple[torch.nn.Module, torch.optim.Adam]:
        network = with_width(network, width)
        return network, torch.optim.Adam(network.parameters(), lr=3e-4)

    if name == "bc":
        trainer = module.BC(1.0, *made(module.Actor(OBSERVATION, ACTION, 1.0)), device="cpu")
    elif name == "td3_bc":
        actor = made(module.Actor(OBSERVATION, ACTION, 1.0))
        critics = [made(module.Critic(OBSERVATION, ACTION)) for _ in range(2)]
        trainer = module.TD3_BC(1.0, *actor, *critics[0], *critics[1], device="cpu")
    elif name == "awac":
        actor, *critics = (made(net(OBSERVATION, ACTION, width)) for net in (module.Actor, *[module.Critic] * 2))
        trainer = module.AdvantageWeightedActorCritic(*actor, *critics[0], *critics[1])
        return lambda: trainer.update(buffer.sample(batch))
    elif name in ("sac_n", "edac"):
        actor = made(module.Actor(OBSERVATION, ACTION, width))
        critic = made(module.VectorizedCritic(OBSERVATION, ACTION, width, 10))
        trainer = (module.EDAC if name == "edac" else module.SACN)(*actor, *critic)
        return lambda: trainer.update(buffer.sample(batch))
    elif name == "cql":
        critics = [made(module.FullyConnectedQFunction(OBSERVATION, ACTION)) for _ in range(2)]
        actor = made(module.TanhGaussianPolicy(OBSERVATION, ACTION, 1.0))
        trainer = module.ContinuousCQL(*critics[0], *critics[1], *actor, -ACTION, bc_steps=0)
    else:
        actor = made(module.GaussianPolicy(OBSERVATION, ACTION, 1.0))
        critic, value = made(module.TwinQ(OBSERVATION, ACTION)), made(module.ValueFunction(OBSERVATION))
        trainer = module.ImplicitQLearning(1.0, *actor, *critic, *value, device="cpu")
    return lambda: trainer.train(buffer.sample(batch))


def rate(step: Step, seconds: float, device: str) -> float:
    """Steps per second over about so many seconds."""
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)
    synchronize()
    start, count = time.perf_counter(), 0
    while True:
        for _ in range(10):
            step()
        count += 10
        if time.perf_counter() - start > seconds:
            synchronize()
            return count / (time.perf_counter() - start)


def measure(
    variants: dict[str, tuple[Step, int, str]], rounds: int, seconds: float, device: str
) -> dict[str, list[float]]:
    """Lane-updates per second of every variant in every round; a variant is (step, lanes, matmul precision)."""
    for step, _, precision in variants.values():
        torch.set_float32_matmul_precision(precision)
        for _ in range(20):
            step()
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, (step, lanes, precision) in variants.items():
            torch.set_float32_matmul_precision(precision)
            rates[name].append(lanes * rate(step, seconds, device))
    return rates


def main() -> None:
    """Measure and print; with --json also write every round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corl", type=Path, help="folder of a CORL checkout to compare with")
    parser.add_argument("--algorithms", nargs="+", default=algorithm_names(), choices=algorithm_names())
    parser.add_argument("--sizes", nargs="+", default=["256x256", "64x64"], help="width x batch size")
    parser.add_argument("--lanes", nargs="+", type=int, default=[1, 5, 20])
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each variant in each round")
    parser.add_argument("--device", default="cpu", help="for offbench; CORL is timed on the CPU only")
    parser.add_argument("--json", type=Path, help="write all rounds here")
    arguments = parser.parse_args()
    if arguments.corl and not (arguments.corl / "algorithms" / "offline").is_dir():
        parser.error(f"{arguments.corl} is not a CORL checkout: it has no algorithms/offline")

    torch.set_num_threads(1)
    matmul = select_matmul("auto")
    chosen = torch.get_float32_matmul_precision()
    machine = {
        "processor": processor_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "matmul": matmul,
        "device": arguments.device,
    }
    print(f"{machine['processor']}, torch {machine['torch']}, matmul: {matmul}, device {arguments.device}")
    print("lane-updates per second: median over rounds; times CORL: median of the ratios within rounds\n")
    rows: list[dict[str, Any]] = []
    for size in arguments.sizes:
        width, batch = (int(number) for number in size.split("x"))
        for name in arguments.algorithms:
            for threads in arguments.threads:
                torch.set_num_threads(threads)
                variants: dict[str, tuple[Step, int, str]] = {}
                if arguments.corl and name in CORL_FILES:
                    step = corl(arguments.corl, name, width, batch)
                    variants["CORL"] = (step, 1, "highest")
                    if chosen != "highest":
                        variants["CORL, same matmul"] = (step, 1, chosen)
                for lanes in arguments.lanes:
                    step = ours(name, width, batch, lanes, arguments.device)
                    variants[f"offbench, {lanes} lane{'s' * (lanes > 1)}"] = (step, lanes, chosen)
                rates = measure(variants, arguments.rounds, arguments.seconds, arguments.device)
                for variant, values in rates.items():
                    row = {"algorithm": name, "size": size, "threads": threads, "variant": variant, "rounds": values}
                    for baseline in ("CORL", "CORL, same matmul"):
                        if baseline in rates:
                            ratios = [a / b for a, b in zip(values, rates[baseline], strict=True)]
                            row[f"times {baseline}"] = ratios
                    rows.append(row)
                    print(line(row), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1), "utf-8")


def line(row: dict[str, Any]) -> str:
    """One row for people."""
    name = f"{row['algorithm']:13}{row['size']:9}{row['threads']} thread{'s' if row['threads'] > 1 else ' '}"
    text = f"{name}  {row['variant']:20}{statistics.median(row['rounds']):9.0f}"
    for baseline in ("CORL", "CORL, same matmul"):
        ratios = row.get(f"times {baseline}")
        if ratios and row["variant"] != baseline:
            low, high = min(ratios), max(ratios)
            text += f"   {statistics.median(ratios):5.2f} [{low:.2f}-{high:.2f}] times {baseline}"
    return text


def processor_name() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for entry in info.read_text("utf-8").splitlines():
            if entry.startswith("model name"):
                return entry.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
