"""The catalogue: shipped tables against independent values, rules for ids, caches of other packages, user entries."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import re
import stat
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import yaml

from offbench.datasets import Dataset, Reference, catalog_files, catalog_user, find_entry, list_datasets, load_dataset
from offbench.datasets.catalog import CAVEATS_FILE, DatasetEntry, caveats_for, collection, collections
from offbench.datasets.catalog_files import check, fetch, find_place, places
from offbench.datasets.catalog_tables import shipped_entries, shipped_entry
from offbench.datasets.references import d4rl_entries
from offbench.errors import DatasetError, IncompatibleError, SpecError, UnknownNameError

SHARED = Path(__file__).parents[2] / ".." / "shared" / "reference"


def npz(path: Path, rows: int = 12, observations: int = 52, actions: int = 1) -> Path:
    """A file in NeoRL-2's layout, by default of Pipeline's sizes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(rows)
    np.savez(
        path,
        obs=rng.normal(size=(rows, observations)).astype(np.float32),
        next_obs=rng.normal(size=(rows, observations)).astype(np.float32),
        action=rng.uniform(-1, 1, size=(rows, actions)).astype(np.float32),
        reward=np.ones((rows, 1), np.float32),
        done=np.zeros((rows, 1), np.float32),
        truncated=(np.arange(rows) % 6 == 5).astype(np.float32)[:, None],
        index=np.arange(0, rows, 6),
    )
    return path


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFBENCH_OFFLINE", "1")
    for variable in ("DSRL_DATASET_DIR", "OFFBENCH_DATASETS", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)


# --- shipped tables ---


def test_sizes_of_the_collections() -> None:
    found = [entry.collection for entry in shipped_entries().values()]
    # D4RL: rows of infos.py and of the environments' registrations. OGBench: 85 datasets in impls/hyperparameters.sh.
    assert {name: found.count(name) for name in set(found)} == {
        "d4rl": 174,
        "minari": 28 + 31 + 2,
        "neorl2": 8,
        "dsrl": 38,
        "ogbench": 85,
    }


def test_every_entry_is_complete_and_consistent() -> None:
    for entry in shipped_entries().values():
        assert entry.collection in collections()
        assert entry.licence
        assert all(url.startswith("http") and url.endswith((".hdf5", ".npz")) for url in entry.urls), entry.id
        assert all(file.name == file.urls[0].rpartition("/")[2] for file in entry.files)
        if entry.reference is not None:
            assert entry.reference.source
            assert entry.reference.environment, entry.id
            assert entry.collection == "minari" or entry.reference.horizon == entry.horizon, entry.id
        if entry.costs is not None:
            assert entry.costs.minimum < entry.costs.maximum
            assert len(entry.costs.thresholds) == 3
        json.dumps(entry.to_json())


@pytest.mark.parametrize(
    ("name", "low", "high", "environment", "horizon"),
    [
        ("hopper-medium-v2", -20.272305, 3234.3, "Hopper-v4", 1000),
        ("halfcheetah-random-v2", -280.178953, 12135.0, "HalfCheetah-v4", 1000),
        ("walker2d-expert-v2", 1.629008, 4592.3, "Walker2d-v4", 1000),
        ("ant-medium-v2", -325.6, 3879.7, None, 1000),
        ("antmaze-umaze-v2", 0.0, 1.0, None, 700),
        ("maze2d-large-v1", 6.7, 273.99, None, 800),
        ("pen-human-v1", 96.262799, 3076.8331017826877, None, 100),
        ("door-expert-v1", -56.512833, 2880.5693087298737, "AdroitHandDoor-v1", 200),
        ("kitchen-mixed-v0", 0.0, 4.0, None, 280),
        ("neorl2:Fusion", -107.601, 98.05, "Fusion", 100),
        ("neorl2:SafetyHalfCheetah", -283.0, 2507.0, "SafetyHalfCheetah", 1000),
        ("dsrl:OfflineCarRun-v0", 204.28726196289062, 574.6533203125, "OfflineCarRun-v0", 200),
    ],
)
def test_published_references(name: str, low: float, high: float, environment: str | None, horizon: int) -> None:
    """Values typed from D4RL's infos.py, NeoRL-2's info.py and DSRL's infos.py."""
    entry = find_entry(name)
    assert entry is not None
    assert entry.reference is not None
    assert (entry.reference.minimum, entry.reference.maximum) == (low, high)
    assert (entry.environment, entry.horizon) == (environment, horizon)


@pytest.mark.parametrize("table", ["d4rl", "neorl2", "dsrl"])
def test_tables_equal_the_collected_ones(table: str) -> None:
    file = SHARED / f"{table}_reference_scores.csv"
    if not file.is_file():
        pytest.skip("the collected tables are not on this machine")
    checked = 0
    for row in csv.DictReader(file.open(newline="", encoding="utf-8")):
        if table == "d4rl":
            name, low, high, url = row["dataset_id"], row["ref_min"], row["ref_max"], row["dataset_url"]
        elif table == "neorl2":
            name, low, high, url = f"neorl2:{row['task']}", row["min_score"], row["max_score"], ""
        else:
            url, low, high = row["DATASET_URLS"], row["MIN_EPISODE_REWARD"], row["MAX_EPISODE_REWARD"]
            name = next((e.id for e in shipped_entries().values() if url and url in e.urls), "")
            if not url:
                continue
        entry = shipped_entries()[name]
        assert (entry.reference is None) == (not low), name
        if entry.reference is not None:
            assert (entry.reference.minimum, entry.reference.maximum) == (float(low), float(high)), name
        assert not url or entry.urls == (url,), name
        checked += 1
    assert checked == {"d4rl": 174, "neorl2": 8, "dsrl": 38}[table]


def parse_infos(text: str, table: str) -> dict[str, float | str]:
    """A dictionary of literals from the text of D4RL's infos.py; nothing of it is run."""
    import ast

    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == table:
            return ast.literal_eval(node.value)
    raise KeyError(table)


def test_infos_are_parsed_without_running_them() -> None:
    text = "import gym\nREF_MIN_SCORE = {\n 'a-v0': -1.5,\n 'b-v0' : 2e3 }\nraise SystemExit\n"
    assert parse_infos(text, "REF_MIN_SCORE") == {"a-v0": -1.5, "b-v0": 2000.0}
    with pytest.raises(KeyError):
        parse_infos(text, "REF_MAX_SCORE")


def test_the_table_equals_an_installed_d4rl() -> None:
    spec = importlib.util.find_spec("d4rl")  # finds the file; importing d4rl would need gym and mujoco-py
    if spec is None or spec.origin is None or not Path(spec.origin).with_name("infos.py").is_file():
        pytest.skip("d4rl is not installed")
    text = Path(spec.origin).with_name("infos.py").read_text(encoding="utf-8")
    low, high = parse_infos(text, "REF_MIN_SCORE"), parse_infos(text, "REF_MAX_SCORE")
    urls = parse_infos(text, "DATASET_URLS")
    for name, value in low.items():
        reference = d4rl_entries()[name].reference
        assert reference is not None, name
        assert (reference.minimum, reference.maximum) == (value, high[name]), name
    for name, url in urls.items():
        assert d4rl_entries()[name].url == url, name


def test_environments_exist_with_the_time_limit_of_the_table() -> None:
    """Gymnasium and Gymnasium-Robotics register what the catalogue says policies are evaluated in."""
    robotics = pytest.importorskip("gymnasium_robotics")
    gymnasium.register_envs(robotics)
    for entry in shipped_entries().values():
        if entry.environment is None or entry.collection not in ("d4rl", "minari"):
            continue
        limit = gymnasium.spec(entry.environment).max_episode_steps
        # Minari recorded people's demonstrations with longer limits than those of the environment's id.
        assert entry.horizon == limit or any("longer time limit" in caveat for caveat in entry.caveats), entry.id


@pytest.mark.parametrize("name", ["door-human-v1", "minari:D4RL/hammer/expert-v2", "minari:D4RL/pen/cloned-v2"])
def test_d4rls_references_are_refused_in_the_new_adroit(name: str) -> None:
    entry = find_entry(name)
    assert entry is not None
    assert entry.reference is not None
    assert not entry.reference.holds_in("AdroitHandDoor-v1")
    with pytest.raises(IncompatibleError):
        entry.reference.normalize([0.0], environment=f"AdroitHand{entry.family.capitalize()}-v1")


def test_no_reference_reaches_version_5() -> None:
    for entry in shipped_entries().values():
        if entry.reference is not None:
            assert not any(name.endswith("-v5") for name in (entry.reference.environment, *entry.reference.compatible))
        if entry.environment and entry.environment.endswith("-v5"):
            assert entry.reference is None, entry.id


def test_caveats_match_entries_and_say_where_they_are_from() -> None:
    ids = [*shipped_entries(), "ogbench:scene-play-singletask-v0", "minari:atari/pong/expert-v0"]
    for row in yaml.safe_load(CAVEATS_FILE.read_text(encoding="utf-8")):
        assert row["source"]
        for pattern in row["ids"]:
            expression = re.compile(pattern.replace(".", r"\.").replace("*", ".*"))
            assert any(expression.fullmatch(name) for name in ids), f"{pattern} matches nothing"
    assert any("100 steps" in caveat for caveat in caveats_for("pen-human-v1"))
    assert not any("maze" in caveat.lower() for caveat in caveats_for("ant-medium-v2"))
    assert any("swapped" in caveat for caveat in caveats_for("hopper-medium-v1"))
    assert not any("swapped" in caveat for caveat in caveats_for("hopper-medium-v2"))


def test_collections() -> None:
    assert collection("d4rl").licence.startswith("CC BY 4.0")
    assert collection("minari").licence == "unknown"
    with pytest.raises(UnknownNameError, match="did you mean 'ogbench'"):
        collection("ogbnch")


# --- ids by rule ---


@pytest.mark.parametrize(
    ("name", "environment", "task", "file"),
    [
        ("antmaze-large-navigate-singletask-task3-v0", "antmaze-large-singletask-task3-v0", "task3", "antmaze-large"),
        ("antmaze-large-navigate-singletask-v0", "antmaze-large-singletask-v0", "task1", "antmaze-large-navigate"),
        ("ogbench:cube-double-play-singletask-v0", "cube-double-singletask-v0", "task2", "cube-double-play"),
        ("puzzle-4x4-play-singletask-v0", "puzzle-4x4-singletask-v0", "task4", "puzzle-4x4-play"),
        ("visual-antmaze-teleport-explore-singletask-v0", "visual-antmaze-teleport-singletask-v0", "task1", "visual"),
    ],
)
def test_single_tasks_of_ogbench(name: str, environment: str, task: str, file: str) -> None:
    """After the naming rule of ogbench.make_env_and_datasets and its README's table of default tasks."""
    entry = shipped_entry(name)
    assert entry is not None
    assert (entry.environment, entry.metric, entry.reference) == (environment, "success rate", None)
    assert f"-{task}-v0" in entry.options["task"]
    assert entry.files[0].name.startswith(file)
    assert "singletask" not in entry.files[0].name


@pytest.mark.parametrize(
    "name",
    ["powderworld-easy-play-singletask-v0", "antmaze-giant-explore-singletask-v0", "cube-play-singletask-v0", "x"],
)
def test_what_ogbench_does_not_have(name: str) -> None:
    assert shipped_entry(name) is None


def test_ids_with_and_without_prefix_and_families_by_rule() -> None:
    assert shipped_entry("Pipeline") is shipped_entry("neorl2:Pipeline") is shipped_entries()["neorl2:Pipeline"]
    assert shipped_entry("OfflineCarCircle-v0") is not None
    for name in ("atari/pong/expert-v0", "minari:atari/pong/expert-v0"):
        entry = shipped_entry(name)
        assert entry is not None
        assert (entry.id, entry.family, entry.reference) == ("minari:atari/pong/expert-v0", "atari", None)
    assert shipped_entry("minari:atari/*/expert-v0") is None
    assert shipped_entry("minigrid/data-v2.hdf5") is None, "a path is no id"


# --- files on this machine ---


def test_caches_of_other_packages_are_used_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    file = npz(home / ".neorl2" / "datasets" / "Pipeline-train.npz")
    before = file.stat()
    folder = file.parent
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        dataset = load_dataset("neorl2:Pipeline")
    finally:
        folder.chmod(stat.S_IRWXU)
    assert (dataset.name, dataset.num_episodes, dataset.environment) == ("neorl2:Pipeline", 2, "Pipeline")
    assert dataset.reference is not None
    assert dataset.reference.maximum == 751
    assert sorted(path.name for path in folder.iterdir()) == ["Pipeline-train.npz"]
    assert (file.stat().st_mtime_ns, file.stat().st_size) == (before.st_mtime_ns, before.st_size)
    entry = find_entry("Pipeline")
    assert entry is not None
    assert (entry.cached, entry.place) == (True, file)
    assert entry.megabytes == pytest.approx(file.stat().st_size / 1e6, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "variable", "usual", "file"),
    [
        ("hopper-medium-v2", "D4RL_DATASET_DIR", ".d4rl/datasets", "hopper_medium-v2.hdf5"),
        ("dsrl:OfflineCarRun-v0", "DSRL_DATASET_DIR", ".dsrl/datasets", "SafetyCarRun-v0-40-651.hdf5"),
        ("neorl2:DMSD", None, ".neorl2/datasets", "DMSD-train.npz"),
        ("ogbench:cube-single-play-v0", None, ".ogbench/data", "cube-single-play-v0.npz"),
    ],
)
def test_search_order(
    name: str, variable: str | None, usual: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = shipped_entries()[name]
    folders = [tmp_path / "home" / usual, tmp_path / "cache" / entry.collection]
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "shelf"))
        folders.insert(0, tmp_path / "shelf")
    assert places(entry) == tuple(folders)
    with pytest.raises(DatasetError) as caught:
        load_dataset(name)
    for folder in folders:
        assert str(folder / file) in caught.value.why, "the message lists every place that was searched"
    for folder in reversed(folders):  # the later a folder is created here, the earlier it is searched
        folder.mkdir(parents=True)
        (folder / file).write_bytes(b"x")
        assert find_place(entry) == folder / file


def test_validation_files(tmp_path: Path) -> None:
    npz(tmp_path / "cache" / "neorl2" / "Pipeline-val.npz", rows=6)
    assert load_dataset("neorl2:Pipeline", split="validation").num_transitions == 6
    with pytest.raises(DatasetError, match=r"Pipeline-train\.npz"):
        load_dataset("neorl2:Pipeline")
    with pytest.raises(DatasetError, match="has no 'validation' file"):
        load_dataset("hopper-medium-v2", split="validation")


def test_ogbench_and_dsrl_ids_reach_their_readers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ogbench = tmp_path / "home" / ".ogbench" / "data" / "cube-single-play-v0.npz"
    ogbench.parent.mkdir(parents=True)
    np.savez(
        ogbench,
        observations=rng.normal(size=(10, 28)).astype(np.float32),
        actions=rng.uniform(-1, 1, size=(10, 5)).astype(np.float32),
        terminals=(np.arange(10) % 5 == 4).astype(np.float32),
    )
    dataset = load_dataset("cube-single-play-v0")
    assert (dataset.num_transitions, dataset.num_episodes, dataset.environment) == (8, 2, "cube-single-v0")
    assert dataset.reference is None
    assert load_dataset("cube-single-play-v0", view="compact").num_transitions == 10
    with pytest.raises(UnknownNameError, match="did you mean 'view'"):
        load_dataset("cube-single-play-v0", veiw="compact")

    import h5py

    dsrl = tmp_path / "home" / ".dsrl" / "datasets" / "SafetyCarRun-v0-40-651.hdf5"
    dsrl.parent.mkdir(parents=True)
    with h5py.File(dsrl, "w") as file:
        for key, shape in (("observations", (10, 7)), ("next_observations", (10, 7)), ("actions", (10, 2))):
            file[key] = rng.uniform(-1, 1, size=shape).astype(np.float32)
        file["rewards"], file["costs"] = np.ones(10, np.float32), np.ones(10, np.float32)
        file["terminals"], file["timeouts"] = np.zeros(10, bool), np.arange(10) % 5 == 4
    safe = load_dataset("dsrl:OfflineCarRun-v0")
    assert safe.costs is not None
    assert safe.action_space.shape == (2,)
    assert safe.reference is not None
    assert safe.reference.environment == "OfflineCarRun-v0"


def test_checksums_of_files_in_other_caches(tmp_path: Path) -> None:
    file = npz(tmp_path / "home" / ".neorl2" / "datasets" / "Pipeline-train.npz")
    entry = shipped_entries()["neorl2:Pipeline"]
    with pytest.raises(DatasetError, match=r"not the file that it should be[\s\S]*published: md5:59902b33"):
        check(entry)
    real = hashlib.md5(file.read_bytes()).hexdigest()
    known = replace(entry, files=(replace(entry.files[0], checksum=f"md5:{real}"),))
    assert check(known) == "published"
    assert check(replace(entry, files=(replace(entry.files[0], checksum=None),))) == "unknown"
    with pytest.raises(DatasetError, match="prefetch neorl2:DMSD"):
        check(shipped_entries()["neorl2:DMSD"])


def test_minari_is_downloaded_aside_and_its_root_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import os

    import minari
    from gymnasium.spaces import Box

    from offbench.datasets import write_minari

    monkeypatch.delenv("OFFBENCH_OFFLINE")
    data = Dataset.from_arrays(
        np.arange(4.0)[:, None], np.zeros((4, 1)), np.zeros(4), [0, 0, 0, 1], [0] * 4, action_space=Box(-1, 1, (1,))
    )

    def client(dataset_id: str) -> None:
        """What Minari's client does: it writes below $MINARI_DATASETS_PATH and prints."""
        print("Downloading")
        write_minari(data, Path(os.environ["MINARI_DATASETS_PATH"]), dataset_id)

    monkeypatch.setattr(minari, "download_dataset", client)
    dataset = load_dataset("mujoco/hopper/expert-v0", environment="none")
    assert dataset.fingerprint == data.fingerprint
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "minari").exists(), "Minari's own root is not written to"
    assert os.environ["MINARI_DATASETS_PATH"] == str(tmp_path / "minari")
    entry = find_entry("mujoco/hopper/expert-v0")
    assert entry is not None
    assert entry.place == tmp_path / "cache" / "minari" / "mujoco" / "hopper" / "expert-v0"
    assert [e.id for e in list_datasets() if e.cached] == ["minari:mujoco/hopper/expert-v0"]

    def interrupted(dataset_id: str) -> None:
        client(dataset_id)
        raise KeyboardInterrupt

    monkeypatch.setattr(minari, "download_dataset", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_dataset("mujoco/ant/expert-v0")
    assert find_place(shipped_entries()["minari:mujoco/ant/expert-v0"]) is None


def test_an_environment_made_with_arguments_is_not_evaluated_under_its_plain_id(tmp_path: Path) -> None:
    from gymnasium.spaces import Box

    from offbench.datasets import write_minari

    data = Dataset.from_arrays(
        np.zeros((4, 3)), np.zeros((4, 1)), np.zeros(4), [0] * 4, [0, 0, 0, 1], action_space=Box(-2, 2, (1,))
    )
    for name, arguments in (("plain", {}), ("default", {"g": 10.0}), ("moon", {"g": 1.6})):
        folder = write_minari(data, tmp_path / "minari", f"lab/{name}-v0")
        file = folder / "data" / "metadata.json"
        metadata = {key: value for key, value in json.loads(file.read_text()).items() if key != "offbench"}
        metadata["env_spec"] = json.dumps({"id": "Pendulum-v1", "max_episode_steps": 200, "kwargs": arguments})
        file.write_text(json.dumps(metadata))
    assert load_dataset("minari:lab/plain-v0").environment == "Pendulum-v1"
    moon = load_dataset("minari:lab/moon-v0")
    assert moon.environment is None
    assert "Pendulum-v1 with arguments" in moon.provenance.details["evaluation"]
    assert moon.provenance.details["environment_options"] == {"g": 1.6}
    assert load_dataset("minari:lab/moon-v0", environment="Pendulum-v1").environment == "Pendulum-v1"
    # Equal to the constructor's default but not registered with it: nothing tells that they are the same task.
    assert load_dataset("minari:lab/default-v0").environment is None


def test_offline_minari(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        load_dataset("mujoco/hopper/expert-v0")
    assert str(tmp_path / "minari" / "mujoco/hopper/expert-v0") in caught.value.why
    assert str(tmp_path / "cache" / "minari" / "mujoco/hopper/expert-v0") in caught.value.why


# --- the user's own entries ---


def write_user_file(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "lab" / "datasets.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    monkeypatch.setenv("OFFBENCH_DATASETS", str(file))
    return file


def test_user_entries_are_listed_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npz(tmp_path / "lab" / "data" / "run.npz", observations=4, actions=2)
    write_user_file(
        tmp_path,
        """
datasets:
  robot/run-1:
    path: data/run.npz
    format: neorl2
    family: robot
    horizon: 6
    licence: CC0
    caveats: [the gripper was loose]
    options: {action_space: {type: Box, dtype: float32, shape: [2], low: [-1, -1], high: [1, 1]}}
    reference: {minimum: 0, maximum: 12.5, source: our own policy}
""",
        monkeypatch,
    )
    dataset = load_dataset("robot/run-1")
    assert (dataset.name, dataset.num_episodes, dataset.environment) == ("robot/run-1", 2, None)
    assert dataset.reference == Reference(0, 12.5, "our own policy", None, 6)
    assert dataset.provenance.source == "user:robot/run-1"
    entry = find_entry("robot/run-1")
    assert entry is not None
    assert (entry.cached, entry.collection, entry.licence) == (True, "user", "CC0")
    assert entry.caveats == ("the gripper was loose",)
    assert "robot/run-1" in [entry.id for entry in list_datasets()]
    (tmp_path / "lab" / "data" / "run.npz").unlink()
    with pytest.raises(DatasetError, match=r"file of robot/run-1 is missing"):
        load_dataset("robot/run-1")


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("{path: x.npz, formt: npz}", "unknown key of dataset 'a'.*'formt'[\\s\\S]*did you mean 'format'"),
        ("{path: x.npz, format: hdf}", "unknown format of dataset 'a'"),
        ("{path: x.npz, url: 'http://a/b.npz'}", "needs a path or a url[\\s\\S]*both"),
        ("{horizon: 3}", "needs a path or a url[\\s\\S]*neither"),
        ("{url: 'ftp://a/b.npz'}", "is not one"),
        ("{url: []}", "empty"),
        ("{url: 'http://a/..'}", "no usable file name"),
        ("{url: 'http://a/b%2F..%2Fc.npz'}", "no usable file name"),
        ("{url: 'http://a/b.npz', md5: 'a', sha256: 'b'}", "two checksums"),
        ("{path: x.npz, horizon: long}", "horizon of dataset 'a'.*'long'[\\s\\S]*type int"),
        ("{path: x.npz, horizon: true}", "horizon of dataset"),
        ("{path: x.npz, reference: {minimum: 0, maximum: 1}}", "not complete[\\s\\S]*minimum, maximum and source"),
        ("{path: x.npz, reference: {minimum: 0, maximum: 1, src: me}}", "unknown key of the reference"),
        ("{path: x.npz, reference: {minimum: 2, maximum: 1, source: me}}", "reference .*not usable"),
        ("{path: x.npz, reference: {minimum: no, maximum: one, source: me}}", "reference .*not usable"),
        ("just text", "is not a block of keys"),
    ],
)
def test_wrong_user_entries(block: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_user_file(tmp_path, f"datasets:\n  a: {block}\n", monkeypatch)
    with pytest.raises(SpecError, match=message):
        load_dataset("a")


def test_wrong_user_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, message in (
        ("[1]", "does not describe datasets"),
        ("dataset: {}", "did you mean 'datasets'"),
        ("datasets: [", "cannot read the datasets"),
    ):
        write_user_file(tmp_path, text, monkeypatch)
        with pytest.raises(SpecError, match=message):
            list_datasets()
    monkeypatch.setenv("OFFBENCH_DATASETS", str(tmp_path / "gone.yaml"))
    with pytest.raises(SpecError, match="OFFBENCH_DATASETS names it"):
        load_dataset("hopper-medium-v2")
    monkeypatch.delenv("OFFBENCH_DATASETS")
    assert catalog_user.user_entries() == {}


def test_a_user_entry_may_give_a_known_id_another_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npz(tmp_path / "lab" / "mine.npz")
    write_user_file(
        tmp_path, "datasets:\n  neorl2:Pipeline: {path: mine.npz, format: neorl2, environment: Pipeline}", monkeypatch
    )
    entry = find_entry("neorl2:Pipeline")
    assert entry is not None
    assert entry.collection == "user"


class Point:
    """An entry point as importlib.metadata gives it."""

    name, value = "lab", "lab.datasets:offer"

    def __init__(self, offered: object) -> None:
        self.offered = offered

    def load(self) -> object:
        if isinstance(self.offered, Exception):
            raise self.offered
        return self.offered


def offer(monkeypatch: pytest.MonkeyPatch, *offered: object) -> None:
    monkeypatch.setattr(catalog_user, "entry_points", lambda group: [Point(one) for one in offered])


def test_packages_add_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = npz(tmp_path / "packaged.npz")
    entry = DatasetEntry("lab/a", "lab", "Pipeline", False, "ours", format="neorl2", place=file)
    offer(monkeypatch, [entry], lambda: {"lab/b": {"url": "https://lab.example/b.npz", "md5": "0" * 32}})
    assert {"lab/a", "lab/b"} <= {entry.id for entry in list_datasets()}
    found = find_entry("lab/b")
    assert found is not None
    assert found.files[0].checksum == "md5:" + "0" * 32
    with pytest.raises(DatasetError, match=r"lab/b is not on this machine[\s\S]*cache.*user.*lab.b.*b\.npz"):
        fetch(found)
    for wrong, message in (
        (ValueError("boom"), "entry point 'lab'.*fails[\\s\\S]*boom"),
        ([1], "no DatasetEntry"),
        ({"lab/c": {}}, "needs a path or a url"),
    ):
        offer(monkeypatch, wrong)
        with pytest.raises(SpecError, match=message):
            list_datasets()
    offer(monkeypatch, [entry], [entry])
    with pytest.raises(SpecError, match="defined twice"):
        list_datasets()


def test_user_files_of_equal_names_do_not_meet(tmp_path: Path) -> None:
    first, second = (catalog_files.places(DatasetEntry(name, "lab", None, False, "")) for name in ("a", "b"))
    assert first[-1] != second[-1]
