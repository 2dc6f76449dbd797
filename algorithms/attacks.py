"""Attacks: how the box around true values is searched for those of the lowest Q, and finished attacks that are kept.

The rules are those of Yang et al. (Towards Robust Offline Reinforcement Learning under Diverse Data Corruption, ICLR
2024, arXiv 2310.12955; attack.py of YangRui2015/RIQL) and projected sign-gradient descent. The critics are in
`adversary`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from offbench.algorithms.randomness import generator
from offbench.datasets.download import cache_dir
from offbench.datasets.transforms.base import array_digest
from offbench.errors import IncompatibleError, SpecError

if TYPE_CHECKING:
    from offbench.algorithms.adversary import Adversary

# Part of the names in the cache: raised when training or attack give other numbers.
SCHEMA = "offbench-adversary-1"
RIQL_SPLITS = 10  # the authors attack the rows in ten parts; the mean over a part scales the gradient
ADAM_EPSILON = 1e-8

Target = Literal["observations", "actions", "next_observations"]
Array = NDArray[Any]


# --- How the box is searched ---


@dataclass(frozen=True)
class AttackRule:
    """How the box is searched.

    Attributes:
        kind: "riql": the authors' step, an Adam that is made anew for every step, which moves each entry by
            step * scale * g / (|g| + 1e-8), g the gradient of the mean over a tenth of the rows; then z is clipped to
            [-scale, scale]. "sign": projected sign-gradient descent (Madry et al., ICLR 2018, arXiv 1706.06083),
            z <- clip(z - step * scale * sign(g)), keeping each row's lowest value on the way, z = 0 included.
        steps: how many.
        step: size of one, as a share of the scale.
        scale: half the side of the box, in standard deviations.
    """

    kind: Literal["riql", "sign"]
    steps: int
    step: float
    scale: float

    def descend(
        self,
        value: Callable[[Tensor], Tensor],
        z: Tensor,
        part: Tensor,
        low: Tensor | None = None,
        high: Tensor | None = None,
    ) -> Tensor:
        """Lower value(z) [B] from z [B, d] on; `part` [B, 1] is the number of rows that the authors average over."""
        lowest = -self.scale if low is None else low
        highest = self.scale if high is None else high
        length = self.step * self.scale
        if self.kind == "riql":
            for _ in range(self.steps):
                gradient = _gradient(value, z)[0] / part
                z = (z - length * gradient / (gradient.abs() + ADAM_EPSILON)).clamp(-self.scale, self.scale)
            return z
        best, best_value = torch.zeros_like(z), value(torch.zeros_like(z)).detach()
        for step in range(self.steps + 1):
            gradient, q = _gradient(value, z)
            lower = q < best_value
            best, best_value = torch.where(lower.unsqueeze(1), z, best), torch.where(lower, q, best_value)
            if step < self.steps:
                z = torch.minimum(torch.maximum(z - length * gradient.sign(), _like(lowest, z)), _like(highest, z))
        return best


def _like(bound: float | Tensor, z: Tensor) -> Tensor:
    return bound if isinstance(bound, Tensor) else torch.full_like(z, bound)


def _gradient(value: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of each row's value with respect to its z, and the values."""
    z = z.detach().requires_grad_()
    q = value(z)
    if not q.requires_grad:
        raise IncompatibleError(
            "the adversary's policy passes no gradient to its observation", "", "use edac, sac_n, iql or td3_bc"
        )
    return torch.autograd.grad(q.sum(), z)[0], q.detach()


def riql_starts(seed: int, shapes: Sequence[tuple[int, int]], stds: Sequence[Array], scale: float) -> list[Array]:
    """The first noise of the authors' attacks, one array per target in the order of their protocol.

    z0 = 2 scale std (U - 0.5), U from one torch generator for all targets, in ten parts each. It is multiplied by std
    here and once more where it is applied, which is their slip: noise begins at the scale of std squared.
    """
    rng = torch.Generator().manual_seed(seed)
    starts = []
    for (rows, width), std in zip(shapes, stds, strict=True):
        deviation = torch.from_numpy(np.asarray(std, np.float32).reshape(-1))
        draws = [torch.rand((size, width), generator=rng) for size in _part_sizes(rows)]
        starts.append(torch.cat([2 * scale * deviation * (draw - 0.5) for draw in draws]).numpy())
    return starts


def _part_sizes(rows: int) -> list[int]:
    part = rows // RIQL_SPLITS
    return [part] * (RIQL_SPLITS - 1) + [rows - part * (RIQL_SPLITS - 1)]


def riql_parts(rows: int) -> Array:
    """How many rows the authors average each row's loss over, [rows]: the size of its part of the ten."""
    sizes = _part_sizes(rows)
    return np.repeat(sizes, sizes)


# --- Attacks that are kept ---


@dataclass(frozen=True)
class AttackRequest:
    """One target of an adversarial corruption; see `Adversary.attack` for the arrays.

    Attributes:
        target: what is changed.
        rule: how; None for discrete actions, which take the action of the lowest value.
        seed: of the random comparison.
        observations, actions, std, start, bounds, parts: as for `Adversary.attack`.
    """

    target: Target
    rule: AttackRule | None
    seed: int
    observations: Array
    actions: Array | None
    std: Array | None = None
    start: Array | None = None
    bounds: tuple[Array, Array] | None = None
    parts: Array | None = None

    def identity(self) -> dict[str, Any]:
        """What decides the result besides the adversary, JSON-able: arrays by their content."""
        bounds = () if self.bounds is None else self.bounds
        arrays = (self.observations, self.actions, self.std, self.start, self.parts, *bounds)
        return {
            "target": self.target,
            "rule": None if self.rule is None else asdict(self.rule),
            "seed": self.seed,
            "arrays": [None if array is None else array_digest(array) for array in arrays],
        }


def run_attack(adversary: Adversary, request: AttackRequest) -> tuple[Array, dict[str, float]]:
    """The attacked values of a request's rows, and the mean Q before, after, and under random noise of the same size.

    Finished attacks are kept in the cache.

    Returns:
        Values [N, ...] float32 (int64 for discrete actions) and {"q_clean", "q_random", "q_attacked"}.
    """
    made_of = {"schema": SCHEMA, "adversary": adversary.key, **request.identity()}
    file = cache_dir() / "attacks" / f"{content_key(made_of)}.npz"
    found = _read_attack(file, len(request.observations)) if adversary.key else None
    if found is None:
        found = _discrete(adversary, request) if request.rule is None else _continuous(adversary, request, request.rule)
        if adversary.key:
            arrays: dict[str, Any] = {"values": found[0], **found[1]}
            keep(file, lambda aside: np.savez(aside, **arrays))
    return found


def _continuous(adversary: Adversary, request: AttackRequest, rule: AttackRule) -> tuple[Array, dict[str, float]]:
    if request.std is None or request.start is None:
        raise SpecError("an attack by gradient needs std and start")
    observations, actions, std = request.observations, request.actions, request.std
    z = adversary.attack(
        request.target, observations, actions, std, request.start, rule, bounds=request.bounds, parts=request.parts
    )
    noise = generator(request.seed, "adversary/comparison").random(z.shape, np.float32) * 2 - 1
    noise *= np.float32(rule.scale)
    if request.bounds is not None:
        noise = np.clip(noise, *request.bounds)

    def changed(z: Array) -> tuple[Array, Array, Array | None]:
        if request.target == "actions" and actions is not None:
            values = actions.reshape(z.shape) + z * std
            return values, observations, values
        values = observations.reshape(z.shape) + z * std
        return values, values, actions

    def mean_q(z: Array) -> float:
        _, s, a = changed(z)
        q = adversary.values(request.target, s, a)
        return float(q.mean(dtype=np.float64)) if len(q) else 0.0

    measured = {"q_clean": mean_q(np.zeros_like(z)), "q_random": mean_q(noise), "q_attacked": mean_q(z)}
    return changed(z)[0].astype(np.float32), measured


def _discrete(adversary: Adversary, request: AttackRequest) -> tuple[Array, dict[str, float]]:
    if request.actions is None or not adversary.space.discrete:
        raise SpecError("the action of the lowest value is chosen for discrete actions only")
    values, start, count = request.actions, adversary.space.action_start, adversary.space.action_size
    worst = adversary.worst_actions(request.observations)
    shift = generator(request.seed, "adversary/comparison").integers(1, max(count, 2), len(values))
    random = (values - start + shift) % count + start

    def mean_q(actions: Array) -> float:
        q = adversary.values("actions", request.observations, actions)
        return float(q.mean(dtype=np.float64)) if len(q) else 0.0

    return worst, {"q_clean": mean_q(values), "q_random": mean_q(random), "q_attacked": mean_q(worst)}


def _read_attack(file: Path, rows: int) -> tuple[Array, dict[str, float]] | None:
    try:
        with np.load(file) as stored:
            values = stored["values"]
            measured = {name: float(stored[name]) for name in ("q_clean", "q_random", "q_attacked")}
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return (values, measured) if len(values) == rows else None


# --- The cache ---


def content_key(value: Any) -> str:
    """A file name for what a result depends on: 32 digits of the SHA-256 of its canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def keep(file: Path, write: Callable[[Path], None]) -> None:
    """Write a file of the cache aside and rename it; a cache that cannot be written only warns."""
    aside = file.with_name(f".{uuid.uuid4().hex}{file.suffix}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        aside.replace(file)
    except (OSError, SafetensorError) as error:
        warn_unusable(error)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def warn_unusable(error: Exception) -> None:
    warnings.warn(
        f"the adversary is not kept for the next time: {error}; free space, or set OFFBENCH_CACHE to another folder",
        stacklevel=3,
    )
