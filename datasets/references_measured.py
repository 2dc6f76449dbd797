"""Reference scores that the user has measured, kept with their provenance and offered to datasets that have none.

They live in one JSON file: $OFFBENCH_REFERENCES, or `references.json` in the user's configuration folder. A measured
reference belongs to one environment id with its version and is never used in another one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from offbench.datasets.catalog_user import config_dir
from offbench.datasets.records import Reference
from offbench.errors import DatasetError, StorageError

FORMAT = 1
Role = Literal["minimum", "maximum"]


@dataclass(frozen=True)
class Measurement:
    """Returns of one policy in one environment, and how they were got.

    Attributes:
        environment: Gymnasium id with its version.
        policy: in words, e.g. "random actions" or the run that it is from.
        mean, std: of the undiscounted episode returns (ddof 1); the standard error of the mean is std / sqrt(episodes).
        episodes: how many.
        seed: of the episodes' seeds and of the actions.
        horizon: time limit of the environment in steps; None without one.
        versions: of the packages that decide what the environment does.
        date: day, ISO 8601.
        details: what else identifies the policy, e.g. the fingerprint of its dataset.
    """

    environment: str
    policy: str
    mean: float
    std: float
    episodes: int
    seed: int
    horizon: int | None
    versions: Mapping[str, str]
    date: str
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def std_error(self) -> float:
        """Standard error of the mean."""
        return self.std / self.episodes**0.5

    def sentence(self) -> str:
        """One line for people and for the `source` of a reference."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.policy}: {self.mean:.6g} ± {self.std_error:.2g} (standard error, {self.episodes} episodes, "
            f"seed {self.seed}, {versions}, {self.date})"
        )


def references_file() -> Path:
    """The file of measured references; it need not exist."""
    configured = os.environ.get("OFFBENCH_REFERENCES")
    return Path(configured).expanduser() if configured else config_dir() / "references.json"


def measurements() -> dict[str, dict[str, Measurement]]:
    """All measurements: environment id -> "minimum" or "maximum" -> measurement.

    Raises:
        DatasetError: the file is damaged.
    """
    path = references_file()
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, this version reads {FORMAT}")
        return {
            environment: {role: Measurement(**fields) for role, fields in roles.items()}
            for environment, roles in content["environments"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"cannot read the measured references in {path}", f"{type(error).__name__}: {error}", "delete the file"
        ) from error


def measured_reference(environment: str | None) -> Reference | None:
    """The reference of an environment if both ends were measured with one time limit, and the minimum is below."""
    roles = measurements().get(environment or "", {})
    if set(roles) != {"minimum", "maximum"}:
        return None
    low, high = roles["minimum"], roles["maximum"]
    if low.horizon != high.horizon or not low.mean < high.mean:
        return None
    source = f"measured in {environment}: {low.sentence()}; {high.sentence()}"
    return Reference(low.mean, high.mean, source, environment, low.horizon)


def store(measurement: Measurement, role: Role) -> Path:
    """Write a measurement to the file, in place of an earlier one of the same role, and return the file.

    Raises:
        StorageError: the file cannot be written.
    """
    path = references_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.lock")):
            known = measurements()
            known.setdefault(measurement.environment, {})[role] = measurement
            plain = {name: {r: asdict(m) for r, m in roles.items()} for name, roles in known.items()}
            aside = path.with_name(f"{path.name}.new")
            aside.write_text(json.dumps({"format": FORMAT, "environments": plain}, indent=2), encoding="utf-8")
            aside.replace(path)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}", str(error), "set OFFBENCH_REFERENCES to a file that can be written"
        ) from error
    return path
