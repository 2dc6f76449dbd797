"""The study of "A Dataset Perspective on Offline RL" (Schweighofer et al. 2022) as a suite, and its report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offbench.analysis.perspective import SCHEMES, Point, measure_run
from offbench.datasets.recipe_table import FAMILIES
from offbench.errors import SpecError, UnknownNameError
from offbench.suite import Suite

if TYPE_CHECKING:
    import pandas as pd

    from offbench.execution import RunSummary
    from offbench.reports import ReportFiles, TableRows

ALGORITHMS = ("bc", "bve", "mce", "dqn", "qr_dqn", "rem", "discrete_bcq", "discrete_cql", "discrete_crr")
PAPER_RUNS = (42, 142, 242, 342, 442)
_PRESET = "dataset_perspective"  # of every algorithm but BC, which has no published one of its own here


@dataclass(frozen=True)
class PerspectiveSettings:
    """What the study is made of.

    Attributes:
        environments: families of built-in datasets with discrete actions, e.g. "cartpole".
        runs: seeds of the dataset-creation runs.
        steps: of each online run, and transitions of each dataset.
        seeds: training seeds, or how many.
        updates, batch_size: of offline training.
        evaluations: during training, of `evaluation_episodes`; the last one has `final_episodes`.
        learning_rate, hidden, target_period: of all algorithms; the paper's are 1e-4, 256 x 256 x 256 and 100.
        quantiles: of QR-DQN, whose cost grows with their square; the paper's are 50.
    """

    environments: tuple[str, ...] = ("cartpole", "mountaincar")
    runs: tuple[int, ...] = PAPER_RUNS
    steps: int = 100_000
    seeds: int | tuple[int, ...] = 5
    updates: int = 500_000
    batch_size: int = 128
    evaluations: int = 500
    evaluation_episodes: int = 10
    final_episodes: int = 100
    learning_rate: float = 1e-4
    hidden: tuple[int, ...] = (256, 256, 256)
    target_period: int = 100
    quantiles: int = 50

    def __post_init__(self) -> None:
        for family in self.environments:
            if family not in FAMILIES:
                raise UnknownNameError("environment of built-in datasets", family, FAMILIES)
        for name in ("environments", "runs"):
            given = getattr(self, name)
            if not given or len(set(given)) != len(given):
                raise SpecError(f"{name} {list(given)}", "", "give at least one, each once")
        if self.evaluations < 1:
            raise SpecError(f"{self.evaluations} evaluations", "", "give at least 1")


# The paper's values; its MinAtar games have more data and updates, so they are a study of their own.
PRESETS: dict[str, PerspectiveSettings] = {
    "reduced": PerspectiveSettings(
        runs=(42, 142),
        seeds=2,
        updates=5_000,
        evaluations=5,
        final_episodes=20,
        learning_rate=1e-3,
        hidden=(64, 64),
        target_period=20,
        quantiles=20,
    ),
    "paper": PerspectiveSettings(
        environments=("cartpole", "mountaincar", "minigrid-lavagap", "minigrid-obstacles"),
    ),
    "paper-minatar": PerspectiveSettings(
        environments=("minatar-breakout", "minatar-spaceinvaders"),
        steps=2_000_000,
        updates=10_000_000,
    ),
}
NAMES = {  # of the studies, and of the packaged suites
    "reduced": "dataset_perspective",
    "paper": "dataset_perspective_paper",
    "paper-minatar": "dataset_perspective_minatar",
}


@dataclass(frozen=True)
class PerspectiveStudy:
    """The suite of a study.

    Attributes:
        suite: what is run.
        points: name of a dataset in the suite -> which one it is.
        steps: of the online runs.
    """

    suite: Suite
    points: Mapping[str, Point]
    steps: int

    def quality(self) -> pd.DataFrame:
        """TQ, SACo and lSACo of every dataset of the study, under the paper's preset.

        One row per dataset: dataset, environment, run and the columns of `offbench.analysis.perspective.measure_run`.
        Builds what is missing.
        """
        import pandas as pd

        from offbench.datasets import load_dataset
        from offbench.datasets.online_runs import online_run

        found = []
        for family, run in dict.fromkeys((point.environment, point.run) for point in self.points.values()):
            options = {"run": run, "steps": self.steps}
            datasets = {scheme: load_dataset(f"{family}/{scheme}", **options) for scheme in SCHEMES}
            online = online_run(FAMILIES[family][0], run, self.steps)
            source = f"best of {len(online.evaluations)} evaluations of online run {run}"
            rows = measure_run(datasets, online.best, source).assign(environment=family, run=run)
            names = [_label(family, scheme, run) for scheme in rows["scheme"]]
            found.append(rows.assign(dataset=names))
        table = pd.concat(found, ignore_index=True)
        first = ["dataset", "environment", "run"]
        table = table[[*first, *(column for column in table if column not in first)]]
        return table[table["dataset"].isin(list(self.points))].reset_index(drop=True)

    def report(self, root: str | Path, summary: RunSummary) -> tuple[ReportFiles, dict[str, TableRows]]:
        """Write the report of the finished runs into <root>/<study>/report."""
        from offbench.api import in_suite_order
        from offbench.reports.perspective import write_perspective
        from offbench.results import load_results

        results = load_results(root, summary.runs)
        return write_perspective(
            in_suite_order(results, summary.folder),
            self.quality(),
            summary.folder / "report",
            title=self.suite.name,
            protocol=self.suite.protocol.resolved(),
            incomplete=list(summary.failed),
        )


def perspective_study(preset: str = "reduced", *, name: str | None = None, **changes: Any) -> PerspectiveStudy:
    """The study environments x five schemes x nine algorithms x dataset-creation runs x seeds.

    Args:
        preset: "reduced" (two environments; hours on two cores), "paper" or "paper-minatar" (the authors' numbers;
            for a cluster).
        name: of the study; by default the preset's.
        changes: fields of `PerspectiveSettings` that differ from the preset; None leaves a field as it is.

    Raises:
        UnknownNameError: no such preset, field or environment.
        SpecError: a value is wrong.
    """
    if preset not in PRESETS:
        raise UnknownNameError("preset of the dataset perspective", preset, PRESETS)
    known = [field.name for field in fields(PerspectiveSettings)]
    for key in changes:
        if key not in known:
            raise UnknownNameError("setting of the dataset perspective", key, known)
    settings = replace(PRESETS[preset], **{key: value for key, value in changes.items() if value is not None})
    points = {
        _label(family, scheme, run): Point(family, scheme, run)
        for family in settings.environments
        for run in settings.runs
        for scheme in SCHEMES
    }
    suite = Suite(
        name=name or NAMES[preset],
        description=(
            "A Dataset Perspective on Offline Reinforcement Learning (Schweighofer et al. 2022): five schemes from "
            f"{len(settings.runs)} online DQN runs of {settings.steps:,} steps, nine algorithms. Settings: {preset}."
        ),
        datasets=[
            {
                "id": f"{point.environment}/{point.scheme}",
                "label": label,
                "options": {"run": point.run, "steps": settings.steps},
            }
            for label, point in points.items()
        ],
        algorithms=[_algorithm(algorithm, settings) for algorithm in ALGORITHMS],
        seeds=settings.seeds if isinstance(settings.seeds, int) else list(settings.seeds),
        # The authors scale no rewards and standardize no observations.
        preprocessing={"observations": "none"},
        protocol={
            "updates": settings.updates,
            "batch_size": settings.batch_size,
            "evaluate_every": max(1, settings.updates // settings.evaluations),
            "evaluation_episodes": settings.evaluation_episodes,
            "final_episodes": settings.final_episodes,
        },
    )
    return PerspectiveStudy(suite, points, settings.steps)


def _label(family: str, scheme: str, run: int) -> str:
    return f"{family}/{scheme}-run{run}"


def _algorithm(name: str, settings: PerspectiveSettings) -> dict[str, Any]:
    config: dict[str, Any] = {"hidden": list(settings.hidden), "learning_rate": settings.learning_rate}
    if name == "bc":
        return {"name": name, "config": config}
    config["target_period"] = settings.target_period
    if name == "qr_dqn":
        config["quantiles"] = settings.quantiles
    return {"name": name, "preset": _PRESET, "config": config}
