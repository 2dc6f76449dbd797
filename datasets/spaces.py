"""Gymnasium spaces: as JSON (the schema of Minari), those of an environment, flattening of composite ones.

Schema: https://github.com/Farama-Foundation/Minari, `minari/serialization.py`; one object per space with the
key "type" and the fields of that space, nested under "subspaces" for Dict and Tuple.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from offbench.errors import DatasetError, UnknownNameError

SUPPORTED = ("Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict", "Tuple", "Text")


def space_to_json(space: spaces.Space[Any]) -> str:
    """Return `space` as a JSON string in Minari's schema; DatasetError for a space that the schema lacks."""
    return json.dumps(_describe(space))


def space_from_json(text: str | Mapping[str, Any]) -> spaces.Space[Any]:
    """Return the space that `text` (a JSON string, or the object parsed from one) describes.

    Raises:
        DatasetError: the text is not JSON, a field is missing, or the type is unknown.
    """
    try:
        description = json.loads(text) if isinstance(text, str) else text
        return _build(description)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, OverflowError, RecursionError) as error:
        reason = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise DatasetError(
            "cannot read the description of a space", reason, "check the dataset's metadata.json"
        ) from error


def _describe(space: spaces.Space[Any]) -> dict[str, Any]:
    if isinstance(space, spaces.Box):
        return {
            "type": "Box",
            "dtype": str(space.dtype),
            "shape": list(space.shape),
            "low": space.low.tolist(),
            "high": space.high.tolist(),
        }
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "dtype": "int64", "start": int(space.start), "n": int(space.n)}
    if isinstance(space, spaces.MultiDiscrete):
        return {
            "type": "MultiDiscrete",
            "dtype": str(space.dtype),
            "nvec": space.nvec.tolist(),
            "start": space.start.tolist(),
        }
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": np.asarray(space.n).tolist()}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "subspaces": {key: _describe(part) for key, part in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "subspaces": [_describe(part) for part in space.spaces]}
    if isinstance(space, spaces.Text):
        return {
            "type": "Text",
            "max_length": space.max_length,
            "min_length": space.min_length,
            "charset": space.characters,
        }
    raise _unknown(type(space).__name__)


def _build(description: Mapping[str, Any]) -> spaces.Space[Any]:
    kind = description["type"]
    if kind == "Box":
        dtype = np.dtype(description["dtype"])
        shape = tuple(description["shape"])
        low, high = (np.asarray(description[key]).astype(dtype).reshape(shape) for key in ("low", "high"))
        return spaces.Box(low=low, high=high, shape=shape, dtype=dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(n=int(description["n"]), start=int(description.get("start", 0)))
    if kind == "MultiDiscrete":
        nvec = np.asarray(description["nvec"])
        return spaces.MultiDiscrete(
            nvec=nvec,
            dtype=np.dtype(description["dtype"]).type,
            start=np.asarray(description.get("start", np.zeros_like(nvec))),
        )
    if kind == "MultiBinary":
        return spaces.MultiBinary(n=description["n"])
    if kind == "Dict":
        return spaces.Dict({key: _build(part) for key, part in description["subspaces"].items()})
    if kind == "Tuple":
        return spaces.Tuple([_build(part) for part in description["subspaces"]])
    if kind == "Text":
        return spaces.Text(
            max_length=description["max_length"],
            min_length=description["min_length"],
            charset=description["charset"],
        )
    raise _unknown(kind)


def _unknown(kind: str) -> DatasetError:
    return DatasetError(
        f"space type {kind!r} is not supported",
        f"spaces of a stored dataset are {', '.join(SUPPORTED)}",
        "flatten or convert it to one of these",
    )


def unbounded_space(observations: NDArray[Any]) -> spaces.Box:
    """Return the widest Box for observations [N, ...] of a canonical type."""
    dtype = observations.dtype
    if dtype.kind == "f":
        low, high = -np.inf, np.inf
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return spaces.Box(low, high, observations.shape[1:], dtype.type)


@dataclass(frozen=True)
class EnvironmentFacts:
    """The spaces and the time limit (steps, or None) of a Gymnasium environment."""

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    horizon: int | None


def environment_facts(environment: str, **options: Any) -> EnvironmentFacts:
    """Make a Gymnasium environment only to ask for its spaces and time limit.

    Raises:
        DatasetError: the environment is not registered or its simulator is not installed.
    """
    try:
        made = gymnasium.make(environment, **options)
    except (gymnasium.error.Error, ImportError) as error:
        raise DatasetError(
            f"the spaces of environment {environment!r} are not known",
            f"Gymnasium cannot make it: {error}",
            "install its simulator (pip install 'offbench[mujoco]' for MuJoCo), or pass action_space= and horizon=",
        ) from error
    try:
        horizon = made.spec.max_episode_steps if made.spec is not None else None
        return EnvironmentFacts(made.observation_space, made.action_space, horizon)
    finally:
        made.close()


def flat_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Return the space of a dataset column for `space`: Dict and Tuple become one flat float32 Box.

    The rule is that of `gymnasium.spaces.flatten`, so a policy trained on the flat column acts in
    `gymnasium.wrappers.FlattenObservation(env)`: leaves in the order of the space, Box and MultiBinary
    unravelled, Discrete and MultiDiscrete one-hot. Other spaces are returned as they are.
    """
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        return space
    _require_numeric(space)
    flat = spaces.flatten_space(space)
    if not isinstance(flat, spaces.Box):
        raise _unknown(type(flat).__name__)
    return spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)


def _require_numeric(space: spaces.Space[Any]) -> None:
    text = [path for path, leaf in _named_leaves(space, "") if isinstance(leaf, spaces.Text)]
    if text:
        others = [path for path, leaf in _named_leaves(space, "") if not isinstance(leaf, spaces.Text)]
        raise DatasetError(
            f"a composite observation holds text: {', '.join(text)}",
            "text has no numeric form that algorithms could use",
            f"leave it out with observation_keys={others}, or encode the text as numbers before making the dataset",
        )


def _named_leaves(space: spaces.Space[Any], path: str) -> Iterator[tuple[str, spaces.Space[Any]]]:
    """Yield the plain spaces inside `space` with their keys joined by "/"."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, part in parts:
            yield from _named_leaves(part, f"{path}/{key}" if path else str(key))
    else:
        yield path, space


def choose_keys(space: spaces.Space[Any], keys: Sequence[str]) -> spaces.Dict:
    """Return the part of a Dict space that `keys` name, in the order of the space.

    Args:
        keys: such as "observation", or "arm/joint" for a Dict in a Dict.

    Raises:
        UnknownNameError: there is no such key.
        DatasetError: the space is no Dict, or no key is given.
    """
    if not isinstance(space, spaces.Dict) or not keys:
        raise DatasetError(
            f"no keys can be chosen from {type(space).__name__} observations" if keys else "observation_keys is empty",
            "observation_keys chooses keys of Dict observations",
            "leave it out",
        )
    chosen: dict[str, spaces.Space[Any]] = {}
    heads = [key.partition("/") for key in keys]
    for head, _, _ in heads:
        if head not in space.spaces:
            raise UnknownNameError("observation key", head, space.spaces)
    for key, part in space.spaces.items():
        rests = [rest for head, _, rest in heads if head == key]
        if rests:
            chosen[key] = part if "" in rests else choose_keys(part, rests)
    return spaces.Dict(chosen)


def flatten_batch(space: spaces.Space[Any], values: Any) -> NDArray[Any]:
    """Flatten stored values of `space` to [T, size] float32 as `flat_space` does; plain ones pass through.

    Args:
        values: an array [T, ...] for a plain space, a mapping of them for Dict, a sequence of them for Tuple.
    """
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        return np.asarray(values)
    return np.concatenate(_leaves(space, values), axis=1).astype(np.float32, copy=False)


def flat_action_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Return the space of the action column for `space`: Dict and Tuple become one flat space.

    Parts that are all Box become a Box, in the order of `gymnasium.spaces.flatten`, so that
    `gymnasium.spaces.unflatten(space, action)` is what the environment takes; parts that are all Discrete,
    MultiDiscrete or MultiBinary become a MultiDiscrete in the same order. Other spaces are returned as they are.

    Raises:
        DatasetError: numbers and choices are mixed, or a part is of another kind.
    """
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        return space
    leaves = [leaf for _, leaf in _named_leaves(space, "")]
    if leaves and all(isinstance(leaf, spaces.Box) for leaf in leaves):
        low, high = (np.concatenate([getattr(leaf, side).reshape(-1) for leaf in leaves]) for side in ("low", "high"))
        return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
    choices = [_choices(leaf) for leaf in leaves]
    if not choices or any(part is None for part in choices):
        raise DatasetError(
            f"actions of the space {space} cannot be flattened",
            "algorithms act in numbers (Box) or in choices (Discrete, MultiDiscrete, MultiBinary), not in both at once",
            "make the dataset from arrays, with the actions that are to be learned",
        )
    sizes, starts = (np.concatenate([part[i] for part in choices if part is not None]) for i in (0, 1))
    return spaces.MultiDiscrete(sizes, start=starts)


def _choices(space: spaces.Space[Any]) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return (number of choices, first choice) of each entry; None for another kind of space."""
    if isinstance(space, spaces.Discrete):
        return np.array([space.n]), np.array([space.start])
    if isinstance(space, spaces.MultiDiscrete):
        return space.nvec.reshape(-1), space.start.reshape(-1)
    if isinstance(space, spaces.MultiBinary):
        size = int(np.prod(space.shape))
        return np.full(size, 2), np.zeros(size, np.int64)
    return None


def flatten_actions(space: spaces.Space[Any], values: Any) -> NDArray[Any]:
    """Flatten stored actions of `space` to [T, size] as `flat_action_space` does; plain ones pass through."""
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        return np.asarray(values)
    columns = [np.asarray(column) for column in _plain_leaves(space, values)]
    return np.concatenate([column.reshape(len(column), -1) for column in columns], axis=1)


def _plain_leaves(space: spaces.Space[Any], values: Any) -> list[Any]:
    if isinstance(space, spaces.Dict):
        _require_type(values, Mapping, space)
        return [leaf for key, part in space.spaces.items() for leaf in _plain_leaves(part, values[key])]
    if isinstance(space, spaces.Tuple):
        _require_type(values, Sequence, space)
        return [leaf for part, value in zip(space.spaces, values, strict=True) for leaf in _plain_leaves(part, value)]
    return [values]


def _leaves(space: spaces.Space[Any], values: Any) -> list[NDArray[Any]]:
    if isinstance(space, spaces.Dict):
        _require_type(values, Mapping, space)
        return [leaf for key, part in space.spaces.items() for leaf in _leaves(part, values[key])]
    if isinstance(space, spaces.Tuple):
        _require_type(values, Sequence, space)
        return [leaf for part, value in zip(space.spaces, values, strict=True) for leaf in _leaves(part, value)]
    array = np.asarray(values)
    if isinstance(space, spaces.Discrete):
        return [_one_hot(array.reshape(-1) - space.start, int(space.n))]
    if isinstance(space, spaces.MultiDiscrete):
        columns = array.reshape(len(array), -1) - space.start.reshape(-1)
        return [_one_hot(columns[:, i], int(n)) for i, n in enumerate(space.nvec.reshape(-1))]
    return [array.reshape(len(array), -1)]


def _one_hot(indices: NDArray[Any], size: int) -> NDArray[Any]:
    return (indices[:, None] == np.arange(size)).astype(np.float32)


def _require_type(values: Any, kind: type, space: spaces.Space[Any]) -> None:
    if not isinstance(values, kind):
        raise DatasetError(f"stored values of {space} are {type(values).__name__}, not {kind.__name__}")
