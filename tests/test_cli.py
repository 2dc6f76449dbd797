"""The command line: help, JSON, exit statuses and messages of every command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from offbench import __version__
from offbench.algorithms import algorithm_names
from offbench.cli import app
from tests.command_line import commands, parse

TINY = ["--updates", "20", "-b", "8", "-c", "hidden=[8,8]", "--evaluation-episodes", "1", "--final-episodes", "2"]
HERE = ["--workers", "0", "--device", "cpu"]  # train in this process


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Datasets are built once, outside the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def fails(status: int, *arguments: str) -> str:
    """Run a command that a user got wrong; return its message."""
    result = call(*arguments)
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    return result.stderr


# --- help ---


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_help_has_a_paragraph_and_examples_that_parse(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # no example is folded
    result = call(*path, "--help")
    assert result.exit_code == 0
    assert call(*path, "-h").exit_code == 0
    description, _, rest = result.stdout.partition("Examples:")
    assert len(description.split()) > 8
    lines = [line.strip() for line in rest.splitlines() if line.startswith("   offbench")]
    assert lines
    for line in lines:
        parse(line)


def test_help_needs_no_heavy_imports() -> None:
    code = (
        "import sys\nfrom offbench.cli import main\nsys.argv = ['offbench', 'train', '-h']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'pandas', 'numpy', 'gymnasium', 'matplotlib', 'mujoco', 'minari'} & set(sys.modules)\n"
        "sys.exit(','.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version() -> None:
    assert call("--version").stdout == f"offbench {__version__}\n"


def test_tables_fit_a_narrow_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    for arguments in (["algorithms", "list"], ["algorithms", "show", "iql"], ["data", "list", "cartpole"]):
        result = call(*arguments)
        assert result.exit_code == 0
        assert max(len(line) for line in result.stdout.splitlines()) <= 50


# --- looking things up ---


def test_data_list() -> None:
    entries = json.loads(call("data", "list", "--json").stdout)
    assert {"pendulum/medium-replay", "hopper/medium", "cartpole/mixed"} <= {entry["id"] for entry in entries}
    assert {entry["family"] for entry in json.loads(call("data", "list", "cartpole", "--json").stdout)} == {"cartpole"}
    assert "cartpole/mixed" in call("data", "list", "cartpole").stdout
    assert "did you mean 'cartpole'" in fails(2, "data", "list", "cartpolle")


def test_data_build_and_info() -> None:
    built = call("data", "build", "cartpole/random")
    assert built.exit_code == 0
    assert Path(built.stdout.strip()).is_dir()
    info = json.loads(call("data", "info", "cartpole/random", "--json").stdout)
    assert info["environment"] == "CartPole-v1"
    assert info["transitions"] >= 50_000
    assert info["fingerprint"] in call("data", "info", "cartpole/random").stdout.replace("\n", "").replace(" ", "")
    assert "no dataset was named" in fails(2, "data", "build")
    assert "did you mean 'cartpole/random'" in fails(2, "data", "build", "cartpole/rndom")


def test_algorithms() -> None:
    names = {entry["name"]: entry for entry in json.loads(call("algorithms", "list", "--json").stdout)}
    assert names["td3_bc"]["actions"] == ["continuous"]
    shown = json.loads(call("algorithms", "show", "iql", "--dataset", "antmaze-umaze-v2", "--json").stdout)
    values = {setting["name"]: setting for setting in shown["settings"]}
    assert values["expectile"]["value"] == 0.9
    assert values["expectile"]["default"] == 0.7
    assert "expectile" in call("algorithms", "show", "iql").stdout
    assert "did you mean 'iql'" in fails(2, "algorithms", "show", "iq")
    assert "preset" in fails(2, "algorithms", "show", "iql", "--preset", "nothing")


def test_algorithms_are_one_line_each_and_descriptions_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = call("algorithms", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(algorithm_names())
    assert any(line.startswith("riql ") and "riql +24" in line for line in lines)
    monkeypatch.setenv("COLUMNS", "1000")
    shown = call("algorithms", "show", "rvs").stdout.splitlines()
    starts = ("Maximize", "RvS-R: omega", "- The observation", "- The task")  # two paragraphs, two items of a list
    assert [line.endswith(".") for line in shown if line.startswith(starts)] == [True] * 4


def test_doctor_finds_nothing_broken() -> None:
    result = call("doctor", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert report["healthy"]
    assert {"version", "package", "device", "cache", "environment", "extra"} == {c["topic"] for c in report["checks"]}
    assert "Pendulum-v1" in call("doctor").stdout


def test_doctor_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    report = json.loads(call("doctor", "--json").stdout)
    states = {check["name"]: check for check in report["checks"]}
    assert states["Hopper-v5"]["state"] == states["mujoco"]["state"] == "missing"
    assert states["mujoco"]["fix"] == "pip install 'offbench[mujoco]'"
    assert report["healthy"]


def test_doctor_fails_without_a_writable_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    monkeypatch.setenv("OFFBENCH_CACHE", str(file / "cache"))
    result = call("doctor", "--json")
    assert result.exit_code == 1
    assert "cache" in [c["topic"] for c in json.loads(result.stdout)["checks"] if c["state"] == "broken"]


# --- running ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: None) -> tuple[Path, dict[str, Any]]:
    """The packaged smoke suite: its folder and what --json said."""
    root = tmp_path_factory.mktemp("runs")
    result = call("run", "smoke", "-o", str(root), "--json", *HERE)
    assert result.exit_code == 0, result.output
    return root, json.loads(result.stdout)


def test_run_reports_what_it_did(trained: tuple[Path, dict[str, Any]]) -> None:
    _, outcome = trained
    assert outcome["runs"] == {"total": 8, "done": 8, "finished_now": 8, "failed": 0, "left": 0}
    assert {(row["algorithm"], row["seeds"]) for row in outcome["scores"]} == {("bc", 2), ("iql", 2)}
    assert [(row["dataset"], row["algorithm"]) for row in outcome["scores"]] == [  # the order of the suite
        ("pendulum/random", "bc"),
        ("pendulum/random", "iql"),
        ("cartpole/random", "bc"),
        ("cartpole/random", "iql"),
    ]
    assert Path(outcome["report"]).is_file()


def test_running_again_starts_nothing(trained: tuple[Path, dict[str, Any]]) -> None:
    root, before = trained
    result = call("run", "smoke", "-o", str(root), "--json", "--no-report", *HERE)
    outcome = json.loads(result.stdout)
    assert outcome["runs"]["finished_now"] == 0
    assert outcome["scores"] == before["scores"]
    people = call("run", "smoke", "-o", str(root), "--no-report", *HERE)
    assert "cartpole/random" in people.stdout
    assert "±" in people.stdout


def test_status_and_report(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    root, _ = trained
    cells = json.loads(call("status", str(root), "--json").stdout)["cells"]
    assert [cell["states"] for cell in cells] == [{"done": 2}] * 4
    assert "2 done" in call("status", str(root)).stdout
    result = call("report", str(root), "--output", str(tmp_path))
    assert result.exit_code == 0
    paths = [Path(line) for line in result.stdout.split()]
    assert {path.name for path in paths} >= {"report.html", "table.md", "scores.csv"}
    assert all(path.is_file() and path.is_relative_to(tmp_path) for path in paths)


def test_train(tmp_path: Path) -> None:
    result = call("train", "bc", "cartpole/random", "--seeds", "0,3", "-o", str(tmp_path), "--json", *TINY, *HERE)
    assert result.exit_code == 0, result.output
    outcome = json.loads(result.stdout)
    assert outcome["runs"]["done"] == 2
    assert len(list(tmp_path.glob("train/bc/cartpole_random/s[03]-*/policy/policy.json"))) == 2


def test_a_shorter_demo_has_as_many_evaluations() -> None:
    from offbench.api import load_suite
    from offbench.cli import _override

    full, short = load_suite("demo"), _override(load_suite("demo"), seeds="2", updates=500)
    assert short.seeds == [0, 1]
    evaluations = [s.protocol.updates // s.protocol.resolved()["evaluate_every"] for s in (full, short)]
    assert evaluations[0] == evaluations[1]
    assert short.algorithms == full.algorithms


# --- what users get wrong ---


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "smok"], 2, "did you mean 'smoke'"),
        (["run", "missing.yaml"], 2, "there is no suite file missing.yaml"),
        (["train", "iqll", "cartpole/random"], 2, "did you mean 'iql'"),
        (["train", "bc", "cartpole/rando"], 2, "did you mean 'cartpole/random'"),
        (["train", "bc", "missing.hdf5"], 1, "missing.hdf5"),
        (["train", "td3_bc", "cartpole/random"], 1, "algorithms that fit: bc, percent_bc, iql"),
        (["train", "bc", "cartpole/random", "-c", "hiden=[8]"], 2, "did you mean 'hidden'"),
        (["train", "bc", "cartpole/random", "-c", "hidden"], 2, "is not KEY=VALUE"),
        (["train", "bc", "cartpole/random", "-p", "observation=none"], 2, "did you mean 'observations'"),
        (["train", "bc", "cartpole/random", "--seeds", "one"], 2, "e.g. 5 or 0,1,7"),
        (["train", "bc", "cartpole/random", "--device", "abacus"], 2, "use auto, cpu, cuda"),
        (["status", "nowhere"], 2, "there is no folder nowhere"),
        (["report", "nowhere"], 2, "there is no folder nowhere"),
    ],
)
def test_user_errors(
    arguments: list[str], status: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = fails(status, *arguments)
    assert text.startswith("error: ") or "\nerror: " in text
    assert message in text
    assert not (tmp_path / "runs" / "train" / "bc").exists()


def test_wrong_suite_keys(tmp_path: Path) -> None:
    suite = tmp_path / "study.yaml"
    suite.write_text("name: a\ndatasets: [cartpole/random]\nalgorithms: [bc]\nprotocl: {updates: 5}\n")
    assert "did you mean 'protocol'" in fails(2, "run", str(suite), "-o", str(tmp_path))
    suite.write_text("name: a\ndatasets: [cartpole/random]\nalgorithms: [bc]\nprotocol: {update: 5}\n")
    text = fails(2, "run", str(suite), "-o", str(tmp_path))
    assert "did you mean 'updates'" in text
    assert str(suite) in text


def test_truncated_file(tmp_path: Path) -> None:
    file = tmp_path / "broken.hdf5"
    file.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    assert "broken.hdf5" in fails(1, "data", "info", str(file))


def test_missing_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from offbench import evaluation
    from offbench.errors import MissingExtraError

    def missing(environment: str) -> None:
        raise MissingExtraError(f"evaluating in {environment}", "mujoco")

    monkeypatch.setattr(evaluation, "make_environment", missing)
    text = fails(1, "train", "bc", "cartpole/random", "-o", str(tmp_path), *HERE)
    assert "pip install 'offbench[mujoco]'" in text


def test_empty_folder(tmp_path: Path) -> None:
    assert "there are no runs" in fails(1, "status", str(tmp_path))


def test_unexpected_errors_are_short_unless_debug(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from offbench import api

    def broken(root: Path) -> None:
        raise RuntimeError("something nobody foresaw")

    monkeypatch.setattr(api, "output_status", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    text = fails(1, "status")
    assert "something nobody foresaw" in text
    (saved,) = tmp_path.glob("offbench-error-*.txt")
    assert str(saved) in text
    assert "Traceback" in saved.read_text()
    debug = call("--debug", "status")
    assert debug.exit_code == 1
    assert "Traceback" in debug.stderr


def test_interruption_says_how_to_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    from offbench import api

    def interrupted(root: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "output_status", interrupted)
    result = call("status")
    assert result.exit_code == 130
    assert "run the same command to resume" in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_ctrl_c_while_training_keeps_what_was_done(tmp_path: Path) -> None:
    import signal
    import time

    command = [sys.executable, "-m", "offbench.cli", "train", "bc", "cartpole/random", "-u", "1000000", "-b", "8"]
    command += ["-c", "hidden=[8,8]", "--evaluate-every", "1000000", "-o", str(tmp_path), "--workers", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("train/bc/*/s0-*/metrics.jsonl")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "run the same command to resume" in text
    (cell,) = json.loads(call("status", str(tmp_path), "--json").stdout)["cells"]
    assert cell["states"] == {"stopped": 1}
    assert cell["step"] > 0
