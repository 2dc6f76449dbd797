"""Measures of datasets: known counts and returns, the paper's preset, references, the registry and the record."""

from __future__ import annotations

import json
import math
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from scipy import stats

from offbench.analysis import quality_registry
from offbench.analysis.quality import measure_datasets, paper_reference
from offbench.analysis.quality_registry import Measure, measures, select_measures
from offbench.analysis.quality_returns import (
    estimated_return_improvement,
    trajectory_quality,
)
from offbench.analysis.quality_settings import PRESETS, QualitySettings, preset_for
from offbench.analysis.quality_view import NotMeasurableError, QualityReference, episode_returns
from offbench.datasets import Dataset
from offbench.datasets.returns import positive_sided_variance
from offbench.errors import SpecError, UnknownNameError

OWN = QualitySettings(bounds="own")


def walk(rows: int = 600, length: int = 30, seed: int = 0, scale: float = 1.0, **changes: Any) -> Dataset:
    """Episodes of a random walk in the plane with three actions, the last one cut by the end of the recording."""
    rng = np.random.default_rng(seed)
    ends = np.zeros(rows, bool)
    ends[length - 1 :: length] = True
    ends[-1] = False
    columns: dict[str, Any] = {
        "observations": (scale * np.cumsum(rng.normal(size=(rows, 2)), axis=0)).astype(np.float32),
        "actions": rng.integers(0, 3, rows),
        "rewards": rng.integers(0, 2, rows).astype(np.float64),
        "terminated": ends,
        "action_space": Discrete(3),
        "name": f"walk-{seed}",
        "environment": "Walk-v0",
    }
    columns.update(changes)
    return Dataset.from_arrays(truncated=np.zeros(rows, bool), **columns)


def values(dataset: Dataset, *names: str, **options: Any) -> list[float]:
    return [measure_datasets([dataset], measures=names, **options).datasets[0].values[name] for name in names]


def paper_count(dataset: Dataset, low: np.ndarray, high: np.ndarray) -> int:
    """The counting of the paper's code: digitized columns, joined as text, in a set; one row of zeros at the end."""
    rows = np.concatenate([dataset.step_observations, dataset.actions.reshape(len(dataset), -1)], axis=1)
    rows = np.concatenate([rows, np.zeros((1, rows.shape[1]))])
    columns = [np.digitize(rows[:, j], np.linspace(low[j], high[j], num=100)) for j in range(rows.shape[1])]
    return len({",".join(map(str, row)) for row in np.stack(columns, axis=1)})


def extremes(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    rows = np.concatenate([dataset.step_observations, dataset.actions.reshape(len(dataset), -1)], axis=1)
    rows = np.concatenate([rows, np.zeros((1, rows.shape[1]))])
    return rows.min(axis=0), rows.max(axis=0)


# -- TQ and SACo -----------------------------------------------------------------------------------


def test_the_papers_preset_gives_zero_and_one_by_construction() -> None:
    random, replay = walk(seed=1), walk(900, seed=2, scale=3.0)
    reference = paper_reference(replay=replay, random=random, online_maximum=25.0)
    table = measure_datasets([random, replay], measures=["tq", "saco", "lsaco"], reference=reference, settings="paper")
    assert table.datasets[0].values["tq"] == 0.0
    assert table.datasets[1].values["saco"] == 1.0
    assert table.datasets[1].values["lsaco"] == 1.0


def test_the_papers_preset_counts_as_the_papers_code() -> None:
    data, replay = walk(3000, seed=1), walk(2000, seed=2)
    counts = [paper_count(dataset, *extremes(replay)) for dataset in (data, replay)]
    reference = QualityReference(dataset=replay)
    saco, lsaco, unique = values(data, "saco", "lsaco", "unique_pairs", reference=reference, settings="paper")
    assert unique == counts[0]
    assert saco == counts[0] / counts[1]
    assert lsaco == pytest.approx(math.log(counts[0]) / math.log(counts[1]))
    own = [paper_count(dataset, *extremes(dataset)) for dataset in (data, replay)]
    (saco,) = values(data, "saco", reference=reference, settings="paper-own-bounds")
    assert saco == own[0] / own[1]


def test_the_continuous_preset_has_four_bins_and_the_first_rows() -> None:
    line = np.linspace(0, 1, 1000)[:, None]
    data = walk(1000, observations=line, actions=np.zeros((1000, 1)), action_space=Box(-1, 1, (1,)))
    (unique,) = values(data, "unique_pairs", reference=QualityReference(dataset=data), settings="paper-continuous")
    assert unique == 5  # four bins, and the last edge itself
    assert PRESETS["paper-continuous"].first_rows == 100_000
    first = QualitySettings(first_rows=10, bounds="own")
    assert values(data, "unique_pairs", "saturation", settings=first) == [10, 1.0]


@pytest.mark.parametrize(
    ("environment", "discrete", "preset"),
    [
        ("CartPole-v1", True, "paper"),
        ("offbench/MiniGrid-LavaGapS7-v0", True, "paper-own-bounds"),
        ("Breakout-MinAtar-v0", True, "paper-own-bounds"),
        ("Hopper-v5", False, "paper-continuous"),
        (None, True, "paper"),
    ],
)
def test_presets_follow_the_paper(environment: str | None, discrete: bool, preset: str) -> None:
    assert preset_for(environment, discrete) == preset


def test_counts_do_not_depend_on_order_duplicates_or_affine_scales() -> None:
    data = walk(900)
    (unique,) = values(data, "unique_pairs", settings=OWN)
    order = np.random.default_rng(0).permutation(900)
    flags = np.ones(900, bool)
    columns = {"observations": data.step_observations, "actions": data.actions, "rewards": data.rewards}
    shuffled = walk(900, **{key: column[order] for key, column in columns.items()}, terminated=flags)
    assert values(shuffled, "unique_pairs", settings=OWN) == [unique]
    twice = walk(1800, **{key: np.concatenate([column, column]) for key, column in columns.items()})
    assert values(twice, "unique_pairs", settings=OWN) == [unique]
    scaled = walk(900, **{**columns, "observations": 4 * data.step_observations})  # a power of two: no rounding
    assert values(scaled, "unique_pairs", settings=OWN) == [unique]


def test_more_data_never_occupy_fewer_cells() -> None:
    whole = walk(3000)
    reference = QualityReference(dataset=whole)
    previous = 0.0
    for rows in (100, 500, 2000, 3000):
        part = QualitySettings(first_rows=rows)
        low = values(whole, "unique_pairs", settings=part, reference=reference)[0]
        assert low >= previous
        previous = low


def test_near_duplicates_are_counted() -> None:
    line = np.arange(100.0)[:, None]
    data = walk(300, observations=np.tile(line, (3, 1)), actions=np.zeros(300, int))
    assert values(data, "near_duplicates") == [pytest.approx(2 / 3)]


def test_pooled_bounds_keep_cells_apart_that_lie_outside_of_the_reference() -> None:
    replay = walk(200, observations=np.linspace(0, 0.95, 200)[:, None], actions=np.zeros(200, int))
    far = walk(200, observations=np.linspace(2, 3, 200)[:, None], actions=np.zeros(200, int))
    reference = QualityReference(dataset=replay)
    settings = QualitySettings(edges=31)
    saco, pooled = values(far, "saco", "saco_pooled", reference=reference, settings=settings)
    assert saco == 1 / 31  # all of it beyond the last edge
    assert pooled == pytest.approx(11 / 10)  # ten bins each, and the last edge


def test_projected_coverage_grows_with_spread_where_cells_saturate() -> None:
    rng = np.random.default_rng(0)
    space = Box(-9, 9, (6,))

    def cloud(scale: float) -> Dataset:
        table = scale * rng.normal(size=(4000, 23))
        return walk(4000, observations=table[:, :17], actions=table[:, 17:], action_space=space)

    narrow, wide = cloud(0.3), cloud(1.0)
    reference = QualityReference(dataset=wide)
    saco, projected, full = values(
        narrow, "saco", "saco_projected", "saturation", reference=reference, settings=QualitySettings()
    )
    assert full > 0.99
    assert saco > 0.95
    assert projected < 0.5
    assert values(wide, "saco_projected", reference=reference, settings=QualitySettings()) == [1.0]


# -- returns ---------------------------------------------------------------------------------------


def test_returns_follow_the_rules_of_discount_and_partial_episodes() -> None:
    data = walk(7, length=3, rewards=np.array([1.0, 2, 4, 1, 0, 0, 9]))
    assert episode_returns(data).tolist() == [7.0, 1.0]
    assert episode_returns(data, partial_episodes="keep").tolist() == [7.0, 1.0, 9.0]
    assert episode_returns(data, 0.5).tolist() == [1 + 1 + 1, 1.0]


def test_measures_of_returns_by_hand() -> None:
    returns = np.array([0.0, 0.0, 3.0])
    assert trajectory_quality(returns, -1.0, 3.0) == 0.5
    assert positive_sided_variance(returns) == pytest.approx(4 / 3)
    assert estimated_return_improvement(returns) == 2.0
    assert estimated_return_improvement(np.array([-2.0, 0.0, 2.0])) == 1.0  # (2 - 0) / (0 + 2)
    with pytest.raises(NotMeasurableError):
        trajectory_quality(returns, 3.0, 3.0)
    with pytest.raises(NotMeasurableError):
        estimated_return_improvement(np.zeros(3))


def test_spread_and_skewness_of_returns_are_numpys_and_scipys() -> None:
    data = walk(7, length=1, rewards=np.array([0.0, 0.0, 5.0, 2.0, 1.0, 9.0, 0.0]))
    returns = np.array([0.0, 0.0, 5.0, 2.0, 1.0, 9.0])  # the last episode is not complete
    assert values(data, "return_std") == [pytest.approx(returns.std())]
    assert values(data, "return_skew") == [pytest.approx(stats.skew(returns))]
    equal = measure_datasets([data.replace(rewards=np.full(7, 0.1))], measures=["return_skew"]).datasets[0]
    assert equal.reasons["return_skew"] == "all returns are equal"


def test_rpsv_has_no_unit_and_its_greatest_value_at_a_third() -> None:
    rewards = np.array([0.0, 0.0, 5.0, 2.0])
    data = walk(4, length=1, rewards=rewards, terminated=np.array([True, True, True, False]))
    assert values(data, "rpsv") == [pytest.approx(4 / 27)]
    assert values(data.replace(rewards=100 * rewards - 7), "rpsv") == [pytest.approx(4 / 27)]


def test_horizon_sparsity_and_gap() -> None:
    data = walk(8, length=4, rewards=np.array([0.0, 0, 0, 1, 2, 2, 0, 0]))
    reference = QualityReference(minimum=0.0, maximum=10.0)
    kept = QualitySettings(bounds="own", partial_episodes="keep")
    found = values(data, "horizon", "reward_sparsity", "best_gap", reference=reference, settings=kept)
    assert found == [4.0, pytest.approx((3 / 4 + 2 / 4) / 2), pytest.approx((4 - 2.5) / 10)]


# -- references, registry, record ------------------------------------------------------------------


def test_what_is_missing_is_said() -> None:
    row = measure_datasets([walk()], measures=["tq", "saco", "unique_pairs"], settings="paper").datasets[0]
    assert math.isnan(row.values["tq"])
    assert math.isnan(row.values["saco"])
    assert row.values["unique_pairs"] > 1
    assert "minimum and maximum" in row.reasons["tq"]
    assert "reference dataset" in row.reasons["saco"]


def test_a_reference_of_another_shape_is_refused_by_name() -> None:
    other = walk(observations=np.random.default_rng(0).normal(size=(600, 5)))
    row = measure_datasets([walk()], reference=QualityReference(dataset=other), settings="paper").datasets[0]
    for name in ("saco", "saco_pooled", "saco_projected", "energy_distance", "state_entropy"):
        assert math.isnan(row.values[name]), name


def test_the_minimum_is_that_of_complete_episodes() -> None:
    random = walk(7, length=3, rewards=np.array([1.0, 2, 4, 1, 0, 0, 9]))
    reference = paper_reference(replay=walk(), random=random, online_maximum=30.0, online_source="best of 500")
    assert reference.minimum == 4.0
    record = reference.to_json()
    assert record["minimum_source"] == "mean return of walk-0"
    assert record["maximum_source"] == "best of 500"


def test_every_measure_is_described_and_has_a_value_or_a_reason() -> None:
    table = measure_datasets([walk(seed=1), walk(seed=2)], reference=paper_reference(replay=walk(seed=3)))
    assert [m.name for m in table.measures] == list(measures())
    assert len({m.title for m in table.measures}) == len(table.measures)
    for row in table.datasets:
        for name, value in row.values.items():
            assert math.isfinite(value) != (name in row.reasons), name
    for measure in table.measures:
        assert measure.formula
        assert measure.source
        assert measure.meaning
        assert measure.cost


def test_the_record_is_json_and_the_frame_has_a_row_per_dataset() -> None:
    table = measure_datasets([walk(seed=1), walk(seed=2)], measures=["saco", "horizon"], settings=OWN)
    record = json.loads(json.dumps(table.to_json()))
    assert record["settings"]["edges"] == 100
    assert record["preset"] == "custom"
    assert [row["name"] for row in record["datasets"]] == ["walk-1", "walk-2"]
    frame = table.to_frame()
    assert frame["dataset"].tolist() == ["walk-1", "walk-2"]
    assert frame["horizon"].tolist() == [30.0, 30.0]


def test_sampled_measures_repeat() -> None:
    names = ["state_entropy", "cluster_entropy", "saco_projected", "sliced_wasserstein"]
    small = QualitySettings(sample=200)
    runs = [
        values(walk(seed=1), *names, reference=QualityReference(dataset=walk(seed=2)), settings=small) for _ in range(2)
    ]
    assert runs[0] == runs[1]


def test_other_packages_add_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Measure("rows", "rows", "N", "test", "", "none", "many rows", lambda view: float(len(view.dataset)))
    entry = EntryPoint("rows", "somewhere:mine", quality_registry.GROUP)
    monkeypatch.setattr(quality_registry, "entry_points", lambda group: [entry])
    monkeypatch.setattr(EntryPoint, "load", lambda self: mine)
    assert values(walk(50), "rows") == [50.0]
    monkeypatch.setattr(EntryPoint, "load", lambda self: "no measure")
    with pytest.raises(SpecError, match="not an offbench Measure"):
        measures()


def test_wrong_names_and_settings_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="saco"):
        select_measures(["sacco"])
    with pytest.raises(UnknownNameError, match="paper"):
        measure_datasets([walk()], settings="papr")
    with pytest.raises(SpecError):
        measure_datasets([])
    with pytest.raises(UnknownNameError):
        QualitySettings(bounds="mine")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="discount"):
        QualitySettings(discount=1.5)


def test_the_page_lists_every_measure_as_it_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "dataset_quality.md").read_text(encoding="utf-8")
    for m in measures().values():
        formula = m.formula.replace("|", "\\|")
        assert f"| `{m.name}` | {m.title} | {formula} | {m.reference or 'none'} | {m.meaning} | {m.source} |" in page
    listed = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert listed == set(measures())
