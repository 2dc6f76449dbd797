"""The dataset that one of our own writers stored in a file, with what the caller of the reader gives in its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offbench.datasets.dataset import Dataset
from offbench.errors import DatasetError


def restored_dataset(stored: Mapping[str, Any], path: Path, **given: Any) -> Dataset:
    """Return the dataset of the restored fields `stored`; a field `given` that is not None replaces a stored one.

    Raises:
        DatasetError: a field is missing, unknown or unusable.
    """
    try:
        return Dataset(**{**stored, **{name: value for name, value in given.items() if value is not None}})
    except TypeError as error:
        raise DatasetError(
            f"{path} is damaged, or was changed after offbench wrote it",
            str(error),
            "write it again",
        ) from error
