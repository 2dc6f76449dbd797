"""Which runs train together."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY

from offbench.algorithms import get_algorithm
from offbench.algorithms.base import shareable_fields
from offbench.groups import Group, forget_finished, form_groups, record_groups, recorded_groups
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


def test_a_recorded_plan_is_followed_whatever_is_left_of_it(make_suite: Callable[..., Suite], tmp_path: Path) -> None:
    """Three groups for one worker; when two are done, two idle workers must not split the third."""
    store = RunStore(tmp_path)
    suite = make_suite(algorithms=[{"name": "bc", "label": str(n), "config": {"hidden": [n]}} for n in (4, 8, 16)])
    runs = suite.expand()

    def form(**options: Any) -> list[Group]:
        return form_groups(store, runs, shareable=SHAREABLE, checkpoint_every=8, workers=2, **options)[0]

    planned = form()
    assert planned == form()
    assert [len(group.runs) for group in planned] == [2, 2, 2]
    record_groups(store, suite.name, planned)
    for run in [*planned[0].runs, *planned[1].runs]:
        store.folder(run).update_status(state="done")
    assert form() == planned[2:]
    assert [len(group.runs) for group in form(max_lanes=1)] == [1, 1]  # it has not begun, so it may be split
    store.folder(planned[2].runs[0]).update_status(state="done")
    assert form(max_lanes=1) == planned[2:]  # it has: its lanes stay together
    forget_finished(store, suite.name)
    assert store.groups(suite.name).exists()
    store.folder(planned[2].runs[1]).update_status(state="done")
    forget_finished(store, suite.name)
    assert not store.groups(suite.name).exists()


def test_a_new_version_of_a_suite_keeps_the_unfinished_groups_of_the_old_one(
    make_suite: Callable[..., Suite], tmp_path: Path
) -> None:
    store = RunStore(tmp_path)
    for seeds in ([0, 1], [5, 6]):
        suite = make_suite(seeds=seeds)
        groups, _ = form_groups(store, suite.expand(), shareable=SHAREABLE, checkpoint_every=8, workers=1)
        record_groups(store, suite.name, groups)
    seeds = [[run.seed for run in group.runs] for group in recorded_groups(store, suite.name)[0]]
    assert seeds == [[5, 6], [0, 1]]


def test_a_damaged_plan_is_told_and_its_runs_start_anew(make_suite: Callable[..., Suite], tmp_path: Path) -> None:
    store, suite = RunStore(tmp_path), make_suite()
    folder = store.groups(suite.name)
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text('{"groups": [{"runs"')
    groups, warnings = form_groups(store, suite.expand(), shareable=SHAREABLE, checkpoint_every=8, workers=1)
    assert [len(group.runs) for group in groups] == [2]
    assert "plan.json" in warnings[0]


def test_a_recorded_group_finds_data_that_were_moved(
    make_suite: Callable[..., Suite], data: dict[str, str], tmp_path: Path
) -> None:
    store, suite = RunStore(tmp_path / "runs"), make_suite()
    options: dict[str, Any] = {"shareable": SHAREABLE, "checkpoint_every": 8, "workers": 1}
    planned, _ = form_groups(store, suite.expand(), **options)
    record_groups(store, suite.name, planned)
    moved = tmp_path / "elsewhere-v0"
    shutil.copytree(data["cartpole"], moved)
    runs = make_suite(datasets=[{"id": str(moved), "label": "cartpole"}]).expand()
    groups, _ = form_groups(store, runs, **options)
    assert [group.hash for group in groups] == [group.hash for group in planned]
    assert {run.dataset.source for run in groups[0].runs} == {str(moved)}
