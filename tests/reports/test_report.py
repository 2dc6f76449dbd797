"""Plots and the written report: deterministic, self-contained, complete, and honest about what is missing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from offbench.analysis import ScoreError, ScoreTable, aggregate
from offbench.errors import StorageError
from offbench.reports import write_report
from offbench.reports.plots import PALETTE, algorithm_styles, thousands
from offbench.reports.plots_curves import curve_statistics, learning_curves
from offbench.reports.plots_scores import interval_plot


def results(
    seeds: int = 3, evaluations: int = 3, datasets: tuple[str, ...] = ("hopper/medium", "maze")
) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {
            "algorithm": algorithm,
            "dataset": dataset,
            "seed": seed,
            "step": 1000 * step,
            "episode": episode,
            "return": 100.0 * step + rng.normal(0, 30),
            "length": 200,
            "final": step == evaluations,
            "updates": 1000 * evaluations,
            "environment": "Hopper-v5",
            "run": f"{algorithm}-{dataset}-{seed}",
        }
        for algorithm in ("bc", "<TD3&BC>")
        for dataset in datasets
        for seed in range(seeds)
        for step in range(1, evaluations + 1)
        for episode in range(2)
    ]
    return pd.DataFrame(rows).assign(score=lambda frame: frame["return"] / 10)


def report(directory: Path, frame: pd.DataFrame, **options: Any) -> Any:
    return write_report(frame, directory, title="A <study>", reps=200, **{"formats": ("svg",), **options})


class Checker(HTMLParser):
    """Balanced tags, unique ids, and what a browser would load."""

    void = frozenset({"meta", "link", "img", "br", "hr", "input", "path", "use", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"src", "href", "xlink:href", "srcset", "data", "poster"}:
                self.loads.append(value or "")
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag


def test_page_is_self_contained_well_formed_and_escaped(tmp_path: Path) -> None:
    page = report(tmp_path, results(), protocol={"updates": 3000, "nested": {"key": "<b>"}}).html.read_text("utf-8")
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    assert all(load.startswith("#") for load in checker.loads)
    assert {load[1:] for load in checker.loads} <= set(checker.ids)
    assert not checker.tags & {"link", "iframe", "img", "metadata"}
    assert page.count("<script>") == 1  # our own, inline; nothing with a src (see `loads`)
    assert not re.search(r"@import|url\((?!#)", page)
    assert {url for url in re.findall(r'https?://[^"\s<]+', page)} <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "A &lt;study&gt;" in page
    assert "&lt;TD3&amp;BC&gt;" in page
    assert "<TD3" not in page
    assert "nested.key" in page


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    formats = ("png", "svg", "pdf")
    first = report(tmp_path / "a", results(), formats=formats)
    second = report(tmp_path / "b", results(), formats=formats)
    assert len(first.paths) > 20
    for one, two in zip(first.paths, second.paths, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
        assert one.relative_to(tmp_path / "a") == two.relative_to(tmp_path / "b")
    assert not list(tmp_path.rglob("*.part"))


def test_scores_csv_has_one_traceable_row_per_run(tmp_path: Path) -> None:
    frame = results()
    scores = pd.read_csv(report(tmp_path, frame).scores)
    assert len(scores) == 12
    row = scores.iloc[0]
    own = frame[(frame["run"] == row["run"]) & frame["final"]]
    assert row["score"] == pytest.approx(own["score"].mean(), abs=1e-12)
    assert row["episodes"] == 2


def test_warnings_reach_page_and_markdown(tmp_path: Path) -> None:
    frame = results(seeds=2)
    frame.loc[frame["dataset"] == "maze", "score"] = np.nan
    files = report(tmp_path, frame, incomplete=["bc on maze, seed 9"], selection="best")
    assert {"incomplete", "best", "few-seeds", "no-reference"} <= {notice.code for notice in files.notices}
    for text in (files.markdown.read_text("utf-8"), files.html.read_text("utf-8")):
        assert "bc on maze, seed 9" in text
        assert "chosen with the simulator" in text
        assert "maze (return)" in text


def test_study_that_has_just_started_still_gives_a_report(tmp_path: Path) -> None:
    files = report(tmp_path, results().assign(final=False))
    assert "unfinished" in {notice.code for notice in files.notices}
    with pytest.raises(ScoreError, match="table is empty"):
        report(tmp_path, results().head(0))


def test_run_whose_return_is_not_finite_is_left_out_and_named(tmp_path: Path) -> None:
    frame = results()
    frame.loc[(frame["run"] == "bc-maze-1") & frame["final"], ["return", "score"]] = np.nan
    files = report(tmp_path, frame)
    assert any("bc on maze, seed 1" in notice.text for notice in files.notices if notice.code == "not-finite")
    assert len(pd.read_csv(files.scores)) == 11
    with pytest.raises(ScoreError, match="not a finite number"):
        ScoreTable.from_runs(frame)


def test_plots_without_content_are_left_out_and_old_ones_removed(tmp_path: Path) -> None:
    assert set(report(tmp_path, results(), formats=("png", "svg")).figures["curves"]) == {"png", "svg"}
    files = report(tmp_path, results(evaluations=1))
    assert "curves" not in files.figures
    assert not (tmp_path / "figures" / "curves.png").exists()
    assert "<h2>Learning curves" not in files.html.read_text("utf-8")
    scores = pd.DataFrame({"algorithm": ["a", "a"], "dataset": "d", "seed": [0, 1], "score": [1.0, 2.0]})
    assert "curves" not in report(tmp_path, scores).figures


def test_unwritable_directory_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        report(tmp_path / "file", results())


def test_curves_show_mean_and_student_interval() -> None:
    frame = curve_statistics(ScoreTable.from_runs(results()))
    row = frame[(frame["algorithm"] == "bc") & (frame["dataset"] == "maze") & (frame["step"] == 3000)].iloc[0]
    cell = ScoreTable.from_runs(results()).cell("bc", "maze")
    half = 4.302652729911275 * cell.std(ddof=1) / np.sqrt(3)
    assert (row["mean"], row["low"], row["high"]) == pytest.approx(
        (cell.mean(), cell.mean() - half, cell.mean() + half)
    )


@pytest.mark.parametrize("panels", [1, 2, 4, 5, 12])
def test_text_of_learning_curves_does_not_overlap(panels: int) -> None:
    names = tuple(f"antmaze-large-diverse-with-a-long-name-v{i}" for i in range(panels))
    plot = learning_curves(ScoreTable.from_runs(results(datasets=names)), behaviour=dict.fromkeys(names, 20.0))
    assert plot is not None
    figure = plot.figure
    figure.canvas.draw()
    boxes = [ax.get_tightbbox() for ax in figure.axes if ax.axison] + [figure.legends[0].get_window_extent()]
    for i, one in enumerate(boxes):
        assert one is not None
        assert one.x0 >= -1
        assert one.x1 <= figure.bbox.x1 + 1
        assert one.y1 <= figure.bbox.y1 + 1
        for other in boxes[i + 1 :]:
            assert other is not None
            # Two boxes may touch by a pixel of rounding, not overlap.
            assert not one.padded(-2).overlaps(other.padded(-2))


def test_plots_leave_matplotlib_settings_alone() -> None:
    before = dict(mpl.rcParams)
    table = ScoreTable.from_runs(results())
    plot = interval_plot(aggregate(table, reps=50), table.algorithms)
    assert plot is not None
    assert plot.render("png").startswith(b"\x89PNG")
    assert b"<dc:date>" not in plot.render("svg")
    assert dict(mpl.rcParams) == before


def test_styles_are_distinct_and_stay_with_their_algorithm() -> None:
    names = [f"a{i}" for i in range(2 * len(PALETTE))]
    styles = algorithm_styles(names)
    assert len({(s.color, str(s.dashes), s.marker) for s in styles.values()}) == len(names)
    assert algorithm_styles(names[:3])["a2"] == styles["a2"]
    assert [thousands(v) for v in (0, 500, 20_000, 1_500_000)] == ["0", "500", "20k", "1.5M"]
