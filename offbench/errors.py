"""Errors that a user can cause or meet: each says what happened, why, and how to fix it.

This module imports nothing, so every layer may raise these errors. The command line prints them without a
traceback and exits with `exit_status`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class OffbenchError(Exception):
    """Base of all errors that offbench raises on purpose.

    Args:
        what: what went wrong, one sentence.
        why: the cause, if it is not obvious from `what`.
        fix: what the user can do about it.
    """

    exit_status = 1

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__(what, why, fix)

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class SpecError(OffbenchError):
    """A suite, configuration or command is wrong."""

    exit_status = 2


class UnknownNameError(SpecError):
    """A name is not registered; the message suggests the nearest known one."""

    def __init__(self, kind: str, name: str, known: Iterable[str], fix: str = "") -> None:
        known = sorted(known)
        near = get_close_matches(name, known, n=3, cutoff=0.5)
        why = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}", why, fix or f"known: {', '.join(known)}")
        self.kind, self.name, self.known = kind, name, known

    def __reduce__(self) -> tuple[type, tuple[str, str, list[str], str]]:
        return type(self), (self.kind, self.name, self.known, self.fix)


class DatasetError(OffbenchError):
    """A dataset or dataset file is missing, damaged or inconsistent."""


class IncompatibleError(OffbenchError):
    """Two things that do not fit: an algorithm and an action space, a score and a reference."""


class MissingExtraError(OffbenchError):
    """An optional dependency is not installed.

    Args:
        need: what needs it, e.g. "evaluating in MuJoCo environments".
        extra: the extra of offbench that brings it, e.g. "mujoco".
    """

    def __init__(self, need: str, extra: str) -> None:
        super().__init__(f"{need} needs packages that are not installed", "", f"pip install 'offbench[{extra}]'")
        self.need, self.extra = need, extra

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.need, self.extra)


class StorageError(OffbenchError):
    """Reading or writing a run folder, checkpoint or cache failed (full disk, damaged file)."""


class RunError(OffbenchError):
    """A training run failed; what was finished before is kept."""
