"""Corruption of observations, actions, rewards and dynamics, random or adversarial, as in the robustness literature."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from gymnasium import spaces

from offbench.datasets.columns import Array
from offbench.datasets.transforms.base import Transform
from offbench.datasets.transforms.corruption_edits import Edits
from offbench.datasets.transforms.corruption_protocols import (
    COLUMN,
    ORDER,
    CleanRules,
    RiqlRules,
    Rules,
    add_noise,
    other_actions,
)
from offbench.errors import IncompatibleError, SpecError

if TYPE_CHECKING:
    from offbench.datasets.dataset import Dataset

# Critics belong to the algorithms, which datasets do not know; the modules are looked up when an attack needs them.
ADVERSARY, ATTACKS = "offbench.algorithms.adversary", "offbench.algorithms.attacks"


@dataclass(frozen=True, kw_only=True)
class Corrupt(Transform):
    """Corrupt a share of the transitions (Yang et al., Towards Robust Offline RL under Diverse Data Corruption, ICLR
    2024, arXiv 2310.12955; the code is YangRui2015/RIQL, attack.py).

    With scale e, std the standard deviation of each dimension over the data (population) and Q an adversary's critic:

    | target | random | adversarial |
    |---|---|---|
    | observations | s + u std(s), u ~ U[-e, e]^d | s + z std(s), z in [-e, e]^d that minimizes Q(s + z std(s), a) |
    | actions | a + u std(a) | a + z std(a), z that minimizes Q(s, a + z std(a)) |
    | rewards, riql | 30 u | -e r |
    | rewards, clean | r + u std(r) | r - e std(r) sign(r - mean(r)) |
    | dynamics | s' + u std(s') | s' + z std(s'), z that minimizes Q(s'', pi(s'')) at s'' = s' + z std(s') |

    Observations change in the row where they are s; s' of the row before stays true. Dynamics change s' alone, where it
    is known. Discrete actions become a uniformly drawn other action (random) or the action of the lowest Q
    (adversarial), under both presets; integer observations are rounded and kept in their bounds.

    Preset `clean` differs from `riql` in this, and in nothing else:

    * rows: round(rate n) of the n transitions, drawn without replacement from the transform's own streams; riql draws
      each row with probability `rate` from RandomState(seed), one stream for all targets in the order of the table,
      over the rows of d4rl.qlearning_dataset alone (not those at time limits, not the last). Both draw the rows anew
      for every target, so several targets hit mostly different rows; `same_rows` changes that for clean. Of dynamics,
      clean counts the rows whose s' is known; riql draws over all its rows and skips those.
    * std: over all transitions (s': the known ones); riql: over the rows of qlearning_dataset, whose s' behind a
      terminal row is the next episode's first state.
    * actions: clipped to the action box; riql leaves them where they fall.
    * rewards: noise in units of their standard deviation is added; riql replaces them by 30 u.
    * attack: projected sign-gradient descent from a uniform point of the box, with steps of 2.5 scale / steps, the best
      point on the way kept; riql starts at 2 e std (U - 0.5), multiplied by std once too often, steps by 0.01 scale
      with an Adam that is made anew each time, and keeps the last point. A target's attack sees the true values of
      the others; in riql an attack on actions sees the observations that were just corrupted.

    Attributes:
        target: observations, actions, rewards or dynamics, a list of them, or "all".
        mode: random or adversarial.
        rate: share of the transitions.
        scale: e, in standard deviations.
        preset: riql (the published protocol to the letter) or clean.
        same_rows: with preset clean, corrupt the same transitions in every target.
        keep_clean: keep the true values as infos "clean/<column>", for `restore`.
        steps: of the attack.
        step_size: of one step as a share of the scale; the preset's if not given.
        adversary: whose critic and policy attack: "auto" (EDAC, small; DQN for discrete actions), "paper" (the authors'
            EDAC, 3,000,000 updates) or an algorithm with a critic.
        adversary_updates: length of its training; 10,000 if not given, or the paper's.
        adversary_seed: of its training.
        adversary_config: settings of its algorithm.
        device: where it is trained and asked.
        seed: of rows and noise.
    """

    name: ClassVar[str] = "corrupt"
    summary: ClassVar[str] = "random or adversarial corruption of observations, actions, rewards or dynamics"

    target: str | list[str] = "observations"
    mode: Literal["random", "adversarial"] = "random"
    rate: float = 0.3
    scale: float = 1.0
    preset: Literal["riql", "clean"] = "riql"
    same_rows: bool = False
    keep_clean: bool = True
    steps: int = 100
    step_size: float | None = None
    adversary: str = "auto"
    adversary_updates: int | None = None
    adversary_seed: int = 0
    adversary_config: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        for target in [self.target] if isinstance(self.target, str) else self.target:
            if target not in (*ORDER, "all"):
                raise SpecError(f"corrupt: target = {target!r}", "", f"use {', '.join(ORDER)}, a list of them, or all")
        if not self.targets:
            raise SpecError("corrupt: target is empty", "", f"use {', '.join(ORDER)}, a list of them, or all")
        for name, allowed in (("mode", ("random", "adversarial")), ("preset", ("riql", "clean"))):
            if getattr(self, name) not in allowed:
                raise SpecError(f"corrupt: {name} = {getattr(self, name)!r}", "", f"use {' or '.join(allowed)}")
        if not 0 <= self.rate <= 1:
            raise SpecError(f"corrupt: rate = {self.rate}", "it is a share of the transitions", "use 0 to 1")
        if not (np.isfinite(self.scale) and self.scale >= 0):
            raise SpecError(f"corrupt: scale = {self.scale}", "it is a number of standard deviations", "use e.g. 1.0")
        if self.seed < 0 or self.steps < 1 or (self.step_size is not None and not self.step_size > 0):
            raise SpecError(
                f"corrupt: seed = {self.seed}, steps = {self.steps}, step_size = {self.step_size}",
                "",
                "use a seed from 0, at least one step, and a positive step size",
            )
        if self.same_rows and self.preset == "riql":
            raise SpecError(
                "corrupt: same_rows with preset riql", "it draws rows anew for every target", "preset=clean"
            )

    @property
    def targets(self) -> list[str]:
        """The targets in the order in which they are corrupted."""
        given = [self.target] if isinstance(self.target, str) else list(self.target)
        return list(ORDER) if "all" in given else [target for target in ORDER if target in given]

    def apply(self, dataset: Dataset) -> Dataset:
        """The corrupted dataset.

        Raises:
            IncompatibleError: a target that the data do not have or that cannot be attacked; the message says why.
            DatasetError: no row to corrupt, or none to train the adversary on.
        """
        self._check(dataset)
        edits, measured = Edits(dataset, keep_clean=self.keep_clean), {}
        rules: Rules
        if self.preset == "riql":
            rules = RiqlRules(dataset, self.rate, self.scale, self.seed)
        else:
            rules = CleanRules(dataset, self.rate, self.scale, self.rng, self.same_rows)
        attacks = _Attacks(self, dataset, rules, edits)
        for target in self.targets:
            rows = rules.rows(target)
            usable = rules.usable(target, rows)
            if target == "rewards":
                self._corrupt_rewards(rules, edits, rows)
            elif self.mode == "adversarial":
                measured[target] = attacks.run(target, rows, usable)
            elif target == "actions" and not isinstance(dataset.action_space, spaces.Box):
                values = other_actions(edits.read("actions", rows), dataset.action_space, rules.integers(target))
                edits.write("actions", rows, values)
            else:
                column, draw = COLUMN[target], rules.uniform(target)
                bounds = rules.action_box() if target == "actions" else None
                space = None if target == "actions" else dataset.observation_space
                add_noise(edits, column, rows, rules.std(target), draw, usable=usable, bounds=bounds, space=space)
            measured[target] = {"rows": int(usable.sum()), **measured.get(target, {})}
        return edits.changed(self, measured)

    def _corrupt_rewards(self, rules: Rules, edits: Edits, rows: Array) -> None:
        rewards = edits.read("rewards", rows).astype(np.float64)
        if self.mode == "random":
            values = rules.random_rewards(rewards, rules.uniform("rewards")((len(rows),)))
        else:
            values = rules.worst_rewards(rewards)
        edits.write("rewards", rows, values.astype(np.float32))

    def _check(self, dataset: Dataset) -> None:
        targets, space = self.targets, dataset.action_space
        if "dynamics" in targets and not dataset.next_valid.any():
            raise IncompatibleError(
                f"dynamics of {dataset.name} cannot be corrupted",
                "no next observation is known",
                "choose other targets",
            )
        if "actions" in targets and isinstance(space, spaces.Discrete) and space.n < 2:
            raise IncompatibleError(f"actions of {dataset.name} cannot be corrupted", "there is only one action")
        if "rewards" in targets and self.preset == "clean" and np.ptp(dataset.rewards) == 0:
            raise IncompatibleError(
                f"rewards of {dataset.name} cannot be corrupted by preset clean",
                f"all are {dataset.rewards[0]:.6g}, so they have no standard deviation",
                "preset=riql replaces them by 30 times uniform noise",
            )
        if self.mode == "random":
            return
        moved = [target for target in targets if target in ("observations", "dynamics")]
        if moved and dataset.observations.dtype.kind != "f":
            raise IncompatibleError(
                f"{' and '.join(moved)} of {dataset.name} cannot be attacked",
                f"its observations are {dataset.observations.dtype}, and a gradient moves real numbers only",
                "use mode=random",
            )
        if "actions" in targets and not isinstance(space, (spaces.Box, spaces.Discrete)):
            raise IncompatibleError(
                f"actions of {dataset.name} cannot be attacked", f"no critic here knows {space}", "use mode=random"
            )


class _Attacks:
    """The adversarial attacks of one corruption; its adversary is trained when the first one needs it."""

    def __init__(self, transform: Corrupt, dataset: Dataset, rules: Rules, edits: Edits) -> None:
        self.transform, self.dataset, self.rules, self.edits = transform, dataset, rules, edits
        self.riql = transform.preset == "riql"
        self.adversary: Any = None
        # Row counts and stds of the attacks so far: the authors draw all first noises from one generator.
        self.drawn: list[tuple[tuple[int, int], Array]] = []

    def run(self, target: str, rows: Array, usable: Array) -> dict[str, Any]:
        """Write the worst values of a target in `rows` and return the mean Q before, after and under random noise."""
        module = import_module(ATTACKS)
        transform, dataset, column = self.transform, self.dataset, COLUMN[target]
        source = self.edits if self.riql else Edits(dataset)
        discrete = target == "actions" and dataset.discrete
        std = np.zeros(0) if discrete else self.rules.std(target)
        if self.riql and not discrete:
            self.drawn.append(((len(rows), std.size), std))
        kept = rows[usable]
        if not len(kept):
            return {}
        if self.adversary is None:
            trainer = import_module(ADVERSARY)
            settings = trainer.AdversarySettings(
                algorithm=transform.adversary,
                updates=transform.adversary_updates,
                seed=transform.adversary_seed,
                config=transform.adversary_config,
            )
            self.adversary = trainer.train_adversary(dataset, settings, device=transform.device)
        observations = source.read("next_observations" if target == "dynamics" else "observations", kept)
        actions = None if target == "dynamics" else source.read("actions", kept)
        if discrete:
            request = module.AttackRequest("actions", None, transform.seed, observations, actions)
        else:
            request = self._request(module, target, observations, actions, std.astype(np.float32), usable)
        values, measured = module.run_attack(self.adversary, request)
        bounds = self.rules.action_box()
        if target == "actions" and bounds is not None:
            values = np.clip(values.reshape(-1, *dataset.actions.shape[1:]), *bounds)
        self.edits.write(column, kept, values.reshape(-1, *self.edits.array(column).shape[1:]))
        return {"adversary": self.adversary.key, **measured}

    def _request(
        self, module: Any, target: str, observations: Array, actions: Array | None, std: Array, usable: Array
    ) -> Any:
        transform, bounds = self.transform, None
        flat = std.reshape(-1)
        if self.riql:
            rule = module.AttackRule("riql", transform.steps, transform.step_size or 0.01, transform.scale)
            shapes, stds = zip(*self.drawn, strict=True)
            start = module.riql_starts(transform.seed, shapes, stds, transform.scale)[-1][usable]
            parts = module.riql_parts(len(usable))[usable]
        else:
            step = transform.step_size or 2.5 / transform.steps
            rule = module.AttackRule("sign", transform.steps, step, transform.scale)
            start, parts = transform.rng("start", target).random((len(observations), flat.size), np.float32), None
            low, high = np.float32(-transform.scale), np.float32(transform.scale)
            if target == "actions" and actions is not None:
                bounds = _noise_bounds(actions.reshape(start.shape), flat, self.rules.action_box(), transform.scale)
                low, high = bounds
            start = low + (high - low) * start
        column = "next_observations" if target == "dynamics" else target
        return module.AttackRequest(
            column, rule, transform.seed, observations, actions, std=flat, start=start, bounds=bounds, parts=parts
        )


def _noise_bounds(actions: Array, std: Array, box: tuple[Array, Array] | None, scale: float) -> tuple[Array, Array]:
    """Lowest and highest z [n, A] with a + z std in the action box and |z| <= scale; [0, 0] where a is outside it."""
    low = np.full(actions.shape, -scale, np.float32)
    high = np.full(actions.shape, scale, np.float32)
    if box is not None:
        spread = np.where(std > 0, std, 1.0)
        low = np.clip((box[0].reshape(-1) - actions) / spread, -scale, 0.0).astype(np.float32)
        high = np.clip((box[1].reshape(-1) - actions) / spread, 0.0, scale).astype(np.float32)
    return low, high
