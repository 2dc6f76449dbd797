"""Building the built-in datasets, which need no network: recipes are played in the real environment into a cache.

A recipe (`recipe_table.py`) names the environment, the behaviours and their shares; `build` plays them and writes a
dataset in Minari's format. The same recipe gives the same fingerprint on the same machine and library versions.
How the behaviours were trained: `docs/datasets.md`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from offbench.datasets.behaviour import (
    EpsilonMixture,
    Policy,
    UniformRandom,
    behaviour_digest,
    behaviour_record,
    behaviour_records,
    load_tensors,
    log_path,
    make_policy,
    trained_here,
)
from offbench.datasets.dataset import Dataset
from offbench.datasets.download import cache_dir
from offbench.datasets.environments import make_environment, packages
from offbench.datasets.minari_format import read_minari, write_minari
from offbench.datasets.online_runs import OnlineRun, online_run, run_key, run_settings
from offbench.datasets.recipe_table import RECIPES, TRAINING, UNTRAINED, Part, Recipe, add_trained
from offbench.datasets.records import Provenance, Reference
from offbench.datasets.rollout import Episode, roll_out
from offbench.datasets.training_log import DivergedError, TrainingLog, load_log, play
from offbench.datasets.training_plans import plan_for, train
from offbench.errors import SpecError, StorageError, UnknownNameError

__all__ = [
    "RECIPES",
    "UNTRAINED",
    "Part",
    "Recipe",
    "build",
    "dataset_path",
    "generate",
    "get_recipe",
    "is_built_in",
    "load",
    "recipe_hash",
    "train_family",
]

BUILDER_VERSION = 2  # part of every recipe's hash: raise it when a change here alters what is generated
MINARI_VERSION = 0  # the "-v0" of the dataset ids that Minari sees

Progress = Callable[[int, int], None]


def is_built_in(dataset_id: str) -> bool:
    """Whether an id is one of the built-in datasets, trained behaviours or not."""
    return dataset_id in RECIPES or dataset_id in UNTRAINED


def get_recipe(
    dataset_id: str,
    size: int | None = None,
    seed: int | None = None,
    run: int | None = None,
    steps: int | None = None,
) -> Recipe:
    """The recipe of a built-in dataset, with another size or seed, or of an online run, if they are given.

    Args:
        size: transitions; by default the recipe's, and with `run` as many as the run's steps, as in the paper.
        seed: of resets and action noise; by default the recipe's, and with `run` the run's.
        run: seed of the online DQN run that gives the behaviours, see `online_runs.py`.
        steps: of that run; by default those of the environment's plan in `training_plans.py`.

    Raises:
        UnknownNameError: no such built-in dataset; the message has the nearest id.
        SpecError: a number is not usable, or the environment has no online runs.
    """
    recipe = RECIPES.get(dataset_id) or UNTRAINED.get(dataset_id)
    if recipe is None:
        raise UnknownNameError("built-in dataset", dataset_id, [*RECIPES, *UNTRAINED])
    if size is not None and size < 1:
        raise SpecError(f"a dataset of {size} transitions cannot be built", "", "give a positive size")
    for name, number in (("seed", seed), ("run", run)):
        if number is not None and number < 0:
            raise SpecError(f"the {name} {number} is negative", "", f"give a {name} from 0")
    if run is None:
        if steps is not None:
            raise SpecError("steps are those of an online run", "", "give `run`, its seed, as well")
        return replace(recipe, size=recipe.size if size is None else size, seed=recipe.seed if seed is None else seed)
    steps = run_settings(recipe.environment, steps).steps
    size = steps if size is None else size
    if recipe.parts[0].behaviour == TRAINING and size > steps:
        raise SpecError(f"an online run of {steps} steps has no {size} transitions", "", "give more `steps`")
    description = recipe.description.replace("the best DQN policy", "the last DQN policy")
    return replace(
        recipe,
        size=size,
        seed=run if seed is None else seed,
        run=run,
        steps=steps,
        description=f"{description}; online run {run} of {steps:,} steps",
    )


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 hex of what defines the data: the recipe, its behaviours' weights or run, this code's version."""
    spec = asdict(recipe)
    del spec["description"]
    weights: dict[str, str]
    if recipe.run is None:
        del spec["run"], spec["steps"]
        weights = {part.behaviour: behaviour_digest(recipe.environment, part.behaviour) for part in recipe.parts}
    else:
        weights = {"run": run_key(recipe.environment, recipe.run, _steps(recipe))}
    canonical = json.dumps({"builder": BUILDER_VERSION, "recipe": spec, "weights": weights}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def dataset_path(recipe: Recipe) -> Path:
    """Where the dataset is cached: a Minari dataset folder below cache_dir()/"recipes", a Minari root."""
    return _cache_root() / _minari_id(recipe)


def build(
    dataset_id: str,
    *,
    size: int | None = None,
    seed: int | None = None,
    run: int | None = None,
    steps: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Makes a built-in dataset unless it is in the cache, and returns its Minari folder.

    Behaviours that neither ship nor are on this machine are trained first, which takes minutes. The folder appears
    complete or not at all; two processes may build the same dataset at once.

    Args:
        dataset_id: one of `RECIPES` or `UNTRAINED`.
        size: transitions, if not the recipe's; episodes are finished, so there may be some more.
        seed: of resets and action noise, if not the recipe's. A replay dataset of another seed than the shipped
            run's is another training run, which takes minutes.
        run, steps: seed and length of the online DQN run that gives the behaviours, see `get_recipe`.
        force: build again even if it is cached.
        progress: called with (transitions so far, transitions to collect).

    Raises:
        UnknownNameError: no such built-in dataset.
        SpecError: the size or the seed is not usable.
        MissingExtraError: the environment's simulator is not installed.
        StorageError: the cache cannot be written.
    """
    recipe = get_recipe(dataset_id, size, seed, run, steps)
    if recipe.run is None and dataset_id in UNTRAINED:
        train_family(dataset_id.partition("/")[0], progress)
        recipe = get_recipe(dataset_id, size, seed)
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


def load(
    dataset_id: str,
    *,
    size: int | None = None,
    seed: int | None = None,
    run: int | None = None,
    steps: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """The built-in dataset `dataset_id`, made first if needed. Arguments and errors as `build`."""
    path = build(dataset_id, size=size, seed=seed, run=run, steps=steps, force=force, progress=progress)
    recipe = get_recipe(dataset_id, size, seed, run, steps)
    return read_minari(path).replace(
        name=recipe.name, environment=recipe.environment, reference=_reference(recipe, progress)
    )


def train_family(family: str, progress: Progress | None = None) -> None:
    """Train the behaviours of a family for which none are there, into the cache; its recipes are then known.

    Args:
        family: e.g. "walker2d". progress: called with (steps so far, steps).
    """
    from offbench.datasets.train_behaviours import train_and_export

    train_and_export(family, seed=0, out=trained_here(), progress=progress)
    behaviour_records.cache_clear()
    load_tensors.cache_clear()
    add_trained(family)


def generate(recipe: Recipe, progress: Progress | None = None) -> Dataset:
    """Makes a recipe's dataset in memory; arguments and errors as `build`."""
    environment = make_environment(recipe.environment)
    environment.close()
    if recipe.parts[0].behaviour == TRAINING:
        episodes, details = _training_episodes(recipe, progress)
    else:
        episodes, details = _policy_episodes(recipe, environment.action_space, progress), {}
    return _to_dataset(episodes, recipe, environment, details, progress)


def _online_run(recipe: Recipe, progress: Progress | None = None) -> OnlineRun | None:
    if recipe.run is None:
        return None
    return online_run(recipe.environment, recipe.run, _steps(recipe), progress)


def _steps(recipe: Recipe) -> int:
    return run_settings(recipe.environment, recipe.steps).steps


def _reference(recipe: Recipe, progress: Progress | None = None) -> Reference | None:
    run = _online_run(recipe, progress)
    return recipe.reference if run is None else run.reference


def _training(recipe: Recipe) -> Mapping[str, Any]:
    """How the behaviours were trained."""
    run = _online_run(recipe)
    if run is None:
        return behaviour_record(recipe.environment)["training"]
    return {key: run.record[key] for key in ("algorithm", "seed", "settings", "versions")}


def _policy(recipe: Recipe, part: Part, space: spaces.Space[Any], progress: Progress | None) -> Policy:
    if recipe.run is None or part.behaviour == "random":  # which needs no run
        behaviour = part.behaviour
        return make_policy(recipe.environment, behaviour, space, stochastic=part.stochastic, epsilon=part.epsilon)
    policy = online_run(recipe.environment, recipe.run, _steps(recipe), progress).policy(space)  # type: ignore[arg-type]
    random = UniformRandom(space)  # type: ignore[arg-type]
    return EpsilonMixture(policy, random, part.epsilon) if part.epsilon > 0 else policy


def _policy_episodes(recipe: Recipe, space: spaces.Space[Any], progress: Progress | None) -> list[Episode]:
    episodes: list[Episode] = []
    done, share = 0, 0.0
    for index, part in enumerate(recipe.parts):
        policy = _policy(recipe, part, space, progress)
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
    return episodes


def _training_episodes(recipe: Recipe, progress: Progress | None) -> tuple[list[Episode], dict[str, Any]]:
    """The first `size` transitions of the training run of the recipe's seed, and where they are from.

    The logged run is played again. Another run, and the logged one where the simulator does not repeat it,
    is trained here. A recipe with a `run` has a log of its own.
    """
    run = _online_run(recipe, progress)
    if run is not None:
        return play(recipe.environment, run.log().first(recipe.size), progress), {"training_run": "online run"}
    log = load_log(log_path(recipe.environment))
    if recipe.seed == log.seed and recipe.size <= len(log):
        try:
            return play(recipe.environment, log.first(recipe.size), progress), {"training_run": "the logged one"}
        except DivergedError as error:
            shipped = behaviour_record(recipe.environment)["training"]["versions"]
            warnings.warn(
                f"{recipe.id}: {error.what}. It was logged with {shipped}; training anew with {_versions(recipe)}, "
                "so the data are those of another run",
                stacklevel=2,
            )
    codes = train_again(recipe, progress)
    episodes = play(recipe.environment, TrainingLog.unchecked(recipe.seed, codes))
    return episodes, {"training_run": "trained here"}


def train_again(recipe: Recipe, progress: Progress | None = None) -> NDArray[np.int8]:
    """The actions, as logged, of the first `size` steps of the training run of the recipe's seed."""
    plan = plan_for(recipe.environment)
    steps = max(plan.settings.steps, recipe.size)
    plan = replace(plan, settings=replace(plan.settings, steps=steps))
    codes: list[Any] = []
    stream = train(plan, recipe.seed)
    for step in stream:
        if step.done:
            codes.append(step.action)
            if progress is not None and (step.done % 1000 == 0 or step.done == recipe.size):
                progress(step.done, recipe.size)
        if step.done == recipe.size:
            break
    stream.close()
    return np.asarray(codes, np.int8)


def _to_dataset(
    episodes: list[Episode],
    recipe: Recipe,
    environment: gymnasium.Env[Any, Any],
    details: dict[str, Any],
    progress: Progress | None = None,
) -> Dataset:
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
        reference=_reference(recipe, progress),
        provenance=_provenance(recipe, details),
        name=recipe.name,
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
            algorithm_name=_training(recipe)["algorithm"],
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


def _provenance(recipe: Recipe, details: dict[str, Any]) -> Provenance:
    fields = asdict(recipe)
    if recipe.run is None:
        del fields["run"], fields["steps"]
    common = {
        "recipe": fields,
        "recipe_hash": recipe_hash(recipe),
        "training": dict(_training(recipe)),
        "versions": _versions(recipe),
    }
    return Provenance(f"recipe:{recipe.id}", common | details)


def _versions(recipe: Recipe) -> dict[str, str]:
    return {package: version(package) for package in (*packages(recipe.environment), "numpy")}


def _minari_id(recipe: Recipe) -> str:
    return f"{recipe.id}-{recipe_hash(recipe)[:8]}-v{MINARI_VERSION}"


def _cache_root() -> Path:
    return cache_dir() / "recipes"
