"""The report as one self-contained HTML page: inline styles, inline pictures, no request to anywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from offbench.analysis import SCORE, Notice, ScoreTable
from offbench.reports.plots import INK, Plot
from offbench.reports.tables import MISSING, TableRows, decimals, number


@dataclass(frozen=True)
class Page:
    """Everything the page shows."""

    title: str
    table: ScoreTable
    headline: TableRows
    aggregates: TableRows
    curves: Plot | None
    intervals: Plot | None
    notices: Sequence[Notice]
    protocol: Mapping[str, Any]
    datasets: Mapping[str, Mapping[str, Any]]
    versions: Mapping[str, str]


def render(page: Page) -> str:
    """The page as text. The same input gives the same text."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("offbench.reports").joinpath("templates/report.html.j2").read_text("utf-8")
    seeds_header, seeds_rows = seed_rows(page.table)
    facts_header, facts_rows = dataset_rows(page.datasets)
    return environment.from_string(source).render(
        page=page,
        summary=summary(page.table),
        protocol=flatten(page.protocol),
        curves=inline_svg(page.curves, "curves") if page.curves else None,
        intervals=inline_svg(page.intervals, "intervals") if page.intervals else None,
        seeds_header=seeds_header,
        seeds_rows=seeds_rows,
        facts_header=facts_header,
        facts_rows=facts_rows,
        methods=methods(page),
    )


def summary(table: ScoreTable) -> list[tuple[str, str]]:
    """The size of the study, in a few labelled words."""
    counts = table.seed_counts().to_numpy()
    present = counts[counts > 0]
    seeds = str(present.min()) if present.min() == present.max() else f"{present.min()}–{present.max()}"
    facts = [
        ("algorithms", str(len(table.algorithms))),
        ("datasets", str(len(table.datasets))),
        ("seeds per cell", seeds),
        ("runs", str(len(table.rows))),
    ]
    if "environment" in table.rows and table.rows["environment"].notna().any():
        facts.append(("environments", ", ".join(sorted(table.rows["environment"].dropna().astype(str).unique()))))
    return facts


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value) pairs, in their own order."""
    pairs: list[tuple[str, str]] = []
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            pairs += flatten(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            pairs.append((name, ", ".join(map(str, value))))
        elif isinstance(value, int) and not isinstance(value, bool):
            pairs.append((name, f"{value:,}" if abs(value) >= 10_000 else str(value)))
        else:
            pairs.append((name, MISSING if value is None else str(value)))
    return pairs


def seed_rows(table: ScoreTable) -> tuple[list[str], list[list[str]]]:
    """Every run's score: one row per dataset and algorithm, one column per seed."""
    seeds = sorted(table.rows["seed"].unique(), key=lambda seed: (isinstance(seed, str), seed))
    by_run = table.rows.set_index(["dataset", "algorithm", "seed"])["score"]
    units = table.units
    rows = []
    for dataset in table.datasets:
        places = 1 if units[dataset] == SCORE else decimals(by_run.loc[dataset].to_numpy())
        for algorithm in table.algorithms:
            values = [by_run.get((dataset, algorithm, seed)) for seed in seeds]
            if any(value is not None for value in values):
                texts = [MISSING if value is None else number(value, places) for value in values]
                rows.append([dataset, algorithm, *texts])
    return ["dataset", "algorithm", *(f"seed {seed}" for seed in seeds)], rows


_FACT_TITLES = {
    "environment": "environment",
    "episodes": "episodes",
    "transitions": "transitions",
    "behaviour_score": "mean score of the data",
    "behaviour_return": "mean return of the data",
    "reference": "reference",
    "fingerprint": "fingerprint",
}


def dataset_rows(datasets: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Facts about the datasets; known ones first and under readable titles."""
    given = {key for facts in datasets.values() for key in facts}
    keys = [key for key in _FACT_TITLES if key in given] + sorted(given - set(_FACT_TITLES))
    rows = [[name, *(_fact(key, facts.get(key)) for key in keys)] for name, facts in datasets.items()]
    return ["dataset", *(_FACT_TITLES.get(key, key.replace("_", " ")) for key in keys)], rows


def _fact(key: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return MISSING
    if key == "fingerprint":
        return str(value)[:12]
    if isinstance(value, float):
        return number(value, decimals([value]))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return json.dumps(value, default=str) if isinstance(value, (dict, list, tuple)) else str(value)


def methods(page: Page) -> list[tuple[str, str]]:
    """How each number of the page is computed."""
    table = page.table
    pairs = [
        (
            "score of a run",
            f"{table.protocol[0].upper()}{table.protocol[1:]}; the returns of its evaluation episodes are averaged "
            "first. A run (one seed) is the unit of replication.",
        ),
    ]
    if SCORE in table.units.values():
        text = "100 × (return − minimum) / (maximum − minimum), with the two reference returns of the dataset."
        pairs.append(("normalized score", text))
    pairs.append(("mean ± std", "Mean and standard deviation (divisor n − 1) over the seeds of one cell."))
    if page.aggregates.rows:
        pairs += [
            ("IQM", "Mean of the middle half of all runs of all datasets pooled (25 % trimmed at each end)."),
            ("mean, median", "Mean or median, over datasets, of the means over seeds."),
        ]
        if "optimality gap" in page.aggregates.header:
            pairs.append(("optimality gap", "100 − mean of min(score, 100); lower is better."))
        if page.aggregates.records["low"].notna().any():
            pairs.append(("interval", _INTERVALS[page.aggregates.records["method"].iloc[0]]))
    if page.curves is not None:
        pairs.append(("learning curves", page.curves.caption))
    return pairs


_INTERVALS = {
    "calibrated": (
        "Seeds are resampled within each dataset (stratified bootstrap). The percentile bounds are then stretched "
        "about the point estimate by √(n/(n−1)) · t/z, with Satterthwaite degrees of freedom over datasets, because "
        "plain percentile intervals cover only about 80–90 % instead of 95 % with three to five seeds."
    ),
    "percentile": (
        "Seeds are resampled within each dataset (stratified bootstrap); the interval runs between percentiles of "
        "the resampled statistic. With three to five seeds it covers only about 80–90 % instead of 95 %."
    ),
}


def inline_svg(plot: Plot, name: str) -> Markup:
    """The figure's SVG to be put into the page: it follows the page's colours, its ids cannot collide."""
    svg = plot.render("svg").decode("utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", svg)
    svg = svg.replace(INK, "currentColor")
    svg = re.sub(r'<svg([^>]*?) width="([\d.]+)pt" height="[\d.]+pt"', _responsive, svg, count=1)
    return Markup(re.sub(r"<svg", f'<svg role="img" aria-label="{name}"', svg, count=1))


def _responsive(match: re.Match[str]) -> str:
    """Natural width at most, smaller screens shrink it: points to CSS pixels."""
    return f'<svg{match.group(1)} style="max-width:{float(match.group(2)) * 4 / 3:.0f}px;width:100%;height:auto"'
