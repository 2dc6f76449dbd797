"""Spaces as JSON: what Minari writes and what we write are the same, in both directions."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from minari.serialization import deserialize_space, serialize_space

from offbench.datasets import space_from_json, space_to_json
from offbench.datasets.spaces import environment_facts, flat_space
from offbench.errors import DatasetError

SPACES: list[spaces.Space[Any]] = [
    spaces.Box(-1, 1, (3,)),
    spaces.Box(np.array([-np.inf, 0]), np.array([1, np.inf]), dtype=np.float64),
    spaces.Box(0, 255, (4, 5, 3), np.uint8),
    spaces.Box(-1, 1, ()),
    spaces.Discrete(4),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 3], start=[1, 0]),
    spaces.MultiBinary(4),
    spaces.Text(8, min_length=2, charset="abc"),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Tuple([spaces.Box(0, 1, (2,)), spaces.Discrete(3)])}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_json_is_minaris(space: spaces.Space[Any]) -> None:
    assert json.loads(space_to_json(space)) == json.loads(serialize_space(space))
    assert space_from_json(serialize_space(space)) == space == deserialize_space(space_to_json(space))
    assert space_from_json(json.loads(space_to_json(space))) == space


@pytest.mark.parametrize("text", ['{"type": "Graph"}', "{", '{"type": "Box", "shape": [1]}', "[]"])
def test_unreadable_descriptions_are_refused(text: str) -> None:
    with pytest.raises(DatasetError, match="space"):
        space_from_json(text)


def test_unknown_spaces_are_refused() -> None:
    graph = spaces.Graph(spaces.Box(0, 1, (2,)), None)
    with pytest.raises(DatasetError, match="'Graph' is not supported"):
        space_to_json(graph)


def test_text_in_a_composite_observation_is_refused() -> None:
    with pytest.raises(DatasetError, match="encode the text as numbers"):
        flat_space(spaces.Dict({"image": spaces.Box(0, 1, (2,)), "mission": spaces.Text(5)}))


def test_environment_facts() -> None:
    facts = environment_facts("CartPole-v1")
    assert facts.action_space == spaces.Discrete(2)
    assert facts.horizon == 500
