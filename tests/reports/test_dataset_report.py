"""The report of a dataset: verdict, measures, plane, card and lint on one page; planes coloured by scores."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gymnasium.spaces import Discrete
from typer.testing import CliRunner, Result

from offbench.analysis.quality import measure_datasets, paper_reference
from offbench.analysis.verdict import verdict
from offbench.cli import app
from offbench.datasets import Dataset, write_minari
from offbench.errors import StorageError
from offbench.reports.dataset_report import number_text, write_dataset_report
from offbench.reports.plots_quality import quality_plane, score_planes
from tests.analysis.test_verdict import calibration

MEASURES = ["tq", "saco", "rpsv", "state_entropy", "policies", "eas"]


def walk(seed: int, scale: float = 1.0, name: str = "walk") -> Dataset:
    rng = np.random.default_rng(seed)
    ends = np.arange(1, 501) % 50 == 0
    return Dataset.from_arrays(
        observations=(rng.normal(size=(500, 2)) * scale).astype(np.float32),
        actions=rng.integers(0, 2, 500),
        rewards=np.full(500, 1.0 + seed),
        terminated=ends,
        truncated=np.zeros(500, bool),
        action_space=Discrete(2),
        name=name,
    )


class Page(HTMLParser):
    """Texts, open tags and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_page_holds_verdict_measures_plane_card_and_lint(tmp_path: Path) -> None:
    narrow, wide = walk(0, name="narrow <one>"), walk(1, 10.0, "wide")
    reference = paper_reference(replay=wide, online_maximum=60.0)
    reference.minimum, reference.minimum_source = 40.0, "given"
    table = measure_datasets([narrow], measures=MEASURES, reference=reference, settings="paper")
    values = table.datasets[0].values
    read = verdict(table.datasets[0], calibration())
    plane = quality_plane({"narrow": (values["tq"], values["saco"])})
    assert plane is not None
    file = write_dataset_report(
        narrow, tmp_path / "deep" / "page.html", table=table, verdict=read, plots={"plane": plane}
    )
    source = file.read_text(encoding="utf-8")
    page = Page(source)
    assert page.open == []
    assert not [address for address in page.addresses if not address.startswith("#")]
    assert "<script" not in source
    assert "narrow <one>" in page.text  # escaped in the source, or it would be a tag
    assert read.headline in page.text
    for sentence in (*read.claims, *read.unknown):
        assert sentence.text in page.text
        assert all(item.source in page.text for item in sentence.evidence)
    assert "at or above" in page.text
    assert "right for 16" in page.text
    assert number_text(values["saco"]) in page.text
    assert "Not measured: EAS (actions are choices: see BC entropy)" in page.text
    for part in ("Verdict", "Measures", "Identity", "Findings", "Observations", "Licence"):
        assert re.search(rf"<h2>{part}", source), part
    assert "a return of 40 (given)" in page.text
    assert source.count("<svg") == 3  # the plane and two histograms


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    data = walk(0)
    table = measure_datasets([data], measures=["rpsv"], settings="paper")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write_dataset_report(
            data, tmp_path / "file" / "x.html", table=table, verdict=verdict(table.datasets[0], None), plots={}
        )


# -- planes coloured by scores ---------------------------------------------------------------------


POINTS = {"a/low": (0.0, 0.6), "a/high": (1.0, 0.4), "a/none": (math.nan, 1.0)}


def test_every_algorithm_has_a_panel_and_a_point_its_score() -> None:
    scores = {"BC": {"a/low": 3.0, "a/high": 97.6}, "CQL": {"a/low": 120.0}}
    plot, again = score_planes(POINTS, scores), score_planes(POINTS, scores)
    assert plot is not None
    assert again is not None
    assert plot.render("svg") == again.render("svg")
    panels = {ax.get_title(): ax for ax in plot.figure.axes if ax.get_title()}
    assert list(panels) == ["BC", "CQL"]
    drawn = {
        name: {tuple(line.get_xydata()[0]): line for line in ax.lines if line.get_marker() not in ("None", "")}
        for name, ax in panels.items()
    }
    for lines in drawn.values():
        assert set(lines) == {(0.6, 0.0), (0.4, 1.0)}
    low, high = (drawn["BC"][spot].get_markerfacecolor() for spot in ((0.6, 0.0), (0.4, 1.0)))
    assert sum(low[:3]) < sum(high[:3])  # viridis goes from dark to light
    assert drawn["CQL"][(0.4, 1.0)].get_markerfacecolor() == "none"
    assert [text.get_text() for text in panels["BC"].texts] == ["3", "98"]
    assert score_planes(POINTS, {"BC": {"a/none": 3.0}}) is None


def test_many_datasets_and_raw_returns_are_drawn_without_names() -> None:
    points = {f"set {i}": (i / 40, 1 - i / 40) for i in range(40)}
    plot = score_planes(points, {"BC": {name: -200.0 + i for i, name in enumerate(points)}}, unit="raw return")
    assert plot is not None
    assert not plot.figure.axes[0].texts
    assert plot.figure.axes[-1].get_ylim() == (-200.0, -161.0)
    assert "raw return" in plot.caption


# -- the command -----------------------------------------------------------------------------------


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["quality", *arguments], env={"COLUMNS": "80"})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("data")
    return {
        name: str(write_minari(walk(seed, 1.0 + 9 * seed, name), root, f"{name}-v0"))
        for seed, name in enumerate(("narrow", "wide"))
    }


def test_the_command_writes_the_page_and_colours_the_plane(files: dict[str, str], tmp_path: Path) -> None:
    scores = tmp_path / "scores.csv"
    names = [json.loads(invoke(path, "-m", "tq", "--json").stdout)["datasets"][0]["name"] for path in files.values()]
    rows = [(algorithm, name, seed, 10.0 * seed) for algorithm in ("BC", "DQN") for name in names for seed in (1, 2)]
    pd.DataFrame(rows, columns=["algorithm", "dataset", "seed", "score"]).to_csv(scores, index=False)
    against = ["--reference", files["wide"], "--random", files["narrow"], "--maximum", "150", "-m", "tq,saco,rpsv"]
    done = invoke(
        files["narrow"], *against, "--results", str(scores), "--html", str(tmp_path / "r.html"), "-o",
        str(tmp_path / "out"), "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["verdicts"][0]["headline"]
    assert [Path(file).name for file in record["files"]][2:] == [
        *("tq_saco.png", "tq_saco.svg", "tq_saco_scores.png", "tq_saco_scores.svg", "r.html"),
    ]
    source = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert source.count("<figure>") == 2
    assert "normalized score" in source


def test_the_verdict_is_printed_and_wrong_calls_are_refused(files: dict[str, str], tmp_path: Path) -> None:
    done = invoke(files["narrow"], "-m", "tq,rpsv", "--verdict")
    assert done.exit_code == 0, done.output
    assert "Unknown TQ, unknown SACo" in done.stdout
    assert "Not known" in done.stdout
    refused = invoke(*files.values(), "--html", str(tmp_path / "x.html"))
    assert refused.exit_code == 2
    assert "2 are given" in refused.stderr
    other = tmp_path / "other.csv"
    pd.DataFrame({"algorithm": ["BC"], "dataset": ["else"], "seed": [0], "score": [1.0]}).to_csv(other, index=False)
    assert "no scores of these datasets" in invoke(files["narrow"], "-m", "tq", "--results", str(other)).stderr
