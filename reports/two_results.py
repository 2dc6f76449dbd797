"""Two results side by side: the same algorithms in two studies, or two algorithms, in numbers and plain sentences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from offbench.analysis import Notice, ScoreError, ScoreTable
from offbench.analysis.comparisons import compare, difference, probability_of_improvement
from offbench.analysis.pairwise_tests import pairwise_tests
from offbench.analysis.score_checks import some
from offbench.analysis.seed_planning import seeds_needed
from offbench.reports.tables import Cell, TableRows
from offbench.reports.words import decimals, number, p_text


@dataclass(frozen=True)
class TwoResults:
    """A comparison of two algorithms (or of one algorithm in two results).

    Attributes:
        first, second: their names.
        sentences: in plain words, what a reader may conclude and what not.
        table: per dataset the two means, their difference and Welch's test with Holm's correction.
        notices: what would mislead.
    """

    first: str
    second: str
    sentences: tuple[str, ...]
    table: TableRows
    notices: tuple[Notice, ...]


def compare_two(
    table: ScoreTable, first: str, second: str, *, metric: str = "iqm", reps: int = 10_000, seed: int = 0
) -> TwoResults:
    """Compare two algorithms of one table over the datasets that both have.

    Args:
        metric: aggregate whose difference is taken. reps, seed: of the bootstrap.

    Raises:
        ScoreError: no dataset is shared.
        UnknownNameError: no such algorithm or metric.
    """
    datasets = [name for name in table.datasets if table.cell(first, name).size and table.cell(second, name).size]
    tests = pairwise_tests(table, "welch", pairs=[(first, second)], datasets=datasets or None)
    sentences = []
    options: dict[str, Any] = {"reps": reps, "seed": seed, "datasets": datasets}
    try:
        sentences.append(compare(table, first, second, metric=metric, **options).sentence)
        if len(datasets) > 1:
            other = "mean" if metric != "mean" else "iqm"
            sentences.append(difference(table, first, second, other, **options).sentence)
    except ScoreError as error:  # raw returns of several datasets: only orders can be compared
        sentences.append(probability_of_improvement(table, first, second, **options).sentence)
        sentences.append(f"No difference of aggregates: {error.what}.")
    sentences += tests.sentences
    plan = _plan(table, first, second, tests.frame)
    if plan:
        sentences.append(plan)
    left_out = [name for name in table.datasets if name not in datasets]
    notices = [notice for notice in table.notices if notice.code != "missing"]
    if left_out:
        notices.append(Notice("left-out", f"Not compared, since one of the two has no runs there: {some(left_out)}."))
    return TwoResults(first, second, tuple(sentences), _table(table, tests.frame, first, second), tuple(notices))


def _plan(table: ScoreTable, first: str, second: str, tests: pd.DataFrame) -> str:
    """How many seeds would show the gap of the dataset where it is largest among those not shown."""
    open_rows = tests[(tests["winner"] == "") & tests["p"].notna() & (tests["difference"] != 0)]
    if open_rows.empty:
        return ""
    worst = open_rows.loc[open_rows["difference"].abs().idxmax()]
    one, other = (table.cell(name, worst["dataset"]) for name in (first, second))
    found = seeds_needed(float(worst["difference"]), float(one.std(ddof=1)), float(other.std(ddof=1)), tests=len(tests))
    return f"The largest difference that is not shown is on {worst['dataset']}. {found.sentence}"


def merged(one: ScoreTable, other: ScoreTable, names: tuple[str, str]) -> tuple[ScoreTable, list[tuple[str, str]]]:
    """Two results as one table, and the pairs of algorithms to compare.

    Algorithms that both results have are compared with themselves, as "IQL (old)" and "IQL (new)"; two results with
    one algorithm each are compared even if the names differ.

    Raises:
        ScoreError: no algorithm is shared and there is more than one on a side.
    """
    shared = [name for name in one.algorithms if name in other.algorithms]
    if shared:
        pairs = [(f"{name} ({names[0]})", f"{name} ({names[1]})") for name in shared]
    elif len(one.algorithms) == len(other.algorithms) == 1:
        pairs = [(f"{one.algorithms[0]} ({names[0]})", f"{other.algorithms[0]} ({names[1]})")]
    else:
        raise ScoreError(
            "the two results share no algorithm",
            f"{names[0]}: {some(one.algorithms)}; {names[1]}: {some(other.algorithms)}",
            "compare two algorithms of one table with --in TABLE",
        )
    rows = pd.concat([_labelled(one, names[0]), _labelled(other, names[1])], ignore_index=True)
    notices = [
        Notice(n.code, f"{name}: {n.text}") for t, name in ((one, names[0]), (other, names[1])) for n in t.notices
    ]
    if one.protocol != other.protocol:
        text = f"Scores were taken differently: {names[0]}: {one.protocol}; {names[1]}: {other.protocol}."
        notices.insert(0, Notice("mixed-protocols", text))
    units = {name for name in one.datasets if other.units.get(name, one.units[name]) != one.units[name]}
    if units:
        raise ScoreError(f"the two results give {some(sorted(units))} in different units", fix="use one unit for both")
    return replace(one, rows=rows, curves=None, notices=tuple(notices)), pairs


def _labelled(table: ScoreTable, name: str) -> pd.DataFrame:
    return table.rows.assign(algorithm=table.rows["algorithm"] + f" ({name})")


def _table(table: ScoreTable, tests: pd.DataFrame, first: str, second: str) -> TableRows:
    sizes = {*tests["n_first"], *tests["n_second"]}
    rows = []
    for test in tests.itertuples(index=False):
        one, other = table.cell(first, test.dataset), table.cell(second, test.dataset)
        places = max(1, decimals([*one, *other]))
        cells = [Cell(str(test.dataset))]
        for scores, name in ((one, first), (other, second)):
            text = number(float(scores.mean()), places)
            text += f" ± {number(float(scores.std(ddof=1)), places)}" if scores.size > 1 else ""
            text += f" ({scores.size})" if len(sizes) > 1 else ""
            cells.append(Cell(text, test.winner == name, float(scores.mean())))
        mark = "*" if test.winner else ""
        cells.append(Cell(number(test.difference, places), value=test.difference))
        cells.append(Cell(p_text(test.p_corrected) + mark, value=test.p_corrected))
        rows.append(cells)
    seeds = "(seeds)" if len(sizes) > 1 else f"over {sizes.pop()} seeds"
    caption = (
        f"Mean ± standard deviation {seeds}; difference of the means; p of Welch's t-test with Holm's correction over "
        "the datasets, * below 0.05."
    )
    return TableRows(["dataset", first, second, "difference", "p (Holm)"], rows, caption, tests)
