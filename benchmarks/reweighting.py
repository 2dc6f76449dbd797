"""Does reweighting help? IQL and TD3+BC on mixtures of much random and little expert data, by sampling weights.

    python benchmarks/reweighting.py --data path/to/files --poor hopper-random --good hopper-expert \
        --environment Hopper-v4 --shares 0.1 --output runs

The folder holds files in D4RL's layout, POOR.hdf5 and GOOD.hdf5. The mixtures are those of Hong et al. 2023 (transform
`imbalanced_mix`, seed 0); they are written to the output folder once, and every weighting draws from the same file. The
same command resumes what was interrupted. It prints a table in Markdown: mean final score over seeds with a Student-t
interval, and the difference from uniform sampling with Welch's interval. --figure writes the learning curves.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from offbench import Suite, load_dataset, load_results, run_suite
from offbench.analysis.aggregates import t_interval
from offbench.analysis.pairwise_tests import welch
from offbench.analysis.student_t import t_quantile
from offbench.datasets import write_d4rl
from offbench.datasets.transforms import apply_transforms

WEIGHTINGS: dict[str, list[dict[str, Any]]] = {
    "uniform": [],
    "RW": [{"reweight": {"method": "rw"}}],
    "AW": [{"reweight": {"method": "aw"}}],
    "PF": [{"reweight": {"method": "pf"}}],
}
SMALL = {"hidden": [64, 64]}
ALGORITHMS = [
    {
        "name": "td3_bc",
        "label": "TD3+BC",
        "config": {**SMALL, "actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3},
    },
    {
        "name": "iql",
        "label": "IQL",
        "config": {**SMALL, "learning_rate": 1e-3},
        # Its temperature is meant for rewards scaled by the range of returns (Kostrikov et al., locomotion).
        "preprocessing": {"observations": "standardize", "rewards": "return_range"},
    },
]


def mixture(options: argparse.Namespace, share: float) -> Path:
    """The file of a mixture, written if it is not there."""
    path = Path(options.output) / "mixtures" / f"{options.good}-{100 * share:g}-in-{options.poor}.hdf5"
    if not path.exists():
        good = load_dataset(Path(options.data) / f"{options.good}.hdf5", environment=options.environment)
        poor = load_dataset(Path(options.data) / f"{options.poor}.hdf5", environment=options.environment)
        mixed = apply_transforms(good, [{"imbalanced_mix": {"other": poor, "share": share}}])
        write_d4rl(mixed.replace(name=path.stem), path)
    return path


def suite(options: argparse.Namespace) -> Suite:
    """The study: every mixture under every weighting."""
    datasets = [
        {
            "id": mixture(options, share).as_posix(),
            "label": f"{100 * share:g}% {weighting}",
            "environment": options.environment,
            "transforms": WEIGHTINGS[weighting],
        }
        for share in options.shares
        for weighting in options.weightings
    ]
    return Suite(
        name=f"reweighting-{options.poor}",
        datasets=datasets,
        algorithms=[entry for entry in ALGORITHMS if entry["name"] in options.algorithms],
        seeds=options.seeds,
        preprocessing={"observations": "standardize"},
        protocol={
            "updates": options.updates,
            "batch_size": options.batch_size,
            "evaluate_every": max(1, options.updates // 5),
            "evaluation_episodes": 3,
            "final_episodes": 20,
        },
    )


def welch_interval(first: np.ndarray, second: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Interval of mean(first) - mean(second), unequal variances."""
    found = welch(first, second)
    error = math.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second))
    half = t_quantile(0.5 + level / 2, found.df) * error
    difference = float(first.mean() - second.mean())
    return difference - half, difference + half


def final_scores(results: pd.DataFrame) -> dict[tuple[str, str], np.ndarray]:
    """(algorithm, dataset) -> one score per seed, the mean over the episodes of the last evaluation."""
    final = results[results["final"]]
    per_seed = final.groupby(["algorithm", "dataset", "seed"], sort=False)["score"].mean()
    return {cell: scores.to_numpy() for cell, scores in per_seed.groupby(level=[0, 1], sort=False)}


def table(options: argparse.Namespace, scores: dict[tuple[str, str], np.ndarray]) -> str:
    """Rows of algorithm, share and weighting in Markdown."""
    lines = [
        "| algorithm | expert share | weighting | score [95 % interval] | minus uniform [95 % interval] | seeds |",
        "|---|---:|---|---:|---:|---|",
    ]
    for algorithm in [entry["label"] for entry in ALGORITHMS]:
        for share in options.shares:
            uniform = scores.get((algorithm, f"{100 * share:g}% uniform"))
            for weighting in options.weightings:
                found = scores.get((algorithm, f"{100 * share:g}% {weighting}"))
                if found is None:
                    continue
                low, high = t_interval(found)
                difference = ""
                if uniform is not None and weighting != "uniform" and min(len(found), len(uniform)) > 1:
                    bounds = welch_interval(found, uniform)
                    difference = f"{found.mean() - uniform.mean():+.1f} [{bounds[0]:.1f}, {bounds[1]:.1f}]"
                each = ", ".join(f"{score:.1f}" for score in found)
                lines.append(
                    f"| {algorithm} | {100 * share:g} % | {weighting} | {found.mean():.1f} [{low:.1f}, {high:.1f}] "
                    f"| {difference} | {each} |"
                )
    return "\n".join(lines)


def as_sampled(options: argparse.Namespace) -> str:
    """What each weighting makes of each mixture, in Markdown."""
    lines = [
        "| expert share | weighting | draws from expert episodes | effective transitions | mean return as sampled |",
        "|---:|---|---:|---:|---:|",
    ]
    for share in options.shares:
        data = load_dataset(mixture(options, share), environment=options.environment)
        for weighting in options.weightings:
            weighted = apply_transforms(
                data, [*WEIGHTINGS[weighting], *([] if WEIGHTINGS[weighting] else ["reweight(method=uniform)"])]
            )
            measured = weighted.provenance.transforms[-1].parameters["measured"]
            good = weighted.sampling_weights[weighted.infos["mix/good"].astype(bool)].sum()
            lines.append(
                f"| {100 * share:g} % | {weighting} | {100 * good:.1f} % "
                f"| {measured['effective_transitions']:,.0f} | {measured['mean_return']:,.0f} |"
            )
    return "\n".join(lines)


def draw(results: pd.DataFrame, path: Path) -> None:
    """Write learning curves: a panel per algorithm and mixture, a line per weighting."""
    from offbench.analysis import ScoreTable
    from offbench.reports.plots_curves import learning_curves

    parts = results["dataset"].str.split("% ", expand=True)
    relabelled = results.assign(dataset=results["algorithm"] + ", " + parts[0] + "% expert", algorithm=parts[1])
    plot = learning_curves(ScoreTable.from_runs(relabelled))
    if plot is not None:
        path.write_bytes(plot.render("png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--poor", default="hopper-random")
    parser.add_argument("--good", default="hopper-expert")
    parser.add_argument("--environment", default="Hopper-v4")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1])
    parser.add_argument("--weightings", nargs="+", default=list(WEIGHTINGS), choices=list(WEIGHTINGS))
    parser.add_argument("--algorithms", nargs="+", default=["td3_bc", "iql"], choices=["td3_bc", "iql"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=15_000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--output", default="runs")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    study = suite(options)
    summary = run_suite(study, options.output, workers=options.workers, device="cpu")
    for title, message in summary.failed.items():
        print(f"failed: {title}: {message}")
    results = load_results(options.output, summary.runs)
    print(as_sampled(options), end="\n\n")
    print(table(options, final_scores(results)))
    if options.figure is not None:
        draw(results, options.figure)


if __name__ == "__main__":
    main()
