"""Trains the behaviour policies of the built-in datasets and exports them with the log of their training.

    python -m offbench.datasets.train_behaviours hopper --seed 0 --out DIR

Without --out the files go to the cache, where the recipes find them, for environments for which none are shipped.

Training saves the policy at regular steps and every action; it is never evaluated meanwhile, so that its random
numbers depend on nothing else. The export then plays every snapshot, gives the roles (expert, medium) by the rules of
`training_plans.Plan`, and writes DIR/<name>.safetensors (weights), DIR/<name>.log.safetensors (the training run) and
the environment's entry in DIR/behaviours.json. The files shipped in `datasets/behaviours` were made this way. The
same seed gives the same files with the same versions of torch, Gymnasium and the simulator on the same kind of
machine; the statistics are stable.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from offbench.datasets.behaviour import LOG_STD_RANGE, Policy, UniformRandom, build_policy, trained_here
from offbench.datasets.environments import horizon, make_environment, packages
from offbench.datasets.rollout import roll_out
from offbench.datasets.training_log import TrainingLog, record, save_log
from offbench.datasets.training_plans import PLANS, Plan, train
from offbench.datasets.waypoints import WaypointController
from offbench.errors import DatasetError

Tensors = dict[str, NDArray[Any]]
Progress = Callable[[int, int], None]
EPISODES = 100  # of each reported statistic
RANDOM_STREAM, SELECTION_STREAM, FINAL_STREAM, CHECK_STREAM = 1, 2, 3, 4
MAZES = {"pointmaze-umaze": "PointMaze_UMaze-v3", "pointmaze-medium": "PointMaze_Medium-v3"}


def run_folder(runs: Path, name: str, seed: int) -> Path:
    """Where a training run leaves its snapshots, actions and learning curve."""
    return runs / f"{name}-seed{seed}"


def train_and_export(name: str, *, seed: int, out: Path, progress: Progress | None = None) -> None:
    """Train an environment's behaviours and write them to `out`, as the command line does by default.

    Args:
        progress: called with (steps so far, steps) instead of lines on standard error.
    """
    folder = run_folder(out / "runs", name, seed)
    train_run(name, seed, folder, progress)
    export(name, seed, folder, out, episodes=EPISODES, quiet=progress is not None)


def train_run(name: str, seed: int, folder: Path, progress: Progress | None = None) -> None:
    """Train; writes step-<n>.safetensors, actions.npy and curve.csv (step and return of each episode)."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = PLANS[name]
    codes: list[Any] = []
    curve: list[tuple[int, float]] = []
    total = 0.0
    for step in train(plan, seed):
        if step.done:
            codes.append(step.action)
            total += step.reward
        if step.ended:
            curve.append((step.done, total))
            total = 0.0
        if progress is not None and step.done % 1000 == 0:
            progress(step.done, plan.settings.steps)
        if step.snapshot is not None:
            save_file(step.snapshot, folder / f"step-{step.done}.safetensors")
        if step.snapshot is not None and progress is None:
            recent = np.mean([value for _, value in curve[-20:]]) if curve else np.nan
            print(
                f"{name}: {step.done} of {plan.settings.steps} steps, mean of the last 20 returns {recent:.1f}",
                file=sys.stderr,
                flush=True,
            )
    np.save(folder / "actions.npy", np.asarray(codes, np.int8))
    lines = ["step,return", *(f"{done},{value!r}" for done, value in curve)]
    (folder / "curve.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_snapshots(folder: Path) -> dict[int, Tensors]:
    """Steps -> weights as they are shipped, in half precision, in the order of training."""
    paths = {int(path.stem.rpartition("-")[2]): path for path in folder.glob("step-*.safetensors")}
    if not paths:
        raise DatasetError(f"no snapshots step-*.safetensors in {folder}", fix="train without --export-only")
    return {
        steps: {name: tensor.astype(np.float16) for name, tensor in load_file(path).items()}
        for steps, path in sorted(paths.items())
    }


def single(tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    """The weights in the precision in which they are played."""
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def measure(environment: str, policy: Policy, episodes: int, seed: list[int]) -> dict[str, float]:
    """Return statistics over `episodes` episodes; the standard error is that of the mean."""
    played = list(itertools.islice(roll_out(environment, policy, seed), episodes))
    returns = [float(episode.rewards.sum()) for episode in played]
    return {
        "mean": round(float(np.mean(returns)), 3),
        "standard_error": round(float(np.std(returns, ddof=1) / np.sqrt(episodes)), 4),
        "std": round(float(np.std(returns)), 3),
        "min": round(min(returns), 3),
        "max": round(max(returns), 3),
        "length": round(float(np.mean([len(episode) for episode in played])), 1),
        "episodes": episodes,
    }


def choose_roles(
    plan: Plan, deterministic: Mapping[int, float], stochastic: Mapping[int, float], random: float
) -> dict[str, int]:
    """Role -> steps of the snapshot; medium as `Plan` says.

    The expert has the best deterministic return; of equals, the one trained longest.
    """
    expert = max(deterministic, key=lambda steps: (deterministic[steps], steps))
    if plan.medium is None:
        return {"expert": expert}
    target = random + plan.medium * (deterministic[expert] - random)
    medium = min((steps for steps in stochastic if steps < expert), key=lambda steps: abs(stochastic[steps] - target))
    return {"expert": expert, "medium": medium}


def torch_check(tensors: Tensors, activation: str, observations: NDArray[Any]) -> Tensors:
    """What PyTorch computes from a few observations, for the test of the NumPy policies."""
    import torch
    from torch.nn import functional

    weights = {name: torch.as_tensor(tensor) for name, tensor in tensors.items()}
    inputs = torch.as_tensor(observations)
    depth = sum(name.startswith("hidden.") and name.endswith(".weight") for name in weights)
    for i in range(depth):
        inputs = functional.linear(inputs, weights[f"hidden.{i}.weight"], weights[f"hidden.{i}.bias"])
        inputs = getattr(torch, activation)(inputs)
    outputs = {
        f"check/{head}": functional.linear(inputs, weights[f"{head}.weight"], weights[f"{head}.bias"])
        for head in ("mean", "log_std", "head")
        if f"{head}.weight" in weights
    }
    if "check/log_std" in outputs:
        outputs["check/log_std"] = outputs["check/log_std"].clamp(*LOG_STD_RANGE)
    check = {"check/observations": observations, **{name: value.numpy() for name, value in outputs.items()}}
    return {name: np.ascontiguousarray(array) for name, array in check.items()}


def export(
    name: str, seed: int, folder: Path, out: Path, *, episodes: int, note: str = "", quiet: bool = False
) -> None:
    """Plays all snapshots in `folder`, gives the roles and writes weights, log and provenance to `out`."""
    plan = PLANS[name]
    states = read_snapshots(folder)
    environment = make_environment(plan.environment)
    space = environment.action_space
    environment.close()
    if not isinstance(space, spaces.Box | spaces.Discrete):
        raise DatasetError(f"behaviour policies have Box or Discrete actions, not {space}")
    activation: Any = "relu" if plan.algorithm == "SAC" else "selu"

    def policy(steps: int, stochastic: bool) -> Policy:
        return build_policy(single(states[steps]), activation, space, stochastic)

    def returns(steps: int, stochastic: bool, count: int, stream: int) -> dict[str, float]:
        # The same starts for all snapshots.
        return measure(plan.environment, policy(steps, stochastic), count, [seed, stream])

    random = measure(plan.environment, UniformRandom(space), 5 * episodes, [seed, RANDOM_STREAM])
    curves: dict[bool, dict[int, float]] = {False: {}, True: {}}
    kinds = (False,) if plan.medium is None else (False, True)
    for steps, stochastic in itertools.product(states, kinds):
        mean = returns(steps, stochastic, plan.select_episodes, SELECTION_STREAM)["mean"]
        curves[stochastic][steps] = mean
        kind = "sampled" if stochastic else "deterministic"
        if not quiet:
            print(f"{name}: step {steps} {kind} {mean:.1f}", file=sys.stderr, flush=True)
    roles = choose_roles(plan, curves[False], curves[True], random["mean"])

    tensors: Tensors = {}
    measured: dict[str, Any] = {}
    for steps in sorted(set(roles.values())):
        # Fresh seeds: the expert was the best of many on the selection seeds, which flatters it there.
        measured[f"step-{steps}"] = {"steps": steps, "deterministic": returns(steps, False, episodes, FINAL_STREAM)}
        if plan.medium is not None:
            measured[f"step-{steps}"]["stochastic"] = returns(steps, True, episodes, FINAL_STREAM)
        for tensor, array in states[steps].items():
            tensors[f"step-{steps}/{tensor}"] = np.ascontiguousarray(array)
    expert = single(states[roles["expert"]])
    check_policy = build_policy(expert, activation, space, True)
    episode = next(roll_out(plan.environment, check_policy, [seed, CHECK_STREAM], lanes=1))
    observations = episode.observations[:: max(1, len(episode) // 16)][:16].astype(np.float32)
    tensors |= torch_check(expert, activation, observations)

    log = record(plan.environment, seed, np.load(folder / "actions.npy"))
    finals = log.returns[-20:]
    if "medium" in roles:
        log = log.first(roles["medium"])
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / f"{name}.safetensors")
    save_log(log, out / f"{name}.log.safetensors")
    training = {
        "command": f"python -m offbench.datasets.train_behaviours {name} --seed {seed} --out DIR",
        "algorithm": plan.algorithm,
        "seed": seed,
        "settings": asdict(plan.settings),
        "last_20_returns": round(float(finals.mean()), 3),
        "versions": {package: version(package) for package in ("torch", "numpy", *packages(plan.environment))},
        "note": note,
    }
    write_record(
        out,
        plan.environment,
        {
            "file": f"{name}.safetensors",
            "network": {
                "kind": "tanh_gaussian" if isinstance(space, spaces.Box) else "categorical",
                "hidden": list(plan.settings.hidden),
                "activation": activation,
            },
            "training": training,
            "log": _log_record(name, log, roles),
            "random": random,
            "roles": {role: f"step-{steps}" for role, steps in roles.items()},
            "snapshots": measured,
        },
    )


def _log_record(name: str, log: TrainingLog, roles: Mapping[str, int]) -> dict[str, Any]:
    return {
        "file": f"{name}.log.safetensors",
        "steps": len(log),
        "episodes": len(log.lengths),
        "medium_step": roles.get("medium"),
    }


def export_controller(name: str, seed: int, out: Path, *, episodes: int) -> None:
    """Measures a point maze's controller and random actions and writes the environment's entry to `out`."""
    environment = MAZES[name]
    env = make_environment(environment)
    random = UniformRandom(env.action_space)  # type: ignore[arg-type]
    env.close()
    controller = WaypointController.of(environment)
    training = {
        "command": f"python -m offbench.datasets.train_behaviours {name} --seed {seed} --out DIR",
        "algorithm": "waypoint controller",
        "seed": seed,
        "versions": {package: version(package) for package in ("numpy", *packages(environment))},
        "note": "",
    }
    write_record(
        out,
        environment,
        {
            "file": None,
            "network": {"kind": "waypoints"},
            "training": training,
            "log": None,
            "random": measure(environment, random, 5 * episodes, [seed, RANDOM_STREAM]),
            "roles": {"expert": "controller"},
            "snapshots": {
                "controller": {"deterministic": measure(environment, controller, episodes, [seed, FINAL_STREAM])}
            },
        },
    )


def write_record(out: Path, environment: str, entry: Mapping[str, Any]) -> None:
    """Put an environment's entry into `out`/behaviours.json."""
    out.mkdir(parents=True, exist_ok=True)
    listing = out / "behaviours.json"
    records = json.loads(listing.read_text(encoding="utf-8")) if listing.exists() else {}
    records[environment] = {"horizon": horizon(environment), **entry}
    listing.write_text(json.dumps(dict(sorted(records.items())), indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m offbench.datasets.train_behaviours", description=__doc__)
    parser.add_argument("name", choices=sorted([*PLANS, *MAZES]))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out",
        type=Path,
        default=trained_here(),
        help="folder for the weights, logs and behaviours.json (default: in the cache, where recipes find them)",
    )
    parser.add_argument("--runs", type=Path, help="folder for snapshots and curves of training (default: OUT/runs)")
    parser.add_argument("--export-only", action="store_true", help="export the training run that is there")
    parser.add_argument("--note", default="", help="what else to say in behaviours.json about how it was trained")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="episodes of each reported statistic")
    options = parser.parse_args(arguments)
    if options.name in MAZES:
        export_controller(options.name, options.seed, options.out, episodes=options.episodes)
        return
    folder = run_folder(options.runs or options.out / "runs", options.name, options.seed)
    if not options.export_only:
        train_run(options.name, options.seed, folder)
    export(options.name, options.seed, folder, options.out, episodes=options.episodes, note=options.note)


if __name__ == "__main__":
    main()
