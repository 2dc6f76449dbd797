"""What the command line and Python code share: train one cell, find suites, summarize and report an output folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offbench.errors import DatasetError, OffbenchError, SpecError, UnknownNameError

if TYPE_CHECKING:
    import pandas as pd

    from offbench.events import Listener
    from offbench.execution import RunSummary
    from offbench.policy import Policy
    from offbench.reports import ReportFiles
    from offbench.runs import RunFolder
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
    label: str | None = None,
    name: str = "train",
    **protocol: Any,
) -> Suite:
    """The suite of one algorithm on one dataset; `protocol` are keys of `offbench.Protocol`."""
    from offbench.suite import Suite

    entry = {"name": algorithm, "config": dict(config or {}), "preset": preset, "label": label}
    entry = {key: value for key, value in entry.items() if value}
    return Suite.model_validate(
        {
            "name": name,
            "datasets": [dataset],
            "algorithms": [entry],
            "seeds": seeds if isinstance(seeds, int) else list(seeds),
            "protocol": {key: value for key, value in protocol.items() if value is not None},
        }
    )


def train(
    algorithm: str,
    dataset: str | Mapping[str, Any],
    *,
    seeds: int | Sequence[int] = 1,
    config: Mapping[str, Any] | None = None,
    preset: str | None = None,
    root: str | Path = DEFAULT_ROOT,
    device: str = "auto",
    workers: int | None = None,
    on_event: Listener | None = None,
    **protocol: Any,
) -> Training:
    """Train one algorithm on one dataset; calling it again with the same arguments resumes or returns at once.

    Args:
        algorithm: see `offbench algorithms list`.
        dataset: id or file, or {"id": ..., further options} as in a suite.
        seeds: how many (0, 1, ...) or which; they train together.
        config: settings of the algorithm, see `offbench algorithms show NAME`.
        protocol: keys of `offbench.Protocol`, e.g. updates=20_000, batch_size=64, evaluate_every=2_000.

    Raises:
        OffbenchError: a name, key or value is wrong, or a run failed.
    """
    from offbench.execution import run_suite

    suite = cell_suite(algorithm, dataset, seeds=seeds, config=config, preset=preset, **protocol)
    options: dict[str, Any] = {} if on_event is None else {"on_event": on_event}
    summary = run_suite(suite, root, workers=workers, device=device, **options)
    return collect(suite, Path(root), summary)


def collect(suite: Suite, root: Path, summary: RunSummary) -> Training:
    """The results and folders of a suite's runs under `root`."""
    from offbench.results import load_results
    from offbench.runs import RunStore

    runs = suite.expand()
    store = RunStore(root)
    folders = {run.seed: store.folder(run).path for run in runs}
    return Training(load_results(root, runs), folders, summary)


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


def write_reports(root: str | Path, output: str | Path | None = None) -> dict[str, ReportFiles]:
    """One report per study under `root`, in <root>/<study>/report (or below `output`).

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
            f"no run under {root} is finished", "a report shows finished runs", f"see: offbench status {root}"
        )
    reports = {}
    for study, rows in results.groupby("study", sort=False):
        folder, spec = next((folder, spec) for folder, spec in runs if spec.study == study)
        target = folder.path.parents[2] / "report" if output is None else Path(output) / str(study)
        protocols = {json.dumps(dict(s.protocol), sort_keys=True) for _, s in runs if s.study == study}
        protocol = dict(spec.protocol) if len(protocols) == 1 else None
        reports[str(study)] = write_report(rows, target, title=str(study), protocol=protocol)
    return reports


def score_rows(results: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean and standard deviation (over seeds, ddof 1) of every cell, as plain values.

    `std` is None for a single seed. `unit` says whether scores are normalized or raw returns.
    """
    from offbench.analysis.scores import ScoreTable

    table = ScoreTable.from_runs(results)
    rows = []
    for dataset in table.datasets:
        for algorithm in table.algorithms:
            scores = table.cell(algorithm, dataset)
            if scores.size:
                rows.append(
                    {
                        "dataset": dataset,
                        "algorithm": algorithm,
                        "mean": float(scores.mean()),
                        "std": float(scores.std(ddof=1)) if scores.size > 1 else None,
                        "seeds": int(scores.size),
                        "unit": table.units[dataset],
                    }
                )
    return rows
