"""The built-in datasets: which behaviours, in which environment, in which order and shares.

Discrete actions: the five schemes of Schweighofer et al. 2022 (arXiv 2111.04714). Continuous actions: D4RL's
(Fu et al. 2020). A point maze has a controller instead of a training run, hence no replay there.
"""

from __future__ import annotations

from dataclasses import dataclass

from offbench.datasets.behaviour import BEHAVIOURS, behaviour_record, behaviour_records
from offbench.datasets.records import Reference
from offbench.datasets.training_plans import PLANS

TRAINING = "training"  # the behaviour of a part that is the log of a training run


@dataclass(frozen=True)
class Part:
    """One stretch of a dataset.

    Attributes:
        behaviour: "random", "expert", "medium" (see `behaviours.json`), or "training": all transitions of the
            training run, in order, from its first.
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
    """How a built-in dataset is made; parts follow one another.

    `size` is the least number of transitions, and the exact one of a training log. `seed` gives the resets, the
    action noise and the training run.

    With `run` the behaviours are not the shipped ones but those of the online DQN run of that seed and of `steps`
    steps, as in Schweighofer et al. 2022 (see `online_runs.py`): the expert is its last policy.
    """

    id: str
    environment: str
    size: int
    parts: tuple[Part, ...]
    description: str
    seed: int = 0
    run: int | None = None
    steps: int | None = None

    @property
    def name(self) -> str:
        """The dataset's name: its id, and the run if there is one."""
        return self.id if self.run is None else f"{self.id}-run{self.run}"

    @property
    def reference(self) -> Reference:
        """Measured returns of the random policy and of the expert (deterministic) in this environment."""
        record = behaviour_record(self.environment)
        origin = "shipped" if record["folder"] == BEHAVIOURS else "locally trained"
        random, expert = record["random"], record["snapshots"][record["roles"]["expert"]]["deterministic"]
        return Reference(
            minimum=random["mean"],
            maximum=expert["mean"],
            source=f"measured in {self.environment}: random actions ({random['episodes']} episodes, standard error "
            f"{random['standard_error']:.3g}) and the {origin} {record['training']['algorithm']} expert "
            f"({expert['episodes']} episodes, standard error {expert['standard_error']:.3g})",
            environment=self.environment,
            horizon=record["horizon"],
        )


# Family -> environment and nominal size of its datasets. Where a paper has its own size, that is the size.
FAMILIES = {
    "cartpole": ("CartPole-v1", 100_000),
    "mountaincar": ("MountainCar-v0", 40_000),
    "acrobot": ("Acrobot-v1", 50_000),
    "pendulum": ("Pendulum-v1", 20_000),
    "hopper": ("Hopper-v5", 100_000),
    "halfcheetah": ("HalfCheetah-v5", 100_000),
    "walker2d": ("Walker2d-v5", 100_000),
    "minigrid-lavagap": ("offbench/MiniGrid-LavaGapS7-v0", 100_000),
    "minigrid-obstacles": ("offbench/MiniGrid-Dynamic-Obstacles-8x8-v0", 200_000),
    "minatar-breakout": ("offbench/MinAtar-Breakout-v0", 120_000),
    "minatar-spaceinvaders": ("offbench/MinAtar-SpaceInvaders-v0", 120_000),
    "pointmaze-umaze": ("PointMaze_UMaze-v3", 50_000),
    "pointmaze-medium": ("PointMaze_Medium-v3", 50_000),
}

_RANDOM = Part("random", 1)
# Experts play their mode, as in Schweighofer et al. 2022; medium policies are sampled, as in D4RL.
_EXPERT = Part("expert", 1, stochastic=False)
_NOISY = Part("expert", 1, stochastic=False, epsilon=0.2)
_MIXED = (Part("random", 0.8), Part("expert", 0.2, stochastic=False))
_MEDIUM_EXPERT = (Part("medium", 0.5), Part("expert", 0.5, stochastic=False))


def _schemes(family: str) -> list[Recipe]:
    """All datasets of one environment; with nominal sizes where its behaviours are not trained yet."""
    environment, size = FAMILIES[family]
    record = behaviour_records().get(environment)
    if record is not None:
        algorithm, kind = record["training"]["algorithm"], record["network"]["kind"]
        medium_step = record["log"]["medium_step"] if record["log"] else None
    else:
        algorithm, medium_step = PLANS[family].algorithm, None
        kind = "tanh_gaussian" if algorithm == "SAC" else "categorical"
    expert = f"the {algorithm}" if kind == "waypoints" else f"the best {algorithm} policy, deterministic"

    def recipe(scheme: str, parts: tuple[Part, ...], description: str, transitions: int = size) -> Recipe:
        return Recipe(f"{family}/{scheme}", environment, transitions, parts, description)

    recipes = [recipe("random", (_RANDOM,), "uniformly random actions")]
    if kind == "tanh_gaussian":
        recipes += [
            recipe("medium", (Part("medium", 1),), f"a partly trained {algorithm} policy, sampled"),
            recipe(
                "medium-replay",
                (Part(TRAINING, 1),),
                f"all transitions of {algorithm}'s training until the medium policy",
                medium_step or size,
            ),
            recipe("medium-expert", _MEDIUM_EXPERT, "one half medium, then one half expert", 2 * size),
        ]
    else:
        recipes += [
            recipe("mixed", _MIXED, "80 % random actions, then 20 % expert"),
            recipe("noisy", (_NOISY,), f"{expert}, with 20 % random actions"),
        ]
    if kind == "categorical":
        recipes.append(recipe("replay", (Part(TRAINING, 1),), f"all transitions of {algorithm}'s training, in order"))
    return [*recipes, recipe("expert", (_EXPERT,), expert)]


def _table(trained: bool) -> dict[str, Recipe]:
    return {
        recipe.id: recipe
        for family, (environment, _) in FAMILIES.items()
        if (environment in behaviour_records()) == trained and (trained or family in PLANS)
        for recipe in _schemes(family)
    }


RECIPES = _table(trained=True)
UNTRAINED = _table(trained=False)  # building one of these trains its behaviours first


def add_trained(family: str) -> None:
    """Move a family's recipes to RECIPES once its behaviours are there."""
    for recipe in _schemes(family):
        UNTRAINED.pop(recipe.id, None)
        RECIPES[recipe.id] = recipe
