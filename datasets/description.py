"""What a dataset says about itself beside its columns, as JSON and back: for the writers and the column cache."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from gymnasium import spaces

from offbench.datasets.dataset import Dataset
from offbench.datasets.records import Provenance, Reference, TransformRecord
from offbench.datasets.spaces import space_from_json, space_to_json
from offbench.errors import DatasetError


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return the name, environment, reference, provenance and spaces of `dataset` as JSON-able values."""
    return {
        **describe_origin(dataset),
        "observation_space": _space_to_json(dataset.observation_space),
        "action_space": _space_to_json(dataset.action_space),
    }


def describe_origin(dataset: Dataset) -> dict[str, Any]:
    """Return the part of `describe` without the spaces, for formats that have their own place for them."""
    description = {
        "name": dataset.name,
        "environment": dataset.environment,
        "reference": dataset.reference and asdict(dataset.reference),
        "provenance": {
            "source": dataset.provenance.source,
            "details": dict(dataset.provenance.details),
            "transforms": [
                {"name": record.name, "parameters": dict(record.parameters), "seed": record.seed}
                for record in dataset.provenance.transforms
            ],
        },
    }
    plain: dict[str, Any] = json.loads(json.dumps(description, default=_plain))
    return plain


def restore(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `Dataset` that `describe` recorded.

    Raises:
        DatasetError: a field is missing or unusable.
    """
    try:
        return {
            **restore_origin(description),
            "observation_space": _space_from_json(description["observation_space"]),
            "action_space": _space_from_json(description["action_space"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(error) from error


def restore_origin(description: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `describe_origin`: name, environment, reference and provenance."""
    try:
        reference, provenance = description["reference"], description["provenance"]
        if reference is not None:
            reference = Reference(**{**reference, "compatible": tuple(reference["compatible"])})
        return {
            "name": description["name"],
            "environment": description["environment"],
            "reference": reference,
            "provenance": Provenance(
                provenance["source"],
                provenance["details"],
                tuple(TransformRecord(**record) for record in provenance["transforms"]),
            ),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(error) from error


def _unusable(error: Exception) -> DatasetError:
    return DatasetError(
        "the description that offbench stored with the data is not usable",
        f"{type(error).__name__}: {error}",
        "the file was changed by hand or by another program; write it again",
    )


def _space_to_json(space: spaces.Space[Any]) -> Any:
    """Return Minari's description of `space`; a Box with one bound for all entries in a short form of ours.

    Minari spells every bound out, which for images is longer to parse than the data are to open.
    """
    if isinstance(space, spaces.Box) and space.low.size:
        low, high = space.low.flat[0], space.high.flat[0]
        if (space.low == low).all() and (space.high == high).all():
            bounds = [low.item(), high.item()]
            return {"type": "UniformBox", "bounds": bounds, "shape": list(space.shape), "dtype": str(space.dtype)}
    return json.loads(space_to_json(space))


def _space_from_json(description: Mapping[str, Any]) -> spaces.Space[Any]:
    if description["type"] == "UniformBox":
        dtype = np.dtype(description["dtype"])
        low, high = (np.full(description["shape"], bound, dtype) for bound in description["bounds"])
        return spaces.Box(low, high, dtype=dtype.type)
    return space_from_json(description)


def _plain(value: Any) -> Any:
    """Make provenance details JSON-able: arrays and NumPy numbers become lists and numbers, the rest text."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)
