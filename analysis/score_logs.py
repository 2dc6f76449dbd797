"""Scores from the logs of other libraries: d3rlpy's metric files and Weights & Biases exports as CORL's runs give them.

Both become a tidy frame with one row per evaluation. What a log does not say, such as the seed of a CORL run, is not
guessed: the run's own id stands in for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offbench.analysis.score_checks import KEYS, ScoreError, some
from offbench.datasets.references import d4rl_entries

# d3rlpy names an experiment's folder; its benchmarks use ALGORITHM_DATASET_SEED and d3rlpy appends the time.
_D3RLPY_FOLDER = re.compile(r"(?P<algorithm>.+?)_(?P<dataset>[^_].*)_(?P<seed>\d+)_(?P<time>\d{14})")
# CORL names a run NAME-DATASET-ID, with the first eight characters of a random UUID.
_CORL_RUN = re.compile(r"(?P<name>.+)-(?P<id>[0-9a-f]{8})")
_CHART_COLUMN = re.compile(r"(?P<run>.+) - (?P<key>[^ ]+)")
_STEP_COLUMNS = ("Step", "_step")
CORL_KEY = "d4rl_normalized_score"


def read_d3rlpy_logs(root: str | Path, *, metric: str = "environment") -> pd.DataFrame:
    """Read d3rlpy's log folders, `ALGORITHM_DATASET_SEED_TIMESTAMP/METRIC.csv` with lines "epoch,step,value".

    Args:
        root: a folder with experiment folders in it, or one experiment folder.
        metric: name of the metric's file. "environment" is the mean return of the evaluation episodes: a raw return.

    Returns:
        algorithm, dataset, seed, step, return, run (the folder's name), one row per evaluation.

    Raises:
        ScoreError: no such files; a folder whose name has other parts; a file with other columns; two folders of one
            algorithm, dataset and seed.
    """
    root = Path(root)
    files = sorted({*root.glob(f"{metric}.csv"), *root.glob(f"*/{metric}.csv")})
    if not files:
        raise ScoreError(f"no {metric}.csv in the folders of {root}", fix="name the metric, e.g. metric='evaluation'")
    frames, names = [], []
    for file in files:
        match = _D3RLPY_FOLDER.fullmatch(file.parent.name)
        if match is None:
            raise ScoreError(
                f"the folder {file.parent.name!r} does not say which run it holds",
                "expected ALGORITHM_DATASET_SEED_TIMESTAMP, e.g. IQL_hopper-medium-v0_1_20220504124857",
                "rename it, or build a table with columns algorithm, dataset, seed, step, return",
            )
        names.append((match["algorithm"], match["dataset"], int(match["seed"]), file.parent.name))
        frames.append(_d3rlpy_metric(file).assign(**dict(zip((*KEYS, "run"), names[-1], strict=True))))
    runs = pd.DataFrame(names, columns=[*KEYS, "run"])
    repeated = runs[runs.duplicated(KEYS, keep=False)]
    if len(repeated):
        raise ScoreError(
            "different runs share one algorithm, dataset and seed",
            some(list(repeated["run"]), limit=4),
            "an interrupted run was probably started again: move the folder that does not count away",
        )
    return pd.concat(frames, ignore_index=True)[[*KEYS, "step", "return", "run"]]


def _d3rlpy_metric(file: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(file, header=None)
    except (ValueError, pd.errors.ParserError) as error:
        raise ScoreError(f"{file} cannot be read as CSV", str(error)) from error
    if frame.shape[1] != 3:
        raise ScoreError(
            f"{file} has {frame.shape[1]} columns", "d3rlpy writes epoch, step and value, without a header"
        )
    frame = frame.set_axis(["epoch", "step", "return"], axis=1)
    frame["return"] = pd.to_numeric(frame["return"], errors="coerce")  # "nan" and text are told by the table's checks
    return frame


def read_wandb_exports(files: str | Path | Sequence[str | Path], *, key: str = CORL_KEY) -> pd.DataFrame:
    """Read CSV exports of Weights & Biases whose runs are named as CORL's are: `NAME-DATASET-ID`.

    Two layouts: a chart's export (a column `Step` and one column "RUN - KEY" per run; the columns that end in
    `__MIN` and `__MAX` are ignored), and a run's history (columns `_step` and KEY; the file is named after the run).

    The name of a CORL run does not hold its seed; the seed column is the run's ID.

    Args:
        files: a file, several, or a folder of CSV files.
        key: the logged quantity. CORL logs "d4rl_normalized_score" (0-100); its Decision Transformer one key per
            target return, "eval/TARGET_normalized_score_mean".

    Returns:
        algorithm, dataset, seed, step, score, run, one row per evaluation.

    Raises:
        ScoreError: no such column; a run whose name has other parts.
    """
    paths = [Path(file) for file in ([files] if isinstance(files, (str, Path)) else files)]
    paths = [file for path in paths for file in (sorted(path.glob("*.csv")) if path.is_dir() else [path])]
    if not paths:
        raise ScoreError("there is no CSV file", f"looked in {files}")
    return pd.concat([part for path in paths for part in _wandb_runs(path, key)], ignore_index=True)


def _wandb_runs(file: Path, key: str) -> list[pd.DataFrame]:
    try:
        frame = pd.read_csv(file)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise ScoreError(f"{file} cannot be read as CSV", str(error)) from error
    step = next((name for name in _STEP_COLUMNS if name in frame), None)
    if step is None:
        raise ScoreError(f"{file} has no column of steps", f"it has: {', '.join(map(str, frame.columns))}")
    columns = {file.stem: key} if key in frame else {}
    for column in frame.columns:
        match = _CHART_COLUMN.fullmatch(str(column))
        if match is not None and match["key"] == key:
            columns[match["run"]] = column
    if not columns:
        raise ScoreError(
            f"{file} has no column of {key!r}",
            f"it has: {some(list(map(str, frame.columns)))}",
            "name the logged quantity with key=...",
        )
    parts = []
    for run, column in columns.items():
        algorithm, dataset, identity = parse_corl_run(run)
        logged = frame[[step, column]].set_axis(["step", "score"], axis=1).dropna(subset=["score"])
        parts.append(logged.assign(algorithm=algorithm, dataset=dataset, seed=identity, run=run))
    return [part[[*KEYS, "step", "score", "run"]] for part in parts]


def parse_corl_run(run: str) -> tuple[str, str, str]:
    """Algorithm, dataset and id in the name of a CORL run, e.g. "TD3-BC-hopper-medium-v2-1a2b3c4d".

    Both parts may hold hyphens: the dataset is the longest ending that the registry knows.

    Raises:
        ScoreError: there is no known dataset id before an eight-digit hexadecimal one.
    """
    match = _CORL_RUN.fullmatch(run)
    parts = match["name"].split("-") if match else []
    for first in range(1, len(parts)):
        dataset = "-".join(parts[first:])
        if match and dataset in d4rl_entries():
            return "-".join(parts[:first]), dataset, match["id"]
    raise ScoreError(
        f"the run name {run!r} does not say what was run",
        "expected ALGORITHM-DATASET-ID with a D4RL dataset and an id of eight hexadecimal digits",
        "build a table with columns algorithm, dataset, seed, step, score",
    )
