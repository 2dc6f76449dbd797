"""Datasets of logged transitions: the Dataset type, readers and writers, the registry, recipes."""

from offbench.datasets.column_cache import cache_entries, clear_cache
from offbench.datasets.d4rl import read_d4rl
from offbench.datasets.d4rl_write import write_d4rl
from offbench.datasets.dataset import Dataset
from offbench.datasets.download import cache_dir
from offbench.datasets.dsrl import read_dsrl
from offbench.datasets.formats import FORMATS, detect_format, read_path
from offbench.datasets.lint import Finding, LintReport, lint_dataset, lint_path
from offbench.datasets.minari_format import read_minari, write_minari
from offbench.datasets.neorl2 import read_neorl2
from offbench.datasets.npz import read_npz
from offbench.datasets.ogbench import read_ogbench
from offbench.datasets.ogbench_tasks import OGBenchTask
from offbench.datasets.parquet_write import write_parquet
from offbench.datasets.records import Provenance, Reference, TransformRecord
from offbench.datasets.registry import DatasetEntry, find_entry, list_datasets, load_dataset
from offbench.datasets.replay_buffer import from_replay_buffer
from offbench.datasets.spaces import space_from_json, space_to_json
from offbench.datasets.tables import TableSchema, from_frame, infer_schema, read_table

__all__ = [
    "FORMATS",
    "Dataset",
    "DatasetEntry",
    "Finding",
    "LintReport",
    "OGBenchTask",
    "Provenance",
    "Reference",
    "TableSchema",
    "TransformRecord",
    "cache_dir",
    "cache_entries",
    "clear_cache",
    "detect_format",
    "find_entry",
    "from_frame",
    "from_replay_buffer",
    "infer_schema",
    "lint_dataset",
    "lint_path",
    "list_datasets",
    "load_dataset",
    "read_d4rl",
    "read_dsrl",
    "read_minari",
    "read_neorl2",
    "read_npz",
    "read_ogbench",
    "read_path",
    "read_table",
    "space_from_json",
    "space_to_json",
    "write_d4rl",
    "write_minari",
    "write_parquet",
]
