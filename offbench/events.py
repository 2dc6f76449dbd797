"""What happens while a suite runs, as plain records: the progress display and other listeners get these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class SuiteStarted:
    """Sent once, before the first group starts."""

    name: str
    total: int  # runs of the suite
    done: int  # runs that were finished by an earlier invocation
    groups: int  # groups of runs that are trained now
    workers: int
    skipped: tuple[str, ...] = ()  # cells that do not fit, in words (`skip_incompatible: true`)


@dataclass(frozen=True)
class GroupStarted:
    """A worker has begun (or resumed) a group of runs that train together."""

    group: str
    title: str  # "td3_bc on hopper/medium"
    runs: tuple[str, ...]  # hashes
    step: int  # updates that were done before
    total: int


@dataclass(frozen=True)
class GroupProgress:
    """About twice a second for each group in training."""

    group: str
    title: str
    step: int
    total: int
    lanes: int
    lane_updates_per_second: float
    phase: str  # "training" | "evaluating"


@dataclass(frozen=True)
class Evaluated:
    """One evaluation of all lanes of a group."""

    group: str
    title: str
    step: int
    mean_return: float
    seconds: float


@dataclass(frozen=True)
class RunFinished:
    """A run is complete; its folder holds everything."""

    run: str
    title: str  # "td3_bc on hopper/medium, seed 3"
    seed: int
    mean_return: float | None  # of the final evaluation; None without an environment
    score: float | None  # normalized to 0..100; None without a reference
    seconds: float


@dataclass(frozen=True)
class RunFailed:
    """A run could not be finished; the next invocation tries it again."""

    run: str
    title: str
    seed: int
    message: str


@dataclass(frozen=True)
class Warned:
    """Something that the user should know, e.g. a damaged checkpoint; nothing stops."""

    title: str
    message: str


@dataclass(frozen=True)
class SuiteFinished:
    """Sent once, at the end."""

    name: str
    done: int
    failed: int
    left: int  # runs that were not finished because of an interruption
    seconds: float


Event = SuiteStarted | GroupStarted | GroupProgress | Evaluated | RunFinished | RunFailed | Warned | SuiteFinished
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener of callers who want none."""
