"""Training of one group: updates, evaluations, checkpoints and the run folders of its members."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from offbench.algorithms import get_algorithm
from offbench.algorithms.base import make_config
from offbench.algorithms.batches import LaneSampler, Preprocessing, check_discount, make_buffer
from offbench.checkpoint import load_checkpoint, save_checkpoint
from offbench.datasets import Dataset
from offbench.errors import DatasetError, SpecError, StorageError
from offbench.evaluation import EnvironmentPool, episode_seed, evaluate
from offbench.events import (
    Evaluated,
    GroupProgress,
    GroupStarted,
    Listener,
    RunFailed,
    RunFinished,
    Warned,
    ignore,
)
from offbench.groups import Group
from offbench.policy import lane_policy, save_policy
from offbench.results import score
from offbench.runs import RunStore, now
from offbench.storage import append_rows, finite_or_none, sync_file, write_json

_REPORT_SECONDS = 0.5
# Prefix of the log's pending values inside a checkpoint.
_LATEST = "latest."


@dataclass
class GroupOutcome:
    """How a group ended.

    Attributes:
        finished: hashes of the runs that are done now.
        failed: hash -> message of runs that failed alone.
        stopped: training was interrupted; the group resumes at the next invocation.
    """

    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    stopped: bool = False


def train_group(
    group: Group,
    store: RunStore,
    dataset: Dataset,
    device: torch.device,
    *,
    machine: Mapping[str, Any] | None = None,
    pool: EnvironmentPool | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_event: Listener = ignore,
) -> GroupOutcome:
    """Train the group's runs to the end, from its checkpoint if it has one.

    Members that are done already keep their lane (so that kernels see the same shapes), but nothing of them is
    evaluated or written again. A lane whose parameters become NaN or infinite fails alone.

    Args:
        group: runs that fit together.
        store: where their folders are.
        dataset: the data that the runs name; its fingerprint is compared.
        device: where to train.
        machine: content of environment.json, see `describe_machine`.
        pool: environments to reuse; made and closed here if None.
        should_stop: asked after every update and during evaluations; when true, a checkpoint is written and the
            function returns.
        on_event: receives events.

    Raises:
        DatasetError: the dataset is not the one that the runs were made for.
        StorageError: a file could not be written; the last checkpoint is intact.
    """
    expected = group.runs[0].dataset.fingerprint
    if dataset.fingerprint != expected:
        raise DatasetError(
            f"dataset {group.runs[0].dataset.name} changed since the suite was started",
            f"its fingerprint is {dataset.fingerprint[:12]}, the runs were made for {expected[:12]}",
            "give the command again to make runs for the new data",
        )
    environment = group.runs[0].dataset.environment
    own_pool = EnvironmentPool(environment) if pool is None and environment is not None else None
    try:
        training = _GroupTraining(
            group,
            store,
            dataset,
            device,
            machine=machine or {},
            pool=pool or own_pool,
            should_stop=should_stop,
            on_event=on_event,
        )
        return training.run()
    finally:
        if own_pool is not None:
            own_pool.close()


class _GroupTraining:
    """State of one group in training."""

    def __init__(
        self,
        group: Group,
        store: RunStore,
        dataset: Dataset,
        device: torch.device,
        *,
        machine: Mapping[str, Any],
        pool: EnvironmentPool | None,
        should_stop: Callable[[], bool],
        on_event: Listener,
    ) -> None:
        self.group, self.store, self.dataset, self.device = group, store, dataset, device
        self.machine, self.pool, self.should_stop, self.emit = machine, pool, should_stop, on_event
        self.runs = group.runs
        self.folders = [store.folder(run) for run in self.runs]
        self.group_folder = group.folder(store)
        # Lanes that are evaluated and written: neither done before nor failed.
        self.active = [store.state(run) != "done" for run in self.runs]
        self.outcome = GroupOutcome()
        self.protocol = dict(self.runs[0].protocol)
        self.updates = group.updates

        algorithm_class = get_algorithm(self.runs[0].algorithm)
        configs = [make_config(algorithm_class.config_class, run.config) for run in self.runs]
        seeds = [run.seed for run in self.runs]
        preprocessing = Preprocessing(**self.runs[0].preprocessing)
        check_discount(dataset, configs)
        buffer = make_buffer(dataset, algorithm_class.needs(configs[0]), preprocessing, device)
        self.normalizer = buffer.normalizer
        self.algorithm = algorithm_class(configs, buffer.space, seeds, device, self.updates)
        self.algorithm.attach(buffer)
        batch_size = int(self.protocol["batch_size"])
        self.sampler = LaneSampler(buffer, seeds, batch_size, self.algorithm.noise_spec(batch_size))

        self.step = 0
        self.seconds = 0.0
        self.saved_step = -1
        self.latest: dict[str, torch.Tensor] = {}
        self.phase = "training"
        self.final_returns: list[list[float]] = []
        self.clock = self.last_report = time.perf_counter()
        self.reported_step = 0

    def run(self) -> GroupOutcome:
        """Train to the end or to a stop."""
        if not self._restore():
            self._begin()
        self._mark_running()
        self.reported_step = self.step
        if self._is_evaluation_step(self.step) and not self._evaluate():
            return self._stop()
        while self.step < self.updates:
            if self.should_stop() or not any(self.active):
                break
            self.step += 1
            batch, noise = self.sampler.draw(self.step)
            self.latest.update(self.algorithm.update(batch, noise, self.step))
            self._after_update()
            if self.step % self.group.checkpoint_every == 0 or self.step == self.updates:
                self._save()
            if self._is_evaluation_step(self.step) and not self._evaluate():
                return self._stop()
            if time.perf_counter() - self.last_report > _REPORT_SECONDS:
                self._report()
        if self.step < self.updates and any(self.active):
            return self._stop()
        self._report()
        self._finish()
        return self.outcome

    # --- progress through the steps ---

    def _is_evaluation_step(self, step: int) -> bool:
        due = step % int(self.protocol["evaluate_every"]) == 0 or step == self.updates
        return self.pool is not None and step > 0 and due

    def _after_update(self) -> None:
        """Log at log points; these and evaluations are the only moments when the host waits for the device."""
        if self.step % int(self.protocol["log_every"]) != 0 and self.step != self.updates:
            return
        self._drop_diverged()
        names = sorted(self.latest)
        values = [self.latest[name].tolist() for name in names]
        for lane, folder in enumerate(self.folders):
            if self.active[lane]:
                row = {name: finite_or_none(value[lane]) for name, value in zip(names, values, strict=True)}
                append_rows(folder.metrics_file, [{"step": self.step, **row}], sync=False)

    def _drop_diverged(self) -> None:
        finite = self.algorithm.finite().tolist()
        for lane, run in enumerate(self.runs):
            if self.active[lane] and not finite[lane]:
                self._fail(
                    lane,
                    f"training of {run.title} diverged: its parameters are no longer finite at update {self.step}",
                )

    def _fail(self, lane: int, message: str) -> None:
        run = self.runs[lane]
        self.active[lane] = False
        self.outcome.failed[run.hash] = message
        self.folders[lane].update_status(state="failed", step=self.step, error=message, finished=now())
        self.emit(RunFailed(run.hash, run.title, run.seed, message))

    def _evaluate(self) -> bool:
        """Evaluate and store the active lanes' episodes; False when stopped on the way."""
        if self.pool is None:
            return True
        self._drop_diverged()
        if not any(self.active):
            return True
        started = time.perf_counter()
        self.phase = "evaluating"
        self._report()
        final = self.step == self.updates
        count = int(self.protocol["final_episodes" if final else "evaluation_episodes"])
        seeds = [
            [episode_seed(run.seed, self.step, episode) for episode in range(count)] if active else None
            for run, active in zip(self.runs, self.active, strict=True)
        ]
        act = lane_policy(self.algorithm, self.normalizer)
        results = evaluate(act, self.pool, seeds, self.device, self.should_stop)
        self.phase = "training"
        if results is None:
            return False
        for folder, episodes in zip(self.folders, results, strict=True):
            if episodes:
                append_rows(folder.evaluations_file, [episode.row(self.step) for episode in episodes])
        returns = [episode.total_reward for episodes in results for episode in episodes]
        mean = sum(returns) / len(returns)
        self.emit(Evaluated(self.group.hash, self.group.title, self.step, mean, time.perf_counter() - started))
        if final:
            self.final_returns = [[episode.total_reward for episode in episodes] for episodes in results]
        return True

    def _report(self) -> None:
        moment = time.perf_counter()
        speed = (self.step - self.reported_step) * len(self.runs) / max(moment - self.last_report, 1e-9)
        self.last_report, self.reported_step = moment, self.step
        self.emit(
            GroupProgress(
                self.group.hash,
                self.group.title,
                self.step,
                self.updates,
                len(self.runs),
                speed,
                self.phase,
            )
        )

    # --- files ---

    def _restore(self) -> bool:
        """Take over the group's checkpoint; False when there is none that can be used."""
        try:
            loaded = load_checkpoint(self.group_folder / "checkpoint", self.device)
            if loaded is None:
                return False
            step, tensors, extra = loaded
            for lane, folder in enumerate(self.folders):
                if self.active[lane]:
                    folder.rewind(step, extra["metrics_rows"], extra["evaluation_rows"])
            latest = {name: value for name, value in tensors.items() if name.startswith(_LATEST)}
            state = {name: value for name, value in tensors.items() if name not in latest}
            self.algorithm.load_state_dict(state)
        except (StorageError, SpecError, KeyError) as error:
            why = f"missing entry {error}" if isinstance(error, KeyError) else str(error)
            self.emit(Warned(self.group.title, f"{why}\n  the group starts again from update 0, with the same result"))
            return False
        self.step = self.saved_step = step
        self.seconds = float(extra["seconds"])
        self.latest = {name[len(_LATEST) :]: value for name, value in latest.items()}
        for lane, run in enumerate(self.runs):
            message = extra["failed"].get(run.hash)
            if message is not None and self.active[lane]:
                self._fail(lane, message)
        return True

    def _begin(self) -> None:
        """Start from update 0 with empty files."""
        shutil.rmtree(self.group_folder / "checkpoint", ignore_errors=True)
        for lane, folder in enumerate(self.folders):
            if self.active[lane]:
                folder.metrics_file.unlink(missing_ok=True)
                folder.evaluations_file.unlink(missing_ok=True)

    def _mark_running(self) -> None:
        started = now()
        for lane, (run, folder) in enumerate(zip(self.runs, self.folders, strict=True)):
            if not self.active[lane]:
                continue
            folder.error_file.unlink(missing_ok=True)
            write_json(folder.spec_file, run.to_json())
            write_json(folder.environment_file, dict(self.machine))
            folder.update_status(
                state="running",
                step=self.step,
                updates=self.updates,
                started=folder.status().get("started", started),
                resumed=started if self.step else None,
                finished=None,
                error=None,
                lanes=len(self.runs),
                device=str(self.device),
                group=self.group.hash[:16],
                note=None if self.pool else "no environment: trained without evaluation",
            )
        self.emit(
            GroupStarted(
                self.group.hash,
                self.group.title,
                tuple(run.hash for run in self.runs),
                self.step,
                self.updates,
            )
        )
        self.clock = self.last_report = time.perf_counter()

    def _save(self) -> None:
        """Checkpoint the whole group. It is taken before the evaluation of its step, which a resume repeats."""
        if self.saved_step == self.step:
            return
        tensors = self.algorithm.state_dict()
        tensors |= {_LATEST + name: value for name, value in self.latest.items()}
        extra = {
            "runs": [run.hash for run in self.runs],
            "seconds": self._elapsed(),
            "failed": self.outcome.failed,
            "metrics_rows": self._log_points(),
            "evaluation_rows": self._episodes_before(),
        }
        for lane, folder in enumerate(self.folders):
            if self.active[lane]:
                sync_file(folder.metrics_file)
        save_checkpoint(self.group_folder / "checkpoint", self.step, tensors, extra)
        self.saved_step = self.step
        for lane, folder in enumerate(self.folders):
            if self.active[lane]:
                folder.update_status(step=self.step, seconds=round(self._elapsed(), 3))

    def _log_points(self) -> int:
        """Rows of a lane's metrics.jsonl after this step."""
        every = int(self.protocol["log_every"])
        return self.step // every + (self.step == self.updates and self.step % every > 0)

    def _episodes_before(self) -> int:
        """Rows of a lane's evaluations.jsonl before this step's evaluation."""
        if self.pool is None:
            return 0
        every = int(self.protocol["evaluate_every"])
        return max(self.step - 1, 0) // every * int(self.protocol["evaluation_episodes"])

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.clock

    def _stop(self) -> GroupOutcome:
        self._save()
        for lane, folder in enumerate(self.folders):
            if self.active[lane]:
                folder.update_status(state="stopped", step=self.step)
        self.outcome.stopped = True
        return self.outcome

    def _finish(self) -> None:
        """Write the members' own checkpoints and policies, then forget the group."""
        self._drop_diverged()
        seconds = self._elapsed()
        state = self.algorithm.state_dict() if any(self.active) else {}
        for lane, (run, folder) in enumerate(zip(self.runs, self.folders, strict=True)):
            if not self.active[lane]:
                continue
            lane_state = {name: value[lane : lane + 1] for name, value in state.items()}
            save_checkpoint(folder.checkpoint, self.updates, lane_state, {"run": run.hash})
            save_policy(
                folder.policy,
                self.algorithm,
                lane=lane,
                run=run,
                dataset=self.dataset,
                normalizer=self.normalizer,
            )
            mean = self._final_mean(lane)
            normalized = None if mean is None else finite_or_none(score(run, mean))
            folder.update_status(
                state="done",
                step=self.updates,
                finished=now(),
                seconds=round(seconds, 3),
                final_return=mean,
                final_score=normalized,
            )
            self.outcome.finished.append(run.hash)
            self.emit(RunFinished(run.hash, run.title, run.seed, mean, normalized, seconds))
        shutil.rmtree(self.group_folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.group_folder.parent.rmdir()  # fails while other groups are there

    def _final_mean(self, lane: int) -> float | None:
        if self.pool is None:
            return None
        returns = self.final_returns[lane]
        return finite_or_none(sum(returns) / len(returns))
