"""The data commands that fetch, check and measure: filters of the list, prefetch of suites, verify, references."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from offbench.cli import app


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one npz file at /run.npz."""

    content = b""

    def do_GET(self) -> None:
        if self.path != "/run.npz":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *arguments: object) -> None:
        """Say nothing on standard error."""


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HOME", "USERPROFILE", "OFFBENCH_CACHE", "OFFBENCH_CONFIG", "MINARI_DATASETS_PATH"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    for variable in ("OFFBENCH_DATASETS", "OFFBENCH_REFERENCES", "OFFBENCH_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A user's dataset `lab/run` on a server, and `lab/gone`, which the server does not have."""
    np.savez(
        tmp_path / "run.npz",
        observations=np.zeros((6, 3), np.float32),
        actions=np.zeros((6, 1), np.float32),
        rewards=np.ones(6, np.float32),
        terminals=np.zeros(6, bool),
        timeouts=np.arange(6) % 3 == 2,
    )
    Handler.content = (tmp_path / "run.npz").read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        file = tmp_path / "datasets.yaml"
        file.write_text(
            f"datasets:\n  lab/run: {{url: {address}/run.npz, format: npz, environment: Pendulum-v1}}\n"
            f"  lab/gone: {{url: {address}/gone.npz, format: npz}}\n"
        )
        monkeypatch.setenv("OFFBENCH_DATASETS", str(file))
        yield address
        server.shutdown()
        thread.join()


def run(*arguments: str, status: int = 0) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == status, result.output
    return result


def test_filters_of_the_list(tmp_path: Path) -> None:
    def ids(*arguments: str) -> list[str]:
        return [entry["id"] for entry in json.loads(run("data", "list", *arguments, "--json").stdout)]

    assert ids("--collection", "neorl2") == [entry for entry in ids() if entry.startswith("neorl2:")]
    assert len(ids("--collection", "dsrl")) == 38
    assert set(ids("--environment", "Hopper-v5", "--collection", "minari")) == {
        f"minari:mujoco/hopper/{kind}-v0" for kind in ("simple", "medium", "expert")
    }
    assert "hopper-medium-v2" in ids("hopper")
    assert "hopper-medium-v2" not in ids("--environment", "Hopper-v5")
    assert ids("--cached") == []
    file = tmp_path / "home" / ".d4rl" / "datasets" / "hopper_medium-v2.hdf5"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 2_500_000)
    entry = json.loads(run("data", "list", "--cached", "--json").stdout)[0]
    assert (entry["id"], entry["megabytes"], entry["place"]) == ("hopper-medium-v2", 2.5, str(file))
    assert entry["reference"]["maximum"] == 3234.3
    assert "2.5 MB" in run("data", "list", "--cached").stdout
    assert "did you mean 'd4rl'" in run("data", "list", "--collection", "d4r", status=2).stderr
    door = run("data", "list", "door-human-v1").stdout
    assert "none (" in door, "a reference that does not hold in the environment is shown as such"


def test_info_from_the_catalogue_needs_no_data() -> None:
    text = " ".join(run("data", "info", "pen-human-v1", "--catalogue").stdout.split())
    for part in ("CC BY 4.0", "AdroitHandPen-v1 runs for 200", "96.2628 / 3076.83", "none to evaluate in"):
        assert part in text
    told = json.loads(run("data", "info", "ogbench:scene-play-singletask-v0", "--catalogue", "--json").stdout)
    assert told["metric"] == "success rate"
    assert told["urls"] == ["https://rail.eecs.berkeley.edu/datasets/ogbench/scene-play-v0.npz"]
    assert "did you mean" in run("data", "info", "pen-humn-v1", "--catalogue", status=2).stderr


def test_prefetch_verify_and_offline(served: str, tmp_path: Path) -> None:
    assert "lab/run is not on this machine" in run("data", "prefetch", "lab/run", "--offline", status=1).stderr
    fetched = json.loads(run("data", "prefetch", "lab/run", "--json").stdout)
    place = Path(fetched[0]["place"])
    assert place.read_bytes() == Handler.content
    run("data", "prefetch", "lab/run", "--offline")
    assert "exclude each other" in run("data", "prefetch", "lab/run", "--offline", "--force", status=2).stderr
    rows = json.loads(run("data", "verify", "--json").stdout)
    assert [(row["dataset"], row["result"]) for row in rows] == [("lab/run", "recorded")]
    assert json.loads(run("data", "info", "lab/run", "--json").stdout)["transitions"] == 6
    place.write_bytes(b"changed")
    result = run("data", "verify", "lab/run", "--json", status=1)
    assert json.loads(result.stdout)[0]["result"] == "bad"
    assert "not the file that it should be" in result.stderr


def test_prefetch_tries_all_and_tells_what_failed(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFBENCH_OFFLINE", "0")
    result = run("data", "prefetch", "lab/gone", "lab/run", "--json", status=1)
    assert [row["place"] is None for row in json.loads(result.stdout)] == [True, False]
    assert "HTTP 404" in result.stderr


def test_prefetch_of_a_suite_builds_what_it_needs(tmp_path: Path) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text(
        "name: mine\nalgorithms: [bc]\nseeds: 1\ndatasets:\n- {id: cartpole/random, options: {size: 500}}\n"
        "- {id: cartpole/random, options: {size: 500}, label: again}\n- {id: cartpole/random, options: {size: 600}}\n"
    )
    rows = json.loads(run("data", "prefetch", str(suite), "--json").stdout)
    assert [row["options"] for row in rows] == [{"size": 500}, {"size": 600}]
    assert len({row["place"] for row in rows}) == 2
    run("data", "prefetch", str(suite), "--offline")
    assert run("data", "prefetch", "cartpole/random", "--offline", status=1), "another size is another dataset"
    assert "unknown dataset 'cartpole/rndom'" in run("data", "prefetch", "cartpole/rndom", status=1).stderr


def test_reference_command(served: str) -> None:
    measured = json.loads(run("data", "reference", "Pendulum-v1", "--episodes", "3", "--json").stdout)
    assert [(row["score"], row["episodes"], row["environment"]) for row in measured] == [(0, 3, "Pendulum-v1")]
    assert "scores need both ends" in run("data", "reference", "Pendulum-v1", "--episodes", "2").stderr
    assert json.loads(run("data", "info", "lab/run", "--json").stdout)["reference"] is None
    arguments = ("Pendulum-v1", "--behaviour", "expert", "--episodes", "3")
    both = json.loads(run("data", "reference", *arguments, "--json").stdout)
    low, high = both[0]["mean"], both[1]["mean"]
    assert low < high
    info = json.loads(run("data", "info", "lab/run", "--json").stdout)
    assert (info["reference"]["minimum"], info["reference"]["maximum"]) == (low, high)
    assert "measured in Pendulum-v1" in info["reference"]["source"]
    assert json.loads(run("data", "reference", "--show", "--json").stdout) == both
    run("data", "reference", "CartPole-v1", "--episodes", "2", "--no-save")
    assert json.loads(run("data", "reference", "--show", "--json").stdout) == both
    assert "no environment was named" in run("data", "reference", status=2).stderr
    assert "both given" in run("data", "reference", *arguments, "--policy", "x", status=2).stderr


def test_offline_holds_for_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFBENCH_OFFLINE", "0")  # so that what --offline sets is undone after the test
    result = run("--offline", "data", "info", "neorl2:Pipeline", status=1)
    assert "OFFBENCH_OFFLINE forbids downloads" in result.stderr
    assert "Pipeline-train.npz" in result.stderr
