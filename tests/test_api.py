"""Training one cell from Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import offbench
from offbench import training
from offbench.api import write_reports
from offbench.datasets import write_minari
from offbench.errors import RunError, SpecError, UnknownNameError

SMALL = {"updates": 20, "batch_size": 8, "evaluation_episodes": 1, "final_episodes": 2, "config": {"hidden": [8]}}


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_train_returns_results_policies_and_the_same_again(cache: None, tmp_path: Path) -> None:
    first = offbench.train("bc", "pendulum/random", seeds=[3, 5], root=tmp_path, **SMALL)
    final = first.results[first.results["final"]]
    assert sorted(final["seed"].unique()) == [3, 5]
    assert len(final) == 4
    actions = first.policy(seed=5).act(np.zeros((7, 3), np.float32))
    assert actions.shape == (7, 1)
    assert not np.array_equal(actions, first.policy(seed=3).act(np.zeros((7, 3), np.float32)))
    with pytest.raises(UnknownNameError, match="seed"):
        first.policy(seed=4)
    again = offbench.train("bc", "pendulum/random", seeds=[3, 5], root=tmp_path, **SMALL)
    assert again.summary.already_done == 2
    assert again.results.equals(first.results)


def test_train_raises_when_a_run_fails(cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(training, "evaluate", broken)
    with pytest.raises(RunError, match="2 of 2 runs failed"):
        offbench.train("bc", "pendulum/random", seeds=2, root=tmp_path, **SMALL)
    monkeypatch.undo()


def test_train_refuses_unknown_keys(cache: None, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="updatez"):
        offbench.train("bc", "pendulum/random", root=tmp_path, updatez=3)


def test_a_report_finds_data_that_were_moved_between_two_invocations(cache: None, tmp_path: Path) -> None:
    data = offbench.load_dataset("pendulum/random")
    write_minari(data, tmp_path, "first-v0")
    ref = {"id": str(tmp_path / "first-v0"), "label": "pendulum"}
    offbench.train("bc", ref, seeds=[0], root=tmp_path / "runs", **SMALL)
    (tmp_path / "first-v0").rename(tmp_path / "second-v0")
    ref["id"] = str(tmp_path / "second-v0")
    offbench.train("bc", ref, seeds=[1], root=tmp_path / "runs", **SMALL)
    header = write_reports(tmp_path / "runs")["train"].dataset_table.header
    assert "data" in header
