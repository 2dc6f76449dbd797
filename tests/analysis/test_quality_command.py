"""The command `offbench quality` and its picture: the paper's values by construction, JSON, files, clear refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gymnasium.spaces import Discrete
from typer.testing import CliRunner, Result

from offbench.cli import app
from offbench.datasets import Dataset, write_minari
from offbench.reports.plots_quality import quality_plane, short_names


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["quality", *arguments], env={"COLUMNS": "80"})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two small datasets on disk: of a narrow and of a wide random walk."""
    root, paths = tmp_path_factory.mktemp("data"), {}
    for seed, name in enumerate(("narrow", "wide")):
        rng = np.random.default_rng(seed)
        ends = np.arange(1, 501) % 50 == 0
        dataset = Dataset.from_arrays(
            observations=(rng.normal(size=(500, 2)) * (1 + 9 * seed)).astype(np.float32),
            actions=rng.integers(0, 2, 500),
            rewards=np.full(500, 1.0 + seed),
            terminated=ends,
            truncated=np.zeros(500, bool),
            action_space=Discrete(2),
            name=name,
        )
        paths[name] = str(write_minari(dataset, root, f"{name}-v0"))
    return paths


def test_the_record_says_what_was_measured_against_what(files: dict[str, str], tmp_path: Path) -> None:
    against = ["--reference", files["wide"], "--random", files["narrow"], "--maximum", "150"]
    done = invoke(files["narrow"], files["wide"], *against, "-m", "tq,saco", "-o", str(tmp_path / "out"), "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    narrow, wide = (row["values"] for row in record["datasets"])
    assert narrow["tq"] == 0
    assert wide["tq"] == pytest.approx((100 - 50) / (150 - 50))
    assert wide["saco"] == 1
    assert 0 < narrow["saco"] < 1
    assert record["preset"] == "paper"
    assert (record["reference"]["minimum"], record["reference"]["maximum"]) == (50, 150)
    assert [Path(file).name for file in record["files"]] == [
        "quality.json",
        "quality.parquet",
        "tq_saco.png",
        "tq_saco.svg",
    ]
    frame = pd.read_parquet(tmp_path / "out" / "quality.parquet")
    assert frame["saco"].tolist() == [narrow["saco"], 1]
    assert (tmp_path / "out" / "tq_saco.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_fits_the_window_and_explains_what_is_missing(files: dict[str, str]) -> None:
    done = invoke(files["narrow"], files["wide"])
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "no reference dataset is given" in " ".join(done.stdout.split())
    assert "unique pairs" in done.stdout


def test_what_cannot_be_measured_is_refused(files: dict[str, str]) -> None:
    assert "no dataset is given" in invoke().stderr
    assert "saco" in invoke(files["wide"], "-m", "sacco").stderr
    assert invoke(files["wide"], "--bounds", "mine").exit_code == 2
    assert invoke(files["wide"], "--preset", "papr").exit_code == 2


def test_measures_are_listed_with_their_definitions() -> None:
    listed = json.loads(invoke("--list", "--json").stdout)
    saco = next(measure for measure in listed if measure["name"] == "saco")
    assert saco["formula"].startswith("u(D) / u(D_ref)")
    assert "tq" in invoke("--list").stdout


def test_the_plane_places_every_dataset_and_names_those_it_cannot() -> None:
    points = {"a/low": (0.0, 0.6), "a/high": (1.0, 0.4), "a/same": (1.0, 0.4), "a/none": (math.nan, 1.0)}
    plot = quality_plane(points)
    assert plot is not None
    (ax,) = plot.figure.axes
    drawn = {tuple(line.get_xydata()[0]) for line in ax.lines if line.get_marker() != "None"}
    assert drawn == {(0.6, 0.0), (0.4, 1.0)}
    texts = [text for text in ax.texts if text.get_text()]
    assert sorted(text.get_text() for text in texts) == ["high", "low", "same"]
    boxes = [text.get_window_extent() for text in texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert "a/none" in plot.caption
    assert plot.render("svg") == quality_plane(points).render("svg")  # type: ignore[union-attr]
    assert quality_plane({"a": (math.nan, 1.0)}) is None


def test_short_names_drop_only_what_all_share() -> None:
    assert short_names(["cartpole/random", "cartpole/expert"]) == ("cartpole", ["random", "expert"])
    assert short_names(["cartpole/random", "hopper/random"]) == ("", ["cartpole/random", "hopper/random"])
    assert short_names(["cartpole/random"]) == ("", ["cartpole/random"])
