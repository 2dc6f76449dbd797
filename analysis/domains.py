"""Which domain a dataset belongs to, for averages over domains as papers print them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from offbench.datasets.references import d4rl_entries

# The groups of D4RL's tables, by the registry's families.
_DOMAINS = {
    "locomotion": ("hopper", "halfcheetah", "walker2d", "ant", "humanoid"),
    "adroit": ("pen", "door", "hammer", "relocate"),
    "maze2d": ("maze2d", "pointmaze"),
    "antmaze": ("antmaze",),
    "kitchen": ("kitchen",),
}
_BY_FAMILY = {family: domain for domain, families in _DOMAINS.items() for family in families}


def domain_of(dataset: str) -> str:
    """The domain of a dataset: that of its family in the registry, or of the first part of its name.

    "hopper-medium-v2" and "minari:mujoco/hopper/expert-v0" are locomotion; a name that nothing is known of is its own
    first part.
    """
    entry = d4rl_entries().get(dataset)
    if entry is not None:
        return _BY_FAMILY.get(entry.family, entry.family)
    parts = [part for part in re.split(r"[-_/: ]", dataset.lower()) if part not in ("", "minari", "mujoco", "d4rl")]
    first = parts[0] if parts else dataset
    return _BY_FAMILY.get(first, first)


def domains_of(datasets: Sequence[str], given: Mapping[str, str] | None = None) -> dict[str, list[str]]:
    """Datasets by domain in order of appearance; `given` overrides what names say."""
    groups: dict[str, list[str]] = {}
    for dataset in datasets:
        groups.setdefault((given or {}).get(dataset) or domain_of(dataset), []).append(dataset)
    return groups
