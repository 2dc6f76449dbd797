"""Worker processes: all runs get done, and one that dies takes only its own runs with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY, contents

from offbench.device import describe_machine, select_device
from offbench.errors import SpecError, StorageError
from offbench.events import Event, GroupStarted, RunFailed, RunFinished, SuiteFinished, SuiteStarted
from offbench.execution import run_suite
from offbench.runs import RunStore
from offbench.storage import FolderLock
from offbench.suite import Suite


def two_groups(make_suite: Callable[..., Suite], **protocol: int) -> Suite:
    algorithms = [{"name": name, "config": TINY} for name in ("bc", "iql")]
    return make_suite(algorithms=algorithms, protocol=protocol)


def test_workers_give_the_same_bits_as_this_process(make_suite: Callable[..., Suite], tmp_path: Path) -> None:
    suite = two_groups(make_suite)
    seen: list[Event] = []
    summary = run_suite(suite, tmp_path / "two", workers=2, device="cpu", on_event=seen.append, matmul="default")
    assert (len(summary.finished), summary.exit_status) == (4, 0)
    assert isinstance(seen[0], SuiteStarted)
    assert isinstance(seen[-1], SuiteFinished)
    assert len([event for event in seen if isinstance(event, RunFinished)]) == 4
    run_suite(suite, tmp_path / "none", workers=0, device="cpu", matmul="default")
    assert contents(tmp_path / "two") == contents(tmp_path / "none")
    assert not multiprocessing.active_children()


def test_a_worker_that_is_killed_fails_its_group_only_and_is_replaced(
    make_suite: Callable[..., Suite], tmp_path: Path
) -> None:
    suite = two_groups(make_suite, updates=1500, evaluate_every=1000, checkpoint_every=1000, log_every=500)
    killed: list[str] = []

    def kill_first(event: Event) -> None:
        if isinstance(event, GroupStarted) and not killed:
            killed.append(event.title)
            (worker,) = multiprocessing.active_children()
            os.kill(worker.pid or 0, signal.SIGKILL)

    summary = run_suite(suite, tmp_path, workers=1, device="cpu", on_event=kill_first, matmul="default")
    assert len(summary.failed) == len(summary.finished) == 2
    assert summary.exit_status == 1
    message = next(iter(summary.failed.values()))
    assert "SIGKILL" in message
    assert "memory" in message
    assert "--max-lanes" in message
    failed = [run for run in summary.runs if run.title in summary.failed]
    assert {run.cell_title for run in failed} == set(killed)
    assert all(RunStore(tmp_path).state(run) == "failed" for run in failed)
    summary = run_suite(suite, tmp_path, workers=1, device="cpu", matmul="default")
    assert (summary.already_done, len(summary.finished)) == (2, 2)


def test_an_error_in_a_worker_arrives_as_text(make_suite: Callable[..., Suite], tmp_path: Path) -> None:
    suite = two_groups(make_suite)
    # A file where the second group's folder should be.
    blocked = RunStore(tmp_path).folder(suite.expand()[-1]).path.parent
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way")
    seen: list[Event] = []
    summary = run_suite(suite, tmp_path, workers=1, device="cpu", on_event=seen.append)
    assert len(summary.finished) == len(summary.failed) == 2
    message = next(event.message for event in seen if isinstance(event, RunFailed))
    assert str(blocked) in message


def test_sigint_stops_the_workers_and_the_next_call_resumes(make_suite: Callable[..., Suite], tmp_path: Path) -> None:
    suite = make_suite(protocol={"updates": 2000, "evaluate_every": 1500, "checkpoint_every": 1500})
    run_suite(suite, tmp_path / "whole", workers=0, device="cpu", matmul="default")

    def interrupt(event: Event) -> None:
        if isinstance(event, GroupStarted):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)  # a shell's background job ignores it
    summary = run_suite(suite, tmp_path / "cut", workers=1, device="cpu", on_event=interrupt, matmul="default")
    assert summary.interrupted
    assert summary.left == 2
    assert signal.getsignal(signal.SIGINT) is before
    assert all(RunStore(tmp_path / "cut").state(run) == "stopped" for run in summary.runs)
    summary = run_suite(suite, tmp_path / "cut", workers=1, device="cpu", matmul="default")
    assert len(summary.finished) == 2
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_two_invocations_at_once_are_refused(make_suite: Callable[..., Suite], tmp_path: Path) -> None:
    with FolderLock(tmp_path / "study"), pytest.raises(StorageError, match=str(os.getpid())):
        run_suite(make_suite(), tmp_path, workers=0, device="cpu")


def test_devices_and_numbers_are_checked(make_suite: Callable[..., Suite], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="tpu"):
        select_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(SpecError, match=r"(?s)cuda.*not available.*--device cpu"):
            select_device("cuda")
    assert describe_machine(torch.device("cpu"), "default")["packages"]["numpy"]
    with pytest.raises(SpecError, match="max_lanes"):
        run_suite(make_suite(), tmp_path, max_lanes=0)


def test_a_script_without_the_main_guard_is_told_so(data: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from offbench.execution import run_suite\nfrom offbench.suite import Suite\n"
        f"suite = Suite(name='x', datasets=[{data['cartpole']!r}], algorithms=['bc'])\n"
        f"run_suite(suite, {str(tmp_path / 'out')!r}, workers=1, device='cpu')\n"
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert 'if __name__ == "__main__":' in result.stderr.splitlines()[-1]
