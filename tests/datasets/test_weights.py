"""Reweighting against formulas written out here: by return, advantage, rank, score and the user's own weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offbench.datasets import Dataset
from offbench.datasets.transforms import apply_transforms
from offbench.datasets.transforms.weights import Reweight
from offbench.datasets.transforms.weights_rules import best, ridge_value
from offbench.errors import DatasetError, IncompatibleError, SpecError, UnknownNameError

RNG = np.random.default_rng(3)


def episodes(
    lengths: list[int], rewards: list[float], firsts: np.ndarray | None = None, *, open_ended: tuple[int, ...] = ()
) -> Dataset:
    """Episodes of given lengths whose rewards are all alike; every one is terminated but those that are open-ended."""
    rows, starts = sum(lengths), np.cumsum([0, *lengths[:-1]])
    terminated = np.zeros(rows, bool)
    for number, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        terminated[start + length - 1] = number not in open_ended
    observations = np.random.default_rng(0).standard_normal((rows, 3 if firsts is None else firsts.shape[1]))
    if firsts is not None:
        observations[starts] = firsts
    return Dataset.from_arrays(
        observations,
        np.zeros((rows, 1)),
        np.repeat(rewards, lengths),
        terminated,
        np.zeros(rows, bool),
        episode_starts=starts,
        action_space=gymnasium.spaces.Box(-1, 1, (1,)),
        infos={"score": np.repeat(np.arange(len(lengths))[::-1], lengths).astype(float), "row": np.arange(rows)},
    )


def weights(data: Dataset, **parameters: Any) -> np.ndarray:
    found = Reweight(**parameters).apply(data).sampling_weights
    assert found is not None
    return found


def measured(data: Dataset, **parameters: Any) -> dict[str, Any]:
    return dict(Reweight(**parameters).apply(data).provenance.transforms[-1].parameters["measured"])


DATA = episodes([2, 5, 3], [1.0, 2.0, -1.0])  # returns 2, 10, -3


# --- closed formulas ---


@pytest.mark.parametrize("temperature", [None, 0.1, 0.7])
def test_return_weights_are_the_softmax_over_transitions_of_scaled_returns(temperature: float | None) -> None:
    expected = []
    for length, value in ((2, 2.0), (5, 10.0), (3, -3.0)):
        expected += [math.exp((value + 3.0) / 13.0 / (temperature or 0.1))] * length
    np.testing.assert_allclose(
        weights(DATA, method="rw", temperature=temperature), np.array(expected) / sum(expected), rtol=1e-12
    )


def test_advantage_weights_subtract_the_least_squares_value_of_the_first_observation() -> None:
    firsts = RNG.standard_normal((12, 2)).astype(np.float32)
    lengths = list(range(1, 13))
    data = episodes(lengths, list(RNG.standard_normal(12)), firsts)
    design = np.column_stack([np.ones(12), firsts.astype(np.float64)])
    returns = np.array([data.rewards[data.episode_ids == i].astype(np.float64).sum() for i in range(12)])
    advantage = returns - design @ np.linalg.solve(design.T @ design, design.T @ returns)
    scaled = (advantage - advantage.min()) / (advantage.max() - advantage.min())
    expected = np.repeat(np.exp(scaled / 0.2), lengths)
    np.testing.assert_allclose(weights(data, method="aw", temperature=0.2), expected / expected.sum(), rtol=1e-9)


def test_ridge_value_predicts_each_episode_from_the_others() -> None:
    features, count = RNG.standard_normal((15, 4)) * [1.0, 10.0, 0.1, 0.0] + 3.0, 15
    returns = features[:, 0] * 2 + RNG.standard_normal(count)
    fit = ridge_value(features, returns)
    table = (features[:, :3] - features[:, :3].mean(0)) / features[:, :3].std(0)  # the fourth has no spread

    def left_out(penalty: float) -> np.ndarray:
        predictions = []
        for out in range(count):
            keep = np.arange(count) != out
            design = np.column_stack([np.ones(count), table])
            penalties = np.diag([0.0, *[penalty * count] * 3])
            normal = design[keep].T @ design[keep] + penalties
            predictions.append(design[out] @ np.linalg.solve(normal, design[keep].T @ returns[keep]))
        return np.array(predictions)

    np.testing.assert_allclose(fit.values, left_out(fit.penalty), rtol=1e-8)
    errors = {penalty: np.mean((returns - left_out(penalty)) ** 2) for penalty in 10.0 ** np.arange(-6.0, 4.0)}
    assert fit.penalty == min(errors, key=lambda penalty: errors[penalty])
    baseline = np.mean([(returns[i] - np.delete(returns, i).mean()) ** 2 for i in range(count)])
    assert fit.explained == pytest.approx(1 - errors[fit.penalty] / baseline)


def test_a_value_in_sample_takes_luck_for_value_and_one_from_the_others_does_not() -> None:
    firsts = np.random.default_rng(1).standard_normal((30, 20))
    data = episodes([4] * 30, list(np.random.default_rng(2).standard_normal(30)), firsts)  # returns are pure luck
    assert measured(data, method="aw")["value_explained_in_sample"] > 0.5
    assert measured(data, method="aw", value="ridge")["value_explained_held_out"] < 0.2


def test_percentage_filtering_keeps_the_best_episodes_and_is_uniform_over_their_transitions() -> None:
    data = episodes([1, 2, 3, 4], [4.0, 4.0, 1.0, 1.0])  # returns 4, 8, 3, 4
    np.testing.assert_allclose(weights(data, method="pf", fraction=0.5), [1 / 3] * 3 + [0.0] * 7)
    np.testing.assert_allclose(weights(data, method="pf"), [0.0, 0.5, 0.5] + [0.0] * 7)  # at least one


@pytest.mark.parametrize(("fraction", "kept"), [(0.29, 29), (0.07, 7), (0.999, 99), (1.0, 100), (0.001, 1)])
def test_the_kept_share_is_rounded_down_and_not_by_rounding_errors(fraction: float, kept: int) -> None:
    scores = np.arange(100.0)
    chosen = best(scores, fraction=fraction)
    assert chosen.sum() == kept
    assert chosen[100 - kept :].all()


def test_top_k_by_any_score() -> None:
    assert set(np.flatnonzero(weights(DATA, method="top_k", count=1, score="length"))) == {2, 3, 4, 5, 6}
    assert set(np.flatnonzero(weights(DATA, method="top_k", count=2))) == {0, 1, 2, 3, 4, 5, 6}
    assert set(np.flatnonzero(weights(DATA, method="top_k", count=1, score="infos/score"))) == {0, 1}
    assert set(np.flatnonzero(weights(DATA, method="top_k", fraction=0.34, score=np.array([1.0, 2.0, 9.0])))) == {
        7,
        8,
        9,
    }
    rows = weights(DATA, method="top_k", fraction=0.2, score="infos/row", unit="transition")
    np.testing.assert_allclose(rows, [0.0] * 8 + [0.5] * 2)
    # A column of the transitions counts by its mean in each episode: 0.5, 4, 8 for the row numbers.
    assert set(np.flatnonzero(weights(DATA, method="top_k", count=1, score="infos/row"))) == {7, 8, 9}


def test_softmax_by_any_score() -> None:
    expected = np.repeat(np.exp(np.array([0.0, 1.0, 1 / 3]) / 0.5), [2, 5, 3])
    found = weights(DATA, method="softmax", score="length", temperature=0.5)
    np.testing.assert_allclose(found, expected / expected.sum())
    by_row = np.exp(np.arange(10) / 9 / 0.1)
    np.testing.assert_allclose(
        weights(DATA, method="softmax", score="infos/row", unit="transition"), by_row / by_row.sum()
    )


def test_uniform_over_transitions_or_episodes() -> None:
    np.testing.assert_allclose(weights(DATA, method="uniform"), [0.1] * 10)
    expected = [1 / 6] * 2 + [1 / 15] * 5 + [1 / 9] * 3
    np.testing.assert_allclose(weights(DATA, method="uniform", unit="episode"), expected)


def test_weights_multiply_those_that_are_there_and_uniform_forgets_them() -> None:
    given_first = np.arange(10) / 45
    data = DATA.replace(sampling_weights=given_first)
    alone = weights(DATA, method="rw", temperature=1.0)
    both = given_first * alone
    np.testing.assert_allclose(weights(data, method="rw", temperature=1.0), both / both.sum())
    np.testing.assert_allclose(weights(data, method="uniform"), [0.1] * 10)
    third = DATA.replace(sampling_weights=np.array([0.0] * 7 + [1 / 3] * 3))
    with pytest.raises(IncompatibleError, match="no transition left"):
        Reweight(method="custom", weights=np.array([1.0] * 7 + [0.0] * 3)).apply(third)
    # What is never drawn does not take part: the best of what is left is the third episode.
    assert set(np.flatnonzero(weights(third, method="pf"))) == {7, 8, 9}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=12),
    st.floats(1e-3, 1e3),
)
def test_weights_are_probabilities_that_rise_with_the_return(
    items: list[tuple[int, float]], temperature: float
) -> None:
    data = episodes([length for length, _ in items], [reward for _, reward in items])
    found = weights(data, method="rw", temperature=temperature)
    assert found.sum() == pytest.approx(1.0, abs=1e-9)
    assert (found >= 0).all()
    per_episode = found[data.episode_starts]
    order = np.argsort(data.episode_returns, kind="stable")
    assert (np.diff(per_episode[order]) >= 0).all()
    if np.ptp(data.episode_returns) == 0:
        np.testing.assert_allclose(found, 1 / len(found))
    elif temperature > 1 / 600:  # else the least weight underflows
        assert per_episode.max() / per_episode.min() == pytest.approx(math.exp(1 / temperature), rel=1e-6)


# --- episodes without an end ---


def test_an_open_episode_at_the_end_gets_weight_zero_and_one_in_the_middle_is_refused() -> None:
    cut = episodes([2, 5, 3], [1.0, 2.0, -1.0], open_ended=(2,))
    for method in ("rw", "pf"):
        assert (weights(cut, method=method)[7:] == 0).all()
    # The range of returns is that of the others: 2 and 10.
    ratio = weights(cut, method="rw", temperature=1.0)[2] / weights(cut, method="rw", temperature=1.0)[0]
    assert ratio == pytest.approx(math.e)
    assert measured(cut, method="rw")["episodes_excluded"] == 1
    middle = episodes([2, 5, 3], [1.0, 2.0, -1.0], open_ended=(1,))
    for method in ("rw", "aw", "pf", "top_k"):
        with pytest.raises(IncompatibleError, match=r"incomplete episodes, row 1 .*\n.*not known\n.*partial=drop"):
            Reweight(method=method).apply(middle)  # type: ignore[arg-type]
    for method in ("rw", "pf", "top_k"):
        assert (weights(middle, method=method, partial="drop")[2:7] == 0).all()
    with pytest.raises(IncompatibleError, match="incomplete"):
        Reweight(method="rw", partial="refuse").apply(cut)
    with pytest.raises(IncompatibleError, match="no episode to weight"):
        Reweight(method="rw", partial="drop").apply(episodes([2, 2], [1.0, 2.0], open_ended=(0, 1)))


def test_a_score_of_the_users_needs_no_end() -> None:
    middle = episodes([2, 5, 3], [1.0, 2.0, -1.0], open_ended=(1,))
    assert set(np.flatnonzero(weights(middle, method="top_k", count=1, score=np.array([0, 5, 1])))) == {2, 3, 4, 5, 6}
    assert not weights(middle, method="softmax", score=np.array([0, 5, 1]), partial="drop")[2:7].any()
    assert weights(middle, method="custom", weights=np.ones(10))[2:7].all()


def test_the_advantage_of_a_perfect_fit_is_refused() -> None:
    few = episodes([2, 5, 3], [1.0, 2.0, -1.0])  # three episodes, three numbers per observation
    with pytest.raises(IncompatibleError, match="fits all 3 returns exactly"):
        Reweight(method="aw").apply(few)
    assert weights(few, method="aw", value="ridge").sum() == pytest.approx(1.0)


# --- the user's own columns ---


def test_custom_weights_from_an_array_a_file_or_a_column(tmp_path: Path) -> None:
    own = np.arange(10, dtype=np.float64)
    np.save(tmp_path / "own.npy", own)
    (tmp_path / "plain.csv").write_text("\n".join(map(str, own)), encoding="utf-8")
    (tmp_path / "named.csv").write_text(
        "row,weights\n" + "\n".join(f"{10 - i},{value}" for i, value in enumerate(own)), encoding="utf-8"
    )
    for source in (own, "infos/row", *(str(tmp_path / name) for name in ("own.npy", "plain.csv", "named.csv"))):
        np.testing.assert_allclose(weights(DATA, method="custom", weights=source), own / 45)
    per_episode = weights(DATA, method="custom", weights=np.array([1.0, 0.0, 4.0]), unit="episode")
    np.testing.assert_allclose(per_episode, np.array([1.0] * 2 + [0.0] * 5 + [4.0] * 3) / 14)


def test_bad_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    for source, error, words in (
        (np.arange(9.0), DatasetError, "9 values, but arrays has 10 transitions"),
        (np.array([-1.0] + [1.0] * 9), DatasetError, "negative in row 0"),
        (np.zeros(10), DatasetError, "all zero"),
        (np.full(10, np.nan), DatasetError, "NaN"),
        ("infos/scre", UnknownNameError, "score"),
        ("missing.npy", SpecError, "no file"),
        ("weights.txt", SpecError, "infos/NAME"),
        (str(tmp_path / "two.csv"), DatasetError, "none is called 'weights'"),
    ):
        with pytest.raises(error, match=words):
            Reweight(method="custom", weights=source).apply(DATA)  # type: ignore[arg-type]


# --- parameters and provenance ---


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"method": "best"}, "use one of uniform, rw"),
        ({"method": "rw", "fraction": 0.1}, "method rw has no fraction"),
        ({"method": "pf", "temperature": 0.1}, "method pf has no temperature"),
        ({"method": "rw", "temperature": 0.0}, "temperature is 0.0"),
        ({"method": "pf", "fraction": 1.5}, "fraction is 1.5"),
        ({"method": "top_k", "count": 0}, "count is 0"),
        ({"method": "top_k", "count": 3, "fraction": 0.1}, "not both"),
        ({"method": "custom"}, "needs weights"),
        ({"method": "aw", "value": "forest"}, "value is 'forest'"),
    ],
)
def test_options_that_do_not_fit_are_refused(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        Reweight(**parameters)


def test_transitions_have_no_return() -> None:
    with pytest.raises(SpecError, match="transitions have no return"):
        Reweight(method="top_k", unit="transition").apply(DATA)


def test_text_mapping_and_object_mean_the_same_and_are_recorded() -> None:
    forms: list[Any] = [
        "reweight(method=rw, temperature=0.2)",
        {"reweight": {"method": "rw", "temperature": 0.2}},
        Reweight(method="rw", temperature=0.2),
    ]
    results = [apply_transforms(DATA, [form]) for form in forms]
    assert len({result.fingerprint for result in results}) == 1
    assert results[0].fingerprint != DATA.fingerprint
    record = results[0].provenance.transforms[-1]
    assert (record.name, record.parameters["method"], record.parameters["temperature"]) == ("reweight", "rw", 0.2)
    returns = np.array([2.0, 10.0, -3.0])
    psv = np.mean(np.maximum(returns - returns.mean(), 0) ** 2)
    assert record.parameters["measured"]["psv"] == pytest.approx(psv)
    assert record.parameters["measured"]["rpsv"] == pytest.approx(psv / 13**2)
    assert results[0].rewards is DATA.rewards  # columns are shared
