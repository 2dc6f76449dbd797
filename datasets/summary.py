"""What a dataset holds, in numbers and words: the content of `Dataset.summary` and of `offbench data info`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from offbench.datasets.columns import Array
from offbench.datasets.dataset import CORE_COLUMNS, Dataset
from offbench.datasets.sampling import sampling_summary


def summarize(dataset: Dataset) -> dict[str, Any]:
    """Return what the dataset holds as a JSON-able dictionary: sizes, flags, returns, spaces, origin."""
    reference = dataset.reference
    return {
        "name": dataset.name,
        "environment": dataset.environment,
        "fingerprint": dataset.fingerprint,
        "transitions": dataset.num_transitions,
        "episodes": dataset.num_episodes,
        "complete_episodes": int(dataset.episode_complete.sum()),
        "terminated": int(dataset.terminated.sum()),
        "truncated": int(dataset.truncated.sum()),
        "terminated_and_truncated": int((dataset.terminated & dataset.truncated).sum()),
        "next_observation_unknown": int((~dataset.next_valid).sum()),
        "not_bootstrappable": int((~dataset.bootstrappable).sum()),
        "next_observations_stored": dataset.next_observations_override is not None,
        "observation_space": str(dataset.observation_space),
        "action_space": str(dataset.action_space),
        "episode_return": _statistics(dataset.episode_returns),
        "episode_length": _statistics(dataset.episode_lengths),
        "reward": _statistics(dataset.rewards),
        "normalized_return": reference and _statistics(reference.normalize(dataset.episode_returns)),
        "reference": reference and asdict(reference),
        "sampling": None if dataset.sampling_weights is None else sampling_summary(dataset),
        "columns": [name for name in CORE_COLUMNS if getattr(dataset, name) is not None],
        "infos": sorted(dataset.infos),
        "megabytes": round(_stored_bytes(dataset) / 1e6, 1),
        "source": dataset.provenance.source,
        "details": dict(dataset.provenance.details),
        "transforms": [
            {"name": record.name, "parameters": dict(record.parameters), "seed": record.seed}
            for record in dataset.provenance.transforms
        ],
    }


def _stored_bytes(dataset: Dataset) -> int:
    stored = [getattr(dataset, name) for name in CORE_COLUMNS] + list(dataset.infos.values())
    return sum(column.nbytes for column in stored if column is not None)


def _statistics(values: Array) -> dict[str, float]:
    wide = values.astype(np.float64)
    return {
        "mean": float(wide.mean()),
        "std": float(wide.std()),
        "min": float(wide.min()),
        "median": float(np.median(wide)),
        "max": float(wide.max()),
    }
