"""Published hyper-parameters as data: which settings an algorithm gets on a dataset, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from offbench.algorithms.base import Config, make_config
from offbench.algorithms.registry import get_algorithm
from offbench.errors import SpecError, UnknownNameError

# How a preset was chosen: "one" setting per domain, or "tuned" per dataset. Reports never mix them unasked.
CLASSES = ("one", "tuned")


@cache
def load_presets(algorithm: str) -> Mapping[str, Any]:
    """The presets file of an algorithm: {"default": name, "presets": {name: {class, source, rows}}}; may be empty."""
    file = files("offbench.algorithms") / "presets" / f"{algorithm}.yaml"
    if not file.is_file():
        return {}
    content = yaml.safe_load(file.read_text("utf-8"))
    for name, preset in content["presets"].items():
        if preset["class"] not in CLASSES:
            raise SpecError(f"preset {name} of {algorithm}: class {preset['class']!r}", "", "use one or tuned")
    return content


def preset_names(algorithm: str) -> list[str]:
    """Names of an algorithm's presets, the default one first."""
    content = load_presets(algorithm)
    names = list(content.get("presets", {}))
    return sorted(names, key=lambda name: name != content.get("default"))


def resolve_config(
    algorithm: str, dataset: str, preset: str | None = None, overrides: Mapping[str, Any] | None = None
) -> tuple[Config, dict[str, Any]]:
    """The full configuration of an algorithm on a dataset.

    Args:
        algorithm: registered name.
        dataset: id of the dataset; rows of the preset apply where their patterns match it.
        preset: name of a preset; None takes the algorithm's default one.
        overrides: values that win over the preset.

    Returns:
        The configuration, and where it comes from: preset, class ("one" or "tuned"), sources, preprocessing that the
        preset asks for, names of the overridden fields.

    Raises:
        UnknownNameError: no such algorithm, preset or configuration key.
        SpecError: a value does not fit its field.
    """
    config_class = get_algorithm(algorithm).config_class
    content = load_presets(algorithm)
    overrides = dict(overrides or {})
    origin: dict[str, Any] = {
        "preset": None,
        "class": "one",
        "sources": [],
        "preprocessing": {},
        "overridden": sorted(overrides),
    }
    values: dict[str, Any] = {}
    if content or preset is not None:
        name = preset or content["default"]
        if name not in content.get("presets", {}):
            raise UnknownNameError(f"preset of {algorithm}", name, content.get("presets", {}))
        chosen = content["presets"][name]
        origin |= {"preset": name, "class": chosen["class"], "sources": [chosen["source"]]}
        for row in chosen["rows"]:
            if any(fnmatchcase(dataset, pattern) for pattern in row["datasets"]):
                values |= row.get("config", {})
                origin["preprocessing"] |= row.get("preprocessing", {})
                if "source" in row:
                    origin["sources"].append(row["source"])
    return make_config(config_class, values | overrides), origin
