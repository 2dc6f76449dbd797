"""Built-in datasets that need no network: recipes that roll shipped behaviour policies out into a cache.

A recipe names the environment, the behaviours and their shares; `build` plays it in the real Gymnasium
environment and writes a dataset in Minari's format. The same recipe gives the same fingerprint on the same
machine and library versions. How the behaviours were trained: `docs/datasets.md`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from offbench.datasets.behaviour import (
    Episode,
    behaviour_digest,
    behaviour_record,
    make_environment,
    make_policy,
    roll_out,
)
from offbench.datasets.dataset import Dataset
from offbench.datasets.download import cache_dir
from offbench.datasets.minari_format import read_minari, write_minari
from offbench.datasets.records import Provenance, Reference
from offbench.errors import StorageError, UnknownNameError

BUILDER_VERSION = 1  # part of every recipe's hash: raise it when a change here alters what is generated
MINARI_VERSION = 0  # the "-v0" of the dataset ids that Minari sees

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Part:
    """One stretch of a dataset.

    Attributes:
        behaviour: "random", "expert", "medium" or "replay-<i>" (see `behaviours.json`).
        share: of the dataset's transitions; the stretch ends with the episode that reaches it.
        stochastic: sample from the policy instead of playing its mode.
        epsilon: share of steps with a uniformly random action.
    """

    behaviour: str
    share: float
    stochastic: bool = True
    epsilon: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """How a built-in dataset is made. `size` is the least number of transitions; parts follow one another."""

    id: str
    environment: str
    size: int
    parts: tuple[Part, ...]
    description: str
    seed: int = 0

    @property
    def reference(self) -> Reference:
        """Measured returns of the random policy and of the expert (deterministic) in this environment."""
        record = behaviour_record(self.environment)
        random, expert = record["random"], record["snapshots"][record["roles"]["expert"]]["deterministic"]
        return Reference(
            minimum=random["mean"],
            maximum=expert["mean"],
            source=f"measured in {self.environment}: random actions ({random['episodes']} episodes) "
            f"and the shipped {record['training']['algorithm']} expert ({expert['episodes']} episodes)",
            environment=self.environment,
            horizon=_horizon(self.environment),
        )


def _recipes() -> dict[str, Recipe]:
    # Experts play their mode, as in Schweighofer et al. 2022; the other policies are sampled.
    expert = Part("expert", 1, stochastic=False)
    replay = (Part("random", 0.1), *(Part(f"replay-{i}", 0.9 / 8) for i in range(8)))
    recipes = []
    for family, environment, sizes in (
        ("pendulum", "Pendulum-v1", (20_000, 20_000)),
        ("hopper", "Hopper-v5", (50_000, 100_000)),
    ):
        small, large = sizes
        recipes += [
            Recipe(f"{family}/random", environment, small, (Part("random", 1),), "uniformly random actions"),
            Recipe(f"{family}/medium", environment, large, (Part("medium", 1),), "a half-trained SAC policy"),
            Recipe(f"{family}/expert", environment, large, (expert,), "the best SAC policy, deterministic"),
            Recipe(
                f"{family}/medium-replay",
                environment,
                large,
                replay,
                "random actions, then SAC policies from untrained to medium, like a replay buffer",
            ),
        ]
    mixed = (Part("random", 0.8), Part("expert", 0.2, stochastic=False))
    recipes += [
        Recipe("cartpole/random", "CartPole-v1", 50_000, (Part("random", 1),), "uniformly random actions"),
        Recipe("cartpole/expert", "CartPole-v1", 50_000, (expert,), "the greedy PPO expert"),
        Recipe("cartpole/mixed", "CartPole-v1", 50_000, mixed, "80 % random actions, 20 % greedy expert"),
    ]
    return {recipe.id: recipe for recipe in recipes}


RECIPES = _recipes()


def get_recipe(dataset_id: str) -> Recipe:
    """The recipe of a built-in dataset. Raises UnknownNameError with the nearest id."""
    if dataset_id not in RECIPES:
        raise UnknownNameError("built-in dataset", dataset_id, RECIPES)
    return RECIPES[dataset_id]


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 hex of what defines the data: the recipe, its behaviours' weights, this code's version."""
    spec = asdict(recipe)
    del spec["description"]
    weights = {part.behaviour: behaviour_digest(recipe.environment, part.behaviour) for part in recipe.parts}
    canonical = json.dumps({"builder": BUILDER_VERSION, "recipe": spec, "weights": weights}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def dataset_path(recipe: Recipe) -> Path:
    """Where the dataset is cached: a Minari dataset folder below cache_dir()/"recipes", a Minari root."""
    return _cache_root() / _minari_id(recipe)


def build(dataset_id: str, *, force: bool = False, progress: Progress | None = None) -> Path:
    """Makes a built-in dataset unless it is in the cache, and returns its Minari folder.

    The folder appears complete or not at all; two processes may build the same dataset at once.

    Args:
        dataset_id: one of `RECIPES`.
        force: build again even if it is cached.
        progress: called with (transitions so far, transitions to collect).

    Raises:
        UnknownNameError: no such built-in dataset.
        MissingExtraError: the environment's simulator is not installed.
        StorageError: the cache cannot be written.
    """
    recipe = get_recipe(dataset_id)
    target = dataset_path(recipe)
    if (target / "data" / "metadata.json").exists() and not force:
        return target
    dataset = generate(recipe, progress)
    try:
        _publish(dataset, recipe, target)
    except OSError as error:
        raise StorageError(
            f"cannot write the dataset {dataset_id} to {target}",
            str(error),
            "free disk space, or point OFFBENCH_CACHE to another folder",
        ) from error
    return target


def load(dataset_id: str, *, force: bool = False, progress: Progress | None = None) -> Dataset:
    """The built-in dataset `dataset_id`, made first if needed. Arguments and errors as `build`."""
    recipe = get_recipe(dataset_id)
    dataset = read_minari(build(dataset_id, force=force, progress=progress))
    return dataset.replace(
        name=recipe.id,
        environment=recipe.environment,
        reference=recipe.reference,
        provenance=_provenance(recipe),
    )


def generate(recipe: Recipe, progress: Progress | None = None) -> Dataset:
    """Rolls a recipe out in memory; arguments and errors as `build`."""
    environment = make_environment(recipe.environment)
    environment.close()
    episodes: list[Episode] = []
    done, share = 0, 0.0
    for index, part in enumerate(recipe.parts):
        policy = make_policy(
            recipe.environment,
            part.behaviour,
            environment.action_space,
            stochastic=part.stochastic,
            epsilon=part.epsilon,
        )
        share += part.share
        end = round(share * recipe.size)  # of all parts so far: at most one episode more than asked for
        stream = roll_out(recipe.environment, policy, [recipe.seed, index])
        while done < end:
            episode = next(stream)
            episodes.append(episode)
            done += len(episode)
            if progress is not None:
                progress(done, max(done, recipe.size))
        stream.close()
    return _to_dataset(episodes, recipe, environment)


def _to_dataset(episodes: list[Episode], recipe: Recipe, environment: gymnasium.Env[Any, Any]) -> Dataset:
    lengths = np.asarray([len(episode) for episode in episodes])
    return Dataset(
        observations=np.concatenate([episode.observations for episode in episodes]),
        actions=np.concatenate([episode.actions for episode in episodes]),
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        terminated=np.concatenate([episode.terminated for episode in episodes]),
        truncated=np.concatenate([episode.truncated for episode in episodes]),
        episode_starts=np.cumsum(lengths) - lengths,
        last_known=np.ones(len(episodes), bool),
        observation_space=environment.observation_space,
        action_space=environment.action_space,
        environment=recipe.environment,
        reference=recipe.reference,
        provenance=_provenance(recipe),
        name=recipe.id,
    )


def _publish(dataset: Dataset, recipe: Recipe, target: Path) -> None:
    """Writes beside `target` and renames, so that nobody ever sees half a dataset."""
    # Every process has its own folder; a name with a leading dot is no Minari dataset.
    aside = _cache_root() / f".building-{uuid.uuid4().hex}"
    try:
        new = write_minari(
            dataset,
            aside / "new",
            _minari_id(recipe),
            algorithm_name=behaviour_record(recipe.environment)["training"]["algorithm"],
            description=f"{recipe.environment}: {recipe.description}",
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.rename(aside / "old")
        try:
            new.rename(target)
        except OSError:
            if not (target / "data" / "metadata.json").exists():
                raise  # otherwise another process has just finished the same dataset: keep that one
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _provenance(recipe: Recipe) -> Provenance:
    details = {
        "recipe": asdict(recipe),
        "recipe_hash": recipe_hash(recipe),
        "training": behaviour_record(recipe.environment)["training"],
        "gymnasium": version("gymnasium"),
    }
    return Provenance(f"recipe:{recipe.id}", details)


def _minari_id(recipe: Recipe) -> str:
    return f"{recipe.id}-{recipe_hash(recipe)[:8]}-v{MINARI_VERSION}"


def _cache_root() -> Path:
    return cache_dir() / "recipes"


def _horizon(environment: str) -> int | None:
    return gymnasium.spec(environment).max_episode_steps
