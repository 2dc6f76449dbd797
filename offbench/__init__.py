"""offbench: benchmark offline-RL algorithms and analyse the datasets that they learn from.

The names below are the public API. They are loaded on first use, so `import offbench` is quick and imports
neither PyTorch nor a simulator nor a plotting library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offbench.api import train
    from offbench.datasets import Dataset, list_datasets, load_dataset
    from offbench.execution import run_suite
    from offbench.policy import Policy
    from offbench.reports import write_report
    from offbench.results import load_results
    from offbench.suite import Protocol, Suite

__version__ = "0.1.0"

__all__ = [
    "Dataset",
    "Policy",
    "Protocol",
    "Suite",
    "__version__",
    "list_datasets",
    "load_dataset",
    "load_results",
    "run_suite",
    "train",
    "write_report",
]

_MODULES = {
    "Dataset": "offbench.datasets",
    "Policy": "offbench.policy",
    "Protocol": "offbench.suite",
    "Suite": "offbench.suite",
    "list_datasets": "offbench.datasets",
    "load_dataset": "offbench.datasets",
    "load_results": "offbench.results",
    "run_suite": "offbench.execution",
    "train": "offbench.api",
    "write_report": "offbench.reports",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'offbench' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
