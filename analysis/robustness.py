"""Robustness to corrupted data: what is left of an algorithm's score under each corruption, on average and at worst."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd

from offbench.analysis.scores import SCORE, ScoreTable
from offbench.errors import SpecError

CLEAN = "clean"


@dataclass(frozen=True)
class Condition:
    """One way in which a dataset was corrupted; `target` is "clean" for the dataset as it is.

    Attributes:
        dataset: name of the clean dataset.
        target: observations, actions, rewards, dynamics, several joined by "+", or "clean".
        mode: random or adversarial.
        rate: share of the transitions that were corrupted.
        scale: size of the corruption, in the unit of its target.
    """

    dataset: str
    target: str = CLEAN
    mode: str = ""
    rate: float = 0.0
    scale: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether nothing was corrupted."""
        return self.target == CLEAN

    @property
    def kind(self) -> str:
        """Mode and target, without the strength."""
        return CLEAN if self.clean else f"{self.mode} {self.target}"

    @property
    def title(self) -> str:
        """A name that tells all conditions of a study apart."""
        strength = "" if self.clean else f" (rate {self.rate:g}, scale {self.scale:g})"
        return f"{self.dataset}, {self.kind}{strength}"


def robustness_rows(table: ScoreTable, conditions: Mapping[str, Condition]) -> ScoreTable:
    """Scores under every condition, and per seed their average over the corruptions, the worst one and the change.

    Args:
        table: final scores, whose datasets are the conditions.
        conditions: name of a dataset in `table` -> what was done to it.

    Returns:
        A table of scores whose "datasets" are, per clean dataset: clean; each corruption; "average of corruptions",
        the mean of a seed's scores over all corruptions; "worst corruption", the seed's scores under the corruption
        with the lowest mean over seeds; "change from clean", average minus clean of the same seed. A seed that lacks a
        condition is left out of the last three; an algorithm without a clean run has no change.

    Raises:
        SpecError: a dataset of the table has no condition.
    """
    unknown = [name for name in table.datasets if name not in conditions]
    if unknown:
        raise SpecError(f"nothing is known of the corruption of {', '.join(unknown)}")
    rows = table.rows
    facts = rows["dataset"].map(conditions.__getitem__)
    rows = rows.assign(base=[fact.dataset for fact in facts], clean=[fact.clean for fact in facts])
    several = rows["base"].nunique() > 1
    records = []
    for base in rows["base"].unique():
        of_base = rows[rows["base"] == base]
        prefix = f"{base}, " if several else ""
        names = sorted(of_base["dataset"].unique(), key=lambda name: not conditions[name].clean)
        for name in names:
            title = conditions[name].title if several else conditions[name].title.removeprefix(f"{base}, ")
            chosen = of_base[of_base["dataset"] == name]
            records += [(row.algorithm, title, row.seed, row.score) for row in chosen.itertuples()]
        for algorithm in table.algorithms:
            scores = of_base[of_base["algorithm"] == algorithm].pivot(index="seed", columns="dataset", values="score")
            for title, values in _summaries(scores, conditions).items():
                records += [(algorithm, prefix + title, seed, score) for seed, score in values.items()]
    frame = pd.DataFrame.from_records(records, columns=["algorithm", "dataset", "seed", "score"])
    units = set(table.units.values())
    made = ScoreTable.from_frame(frame, unit=units.pop() if len(units) == 1 else SCORE)
    return replace(made, protocol=table.protocol)


def _summaries(scores: pd.DataFrame, conditions: Mapping[str, Condition]) -> dict[str, pd.Series]:
    """Average, worst and change per seed, from scores [seeds, conditions] of one algorithm on one clean dataset."""
    corrupted = [name for name in scores.columns if not conditions[name].clean]
    complete = scores[corrupted].dropna()
    if not len(complete) or not corrupted:
        return {}
    average = complete.mean(axis=1)
    found = {"average of corruptions": average}
    worst = complete.mean().idxmin()
    found["worst corruption"] = complete[worst]
    clean = [name for name in scores.columns if conditions[name].clean]
    if clean:
        found["change from clean"] = (average - scores.loc[complete.index, clean[0]]).dropna()
    return found


def worst_conditions(table: ScoreTable, conditions: Mapping[str, Condition]) -> dict[tuple[str, str], str]:
    """(clean dataset, algorithm) -> mode and target of the corruption with the lowest mean."""
    found: dict[tuple[str, str], tuple[float, str]] = {}
    for name in table.datasets:
        condition = conditions[name]
        for algorithm in [] if condition.clean else table.algorithms:
            scores = table.cell(algorithm, name)
            if scores.size:
                entry = (float(scores.mean()), condition.kind)
                key = (condition.dataset, algorithm)
                found[key] = min(found.get(key, entry), entry)
    return {key: kind for key, (_, kind) in found.items()}


def severity_rows(rows: pd.DataFrame, conditions: Mapping[str, Condition], severity: str) -> pd.DataFrame:
    """Rows of scores as curves against `severity` ("rate" or "scale"), each starting at the clean data.

    The other strength is held at the value that has most points; of equals, the largest.

    Args:
        rows: algorithm, dataset (a condition), seed, score.

    Returns:
        algorithm, dataset (the kind of corruption, after the clean dataset where there are several), seed, score and
        the severity; the clean runs are the first point of every kind. Empty if there are no clean runs to start at and
        the strength does not vary.
    """
    other = {"rate": "scale", "scale": "rate"}[severity]
    corrupted = [condition for condition in conditions.values() if not condition.clean]
    values = sorted({getattr(condition, other) for condition in corrupted}, reverse=True)
    points = {v: len({getattr(c, severity) for c in corrupted if getattr(c, other) == v}) for v in values}
    columns = ["algorithm", "dataset", "seed", "score", severity]
    needed = 1 if severity == "rate" and any(condition.clean for condition in conditions.values()) else 2
    if not points or max(points.values()) < needed:
        return pd.DataFrame(columns=columns)
    held = max(values, key=lambda value: points[value])
    parts = []
    several = len({condition.dataset for condition in corrupted}) > 1
    kinds = dict.fromkeys((condition.dataset, condition.kind) for condition in corrupted)
    for base, kind in kinds:
        for name, condition in conditions.items():
            if condition.dataset != base:
                continue
            if condition.clean or (condition.kind == kind and getattr(condition, other) == held):
                chosen = rows[rows["dataset"] == name]
                panel = f"{base}, {kind}" if several else kind
                parts.append(chosen.assign(dataset=panel, **{severity: getattr(condition, severity)}))
    return pd.concat(parts, ignore_index=True)[columns]
