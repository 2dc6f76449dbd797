"""Tables of logs: each rule of the schema, its YAML, its inference, and equality with arrays from every container."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st

from offbench.datasets import Dataset
from offbench.datasets.formats import read_path
from offbench.datasets.table_schema import TableSchema
from offbench.datasets.tables import from_frame, infer_schema, read_table
from offbench.errors import DatasetError, SpecError, UnknownNameError

SCHEMA = TableSchema(
    observations=("x", "y"),
    actions=("a",),
    action_type="box",
    low=-1.0,
    high=1.0,
    reward="r",
    terminated="done",
    episode="who",
    timestep="t",
)


def logs(**changes: Any) -> pd.DataFrame:
    """Three episodes of 3, 1 and 2 rows; the first is terminated."""
    columns = {
        "who": ["ann"] * 3 + ["bob"] + ["cid"] * 2,
        "t": [0, 1, 2, 0, 0, 1],
        "x": [0.5, 1.25, 2.0, 3.0, 4.0, 5.0],
        "y": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        "a": [-1.0, -0.5, 0.0, 0.5, 1.0, 0.25],
        "r": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "done": [False, False, True, False, False, False],
        **changes,
    }
    return pd.DataFrame({key: value for key, value in columns.items() if value is not None})


def expected(**options: Any) -> Dataset:
    frame = logs()
    return Dataset.from_arrays(
        frame[["x", "y"]].to_numpy(),
        frame[["a"]].to_numpy(),
        frame["r"].to_numpy(),
        frame["done"].to_numpy(),
        np.array([0, 0, 0, 1, 0, 0], bool),
        episode_starts=[0, 3, 4],
        action_space=Box(-1, 1, (1,)),
        **options,
    )


def write_csv(frame: pd.DataFrame, folder: Path) -> Path:
    frame.to_csv(folder / "logs.csv", index=False)
    return folder / "logs.csv"


def write_tsv_gz(frame: pd.DataFrame, folder: Path) -> Path:
    frame.to_csv(folder / "logs.tsv.gz", index=False, sep="\t")
    return folder / "logs.tsv.gz"


def write_parquet_file(frame: pd.DataFrame, folder: Path) -> Path:
    frame.to_parquet(folder / "logs.parquet")
    return folder / "logs.parquet"


def write_parquet_folder(frame: pd.DataFrame, folder: Path) -> Path:
    (folder / "logs").mkdir()
    for index, part in enumerate((frame[:2], frame[2:5], frame[5:])):
        part.to_parquet(folder / "logs" / f"part-{index}.parquet")
    return folder / "logs"


WRITERS = [write_csv, write_tsv_gz, write_parquet_file, write_parquet_folder]


@pytest.mark.parametrize("write", WRITERS)
def test_every_container_gives_the_dataset_of_the_arrays(
    tmp_path: Path, write: Callable[[pd.DataFrame, Path], Path]
) -> None:
    path = write(logs(), tmp_path)
    schema = tmp_path / "schema.yaml"
    schema.write_text(SCHEMA.to_yaml())
    dataset = read_path(path, schema=str(schema), environment="Nowhere-v0")
    assert dataset.fingerprint == expected().fingerprint
    assert (dataset.name, dataset.environment) == ("logs", "Nowhere-v0")
    assert dataset.provenance.source == f"file:{path.name}"
    assert from_frame(logs(), SCHEMA).fingerprint == dataset.fingerprint
    assert SCHEMA.apply(logs(), name="mine").name == "mine"


def test_float32_values_survive_text(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    frame = pd.DataFrame({"x": values[:, 0], "y": values[:, 1], "a": 0.0, "r": values[:, 0], "done": 0, "who": 1})
    frame["t"] = range(500)
    frame.to_csv(tmp_path / "x.csv", index=False)
    np.testing.assert_array_equal(read_table(tmp_path / "x.csv", schema=SCHEMA).observations, values)


def test_columns_without_a_role_are_not_read() -> None:
    assert from_frame(logs(comment=["?"] * 6), SCHEMA).fingerprint == expected().fingerprint


@pytest.mark.parametrize(
    ("values", "schema", "actions", "space"),
    [
        (["left", "right", "left", "stay", "left", "right"], {"labels": ["left", "stay", "right"]}, 3, Discrete(3)),
        ([True, False, True, True, True, False], {"labels": [True, False]}, 2, Discrete(2)),
        ([10, 20, 10, 15, 10, 20], {"labels": [10, 15, 20]}, 3, Discrete(3)),
        ([0, 2, 0, 1, 0, 2], {"n": 3}, 3, Discrete(3)),
        ([0.0, 2.0, 0.0, 1.0, 0.0, 2.0], {"n": 5}, 5, Discrete(5)),
    ],
)
def test_discrete_actions(tmp_path: Path, values: list[Any], schema: dict[str, Any], actions: int, space: Any) -> None:
    content = yaml.safe_load(SCHEMA.to_yaml())
    content["actions"] = {"columns": ["a"], "type": "discrete", **schema}
    wanted = [0, 1, 0, 0, 0, 1] if actions == 2 else [0, 2, 0, 1, 0, 2]
    for dataset in (
        from_frame(logs(a=values), content),
        read_table(write_csv(logs(a=values), tmp_path), schema=content),
        read_table(write_parquet_file(logs(a=values), tmp_path), schema=content),
    ):
        assert dataset.actions.tolist() == wanted
        assert dataset.action_space == space


def test_integer_valued_continuous_actions_stay_continuous() -> None:
    dataset = from_frame(logs(a=[0, 1, 0, 1, 1, 0]), SCHEMA)
    assert dataset.action_space == Box(-1, 1, (1,))
    assert dataset.actions.dtype == np.float32


def test_several_discrete_actions() -> None:
    content = yaml.safe_load(SCHEMA.to_yaml())
    content["actions"] = {"columns": ["a", "b"], "type": "multi-discrete", "n": [2, 3]}
    dataset = from_frame(logs(a=[0, 1, 0, 1, 0, 1], b=[0, 1, 2, 0, 1, 2]), content)
    assert dataset.action_space == MultiDiscrete([2, 3])
    assert dataset.actions[2].tolist() == [0, 2]


def change(**changes: Any) -> TableSchema:
    return TableSchema(**{**{key: value for key, value in vars(SCHEMA).items()}, **changes})


def test_unsorted_rows_are_an_error_or_sorted() -> None:
    shuffled = logs().iloc[[3, 2, 0, 5, 1, 4]]
    with pytest.raises(DatasetError, match=r"returns to an earlier 'who' in row 4 \(1 in all\)[\s\S]*sort: true"):
        from_frame(shuffled, SCHEMA)
    with pytest.raises(DatasetError, match=r"'t' falls within an episode of the frame in row 1"):
        from_frame(logs().iloc[[1, 0, 2, 3, 4, 5]], SCHEMA)
    with pytest.raises(DatasetError, match=r"'t' repeats within an episode of the frame in row 2"):
        from_frame(logs(t=[0, 1, 1, 0, 0, 1]), SCHEMA)
    dataset = from_frame(shuffled, change(sort=True))
    assert dataset.rewards.tolist() == [4, 1, 2, 3, 5, 6]  # bob came first
    assert dataset.episode_lengths.tolist() == [1, 3, 2]


def test_missing_steps() -> None:
    frame = logs(t=[0, 2, 3, 7, 4, 5])
    with pytest.raises(DatasetError, match=r"steps are missing within episodes of the frame before row 1 \(1 in all\)"):
        from_frame(frame, SCHEMA)
    split = from_frame(frame, change(gaps="split"))
    assert split.episode_lengths.tolist() == [1, 2, 1, 2]
    assert split.next_valid.tolist() == [False, True, False, False, True, False]
    assert from_frame(frame, change(gaps="allow")).fingerprint == expected().fingerprint
    seconds = pd.to_datetime(["2024-01-01", "2024-01-03", "2024-01-04", "2024-01-01", "2024-01-01", "2024-01-02"])
    assert from_frame(logs(t=seconds), SCHEMA).fingerprint == expected().fingerprint
    assert from_frame(logs(t=[0.5, 0.9, 1.7, 0, 0, 0.1]), SCHEMA).fingerprint == expected().fingerprint


def test_where_episodes_begin_without_an_episode_column() -> None:
    by_time = from_frame(logs(), change(episode=None))
    assert by_time.episode_lengths.tolist() == [3, 1, 2]
    by_flags = from_frame(logs(cut=[0, 0, 0, 1, 0, 0]), change(episode=None, timestep=None, truncated="cut"))
    assert by_flags.fingerprint == expected().fingerprint
    with pytest.raises(DatasetError, match="ends of the episodes are not known"):
        from_frame(logs(), change(episode=None, timestep=None))
    limited = from_frame(logs(done=[0] * 6), change(episode=None, timestep=None, horizon=2))
    assert limited.episode_lengths.tolist() == [2, 2, 2]
    with pytest.raises(DatasetError, match="set inside an episode in row 1"):
        from_frame(logs(done=[0, 1, 0, 0, 0, 0]), SCHEMA)


@pytest.mark.parametrize(
    "words", [["False", "false", "TRUE", "0", "no", "f"], [0, 0, 1, 0, 0, 0], [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]]
)
def test_flags_in_words_and_numbers(tmp_path: Path, words: list[Any]) -> None:
    assert from_frame(logs(done=words), SCHEMA).fingerprint == expected().fingerprint
    assert read_table(write_csv(logs(done=words), tmp_path), schema=SCHEMA).fingerprint == expected().fingerprint


NEXT = change(next_observations=("x2", "y2"))


def test_next_observations_known_and_unknown(tmp_path: Path) -> None:
    after = {"x2": [1.25, 2.0, 9.0, 8.0, 5.0, 7.0], "y2": [0.2, 0.3, 0.9, 0.8, 0.6, 0.7]}
    whole = from_frame(logs(**after), NEXT)
    assert whole.next_valid.all()
    assert whole.next_observations[:, 0].tolist() == after["x2"]
    assert whole.next_observations_override is None
    # Unknown inside an episode: the next row tells. Unknown after bob's only row: nothing does.
    after["x2"][1] = after["y2"][1] = after["x2"][3] = after["y2"][3] = np.nan  # type: ignore[assignment]
    for dataset in (from_frame(logs(**after), NEXT), read_table(write_csv(logs(**after), tmp_path), schema=NEXT)):
        assert dataset.next_valid.tolist() == [True, True, True, False, True, True]
        assert dataset.next_observations[[0, 1, 2, 4, 5], 0].tolist() == [1.25, 2.0, 9.0, 5.0, 7.0]
        assert dataset.num_frames == 8
    unknown = {"x2": [1.25, 2.0, np.nan, np.nan, 5.0, np.nan], "y2": [0.2, 0.3, np.nan, np.nan, 0.6, np.nan]}
    assert from_frame(logs(**unknown), NEXT).fingerprint == expected().fingerprint
    odd = {"x2": [77.0, 2.0, np.nan, 8.0, 5.0, 7.0], "y2": [0.2, 0.3, np.nan, 0.8, 0.6, 0.7]}
    partly = from_frame(logs(**odd), NEXT)
    assert partly.next_valid.tolist() == [True, True, False, True, True, True]
    assert partly.next_observations[[0, 1, 3, 4, 5], 0].tolist() == [77.0, 2.0, 8.0, 5.0, 7.0]


def test_further_columns_and_list_columns() -> None:
    frame = logs(c=range(6), lp=[-0.5] * 6, g=[[1.0, 2.0]] * 6, extra=range(6))
    frame["image"] = [np.full(4, row, np.uint8) for row in range(6)]
    schema = change(
        observations=("image",),
        observation_type="byte",
        observation_shape=(2, 2),
        cost="c",
        log_prob="lp",
        goals=("g",),
        infos=("extra",),
    )
    dataset = from_frame(frame, schema)
    assert dataset.observations.dtype == np.uint8
    assert dataset.observations.shape == (6, 2, 2)
    assert dataset.costs is not None
    assert dataset.goals is not None
    assert dataset.costs.tolist() == list(range(6))
    assert dataset.goals.shape == (6, 2)
    assert dataset.infos["extra"].tolist() == list(range(6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": [0, 1, None, 3, 4, 5]}, r"column 'x' has empty cells in row 2"),
        ({"r": [0, 1, np.inf, 3, 4, 5]}, r"'rewards' holds NaN or infinite values in row 2"),
        ({"x": list("abcdef")}, "column 'x' holds (large_)?string, not numbers"),
        ({"done": ["no"] * 5 + ["maybe"]}, r"neither true nor false in row 5[\s\S]*'maybe'"),
        ({"done": [0, 0, 2, 0, 0, 0]}, "other than 0 and 1 in row 2"),
        ({"who": ["ann", None, "ann", "bob", "cid", "cid"]}, "'who' has empty cells in row 1"),
        ({"t": [0, 1, None, 0, 0, 1]}, "'t' has empty cells in row 2"),
        ({"x": [[1.0], [1.0, 2.0]] * 3}, "different lengths"),
    ],
)
def test_cells_that_do_not_fit_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        from_frame(logs(**changes), SCHEMA)


def test_labels_that_are_unknown_are_named() -> None:
    content = yaml.safe_load(SCHEMA.to_yaml())
    content["actions"] = {"columns": ["a"], "type": "discrete", "labels": ["go", "stop"]}
    with pytest.raises(
        DatasetError, match=r"no label of the schema in rows 2, 4 \(2 in all\)[\s\S]*row 2 holds 'Stop'"
    ):
        from_frame(logs(a=["go", "stop", "Stop", "go", None, "go"]), content)


def test_files_that_are_no_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_csv(logs(), tmp_path)
    with pytest.raises(DatasetError, match=r"columns mean nothing yet[\s\S]*offbench data schema"):
        read_table(path)
    with pytest.raises(DatasetError, match="columns mean nothing yet"):
        read_table(write_parquet_file(logs(), tmp_path))
    with pytest.raises(UnknownNameError, match=r"unknown column of logs\.csv: 'done2'"):
        read_table(path, schema=change(terminated="done2"))
    path.write_text(path.read_text().replace("1.25", "fast"))
    with pytest.raises(DatasetError, match=r"logs\.csv cannot be read as a table[\s\S]*fast"):
        read_table(path, schema=SCHEMA)
    path.write_text("x,x,a\n1,2,3\n")
    with pytest.raises(DatasetError, match="several columns named x"):
        read_table(path, schema=SCHEMA)
    path.write_text("who,t,x,y,a,r,done\n")
    with pytest.raises(DatasetError, match="no rows"):
        read_table(path, schema=SCHEMA)
    monkeypatch.setattr("offbench.datasets.file_limits.SMALL", 2**20)
    with gzip.open(tmp_path / "bomb.csv.gz", "wt") as file:
        file.write("who,t,x,y,a,r,done\n" + "0,0,0,0,0,0,0\n" * 200_000)
    with pytest.raises(DatasetError, match="made to exhaust memory"):
        read_table(tmp_path / "bomb.csv.gz", schema=SCHEMA)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": "x"}, "two roles to x"),
        ({"observations": ()}, "no column for observations"),
        ({"next_observations": ("z",)}, "2 observation columns and 1 of the next"),
        ({"low": 1.0, "high": -1.0}, "box action of the table schema is not described"),
        ({"low": None}, "box action of the table schema is not described"),
        ({"action_type": "discrete"}, "discrete action"),
        ({"action_type": "binary"}, "unknown action type 'binary'"),
        ({"gaps": "spilt"}, "did you mean 'split'"),
        ({"episode": None, "sort": True}, "without an episode column"),
    ],
)
def test_schemas_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        change(**changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("observations: [x]\nrewards: r\n", "unknown key of the table schema 'rewards'"),
        ("observations: [x]\nreward: r\nactions: a\n", "does not describe the actions"),
        ("observations: [x]\nreward: r\nactions: {columns: a, typ: box}\n", "unknown key of actions 'typ'"),
        ("observations: [1]\nreward: r\nactions: {columns: a, type: discrete, n: 2}\n", "a column 1 for observations"),
        ("observations: [x]\nactions: {columns: a, type: discrete, n: 2}\n", "no column for reward"),
        ("- x\n- y\n", "not a mapping"),
        ("x: [\n", "cannot read the table schema"),
        ("!!python/object/apply:os.system [ls]\n", "cannot read the table schema"),
    ],
)
def test_yaml_that_is_no_schema(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        TableSchema.from_yaml(text)


names = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(st.lists(names, min_size=4, max_size=8, unique=True), st.data())
def test_yaml_round_trip(columns: list[str], data: st.DataObject) -> None:
    schema = TableSchema(
        observations=tuple(columns[:2]),
        actions=(columns[2],),
        action_type="discrete",
        labels=tuple(data.draw(st.lists(names, min_size=1, max_size=4, unique=True))),
        reward=columns[3],
        episode=columns[4] if len(columns) > 4 else None,
        infos=tuple(columns[5:]),
        sort=len(columns) > 4 and data.draw(st.booleans()),
        horizon=data.draw(st.none() | st.integers(1, 1000)),
        observation_type=data.draw(st.sampled_from(["number", "integer", "byte"])),
        notes=("a note",),
    )
    assert TableSchema.from_yaml(schema.to_yaml()) == schema


def test_inference(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "Episode ID": [1, 1, 2],
            "time_step": [0, 1, 0],
            **{f"obs_{i}": [0.5, 0.5, 1] for i in (0, 10, 2)},
            **{f"next_obs_{i}": [0.5, 0.5, 1] for i in (10, 0, 2)},
            "action": ["up", "down", "up"],
            "reward": [1, 2, 3],
            "done": [0, 1, 1],
            "operator": ["a", "b", "c"],
        }
    )
    frame.to_csv(tmp_path / "x.csv", index=False)
    schema = infer_schema(tmp_path / "x.csv")
    assert schema == infer_schema(frame)
    assert schema.observations == ("obs_0", "obs_2", "obs_10")
    assert schema.next_observations == ("next_obs_0", "next_obs_2", "next_obs_10")
    assert (schema.episode, schema.timestep, schema.terminated) == ("Episode ID", "time_step", "done")
    assert schema.labels == ("down", "up")
    text = schema.to_yaml()
    assert "# guess: 'done' is terminated; if it also marks time limits" in text
    assert "# not used: operator" in text
    assert TableSchema.from_yaml(text) == schema
    assert read_table(tmp_path / "x.csv", schema=text).num_episodes == 2


def test_what_inference_says_about_actions() -> None:
    whole = infer_schema(logs(a=[0, 3, 1, 0, 0, 0]))
    assert (whole.action_type, whole.choices) == ("discrete", 4)
    assert any("whole-numbered actions are choices" in note for note in whole.notes)
    assert infer_schema(logs(a=[True, False] * 3)).labels == (False, True)
    amounts = infer_schema(logs(a=[0, 3, -1, 0, 0, 0]))
    assert (amounts.action_type, amounts.low, amounts.high) == ("box", (-1.0,), (3.0,))
    assert any("smallest and largest values" in note for note in amounts.notes)
    assert whole.observations == ("x", "y")
    assert any("numeric columns that have no other name" in note for note in whole.notes)
    with pytest.raises(DatasetError, match="no column looks like reward"):
        infer_schema(logs(r=None))


def test_large_csv_files_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 20_000
    values = np.random.default_rng(0).normal(size=rows).astype(np.float32)
    frame = pd.DataFrame({"who": np.arange(rows) // 100, "t": np.arange(rows) % 100, "x": values, "y": values})
    frame = frame.assign(a=0.0, r=values, done=0)
    frame.to_csv(tmp_path / "x.csv", index=False)
    whole = read_table(tmp_path / "x.csv", schema=SCHEMA)
    monkeypatch.setattr("offbench.datasets.table_files.BLOCK", 2**14)
    assert read_table(tmp_path / "x.csv", schema=SCHEMA).fingerprint == whole.fingerprint
    np.testing.assert_array_equal(whole.rewards, values)
    assert whole.num_episodes == rows // 100


def test_parquet_with_categories_and_several_row_groups(tmp_path: Path) -> None:
    frame = logs()
    frame["who"] = pd.Categorical(frame["who"], categories=["cid", "bob", "ann"])
    table = pa.Table.from_pandas(frame)
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    assert read_table(tmp_path / "x.parquet", schema=SCHEMA).fingerprint == expected().fingerprint
