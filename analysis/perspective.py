"""The study of Schweighofer et al. 2022: performance of algorithms against TQ and SACo of their datasets.

Performance is normalized as in the paper (arXiv 2111.04714): 0 is the mean return of the random data of the same
dataset-creation run, 100 the best evaluation of its online training. Two rules make one number of a run's evaluations:

- `last`: the mean of the final evaluation, over seeds. Nothing is chosen.
- `paper`: the largest, over evaluations, of the mean over seeds, as the authors' code has it. It is optimistic: a
  maximum of many noisy means, chosen with the simulator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from offbench.analysis.quality import measure_datasets, paper_reference
from offbench.analysis.quality_settings import preset_for
from offbench.datasets import Dataset
from offbench.errors import SpecError

Rule = Literal["last", "paper"]

SCHEMES = ("random", "mixed", "replay", "noisy", "expert")
RULES: tuple[Rule, ...] = ("last", "paper")
MEASURES = ("tq", "saco", "lsaco")
ALL = "all"  # the domain of correlations over all environments


@dataclass(frozen=True)
class Point:
    """Which dataset of the study it is.

    Attributes:
        environment: e.g. "cartpole". scheme: one of SCHEMES. run: seed of the dataset-creation run.
    """

    environment: str
    scheme: str
    run: int


def measure_run(datasets: Mapping[str, Dataset], online_maximum: float, online_source: str = "given") -> pd.DataFrame:
    """TQ, SACo and lSACo of the datasets of one dataset-creation run under the paper's preset.

    Args:
        datasets: scheme -> dataset; "random" and "replay" must be there, which give TQ 0 and SACo 1.
        online_maximum: best evaluation of the online training, which gets TQ 1.

    Returns:
        One row per scheme: scheme, transitions, episodes, tq, saco, lsaco, pairs (counted cells), minimum, maximum
        (returns of TQ 0 and 1), preset.

    Raises:
        SpecError: the random or the replay data are missing.
    """
    missing = {"random", "replay"} - datasets.keys()
    if missing:
        raise SpecError(f"the {missing.pop()} data are missing", "TQ and SACo refer to them")
    reference = paper_reference(
        replay=datasets["replay"],
        random=datasets["random"],
        online_maximum=online_maximum,
        online_source=online_source,
    )
    replay = datasets["replay"]
    preset = preset_for(replay.environment, replay.discrete)
    names = [*MEASURES, "unique_pairs"]
    table = measure_datasets(list(datasets.values()), measures=names, reference=reference, settings=preset)
    return pd.DataFrame(
        [
            {
                "scheme": scheme,
                "transitions": row.transitions,
                "episodes": row.episodes,
                **{name: row.values[name] for name in names},
                "minimum": reference.minimum,
                "maximum": reference.maximum,
                "preset": preset,
            }
            for scheme, row in zip(datasets, table.datasets, strict=True)
        ]
    ).rename(columns={"unique_pairs": "pairs"})


def performance(results: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """Performance of every algorithm on every dataset, by both rules.

    Args:
        results: per-episode results of the harness (dataset, algorithm, seed, step, return, final).
        points: dataset, environment, scheme, run, tq, saco, lsaco, minimum and maximum, one row per dataset.

    Returns:
        One row per dataset and algorithm: the columns of `points`, algorithm, seeds (their number), last, last_std
        (over seeds, ddof=1; NaN for one), paper; normalized, 0 to 100.
    """
    known = results[results["dataset"].isin(points["dataset"])]
    means = known.groupby(["dataset", "algorithm", "seed", "step"], sort=False)["return"].mean().reset_index()
    final = known[known["final"]].groupby(["dataset", "algorithm", "seed"], sort=False)["return"].mean().reset_index()
    by_cell = ["dataset", "algorithm"]
    cells = final.groupby(by_cell, sort=False)["return"].agg(last="mean", last_std="std", seeds="size").reset_index()
    # Only evaluations that all seeds have: a mean over fewer seeds is noisier, and the maximum would pick it.
    over_seeds = means.groupby([*by_cell, "step"], sort=False)["return"].agg(["mean", "size"]).reset_index()
    over_seeds = over_seeds[over_seeds["size"] == over_seeds.groupby(by_cell)["size"].transform("max")]
    best = over_seeds.groupby(by_cell, sort=False)["mean"].max().rename("paper").reset_index()
    table = points.merge(cells.merge(best, on=by_cell), on="dataset")
    span = table["maximum"] - table["minimum"]
    for rule in RULES:
        table[rule] = 100 * (table[rule] - table["minimum"]) / span
    table["last_std"] = 100 * table["last_std"] / span
    return table


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Pearson correlations of performance with TQ, SACo and lSACo over the datasets, as in the paper.

    Args:
        table: as `performance` gives it.

    Returns:
        One row per algorithm, domain ("all" or an environment), rule and measure: r and points (the number of
        datasets). r is NaN where there are fewer than three points or one side is constant.
    """
    rows = []
    environments = list(dict.fromkeys(table["environment"]))
    domains = [ALL, *environments] if len(environments) > 1 else environments
    for algorithm, of_one in table.groupby("algorithm", sort=False):
        for domain in domains:
            chosen = of_one if domain == ALL else of_one[of_one["environment"] == domain]
            for rule in RULES:
                for measure in MEASURES:
                    r = pearson(chosen[measure], chosen[rule])
                    rows.append(
                        {
                            "algorithm": algorithm,
                            "domain": domain,
                            "rule": rule,
                            "measure": measure,
                            "r": r,
                            "points": len(chosen),
                        }
                    )
    return pd.DataFrame(rows)


def pearson(first: ArrayLike, second: ArrayLike) -> float:
    """Pearson's r of two samples; NaN for fewer than three pairs of numbers or if one sample is constant."""
    one, other = np.asarray(first, float), np.asarray(second, float)
    both = np.isfinite(one) & np.isfinite(other)
    one, other = one[both], other[both]
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])
