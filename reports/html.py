"""The report as one self-contained HTML page: inline styles, pictures and script, no request to anywhere.

Without the script the page shows the same; with it, tables can be sorted by their columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from offbench.analysis import SCORE, ScoreTable
from offbench.reports.content import Content
from offbench.reports.plots import INK
from offbench.reports.published import verdicts
from offbench.reports.table_formats import set_right, to_latex
from offbench.reports.words import MISSING, decimals, number

_SCREEN_SCALE = 4 / 3 * 1.45  # points to CSS pixels, and figures made for paper somewhat larger on a screen


def render(content: Content, pictures: Mapping[str, bytes]) -> str:
    """The page as text. The same input gives the same text.

    Args:
        content: what to show.
        pictures: SVG of each of its figures, by name.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    folder = resources.files("offbench.reports").joinpath("templates")
    seeds_header, seeds_rows = seed_rows(content.table)
    facts_header, facts_rows = dataset_rows(content.datasets)
    return environment.from_string(folder.joinpath("report.html.j2").read_text("utf-8")).render(
        page=content,
        tables=content.tables,
        script=Markup(folder.joinpath("sort.js").read_text("utf-8")),
        summary=summary(content.table),
        protocol=flatten(content.protocol),
        figures={name: inline_svg(picture, name) for name, picture in pictures.items()},
        captions={name: plot.caption for name, plot in content.figures.items()},
        latex={name: to_latex(content.tables[name], label=f"tab:{name}") for name in ("scores", "aggregates")},
        verdicts=verdicts(content.tables["published"].records) if "published" in content.tables else "",
        seeds_header=seeds_header,
        seeds_rows=seeds_rows,
        facts_header=facts_header,
        facts_rows=facts_rows,
        methods=methods(content),
        runs_text=runs_text,
        columns_of_numbers=set_right,
    )


def runs_text(runs: tuple[tuple[Any, float], ...]) -> list[tuple[str, str]]:
    """The runs behind a number as (seed, score) texts."""
    places = max(1, decimals([score for _, score in runs]))
    return [(str(seed), number(score, places)) for seed, score in runs]


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


def methods(page: Content) -> list[tuple[str, str]]:
    """How each number of the page is computed."""
    table = page.table
    pairs = [
        (
            "score of a run",
            f"{table.protocol[0].upper()}{table.protocol[1:].rstrip('.')}; the returns of its evaluation episodes are "
            "averaged first. A run (one seed) is the unit of replication.",
        ),
    ]
    if SCORE in table.units.values():
        text = "100 × (return − minimum) / (maximum − minimum), with the two reference returns of the dataset."
        pairs.append(("normalized score", text))
    spreads = {
        "std": ("mean ± std", "Mean and standard deviation (divisor n − 1) over the seeds of one cell."),
        "se": ("mean ± se", "Mean and standard error (standard deviation over √n) over the seeds of one cell."),
        "interval": ("mean [interval]", "Mean and 95 % Student-t interval over the seeds of one cell."),
    }
    pairs.append(spreads[page.options.spread])
    if page.aggregates.rows:
        pairs += [
            ("IQM", "Mean of the middle half of all runs of all datasets pooled (25 % trimmed at each end)."),
            ("mean, median", "Mean or median, over datasets, of the means over seeds."),
        ]
        if "optimality gap" in page.aggregates.header:
            pairs.append(("optimality gap", "100 − mean of min(score, 100); lower is better."))
        method = page.aggregates.records["method"].iloc[0]
        if page.aggregates.records["low"].notna().any() and method in _INTERVALS:
            pairs.append(("interval", _INTERVALS[method]))
    if "pairs" in page.tables:
        text = "The chance that a random run of one algorithm scores higher than one of the other on the same dataset "
        pairs.append(("probability of improvement", text + "(ties count half), averaged over datasets."))
    if "ranks" in page.figures:
        text = "Rank of each algorithm's mean on each dataset (1 is best, ties share), averaged over datasets."
        pairs.append(("mean rank", text))
    return pairs


_INTERVALS = {
    "calibrated": (
        "Seeds are resampled within each dataset (stratified bootstrap); the standard error found so is corrected for "
        "the few seeds (√(n/(n−1))) and multiplied by Student's t with Satterthwaite degrees of freedom over datasets, "
        "because plain percentile intervals cover only about 80–90 % instead of 95 % with three to five seeds."
    ),
    "t": "Standard errors within datasets combined over datasets, times Student's t (Satterthwaite).",
    "percentile": (
        "Seeds are resampled within each dataset (stratified bootstrap); the interval runs between percentiles of "
        "the resampled statistic. With three to five seeds it covers only about 80–90 % instead of 95 %."
    ),
}


def inline_svg(picture: bytes, name: str) -> Markup:
    """The figure's SVG to be put into the page: it follows the page's colours, its ids cannot collide."""
    svg = picture.decode("utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", svg)
    svg = svg.replace(INK, "currentColor")
    svg = re.sub(r'<svg([^>]*?) width="([\d.]+)pt" height="[\d.]+pt"', _responsive, svg, count=1)
    return Markup(re.sub(r"<svg", f'<svg role="img" aria-label="{name}"', svg, count=1))


def _responsive(match: re.Match[str]) -> str:
    """A stated width at most, smaller screens shrink it."""
    return (
        f'<svg{match.group(1)} style="max-width:{float(match.group(2)) * _SCREEN_SCALE:.0f}px;width:100%;height:auto"'
    )
