"""Trains the behaviour policies of the built-in datasets and exports snapshots of them.

    python -m offbench.datasets.train_behaviours pendulum --seed 0 --out DIR

Needs the extra `generate` (Stable-Baselines3). Training saves the policy at regular steps; the export then
plays every snapshot, gives the roles (expert, medium, replay-0 ...) by the rules in `Plan`, and writes
DIR/<env>.safetensors and the environment's entry in DIR/behaviours.json. The files shipped in
`datasets/behaviours` were made this way. The same seed gives the same weights only with the same versions of
torch, Stable-Baselines3, Gymnasium and the simulator on the same kind of machine; the statistics are stable.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from safetensors.numpy import save_file

from offbench.datasets.behaviour import (
    Activation,
    Policy,
    UniformRandom,
    build_policy,
    make_environment,
    roll_out,
)
from offbench.errors import DatasetError, MissingExtraError

Tensors = dict[str, NDArray[Any]]
RANDOM_STREAM, SELECTION_STREAM, FINAL_STREAM, CHECK_STREAM = 1, 2, 3, 4


@dataclass(frozen=True)
class Plan:
    """How the behaviours of one environment are trained and chosen.

    Attributes:
        environment: Gymnasium id.
        algorithm: class of Stable-Baselines3, "SAC" or "PPO".
        steps: environment steps of training, unless --steps says otherwise.
        every: steps between snapshots; step 0 (untrained) is one.
        hyperparameters: keyword arguments of the algorithm that differ from its defaults.
        hidden: sizes of the exported policy network; `critic` those of the critic.
        activation: of the policy network.
        select_episodes: episodes that each snapshot plays, deterministic and stochastic, to give the roles.
        parallel: environments stepped side by side in training.
        medium: the medium policy is the snapshot before the expert whose stochastic return is nearest to this
            share of the way from the random policy to the expert; None: there is no medium policy.
        replay: snapshots for a replay-like dataset, evenly spaced in training from untrained to medium.
    """

    environment: str
    algorithm: str
    steps: int
    every: int
    hyperparameters: Mapping[str, Any]
    hidden: tuple[int, ...]
    critic: tuple[int, ...]
    activation: Activation
    select_episodes: int = 50
    parallel: int = 1
    medium: float | None = None
    replay: int = 0


PLANS = {
    "hopper": Plan(
        "Hopper-v5",
        "SAC",
        steps=500_000,
        every=10_000,
        hyperparameters={"learning_starts": 5000, "batch_size": 256, "learning_rate": 3e-4},
        hidden=(64, 64),
        critic=(256, 256),
        activation="relu",
        select_episodes=20,
        medium=0.4,
        replay=8,
    ),
    "pendulum": Plan(
        "Pendulum-v1",
        "SAC",
        steps=15_000,
        every=250,
        hyperparameters={"learning_starts": 500, "batch_size": 128, "learning_rate": 3e-4},
        hidden=(32, 32),
        critic=(64, 64),
        activation="relu",
        medium=0.5,
        replay=8,
    ),
    "cartpole": Plan(
        "CartPole-v1",
        "PPO",
        steps=65_536,
        every=8192,
        hyperparameters={
            "n_steps": 128,
            "batch_size": 256,
            "n_epochs": 10,
            "gae_lambda": 0.95,
            "gamma": 0.98,
            "learning_rate": 1e-3,
        },
        hidden=(32, 32),
        critic=(32, 32),
        activation="tanh",
        parallel=8,
    ),
}


def make_model(plan: Plan, seed: int) -> Any:
    """The untrained Stable-Baselines3 model of a plan; MissingExtraError without the extra `generate`."""
    try:
        import stable_baselines3
        import torch
        from stable_baselines3.common.env_util import make_vec_env
    except ModuleNotFoundError as error:
        raise MissingExtraError("training behaviour policies", "generate") from error
    torch.set_num_threads(1)  # more threads are slower on networks this small
    critic = "qf" if plan.algorithm == "SAC" else "vf"
    activation = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[plan.activation]
    make_environment(plan.environment).close()  # says which extra is missing
    return getattr(stable_baselines3, plan.algorithm)(
        "MlpPolicy",
        plan.environment if plan.parallel == 1 else make_vec_env(plan.environment, plan.parallel, seed=seed),
        policy_kwargs={
            "net_arch": {"pi": list(plan.hidden), critic: list(plan.critic)},
            "activation_fn": activation,
        },
        seed=seed,
        device="cpu",
        **plan.hyperparameters,
    )


def train(name: str, seed: int, steps: int, folder: Path) -> None:
    """Trains and saves Stable-Baselines3 snapshots as <name>_s<seed>_<steps>.zip in `folder`."""
    plan = PLANS[name]
    model = make_model(plan, seed)
    from stable_baselines3.common.callbacks import BaseCallback

    class SaveSnapshots(BaseCallback):
        def _on_training_start(self) -> None:
            self.save()

        def _on_step(self) -> bool:
            if self.num_timesteps % plan.every == 0:
                self.save()
            return True

        def save(self) -> None:
            self.model.save(folder / f"{name}_s{seed}_{self.num_timesteps}.zip")
            print(f"{name}: {self.num_timesteps} of {steps} steps", flush=True)

    folder.mkdir(parents=True, exist_ok=True)
    model.learn(steps, callback=SaveSnapshots())


def read_snapshots(name: str, seed: int, folder: Path) -> dict[int, dict[str, Any]]:
    """Steps -> state dict of the policy (torch tensors), in the order of training. No pickle is executed."""
    import torch

    paths = {int(path.stem.rsplit("_", 1)[1]): path for path in folder.glob(f"{name}_s{seed}_*.zip")}
    if not paths:
        raise DatasetError(f"no snapshots {name}_s{seed}_*.zip in {folder}", fix="train without --export-only")
    states = {}
    for steps, path in sorted(paths.items()):
        with zipfile.ZipFile(path) as archive:
            states[steps] = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    return states


def policy_tensors(plan: Plan, state: Mapping[str, Any]) -> Tensors:
    """The policy network's tensors under the names that `behaviour.build_policy` reads, float32."""
    trunk = "actor.latent_pi" if plan.algorithm == "SAC" else "mlp_extractor.policy_net"
    heads = {"mean": "actor.mu", "log_std": "actor.log_std"} if plan.algorithm == "SAC" else {"head": "action_net"}
    # A Sequential alternates linear layers and activations, so the linear ones have even indices.
    sources = {f"hidden.{i}": f"{trunk}.{2 * i}" for i in range(len(plan.hidden))} | heads
    return {
        f"{ours}.{part}": state[f"{theirs}.{part}"].numpy().astype(np.float32)
        for ours, theirs in sources.items()
        for part in ("weight", "bias")
    }


def measure(environment: str, policy: Policy, episodes: int, seed: list[int]) -> dict[str, float]:
    """Return statistics over `episodes` episodes."""
    returns = [float(e.rewards.sum()) for e in itertools.islice(roll_out(environment, policy, seed), episodes)]
    return {
        "mean": round(float(np.mean(returns)), 3),
        "std": round(float(np.std(returns)), 3),
        "min": round(min(returns), 3),
        "max": round(max(returns), 3),
        "episodes": episodes,
    }


def choose_roles(
    plan: Plan, deterministic: dict[int, float], stochastic: dict[int, float], random: float
) -> dict[str, int]:
    """Role -> steps of the snapshot; medium and replay as `Plan` says.

    The expert has the best deterministic return; of equals, the one trained longest.
    """
    expert = max(deterministic, key=lambda steps: (deterministic[steps], steps))
    roles = {"expert": expert}
    if plan.medium is None:
        return roles
    target = random + plan.medium * (deterministic[expert] - random)
    medium = min((steps for steps in stochastic if steps < expert), key=lambda steps: abs(stochastic[steps] - target))
    roles["medium"] = medium
    warm_up = plan.hyperparameters.get("learning_starts", 0)  # snapshots up to here are all untrained
    untrained = max(steps for steps in stochastic if steps <= warm_up)
    earlier = np.asarray([steps for steps in sorted(stochastic) if untrained <= steps <= medium])
    spaced = np.linspace(0, len(earlier) - 1, plan.replay).round().astype(int)
    return roles | {f"replay-{i}": int(earlier[index]) for i, index in enumerate(spaced)}


def sb3_check(plan: Plan, state: Mapping[str, Any], observations: NDArray[Any]) -> Tensors:
    """What Stable-Baselines3 itself computes on a few observations, for the test of the NumPy policies."""
    import torch

    model = make_model(plan, seed=0)
    model.policy.load_state_dict(state)
    actions, _ = model.predict(observations, deterministic=True)
    check = {"check/observations": observations, "check/actions": np.asarray(actions)}
    inputs = torch.as_tensor(observations)
    with torch.no_grad():
        if plan.algorithm == "SAC":
            check["check/log_std"] = model.actor.get_action_dist_params(inputs)[1].numpy()
        else:
            check["check/logits"] = model.policy.get_distribution(inputs).distribution.logits.numpy()
    return {name: np.ascontiguousarray(array) for name, array in check.items()}


def export(name: str, seed: int, snapshots: Path, out: Path, *, episodes: int, note: str) -> None:
    """Plays all snapshots, gives the roles and writes the weights and the provenance to `out`."""
    plan = PLANS[name]
    states = read_snapshots(name, seed, snapshots)
    environment = make_environment(plan.environment)
    space = environment.action_space
    environment.close()
    if not isinstance(space, spaces.Box | spaces.Discrete):
        raise DatasetError(f"behaviour policies have Box or Discrete actions, not {space}")

    def returns(steps: int, stochastic: bool, count: int, stream: int) -> dict[str, float]:
        policy = build_policy(policy_tensors(plan, states[steps]), plan.activation, space, stochastic)
        return measure(plan.environment, policy, count, [seed, stream])  # same starts for all snapshots

    random = measure(plan.environment, UniformRandom(space), 5 * episodes, [seed, RANDOM_STREAM])
    curves: dict[bool, dict[int, float]] = {False: {}, True: {}}
    for steps, stochastic in itertools.product(states, (False, True)):
        curves[stochastic][steps] = returns(steps, stochastic, plan.select_episodes, SELECTION_STREAM)["mean"]
        print(
            f"{name}: step {steps} {'sto' if stochastic else 'det'} {curves[stochastic][steps]:.1f}",
            flush=True,
        )
    roles = choose_roles(plan, curves[False], curves[True], random["mean"])

    tensors: Tensors = {}
    measured: dict[str, Any] = {}
    for steps in sorted(set(roles.values())):
        # Fresh seeds: the expert was the best of many on the selection seeds, which flatters it there.
        measured[f"step-{steps}"] = {
            "steps": steps,
            "deterministic": returns(steps, False, episodes, FINAL_STREAM),
            "stochastic": returns(steps, True, episodes, FINAL_STREAM),
        }
        for tensor, array in policy_tensors(plan, states[steps]).items():
            tensors[f"step-{steps}/{tensor}"] = np.ascontiguousarray(array)
    expert = build_policy(policy_tensors(plan, states[roles["expert"]]), plan.activation, space, True)
    episode = next(roll_out(plan.environment, expert, [seed, CHECK_STREAM], lanes=1))
    observations = episode.observations[:: max(1, len(episode) // 16)][:16].astype(np.float32)
    tensors |= sb3_check(plan, states[roles["expert"]], observations)

    record = {
        "file": f"{name}.safetensors",
        "network": {
            "kind": "tanh_gaussian" if isinstance(space, spaces.Box) else "categorical",
            "hidden": list(plan.hidden),
            "activation": plan.activation,
        },
        "training": {
            "command": f"python -m offbench.datasets.train_behaviours {name} --seed {seed} "
            f"--steps {max(states)} --out DIR",
            "algorithm": plan.algorithm,
            "steps": max(states),
            "snapshot_every": plan.every,
            "seed": seed,
            "parallel_environments": plan.parallel,
            "hyperparameters": dict(plan.hyperparameters),
            "critic": list(plan.critic),
            "versions": {
                package: version(package)
                for package in ("stable_baselines3", "torch", "gymnasium", "numpy")
                + (("mujoco",) if plan.environment.startswith("Hopper") else ())
            },
            "note": note,
        },
        "random": random,
        "roles": {role: f"step-{steps}" for role, steps in roles.items()},
        "snapshots": measured,
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / f"{name}.safetensors")
    listing = out / "behaviours.json"
    records = json.loads(listing.read_text(encoding="utf-8")) if listing.exists() else {}
    records[plan.environment] = record
    listing.write_text(json.dumps(dict(sorted(records.items())), indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m offbench.datasets.train_behaviours", description=__doc__)
    parser.add_argument("name", choices=sorted(PLANS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="environment steps of training (default: the plan's)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights and behaviours.json")
    parser.add_argument("--snapshots", type=Path, help="folder of the training snapshots (default: OUT/snapshots)")
    parser.add_argument("--export-only", action="store_true", help="export the snapshots that are there")
    parser.add_argument("--note", default="", help="what else to say in behaviours.json about how it was trained")
    parser.add_argument("--episodes", type=int, default=100, help="episodes of each reported statistic")
    options = parser.parse_args(arguments)
    snapshots = options.snapshots or options.out / "snapshots"
    if not options.export_only:
        train(options.name, options.seed, options.steps or PLANS[options.name].steps, snapshots)
    export(options.name, options.seed, snapshots, options.out, episodes=options.episodes, note=options.note)


if __name__ == "__main__":
    main()
