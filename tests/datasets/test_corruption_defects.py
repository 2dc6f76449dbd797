"""Defects of logs and DSRL's filters, each against its formula written out by hand, with restoring and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offbench.datasets import Dataset
from offbench.datasets.transforms import apply_transforms, get_transform, parse_transform, restore
from offbench.errors import IncompatibleError, SpecError
from tests.datasets.corruption_data import episodes

VALUE_CHANGING = [
    "gaussian_noise(scale=0.5)",
    "gaussian_noise(next=clean, rate=0.4)",
    "gaussian_noise(next=independent)",
    "gaussian_noise(target=actions)",
    "gaussian_noise(target=rewards, rate=0.2)",
    "sensor_dropout(rate=0.3)",
    "sensor_dropout(rate=0.3, fill=previous)",
    "sensor_dropout(rate=0.3, fill=mean, unit=rows)",
    "sensor_bias",
    "sensor_bias(per=episode, rate=0.5)",
    "action_delay(steps=2)",
    "reward_sparsify",
    "reward_delay(steps=4)",
    "reward_flip",
    "reward_flip(unit=episodes)",
    "poison_labels(rate=0.4)",
    "missing_next(rate=0.3)",
    "dsrl_noise",
    "dsrl_outliers(cost_limit=3, fraction=0.2)",
]
OTHERS = [
    "missing_next(rate=0.3, drop=true)",
    "duplicate_episodes(rate=0.5)",
    "shuffle_episodes",
    "dsrl_density(cost_bins=2, return_bins=2, max_per_bin=1, min_per_bin=0)",
    "dsrl_inpaint(ranges=[[0, 1, 0, 0.4]])",
    "dsrl_epsilon(epsilon=1.0, cost_limit=100)",
]


def views(dataset: Dataset) -> dict[str, np.ndarray]:
    names = ("step_observations", "next_observations", "next_valid", "actions", "rewards", "costs", "terminated")
    return {name: getattr(dataset, name) for name in names if getattr(dataset, name) is not None}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("text", VALUE_CHANGING)
def test_clean_values_come_back_bit_for_bit(text: str, known: bool) -> None:
    dataset = episodes([7, 12, 3, 20, 15], next_known=known, costs=True)
    if "outliers" in text:
        dataset = dataset.replace(rewards=np.abs(dataset.rewards))
    got = apply_transforms(dataset, [text])
    assert got.fingerprint != dataset.fingerprint
    assert restore(got).fingerprint == dataset.fingerprint
    changed = False
    for name in ("observations", "next_observations", "actions", "rewards", "costs"):
        view = "step_observations" if name == "observations" else name
        touched = got.infos.get(f"touched/{name}", np.zeros(len(dataset), bool))
        same = getattr(got, view) == getattr(dataset, view)
        same = same.reshape(len(dataset), -1).all(1)
        if name == "next_observations":  # a hole shows the row's own observation
            same |= ~dataset.next_valid
        assert same[~touched].all(), name
        changed |= bool(touched.any())
    assert changed


@pytest.mark.parametrize("text", [*VALUE_CHANGING, *OTHERS])
def test_same_seed_same_data_and_the_input_is_left_alone(text: str) -> None:
    dataset = episodes([7, 12, 3, 20, 15], costs=True)
    dataset = dataset.replace(rewards=np.abs(dataset.rewards))
    before = {name: values.copy() for name, values in views(dataset).items()}
    first, second = apply_transforms(dataset, [text]), apply_transforms(dataset, [text])
    assert first.fingerprint == second.fingerprint
    for name, values in before.items():
        np.testing.assert_array_equal(views(dataset)[name], values)
    record = first.provenance.transforms[-1]
    assert record.name == text.partition("(")[0]
    kind = get_transform(record.name)
    assert record.seed == getattr(parse_transform(text), "seed", None)
    assert kind.summary
    if "seed" in kind.__dataclass_fields__:
        other = text[:-1] + ", seed=77)" if text.endswith(")") else f"{text}(seed=77)"
        assert apply_transforms(dataset, [other]).fingerprint != first.fingerprint


# --- sensors and actuators ---


def test_gaussian_noise_has_the_scale_of_each_dimension() -> None:
    dataset = episodes([500] * 20)
    got = apply_transforms(dataset, ["gaussian_noise(scale=0.5, rate=0.6)"])
    noise = got.step_observations.astype(float) - dataset.step_observations
    touched = got.infos["touched/observations"]
    assert abs(touched.mean() - 0.6) < 0.01
    expected = 0.5 * dataset.step_observations.std(0, dtype=float)
    np.testing.assert_allclose(noise[touched].std(0), expected, rtol=0.05)
    # A sensor's reading is the same as s' of one row and as s of the next.
    inside = ~dataset.is_last[:-1]
    np.testing.assert_array_equal(got.next_observations[:-1][inside], got.step_observations[1:][inside])
    assert got.next_observations_override is None
    independent = apply_transforms(dataset, ["gaussian_noise(next=independent)"])
    s, following = independent.step_observations[1:][inside], independent.next_observations[:-1][inside]
    difference = (s - dataset.step_observations[1:][inside]) * (following - dataset.next_observations[:-1][inside])
    assert abs(difference[:, 0].mean()) < 0.01 * 5 / np.sqrt(len(difference))
    kept = apply_transforms(dataset, ["gaussian_noise(next=clean)"])
    np.testing.assert_array_equal(kept.next_observations, dataset.next_observations)


def test_noisy_actions_stay_in_their_box() -> None:
    dataset = episodes([200] * 5)
    got = apply_transforms(dataset, ["gaussian_noise(target=actions, scale=3)"])
    assert np.abs(got.actions).max() == 1.0
    with pytest.raises(IncompatibleError, match="no Gaussian noise"):
        apply_transforms(episodes([5], discrete=True), ["gaussian_noise(target=actions)"])


@pytest.mark.parametrize("fill", ["zero", "mean", "previous"])
def test_lost_readings(fill: str) -> None:
    dataset = episodes([50] * 40)
    got = apply_transforms(dataset, [f"sensor_dropout(rate=0.3, fill={fill}, dimensions=[0, 2])"])
    lost = got.step_observations != dataset.step_observations
    assert not lost[:, [1, 3]].any()
    share = 0.3 if fill != "previous" else 0.3 * 49 / 50
    assert np.abs(lost[:, [0, 2]].mean(0) - share).max() < 0.05
    for j in (0, 2):
        values = got.step_observations[:, j]
        if fill == "zero":
            assert (values[lost[:, j]] == 0).all()
        elif fill == "mean":
            mean = dataset.step_observations[:, j].mean(dtype=float)
            np.testing.assert_allclose(values[lost[:, j]], mean, rtol=1e-5, atol=1e-6)
        else:
            last = np.nan
            for row in range(len(dataset)):  # the plain loop: hold the episode's last reading
                if dataset.timesteps[row] == 0 or not lost[row, j]:
                    last = dataset.step_observations[row, j]
                assert values[row] == last
    np.testing.assert_array_equal(lost.any(1), got.infos["touched/observations"] & lost.any(1))
    inside = ~dataset.is_last[:-1]
    np.testing.assert_array_equal(got.next_observations[:-1][inside], got.step_observations[1:][inside])


def test_whole_readings_and_dead_sensors() -> None:
    dataset = episodes([50] * 20)
    got = apply_transforms(dataset, ["sensor_dropout(rate=0.4, unit=rows)"])
    gone = (got.step_observations == 0).all(1)
    np.testing.assert_array_equal(gone, got.infos["touched/observations"])
    assert abs(gone.mean() - 0.4) < 0.06
    np.testing.assert_array_equal(got.step_observations[~gone], dataset.step_observations[~gone])
    dead = apply_transforms(dataset, ["sensor_dropout(rate=1, dimensions=[1])"])
    assert (dead.observations[:, 1] == 0).all()
    with pytest.raises(SpecError, match="observations have 4"):
        apply_transforms(dataset, ["sensor_dropout(dimensions=[4])"])


def test_sensor_faults_need_frames() -> None:
    dataset = apply_transforms(episodes([5, 5]), ["corrupt(target=dynamics, rate=1)"])
    for text in ("gaussian_noise", "sensor_dropout", "sensor_bias"):
        with pytest.raises(IncompatibleError, match="a column of their own"):
            apply_transforms(dataset, [text])
    apply_transforms(dataset, ["gaussian_noise(next=clean)"])


def test_bias_is_constant() -> None:
    dataset = episodes([30] * 10)
    std = dataset.step_observations.std(0, dtype=float)
    got = apply_transforms(dataset, ["sensor_bias(scale=0.5)"])
    bias = got.observations.astype(float) - dataset.observations
    np.testing.assert_allclose(bias, np.broadcast_to(bias[0], bias.shape), atol=2e-5)
    assert (np.abs(bias[0]) <= 0.5 * std + 1e-4).all()
    told = got.provenance.transforms[-1].parameters["measured"]["bias"]
    np.testing.assert_allclose(bias[0], np.array(told) * std, atol=1e-4)
    per = apply_transforms(dataset, ["sensor_bias(per=episode, rate=0.5)"])
    shift = (per.step_observations.astype(float) - dataset.step_observations)[:, 0].reshape(10, 30)
    assert (np.ptp(shift, axis=1) < 1e-5).all()
    assert (np.abs(shift[:, 0]) > 1e-6).sum() == 5
    assert len(np.unique(np.round(shift[:, 0], 4))) == 6


def test_delayed_actions() -> None:
    dataset = episodes([1, 4, 6])
    got = apply_transforms(dataset, ["action_delay(steps=2)"])
    source = [0, 1, 1, 1, 2, 5, 5, 5, 6, 7, 8]
    np.testing.assert_array_equal(got.actions, dataset.actions[source])


# --- rewards ---


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 15), min_size=1, max_size=8), steps=st.integers(1, 20))
def test_late_rewards_keep_the_returns(lengths: list[int], steps: int) -> None:
    dataset = episodes(lengths)
    sparse = apply_transforms(dataset, ["reward_sparsify"])
    late = apply_transforms(dataset, [f"reward_delay(steps={steps})"])
    for got in (sparse, late):
        np.testing.assert_allclose(got.episode_returns, dataset.episode_returns, rtol=1e-5, atol=1e-5)
    assert (sparse.rewards[~dataset.is_last] == 0).all()
    waited = 0.0
    for row in range(len(dataset)):  # the plain loop
        waited += float(dataset.rewards[row])
        if (dataset.timesteps[row] + 1) % steps == 0 or dataset.is_last[row]:
            assert late.rewards[row] == pytest.approx(waited, rel=1e-5, abs=1e-5)
            waited = 0.0
        else:
            assert late.rewards[row] == 0


def test_flipped_rewards() -> None:
    dataset = episodes([25] * 8)
    got = apply_transforms(dataset, ["reward_flip(rate=0.3)"])
    flipped = got.rewards != dataset.rewards
    assert flipped.sum() == 60
    np.testing.assert_array_equal(got.rewards[flipped], -dataset.rewards[flipped])
    whole = apply_transforms(dataset, ["reward_flip(rate=0.25, unit=episodes)"])
    shares = (whole.rewards != dataset.rewards).reshape(8, 25).mean(1)
    assert sorted(shares) == [0] * 6 + [1] * 2


@pytest.mark.parametrize("choose", ["random", "worst"])
def test_poisoned_trajectories_look_best(choose: str) -> None:
    dataset = episodes([10, 20, 30, 5, 8, 40, 11, 9, 13, 27])
    got = apply_transforms(dataset, [f"poison_labels(rate=0.3, margin=0.5, choose={choose})"])
    returns = dataset.episode_returns
    goal = returns.max() + 0.5 * (returns.max() - returns.min())
    poisoned = got.episode_returns > returns.max() + 1e-3
    assert poisoned.sum() == 3
    np.testing.assert_allclose(got.episode_returns[poisoned], goal, rtol=1e-5)
    np.testing.assert_array_equal(got.episode_returns[~poisoned], returns[~poisoned])
    if choose == "worst":
        np.testing.assert_array_equal(np.flatnonzero(poisoned), np.sort(np.argsort(returns)[:3]))
    # Inside an episode the shift is the same for every step, so the order of its rewards stays.
    shift = (got.rewards.astype(float) - dataset.rewards)[dataset.episode_ids == np.flatnonzero(poisoned)[0]]
    assert np.ptp(shift) < 1e-4


# --- whole logs ---


@pytest.mark.parametrize("known", [True, False])
def test_missing_next_observations(known: bool) -> None:
    dataset = episodes([10] * 20, next_known=known)
    got = apply_transforms(dataset, ["missing_next(rate=0.25)"])
    count = int(dataset.next_valid.sum())
    assert (~got.next_valid).sum() == 200 - count + round(0.25 * count)
    holes = dataset.next_valid & ~got.next_valid
    np.testing.assert_array_equal(holes, got.infos["touched/next_observations"])
    np.testing.assert_array_equal(got.next_observations[holes], dataset.step_observations[holes])
    np.testing.assert_array_equal(got.next_observations[got.next_valid], dataset.next_observations[got.next_valid])
    np.testing.assert_array_equal(got.step_observations, dataset.step_observations)
    fewer = apply_transforms(dataset, ["missing_next(rate=0.25, drop=true)"])
    assert len(fewer) == 200 - round(0.25 * count)
    assert fewer.provenance.transforms[-1].parameters["measured"] == {"dropped": round(0.25 * count)}


def test_duplicated_episodes() -> None:
    dataset = episodes([5, 9, 2, 7])
    got = apply_transforms(dataset, ["duplicate_episodes(rate=0.5, copies=2, choose=best)"])
    best = np.sort(np.argsort(dataset.episode_returns)[2:])
    order = [0, 1, 2, 3, best[0], best[0], best[1], best[1]]
    np.testing.assert_array_equal(got.episode_lengths, dataset.episode_lengths[order])
    np.testing.assert_allclose(got.episode_returns, dataset.episode_returns[order])
    np.testing.assert_array_equal(got.infos["source_episode"][got.episode_starts], order)
    np.testing.assert_array_equal(got.infos["duplicate"], np.arange(len(got)) >= len(dataset))
    beside = apply_transforms(dataset, ["duplicate_episodes(rate=0.5, choose=worst, place=beside)"])
    sources = beside.infos["source_episode"][beside.episode_starts]
    np.testing.assert_array_equal(sources, np.sort(sources))
    assert len(sources) == 6


def test_shuffled_episodes_are_the_same_episodes() -> None:
    dataset = episodes([5, 9, 2, 7, 4, 6])
    got = apply_transforms(dataset, ["shuffle_episodes(seed=2)"])
    sources = got.infos["source_episode"][got.episode_starts]
    assert sorted(sources) == list(range(6))
    assert list(sources) != list(range(6))
    for place, source in enumerate(sources):
        mine, theirs = got.episode_ids == place, dataset.episode_ids == source
        for name, values in views(got).items():
            np.testing.assert_array_equal(values[mine], views(dataset)[name][theirs])


# --- DSRL ---


def safe_data(count: int = 60, seed: int = 0) -> Dataset:
    """Complete episodes with costs; the more cost, the more reward, as in DSRL."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 30, count)
    n = int(lengths.sum())
    ends = np.zeros(n, bool)
    ends[np.cumsum(lengths) - 1] = True
    risk = np.repeat(rng.random(count), lengths)
    base = episodes([int(length) for length in lengths], seed=seed)
    return base.replace(costs=(rng.random(n) < risk).astype(np.float32), rewards=(risk + 0.1).astype(np.float32))


def sums(dataset: Dataset) -> tuple[list[float], list[float]]:
    costs = [float(dataset.costs[dataset.episode_ids == k].sum()) for k in range(dataset.num_episodes)]  # type: ignore[index]
    rewards = [float(dataset.rewards[dataset.episode_ids == k].sum(dtype=float)) for k in range(dataset.num_episodes)]
    return costs, rewards


def test_density_keeps_at_most_so_many_per_bin() -> None:
    dataset = safe_data(200)
    got = apply_transforms(dataset, ["dsrl_density(cost_bins=4, return_bins=5, max_per_bin=6, min_per_bin=2)"])
    costs, rewards = sums(dataset)
    groups: dict[tuple[float, float], int] = {}
    cost_step, reward_step = (max(costs) - min(costs)) / 4, (max(rewards) - min(rewards)) / 5

    def bin_of(cost: float, reward: float) -> tuple[float, float]:
        return (cost - min(costs)) // cost_step, (reward - min(rewards)) // reward_step

    for pair in zip(costs, rewards, strict=True):
        groups[bin_of(*pair)] = groups.get(bin_of(*pair), 0) + 1
    kept: dict[tuple[float, float], int] = {}
    for pair in zip(*sums(got), strict=True):
        kept[bin_of(*pair)] = kept.get(bin_of(*pair), 0) + 1
    wanted = {key: min(size, 6) for key, size in groups.items() if size > 2}
    assert kept == wanted
    assert any(size > 6 for size in groups.values())
    assert any(size <= 2 for size in groups.values())


def test_outliers_are_drawn_as_dsrl_draws_them() -> None:
    dataset = safe_data(100)
    got = apply_transforms(dataset, ["dsrl_outliers(fraction=0.07, cost_limit=5)"])
    costs, rewards = map(np.array, sums(dataset))
    rng = np.random.Generator(np.random.PCG64(1234))
    risky = np.arange(100)[np.logical_and(costs >= costs.max() / 2, rewards >= rewards.max() / 2)]
    chosen = rng.choice(risky, size=7, replace=False)
    amounts = rng.choice(np.arange(5), size=7)
    expected_costs, expected_rewards = dataset.costs.copy(), dataset.rewards.copy()  # type: ignore[union-attr]
    for episode, amount in zip(chosen, amounts, strict=True):
        start, length = dataset.episode_starts[episode], dataset.episode_lengths[episode]
        ones = rng.choice(np.arange(length), amount, replace=False)
        expected_costs[start : start + length] = 0
        expected_costs[start + ones] = 1
        expected_rewards[start : start + length] *= 1.5
    np.testing.assert_array_equal(got.costs, expected_costs)
    np.testing.assert_allclose(got.rewards, expected_rewards, rtol=1e-6)
    np.testing.assert_array_equal(got.infos["touched/costs"], np.isin(dataset.episode_ids, chosen))
    assert restore(got).fingerprint == dataset.fingerprint


def test_dsrl_noise_is_dsrls() -> None:
    dataset = safe_data(20)
    got = apply_transforms(dataset, ["dsrl_noise(scale=0.2)"])
    rng = np.random.Generator(np.random.PCG64(1234))
    s, following = dataset.step_observations, dataset.next_observations
    first = s + 0.2 * rng.normal(0, np.std(s, dtype=float), s.shape)
    second = following + 0.2 * rng.normal(0, np.std(following, dtype=float), s.shape)
    np.testing.assert_allclose(got.step_observations, first, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(got.next_observations, second, rtol=1e-5, atol=1e-4)


def test_inpainting_and_epsilon_remove_the_right_episodes() -> None:
    dataset = safe_data(80)
    costs, rewards = map(np.array, sums(dataset))

    def share(values: np.ndarray) -> np.ndarray:
        return (values - values.min()) / (values.max() - values.min())

    removed = (share(costs) >= 0.2) & (share(costs) <= 0.5) & (share(rewards) <= 0.6)
    got = apply_transforms(dataset, ["dsrl_inpaint(ranges=[[0.2, 0.5, 0.0, 0.6]])"])
    assert 0 < removed.sum() < 80
    np.testing.assert_allclose(got.episode_returns, rewards[~removed], rtol=1e-6)
    safe = costs <= 4
    for epsilon, side in ((2.0, safe), (-2.0, ~safe)):
        top = rewards[side].max()
        kept = ~(side & (rewards >= top - 2.0))
        got = apply_transforms(dataset, [f"dsrl_epsilon(epsilon={epsilon}, cost_limit=4)"])
        np.testing.assert_allclose(got.episode_returns, rewards[kept], rtol=1e-6)
        assert (~kept).any()


def test_dsrl_needs_costs() -> None:
    for text in OTHERS[3:]:
        with pytest.raises(IncompatibleError, match="no costs"):
            apply_transforms(episodes([5, 5]), [text])


@pytest.mark.parametrize(
    "text",
    [
        "gaussian_noise(scale=-1)",
        "gaussian_noise(rate=2)",
        "gaussian_noise(target=states)",
        "sensor_dropout(fill=nan)",
        "sensor_bias(per=step)",
        "action_delay(steps=0)",
        "reward_delay(steps=0)",
        "reward_flip(unit=dataset)",
        "poison_labels(choose=best)",
        "missing_next(rate=-0.1)",
        "duplicate_episodes(copies=0)",
        "shuffle_episodes(seed=-1)",
        "dsrl_density(max_per_bin=0)",
        "dsrl_outliers(cost_limit=0)",
        "dsrl_inpaint(ranges=[])",
        "dsrl_epsilon(epsilon=0, cost_limit=1)",
    ],
)
def test_wrong_parameters_are_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_transform(text)
