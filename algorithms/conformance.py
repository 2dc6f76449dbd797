"""What every algorithm promises, as checks that any algorithm, a third party's too, can be run through.

`check_algorithm` trains small networks on small random data and looks whether lanes are independent, runs repeat,
checkpoints are exact, policies can be stored, one lane's failure stays its own, and a tiny problem is solved.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from offbench.algorithms.base import Algorithm, Config, ProblemSpec, make_config, shareable_fields
from offbench.algorithms.batches import LaneSampler, Preprocessing, make_buffer
from offbench.datasets import Dataset

BATCH = 32


@dataclass(frozen=True)
class Check:
    """The outcome of one check: its name, whether it passed, and what was found."""

    name: str
    passed: bool
    detail: str


class ViolationError(Exception):
    """A promise that an algorithm does not keep; the text says what was found."""


def small_config(algorithm: type[Algorithm], **values: Any) -> Config:
    """The default configuration with hidden widths of (16, 16), the fields' own `small` values and `values`."""
    hints = typing.get_type_hints(algorithm.config_class)
    fields = dataclasses.fields(algorithm.config_class)
    small: dict[str, Any] = {f.name: (16, 16) for f in fields if typing.get_origin(hints[f.name]) is tuple}
    small |= {f.name: f.metadata["small"] for f in fields if f.metadata.get("small") is not None}
    return make_config(algorithm.config_class, {**small, **values})


def random_dataset(*, discrete: bool, episodes: int = 20, length: int = 25, seed: int = 0) -> Dataset:
    """Random episodes of five observations and two actions (three if discrete).

    Every second episode ends at a time limit, with its last observation unknown.
    """
    rng = np.random.default_rng(seed)
    n = episodes * length
    ends = np.arange(length - 1, n, length)
    terminated, truncated = np.zeros(n, bool), np.zeros(n, bool)
    terminated[ends[::2]], truncated[ends[1::2]] = True, True
    space: gymnasium.Space[Any]
    if discrete:
        actions, space = rng.integers(0, 3, n), gymnasium.spaces.Discrete(3)
    else:
        actions = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
        space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    return Dataset.from_arrays(
        rng.standard_normal((n, 5), np.float32) * 3 + 1,
        actions,
        rng.standard_normal(n).astype(np.float32),
        terminated,
        truncated,
        action_space=space,
        name="random",
    )


def tiny_problem(*, discrete: bool, size: int = 4000, seed: int = 0) -> Dataset:
    """Episodes of one step in which the best action is known and most of the behaviour's are near it.

    Observations s are uniform in [-1, 1]^2. Discrete: the best of three actions is 0, 1 or 2 as s_0 is below -1/3,
    between or above 1/3, pays 1 and is taken in 60 % of the rows. Continuous: the reward is -|a - s_0 / 2|, the
    behaviour a = s_0 / 2 plus a standard normal number times 0.3, clipped to [-1, 1].
    """
    rng = np.random.default_rng(seed)
    observations = rng.uniform(-1, 1, (size, 2)).astype(np.float32)
    space: gymnasium.Space[Any]
    if discrete:
        best = np.digitize(observations[:, 0], (-1 / 3, 1 / 3))
        other = (best + rng.integers(1, 3, size)) % 3
        actions: np.ndarray = np.where(rng.random(size) < 0.6, best, other)
        rewards, space = (actions == best).astype(np.float32), gymnasium.spaces.Discrete(3)
    else:
        goal = observations[:, :1] / 2
        actions = np.clip(goal + 0.3 * rng.standard_normal((size, 1)), -1, 1).astype(np.float32)
        rewards, space = -np.abs(actions - goal)[:, 0], gymnasium.spaces.Box(-1.0, 1.0, (1,))
    ends = np.ones(size, bool)
    return Dataset.from_arrays(
        observations, actions, rewards, ends, np.zeros(size, bool), action_space=space, name="tiny"
    )


def train(algorithm: Algorithm, dataset: Dataset, first: int, last: int) -> None:
    """Updates `first` to `last`, counted from 1, on batches of 32."""
    buffer = make_buffer(dataset, algorithm.needs(algorithm.config), Preprocessing(), algorithm.device)
    algorithm.attach(buffer)
    sampler = LaneSampler(buffer, algorithm.seeds, BATCH, algorithm.noise_spec(BATCH))
    for step in range(first, last + 1):
        algorithm.update(*sampler.draw(step), step)


def _made(
    algorithm: type[Algorithm], configs: Sequence[Config], dataset: Dataset, seeds: Sequence[int], updates: int = 200
) -> Algorithm:
    return algorithm(configs, ProblemSpec.of(dataset), seeds, "cpu", updates)


def _require_lane(together: Algorithm, lane: int, alone: Algorithm, tolerance: float) -> None:
    """Compare a lane with a run of its own."""
    states = together.state_dict()
    for key, value in alone.state_dict().items():
        mine = states[key][lane : lane + 1]
        if value.shape != mine.shape:
            raise ViolationError(f"{key} has shape {tuple(states[key].shape)}; its first axis must be the lane")
        if not torch.allclose(mine, value, rtol=tolerance, atol=tolerance):
            distance = float((mine.double() - value.double()).abs().max())
            raise ViolationError(f"{key} of lane {lane} is {distance:.1e} away from a run of its own")


def check_lanes(algorithm: type[Algorithm], config: Config, dataset: Dataset, updates: int, tolerance: float) -> str:
    """Three seeds that train together end where runs of their own would."""
    seeds = [3, 11, 4]
    together = _made(algorithm, [config] * 3, dataset, seeds)
    train(together, dataset, 1, updates)
    for lane, seed in enumerate(seeds):
        alone = _made(algorithm, [config], dataset, [seed])
        train(alone, dataset, 1, updates)
        _require_lane(together, lane, alone, tolerance)
    return f"3 seeds, {updates} updates"


def check_settings(algorithm: type[Algorithm], config: Config, dataset: Dataset, updates: int, tolerance: float) -> str:
    """Lanes that differ in every setting declared `per_lane` end where runs of their own would."""
    shared = sorted(shareable_fields(algorithm))
    other = {}
    for name in shared:
        value = float(getattr(config, name) or 0.0)
        other[name] = 0.7 * value if value else 0.5
    configs = [config, dataclasses.replace(config, **other)]
    together = _made(algorithm, configs, dataset, [3, 4])
    train(together, dataset, 1, updates)
    for lane, mine in enumerate(configs):
        alone = _made(algorithm, [mine], dataset, [3 + lane])
        train(alone, dataset, 1, updates)
        _require_lane(together, lane, alone, tolerance)
    return ", ".join(shared) or "no setting is declared per_lane"


def check_checkpoint(algorithm: type[Algorithm], config: Config, dataset: Dataset, updates: int, _: float) -> str:
    """A run that is stored and loaded halfway ends with the same bits as one that was not."""
    whole, half, resumed = (_made(algorithm, [config] * 2, dataset, [0, 1]) for _ in range(3))
    train(whole, dataset, 1, updates)
    middle = updates // 2 + 1
    train(half, dataset, 1, middle)
    resumed.load_state_dict({key: value.clone() for key, value in half.state_dict().items()})
    train(resumed, dataset, middle + 1, updates)
    for key, value in whole.state_dict().items():
        if value.shape[0] != 2:
            raise ViolationError(f"{key} has shape {tuple(value.shape)}; its first axis must be the lane")
        if not torch.equal(value, resumed.state_dict()[key]):
            raise ViolationError(f"{key} differs after resuming at update {middle}: something is not in state_dict")
    return f"resumed at update {middle} of {updates}, bit for bit"


def check_policy(algorithm: type[Algorithm], config: Config, dataset: Dataset, updates: int, _: float) -> str:
    """The policy's tensors hold the policy of a lane, and its actions have the space's type and bounds."""
    ours = _made(algorithm, [config] * 2, dataset, [0, 1])
    train(ours, dataset, 1, min(updates, 20))
    other = _made(algorithm, [config], dataset, [99])
    other.load_policy_tensors(ours.policy_tensors(1))
    draws = np.random.default_rng(0).standard_normal((2, 200, ours.space.observation_size)).astype(np.float32)
    observations = torch.from_numpy(10 * draws)
    actions = ours.act(observations)
    if not torch.allclose(other.act(observations[1:]), actions[1:], rtol=1e-5, atol=1e-5):
        raise ViolationError("a policy loaded from policy_tensors acts differently: policy_networks is not complete")
    _check_memory(ours, other, observations)
    if ours.space.discrete:
        if actions.shape != (2, 200) or actions.dtype != torch.int64:
            raise ViolationError(f"actions are {actions.dtype} {tuple(actions.shape)}, not int64 [lanes, observations]")
        if not set(actions.unique().tolist()) <= set(range(ours.space.action_size)):
            raise ViolationError("actions are outside the action space")
        return "int64 actions inside the space"
    if actions.shape != (2, 200, ours.space.action_size) or actions.dtype != torch.float32:
        raise ViolationError(
            f"actions are {actions.dtype} {tuple(actions.shape)}, not float32 [lanes, observations, size]"
        )
    if float(actions.abs().max()) > 1.0 + 1e-6:
        raise ViolationError("actions leave the box: policy must return values in [-1, 1]")
    return "float32 actions inside the box"


def _check_memory(ours: Algorithm, other: Algorithm, observations: Tensor) -> None:
    """For policies that remember: a stored one remembers alike, episodes are apart, and their memory can be emptied.

    Args:
        other: a policy with the weights of lane 1.
        observations: [2, 200, observation_size].
    """
    played = observations.view(2, 50, 4, -1)  # four steps of fifty episodes
    together, alone, renewed = ours.context(), other.context(), ours.context()
    if together is None or alone is None or renewed is None:
        return
    rewards, start = torch.ones(2, 50), torch.ones(2, 50, dtype=torch.bool)
    half = torch.arange(50).expand(2, 50) < 25
    before = torch.empty(0)
    for step in range(4):
        together.observe(rewards, start if step == 0 else ~start)
        alone.observe(rewards[1:], (start if step == 0 else ~start)[1:])
        # Half of its episodes start anew in the second step, and so are one step behind afterwards.
        renewed.observe(rewards, start if step == 0 else half if step == 1 else ~start)
        actions = together.act(played[:, :, step])
        if not torch.allclose(alone.act(played[1:, :, step])[0], actions[1], rtol=1e-5, atol=1e-5):
            raise ViolationError("a stored policy remembers differently: its context depends on the lanes")
        others = renewed.act(torch.where(half.unsqueeze(-1), played[:, :, max(step - 1, 0)], played[:, :, step]))
        if not torch.allclose(others[:, 25:], actions[:, 25:], rtol=1e-5, atol=1e-5):
            raise ViolationError("an episode that starts anew changes what is remembered of others")
        if step > 0 and not torch.allclose(others[:, :25], before[:, :25], rtol=1e-5, atol=1e-5):
            raise ViolationError("a policy remembers steps of an episode that is over")
        before = actions


def check_isolation(algorithm: type[Algorithm], config: Config, dataset: Dataset, updates: int, _: float) -> str:
    """NaN in one lane is told by `finite` and changes nothing in the other."""
    healthy, sick = (_made(algorithm, [config] * 2, dataset, [0, 1]) for _ in range(2))
    with torch.no_grad():
        sick._networks[sick.policy_networks[0]].flat[0, 0, 0] = float("nan")
    for run in (healthy, sick):
        train(run, dataset, 1, 10)
    if healthy.finite().tolist() != [True, True] or sick.finite().tolist() != [False, True]:
        raise ViolationError(f"finite() says {sick.finite().tolist()} where lane 0 holds NaN")
    for key, value in healthy.state_dict().items():
        if not torch.equal(value[1], sick.state_dict()[key][1]):
            raise ViolationError(f"{key} of lane 1 changed because lane 0 holds NaN")
    return "the other lane kept its bits"


def check_learning(algorithm: type[Algorithm], config: Config, dataset: Dataset, updates: int, _: float) -> str:
    """On the tiny problem the policy is clearly better than the behaviour that collected the data."""
    problem = tiny_problem(discrete=dataset.discrete)
    rates = {
        name: 3e-3
        for name in shareable_fields(algorithm)
        if name.endswith("learning_rate") and getattr(config, name) < 3e-3
    }
    ours = _made(algorithm, [dataclasses.replace(config, **rates)], problem, [0], 1500)
    train(ours, problem, 1, 1500)
    observations = torch.from_numpy(problem.observations[:1000].copy())
    normalizer = make_buffer(problem, ours.needs(ours.config), Preprocessing()).normalizer
    actions = ours.act(normalizer(observations)[None])[0].numpy()
    first = problem.observations[:1000, 0]
    if problem.discrete:
        rewards = (actions == np.digitize(first, (-1 / 3, 1 / 3))).astype(float)
        wanted = 0.85
    else:
        rewards = -np.abs(actions[:, 0] - first / 2)
        wanted = 0.6 * float(problem.rewards.mean())
    found, behaviour = float(rewards.mean()), float(problem.rewards.mean())
    text = f"mean reward {found:.3f}, behaviour {behaviour:.3f}, wanted {wanted:.3f}"
    if found < wanted:
        raise ViolationError(text)
    return text


CHECKS: dict[str, Callable[[type[Algorithm], Config, Dataset, int, float], str]] = {
    "lanes equal separate runs": check_lanes,
    "lanes with different settings equal separate runs": check_settings,
    "a stored run continues bit for bit": check_checkpoint,
    "policies can be stored": check_policy,
    "a lane that diverges stays alone": check_isolation,
    "a tiny problem is solved": check_learning,
}


def check_algorithm(
    algorithm: type[Algorithm], *, updates: int = 100, tolerance: float = 1e-4, values: Mapping[str, Any] | None = None
) -> Iterator[Check]:
    """Run an algorithm through every check, for each kind of action that it learns.

    Args:
        algorithm: the class.
        updates: how many updates lanes and separate runs are compared over. An algorithm that amplifies rounding
            errors wants fewer.
        tolerance: largest relative and absolute difference between a lane and a run of its own.
        values: settings that differ from the defaults, e.g. a smaller ensemble.

    Yields:
        One `Check` after the other. An exception of the algorithm's own is a failed check.
    """
    for kind in sorted(algorithm.requires.actions):
        dataset = random_dataset(discrete=kind == "discrete")
        config = small_config(algorithm, **(values or {}))
        for name, check in CHECKS.items():
            title = f"{kind} actions: {name}"
            try:
                yield Check(title, True, check(algorithm, config, dataset, updates, tolerance))
            except ViolationError as violation:
                yield Check(title, False, str(violation))
            except Exception as error:  # whatever a third party's code raises is the finding
                yield Check(title, False, f"{type(error).__name__}: {error}")
