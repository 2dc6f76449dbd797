"""Robustness studies: algorithms on a dataset as it is and on corrupted copies of it, as a suite and its report."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offbench.analysis.robustness import Condition
from offbench.errors import SpecError, UnknownNameError
from offbench.suite import AlgorithmRef, DatasetRef, Suite

if TYPE_CHECKING:
    from offbench.execution import RunSummary
    from offbench.reports import ReportFiles, TableRows

TARGETS = ("observations", "actions", "rewards", "dynamics")
MODES = ("random", "adversarial")


@dataclass(frozen=True)
class RobustnessStudy:
    """A suite over clean and corrupted data.

    Attributes:
        suite: what is run.
        conditions: name of a dataset in the suite -> what was done to it.
    """

    suite: Suite
    conditions: Mapping[str, Condition]

    def report(self, root: str | Path, summary: RunSummary) -> tuple[ReportFiles, TableRows] | None:
        """Write the report of the finished runs into <root>/<study>/report; None if none on corrupted data is done."""
        from offbench.api import in_suite_order
        from offbench.reports.robustness import write_robustness
        from offbench.results import load_results

        results = load_results(root, summary.runs)
        if all(self.conditions[name].clean for name in results["dataset"].unique()):
            return None
        return write_robustness(
            in_suite_order(results, summary.folder),
            self.conditions,
            summary.folder / "report",
            title=self.suite.name,
            protocol=self.suite.protocol.resolved(),
            incomplete=list(summary.failed),
        )


def robustness_study(
    algorithms: Sequence[str | Mapping[str, Any]],
    datasets: Sequence[str | Mapping[str, Any]],
    *,
    targets: Sequence[str] = TARGETS,
    modes: Sequence[str] = MODES,
    rates: Sequence[float] = (0.3,),
    scales: Sequence[float] = (1.0,),
    seeds: int | Sequence[int] = 3,
    corruption: Mapping[str, Any] | None = None,
    redraw: bool = False,
    attack_settings: bool = True,
    name: str = "robustness",
    protocol: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> RobustnessStudy:
    """The study targets x modes x rates x scales over every dataset, with the clean one.

    Args:
        algorithms, datasets: as in a suite.
        targets: observations, actions, rewards, dynamics, or several at once joined by "+".
        modes: random, adversarial.
        rates: shares of corrupted transitions. scales: sizes, in the targets' units.
        seeds: how many or which.
        corruption: further parameters of the transform `corrupt` (preset, adversary_updates, ...).
        redraw: corrupt anew for every seed, as RIQL's authors do; seeds then train one by one. By default all seeds
            learn from one corrupted dataset, and their spread does not hold that of the corruption.
        attack_settings: take an algorithm's preset MODE-TARGET-FAMILY where it has one (RIQL's settings per attack).
        name: of the study. protocol, preprocessing: as in a suite.

    Raises:
        SpecError, UnknownNameError: a target, mode, rate or scale is wrong.
    """
    named = [part for target in targets for part in target.split("+")]
    for kind, words, known in (("target", named, TARGETS), ("mode", modes, MODES)):
        for word in words:
            if word not in known:
                raise UnknownNameError(f"{kind} of corruption", word, known)
    if not all(0 < rate <= 1 for rate in rates) or not all(scale > 0 for scale in scales):
        raise SpecError(f"rates {list(rates)} and scales {list(scales)}", "", "rates are in (0, 1], scales above 0")
    conditions: dict[str, Condition] = {}
    entries: list[dict[str, Any]] = []
    for given in datasets:
        reference = DatasetRef(id=given) if isinstance(given, str) else DatasetRef(**given)
        base = reference.label or _known_as(reference.id)
        for condition in _conditions(base, targets, modes, rates, scales):
            label = base if condition.clean else condition.title
            conditions[label] = condition
            applied = [] if condition.clean else [{"corrupt": _parameters(condition, corruption or {}, redraw)}]
            transforms = [*reference.transforms, *applied]
            entries.append({**reference.model_dump(), "label": label, "transforms": transforms})
    chosen: list[dict[str, Any]] = []
    for given in algorithms:
        entry = AlgorithmRef(name=given) if isinstance(given, str) else AlgorithmRef(**given)
        chosen += _with_attack_settings(entry, conditions) if attack_settings else [entry.model_dump()]
    suite = Suite(
        name=name,
        datasets=entries,
        algorithms=chosen,
        seeds=seeds if isinstance(seeds, int) else list(seeds),
        protocol=dict(protocol or {}),
        preprocessing=dict(preprocessing or {}),
    )
    return RobustnessStudy(suite, conditions)


def _known_as(id_or_path: str) -> str:
    path = Path(id_or_path)
    return path.stem if path.exists() else id_or_path


def _conditions(
    base: str, targets: Sequence[str], modes: Sequence[str], rates: Sequence[float], scales: Sequence[float]
) -> list[Condition]:
    """Clean first, then the corruptions in the order of the field's tables: all random ones, all adversarial ones."""
    corrupted = [
        Condition(base, target, mode, rate, scale)
        for mode in modes
        for target in targets
        for rate in rates
        for scale in scales
    ]
    return [Condition(base), *corrupted]


def _parameters(condition: Condition, further: Mapping[str, Any], redraw: bool) -> dict[str, Any]:
    targets = condition.target.split("+")
    parameters = {
        "target": targets[0] if len(targets) == 1 else targets,
        "mode": condition.mode,
        "rate": condition.rate,
        "scale": condition.scale,
        **further,
    }
    return parameters | {"seed": "run"} if redraw else parameters


def _with_attack_settings(entry: AlgorithmRef, conditions: Mapping[str, Condition]) -> list[dict[str, Any]]:
    """One entry of the suite per preset that the algorithm has for an attack, and one for all other conditions."""
    from offbench.algorithms.presets import preset_names

    known = preset_names(entry.name) if entry.preset is None else []
    by_preset: dict[str | None, list[str]] = {}
    for label, condition in conditions.items():
        # Several targets at once take the settings of the first, as RIQL's code does.
        attack = f"{condition.mode}-{condition.target.split('+')[0]}"
        names = [name for name in known if not condition.clean and name.startswith(f"{attack}-")]
        fitting = [name for name in names if condition.dataset.startswith(name.removeprefix(f"{attack}-"))]
        by_preset.setdefault(fitting[0] if fitting else entry.preset, []).append(glob.escape(label))
    if list(by_preset) == [entry.preset]:
        return [entry.model_dump()]
    return [{**entry.model_dump(), "preset": preset, "datasets": labels} for preset, labels in by_preset.items()]
