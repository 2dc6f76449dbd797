"""Datasets of logged transitions: the Dataset type, readers and writers, the registry, recipes."""

from offbench.datasets.dataset import Dataset, Provenance, Reference, TransformRecord
from offbench.datasets.spaces import space_from_json, space_to_json

__all__ = [
    "Dataset",
    "Provenance",
    "Reference",
    "TransformRecord",
    "space_from_json",
    "space_to_json",
]
