"""How often nominal 95 % intervals of comparisons cover the truth: differences, probability of improvement, profiles,
expected online performance; calibrated beside percentile.

    python benchmarks/comparison_coverage.py --trials 400

Scores are normal with stated means and standard deviations, ten datasets (or ten settings), so the truth is known.
Prints a Markdown table: rows are numbers of seeds, entries "percentile / calibrated".
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from statistics import NormalDist

import numpy as np

from offbench.analysis import difference, expected_online_performance, performance_profile, probability_of_improvement

CENTRES, SPREADS = np.linspace(10, 100, 10), np.linspace(4, 14, 10)
SHIFT = np.array([0, 0, 0, 2, 5, 10, 20, 20, 30, 30.0])  # of the better algorithm
TAUS = np.array([15.0, 35, 55, 75, 95])
METHODS = ("percentile", "calibrated")


def true_iqm(shift: np.ndarray, rng: np.random.Generator) -> float:
    """IQM of infinitely many runs, by simulation."""
    pooled = np.sort(rng.normal(CENTRES + shift, SPREADS, (200_000, 10)), axis=None)
    cut = pooled.size // 4
    return float(pooled[cut:-cut].mean())


def covered(seeds: int, trials: int, truth: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """quantity -> method -> share of intervals that hold the truth."""
    rng = np.random.default_rng(seeds)
    hits: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trial in range(trials):
        scores = {
            "a": rng.normal(CENTRES + SHIFT, SPREADS, (seeds, 10)),
            "b": rng.normal(CENTRES, SPREADS, (seeds, 10)),
        }
        settings = rng.normal(CENTRES[:, None], SPREADS[:, None], (10, seeds))
        for method in METHODS:
            options = {"method": method, "reps": 500, "seed": trial}
            found = {
                "difference in IQM": difference(scores, "a", "b", **options),  # type: ignore[arg-type]
                "probability of improvement": probability_of_improvement(scores, "a", "b", **options),  # type: ignore[arg-type]
            }
            bounds = {name: (result.low, result.high) for name, result in found.items()}
            for kind in ("scores", "averages"):
                profile = performance_profile({"b": scores["b"]}, TAUS, kind=kind, **options).curves  # type: ignore[arg-type]
                bounds[f"profile of {kind}"] = (profile["low"].to_numpy(), profile["high"].to_numpy())
            budget = expected_online_performance(settings, **options).frame  # type: ignore[arg-type]
            bounds["expected online performance"] = (budget["low"].to_numpy(), budget["high"].to_numpy())
            for name, (low, high) in bounds.items():
                inside = (low <= truth[name] + 1e-12) & (truth[name] <= high + 1e-12)
                hits[name][method].append(float(np.mean(inside)))
    return {name: {m: float(np.mean(hits[name][m])) for m in METHODS} for name in hits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 5, 10])
    arguments = parser.parse_args()
    rng, normal = np.random.default_rng(0), NormalDist()
    chances = [normal.cdf(gap / (2**0.5 * s)) for gap, s in zip(SHIFT, SPREADS, strict=True)]
    above = [[1 - normal.cdf((tau - c) / s) for c, s in zip(CENTRES, SPREADS, strict=True)] for tau in TAUS]
    truth = {
        "difference in IQM": np.array(true_iqm(SHIFT, rng) - true_iqm(0 * SHIFT, rng)),
        "probability of improvement": np.mean(chances),
        "profile of scores": np.mean(above, axis=1),
        "profile of averages": np.array([np.mean(tau < CENTRES) for tau in TAUS]),
        "expected online performance": expected_online_performance(CENTRES).frame["mean"].to_numpy(),
    }
    print("| seeds | " + " | ".join(truth) + " |")
    print("|---" * (len(truth) + 1) + "|")
    for seeds in arguments.seeds:
        found = covered(seeds, arguments.trials, truth)
        cells = [
            " / ".join(f"{found[name][m]:.2f}"[1 if found[name][m] < 0.995 else 0 :] for m in METHODS) for name in truth
        ]
        print(f"| {seeds} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
