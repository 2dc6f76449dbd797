"""Identity of runs, and the results table."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offbench.errors import StorageError
from offbench.results import load_results, record_cells
from offbench.runs import DatasetSpec, RunSpec, RunStore, canonical_json, slug
from offbench.storage import append_rows, write_json

DATASET = DatasetSpec(name="hopper/medium", source="hopper/medium", fingerprint="f" * 64, environment="Hopper-v5")
RUN = RunSpec(
    study="study",
    label="TD3+BC",
    dataset=DATASET,
    algorithm="td3_bc",
    config={"alpha": 2.5, "hidden": [256, 256]},
    preprocessing={"observations": "standardize"},
    protocol={"updates": 100, "batch_size": 8},
    seed=3,
)


def test_identity_is_stable() -> None:
    # Changing this number means that every stored run becomes another run: raise SCHEMA_VERSION and say so.
    assert RUN.hash[:16] == "f23fc708dad14125"
    assert dataclasses.replace(RUN, config={"hidden": [256, 256], "alpha": 2.5}).hash == RUN.hash


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"algorithm": "iql"},
        {"config": {**RUN.config, "alpha": 2.5000000000000004}},
        {"preprocessing": {"observations": "none"}},
        {"protocol": {**RUN.protocol, "updates": 101}},
        {"dataset": dataclasses.replace(DATASET, fingerprint="e" * 64)},
        {"dataset": dataclasses.replace(DATASET, environment="Hopper-v4")},
        {"dataset": dataclasses.replace(DATASET, transforms=({"name": "corrupt", "parameters": {}, "seed": 0},))},
    ],
)
def test_identity_notices_what_changes_numbers(change: dict[str, Any]) -> None:
    other = dataclasses.replace(RUN, **change)
    assert other.hash != RUN.hash
    assert (other.cell_hash == RUN.cell_hash) == (change.keys() == {"seed"})


@pytest.mark.parametrize(
    "change",
    [
        {"label": "ours"},
        {"study": "other"},
        {"config_source": {"alpha": "paper"}},
        {"dataset": dataclasses.replace(DATASET, source="/elsewhere/file.hdf5", reference={"minimum": 0.0})},
    ],
)
def test_identity_ignores_names_and_places(change: dict[str, Any]) -> None:
    assert dataclasses.replace(RUN, **change).hash == RUN.hash


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_canonical_json_survives_a_round_trip(value: Any) -> None:
    assert canonical_json(json.loads(canonical_json(value))) == canonical_json(value)


@given(st.text())
def test_slugs_are_folder_names_that_cannot_hide_or_escape(text: str) -> None:
    name = slug(text)
    assert name
    assert not name.startswith((".", "_"))
    assert Path(name).name == name


def test_spec_round_trip_and_tampering() -> None:
    stored = json.loads(json.dumps(RUN.to_json()))
    assert RunSpec.from_json(stored) == dataclasses.replace(RUN)
    stored["seed"] = 4
    with pytest.raises(StorageError, match="hash"):
        RunSpec.from_json(stored)


def store_run(root: Path, run: RunSpec, returns: list[float], state: str = "done") -> None:
    folder = RunStore(root).folder(run)
    write_json(folder.spec_file, run.to_json())
    folder.update_status(state=state)
    rows = [
        {"step": 100, "episode": i, "seed": i, "return": r, "length": 5, "terminated": False}
        for i, r in enumerate(returns)
    ]
    append_rows(folder.evaluations_file, rows)


def test_results_are_tidy_and_normalized_where_a_reference_is_known(tmp_path: Path) -> None:
    scored = dataclasses.replace(
        RUN, dataset=dataclasses.replace(DATASET, reference={"minimum": -10.0, "maximum": 30.0})
    )
    store_run(tmp_path, scored, [10.0, 30.0])
    store_run(tmp_path, dataclasses.replace(RUN, label="plain", seed=1), [7.0])
    store_run(tmp_path, dataclasses.replace(RUN, label="unfinished", seed=2), [7.0], state="running")
    frame = load_results(tmp_path)
    assert frame[frame.algorithm == "TD3+BC"].score.tolist() == [50.0, 100.0]
    assert np.isnan(frame[frame.algorithm == "plain"].score).all()
    assert frame["return"].tolist() == [10.0, 30.0, 7.0]
    assert frame.final.all()
    assert "unfinished" in load_results(tmp_path, include_unfinished=True).algorithm.tolist()
    assert set(load_results(tmp_path, [scored]).algorithm) == {"TD3+BC"}


def test_seeds_of_older_settings_are_not_mixed_in(tmp_path: Path) -> None:
    old = dataclasses.replace(RUN, config={"alpha": 1.0}, seed=9)
    store_run(tmp_path, old, [1.0])
    record_cells(tmp_path, [old])
    store_run(tmp_path, RUN, [2.0])
    record_cells(tmp_path, [RUN])
    with pytest.warns(UserWarning, match="2 different settings"):
        frame = load_results(tmp_path)
    assert frame["return"].tolist() == [2.0]
    assert load_results(tmp_path, [old])["return"].tolist() == [1.0]


def test_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no folder"):
        load_results(tmp_path / "nothing")
