"""Runs: what identifies one (`RunSpec`), and the folders that hold them (`RunStore`)."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from offbench.errors import StorageError
from offbench.storage import keep_rows, read_json, write_json

# Part of every run's identity: raised when the meaning of a stored number changes.
SCHEMA_VERSION = 1

GROUPS_FOLDER = "_groups"


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no spaces, floats as `repr` writes them (shortest exact form)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def content_hash(value: Any) -> str:
    """SHA-256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def slug(text: str) -> str:
    """A folder name for a label or dataset id: letters, digits, `.`, `+`, `-` and `_` stay."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("._-") or "unnamed"


@dataclass(frozen=True)
class DatasetSpec:
    """Which data a run learns from.

    Attributes:
        name: shown in tables: the id, the file's stem or the label given in the suite.
        source: what `load_dataset` is called with; `options` are its keyword arguments.
        fingerprint: SHA-256 of the data's columns.
        environment: Gymnasium id that evaluates, or None.
        transforms: the dataset's transforms, each {"name", "parameters", "seed"}.
        reference: {"minimum", "maximum", "source", "environment"} for normalized scores, or None.
    """

    name: str
    source: str
    fingerprint: str
    environment: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    transforms: tuple[Mapping[str, Any], ...] = ()
    reference: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class RunSpec:
    """One cell of a suite and one seed, fully resolved.

    The identity leaves out what does not change the numbers: the study's name, the label, where the data lies, the
    normalization reference, how often checkpoints are written, device, threads and how runs share a group.
    """

    study: str
    label: str
    dataset: DatasetSpec
    algorithm: str
    config: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    protocol: Mapping[str, Any]
    seed: int
    config_source: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def cell(self) -> dict[str, Any]:
        """The identity without the seed."""
        return {
            "schema": SCHEMA_VERSION,
            "dataset": {
                "name": self.dataset.name,
                "fingerprint": self.dataset.fingerprint,
                "environment": self.dataset.environment,
                "transforms": [dict(transform) for transform in self.dataset.transforms],
            },
            "algorithm": self.algorithm,
            "config": dict(self.config),
            "preprocessing": dict(self.preprocessing),
            "protocol": dict(self.protocol),
        }

    @cached_property
    def cell_hash(self) -> str:
        """SHA-256 of `cell`: equal for runs that differ in the seed only."""
        return content_hash(self.cell)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the run's numbers."""
        return {**self.cell, "seed": self.seed}

    @cached_property
    def hash(self) -> str:
        """SHA-256 of `identity`: the run's name for the machine."""
        return content_hash(self.identity)

    @property
    def cell_title(self) -> str:
        """The cell's name for people."""
        return f"{self.label} on {self.dataset.name}"

    @property
    def title(self) -> str:
        """The run's name for people."""
        return f"{self.cell_title}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """The run's folder, relative to the store's root."""
        return Path(self.study) / slug(self.label) / slug(self.dataset.name) / f"s{self.seed}-{self.hash[:8]}"

    def to_json(self) -> dict[str, Any]:
        """What spec.json holds; `from_json` reads it."""
        return {"hash": self.hash, "cell_hash": self.cell_hash, "schema": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunSpec:
        """Rebuild a spec.

        Raises:
            StorageError: the content was changed, or comes from another version of offbench.
        """
        try:
            names = [name for name in cls.__dataclass_fields__ if name != "dataset"]
            stored = {**value["dataset"], "transforms": tuple(value["dataset"]["transforms"])}
            spec = cls(dataset=DatasetSpec(**stored), **{name: value[name] for name in names})
        except (KeyError, TypeError) as error:
            raise StorageError("a stored run spec cannot be read", f"{type(error).__name__}: {error}") from error
        if spec.hash != value.get("hash"):
            raise StorageError(
                f"the stored spec of {spec.title} does not match its hash",
                "it was edited, or written by another version of offbench",
                "delete the run's folder and run again",
            )
        return spec


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec_file = path / "spec.json"
        self.status_file = path / "status.json"
        self.environment_file = path / "environment.json"
        self.metrics_file = path / "metrics.jsonl"
        self.evaluations_file = path / "evaluations.jsonl"
        self.error_file = path / "error.txt"
        self.checkpoint = path / "checkpoint"
        self.policy = path / "policy"

    def spec(self) -> RunSpec:
        """The stored spec; StorageError when it is missing or damaged."""
        try:
            return RunSpec.from_json(read_json(self.spec_file))
        except StorageError as error:
            raise StorageError(f"{self.spec_file}: {error.what}", error.why, error.fix) from error

    def status(self) -> dict[str, Any]:
        """The stored status, {"state": "new"} for a run that never started or whose status is damaged."""
        if not self.status_file.exists():
            return {"state": "new"}
        try:
            status = read_json(self.status_file)
        except StorageError:
            return {"state": "new"}
        return status if isinstance(status, dict) and "state" in status else {"state": "new"}

    def update_status(self, **changes: Any) -> dict[str, Any]:
        """Merge `changes` into status.json; a change to None removes the entry."""
        merged = {**self.status(), **changes, "updated": now()}
        status = {key: value for key, value in merged.items() if value is not None}
        write_json(self.status_file, status)
        return status

    def rewind(self, step: int, metrics_rows: int, evaluation_rows: int) -> None:
        """Drop the rows that were written after the checkpoint of `step`, which precedes its evaluation.

        Args:
            metrics_rows, evaluation_rows: how many rows the checkpoint says there were.

        Raises:
            StorageError: rows are missing.
        """
        for file, before, count in (
            (self.metrics_file, step + 1, metrics_rows),
            (self.evaluations_file, step, evaluation_rows),
        ):
            kept = keep_rows(file, lambda row, before=before: int(row["step"]) < before)  # type: ignore[misc]
            if kept != count:
                raise StorageError(f"{file} has {kept} rows, the checkpoint says {count}")


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class RunStore:
    """All runs under one root folder. The folders are the truth; everything else is derived from them."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def folder(self, run: RunSpec) -> RunFolder:
        """The folder of a run (which need not exist yet)."""
        return RunFolder(self.root / run.folder)

    def state(self, run: RunSpec) -> str:
        """ "new", "running", "stopped", "failed" or "done".

        "running" also after the process was killed: see `offbench.storage.is_locked` for whether one is alive.
        """
        return str(self.folder(run).status()["state"])

    def groups(self, study: str) -> Path:
        """Where the unfinished groups of a study keep their shared checkpoints."""
        return self.root / study / GROUPS_FOLDER

    def folders(self) -> Iterator[RunFolder]:
        """Every run folder under the root, in the order of their paths."""
        for spec_file in sorted(self.root.rglob("spec.json")):
            yield RunFolder(spec_file.parent)
