"""Datasets that users add to the catalogue: a YAML file, or the entry-point group `offbench.datasets`.

The file is $OFFBENCH_DATASETS, or `datasets.yaml` in the user's configuration folder:

    datasets:
      my-robot/logs-v1:
        path: logs/run1.hdf5          # relative to this file; or url:, or a list of mirrors
        format: d4rl                  # a reader; found by suffix and content if it is left out
        environment: Pendulum-v1
        reference: {minimum: -1200, maximum: -150, source: measured by us, environment: Pendulum-v1}
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from offbench.datasets.catalog import DataFile, DatasetEntry
from offbench.datasets.records import Reference
from offbench.errors import DatasetError, OffbenchError, SpecError, UnknownNameError

GROUP = "offbench.datasets"
_FILE_NAME = re.compile(r"\w[\w.,+=@ -]*")  # a file name on every system, and never a folder above
# Key -> the types that it takes.
KEYS: dict[str, tuple[type, ...]] = {
    "path": (str,),
    "url": (str, list),
    "sha256": (str,),
    "md5": (str,),
    "format": (str,),
    "options": (dict,),
    "family": (str,),
    "environment": (str,),
    "description": (str,),
    "reference": (dict,),
    "horizon": (int,),
    "licence": (str,),
    "citation": (str,),
    "megabytes": (int, float),
    "metric": (str,),
    "caveats": (list,),
}
REFERENCE_KEYS = ("minimum", "maximum", "source", "environment", "horizon", "compatible")


def config_dir() -> Path:
    """The folder of the user's own files: $OFFBENCH_CONFIG, or the platform's folder for settings.

    It is not created here.
    """
    configured = os.environ.get("OFFBENCH_CONFIG")
    if configured:
        return Path(configured).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "offbench"


def user_file() -> Path:
    """The YAML file of the user's datasets; it need not exist unless $OFFBENCH_DATASETS names it."""
    configured = os.environ.get("OFFBENCH_DATASETS")
    return Path(configured).expanduser() if configured else config_dir() / "datasets.yaml"


def user_entries() -> dict[str, DatasetEntry]:
    """The user's entries by id: those of the YAML file, then those of installed packages.

    Raises:
        SpecError: the file or a package describes a dataset wrongly.
        UnknownNameError: a key that no entry has; the message names near ones.
    """
    found = _from_file(user_file())
    for point in entry_points(group=GROUP):
        for entry in _from_package(point):
            if entry.id in found:
                raise SpecError(f"the dataset {entry.id!r} is defined twice", f"again by the package of {point.value}")
            found[entry.id] = entry
    return found


def _from_file(path: Path) -> dict[str, DatasetEntry]:
    if not path.exists():
        if os.environ.get("OFFBENCH_DATASETS"):
            raise SpecError(f"there is no file {path}", "OFFBENCH_DATASETS names it", "correct or unset it")
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"cannot read the datasets in {path}", str(error), "correct the YAML") from error
    content = {} if content is None else content
    if not isinstance(content, dict) or not isinstance(content.get("datasets", {}), dict):
        raise SpecError(f"{path} does not describe datasets", "", "write `datasets:` and below it one block per id")
    for key in content:
        if key != "datasets":
            raise UnknownNameError(f"key in {path}:", str(key), ["datasets"])
    blocks = content.get("datasets") or {}
    return {str(name): parse_entry(str(name), block, path.parent, str(path)) for name, block in blocks.items()}


def parse_entry(name: str, block: Any, folder: Path, where: str) -> DatasetEntry:
    """Check one block of the YAML file (or one mapping of a package) and turn it into an entry.

    Args:
        folder: what a relative `path` is relative to.
        where: the file or package, for messages.

    Raises:
        SpecError, UnknownNameError: see `user_entries`.
    """
    place = f"dataset {name!r} in {where}"
    if not isinstance(block, dict):
        raise SpecError(f"{place} is not a block of keys", f"it is {block!r}", f"keys: {', '.join(KEYS)}")
    for key, value in block.items():
        if key not in KEYS:
            raise UnknownNameError(f"key of {place}:", str(key), KEYS)
        if not isinstance(value, KEYS[key]) or isinstance(value, bool):
            kinds = " or ".join(kind.__name__ for kind in KEYS[key])
            raise SpecError(f"{key} of {place} is {value!r}", f"it must be of type {kinds}")
    if ("path" in block) == ("url" in block):
        raise SpecError(f"{place} needs a path or a url", "it has both" if "path" in block else "it has neither")
    path = Path(block["path"]).expanduser() if "path" in block else None
    return DatasetEntry(
        id=name,
        family=block.get("family") or name.partition("/")[0],
        environment=block.get("environment"),
        cached=False,
        description=block.get("description", f"from {where}"),
        collection="user",
        reference=_reference(block.get("reference"), place, block.get("environment"), block.get("horizon")),
        horizon=block.get("horizon"),
        licence=block.get("licence", "unknown"),
        citation=block.get("citation", "unknown"),
        megabytes=block.get("megabytes"),
        caveats=tuple(str(caveat) for caveat in block.get("caveats", ())),
        metric=block.get("metric", "return"),
        format=_format(block.get("format"), place),
        files=_files(block, place) if path is None else (),
        options=dict(block.get("options", {})),
        place=None if path is None else folder / path,
    )


def _format(name: str | None, place: str) -> str | None:
    from offbench.datasets.formats import FORMATS

    if name is not None and name not in FORMATS:
        raise UnknownNameError(f"format of {place}:", name, FORMATS)
    return name


def _files(block: Mapping[str, Any], place: str) -> tuple[DataFile, ...]:
    urls = [block["url"]] if isinstance(block["url"], str) else [str(url) for url in block["url"]]
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.path.rpartition("/")[2]:
            raise SpecError(f"the url {url!r} of {place} is not one", "", "write http(s)://HOST/.../FILE, or use path:")
        if not _FILE_NAME.fullmatch(unquote(parts.path.rpartition("/")[2])):
            raise SpecError(f"the url {url!r} of {place} ends in no usable file name")
    if not urls:
        raise SpecError(f"the list of urls of {place} is empty")
    if "sha256" in block and "md5" in block:
        raise SpecError(f"{place} has two checksums", "", "keep sha256")
    checksum = next((f"{kind}:{block[kind].lower()}" for kind in ("sha256", "md5") if kind in block), None)
    return (DataFile(unquote(urlsplit(urls[0]).path.rpartition("/")[2]), tuple(urls), checksum),)


def _reference(
    fields: Mapping[str, Any] | None, place: str, environment: str | None, horizon: int | None
) -> Reference | None:
    """The reference of an entry; without an environment of its own it belongs to the entry's environment."""
    if fields is None:
        return None
    for key in fields:
        if key not in REFERENCE_KEYS:
            raise UnknownNameError(f"key of the reference of {place}:", str(key), REFERENCE_KEYS)
    if not {"minimum", "maximum", "source"} <= fields.keys():
        raise SpecError(
            f"the reference of {place} is not complete",
            "a score is worth nothing if nobody can tell where its scale comes from",
            "give minimum, maximum and source",
        )
    compatible = tuple(str(name) for name in fields.get("compatible", ()))
    try:
        return Reference(**{"environment": environment, "horizon": horizon, **fields, "compatible": compatible})
    except (TypeError, ValueError, DatasetError) as error:
        raise SpecError(f"the reference of {place} is not usable", str(error)) from error


def _from_package(point: EntryPoint) -> Iterable[DatasetEntry]:
    """What an entry point offers: a mapping as in the YAML file, entries, or a function that returns either."""
    try:
        offered = point.load()
        offered = offered() if callable(offered) else offered
    except OffbenchError:
        raise
    except Exception as error:  # a package of somebody else: whatever it raises belongs into a message
        raise SpecError(
            f"the entry point {point.name!r} ({point.value}) of {GROUP} fails",
            f"{type(error).__name__}: {error}",
            "correct or uninstall that package",
        ) from error
    if isinstance(offered, Mapping):
        return [parse_entry(str(name), block, Path.cwd(), point.value) for name, block in offered.items()]
    entries = list(offered)
    for entry in entries:
        if not isinstance(entry, DatasetEntry):
            raise SpecError(f"the entry point {point.name!r} ({point.value}) gives {entry!r}", "it is no DatasetEntry")
    return entries
