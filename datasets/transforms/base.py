"""What every transform has in common: parameters, keyed randomness, touched rows, provenance, and restoring."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from offbench.datasets.marks import MISSING
from offbench.datasets.records import TransformRecord
from offbench.errors import DatasetError, SpecError

if TYPE_CHECKING:
    from offbench.datasets.columns import Array
    from offbench.datasets.dataset import Dataset

# Prefixes of the columns in `Dataset.infos` that a transform leaves behind.
TOUCHED = "touched/"
CLEAN = "clean/"


@dataclass(frozen=True, kw_only=True)
class Transform(ABC):
    """A pure function from a dataset to a dataset; its fields are its parameters.

    A subclass is a frozen, keyword-only dataclass of JSON-able parameters with defaults where a sensible one exists,
    checked in `__post_init__`. One that draws random numbers declares a field `seed: int = 0` and draws only from
    `rng`, so that equal parameters give equal data on every machine.

    Attributes:
        name: the word in suites and on the command line.
        summary: one line that says what it does.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    @abstractmethod
    def apply(self, dataset: Dataset) -> Dataset:
        """The transformed dataset, made by `changed`; columns that do not change are shared, not copied.

        Raises:
            DatasetError, IncompatibleError: the transform does not apply to this dataset; the message says why.
        """

    def __call__(self, dataset: Dataset) -> Dataset:
        """Same as `apply`."""
        return self.apply(dataset)

    @property
    def parameters(self) -> dict[str, Any]:
        """Every parameter but the seed, JSON-able."""
        fields = (field.name for field in dataclasses.fields(self) if field.name != "seed")
        return {name: _plain(getattr(self, name)) for name in fields}

    def rng(self, *stream: str | int) -> np.random.Generator:
        """The generator of one stream of draws, keyed by the seed, the transform's name and the stream's."""
        seed = getattr(self, "seed", None)
        if seed is None:
            raise SpecError(f"{self.name} draws random numbers but has no seed")
        parts = (part if isinstance(part, int) else zlib.crc32(part.encode()) for part in (self.name, *stream))
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *parts])))

    def changed(
        self,
        dataset: Dataset,
        *,
        touched: Mapping[str, Array] | None = None,
        clean: Mapping[str, Array] | None = None,
        measured: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Dataset:
        """The dataset with fields replaced and this transform appended to its provenance.

        Args:
            dataset: what the transform was applied to.
            touched: column name -> [N] bool, the rows whose value changed; kept as infos "touched/<column>", joined
                with those of earlier transforms. Names are those of a batch: observations, actions, rewards,
                next_observations, terminated.
            clean: column name -> [N, ...], the values before the change, kept as infos "clean/<column>" unless an
                earlier transform has left one there; `restore` puts them back.
            measured: numbers that the transform found out (JSON-able), e.g. the held-out error of a model.
            changes: fields of `Dataset`.
        """
        infos = dict(changes.pop("infos", dataset.infos))
        for column, mask in (touched or {}).items():
            earlier = infos.get(TOUCHED + column)
            infos[TOUCHED + column] = mask if earlier is None else mask | earlier
        for column, values in (clean or {}).items():
            infos.setdefault(CLEAN + column, values)
        parameters = self.parameters | ({"measured": _plain(dict(measured))} if measured else {})
        record = TransformRecord(self.name, parameters, getattr(self, "seed", None))
        return dataset.with_transform(record, infos=infos, **changes)


def touched_rows(dataset: Dataset, column: str | None = None) -> Array:
    """Which transitions transforms have changed, [N] bool: in one column, or in any."""
    names = [TOUCHED + column] if column is not None else [name for name in dataset.infos if name.startswith(TOUCHED)]
    mask = np.zeros(dataset.num_transitions, np.bool_)
    for name in names:
        if name in dataset.infos:
            mask |= dataset.infos[name].astype(np.bool_)
    return mask


def restore(dataset: Dataset) -> Dataset:
    """Put the clean values back that value-changing transforms (corruption, relabelling) have left in `infos`.

    Rows that a transform removed, added or reordered stay so. The columns "touched/..." and "clean/..." go.

    Raises:
        DatasetError: a column was touched and its clean values were not kept.
    """
    changes: dict[str, Any] = {}
    for name in dataset.infos:
        column = name.removeprefix(TOUCHED)
        if name.startswith(TOUCHED) and dataset.infos[name].any() and CLEAN + column not in dataset.infos:
            raise DatasetError(
                f"the clean {column} of {dataset.name} were not kept", "", "apply the transform with keep_clean=true"
            )
    for name, values in dataset.infos.items():
        if name.startswith(CLEAN):
            column = name.removeprefix(CLEAN)
            if column == "observations":
                frames = changes["observations"] if "observations" in changes else dataset.observations.copy()
                frames[dataset.frame_index] = values
                changes["observations"] = frames
            elif column == "next_observations" and dataset.next_observations_override is None:
                # The frames themselves were changed; those behind an episode's last row are in no other column.
                rows = np.flatnonzero(dataset.is_last & dataset.next_valid)
                frames = changes["observations"] if "observations" in changes else dataset.observations.copy()
                frames[dataset.next_frame_index[rows]] = values[rows]
                changes["observations"] = frames
            elif column == "next_observations":
                changes["next_observations_override"] = values
            elif column == "next_known":
                changes["next_known"] = values.astype(np.bool_)
            else:
                changes[column] = values.astype(getattr(dataset, column).dtype, copy=False)
    gone = (TOUCHED, CLEAN, *(MISSING + column for column in changes))
    infos = {name: values for name, values in dataset.infos.items() if not name.startswith(gone)}
    restored = dataset.with_transform(TransformRecord("restore", {}), infos=infos, **changes)
    return _without_needless_override(restored)


def _without_needless_override(dataset: Dataset) -> Dataset:
    """Drop an override that says nothing but what the frames say, as the constructor from arrays does."""
    override = dataset.next_observations_override
    if override is None:
        return dataset
    plain = dataset.replace(next_observations_override=None)
    valid = plain.next_valid
    same = np.array_equal(valid, dataset.next_valid) and np.array_equal(plain.next_observations[valid], override[valid])
    return plain if same else dataset


def array_digest(values: Array) -> str:
    """A short name for an array's content, for the provenance of a transform that was given an array."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return hashlib.sha256(f"{little.dtype.str}{little.shape}".encode() + little.tobytes()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """A JSON-able description of a parameter: arrays by content, functions by name."""
    if isinstance(value, np.ndarray):
        return f"array {value.dtype}{list(value.shape)} {array_digest(value)}"
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return value.as_posix()
    if callable(value):
        return f"function {getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', type(value).__name__)}"
    json.dumps(value)  # a TypeError here is a bug of the transform
    return value
