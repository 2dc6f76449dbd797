"""Make the pictures of docs/gallery.md: python docs/make_gallery.py [--output FOLDER]

Everything but the robustness curves is made from the published scores in docs/gallery_data. No public results per seed
were found for disturbed data, so those curves are simulated, and the gallery says so.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from offbench.analysis import ScoreTable, aggregate
from offbench.analysis.comparisons import improvement_matrix
from offbench.analysis.curves import learning_curve
from offbench.analysis.profiles import performance_profile
from offbench.analysis.ranks import friedman
from offbench.reports.plots import Plot
from offbench.reports.plots_curves import efficiency_plot, learning_curves, robustness_curves
from offbench.reports.plots_pairs import critical_difference_plot, improvement_matrix_plot
from offbench.reports.plots_profiles import profile_plot
from offbench.reports.plots_scores import interval_plot, seed_strips

DOCS = Path(__file__).parent
DATA = DOCS / "gallery_data"
LOCOMOTION = ("hopper", "halfcheetah", "walker2d")
LEVELS = ("medium", "medium-replay", "medium-expert")
CURVES = ("TD3+BC", "IQL", "CQL", "AWAC", "BCQ")


def rebrac(datasets: list[str] | None = None) -> ScoreTable:
    """Final scores of ReBRAC's repository: 4 algorithms, 10 seeds."""
    frame = pd.read_csv(DATA / "rebrac_d4rl_final.csv.gz").drop(columns="step")
    if datasets is not None:
        frame = frame[frame["dataset"].isin(datasets)]
    return ScoreTable.from_frame(frame)


def d3rlpy(algorithms: tuple[str, ...] = (), *, curves: bool = False) -> ScoreTable:
    """Scores of d3rlpy-benchmarks on the nine medium locomotion datasets (v0), 10 seeds."""
    frame = pd.read_csv(DATA / f"d3rlpy_d4rl_{'curves' if curves else 'final'}.csv.gz")
    datasets = [f"{robot}-{level}-v0" for level in LEVELS for robot in LOCOMOTION]
    frame = frame[frame["dataset"].isin(datasets)]
    if algorithms:
        frame = frame[frame["algorithm"].isin(algorithms)]
        frame = frame.iloc[pd.Categorical(frame["algorithm"], algorithms).argsort(kind="stable")]
    frame = frame.iloc[pd.Categorical(frame["dataset"], datasets).argsort(kind="stable")]
    return ScoreTable.from_frame(frame, step="step" if curves else None)


def disturbed() -> pd.DataFrame:
    """Simulated scores at five rates of corruption, 8 seeds."""
    rng = np.random.default_rng(0)
    levels = {"A": (92, 1.4), "B": (84, 0.55), "C": (70, 0.25)}
    rows = []
    for dataset, factor in (("hopper", 1.0), ("walker2d", 0.8), ("halfcheetah", 0.5)):
        for algorithm, (top, loss) in levels.items():
            for rate in (0.0, 0.1, 0.2, 0.3, 0.5):
                mean = factor * top * np.exp(-loss * rate * 4 * factor)
                for seed in range(8):
                    score = mean + rng.normal(0, 3 + 10 * rate)
                    rows.append((f"method {algorithm}", f"{dataset} (simulated)", seed, rate, score))
    return pd.DataFrame(rows, columns=["algorithm", "dataset", "seed", "corruption rate", "score"])


def figures() -> dict[str, Plot | None]:
    """Every picture by its file name."""
    authors, library = rebrac(), d3rlpy()
    shared = [name for name in authors.common_datasets() if "medium" in name]
    simulated = disturbed()
    profiles = [performance_profile(authors, kind=kind) for kind in ("scores", "averages")]
    return {
        "intervals": interval_plot(aggregate(library), library.algorithms),
        "profiles": profile_plot(profiles, authors.algorithms, unit="normalized score"),
        "profiles_nonlinear": profile_plot(profiles, authors.algorithms, unit="normalized score", nonlinear=True),
        "improvement": improvement_matrix_plot(improvement_matrix(authors), authors.algorithms),
        "improvement_many": improvement_matrix_plot(improvement_matrix(library, reps=2000), library.algorithms),
        "ranks": critical_difference_plot(friedman(authors), authors.algorithms),
        "ranks_many": critical_difference_plot(friedman(library, cliques_by="nemenyi"), library.algorithms),
        "efficiency": efficiency_plot(
            learning_curve(d3rlpy(CURVES, curves=True)), list(CURVES), unit="normalized score"
        ),
        "curves": learning_curves(d3rlpy(CURVES, curves=True)),
        "robustness": robustness_curves(
            simulated,
            list(simulated["algorithm"].unique()),
            severity="corruption rate",
            unit="normalized score",
        ),
        "strips": seed_strips(rebrac(shared)),
    }


def write(plot: Plot, path: Path) -> None:
    """A PNG with few colours, which is a third of the size and looks the same."""
    picture = Image.open(io.BytesIO(plot.render("png"))).convert("RGB")
    picture.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=DOCS / "images" / "gallery")
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for name, plot in figures().items():
        if plot is not None:
            write(plot, output / f"{name}.png")


if __name__ == "__main__":
    main()
