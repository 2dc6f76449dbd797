"""Figures: sizes and fonts for a paper, the same style for an algorithm everywhere, text that does not overlap."""

from __future__ import annotations

import re
import zlib

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from offbench.analysis import ScoreTable, aggregate
from offbench.analysis.comparisons import improvement_matrix
from offbench.analysis.curves import learning_curve
from offbench.analysis.profiles import performance_profile
from offbench.analysis.ranks import friedman
from offbench.reports.plots import COLUMN_WIDTH, TEXT_WIDTH, Plot, algorithm_styles
from offbench.reports.plots_curves import efficiency_plot, robustness_curves, severity_table
from offbench.reports.plots_pairs import critical_difference_plot, improvement_matrix_plot
from offbench.reports.plots_profiles import profile_plot
from offbench.reports.plots_scores import interval_plot, seed_strips


def table(algorithms: int = 4, datasets: int = 5, seeds: int = 4) -> ScoreTable:
    rng = np.random.default_rng(0)
    rows = [
        (f"algorithm {a}", f"hopper-medium-number-{d}-v2", s, 20.0 * a + rng.normal(0, 8))
        for a in range(algorithms)
        for d in range(datasets)
        for s in range(seeds)
    ]
    return ScoreTable.from_frame(pd.DataFrame(rows, columns=["algorithm", "dataset", "seed", "score"]))


def disturbed() -> pd.DataFrame:
    rows = [
        (a, "d", seed, rate, level - slope * rate + seed)
        for a, level, slope in (("algorithm 0", 80.0, 100.0), ("algorithm 1", 60.0, 20.0))
        for rate in (0.0, 0.2, 0.6)
        for seed in range(3)
    ]
    return pd.DataFrame(rows, columns=["algorithm", "dataset", "seed", "rate", "score"])


def curves(algorithms: int = 4) -> ScoreTable:
    rows = table(algorithms).rows[["algorithm", "dataset", "seed", "score"]]
    steps = [rows.assign(step=1000 * k, score=rows["score"] * k / 5) for k in range(1, 6)]
    return ScoreTable.from_frame(pd.concat(steps, ignore_index=True), step="step")


def every_figure(algorithms: int = 4) -> dict[str, Plot]:
    scores = table(algorithms)
    names = scores.algorithms
    found = {
        "intervals": interval_plot(aggregate(scores, reps=100), names),
        "strips": seed_strips(scores),
        "profiles": profile_plot([performance_profile(scores, reps=100)], names, unit="score"),
        "nonlinear": profile_plot([performance_profile(scores, reps=100)], names, nonlinear=True),
        "improvement": improvement_matrix_plot(improvement_matrix(scores, reps=100), names),
        "ranks": critical_difference_plot(friedman(scores), names),
        "nemenyi": critical_difference_plot(friedman(scores, cliques_by="nemenyi"), names),
        "robustness": robustness_curves(disturbed(), names, severity="rate"),
        "efficiency": efficiency_plot(learning_curve(curves(algorithms), reps=100), names, unit="score"),
    }
    return {name: plot for name, plot in found.items() if plot is not None}


@pytest.mark.parametrize("algorithms", [3, 11])
def test_widths_are_those_of_a_column_or_the_text_and_nothing_is_cut(algorithms: int) -> None:
    for name, plot in every_figure(algorithms).items():
        figure = plot.figure
        assert figure.get_figwidth() in (COLUMN_WIDTH, TEXT_WIDTH), name
        figure.canvas.draw()
        tight = figure.get_tightbbox()
        assert tight.x0 >= -0.02, name
        assert tight.y0 >= -0.02, name
        assert tight.x1 <= figure.get_figwidth() + 0.02, name
        assert tight.y1 <= figure.get_figheight() + 0.02, name
        texts = [t for t in figure.findobj(mpl.text.Text) if t.get_text() and t.get_visible()]
        assert min(t.get_fontsize() for t in texts) >= 6.0, name


def test_an_algorithm_has_one_style_in_all_figures() -> None:
    style = algorithm_styles(table().algorithms)["algorithm 2"]
    figures = every_figure()
    intervals = figures["intervals"].figure.axes[0]
    order = [label.get_text() for label in intervals.get_yticklabels()]
    points = {round(line.get_ydata()[0]): line for line in intervals.lines}
    point = points[order.index("algorithm 2")]
    assert (to_hex(point.get_color()).upper(), point.get_marker()) == (style.color.upper(), style.marker)
    ranks = [line for line in figures["ranks"].figure.axes[0].lines if line.get_marker() == style.marker]
    assert [to_hex(line.get_color()).upper() for line in ranks] == [style.color.upper()]
    curve = figures["profiles"].figure.axes[0].lines[2]
    assert to_hex(curve.get_color()).upper() == style.color.upper()


def test_efficiency_draws_the_iqm_at_every_step() -> None:
    scores = curves()
    line = efficiency_plot(learning_curve(scores, reps=100), scores.algorithms).figure.axes[0].lines[2]
    runs = scores.curves
    assert runs is not None
    at = runs[(runs["algorithm"] == "algorithm 2") & (runs["step"] == 3000)]["score"].sort_values().to_numpy()
    assert line.get_ydata()[2] == pytest.approx(at[len(at) // 4 : len(at) - len(at) // 4].mean())


def test_pdf_embeds_truetype_fonts_and_no_date() -> None:
    pdf = every_figure()["intervals"].render("pdf")
    plain = b"".join(
        zlib.decompress(stream) if stream[:1] == b"x" else stream
        for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    )
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf + plain
    assert b"CreationDate" not in pdf + plain


def test_matrix_prints_the_probabilities_and_brackets_what_is_undecided() -> None:
    scores = table(3, datasets=2, seeds=3)
    pairs = improvement_matrix(scores, reps=500)
    plot = improvement_matrix_plot(pairs, scores.algorithms)
    assert plot is not None
    shown = sorted(text.get_text() for text in plot.figure.axes[0].texts)
    expected = sorted(f"({p.point:.2f})" if p.low <= 0.5 <= p.high else f"{p.point:.2f}" for p in pairs.itertuples())
    assert shown == expected


def test_robustness_in_numbers() -> None:
    numbers = severity_table(disturbed(), "rate").set_index("algorithm").loc["algorithm 0"]
    assert numbers["at_lowest"] == pytest.approx(81.0)
    assert numbers["area"] == pytest.approx(51.0)  # a straight line from 81 to 21
    assert (numbers["worst"], numbers["worst_at"]) == (pytest.approx(21.0), 0.6)
    assert numbers["retained"] == pytest.approx(21 / 81)
    one_level = disturbed().query("rate == 0")
    assert robustness_curves(one_level, ["algorithm 0"], severity="rate") is None


def test_nothing_to_show_is_no_figure() -> None:
    single = table(2, 1, 1)
    assert seed_strips(single) is None
    assert profile_plot([], []) is None
    assert improvement_matrix_plot(pd.DataFrame(), []) is None
