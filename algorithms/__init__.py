"""Offline-RL algorithms, one readable file each, trained with many seeds at once; presets of published settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from offbench.algorithms.registry import algorithm_names, get_algorithm

if TYPE_CHECKING:
    from offbench.algorithms.base import Algorithm, Config, check_compatible, shareable_fields
    from offbench.algorithms.batches import LaneSampler, Preprocessing, TransitionBuffer
    from offbench.algorithms.presets import resolve_config

# Names that need torch are imported when first used.
_LAZY = {
    "Algorithm": "base",
    "Config": "base",
    "check_compatible": "base",
    "shareable_fields": "base",
    "LaneSampler": "batches",
    "Preprocessing": "batches",
    "TransitionBuffer": "batches",
    "resolve_config": "presets",
}

__all__ = [
    "Algorithm",
    "Config",
    "LaneSampler",
    "Preprocessing",
    "TransitionBuffer",
    "algorithm_names",
    "check_compatible",
    "get_algorithm",
    "resolve_config",
    "shareable_fields",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
