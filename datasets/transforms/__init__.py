"""Transforms: pure functions Dataset -> Dataset that corrupt, reweight, filter, mix and relabel, with provenance."""

from offbench.datasets.transforms.base import Transform, restore
from offbench.datasets.transforms.pipeline import apply_transforms, parse_transform
from offbench.datasets.transforms.registry import get_transform, transform_names

__all__ = ["Transform", "apply_transforms", "get_transform", "parse_transform", "restore", "transform_names"]
