"""Every defect that the lint of a loaded dataset knows is planted, with its rows; clean data raise nothing."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from offbench.datasets import Dataset, load_dataset
from offbench.datasets.lint import CHECKS, Check, lint_dataset
from tests.datasets.conftest import REAL_DATA
from tests.datasets.lint_data import ROWS, STEPS, Columns, checks, clean_columns, dataset, found, lint, reference


@pytest.fixture
def columns() -> Columns:
    return clean_columns()


def ends(*episodes: int) -> list[int]:
    """Last rows of episodes."""
    return [(episode + 1) * STEPS - 1 for episode in episodes]


# --- clean data ---


def test_clean_columns_raise_nothing(columns: Columns) -> None:
    report = lint(columns)
    assert report.findings == ()
    assert report.ok
    assert report.clean
    assert (report.transitions, report.episodes) == (ROWS, 40)


@pytest.mark.parametrize("name", [path.stem for path in sorted(REAL_DATA.glob("*.hdf5"))] or ["none"])
def test_real_files_raise_notes_at_most(name: str) -> None:
    path = REAL_DATA / f"{name}.hdf5"
    if not path.is_file():
        pytest.skip("real datasets are not on this machine")
    report = lint_dataset(load_dataset(path))
    assert report.clean, report.findings
    # What is known of these files: clipped policies and parts whose last episode was cut.
    assert checks(report) <= {"timeout-before-limit", "saturated-actions"}


@pytest.mark.parametrize("name", ["pendulum/random", "pendulum/medium"])
def test_built_in_datasets_raise_notes_at_most(name: str) -> None:
    report = lint_dataset(load_dataset(name))
    assert report.clean, report.findings


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hopper/random", "hopper/medium", "cartpole/mixed", "pendulum/medium-replay"])
def test_more_built_in_datasets_raise_notes_at_most(name: str) -> None:
    report = lint_dataset(load_dataset(name))
    assert report.clean, report.findings


# --- ends of episodes ---


def test_no_flags(columns: Columns) -> None:
    del columns["next_observations"]
    columns["truncated"][:] = False
    finding = found(lint(columns), "no-flags")
    assert finding.severity == "error"
    assert "4,000 rows in 1 episode" in finding.message
    assert found(lint(columns, reference=None), "no-flags").severity == "warning"


def test_both_flags(columns: Columns) -> None:
    columns["terminated"][ends(3, 8)] = True
    shorter = lint(columns, reference=reference(horizon=STEPS + 50))
    finding = found(shorter, "both-flags")
    assert (finding.severity, finding.rows, finding.episodes, finding.count) == ("warning", (399, 899), (3, 8), 2)
    # In the last step before the limit both can be true.
    assert found(lint(columns), "both-flags").severity == "note"


def test_flags_that_are_copies(columns: Columns) -> None:
    columns["terminated"] = columns["truncated"]
    assert "the two columns are the same" in found(lint(columns, reference=None), "both-flags").message


def test_time_limits_that_are_terminals(columns: Columns) -> None:
    columns["terminated"], columns["truncated"] = columns["truncated"], columns["terminated"]
    finding = found(lint(columns), "limit-as-terminal")
    assert (finding.severity, finding.rows, finding.count) == ("error", tuple(ends(0, 1, 2, 3, 4)), 40)
    assert found(lint(columns, reference=None), "limit-as-terminal").severity == "warning"
    assert "limit-as-terminal" not in checks(lint(columns, reference=reference(horizon=STEPS + 1)))


def test_terminals_of_a_task_without_them(columns: Columns) -> None:
    columns["terminated"][ends(6)] = True
    columns["truncated"][ends(6)] = False
    options: dict[str, Any] = {"environment": "HalfCheetah-v5", "reference": None}
    finding = found(lint(columns, **options), "terminated-endless-task")
    assert (finding.rows, finding.episodes) == ((699,), (6,))
    assert "terminated-endless-task" not in checks(lint(columns, environment="Hopper-v5", reference=None))


def test_timeouts_that_disagree_with_the_limit(columns: Columns) -> None:
    report = lint(columns, reference=reference(horizon=150))
    finding = found(report, "timeout-before-limit")
    assert (finding.severity, finding.count, finding.rows) == ("warning", 40, tuple(ends(0, 1, 2, 3, 4)))
    assert "150 steps (the reference scores), after 100 steps" in finding.message


def test_one_recording_that_stopped_is_a_note(columns: Columns) -> None:
    columns["truncated"][1720] = True
    assert "timeout-before-limit" in checks(lint(columns))
    finding = found(lint(columns), "timeout-before-limit")
    assert (finding.severity, finding.rows, finding.episodes) == ("note", (1720, 1799), (17, 18))


def test_longer_than_the_limit(columns: Columns) -> None:
    report = lint(columns, reference=reference(horizon=60))
    assert found(report, "longer-than-limit").rows[:2] == (60, 160)
    assert found(report, "longer-than-limit").count == 40
    assert "up to 100 steps, the reference scores 60" in found(report, "reference-horizon").message


def test_alternating_time_limits(columns: Columns) -> None:
    columns["truncated"][[episode * STEPS + 49 for episode in range(0, 40, 2)]] = True
    finding = found(lint(columns, reference=None), "mixed-time-limits")
    assert "50 and 100 steps" in finding.message
    assert finding.count == 60


def test_trailing_partial_episode(columns: Columns) -> None:
    finding = found(lint({name: column[:-30] for name, column in columns.items()}), "trailing-partial-episode")
    assert (finding.severity, finding.rows, finding.episodes) == ("note", (3969,), (39,))


def test_an_episode_that_ends_without_a_flag(columns: Columns) -> None:
    starts = np.arange(0, ROWS, STEPS)
    columns["truncated"][ends(11)] = False
    finding = found(lint(columns, episode_starts=starts), "unended-episode")
    assert (finding.rows, finding.episodes) == ((1199,), (11,))


def test_single_step_episodes(columns: Columns) -> None:
    columns["terminated"][90:100] = True
    columns["truncated"][99] = False
    finding = found(lint(columns, reference=None), "single-step-episodes")
    assert (finding.severity, finding.rows, finding.count) == ("warning", (91, 92, 93, 94, 95), 9)
    columns["terminated"][92:99] = False
    assert found(lint(columns, reference=None), "single-step-episodes").severity == "note"


# --- observations ---


def test_next_observation_of_the_next_reset(columns: Columns) -> None:
    following = columns["next_observations"]
    following[ends(4)] = columns["observations"][500]
    following[ends(9)] = columns["observations"][1000]
    finding = found(lint(columns), "next-is-reset")
    assert (finding.severity, finding.rows, finding.episodes) == ("error", (499, 999), (4, 9))


def test_next_observations_that_are_shifted_rows(columns: Columns) -> None:
    columns["next_observations"] = np.roll(columns["observations"], -1, axis=0)
    finding = found(lint(columns), "next-is-reset")
    assert (finding.severity, finding.count, finding.rows[:2]) == ("warning", 39, (99, 199))
    assert "unknown-next-observation" in checks(lint(columns))


def test_next_observations_that_differ(columns: Columns) -> None:
    columns["next_observations"][[150, 1203]] += 0.5
    finding = found(lint(columns), "next-differs")
    assert (finding.rows, finding.count) == ((150, 1203), 2)


@pytest.mark.parametrize("flag", [7, 23])
def test_hidden_reset(columns: Columns, flag: int) -> None:
    del columns["next_observations"]
    columns["truncated"][ends(flag)] = False
    report = lint(columns, reference=None)
    finding = found(report, "observation-jump")
    assert (finding.severity, finding.rows, finding.episodes) == ("warning", tuple(ends(flag)), (flag,))


def test_hidden_resets_in_real_files(real_file: Any) -> None:
    data = load_dataset(real_file)
    starts = data.episode_starts[1:]
    joined = starts[len(starts) // 3 :: max(1, len(starts) // 10)][:5]  # a few ends lose their flags
    terminated, truncated = data.terminated.copy(), data.truncated.copy()
    terminated[joined - 1] = truncated[joined - 1] = False
    report = lint_dataset(
        Dataset.from_arrays(
            data.step_observations, data.actions, data.rewards, terminated, truncated, action_space=data.action_space
        )
    )
    assert set(found(report, "observation-jump").rows) <= set((joined - 1).tolist())
    assert found(report, "observation-jump").count >= 2


def test_collisions_do_not_jump(columns: Columns) -> None:
    """One velocity that stops at a wall now and then is no reset, which moves the whole state."""
    columns["observations"][150::997, 2] *= -1.5
    del columns["next_observations"]
    assert "observation-jump" not in checks(lint(columns))


def test_wrapped_angles_and_goals_do_not_jump(columns: Columns) -> None:
    rng = np.random.default_rng(3)
    angle = np.cumsum(rng.normal(0.02, 0.05, ROWS)).reshape(-1, 1)
    angle = (angle + np.pi) % (2 * np.pi) - np.pi
    goal = np.repeat(rng.normal(0, 5, (ROWS // 50, 1)), 50, axis=0)
    del columns["next_observations"]
    columns["observations"] = np.concatenate([columns["observations"], angle, goal], axis=1).astype(np.float32)
    assert checks(lint(columns)) == {"unknown-next-observation"}


def test_zero_rows(columns: Columns) -> None:
    del columns["next_observations"]
    columns["observations"][[710, 3999]] = 0
    finding = found(lint(columns), "zero-rows")
    assert (finding.rows, finding.episodes) == ((710, 3999), (7, 39))


def widen(columns: Columns, values: Any) -> Columns:
    """A further observation column."""
    extra = np.broadcast_to(np.asarray(values, np.float32), ROWS)[:, None]
    for name in ("observations", "next_observations"):
        columns[name] = np.concatenate([columns[name], extra], axis=1)
    del columns["next_observations"]
    return columns


def test_constant_column(columns: Columns) -> None:
    finding = found(lint(widen(columns, 3.0)), "constant-column")
    assert (finding.severity, finding.count) == ("note", 1)
    assert "column 4 of 5" in finding.message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.random.default_rng(0).normal(0, 1e5, ROWS), "columns differ in scale"),
        (np.random.default_rng(0).normal(0, 1e7, ROWS), "spreads over more than 1e6"),
        (1.7e9 + np.arange(ROWS) % STEPS, "float32 holds seven digits"),
    ],
)
def test_badly_scaled_column(columns: Columns, values: Any, message: str) -> None:
    finding = found(lint(widen(columns, values)), "badly-scaled-column")
    assert message in finding.message
    assert "column 4" in finding.message


def test_placeholders(columns: Columns) -> None:
    del columns["next_observations"]
    columns["observations"][[5, 77], 1] = -99999.0
    columns["rewards"][2000] = 1e8
    report = lint(columns)
    rows = [finding.rows for finding in report.findings if finding.check == "extreme-values"]
    assert rows == [(5, 77), (2000,)]


def test_outside_the_observation_space(columns: Columns) -> None:
    del columns["next_observations"]
    columns["observations"][1234, 2] = 60.0
    space = spaces.Box(-50.0, 50.0, (4,), np.float32)
    finding = found(lint(columns, observation_space=space), "outside-observation-space")
    assert finding.rows == (1234,)
    assert "column 2" in finding.message


def test_images_stored_as_floats() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (60, 16, 16)).astype(np.float32)
    report = lint(
        {
            "observations": frames,
            "actions": rng.uniform(-0.9, 0.9, (60, 2)),
            "rewards": rng.normal(size=60),
            "terminated": np.zeros(60, bool),
            "truncated": np.arange(60) % 20 == 19,
        },
        reference=None,
    )
    assert "whole numbers from 0 to" in found(report, "float-images").message


# --- copies ---


def test_duplicate_episodes(columns: Columns) -> None:
    for column in columns.values():
        column[2000:2100] = column[300:400]
        column[3500:3600] = column[300:400]
    report = lint(columns)
    finding = found(report, "duplicate-episodes")
    assert (finding.severity, finding.episodes, finding.rows, finding.count) == (
        "warning",
        (20, 35),
        (2000, 3500),
        2,
    )
    assert "duplicate-rows" not in checks(report)
    columns["truncated"][3599] = False  # the copy counts, however it ends
    assert found(lint(columns, episode_starts=np.arange(0, ROWS, STEPS)), "duplicate-episodes").episodes == (20, 35)


def test_duplicate_rows(columns: Columns) -> None:
    rows = np.insert(np.arange(ROWS), [42, 1950], [41, 1949])
    repeated = {name: column[rows] for name, column in columns.items()}
    del repeated["next_observations"]
    finding = found(lint(repeated, reference=None), "duplicate-rows")
    assert (finding.rows, finding.episodes) == ((42, 1951), (0, 19))


def test_a_state_that_recurs_is_the_environments() -> None:
    """A car at rest against a wall, again and again, is no copy by the logger; a row that is there twice is."""
    rng = np.random.default_rng(0)
    states = rng.standard_normal((2000, 2)).astype(np.float32)
    states[100::200] = [-1.2, 0.0]
    states[751] = states[641]
    report = lint(
        {
            "observations": states,
            "actions": np.zeros(2000, np.int64),
            "rewards": -np.ones(2000, np.float32),
            "terminated": np.arange(2000) % 200 == 199,
            "truncated": np.zeros(2000, bool),
        },
        action_space=spaces.Discrete(2),
        reference=None,
        environment=None,
    )
    warning, note = (finding for finding in report.findings if finding.check == "duplicate-rows")
    assert (warning.severity, warning.rows) == ("warning", (751,))
    assert (note.severity, note.count) == ("note", 9)


def test_states_of_a_grid_repeat_by_nature() -> None:
    rng = np.random.default_rng(0)
    states = rng.integers(0, 3, (2000, 2)).astype(np.float32)
    report = lint(
        {
            "observations": states,
            "actions": rng.integers(0, 2, 2000),
            "rewards": rng.integers(0, 2, 2000),
            "terminated": np.arange(2000) % 2 == 1,
            "truncated": np.zeros(2000, bool),
        },
        action_space=spaces.Discrete(2),
        reference=None,
    )
    assert report.clean, report.findings
    assert found(report, "duplicate-episodes").severity == "note"


# --- actions ---


def test_actions_outside_the_space(columns: Columns) -> None:
    columns["actions"][[8, 2222], 1] = 1.4, -3.0
    finding = found(lint(columns), "actions-outside-space")
    assert (finding.severity, finding.rows, finding.episodes) == ("error", (8, 2222), (0, 22))
    assert "[-1, 1] by up to 2" in finding.message
    columns["actions"][[8, 2222], 1] = 1.000001
    assert found(lint(columns), "actions-outside-space").severity == "note"


def test_saturated_actions(columns: Columns) -> None:
    columns["actions"] = np.sign(columns["actions"])
    finding = found(lint(columns), "saturated-actions")
    assert finding.severity == "warning"
    assert "100% of the rows" in finding.message


def test_integer_actions(columns: Columns) -> None:
    columns["actions"] = np.round(3 * columns["actions"])
    report = lint(columns, action_space=spaces.Box(-5.0, 5.0, (2,), np.float32))
    assert "-3, -2, -1, 0, 1, 2, ..." in found(report, "integer-actions").message


def test_actions_in_another_scale(columns: Columns) -> None:
    columns["actions"] = np.clip(2 * columns["actions"], -1, 1)
    report = lint(columns, action_space=spaces.Box(-2.0, 2.0, (2,), np.float32))
    assert "pile up at -1 and 1, but the space reaches from -2 to 2" in found(report, "action-scale").message


def test_constant_action(columns: Columns) -> None:
    columns["actions"][:, 1] = 0.25
    assert "column 1 of 2 is constant" in found(lint(columns), "constant-action").message


def test_unbounded_actions(columns: Columns) -> None:
    report = lint(columns, action_space=spaces.Box(-np.inf, np.inf, (2,), np.float32))
    assert found(report, "unbounded-actions").severity == "note"


def test_probabilities_for_log_probabilities(columns: Columns) -> None:
    log_probs = np.full(ROWS, -0.7)
    log_probs[[3, 4]] = 0.5
    columns["actions"] = np.random.default_rng(0).integers(0, 2, ROWS)
    report = lint(columns, log_probs=log_probs, action_space=spaces.Discrete(2))
    assert found(report, "positive-log-probs").rows == (3, 4)


# --- rewards and references ---


@pytest.mark.parametrize(("shift", "text", "fix"), [(1, "before", "up"), (-1, "after", "down")])
def test_shifted_rewards(columns: Columns, shift: int, text: str, fix: str) -> None:
    columns["rewards"] = np.roll(columns["rewards"], shift)
    finding = found(lint(columns), "shifted-rewards")
    assert f"the transition {text} a row" in finding.message
    assert f"one row {fix}" in finding.fix


@pytest.mark.parametrize("shift", [1, -1])
def test_shifted_rewards_of_real_files(real_file: Any, shift: int) -> None:
    data = load_dataset(real_file)
    assert "shifted-rewards" in checks(lint_dataset(data.replace(rewards=np.roll(data.rewards, shift))))


def test_shifted_sparse_rewards(columns: Columns) -> None:
    columns["terminated"], columns["truncated"] = columns["truncated"], columns["terminated"]
    rewards = np.zeros(ROWS, np.float32)
    rewards[ends(*range(0, 40, 2))] = 1
    clean = {**columns, "rewards": rewards}
    assert "shifted-rewards" not in checks(lint(clean, reference=None))
    finding = found(lint({**columns, "rewards": np.roll(rewards, 1)}, reference=None), "shifted-rewards")
    assert (finding.rows, finding.count) == ((100, 300, 500, 700, 900), 20)


def test_rewards_and_returns_without_information(columns: Columns) -> None:
    columns["rewards"] = np.zeros(ROWS)
    assert found(lint(columns), "zero-rewards").severity == "warning"
    columns["rewards"] = np.ones(ROWS)
    report = lint(columns)
    assert {"constant-rewards", "equal-returns"} <= checks(report)
    assert report.clean


def test_negative_costs(columns: Columns) -> None:
    costs = np.zeros(ROWS)
    costs[[17, 80]] = -1
    assert found(lint(columns, costs=costs), "negative-costs").rows == (17, 80)


def test_a_name_that_disagrees_with_the_returns(columns: Columns) -> None:
    scores = {"minimum": -20.0, "maximum": 5.0}
    score = float(dataset(columns, reference=reference(**scores)).episode_returns.mean() + 20) * 4
    assert score < 40
    assert "name-against-returns" in checks(lint(columns, name="point-expert-v0", reference=reference(**scores)))
    assert "name-against-returns" not in checks(lint(columns, name="point-medium-v0", reference=reference(**scores)))
    high = reference(minimum=-100.0, maximum=-20.0)
    assert "name-against-returns" in checks(lint(columns, name="point-random-v0", reference=high))


def test_reference_of_another_version(columns: Columns) -> None:
    other = reference(environment="Hopper-v4", compatible=("Hopper-v3",), horizon=None)
    finding = found(lint(columns, environment="Hopper-v5", reference=other), "reference-of-another-environment")
    assert finding.severity == "error"
    assert "the data name Hopper-v5, the reference scores Hopper-v4 or Hopper-v3" in finding.message
    accepted = lint(columns, environment="Hopper-v3", reference=other)
    assert "reference-of-another-environment" not in checks(accepted)


def test_reference_with_another_time_limit(columns: Columns) -> None:
    report = lint(columns, environment="CartPole-v1", reference=reference(horizon=200))
    assert "CartPole-v1 has 500 steps, the reference scores 200" in found(report, "reference-horizon").message


def test_implausible_scores(columns: Columns) -> None:
    report = lint(columns, reference=reference(minimum=-1e4, maximum=-9e3))
    assert "on average" in found(report, "implausible-scores").message


# --- infos ---


def test_unsorted_rows(columns: Columns) -> None:
    steps = np.tile(np.arange(STEPS), 40)
    steps[[350, 351]] = steps[[351, 350]]
    finding = found(lint(columns, infos={"timestep": steps}), "unsorted-rows")
    assert (finding.severity, finding.rows, finding.episodes) == ("error", (351,), (3,))
    episode = np.repeat(np.arange(40), STEPS)
    episode[610:] += 5
    assert found(lint(columns, infos={"episode_id": episode}), "unsorted-rows").rows == (610,)


def test_infos_of_the_next_observation(columns: Columns) -> None:
    late = columns["next_observations"][:, :2]
    assert "infos/qpos" in found(lint(columns, infos={"qpos": late}), "infos-one-step-late").message
    right = columns["observations"][:, :2]
    assert "infos-one-step-late" not in checks(lint(columns, infos={"qpos": right}))


def test_infos_that_are_not_finite(columns: Columns) -> None:
    values = np.zeros(ROWS)
    values[[2, 3]] = np.nan, np.inf
    finding = found(lint(columns, infos={"speed": values}), "non-finite-infos")
    assert (finding.severity, finding.rows) == ("note", (2, 3))


# --- the table ---


def test_every_check_of_the_table_is_planted() -> None:
    """A check without a test here (or in the tests of files) cannot fail."""
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_lint*.py"))
    assert [check for check in CHECKS if f'"{check}"' not in tests] == []


def test_the_page_lists_every_check() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data_lint.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    listed = [f"| `{c.id}` | {c.severity} | {c.finds} | {c.why} | {c.known or '–'} |" for c in CHECKS.values()]
    assert sorted(rows) == sorted(listed)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_every_check_says_what_to_do(check: Check) -> None:
    run = check.run or check.run_file
    assert run is not None
    assert check.id == run.__name__.replace("_", "-")
    assert all((check.finds, check.why, check.fix))
    assert "|" not in check.finds + check.why + check.known


# --- any dataset can be checked ---


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    shape=st.sampled_from([(), (1,), (3,), (2, 2), (16, 17)]),
    kind=st.sampled_from(["f4", "u1", "i8"]),
    space=st.sampled_from(
        [
            spaces.Box(-1.0, 1.0, (2,), np.float32),
            spaces.Box(-np.inf, np.inf, (1, 2), np.float32),
            spaces.Box(np.float32([0, -np.inf]), np.float32([0, 3]), dtype=np.float32),
            spaces.Discrete(3, start=1),
            spaces.MultiDiscrete([2, 3]),
            spaces.MultiBinary(4),
        ]
    ),
    size=st.sampled_from([0.0, 1.0, 1e30]),
    seed=st.integers(0, 2**16),
)
def test_the_lint_ends_for_every_dataset(
    rows: int, shape: tuple[int, ...], kind: str, space: Any, size: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    space.seed(seed)
    frames = rng.normal(0, 1, (rows, *shape)) * size
    frames = frames.astype(np.float32) if kind == "f4" else rng.integers(0, 200, (rows, *shape)).astype(kind)
    data = Dataset.from_arrays(
        frames,
        np.stack([space.sample() for _ in range(rows)]),
        rng.normal(0, 1, rows) * size,
        rng.random(rows) < 0.2,
        rng.random(rows) < 0.2,
        next_observations=np.roll(frames, -1, axis=0) if seed % 2 else None,
        action_space=space,
        reference=reference(horizon=None if seed % 3 else 5),
        infos={"step": rng.integers(0, 9, rows), "qpos": rng.normal(0, 1, (rows, 2))},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = lint_dataset(data)
    json.dumps(report.to_json())
    for finding in report.findings:
        assert all(0 <= row < rows for row in finding.rows)
        assert all(0 <= episode < data.num_episodes for episode in finding.episodes)
        assert finding.count >= max(len(finding.rows), 0)
