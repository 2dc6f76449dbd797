"""Datasets of logged transitions: the Dataset type, readers and writers, the registry, recipes."""

from offbench.datasets.d4rl import read_d4rl
from offbench.datasets.dataset import Dataset
from offbench.datasets.download import cache_dir
from offbench.datasets.lint import Finding, LintReport, lint_dataset, lint_path
from offbench.datasets.minari_format import read_minari, write_minari
from offbench.datasets.records import Provenance, Reference, TransformRecord
from offbench.datasets.registry import DatasetEntry, find_entry, list_datasets, load_dataset
from offbench.datasets.spaces import space_from_json, space_to_json

__all__ = [
    "Dataset",
    "DatasetEntry",
    "Finding",
    "LintReport",
    "Provenance",
    "Reference",
    "TransformRecord",
    "cache_dir",
    "find_entry",
    "lint_dataset",
    "lint_path",
    "list_datasets",
    "load_dataset",
    "read_d4rl",
    "read_minari",
    "space_from_json",
    "space_to_json",
    "write_minari",
]
