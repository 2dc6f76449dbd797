"""Time of the statistics beside rliable: aggregates, probability of improvement and performance profiles.

    python benchmarks/statistics_speed.py                                     # offbench alone
    python benchmarks/statistics_speed.py --rliable-python PATH/bin/python    # with ratios, all in one run

rliable 1.2 does not import beside current pandas, so it runs in an interpreter of its own: one where rliable, arch<8
and pandas<3 are installed. Offbench and rliable take turns on the same scores; a time is the median over rounds, after
one call that is not timed (rliable is called once only where a call takes more than ten seconds).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ALGORITHMS, RUNS, TASKS = 5, 10, 26

# What rliable's interpreter executes: it reads {job: path of scores}, prints seconds. Kept free of offbench.
_RLIABLE = """
import sys, time
import numpy as np
from rliable import library, metrics
job, file, reps = sys.argv[1], sys.argv[2], int(sys.argv[3])
scores = np.load(file)
arrays = {str(k): scores[k] for k in range(len(scores))}
np.random.seed(0)
start = time.perf_counter()
if job == "aggregates":
    library.get_interval_estimates(arrays, lambda x: np.array([
        metrics.aggregate_median(x), metrics.aggregate_iqm(x), metrics.aggregate_mean(x),
        metrics.aggregate_optimality_gap(x)]), reps=reps)
elif job == "improvement":
    library.get_interval_estimates({"pair": [scores[0], scores[1]]},
                                   lambda x, y: metrics.probability_of_improvement(x, y), reps=reps)
else:
    library.create_performance_profile(arrays, np.linspace(0, 1.2, 81), reps=reps)
print(time.perf_counter() - start)
"""


def scores_of(runs: int = RUNS, tasks: int = TASKS) -> np.ndarray:
    """Scores in 0-1, [algorithms, runs, datasets]; none equal, so that ties do not flatter anyone."""
    rng = np.random.default_rng(0)
    return rng.uniform(0.1, 0.9, (ALGORITHMS, 1, tasks)) + 0.1 * rng.standard_normal((ALGORITHMS, runs, tasks))


def jobs(scores: np.ndarray, reps: dict[str, int]) -> dict[str, Callable[[], object]]:
    """One call of ours for each of rliable's, percentile intervals as rliable computes them, and our default."""
    from offbench.analysis import estimate, performance_profile, probability_of_improvement

    named = {str(k): list(scores[k].T) for k in range(len(scores))}
    taus = np.linspace(0, 1.2, 81)

    def aggregates(method: str) -> Callable[[], object]:
        return lambda: [
            estimate(strata, method=method, reps=reps["aggregates"], gamma=1.0)  # type: ignore[arg-type]
            for strata in named.values()
        ]

    matrices = {str(k): scores[k] for k in range(len(scores))}
    return {
        "aggregates": aggregates("percentile"),
        "aggregates, calibrated": aggregates("calibrated"),
        "aggregates, BCa": aggregates("bca"),
        "improvement": lambda: probability_of_improvement(
            matrices, "0", "1", method="percentile", reps=reps["improvement"]
        ),
        "profiles": lambda: performance_profile(matrices, taus, method="percentile", reps=reps["profiles"]),
    }


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def rliable_seconds(python: Path, job: str, file: Path, reps: int) -> float:
    """Seconds that rliable takes, measured inside its own interpreter, imports not counted."""
    command = [str(python), "-c", _RLIABLE, job, str(file), str(reps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"rliable failed in {python}:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rliable-python", type=Path, help="interpreter in which rliable imports")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor on the numbers of replicates, for a quick look"
    )
    parser.add_argument("--out", type=Path, help="folder for statistics_speed.json")
    options = parser.parse_args()
    reps = {"aggregates": 50_000, "improvement": 2000, "profiles": 2000}
    reps = {job: max(10, int(options.scale * count)) for job, count in reps.items()}

    scores = scores_of()
    folder = options.out or Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    calls = jobs(scores, reps)
    ours: dict[str, list[float]] = {name: [] for name in calls}
    theirs: dict[str, list[float]] = {}
    file = folder / "speed_scores.npy"
    np.save(file, scores)
    try:
        for call in calls.values():
            call()
        for turn in range(options.rounds):
            for name, call in calls.items():
                ours[name].append(seconds(call))
                job = name.partition(",")[0]
                once = theirs.get(job) and theirs[job][0] > 10
                if options.rliable_python and name == job and not (turn and once):
                    theirs.setdefault(job, []).append(rliable_seconds(options.rliable_python, job, file, reps[job]))
    finally:
        file.unlink()

    large = np.random.default_rng(0).normal(50, 20, (5, 10_000))  # 10,000 cells of 5 seeds
    from offbench.analysis import estimate

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    many = seconds(lambda: estimate(large, method="percentile", reps=int(50_000 * options.scale)))
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    lines = ["| | replicates | rliable, s | offbench, s | times |", "|---|---:|---:|---:|---:|"]
    results = []
    for name, times in ours.items():
        job = name.partition(",")[0]
        mine = statistics.median(times)
        other = statistics.median(theirs[job]) if job in theirs else float("nan")
        lines.append(f"| {name} | {reps[job]:,} | {other:.2f} | {mine:.4f} | {other / mine:.0f} |")
        results.append({"what": name, "reps": reps[job], "rliable_s": other, "offbench_s": mine, "rounds": len(times)})
    print("\n".join(lines))
    print(
        f"\n10,000 cells x {int(50_000 * options.scale):,} replicates: {many:.1f} s, {growth / 1024:.0f} MB more memory"
    )
    machine = {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    text = {"results": results, "large_s": many, "large_mb": growth / 1024, "machine": machine, "numpy": np.__version__}
    if options.out:
        (options.out / "statistics_speed.json").write_text(json.dumps(text, indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
