"""Aggregates computed by rliable itself, for readers who want the reference's own numbers.

rliable 1.2 imports with `arch<8` and `pandas<3` only, and draws from numpy's global stream whatever `random_state` it
is given: the stream is seeded here and put back afterwards.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from offbench.analysis.intervals import RLIABLE_METHODS, Estimate
from offbench.analysis.metrics import METRICS, trim_fraction
from offbench.analysis.score_checks import ScoreError
from offbench.errors import MissingExtraError, UnknownNameError

_FUNCTIONS = {"iqm": "aggregate_iqm", "mean": "aggregate_mean", "median": "aggregate_median"}


def load_rliable() -> tuple[Any, Any]:
    """Return rliable's modules `library` and `metrics`.

    Raises:
        MissingExtraError: it is not installed, or it fails to import beside the installed pandas and arch.
    """
    try:
        return importlib.import_module("rliable.library"), importlib.import_module("rliable.metrics")
    except Exception as error:  # with arch 7.2 and pandas 3, importing arch raises a TypeError
        need = "computing with rliable"
        if not isinstance(error, ModuleNotFoundError):
            need += f" (it is here but fails to import: {error}; it wants arch<8 and pandas<3)"
        raise MissingExtraError(need, "rliable") from error


def rliable_estimates(
    cells: Mapping[str, Sequence[np.ndarray]],
    *,
    method: str,
    level: float,
    reps: int,
    seed: int,
    gamma: float,
    metrics: Sequence[str] = METRICS,
    task_bootstrap: bool = False,
) -> dict[str, dict[str, Estimate]]:
    """`intervals.estimate` of several algorithms, by `rliable.library.get_interval_estimates`.

    Args:
        cells: algorithm -> one array [N] per dataset.
        method: one of `RLIABLE_METHODS`; the acceleration of rliable's "bca" mixes all metrics of a call.

    Raises:
        ScoreError: a method that rliable lacks; unequal numbers of seeds; an interval that rliable cannot compute.
        MissingExtraError: rliable cannot be imported.
    """
    if method not in RLIABLE_METHODS:
        raise ScoreError(f"rliable has no {method} interval", fix=f"use one of {', '.join(RLIABLE_METHODS)}")
    sizes = {stratum.size for strata in cells.values() for stratum in strata}
    if len(sizes) > 1:
        raise ScoreError("rliable needs the same number of seeds on every dataset", f"there are {sorted(sizes)}")
    library, functions = load_rliable()
    evaluate = {metric: _function(functions, metric, gamma) for metric in metrics}
    matrices = {name: np.stack(strata, axis=1) for name, strata in cells.items()}
    before = np.random.get_state()  # noqa: NPY002 - rliable knows no other generator
    try:
        np.random.set_state(np.random.RandomState(seed).get_state())  # noqa: NPY002
        points, bounds = library.get_interval_estimates(
            matrices,
            lambda x: np.array([evaluate[metric](x) for metric in metrics]),
            method=method,
            task_bootstrap=task_bootstrap,
            reps=reps,
            confidence_interval_size=level,
        )
    except RuntimeError as error:
        raise ScoreError(f"rliable cannot compute the {method} interval", str(error)) from error
    finally:
        np.random.set_state(before)  # noqa: NPY002
    reason = "" if max(sizes) > 1 else "one seed: run-to-run variation is unknown"
    found: dict[str, dict[str, Estimate]] = {}
    for name in cells:
        columns = zip(metrics, points[name], *bounds[name], strict=True)
        found[name] = {
            metric: Estimate(float(value), *((math.nan, math.nan) if reason else (float(low), float(high))), reason)
            for metric, value, low, high in columns
        }
    return found


def _function(functions: Any, metric: str, gamma: float) -> Any:
    trim_fraction(metric)  # raises for unknown names
    if metric == "optimality_gap":
        return lambda x: functions.aggregate_optimality_gap(x, gamma)
    if metric not in _FUNCTIONS:
        raise UnknownNameError("metric of rliable", metric, METRICS)
    return getattr(functions, _FUNCTIONS[metric])
