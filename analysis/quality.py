"""Measuring datasets: every chosen measure of every dataset, with its reference and settings, as one record."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from offbench.analysis.quality_registry import Measure, select_measures
from offbench.analysis.quality_settings import QualitySettings, get_preset, preset_for
from offbench.analysis.quality_view import NotMeasurableError, QualityReference, View, episode_returns
from offbench.datasets import Dataset
from offbench.errors import SpecError

Progress = Callable[[str, str], None]


@dataclass(frozen=True)
class DatasetQuality:
    """The measures of one dataset.

    Attributes:
        name, fingerprint, environment, transitions, episodes: of the dataset.
        values: by measure; NaN where a measure has none.
        reasons: why a measure has no value.
        error: relative standard error of counts that a sketch estimated; 0 if all were counted.
    """

    name: str
    fingerprint: str
    environment: str | None
    transitions: int
    episodes: int
    values: dict[str, float]
    reasons: dict[str, str] = field(default_factory=dict)
    error: float = 0.0


@dataclass(frozen=True)
class QualityTable:
    """Measures of datasets against one reference.

    Attributes:
        datasets: in the order in which they were given.
        measures: in the order of the table.
        settings, preset: what was measured how; the preset's name, or "custom".
        reference: see `QualityReference.to_json`.
    """

    datasets: tuple[DatasetQuality, ...]
    measures: tuple[Measure, ...]
    settings: QualitySettings
    preset: str
    reference: dict[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """One row per dataset: dataset, environment, transitions, episodes, then a column per measure."""
        return pd.DataFrame(
            [
                {
                    "dataset": row.name,
                    "environment": row.environment,
                    "transitions": row.transitions,
                    "episodes": row.episodes,
                    **row.values,
                }
                for row in self.datasets
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """All of it, with the definition of each measure."""
        return {
            "preset": self.preset,
            "settings": self.settings.to_json(),
            "reference": self.reference,
            "measures": {
                m.name: {"title": m.title, "formula": m.formula, "source": m.source, "reference": m.reference}
                for m in self.measures
            },
            "datasets": [vars(row) for row in self.datasets],
        }


def measure_datasets(
    datasets: Sequence[Dataset],
    *,
    measures: Sequence[str] | None = None,
    reference: QualityReference | None = None,
    settings: QualitySettings | str | None = None,
    progress: Progress | None = None,
) -> QualityTable:
    """Measure datasets of one environment against one reference.

    Args:
        measures: names, see `quality_registry.measures`; None: all.
        reference: see `QualityReference`; by default there is none, and measures that need one say so. Its pool is
            extended by the datasets, so that scales, clusters and pooled bounds are common.
        settings: or the name of a preset; None: the preset that follows the paper's code for such data.
        progress: called with the names of a dataset and of the measure that comes next.

    Raises:
        SpecError: there is no dataset.
        UnknownNameError: no such measure or preset.
    """
    if not datasets:
        raise SpecError("there is no dataset to measure")
    if settings is None:
        settings = preset_for(datasets[0].environment, datasets[0].discrete)
    preset = settings if isinstance(settings, str) else "custom"
    settings = get_preset(settings) if isinstance(settings, str) else settings
    chosen = select_measures(measures)
    given = reference or QualityReference()
    reference = QualityReference(
        minimum=given.minimum,
        maximum=given.maximum,
        minimum_source=given.minimum_source,
        maximum_source=given.maximum_source,
        dataset=given.dataset,
        pool=[*given.pool, *datasets],
    )
    rows = [_measure_one(View(dataset, settings, reference), chosen, progress) for dataset in datasets]
    return QualityTable(tuple(rows), tuple(chosen), settings, preset, reference.to_json())


def _measure_one(view: View, chosen: Sequence[Measure], progress: Progress | None) -> DatasetQuality:
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    dataset = view.dataset
    for measure in chosen:
        if progress is not None:
            progress(dataset.name, measure.title)
        try:
            values[measure.name] = float(measure.compute(view))
        except NotMeasurableError as error:
            values[measure.name], reasons[measure.name] = math.nan, str(error)
    counts = [vars(view).get("pairs"), view.reference.shared.get("pairs")]
    return DatasetQuality(
        name=dataset.name,
        fingerprint=dataset.fingerprint,
        environment=dataset.environment,
        transitions=len(dataset),
        episodes=dataset.num_episodes,
        values=values,
        reasons=reasons,
        error=max((count.error for count in counts if count is not None), default=0.0),
    )


def paper_reference(
    *,
    replay: Dataset | None,
    random: Dataset | None = None,
    online_maximum: float | None = None,
    online_source: str = "given",
) -> QualityReference:
    """Return the reference of Schweighofer et al. 2022, as their code takes it.

    Args:
        replay: all data of the online training: D_ref and the bounds of the bins.
        random: data of random actions; the mean return of its complete episodes gets TQ 0. Without it the minimum of
            the replay data's reference scores does.
        online_maximum: best evaluation during the online training, which gets TQ 1. Without it the maximum of the
            reference scores does.
    """
    scores = next((d.reference for d in (replay, random) if d is not None and d.reference is not None), None)
    minimum, minimum_source = (None, "") if scores is None else (scores.minimum, scores.source)
    maximum, maximum_source = (None, "") if scores is None else (scores.maximum, scores.source)
    if random is not None and random.episode_complete.any():
        minimum = float(episode_returns(random).mean())
        minimum_source = f"mean return of {random.name}"
    if online_maximum is not None:
        maximum, maximum_source = online_maximum, online_source
    return QualityReference(
        minimum=minimum,
        maximum=maximum,
        minimum_source=minimum_source,
        maximum_source=maximum_source,
        dataset=replay,
    )
