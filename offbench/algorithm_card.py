"""What is known of an algorithm: settings with their sources, networks, cost, presets, published scores."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offbench.algorithms.base import Algorithm


def capability(algorithm: type[Algorithm]) -> dict[str, Any]:
    """An algorithm's row in the table of all: what it learns from, what it is made of, what it costs.

    Returns:
        JSON-able: name, title, actions, needs (what a batch holds beside s, a, r), networks (targets and ensemble
        members included), cost (arithmetic of an update relative to BC's; None for algorithms of other packages),
        presets (name -> class and source, the default one first), paper.
    """
    from offbench.algorithms.base import number_of_networks
    from offbench.algorithms.cost import shipped_costs
    from offbench.algorithms.presets import load_presets, preset_names

    presets = load_presets(algorithm.name).get("presets", {})
    return {
        "name": algorithm.name,
        "title": algorithm.title,
        "actions": sorted(algorithm.requires.actions),
        "needs": algorithm.needs(algorithm.config_class()).words(),
        "networks": number_of_networks(algorithm),
        "cost": shipped_costs().get(algorithm.name),
        "presets": {
            name: {"class": presets[name]["class"], "source": presets[name]["source"]}
            for name in preset_names(algorithm.name)
        },
        "paper": algorithm.paper,
    }


def algorithm_card(name: str, dataset: str | None = None, preset: str | None = None) -> dict[str, Any]:
    """Everything that `offbench algorithms show` prints.

    Args:
        name: a registered algorithm.
        dataset: id whose values and published scores are wanted; None takes what holds for all.
        preset: name of a preset; None takes the default one.

    Returns:
        `capability`, and description (the class's documentation), networks_by_name, settings, config_source,
        published (see `published_summary`). The cost of another package's algorithm is counted here.

    Raises:
        UnknownNameError: no such algorithm or preset.
    """
    from offbench.algorithms import get_algorithm, resolve_config
    from offbench.algorithms.base import EncoderConfig, networks_of
    from offbench.algorithms.cost import relative_cost

    algorithm = get_algorithm(name)
    values, source = resolve_config(name, dataset or "", preset)
    resolved = values.to_dict()
    shared = {field.name for field in dataclasses.fields(EncoderConfig)}  # of many algorithms: told last
    fields = sorted(dataclasses.fields(algorithm.config_class), key=lambda field: field.name in shared)
    settings = [
        {
            "name": field.name,
            "default": list(field.default) if isinstance(field.default, tuple) else field.default,
            "value": resolved[field.name],
            **{key: field.metadata.get(key) for key in ("meaning", "symbol", "source", "per_lane")},
        }
        for field in fields
    ]
    card = capability(algorithm)
    if card["cost"] is None:
        card["cost"] = round(relative_cost(algorithm), 2)
    return {
        **card,
        "description": algorithm.__doc__ or "",
        "networks_by_name": networks_of(algorithm),
        "dataset": dataset,
        "settings": settings,
        "config_source": source,
        "published": published_summary(name, dataset),
    }


def published_summary(name: str, dataset: str | None = None) -> list[dict[str, Any]]:
    """What papers and repositories print for an algorithm.

    Args:
        name: any spelling of the algorithm.
        dataset: leave out other datasets.

    Returns:
        Per source, group of datasets ("locomotion-v2") or dataset, condition of the data and rule by which
        checkpoints were chosen: how many numbers, their mean and the seeds. Sources are not pooled. Copies of other
        sources' numbers are left out unless there is nothing else (`copies`). Empty where nothing is known.
    """
    from offbench.analysis.domains import domain_of
    from offbench.analysis.published import NORMALIZED, canonical_algorithm, published_scores, version_of

    canonical = canonical_algorithm(name)
    if canonical is None:
        return []
    rows = published_scores(dataset=dataset, algorithm=canonical)
    rows = rows[rows["unit"] == NORMALIZED]
    if (rows["origin"] != "copy").any():
        rows = rows[rows["origin"] != "copy"]

    def group(of: str) -> str:
        version = version_of(of)[1]
        return of if dataset else f"{domain_of(of)}-{version}" if version else domain_of(of)

    rows = rows.assign(group=[group(of) for of in rows["dataset"]])
    keys = ["source", "group", "condition", "selection"]
    return [
        {
            "source": source,
            "datasets": label,
            "condition": condition,
            "numbers": len(part),
            "mean": round(float(part["mean"].mean()), 2),
            "seeds": sorted({int(seeds) for seeds in part["seeds"].dropna()}),
            "copies": bool((part["origin"] == "copy").all()),
            "selection": selection,
        }
        for (source, label, condition, selection), part in rows.groupby(keys, sort=False, dropna=False)
    ]
