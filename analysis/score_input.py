"""`load_scores`: a table of scores from whatever the user has, with columns named by the user.

CSV and Parquet files, data frames, run folders' results, rliable's dictionaries of matrices, d3rlpy's log folders and
Weights & Biases exports of CORL's runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from offbench.analysis.score_checks import (
    KEYS,
    Notice,
    ScoreError,
    count,
    episodes_as_seeds,
    fraction_scale,
    mixed_scales,
    require_columns,
    row_ranges,
    some,
)
from offbench.analysis.score_logs import CORL_KEY, read_d3rlpy_logs, read_wandb_exports
from offbench.analysis.scores import RETURN, SCORE, ScoreTable, Selection
from offbench.datasets.records import Reference
from offbench.errors import IncompatibleError, UnknownNameError

Layout = Literal["table", "matrices", "d3rlpy", "wandb"]
LAYOUTS = ("table", "matrices", "d3rlpy", "wandb")
COLUMNS = (*KEYS, "score", "return", "step", "episode", "environment", "domain", "final", "run")
Given = Reference | tuple[float, float]


def load_scores(
    source: pd.DataFrame | Mapping[str, Any] | str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    layout: Layout | None = None,
    datasets: Sequence[str] | None = None,
    key: str | None = None,
    normalize: Literal["registry"] | Mapping[str, Given] | None = None,
    scale: float = 1.0,
    unit: str | None = None,
    protocol: Selection = "last",
    last_k: int = 3,
    missing: Literal["error", "leave-out"] = "error",
) -> ScoreTable:
    """Read scores and check them.

    A table has one row per training run, per evaluation (a column of steps) or per evaluation episode (a column of
    episodes). Episodes are averaged, then `protocol` reduces a run's evaluations to one score. Unequal seeds and
    missing cells are fine and told in notices.

    Args:
        source: a data frame; a CSV or Parquet file; `{algorithm: scores[runs, datasets]}` as rliable takes them, or
            with a third axis of evaluations; a folder of d3rlpy's logs; a CSV or folder of Weights & Biases exports.
        columns: what our columns are called in the source, e.g. {"algorithm": "algo", "score": "final_reward"}. Ours
            are algorithm, dataset, seed, score or return (a raw return), and optionally step, episode, environment
            (the Gymnasium id that gave the return), domain, final (rows of the closing evaluation), run.
        layout: "table", "matrices", "d3rlpy" or "wandb"; None tells files, frames and dictionaries apart, and takes
            a folder for d3rlpy's. Weights & Biases files must be named as such.
        datasets: names of a matrix's columns.
        key: the logged metric of d3rlpy ("environment") or Weights & Biases ("d4rl_normalized_score").
        normalize: turns raw returns into 0-100 scores: "registry" takes each dataset's reference, a mapping gives
            (minimum, maximum) or a `Reference` per dataset.
        scale: factor on scores, 100 for scores in 0-1.
        unit: of the scores; by default "normalized score", or "raw return" where returns stay raw.
        protocol, last_k: see `ScoreTable.from_runs`.
        missing: what to do with rows whose score is empty or not finite: an error, or leave them out with a notice.

    Raises:
        ScoreError: missing columns, duplicates, scores that are not numbers (each with its rows), no usable source.
        IncompatibleError: a return of another environment version than the reference's.
        UnknownNameError: `columns` names no column of ours; an unknown layout.
    """
    unknown = [name for name in columns or {} if name not in COLUMNS]
    if unknown:
        raise UnknownNameError("column", unknown[0], COLUMNS)
    if layout is not None and layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, LAYOUTS)
    frame = _frame(source, layout, datasets, key)
    tidy = _renamed(frame, columns or {})
    notices: list[Notice] = []
    value = "score" if "score" in tidy and not (normalize and "return" in tidy) else "return"
    require_columns(tidy, [*KEYS, value if value in tidy else "score"])
    if missing == "leave-out":
        tidy, notices = _without_missing(tidy, value)
    if normalize is not None:
        tidy, value = _normalized(tidy, value, normalize), "score"
    if scale != 1.0:
        tidy[value] = pd.to_numeric(tidy[value], errors="coerce") * scale
    unit = unit or (SCORE if value == "score" else RETURN)
    table = _table(tidy, value, unit, protocol, last_k)
    if "domain" in tidy:
        of = tidy.drop_duplicates("dataset").set_index("dataset")["domain"].astype(str)
        table = replace(table, rows=table.rows.assign(domain=table.rows["dataset"].map(of).to_numpy()))
    return replace(table, notices=(*notices, *table.notices))


# -- sources ---------------------------------------------------------------------------------------


def _frame(source: Any, layout: str | None, datasets: Sequence[str] | None, key: str | None) -> pd.DataFrame:
    if isinstance(source, pd.DataFrame):
        return source.reset_index(drop=True)
    if isinstance(source, Mapping):
        return frame_of_matrices(source, datasets)
    if layout == "wandb":
        return read_wandb_exports(source, key=key or CORL_KEY)
    if not isinstance(source, (str, Path)):
        raise ScoreError(
            f"scores cannot be read from {type(source).__name__}",
            fix="give a data frame, a dictionary of matrices, or the path of a CSV or Parquet file",
        )
    path = Path(source).expanduser()
    if path.is_dir() or layout == "d3rlpy":
        return read_d3rlpy_logs(path, metric=key or "environment")
    if not path.is_file():
        raise ScoreError(f"there is no file {path}")
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise ScoreError(f"{path} cannot be read as {path.suffix or 'CSV'}", str(error)) from error


def frame_of_matrices(matrices: Mapping[str, Any], datasets: Sequence[str] | None = None) -> pd.DataFrame:
    """rliable's `{algorithm: scores}` as a tidy frame: algorithm, dataset, seed, score and, for three axes, step.

    Args:
        matrices: algorithm -> [runs, datasets] or [runs, datasets, evaluations]. Algorithms may have different
            numbers of runs; NaN is a missing cell.
        datasets: names of the columns; "dataset 0", "dataset 1", ... by default.

    Raises:
        ScoreError: a matrix of another shape, or with another number of datasets than the others or than names.
    """
    frames = []
    width = len(datasets) if datasets is not None else None
    for algorithm, values in matrices.items():
        matrix = np.asarray(values, dtype=np.float64)
        if matrix.ndim not in (2, 3):
            raise ScoreError(
                f"the scores of {algorithm} have shape {matrix.shape}",
                "a matrix is [runs, datasets]",
                "runs come first",
            )
        width = matrix.shape[1] if width is None else width
        if matrix.shape[1] != width:
            raise ScoreError(
                f"{algorithm} has {matrix.shape[1]} datasets where {width} are expected",
                fix="rows are runs and columns are datasets: transpose the matrix if they are the other way round",
            )
        names = list(datasets) if datasets is not None else [f"dataset {m}" for m in range(width)]
        index = pd.MultiIndex.from_product([range(matrix.shape[0]), names], names=["seed", "dataset"])
        wide = pd.DataFrame(matrix.reshape(len(index), -1), index=index)
        long = wide.melt(ignore_index=False, var_name="step", value_name="score").reset_index()
        long = long.dropna(subset=["score"]).assign(algorithm=algorithm)
        frames.append(long if matrix.ndim == 3 else long.drop(columns="step"))
    if not frames:
        raise ScoreError("the dictionary of scores is empty")
    return pd.concat(frames, ignore_index=True)


def _renamed(frame: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """The frame with our names; a column of the user's that had one of them already gives way."""
    absent = [theirs for theirs in columns.values() if theirs not in frame.columns]
    if absent:
        raise ScoreError(
            f"the score table lacks the column(s) {', '.join(map(repr, absent))}",
            f"it has: {', '.join(map(str, frame.columns))}",
            "name the columns that are there, e.g. columns={'score': 'final_score'}",
        )
    taken = [ours for ours, theirs in columns.items() if ours != theirs and ours in frame.columns]
    frame = frame.drop(columns=[ours for ours in taken if ours not in columns.values()])
    tidy = pd.DataFrame({ours: frame[theirs] for ours, theirs in columns.items()})
    for name in COLUMNS:
        if name not in tidy and name in frame and name not in columns.values():
            tidy[name] = frame[name]
    return tidy


# -- steps on the way ------------------------------------------------------------------------------


def _without_missing(tidy: pd.DataFrame, value: str) -> tuple[pd.DataFrame, list[Notice]]:
    numbers = pd.to_numeric(tidy[value], errors="coerce").astype(np.float64)
    bad = tidy.index[~np.isfinite(numbers)]
    if not len(bad):
        return tidy, []
    text = f"{count(bad, 'row')} without a finite {value} left out: {row_ranges(bad)}. Means flatter what is left."
    return tidy.drop(index=bad), [Notice("not-finite", text)]


def _normalized(tidy: pd.DataFrame, value: str, normalize: str | Mapping[str, Given]) -> pd.DataFrame:
    """Add 0-100 scores; the reference of another environment version is refused, not applied with a warning."""
    names = list(tidy["dataset"].astype(str).unique())
    references = {name: _reference(name, normalize) for name in names}
    lacking = [name for name, reference in references.items() if reference is None]
    if lacking:
        raise ScoreError(
            f"there are no reference scores for {some(lacking)}",
            "a name that differs from the registry's in its version has other references, or none",
            "give them: normalize={'name': (minimum, maximum), ...}",
        )
    returns = pd.to_numeric(tidy[value], errors="coerce").astype(np.float64)
    environments = tidy["environment"] if "environment" in tidy else pd.Series(None, index=tidy.index, dtype=object)
    scores = pd.Series(np.nan, index=tidy.index)
    groups = tidy.assign(environment=environments.where(environments.notna(), "")).groupby(["dataset", "environment"])
    for (dataset, environment), index in groups.groups.items():
        reference = references[str(dataset)]
        if reference is None:
            continue
        try:
            scores[index] = reference.normalize(returns[index], environment=str(environment) or None)
        except IncompatibleError as error:
            raise IncompatibleError(f"{dataset}, {row_ranges(index)}: {error.what}", error.why, error.fix) from error
    return tidy.assign(score=scores)


def _reference(dataset: str, normalize: str | Mapping[str, Given]) -> Reference | None:
    if isinstance(normalize, str):
        if normalize != "registry":
            raise UnknownNameError("source of references", normalize, ("registry",))
        from offbench.datasets.registry import find_entry

        entry = find_entry(dataset)
        return entry.reference if entry is not None else None
    given = normalize.get(dataset)
    if given is None or isinstance(given, Reference):
        return given
    return Reference(float(given[0]), float(given[1]), "given by the user")


def _table(tidy: pd.DataFrame, value: str, unit: str, protocol: Selection, last_k: int) -> ScoreTable:
    """One score per run. Repeated evaluations go through the same reduction as our own runs."""
    if "step" not in tidy and "episode" not in tidy:
        return ScoreTable.from_frame(tidy, score=value, unit=unit)
    filled = tidy.assign(**{name: 0 for name in ("step", "episode") if name not in tidy})
    filled["return"] = filled[value]
    drop = ["score"] if "score" in filled else []
    table = ScoreTable.from_runs(filled.drop(columns=drop), metric="return", protocol=protocol, last_k=last_k)
    rows = table.rows.assign(unit=unit)
    extra = [*episodes_as_seeds(rows, "seed"), *(mixed_scales(rows) + fraction_scale(rows) if unit == SCORE else [])]
    return replace(table, rows=rows, notices=(*table.notices, *extra))
