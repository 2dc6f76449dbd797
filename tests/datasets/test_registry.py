"""Datasets by name and path: search order, downloads from a server on this machine, options, error messages."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box

from offbench.datasets import (
    Dataset,
    Reference,
    cache_dir,
    catalog_files,
    catalog_tables,
    list_datasets,
    load_dataset,
    registry,
    write_minari,
)
from offbench.datasets.references import d4rl_entries
from offbench.errors import DatasetError, MissingExtraError, SpecError, UnknownNameError


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the test's content at every address."""

    content = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *arguments: object) -> None:
        """Say nothing on standard error."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server that hands out a hopper file."""
    Handler.content = hopper_file(tmp_path / "served.hdf5").read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def hopper_file(path: Path, sizes: tuple[int, int] = (11, 3), rows: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["observations"] = np.random.default_rng(0).normal(size=(rows, sizes[0])).astype(np.float32)
        file["actions"] = np.zeros((rows, sizes[1]), np.float32)
        file["rewards"] = np.ones(rows, np.float32)
        file["terminals"] = np.zeros(rows, bool)
        file["timeouts"] = np.arange(rows) % 10 == 9
    return path


def point_at(monkeypatch: pytest.MonkeyPatch, url: str, name: str = "hopper-medium-v2") -> None:
    """Let the catalogue's entry of a D4RL dataset point at `url`."""
    entry = catalog_tables.shipped_entries()[name]
    file = replace(entry.files[0], urls=(url,))
    entries = {**catalog_tables.shipped_entries(), name: replace(entry, files=(file,))}
    monkeypatch.setattr(catalog_tables, "shipped_entries", lambda: entries)
    monkeypatch.setattr(registry, "shipped_entries", lambda: entries)


def no_download(*_: object, **__: object) -> Path:
    raise RuntimeError("nothing may be downloaded here")


def test_d4rl_id_is_downloaded_once(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(monkeypatch, f"{server}/good/hopper_medium-v2.hdf5")
    dataset = load_dataset("hopper-medium-v2")
    assert dataset.name == "hopper-medium-v2"
    assert dataset.provenance.source == "d4rl:hopper-medium-v2"
    assert dataset.environment == "Hopper-v4"
    assert dataset.action_space == Box(-1, 1, (3,))
    assert dataset.reference is not None
    assert dataset.reference.horizon == 1000
    assert [path.name for path in (cache_dir() / "d4rl").glob("*.*5")] == ["hopper_medium-v2.hdf5"]
    monkeypatch.setattr(catalog_files, "download", no_download)
    assert load_dataset("hopper-medium-v2").fingerprint == dataset.fingerprint
    assert {entry.id for entry in list_d4rl() if entry.cached} == {"hopper-medium-v2"}


def list_d4rl() -> list[registry.DatasetEntry]:
    return [entry for entry in list_datasets() if entry.id in d4rl_entries()]


@pytest.mark.parametrize("place", ["variable", "home", "cache", "id as file name"])
def test_files_on_this_machine_are_found(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_files, "download", no_download)
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "shelf"))
    hopper_file(
        {
            "variable": tmp_path / "shelf" / "hopper_medium-v2.hdf5",
            "home": tmp_path / "home" / ".d4rl" / "datasets" / "hopper_medium-v2.hdf5",
            "cache": tmp_path / "cache" / "d4rl" / "hopper_medium-v2.hdf5",
            "id as file name": tmp_path / "shelf" / "hopper-medium-v2.hdf5",
        }[place]
    )
    assert load_dataset("hopper-medium-v2").num_episodes == 2


def test_file_with_explicit_environment(tmp_path: Path) -> None:
    path = hopper_file(tmp_path / "mine.hdf5")
    dataset = load_dataset(str(path), environment="Hopper-v4")
    assert dataset.reference is not None
    assert dataset.reference.maximum == 3234.3
    assert "inferred" not in dataset.provenance.details
    given = load_dataset(path, environment="Hopper-v4", reference={"minimum": 0, "maximum": 10})
    assert given.reference == Reference(0, 10, "given by the user")
    plain = load_dataset(
        path, action_space={"type": "Box", "dtype": "float32", "shape": [3], "low": [-2] * 3, "high": [2] * 3}
    )
    assert plain.action_space == Box(-2, 2, (3,))
    assert plain.environment is plain.reference is None


def test_environment_is_inferred_only_if_name_and_sizes_agree(tmp_path: Path) -> None:
    dataset = load_dataset(hopper_file(tmp_path / "hopper-mine.hdf5"))
    assert dataset.environment == "Hopper-v4"
    assert dataset.provenance.details["inferred"].startswith("the task is D4RL's hopper, by the file's name")
    explicit = load_dataset(tmp_path / "hopper-mine.hdf5", environment="Hopper-v2")
    assert explicit.environment == "Hopper-v2"
    with pytest.raises(DatasetError, match=r"action space of walker2d-mine\.hdf5 is not known"):
        load_dataset(hopper_file(tmp_path / "walker2d-mine.hdf5"))


def test_real_files_are_recognized(real_file: Path) -> None:
    dataset = load_dataset(real_file)
    assert dataset.environment in ("Hopper-v4", "HalfCheetah-v4")
    assert dataset.reference is not None


def test_minari_ids_and_folders(tmp_path: Path) -> None:
    data = Dataset.from_arrays(
        np.arange(4.0)[:, None], np.zeros((4, 1)), np.zeros(4), [0, 0, 0, 1], [0] * 4, action_space=Box(-1, 1, (1,))
    )
    folder = write_minari(data, tmp_path / "minari", "team/logs-v0")
    for name in ("minari:team/logs-v0", "team/logs-v0", str(folder), folder, folder / "data"):
        assert load_dataset(name).fingerprint == data.fingerprint
    entry = next(entry for entry in list_datasets() if entry.id == "minari:team/logs-v0")
    assert entry.cached
    assert load_dataset(entry.id, environment="Pendulum-v1").environment == "Pendulum-v1"


def test_minari_downloads_fail_clearly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import minari

    def offline(_: str) -> None:
        print("Downloading")
        raise ConnectionError("no route to host")

    def without_hub(_: str) -> None:
        raise ImportError("huggingface_hub is not installed")

    monkeypatch.setattr(minari, "download_dataset", offline)
    with pytest.raises(DatasetError, match=r"cannot download Minari dataset 'mujoco/hopper/expert-v0'[\s\S]*no route"):
        load_dataset("mujoco/hopper/expert-v0")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(minari, "download_dataset", without_hub)
    with pytest.raises(MissingExtraError, match=r"offbench\[hub\]"):
        load_dataset("minari:mujoco/hopper/expert-v0")


@pytest.mark.parametrize(
    ("name", "near"),
    [("hoper-medium-v2", "'hopper-medium-v2'"), ("pendulum/medum", "'pendulum/medium'"), ("hopper-medium", "hopper")],
)
def test_unknown_ids_name_near_ones(name: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown dataset '{name}'[\\s\\S]*did you mean .*{near}"):
        load_dataset(name)


def test_wrong_options_and_paths(tmp_path: Path) -> None:
    path = hopper_file(tmp_path / "hopper-mine.hdf5")
    with pytest.raises(UnknownNameError, match="did you mean 'environment'"):
        load_dataset(path, enviroment="Hopper-v4")
    with pytest.raises(SpecError, match="give minimum and maximum"):
        load_dataset(path, reference={"min": 0})
    with pytest.raises(DatasetError, match="no dataset at"):
        load_dataset("gone.hdf5")
    with pytest.raises(DatasetError, match="Minari dataset id"):
        load_dataset("minari:no version")
    with pytest.raises(DatasetError, match="address of carla-lane-render-v0 is not known"):
        load_dataset("carla-lane-render-v0")


def test_cache_dir_follows_the_variable_and_is_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFBENCH_CACHE", str(tmp_path / "elsewhere"))
    assert cache_dir() == tmp_path / "elsewhere"
    assert not cache_dir().exists()
    monkeypatch.delenv("OFFBENCH_CACHE")
    assert cache_dir().name == "offbench"
    assert (tmp_path / "home") in cache_dir().parents
