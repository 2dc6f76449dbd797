"""The table of quality measures: built-in ones, and those of other packages by the entry points `offbench.measures`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points

from offbench.analysis.quality_view import View
from offbench.errors import SpecError, UnknownNameError

GROUP = "offbench.measures"
# The order of modules and, in them, of definitions is that of the table.
_MODULES = (
    *("quality_returns", "quality_coverage", "quality_entropy", "quality_behaviour", "quality_policies"),
    *("quality_learned", "quality_distance"),
)


@dataclass(frozen=True)
class Measure:
    """A number that says something about a dataset.

    Attributes:
        name: stable id, in snake case.
        title: a few words for tables.
        formula: the definition.
        source: the paper that it comes from.
        reference: what it needs besides the dataset; "" for nothing.
        cost: of computing it, in words.
        meaning: what a large value says.
        compute: takes a `View`; raises NotMeasurableError where the measure has no value.
    """

    name: str
    title: str
    formula: str
    source: str
    reference: str
    cost: str
    meaning: str
    compute: Callable[[View], float]


_BUILTIN: dict[str, Measure] = {}


def measure(
    name: str, title: str, *, formula: str, source: str, meaning: str, reference: str = "", cost: str = "one pass"
) -> Callable[[Callable[[View], float]], Callable[[View], float]]:
    """Enter a function of a `View` into the table of built-in measures."""

    def enter(compute: Callable[[View], float]) -> Callable[[View], float]:
        _BUILTIN[name] = Measure(name, title, formula, source, reference, cost, meaning, compute)
        return compute

    return enter


def measures() -> dict[str, Measure]:
    """Return all measures by name: the built-in ones in order, then those of other packages.

    Raises:
        SpecError: an entry point does not lead to a `Measure`.
    """
    for module in _MODULES:
        import_module(f"offbench.analysis.{module}")
    found = dict(_BUILTIN)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        plugin = entry.load()
        if not isinstance(plugin, Measure):
            raise SpecError(f"the entry point {entry.name!r} ({entry.value}) is not an offbench Measure")
        found.setdefault(plugin.name, plugin)
    return found


def select_measures(names: Sequence[str] | None = None) -> list[Measure]:
    """Return the named measures, or all; UnknownNameError if there is none of a name."""
    known = measures()
    if names is None:
        return list(known.values())
    for name in names:
        if name not in known:
            raise UnknownNameError("measure", name, known)
    return [known[name] for name in dict.fromkeys(names)]
