"""Interrupted anywhere, a suite ends with the same bits as one that ran through."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import PROTOCOL, TINY, contents

from offbench.events import Evaluated, Event, GroupProgress, GroupStarted, RunFinished, Warned
from offbench.execution import RunSummary, run_suite
from offbench.suite import Suite


class Crash(BaseException):
    """Stands for the death of the process: nothing may catch it."""


def run(suite: Suite, root: Path, **options: Any) -> RunSummary:
    return run_suite(suite, root, **{"workers": 0, "device": "cpu", "matmul": "default", **options})


@pytest.mark.parametrize("algorithm", ["bc", "td3_bc", "iql"])
def test_crash_between_checkpoints(
    make_suite: Callable[..., Suite], data: dict[str, str], tmp_path: Path, algorithm: str
) -> None:
    suite = make_suite(
        datasets=[data["pendulum"]],
        algorithms=[{"name": algorithm, "config": TINY}],
        protocol={"evaluate_every": 7, "checkpoint_every": 5, "evaluation_episodes": 1, "final_episodes": 1},
    )
    run(suite, tmp_path / "whole")

    def crash(event: Event) -> None:
        if isinstance(event, Evaluated) and event.step == 14:
            raise Crash

    with pytest.raises(Crash):
        run(suite, tmp_path / "broken", on_event=crash)
    seen: list[Event] = []
    summary = run(suite, tmp_path / "broken", on_event=seen.append)
    assert [event.step for event in seen if isinstance(event, GroupStarted)] == [10]
    assert len(summary.finished) == 2
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_crash_at_any_write(
    make_suite: Callable[..., Suite], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    suite = make_suite()
    run(suite, tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    real = getattr(os, call)
    # Every sixth write of the first life, from another offset for each call; the second life dies there, too.
    for first in itertools.count(1 if call == "replace" else 4, 6):
        root = tmp_path / f"broken-{first}"
        calls = itertools.count(1)

        def dying(*arguments: Any, calls: Any = calls, last: int = first) -> Any:
            if next(calls) in (last, last + 3):
                raise Crash
            return real(*arguments)

        monkeypatch.setattr(os, call, dying)
        crashes = 0
        for _ in range(4):
            try:
                run(suite, root)
                break
            except Crash:
                crashes += 1
        monkeypatch.undo()
        assert contents(root) == expected, f"crash at {call} number {first}"
        assert not list((root / "study" / "_groups").glob("*/checkpoint"))
        if not crashes:
            break
    assert first > 20  # the loop ended because the suite makes fewer writes, not at once


def test_a_group_is_formed_again_as_it_was(make_suite: Callable[..., Suite], tmp_path: Path) -> None:
    """A crash while results are written leaves some members done; the rest must keep their lanes."""
    suite = make_suite(seeds=3)
    run(suite, tmp_path / "whole")

    def crash(event: Event) -> None:
        if isinstance(event, RunFinished):
            raise Crash

    with pytest.raises(Crash):
        run(suite, tmp_path / "broken", on_event=crash)
    record = next((tmp_path / "broken").rglob("state.json"))
    assert record.exists()
    for file in (tmp_path / "broken" / "study" / "_groups").rglob("state.json"):
        file.write_text("{")  # now the three lanes have to be trained again
    seen: list[Event] = []
    summary = run(suite, tmp_path / "broken", on_event=seen.append, max_lanes=1)
    assert summary.already_done == 1
    assert [len(event.runs) for event in seen if isinstance(event, GroupStarted)] == [3]
    assert any(isinstance(event, Warned) and "state.json is damaged" in event.message for event in seen)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["torn", "flipped", "missing", "rows"])
def test_a_damaged_checkpoint_is_noticed(make_suite: Callable[..., Suite], tmp_path: Path, damage: str) -> None:
    suite = make_suite()
    run(suite, tmp_path / "whole")

    def crash(event: Event) -> None:
        if isinstance(event, Evaluated) and event.step == 16:
            raise Crash

    with pytest.raises(Crash):
        run(suite, tmp_path / "broken", on_event=crash)
    tensors = next((tmp_path / "broken" / "study" / "_groups").rglob("*.safetensors"))
    content = bytearray(tensors.read_bytes())
    if damage == "torn":
        tensors.write_bytes(content[:-10])
    elif damage == "flipped":
        content[-20] ^= 1
        tensors.write_bytes(content)
    elif damage == "missing":
        tensors.unlink()
    else:
        next((tmp_path / "broken").rglob("evaluations.jsonl")).unlink()
    seen: list[Event] = []
    run(suite, tmp_path / "broken", on_event=seen.append)
    name = "evaluations.jsonl" if damage == "rows" else tensors.name
    assert any(isinstance(event, Warned) and name in event.message for event in seen)
    assert [event.step for event in seen if isinstance(event, GroupStarted)] == [0]
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_a_stop_during_training_or_evaluation_resumes_exactly(make_suite: Callable[..., Suite], tmp_path: Path) -> None:
    suite = make_suite(protocol={"updates": 400, "evaluate_every": 150, "checkpoint_every": 1000})
    run(suite, tmp_path / "whole")
    starts: list[int] = []
    for phase in ("training", "evaluating", None):

        def interrupt(event: Event, phase: str | None = phase) -> None:
            if isinstance(event, GroupStarted):
                starts.append(event.step)
                if phase == "training":
                    os.kill(os.getpid(), signal.SIGINT)
            if isinstance(event, GroupProgress) and event.phase == phase == "evaluating":
                os.kill(os.getpid(), signal.SIGTERM)

        summary = run(suite, tmp_path / "stopped", on_event=interrupt)
        assert summary.interrupted == (phase is not None)
        assert summary.exit_status == (130 if phase else 0)
        assert summary.left == (2 if phase else 0)
        states = [json.loads(f.read_text())["state"] for f in (tmp_path / "stopped").rglob("status.json")]
        assert states == ["stopped" if phase else "done"] * 2
    assert starts == [0, 0, 150]
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


SCRIPT = """
import json, sys
from offbench.execution import run_suite
from offbench.suite import Suite
if __name__ == "__main__":
    suite = Suite(**json.loads(sys.argv[1]))
    summary = run_suite(suite, sys.argv[2], workers=1, device="cpu", matmul="default")
    sys.exit(summary.exit_status)
"""


@pytest.mark.slow
def test_sigkill_of_a_real_run(data: dict[str, str], tmp_path: Path) -> None:
    protocol = {**PROTOCOL, "updates": 2000, "evaluate_every": 500, "log_every": 100, "checkpoint_every": 250}
    values = {
        "name": "study",
        "datasets": [data["pendulum"]],
        "algorithms": [{"name": "td3_bc", "config": TINY}],
        "seeds": 2,
        "protocol": protocol,
    }
    run(Suite(**values), tmp_path / "whole")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), json.dumps(values), str(tmp_path / "killed")]
    for whole_group, wanted in ((True, 250), (False, 1000)):
        with subprocess.Popen(command, start_new_session=True) as process:
            wait_for_step(tmp_path / "killed", wanted)
            if whole_group:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()  # the worker must notice and end by itself
    assert not list((tmp_path / "killed").rglob("policy.json"))
    subprocess.run(command, check=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def wait_for_step(root: Path, step: int) -> None:
    """Until a checkpoint of `step` updates or more is on the disk."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        for file in (root / "study" / "_groups").glob("*/checkpoint/step-*.safetensors"):
            if int(file.stem.split("-")[1]) >= step:
                return
        time.sleep(0.01)
    raise TimeoutError(f"no checkpoint of update {step}")
