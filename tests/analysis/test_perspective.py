"""The dataset perspective: TQ and SACo of a dataset-creation run, normalized performance, correlations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from offbench.analysis.perspective import SCHEMES, correlations, measure_run, pearson, performance
from offbench.datasets import Dataset, load_dataset
from offbench.datasets.online_runs import online_run
from offbench.errors import SpecError

STEPS = 400


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Dataset], float]:
    """Five datasets of a short online run of CartPole, and its best evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        datasets = {scheme: load_dataset(f"cartpole/{scheme}", run=42, steps=STEPS) for scheme in SCHEMES}
        return datasets, online_run("CartPole-v1", 42, STEPS).best


def _cells(dataset: Dataset, low: np.ndarray, high: np.ndarray) -> int:
    """Distinct cells by the paper's rule, written plainly: 100 edges, and one row of zeros more than there are."""
    rows = np.column_stack([dataset.observations[dataset.frame_index], dataset.actions])
    rows = np.concatenate([rows, np.zeros((1, rows.shape[1]))])
    edges = [np.linspace(first, last, num=100) for first, last in zip(low, high, strict=True)]
    found = [np.digitize(column, bins) for column, bins in zip(rows.T, edges, strict=True)]
    return len(set(zip(*(column.tolist() for column in found), strict=True)))


def test_random_data_have_tq_0_and_replay_data_saco_1_by_construction(run: tuple[dict[str, Dataset], float]) -> None:
    datasets, best = run
    table = measure_run(datasets, best).set_index("scheme")
    assert table.loc["random", "tq"] == 0.0
    assert table.loc["replay", "saco"] == 1.0
    assert table.loc["replay", "lsaco"] == 1.0
    assert set(table["preset"]) == {"paper"}
    assert (table["maximum"] == best).all()


def test_tq_and_saco_are_those_of_a_plain_computation(run: tuple[dict[str, Dataset], float]) -> None:
    datasets, best = run
    table = measure_run(datasets, best).set_index("scheme")
    replay = datasets["replay"]
    bounded = np.column_stack([replay.observations[replay.frame_index], replay.actions])
    low, high = bounded.min(axis=0), bounded.max(axis=0)
    means = {}
    for scheme, dataset in datasets.items():
        totals = np.add.reduceat(dataset.rewards, dataset.episode_starts)
        means[scheme] = totals[dataset.episode_complete].mean()  # the unfinished last episode is dropped
    cells = {scheme: _cells(dataset, low, high) for scheme, dataset in datasets.items()}
    for scheme in SCHEMES:
        expected = (means[scheme] - means["random"]) / (best - means["random"])
        assert table.loc[scheme, "tq"] == pytest.approx(expected), scheme
        assert table.loc[scheme, "pairs"] == cells[scheme], scheme
        assert table.loc[scheme, "saco"] == pytest.approx(cells[scheme] / cells["replay"]), scheme


def test_references_must_be_there(run: tuple[dict[str, Dataset], float]) -> None:
    datasets, best = run
    with pytest.raises(SpecError, match="random data are missing"):
        measure_run({"replay": datasets["replay"]}, best)


def _points() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dataset": ["a", "b", "c"],
            "environment": ["x", "x", "y"],
            "scheme": ["random", "expert", "replay"],
            "run": 42,
            "tq": [0.0, 1.0, 0.5],
            "saco": [0.3, 0.1, 1.0],
            "lsaco": [0.8, 0.7, 1.0],
            "minimum": [10.0, 10.0, -200.0],
            "maximum": [110.0, 110.0, -100.0],
        }
    )


def _episodes(dataset: str, seed: int, by_step: dict[int, list[float]], final: int) -> pd.DataFrame:
    rows = [
        {"dataset": dataset, "algorithm": "bc", "seed": seed, "step": step, "return": value, "final": step == final}
        for step, values in by_step.items()
        for value in values
    ]
    return pd.DataFrame(rows)


def test_performance_is_normalized_by_the_run_and_follows_both_rules() -> None:
    results = pd.concat(
        [
            _episodes("a", 0, {1: [110.0, 90.0], 2: [30.0], 3: [500.0]}, final=2),
            _episodes("a", 1, {1: [60.0], 2: [50.0, 70.0]}, final=2),
            _episodes("c", 0, {1: [-150.0], 2: [-180.0]}, final=2),
            _episodes("unknown", 0, {2: [1.0]}, final=2),
        ]
    )
    table = performance(results, _points()).set_index("dataset")
    assert list(table.index) == ["a", "c"]
    # a: final means of the seeds 30 and 60, so 45; over evaluations max((100 + 60) / 2, 45) = 80. The evaluation at
    # step 3, which one seed lacks, does not count.
    assert table.loc["a", "last"] == pytest.approx(35.0)
    assert table.loc["a", "paper"] == pytest.approx(70.0)
    assert table.loc["a", "last_std"] == pytest.approx(np.std([30, 60], ddof=1))
    assert table["seeds"].to_dict() == {"a": 2, "c": 1}
    assert table.loc["c", "last"] == pytest.approx(20.0)
    assert table.loc["c", "paper"] == pytest.approx(50.0)


def test_correlations_are_pearson_s() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(40, 5)), columns=["tq", "saco", "lsaco", "last", "paper"])
    table["algorithm"] = ["bc", "dqn"] * 20
    table["environment"] = ["x"] * 10 + ["y"] * 30
    found = correlations(table).set_index(["algorithm", "domain", "rule", "measure"])
    for (algorithm, domain, rule, measure), row in found.iterrows():
        chosen = table[(table["algorithm"] == algorithm) & (table["environment"].isin([domain]) | (domain == "all"))]
        assert row["r"] == pytest.approx(stats.pearsonr(chosen[measure], chosen[rule]).statistic)
        assert row["points"] == len(chosen)
    assert len(found) == 2 * 3 * 2 * 3


def test_no_correlation_where_there_is_none() -> None:
    assert np.isnan(pearson([1, 1, 1], [1, 2, 3]))
    assert np.isnan(pearson([1, 2], [1, 2]))
    assert np.isnan(pearson([1, 2, np.nan], [1, 2, 3]))
    assert pearson([1, 2, np.nan, 3], [2, 4, 0, 6]) == pytest.approx(1.0)
