"""The progress display: counting, speed, time left, and how often plain lines are written."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from offbench.events import GroupProgress, GroupStarted, RunFailed, RunFinished, SuiteFinished, SuiteStarted, Warned
from offbench.progress import ProgressDisplay, ProgressState, format_seconds, plain_line


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def progress(step: int, phase: str = "training", lanes: int = 2) -> GroupProgress:
    return GroupProgress("g", "iql on hopper/medium", step, 1000, lanes, 400.0, phase)


def test_counts_speed_and_time_left() -> None:
    clock = Clock()
    state = ProgressState(clock)
    state.apply(SuiteStarted("demo", total=6, done=2, groups=2, workers=1))
    assert state.seconds_left is None
    state.apply(GroupStarted("g", "iql on hopper/medium", ("a", "b"), 0, 1000))
    clock.now += 5
    state.apply(progress(500))
    assert state.speed == 400
    # 1,000 of 4,000 lane-updates in 5 s: 1,000 are left in this group and 2,000 in the group that waits.
    assert state.seconds_left == pytest.approx(15)
    line = plain_line(state)
    assert line == "demo: 2/6 runs done, 400 lane-updates/s, about 15 s left, now iql on hopper/medium 50%"
    state.apply(RunFinished("a", "a", 0, 1.0, None, 3.0))
    state.apply(RunFailed("b", "b", 1, "diverged"))
    assert (state.done, state.failed, state.groups) == (3, 1, {})
    state.apply(SuiteFinished("demo", done=3, failed=1, left=2, seconds=6.0))
    clock.now += 1
    assert plain_line(state) == "demo: 3/6 runs done, 1 failed, 2 left, took 6 s"


def test_resumed_updates_do_not_count_as_work() -> None:
    clock = Clock()
    state = ProgressState(clock)
    state.apply(SuiteStarted("demo", total=2, done=0, groups=1, workers=1))
    state.apply(GroupStarted("g", "iql", ("a", "b"), 800, 1000))
    clock.now += 1
    state.apply(progress(900))
    assert state.seconds_left == pytest.approx(1)


def test_evaluation_is_not_training_speed() -> None:
    state = ProgressState(Clock())
    state.apply(SuiteStarted("demo", total=2, done=0, groups=1, workers=1))
    state.apply(GroupStarted("g", "iql", ("a", "b"), 0, 1000))
    state.apply(progress(500, "evaluating"))
    assert state.speed == 0


def test_plain_lines_come_at_once_every_minute_and_at_the_end() -> None:
    clock, file = Clock(), io.StringIO()
    with ProgressDisplay(Console(file=file, width=40), clock=clock) as display:
        display(SuiteStarted("demo", total=2, done=0, groups=1, workers=1, skipped=("td3_bc on cartpole: discrete",)))
        display(GroupStarted("g", "iql", ("a", "b"), 0, 1000))
        for step in range(0, 1000, 10):
            clock.now += 1.3
            display(progress(step))
        display(Warned("iql", "a damaged checkpoint"))
        display(RunFailed("a", "iql, seed 0", 0, "it diverged"))
        display(RunFinished("b", "iql, seed 1", 1, 1.0, 2.0, 3.0))
        display(SuiteFinished("demo", done=1, failed=1, left=0, seconds=130.0))
    lines = file.getvalue().splitlines()
    assert lines[0] == "skipped: td3_bc on cartpole: discrete"
    status = [line for line in lines if line.startswith("demo:")]
    assert len(status) == 4  # at once, after one and two minutes, at the end
    assert status[-1] == "demo: 1/2 runs done, 1 failed, took 2 min"
    assert "failed: iql, seed 0: it diverged" in lines
    assert "iql: a damaged checkpoint" in lines


def test_live_display_draws_and_cleans_up() -> None:
    file = io.StringIO()
    with ProgressDisplay(Console(file=file, force_terminal=True, width=80)) as display:
        display(SuiteStarted("demo", total=2, done=0, groups=1, workers=1))
        display(GroupStarted("g", "iql on hopper/medium", ("a", "b"), 0, 1000))
        display(progress(500))
        assert display._live is not None
        display._live.refresh()
        display(SuiteFinished("demo", done=2, failed=0, left=0, seconds=1.0))
    text = file.getvalue()
    assert "iql on hopper/medium" in text
    assert "lane-updates/s" in text
    assert "demo: 2/2 runs done" in text


@pytest.mark.parametrize(("seconds", "text"), [(-1, "0 s"), (42, "42 s"), (200, "3 min"), (7500, "2 h 05 min")])
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
