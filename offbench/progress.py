"""Shows how a suite advances: a live display on a terminal, one plain line a minute anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from offbench.events import (
    Event,
    GroupProgress,
    GroupStarted,
    RunFailed,
    RunFinished,
    SuiteFinished,
    SuiteStarted,
    Warned,
)


@dataclass
class GroupState:
    """A group of runs that is being trained."""

    title: str
    lanes: int
    step: int
    total: int
    phase: str = "starting"
    speed: float = 0.0  # lane-updates per second


@dataclass
class ProgressState:
    """What is known from the events so far. `clock` is in seconds; tests give their own."""

    clock: Callable[[], float] = time.monotonic
    name: str = ""
    total: int = 0
    done: int = 0
    failed: int = 0
    left: int = 0
    groups: dict[str, GroupState] = field(default_factory=dict)
    finished: bool = False
    started_at: float = 0.0
    _runs_of: dict[str, str] = field(default_factory=dict)  # run -> its group
    _updates: dict[str, int] = field(default_factory=dict)  # updates of one run, by group
    _work: float = 0.0  # lane-updates done by this invocation
    _work_since: float | None = None

    def apply(self, event: Event) -> None:
        """Take one event into account."""
        if isinstance(event, SuiteStarted):
            self.name, self.total, self.done, self.done_before = (
                event.name,
                event.total,
                event.done,
                event.done,
            )
            self.started_at = self.clock()
        elif isinstance(event, GroupStarted):
            if self._work_since is None:
                self._work_since = self.clock()
            self.groups[event.group] = GroupState(event.title, len(event.runs), event.step, event.total)
            self._updates[event.group] = event.total
            self._runs_of.update(dict.fromkeys(event.runs, event.group))
        elif isinstance(event, GroupProgress):
            group = self.groups.get(event.group)
            if group is not None:
                self._work += max(0, event.step - group.step) * group.lanes
                group.step, group.lanes, group.phase = event.step, event.lanes, event.phase
                group.speed = event.lane_updates_per_second
        elif isinstance(event, RunFinished):
            self.done += 1
            self._leave(event.run)
        elif isinstance(event, RunFailed):
            self.failed += 1
            self._leave(event.run)
        elif isinstance(event, SuiteFinished):
            self.done, self.failed, self.left, self.finished = event.done, event.failed, event.left, True
            self.groups.clear()

    def _leave(self, run: str) -> None:
        name = self._runs_of.pop(run, None)
        group = self.groups.get(name) if name is not None else None
        if name is None or group is None:
            return
        group.lanes -= 1
        if name not in self._runs_of.values():
            self._work += max(0, group.total - group.step)  # the last stretch, after its last progress event
            del self.groups[name]

    @property
    def speed(self) -> float:
        """Lane-updates per second of the groups that are training now."""
        return sum(group.speed for group in self.groups.values() if group.phase == "training")

    @property
    def elapsed(self) -> float:
        """Seconds since the suite started."""
        return self.clock() - self.started_at

    @property
    def seconds_left(self) -> float | None:
        """Remaining lane-updates over the average speed so far (evaluation included); None while unknown."""
        if self._work_since is None or not self._updates:
            return None
        seconds = self.clock() - self._work_since
        if self._work <= 0 or seconds <= 0:
            return None
        in_training = sum(max(0, g.total - g.step) * g.lanes for g in self.groups.values())
        running = sum(g.lanes for g in self.groups.values())
        waiting = max(0, self.total - self.done - self.failed - running)
        per_run = sum(self._updates.values()) / len(self._updates)
        return (in_training + waiting * per_run) / (self._work / seconds)


def format_seconds(seconds: float) -> str:
    """A duration for people: "42 s", "3 min", "2 h 05 min"."""
    if seconds < 90:
        return f"{max(0.0, seconds):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def plain_line(state: ProgressState) -> str:
    """The state in one line of text."""
    parts = [f"{state.name}: {state.done}/{state.total} runs done"]
    if state.failed:
        parts.append(f"{state.failed} failed")
    if state.finished:
        if state.left:
            parts.append(f"{state.left} left")
        parts.append(f"took {format_seconds(state.elapsed)}")
        return ", ".join(parts)
    if state.speed > 0:
        parts.append(f"{state.speed:,.0f} lane-updates/s")
    if state.seconds_left is not None:
        parts.append(f"about {format_seconds(state.seconds_left)} left")
    now = [f"{g.title} {100 * g.step // max(1, g.total)}%" for g in state.groups.values()]
    if now:
        parts.append("now " + " and ".join(now))
    return ", ".join(parts)


class _LiveView:
    """What `rich.live.Live` draws: rebuilt from the state at every refresh."""

    def __init__(self, state: ProgressState) -> None:
        self.state = state

    def __rich__(self) -> RenderableType:
        state = self.state
        facts = [f"[bold]{state.done}[/]/{state.total} runs"]
        if state.failed:
            facts.append(f"[red]{state.failed} failed[/]")
        if state.speed > 0:
            facts.append(f"{state.speed:,.0f} lane-updates/s")
        if state.seconds_left is not None:
            facts.append(f"about {format_seconds(state.seconds_left)} left")
        head = Text.from_markup(f"[bold]{state.name}[/]  " + "  ".join(facts))
        table = Table.grid(padding=(0, 1), expand=False)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=3)
        table.add_column(width=20)
        table.add_column(no_wrap=True, overflow="ellipsis", style="dim")
        for group in state.groups.values():
            bar = ProgressBar(total=max(1, group.total), completed=group.step, width=20)
            table.add_row(group.title, bar, f"{group.lanes} x {group.step:,}/{group.total:,} {group.phase}")
        return Group(head, table)


class ProgressDisplay(AbstractContextManager["ProgressDisplay"]):
    """Listener for `run_suite(on_event=...)`; use it as a context manager around the call.

    Args:
        console: where to write; the command line gives standard error and keeps standard output for results.
        every: seconds between plain lines where the console is not a terminal.
    """

    def __init__(self, console: Console, *, every: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self.state = ProgressState(clock=clock)
        self._every = every
        self._last_line = float("-inf")
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(
                _LiveView(self.state),
                console=console,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=False,
            )

    def __enter__(self) -> ProgressDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        self.state.apply(event)
        if isinstance(event, SuiteStarted):
            for cell in event.skipped:
                self._print(f"skipped: {cell}")
        if isinstance(event, RunFailed):
            self._print(f"failed: {event.title}: {event.message}", style="red")
        if isinstance(event, Warned):
            self._print(f"{event.title}: {event.message}", style="yellow")
        if isinstance(event, SuiteFinished):
            self._print(plain_line(self.state))
        elif isinstance(event, SuiteStarted) and event.groups == 0:
            pass  # nothing to train: the closing line says it all
        elif self._live is None and self.state.clock() - self._last_line >= self._every:
            self._last_line = self.state.clock()
            self._print(plain_line(self.state))

    def _print(self, line: str, style: str | None = None) -> None:
        self.console.print(Text(line, style=style or ""), soft_wrap=True)
