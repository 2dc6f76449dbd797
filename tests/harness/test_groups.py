"""Which runs train together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY

from offbench.algorithms import get_algorithm
from offbench.algorithms.base import shareable_fields
from offbench.groups import Group, form_groups
from offbench.runs import RunStore
from offbench.suite import Suite

SHAREABLE = {name: shareable_fields(get_algorithm(name)) for name in ("bc", "iql")}


def sizes(suite: Suite, root: Path, **options: Any) -> list[int]:
    groups, warnings = form_groups(RunStore(root), suite.expand(), shareable=SHAREABLE, checkpoint_every=8, **options)
    assert not warnings
    return [len(group.runs) for group in groups]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"workers": 1}, [5]),
        ({"workers": 2}, [3, 2]),
        ({"workers": 3}, [2, 2, 1]),
        ({"workers": 9}, [1] * 5),
        ({"workers": 1, "max_lanes": 2}, [2, 2, 1]),
        ({"workers": 1, "max_lanes": 3}, [3, 2]),
        ({"workers": 8, "gpu": True}, [5]),
    ],
)
def test_one_cell_is_split_only_as_far_as_workers_need(
    make_suite: Callable[..., Suite], tmp_path: Path, options: dict[str, Any], expected: list[int]
) -> None:
    assert sorted(sizes(make_suite(seeds=5), tmp_path, **options), reverse=True) == expected


def test_only_settings_that_lanes_may_differ_in_share_a_group(make_suite: Callable[..., Suite], tmp_path: Path) -> None:
    def algorithms(field: str, values: list[Any]) -> list[dict[str, Any]]:
        return [{"name": "iql", "label": str(v), "config": {**TINY, field: v}} for v in values]

    together = make_suite(algorithms=algorithms("expectile", [0.7, 0.9]))
    assert sizes(together, tmp_path, workers=1) == [4]
    apart = make_suite(algorithms=algorithms("hidden", [[8, 8], [16, 16]]))
    assert sizes(apart, tmp_path, workers=1) == [2, 2]


def test_grouping_is_deterministic_and_survives_its_record(make_suite: Callable[..., Suite], tmp_path: Path) -> None:
    runs = make_suite(seeds=4).expand()

    def form() -> list[Group]:
        return form_groups(RunStore(tmp_path), runs, shareable=SHAREABLE, checkpoint_every=8, workers=2)[0]

    assert form() == form()
    group = form()[0]
    assert group.hash != Group(group.runs[::-1], 8).hash
    group.record(RunStore(tmp_path))
    import json

    stored = json.loads((group.folder(RunStore(tmp_path)) / "group.json").read_text())
    assert Group.from_json(stored).hash == group.hash
