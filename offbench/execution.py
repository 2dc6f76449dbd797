"""The local executor: runs a suite's groups in worker processes, or in this process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

from offbench.algorithms import get_algorithm
from offbench.algorithms.base import shareable_fields
from offbench.algorithms.matmul import select_matmul
from offbench.device import select_device
from offbench.errors import RunError, SpecError
from offbench.events import Listener, SuiteFinished, SuiteStarted, Warned, ignore
from offbench.groups import Group, forget_finished, form_groups, record_groups
from offbench.results import record_cells
from offbench.runs import RunSpec, RunStore
from offbench.storage import FolderLock
from offbench.suite import Suite
from offbench.training import GroupOutcome
from offbench.worker import STOP, Finished, GroupRunner, Ready, mark_failed, worker_main

_POLL_SECONDS = 0.2
_SHUTDOWN_SECONDS = 10.0
_GUARD = 'put the call under `if __name__ == "__main__":` in a script file, or use workers=0'


@dataclass
class RunSummary:
    """How an invocation ended.

    Attributes:
        total: runs of the suite.
        runs: their specs.
        already_done: runs that earlier invocations had finished.
        finished: hashes of runs that this one finished.
        failed: run title -> message.
        left: runs that are not finished because of an interruption.
        skipped: cells that do not fit, in words.
        interrupted: by Ctrl-C or SIGTERM.
        seconds: wall time.
        folder: the study's folder.
    """

    total: int
    folder: Path
    runs: tuple[RunSpec, ...] = ()
    already_done: int = 0
    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left: int = 0
    skipped: tuple[str, ...] = ()
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def exit_status(self) -> int:
        """0 when all runs are done, 130 after an interruption, 1 when runs failed or are left."""
        if self.interrupted:
            return 130
        return 1 if self.failed or self.left else 0


def run_suite(
    suite: Suite,
    root: str | Path,
    workers: int | None = None,
    device: str = "auto",
    max_lanes: int | None = None,
    on_event: Listener = ignore,
    *,
    threads: int = 1,
    matmul: str = "auto",
) -> RunSummary:
    """Train and evaluate every run of a suite that is not done yet; resume what was interrupted.

    Scripts that call this with worker processes need the usual `if __name__ == "__main__":` guard.

    Args:
        suite: what to run.
        root: output folder; the study's folder is `root / suite.name`.
        workers: worker processes; default one per CPU core, or one on a GPU; 0 trains in this process.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        max_lanes: most runs that train together; default so that every worker has work (32 on a GPU).
        on_event: called in this process with every event.
        threads: torch threads per worker.
        matmul: "auto", "default" or "onednn", see `offbench.algorithms.matmul.select_matmul`.

    Returns:
        What was done. After Ctrl-C or SIGTERM the workers write checkpoints and the summary says `interrupted`;
        a second Ctrl-C kills them and raises KeyboardInterrupt.

    Raises:
        SpecError, UnknownNameError, DatasetError, IncompatibleError, MissingExtraError: before anything trains.
        StorageError: another process runs the same study, or the folder is not writable.
        RunError: worker processes cannot be started.
    """
    started = time.perf_counter()
    # The flag by which multiprocessing itself recognizes a child that is importing the caller's script.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RunError("run_suite was called again by a worker process that imports your script", fix=_GUARD)
    for name, value, least in (("workers", workers, 0), ("max_lanes", max_lanes, 1), ("threads", threads, 1)):
        if value is not None and value < least:
            raise SpecError(f"{name} = {value}", f"it must be at least {least}")
    chosen = select_device(device)
    plan = suite.plan()
    store = RunStore(root)
    folder = store.root / suite.name
    with FolderLock(folder):
        record_cells(store.root, plan.runs)
        if workers is None:
            workers = _processors() if chosen.type == "cpu" else 1
        groups, warnings = _groups(store, suite, plan.runs, workers, chosen, max_lanes, threads, matmul)
        summary = RunSummary(len(plan.runs), folder, plan.runs, skipped=plan.skipped)
        done = {run.hash for run in plan.runs if store.state(run) == "done"}
        summary.already_done = len(done)
        on_event(SuiteStarted(suite.name, len(plan.runs), len(done), len(groups), workers, skipped=plan.skipped))
        for warning in warnings:
            on_event(Warned(suite.name, warning))
        outcomes: list[GroupOutcome] = []
        if groups:
            record_groups(store, suite.name, groups)
        with _Interrupts() as interrupts:
            if groups and workers == 0:
                _run_here(groups, store.root, chosen, on_event, interrupts, outcomes)
            elif groups:
                with _Pool(min(workers, len(groups)), store, chosen, on_event) as pool:
                    pool.run(groups, interrupts, outcomes)
        wanted = {run.hash: run for run in plan.runs}
        for outcome in outcomes:
            summary.finished.extend(run for run in outcome.finished if run in wanted and run not in done)
            summary.failed.update(
                {wanted[run].title: message for run, message in outcome.failed.items() if run in wanted}
            )
        summary.interrupted = interrupts.asked
        summary.left = summary.total - len(done) - len(summary.finished) - len(summary.failed)
        forget_finished(store, suite.name)
        summary.seconds = time.perf_counter() - started
        on_event(
            SuiteFinished(
                suite.name,
                len(done) + len(summary.finished),
                len(summary.failed),
                summary.left,
                summary.seconds,
            )
        )
    return summary


def _processors() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _groups(
    store: RunStore,
    suite: Suite,
    runs: Sequence[RunSpec],
    workers: int,
    device: torch.device,
    max_lanes: int | None,
    threads: int,
    matmul: str,
) -> tuple[list[Group], list[str]]:
    if all(store.state(run) == "done" for run in runs):
        return [], []
    shareable = {name: shareable_fields(get_algorithm(name)) for name in {run.algorithm for run in runs}}
    protocol = suite.protocol
    return form_groups(
        store,
        runs,
        shareable=shareable,
        workers=workers,
        gpu=device.type != "cpu",
        max_lanes=max_lanes,
        checkpoint_every=protocol.checkpoint_every or protocol.resolved()["evaluate_every"],
        matmul=_matmul(matmul, device),
        threads=threads,
    )


def _matmul(mode: str, device: torch.device) -> str:
    """Decide "auto" once, so that all workers multiply alike and a resumed group can repeat the choice."""
    if device.type != "cpu":
        return "default"
    precision = torch.get_float32_matmul_precision()
    try:
        return "onednn" if select_matmul(mode).startswith("onednn") else "default"
    finally:
        torch.set_float32_matmul_precision(precision)


class _Interrupts:
    """While active, the first SIGINT or SIGTERM sets `asked`; a second SIGINT raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.asked = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Interrupts:
        # Python allows handlers in the main thread only; elsewhere the caller's own handling stays.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


def _run_here(
    groups: list[Group],
    root: Path,
    device: torch.device,
    on_event: Listener,
    interrupts: _Interrupts,
    outcomes: list[GroupOutcome],
) -> None:
    runner = GroupRunner(root, device, on_event)
    try:
        for group in groups:
            if interrupts.asked:
                break
            outcomes.append(runner.run(group, lambda: interrupts.asked))
    finally:
        runner.close()


@dataclass
class _Worker:
    """One worker process and what it does now."""

    process: SpawnProcess
    connection: Connection
    group: Group | None = None
    ready: bool = False


class _Pool:
    """Worker processes that take groups; one that dies is replaced while there is work."""

    def __init__(self, count: int, store: RunStore, device: torch.device, on_event: Listener) -> None:
        self._count, self._store, self._device, self._emit = count, store, device, on_event
        self._workers: list[_Worker] = []

    def __enter__(self) -> _Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers: politely after success, at once after an error."""
        for worker in self._workers:
            if kind is None:
                _send(worker, None)
            else:
                worker.process.kill()
        for worker in self._workers:
            worker.process.join(_SHUTDOWN_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()

    def run(self, groups: list[Group], interrupts: _Interrupts, outcomes: list[GroupOutcome]) -> None:
        """Train all groups, or until interrupted."""
        pending = list(groups)
        told = False
        while True:
            if interrupts.asked:
                pending.clear()
                if not told:
                    told = True
                    for worker in self._workers:
                        _send(worker, STOP)
            self._workers = [w for w in self._workers if w.group is not None or w.process.is_alive()]
            for worker in self._workers:
                if worker.group is None and pending:
                    self._give(worker, pending.pop(0))
            while pending and len(self._workers) < self._count:
                self._give(self._start(), pending.pop(0))
            busy = [worker for worker in self._workers if worker.group is not None]
            if not busy:
                return
            wait([item for w in busy for item in (w.connection, w.process.sentinel)], _POLL_SECONDS)
            for worker in busy:
                self._receive(worker, outcomes, interrupts.asked)

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=worker_main, args=(theirs, self._store.root, str(self._device)), daemon=True)
        with _ignored_in_children(signal.SIGINT):
            process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _give(self, worker: _Worker, group: Group) -> None:
        worker.group = group
        _send(worker, group)

    def _receive(self, worker: _Worker, outcomes: list[GroupOutcome], interrupted: bool) -> None:
        """Take all messages of a worker; if it is dead, fail its group and drop it."""
        dead = not worker.process.is_alive()
        try:
            while worker.connection.poll():
                message = worker.connection.recv()
                if isinstance(message, Ready):
                    worker.ready = True
                elif isinstance(message, Finished):
                    outcomes.append(message.outcome)
                    worker.group = None
                else:
                    self._emit(message)
        except (EOFError, OSError):
            dead = True
        if dead:
            self._bury(worker, outcomes, interrupted)

    def _bury(self, worker: _Worker, outcomes: list[GroupOutcome], interrupted: bool) -> None:
        worker.process.join(_SHUTDOWN_SECONDS)
        worker.connection.close()
        self._workers.remove(worker)
        if interrupted and not worker.ready:
            return  # SIGTERM met it before it could handle signals; its group has not begun
        if worker.group is not None:
            message = _death(worker.process.exitcode)
            outcomes.append(mark_failed(self._store, worker.group, message, self._emit))
        if not worker.ready:
            raise RunError(
                "a worker process ended while it was starting",
                f"exit status {worker.process.exitcode}; its own message is above",
                _GUARD,
            )


@contextlib.contextmanager
def _ignored_in_children(number: int) -> Iterator[None]:
    """Processes started in the block ignore a signal from their first moment, before they can say so themselves."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, previous)


def _send(worker: _Worker, message: Any) -> None:
    """Send to a worker that may be dead already; `_receive` notices that."""
    with contextlib.suppress(OSError):
        worker.connection.send(message)


def _death(exit_code: int | None) -> str:
    """Why a worker process ended, as far as its exit code tells."""
    if exit_code is None or exit_code >= 0:
        return f"the worker process ended unexpectedly with exit status {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    if name == "SIGKILL":
        cause = "most likely the system ran out of memory"
        fix = "use fewer --workers or a smaller --max-lanes; the same command resumes"
    elif name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE"):
        cause = "a native library crashed"
        fix = "try `--workers 0` to see its message; `offbench doctor` lists the versions"
    else:
        cause, fix = "something outside stopped it", "give the same command again: it resumes"
    return f"the worker process was ended by {name}\n  why: {cause}\n  fix: {fix}"
