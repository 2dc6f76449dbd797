"""What is known about datasets by name: the shipped tables, Minari's folders here, recipes and the user's entries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from offbench.datasets.records import Reference
from offbench.errors import UnknownNameError

COLLECTIONS_FILE = Path(__file__).with_name("catalog_collections.yaml")
CAVEATS_FILE = Path(__file__).with_name("catalog_caveats.yaml")


@dataclass(frozen=True)
class Collection:
    """Who made a family of datasets. `licence` and `citation` are "unknown" where no statement was found."""

    name: str
    title: str
    homepage: str
    licence: str
    citation: str


@dataclass(frozen=True)
class DataFile:
    """One file of a dataset: its addresses in order of preference, and the publisher's checksum if there is one.

    Attributes:
        name: file name, as the collection's own package stores it.
        urls: addresses (mirrors).
        checksum: "sha256:HEX" or "md5:HEX".
        split: "train" or "validation".
    """

    name: str
    urls: tuple[str, ...] = ()
    checksum: str | None = None
    split: str = "train"


@dataclass(frozen=True)
class CostReference:
    """Episode costs of a safety dataset: the extremes in the data, and the limits under which policies are judged."""

    minimum: float
    maximum: float
    thresholds: tuple[float, ...]
    source: str


@dataclass(frozen=True)
class DatasetEntry:
    """One dataset that `load_dataset` knows by name.

    Attributes:
        id: what to pass to `load_dataset`; a `*` stands for names that the table does not list one by one.
        family: "pendulum", "hopper", "antmaze", ...
        environment: Gymnasium id in which policies are evaluated; None if there is no faithful one.
        cached: it is on this machine, so that loading needs neither network nor simulation.
        description: one line.
        collection: "built-in", "d4rl", "minari", "neorl2", "dsrl", "ogbench" or "user".
        reference: returns that map to the scores 0 and 100; None if nobody gives any.
        horizon: time limit in steps.
        licence, citation: of the data; "unknown" where no statement was found.
        megabytes: size of the files that are on this machine; None where they are not and the size is not known.
        caveats: what one has to know before one trusts a number.
        metric: "return" or "success rate".
        costs: of a safety dataset.
        format: name of the reader (`formats.FORMATS`).
        files: what to download; empty for built-in and Minari datasets.
        options: that the reader gets.
        place: where it is on this machine.
    """

    id: str
    family: str
    environment: str | None
    cached: bool
    description: str
    collection: str = "user"
    reference: Reference | None = None
    horizon: int | None = None
    licence: str = "unknown"
    citation: str = "unknown"
    megabytes: float | None = None
    caveats: tuple[str, ...] = ()
    metric: str = "return"
    costs: CostReference | None = None
    format: str | None = None
    files: tuple[DataFile, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    place: Path | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """Addresses of the dataset's main file, in order of preference."""
        return self.files[0].urls if self.files else ()

    def file(self, split: str = "train") -> DataFile | None:
        """The file of a split; None if the dataset has no such file."""
        return next((file for file in self.files if file.split == split), None)

    def to_json(self) -> dict[str, Any]:
        """JSON-able description, without the options for the reader."""
        plain = {**asdict(self), "urls": list(self.urls), "place": None if self.place is None else str(self.place)}
        del plain["options"]
        return json.loads(json.dumps(plain, default=str))


@cache
def collections() -> dict[str, Collection]:
    """The collections by name."""
    table = yaml.safe_load(COLLECTIONS_FILE.read_text(encoding="utf-8"))
    return {name: Collection(name, **fields) for name, fields in table.items()}


def collection(name: str) -> Collection:
    """One collection. Raises UnknownNameError with the nearest name."""
    if name not in collections():
        raise UnknownNameError("dataset collection", name, collections())
    return collections()[name]


def caveats_for(dataset_id: str) -> tuple[str, ...]:
    """The shipped caveats of a dataset, each with its source."""
    return tuple(
        f"{text} ({source})"
        for patterns, text, source in _caveats()
        if any(fnmatchcase(dataset_id, p) for p in patterns)
    )


@cache
def _caveats() -> tuple[tuple[tuple[str, ...], str, str], ...]:
    rows = yaml.safe_load(CAVEATS_FILE.read_text(encoding="utf-8"))
    return tuple((tuple(row["ids"]), row["text"], row["source"]) for row in rows)
