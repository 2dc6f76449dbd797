"""The engine "rliable": the reference itself where it imports, and a clear error where it does not."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pandas as pd
import pytest

from offbench.analysis import ScoreError, ScoreTable, aggregate
from offbench.analysis.rliable_engine import load_rliable
from offbench.errors import MissingExtraError, UnknownNameError


def rliable_imports() -> bool:
    try:
        load_rliable()
    except MissingExtraError:
        return False
    return True


needs_rliable = pytest.mark.skipif(not rliable_imports(), reason="rliable cannot be imported here")


def table(runs: int = 5) -> ScoreTable:
    rng = np.random.default_rng(0)
    rows = [
        (a, d, s, 50 + 10 * k + 5 * rng.standard_normal())
        for k, a in enumerate("ab")
        for d in ("z", "x", "y")
        for s in range(runs)
    ]
    return ScoreTable.from_frame(pd.DataFrame(rows, columns=["algorithm", "dataset", "seed", "score"]))


@needs_rliable
@pytest.mark.parametrize("method", ["percentile", "basic", "bc", "bca"])
@pytest.mark.parametrize("task_bootstrap", [False, True])
def test_compatible_mode_equals_the_engine(method: str, task_bootstrap: bool) -> None:
    options = {"method": method, "reps": 300, "seed": 4, "task_bootstrap": task_bootstrap}
    theirs = aggregate(table(), engine="rliable", **options)  # type: ignore[arg-type]
    ours = aggregate(table(), compat="rliable", **options)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(theirs, ours, rtol=1e-12)


@needs_rliable
def test_the_engine_puts_the_global_stream_back() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]  # noqa: NPY002
    aggregate(table(), engine="rliable", method="percentile", reps=20)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]  # noqa: NPY002


def test_what_the_engine_lacks() -> None:
    with pytest.raises(ScoreError, match="no calibrated"):
        aggregate(table(), engine="rliable")
    with pytest.raises(UnknownNameError, match="numpy"):
        aggregate(table(), engine="numpy")  # type: ignore[arg-type]
    short = table()
    rows = short.rows[(short.rows["dataset"] != "x") | (short.rows["seed"] != 0)]
    with pytest.raises(ScoreError, match="same number of seeds"):
        aggregate(ScoreTable.from_frame(rows), engine="rliable", method="percentile")


def test_a_missing_or_broken_rliable_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rliable.library", None)
    with pytest.raises(MissingExtraError, match=r"offbench\[rliable\]"):
        aggregate(table(), engine="rliable", method="percentile")

    def broken(name: str) -> None:
        raise TypeError("deprecate_kwarg() missing 1 required positional argument")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(MissingExtraError, match="arch<8 and pandas<3"):
        load_rliable()
