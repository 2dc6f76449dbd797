"""Gymnasium environments behind the built-in datasets: our wrapped ids, and making any id with clear errors.

The ids of the namespace `offbench/` are the environments of Schweighofer et al. 2022 (arXiv 2111.04714) with that
paper's observations and actions, as flat vectors:

- `offbench/MiniGrid-...-v0`: the first two channels of the agent's 7 x 7 view, divided by 10 (98 numbers); the three
  actions left, right and forward. Time limits are MiniGrid's own.
- `offbench/MinAtar-...-v0`: every channel times its number from 1, the maximum over channels divided by their count,
  minus 0.5 (100 numbers); the game's minimal action set. MinAtar has no time limit; ours is 5,000 steps.

Importing this module registers them; the simulators are imported when an environment is made.

Every id may end in `?frame_stack=K`: the observation is then the stack of the last K, oldest first, the first one of an
episode repeated (`gymnasium.wrappers.FrameStackObservation`).
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from offbench.errors import MissingExtraError

Observation = NDArray[np.float32]

# Environment id in our namespace -> its entry point's arguments and time limit in steps.
MINIGRID = {
    "offbench/MiniGrid-LavaGapS7-v0": ("MiniGrid-LavaGapS7-v0", 196),
    "offbench/MiniGrid-Dynamic-Obstacles-8x8-v0": ("MiniGrid-Dynamic-Obstacles-8x8-v0", 256),
}
MINATAR = {
    "offbench/MinAtar-Breakout-v0": ("breakout", 5_000),
    "offbench/MinAtar-SpaceInvaders-v0": ("space_invaders", 5_000),
}
# Beginning of an environment id -> (package that registers it when it is imported, extra that brings the package).
ROBOTICS = ("PointMaze_", "AntMaze_", "AdroitHand", "FrankaKitchen")
MUJOCO = ("Hopper-", "HalfCheetah-", "Walker2d-", "Ant-", "Humanoid", "Swimmer-", "Reacher-", "Pusher-", "Inverted")


_STACKED = re.compile(r"(?P<base>.+)\?frame_stack=(?P<size>[1-9]\d*)")


def stacked_id(environment: str, size: int) -> str:
    """The id of `environment` with stacks of `size` observations."""
    return f"{environment}?frame_stack={size}"


def _unstacked(environment: str) -> tuple[str, int | None]:
    """The id without the stack, and the stack's size."""
    found = _STACKED.fullmatch(environment)
    return (environment, None) if found is None else (found["base"], int(found["size"]))


def make_environment(environment: str) -> gymnasium.Env[Any, Any]:
    """`gymnasium.make` without the checker; Dict and Tuple observations come flattened, in Gymnasium's order.

    Raises:
        MissingExtraError: the simulator is not installed.
        gymnasium.error.Error: Gymnasium does not know the id.
    """
    environment, stack = _unstacked(environment)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _register(environment)
        try:
            env = gymnasium.make(environment, disable_env_checker=True)
        except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
            extra = _extra(environment) or ("mujoco" if "mujoco" in str(error).lower() else "")
            if not extra:
                raise
            raise MissingExtraError(f"simulating {environment}", extra) from error
    if isinstance(env.observation_space, (spaces.Dict, spaces.Tuple)):
        env = gymnasium.wrappers.FlattenObservation(env)
    return env if stack is None else gymnasium.wrappers.FrameStackObservation(env, stack)


def horizon(environment: str) -> int | None:
    """Time limit in steps; None if there is none, or if it cannot be known without a package that is missing."""
    environment, _ = _unstacked(environment)
    try:
        _register(environment)
        return gymnasium.spec(environment).max_episode_steps
    except (gymnasium.error.Error, MissingExtraError):
        return None


def packages(environment: str) -> tuple[str, ...]:
    """Distributions whose versions decide what the environment does."""
    extra = _extra(_unstacked(environment)[0])
    return {
        "minigrid": ("gymnasium", "minigrid"),
        "minatar": ("gymnasium", "minatar"),
        "robotics": ("gymnasium", "gymnasium-robotics", "mujoco"),
        "mujoco": ("gymnasium", "mujoco"),
    }.get(extra, ("gymnasium",))


def _extra(environment: str) -> str:
    """The extra that brings the simulator of an id; "" for classic control."""
    if environment in MINIGRID or environment.startswith("MiniGrid-"):
        return "minigrid"
    if environment in MINATAR or environment.startswith("MinAtar/"):
        return "minatar"
    if environment.startswith(ROBOTICS):
        return "robotics"
    return "mujoco" if environment.startswith(MUJOCO) else ""


def _register(environment: str) -> None:
    """Import the package that registers the id with Gymnasium, if it needs one."""
    if environment.startswith(ROBOTICS):
        try:
            # Its import tells everybody on stderr about changes to the Adroit hand.
            with contextlib.redirect_stderr(io.StringIO()):
                gymnasium.register_envs(import_module("gymnasium_robotics"))
        except ModuleNotFoundError as error:
            raise MissingExtraError(f"simulating {environment}", "robotics") from error


class _MiniGridView(gymnasium.ObservationWrapper[Observation, Any, Any]):
    """[7, 7, 3] image -> [98] float32: object type and colour of each cell, divided by 10."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        image: spaces.Box = env.observation_space["image"]  # type: ignore[index]
        size = image.shape[0] * image.shape[1] * 2
        # Codes reach 10 (objects) and 5 (colours), but MiniGrid's own space says 255.
        self.observation_space = spaces.Box(0.0, 25.5, (size,), np.float32)

    def observation(self, observation: Mapping[str, Any]) -> Observation:
        return observation["image"][:, :, :2].reshape(-1).astype(np.float32) / np.float32(10)


class _FirstActions(gymnasium.ActionWrapper[Any, Any, Any]):
    """Only the first `count` actions of a Discrete space."""

    def __init__(self, env: gymnasium.Env[Any, Any], count: int) -> None:
        super().__init__(env)
        self.action_space = spaces.Discrete(count)

    def action(self, action: Any) -> int:
        return int(action)


class MinAtarGame(gymnasium.Env[Observation, Any]):
    """A MinAtar game with flat observations [100] float32 and its minimal action set.

    Unlike MinAtar's own Gymnasium class, a reset also forgets the last action, which sticky actions repeat, so that
    an episode is a function of its seed and actions alone.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium declares it as an instance attribute

    def __init__(self, game: str) -> None:
        self.game: Any = import_module("minatar").Environment(game)
        self._actions = self.game.minimal_action_set()
        height, width, self._channels = self.game.state_shape()
        self._numbers = np.arange(1, self._channels + 1)
        self.action_space = spaces.Discrete(len(self._actions))
        self.observation_space = spaces.Box(-0.5, 0.5, (height * width,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict]:
        super().reset(seed=seed)
        # Without a seed MinAtar would go on with its own generator, which no seed reached yet in a new environment.
        self.game.seed(int(self.np_random.integers(2**31)) if seed is None else seed)
        self.game.last_action = 0
        self.game.reset()
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict]:
        reward, terminal = self.game.act(self._actions[int(action)])
        return self._observation(), float(reward), bool(terminal), False, {}

    def _observation(self) -> Observation:
        top = (self.game.state() * self._numbers).max(axis=2).reshape(-1)
        return (top / self._channels - 0.5).astype(np.float32)


def make_minigrid(base: str, **_: Any) -> gymnasium.Env[Any, Any]:
    """Entry point of `offbench/MiniGrid-...`; raises MissingExtraError without the package."""
    try:
        import minigrid  # noqa: F401 - registers the environments
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"simulating {base}", "minigrid") from error
    return _FirstActions(_MiniGridView(gymnasium.make(base, disable_env_checker=True)), 3)


def make_minatar(game: str, **_: Any) -> gymnasium.Env[Any, Any]:
    """Entry point of `offbench/MinAtar-...`; raises MissingExtraError without the package."""
    try:
        return MinAtarGame(game)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"simulating MinAtar's {game}", "minatar") from error


for _id, (_inner, _limit) in MINIGRID.items():
    gymnasium.register(
        _id, f"{__name__}:make_minigrid", max_episode_steps=_limit, kwargs={"base": _inner}, disable_env_checker=True
    )
for _id, (_game, _limit) in MINATAR.items():
    gymnasium.register(
        _id, f"{__name__}:make_minatar", max_episode_steps=_limit, kwargs={"game": _game}, disable_env_checker=True
    )
