"""The tidy table of evaluation episodes, read from the run folders."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offbench.errors import StorageError
from offbench.runs import RunFolder, RunSpec, RunStore
from offbench.storage import read_json, read_rows, write_json

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "study",
    "algorithm",
    "dataset",
    "seed",
    "step",
    "episode",
    "return",
    "length",
    "score",
    "final",
    "updates",
    "environment",
    "run",
)


def load_results(
    root: str | Path, runs: Sequence[RunSpec] | None = None, *, include_unfinished: bool = False
) -> pd.DataFrame:
    """All evaluation episodes under `root` (an output folder, or one study in it), one row per episode.

    Columns: study, algorithm (the label), dataset, seed, step (updates done), episode, return (sum of rewards),
    length (steps), score (100 x (return - minimum) / (maximum - minimum) of the dataset's reference, NaN without
    one), final (of the last evaluation), updates (of the whole run), environment, run (hash).

    When a label was given other settings between two invocations, only the runs with the newest settings are
    returned, with a warning: their seeds must not be averaged with the older ones.

    Args:
        root: folder with run folders in it, at any depth.
        runs: restrict the table to these runs.
        include_unfinished: also return the rows of runs that are not done.

    Raises:
        StorageError: the folder does not exist or a file in it is damaged.
    """
    import pandas as pd

    root = Path(root)
    if not root.is_dir():
        raise StorageError(f"there is no folder {root}", fix="give the folder that `offbench run` wrote into")
    wanted = None if runs is None else {run.hash for run in runs}
    chosen: list[tuple[RunSpec, RunFolder]] = []
    for folder in RunStore(root).folders():
        spec = folder.spec()
        if (wanted is None or spec.hash in wanted) and (include_unfinished or folder.status()["state"] == "done"):
            chosen.append((spec, folder))
    if wanted is None:
        chosen = _newest_settings(chosen)
    rows: list[dict[str, Any]] = []
    for spec, folder in chosen:
        rows.extend(_rows(spec, folder))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype(
        {"seed": int, "step": int, "episode": int, "return": float, "length": int, "score": float, "final": bool}
    )


def _rows(spec: RunSpec, folder: RunFolder) -> list[dict[str, Any]]:
    updates = int(spec.protocol["updates"])
    rows = []
    for row in read_rows(folder.evaluations_file):
        value = float("nan") if row["return"] is None else float(row["return"])
        rows.append(
            {
                "study": spec.study,
                "algorithm": spec.label,
                "dataset": spec.dataset.name,
                "seed": spec.seed,
                "step": row["step"],
                "episode": row["episode"],
                "return": value,
                "length": row["length"],
                "score": score(spec, value),
                "final": row["step"] == updates,
                "updates": updates,
                "environment": spec.dataset.environment,
                "run": spec.hash,
            }
        )
    return rows


def score(spec: RunSpec, value: float) -> float:
    """Normalize a return to 0..100 with the reference stored in the run's spec; NaN without one."""
    reference = spec.dataset.reference
    if reference is None:
        return float("nan")
    return 100.0 * (value - reference["minimum"]) / (reference["maximum"] - reference["minimum"])


def record_cells(root: Path, runs: Sequence[RunSpec]) -> None:
    """Remember which settings each label of a study has now (for `load_results`).

    Several, where the data are drawn anew for every seed.
    """
    by_study: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        hashes = by_study.setdefault(run.study, {}).setdefault(_cell_key(run), [])
        if run.cell_hash not in hashes:
            hashes.append(run.cell_hash)
    for study, cells in by_study.items():
        file = root / study / "cells.json"
        known = read_json(file) if file.exists() else {}
        if known != {**known, **cells}:
            write_json(file, {**known, **cells})


def _cell_key(run: RunSpec) -> str:
    return f"{run.label} on {run.dataset.name}"


def _newest_settings(chosen: list[tuple[RunSpec, RunFolder]]) -> list[tuple[RunSpec, RunFolder]]:
    variants: dict[tuple[Path, str], set[str]] = {}
    for spec, folder in chosen:
        study = folder.path.parents[2]
        variants.setdefault((study, _cell_key(spec)), set()).add(spec.cell_hash)
    newest: dict[tuple[Path, str], list[str]] = {}
    for (study, cell), hashes in variants.items():
        if len(hashes) > 1:
            file = study / "cells.json"
            known = (read_json(file) if file.exists() else {}).get(cell, [])
            newest[study, cell] = [known] if isinstance(known, str) else known  # one text before data could be redrawn
            if hashes - set(newest[study, cell]):
                warnings.warn(
                    f"{study}: {cell!r} was run with {len(hashes)} different settings; "
                    "only the newest are returned (pass `runs=` to choose others)",
                    stacklevel=3,
                )
    return [
        (spec, folder)
        for spec, folder in chosen
        if spec.cell_hash in newest.get((folder.path.parents[2], _cell_key(spec)), [spec.cell_hash])
    ]
