"""Scores and weights that a user brings: an array, an infos column, or a .npy or .csv file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from offbench.datasets.columns import Array, numeric, require_finite, squeeze_column
from offbench.datasets.dataset import Dataset
from offbench.errors import DatasetError, SpecError, UnknownNameError

INFOS = "infos/"


def read_column(dataset: Dataset, given: str | Array | None, role: str) -> Array:
    """Return the values as [n] float64, finite; how many there must be is the caller's to check.

    Args:
        given: an array; "infos/NAME"; or the path of a .npy file, or of a .csv file of one column or with a column
            called `role`.
        role: "score" or "weights", for messages.

    Raises:
        SpecError, UnknownNameError: `given` names nothing.
        DatasetError: the values are not a column of finite numbers, or the file cannot be read.
    """
    if isinstance(given, np.ndarray):
        name, source = role, given
    elif isinstance(given, str) and given.startswith(INFOS):
        name, key = given, given.removeprefix(INFOS)
        if key not in dataset.infos:
            raise UnknownNameError(
                "infos column", key, dataset.infos, "" if dataset.infos else "the dataset has no infos"
            )
        source = dataset.infos[key]
    elif isinstance(given, str) and Path(given).suffix in (".npy", ".csv"):
        name, source = given, _read_file(Path(given).expanduser(), role)
    else:
        raise SpecError(f"{role} is {given!r}", "", f"give infos/NAME, a .npy or .csv file, or an array{_known(role)}")
    values = squeeze_column(numeric(name, source)).astype(np.float64)
    if values.ndim != 1 or not len(values):
        raise DatasetError(f"{name} has shape {values.shape}", "a column has one number per row")
    require_finite(name, values)
    return values


def _known(role: str) -> str:
    return "; return and length are known, too" if role == "score" else ""


def _read_file(path: Path, role: str) -> Array:
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        return _read_csv(path, role)
    except FileNotFoundError:
        raise SpecError(f"there is no file {path}", f"it was named as {role}", "") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read {path}", str(error), "it must hold one column of numbers") from error


def _read_csv(path: Path, role: str) -> Array:
    import pandas as pd

    table = pd.read_csv(path)
    if len(table.columns) == 1 and _is_number(str(table.columns[0])):
        table = pd.read_csv(path, header=None)  # a file without a header: its first line is a value
    if role in table.columns:
        return table[role].to_numpy()
    if len(table.columns) != 1:
        raise ValueError(f"it has the columns {', '.join(map(str, table.columns))}, and none is called {role!r}")
    return table.iloc[:, 0].to_numpy()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
