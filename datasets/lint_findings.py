"""What the lint of a dataset says: one finding per defect, with the rows and episodes that show it, and the report.

Severities:
    error: numbers computed from the data as they are will be wrong (values that cannot be trained on, flags that make
        a time limit look like the end of the task, a reference of another environment).
    warning: something is probably wrong, or right only if it was meant; look before the data are used.
    note: worth knowing, and normal in good data (an unfinished last episode, one return in all episodes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
SHOWN = 5  # rows and episodes that a finding names


@dataclass(frozen=True)
class Finding:
    """One defect of a dataset.

    Attributes:
        check: stable id of the check, e.g. "both-flags".
        severity: "error", "warning" or "note".
        message: what was found, with its numbers.
        rows: the first few transitions that show it, counted from 0 through all episodes; () if it concerns no row.
        count: how many rows show it, or how many episodes if no row is named; 0 if it concerns the whole dataset.
        episodes: the first few episodes that show it, counted from 0.
        fix: what can be done about it.
    """

    check: str
    severity: Severity
    message: str
    rows: tuple[int, ...]
    count: int
    episodes: tuple[int, ...]
    fix: str


@dataclass(frozen=True)
class LintReport:
    """All findings about one dataset, errors first.

    Attributes:
        name: of the dataset, or the file that could not be loaded.
        findings: in the order of severity, then of the table of checks.
        fingerprint: of the dataset; None if it could not be loaded.
        transitions, episodes: its size; 0 if it could not be loaded.
    """

    name: str
    findings: tuple[Finding, ...]
    fingerprint: str | None = None
    transitions: int = 0
    episodes: int = 0

    @property
    def ok(self) -> bool:
        """True if there is no error."""
        return not self.count("error")

    @property
    def clean(self) -> bool:
        """True if there is neither an error nor a warning; notes are normal in good data."""
        return self.ok and not self.count("warning")

    def count(self, severity: Severity) -> int:
        """How many findings have this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON-able dictionary: name, fingerprint, sizes, ok, counts by severity, findings."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "transitions": self.transitions,
            "episodes": self.episodes,
            "ok": self.ok,
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "findings": [
                {**asdict(finding), "rows": list(finding.rows), "episodes": list(finding.episodes)}
                for finding in self.findings
            ],
        }


def ordered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Errors first, then warnings, then notes; otherwise in the given order."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))
