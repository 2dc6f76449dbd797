"""What the command line and Python code share: train one cell, find suites, summarize and report an output folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offbench.errors import DatasetError, OffbenchError, RunError, SpecError, UnknownNameError

if TYPE_CHECKING:
    import pandas as pd

    from offbench.events import Listener
    from offbench.execution import RunSummary
    from offbench.policy import Policy
    from offbench.reports import ReportFiles
    from offbench.runs import RunFolder, RunSpec
    from offbench.suite import Suite

DEFAULT_ROOT = "runs"


# --- Suites ---


def packaged_suites() -> dict[str, Path]:
    """The suites that are installed with offbench, by name."""
    folder = Path(str(files("offbench.suites")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_suite(name_or_path: str | Path) -> Suite:
    """A suite from a YAML file, or a packaged one by its name.

    Raises:
        SpecError: the file does not exist or says something wrong.
        UnknownNameError: no packaged suite has this name.
    """
    from offbench.suite import Suite

    path = Path(name_or_path)
    if path.is_file():
        return Suite.from_yaml(path)
    packaged = packaged_suites()
    if str(name_or_path) in packaged:
        return Suite.from_yaml(packaged[str(name_or_path)])
    if path.suffix in (".yaml", ".yml"):
        raise SpecError(f"there is no suite file {path}", "", f"packaged suites: {', '.join(packaged)}")
    raise UnknownNameError("suite", str(name_or_path), packaged, _suite_help(packaged))


def _suite_help(packaged: Mapping[str, Path]) -> str:
    return f"give a YAML file or one of the packaged suites: {', '.join(packaged)}"


# --- Training one cell ---


@dataclass(frozen=True)
class Training:
    """What `train` made.

    Attributes:
        results: one row per evaluation episode, see `offbench.load_results`.
        folders: the run folder of each seed.
        summary: how many runs were done, failed and started.
    """

    results: pd.DataFrame
    folders: dict[int, Path]
    summary: RunSummary

    def policy(self, seed: int = 0) -> Policy:
        """The trained policy of a seed; it carries its own observation normalizer."""
        from offbench.policy import Policy

        if seed not in self.folders:
            raise UnknownNameError("seed", str(seed), map(str, self.folders))
        return Policy.load(self.folders[seed] / "policy")


def cell_suite(
    algorithm: str,
    dataset: str | Mapping[str, Any],
    *,
    seeds: int | Sequence[int] = 1,
    config: Mapping[str, Any] | None = None,
    preset: str | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    name: str = "train",
    **protocol: Any,
) -> Suite:
    """The suite of one algorithm on one dataset; `protocol` are keys of `offbench.Protocol`."""
    from offbench.suite import Suite

    return Suite(
        name=name,
        datasets=[dataset],
        algorithms=[{"name": algorithm, "config": dict(config or {}), "preset": preset}],
        seeds=seeds if isinstance(seeds, int) else list(seeds),
        preprocessing=dict(preprocessing or {}),
        protocol={key: value for key, value in protocol.items() if value is not None},
    )


def train(
    algorithm: str,
    dataset: str | Mapping[str, Any],
    *,
    seeds: int | Sequence[int] = 1,
    config: Mapping[str, Any] | None = None,
    preset: str | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    root: str | Path = DEFAULT_ROOT,
    device: str = "auto",
    workers: int | None = 0,
    on_event: Listener | None = None,
    **protocol: Any,
) -> Training:
    """Train one algorithm on one dataset; calling it again with the same arguments resumes or returns at once.

    Args:
        algorithm: see `offbench algorithms list`.
        dataset: id or file, or {"id": ..., further options} as in a suite.
        seeds: how many (0, 1, ...) or which; they train together.
        config: settings of the algorithm, see `offbench algorithms show NAME`.
        preset: named set of hyper-parameters; default the algorithm's own choice for the dataset.
        preprocessing: of observations and rewards, e.g. {"observations": "standardize"}.
        root, device, on_event: as in `offbench.run_suite`.
        workers: worker processes; the default trains in this process, which needs no `__main__` guard.
        protocol: keys of `offbench.Protocol`, e.g. updates=20_000, batch_size=64, evaluate_every=2_000.

    Raises:
        OffbenchError: a name, key or value is wrong.
        RunError: a run failed; the others are kept, and the same call tries it again.
    """
    from offbench.events import ignore
    from offbench.execution import run_suite
    from offbench.results import load_results
    from offbench.runs import RunStore

    suite = cell_suite(
        algorithm, dataset, seeds=seeds, config=config, preset=preset, preprocessing=preprocessing, **protocol
    )
    summary = run_suite(suite, root, workers=workers, device=device, on_event=on_event or ignore)
    if summary.failed:
        title, message = next(iter(summary.failed.items()))
        raise RunError(f"{len(summary.failed)} of {summary.total} runs failed", f"{title}: {message}")
    store = RunStore(root)
    folders = {run.seed: store.folder(run).path for run in summary.runs}
    return Training(load_results(root, summary.runs), folders, summary)


# --- Output folders ---


@dataclass(frozen=True)
class Cell:
    """How far one algorithm is on one dataset: `states` counts its runs by state."""

    study: str
    algorithm: str
    dataset: str
    states: dict[str, int]
    step: int  # updates of the run that is least far
    updates: int
    errors: tuple[str, ...]  # messages of the failed runs

    @property
    def runs(self) -> int:
        return sum(self.states.values())


def output_status(root: str | Path) -> list[Cell]:
    """Every cell under an output folder, from the run folders alone.

    Raises:
        OffbenchError: there is no such folder or no run in it.
    """
    cells: dict[tuple[str, str, str], list[tuple[RunFolder, Any]]] = {}
    for folder, spec in _runs_under(Path(root)):
        cells.setdefault((spec.study, spec.label, spec.dataset.name), []).append((folder, spec))
    return [_cell(key, members) for key, members in cells.items()]


def _cell(key: tuple[str, str, str], members: list[tuple[RunFolder, Any]]) -> Cell:
    states: dict[str, int] = {}
    steps, errors = [], []
    for folder, spec in members:
        status = folder.status()
        states[status["state"]] = states.get(status["state"], 0) + 1
        updates = int(spec.protocol["updates"])
        steps.append(updates if status["state"] == "done" else int(status.get("step", 0)))
        if status["state"] == "failed":
            errors.append(f"seed {spec.seed}: {status.get('error', folder.error_file)}")
    return Cell(*key, states, min(steps), int(members[0][1].protocol["updates"]), tuple(errors))


def _runs_under(root: Path) -> list[tuple[RunFolder, Any]]:
    from offbench.runs import RunStore

    if not root.is_dir():
        raise SpecError(f"there is no folder {root}", "", "give the folder that `offbench run` wrote into")
    found = [(folder, folder.spec()) for folder in RunStore(root).folders()]
    if not found:
        raise DatasetError(f"there are no runs under {root}", "", "start some with `offbench run SUITE`")
    return found


def write_reports(root: str | Path, output: str | Path | None = None, **options: Any) -> dict[str, ReportFiles]:
    """One report per study under `root`, in <root>/<study>/report (or below `output`).

    Runs that are not finished are named in the report as missing.

    Args:
        root: the folder that was given to `run` or `train`.
        output: where to write, instead of beside the runs.
        options: further ones of `offbench.write_report` (bold, spread, method, published, formats...).

    Raises:
        OffbenchError: there is nothing to report yet.
    """
    from offbench.reports import write_report
    from offbench.results import load_results

    root = Path(root)
    runs = _runs_under(root)
    results = load_results(root)
    if results.empty:
        raise OffbenchError(
            f"no run under {root} has a finished evaluation",
            "a report shows the final evaluations of finished runs",
            f"see: offbench status {root}",
        )
    reports = {}
    for study, rows in results.groupby("study", sort=False):
        members = [(folder, spec) for folder, spec in runs if spec.study == study]
        folder = members[0][0].path.parents[2]
        protocols = {json.dumps(dict(spec.protocol), sort_keys=True) for _, spec in members}
        reports[str(study)] = write_report(
            in_suite_order(rows, folder),
            folder / "report" if output is None else Path(output) / str(study),
            title=str(study),
            protocol=json.loads(protocols.pop()) if len(protocols) == 1 else None,
            datasets=_dataset_facts([spec for _, spec in members]),
            incomplete=[spec.title for folder, spec in members if folder.status()["state"] != "done"],
            **{"tuning": _tuning([spec for _, spec in members]), **options},
        )
    return reports


def _tuning(specs: Sequence[RunSpec]) -> dict[str, str]:
    """How the settings of each algorithm were chosen, from its preset; a report warns where that differs."""
    words = {"one": "one setting per domain", "tuned": "tuned per dataset"}
    found: dict[str, set[str]] = {}
    for spec in specs:
        kind = spec.config_source.get("class", "one")
        found.setdefault(spec.label, set()).add(words.get(kind, kind))
    return {label: " and ".join(sorted(kinds)) for label, kinds in found.items()}


def in_suite_order(results: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Results of one study with datasets and algorithms in the order of its suite, which tables and plots keep.

    The study's folder remembers the order of its cells; rows of unknown cells come last.
    """
    from offbench.storage import read_json

    file = folder / "cells.json"
    if not file.exists():
        return results
    rank = {cell: number for number, cell in enumerate(read_json(file))}
    cells = results["algorithm"] + " on " + results["dataset"]
    order = cells.map(lambda cell: rank.get(cell, len(rank)))
    return results.loc[order.sort_values(kind="stable").index]


def _dataset_facts(specs: Sequence[RunSpec]) -> dict[str, dict[str, Any]]:
    """What a report says of each dataset; the behaviour policy's scores where the data are still here."""
    from offbench.datasets import load_dataset
    from offbench.results import score

    facts: dict[str, dict[str, Any]] = {}
    tried: set[tuple[str, str]] = set()
    for spec in specs:
        known = spec.dataset
        # Runs of one dataset may name different places, when its file was moved between two invocations.
        if "episodes" in facts.get(known.name, {}) or (known.name, known.source) in tried:
            continue
        tried.add((known.name, known.source))
        facts[known.name] = {"environment": known.environment, "fingerprint": known.fingerprint}
        if known.reference is not None:
            facts[known.name]["reference"] = known.reference["source"]
        try:
            dataset = load_dataset(known.source, **known.options)
        except OffbenchError:
            continue  # the runs were made elsewhere, or the file is gone: the report does without
        if dataset.fingerprint != known.fingerprint:
            continue
        complete = dataset.episode_complete
        returns = dataset.episode_returns[complete] if complete.any() else dataset.episode_returns
        mean = float(returns.mean())
        facts[known.name] |= {
            "episodes": dataset.num_episodes,
            "transitions": dataset.num_transitions,
            "behaviour_return": mean,
        }
        if known.reference is not None:
            facts[known.name]["behaviour_score"] = score(spec, mean)
    return facts
