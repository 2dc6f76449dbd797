"""Shared by the dataset tests: where the real datasets are, and a cache of one's own for every test."""

from __future__ import annotations

from pathlib import Path

import pytest

REAL_DATA = Path(__file__).parents[2] / ".." / "shared" / "data" / "mujoco_v4"


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's home, caches and Minari root out of every test."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.setenv("OFFBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("OFFBENCH_CONFIG", str(tmp_path / "config"))
    for variable in ("D4RL_DATASET_DIR", "OFFBENCH_DATASETS", "OFFBENCH_REFERENCES", "OFFBENCH_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(params=["hopper-medium-replay", "halfcheetah-medium"])
def real_file(request: pytest.FixtureRequest) -> Path:
    """A real rollout file in D4RL's layout; the test is skipped where the files are not installed."""
    path = REAL_DATA / f"{request.param}.hdf5"
    if not path.is_file():
        pytest.skip("real datasets are not on this machine")
    return path
