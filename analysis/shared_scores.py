"""The cells that a comparison may use: datasets on which all compared algorithms have runs, and what had to be left
out.

Every comparison takes a `ScoreTable` or plain arrays: a mapping from algorithm to an array [runs, datasets] (as
rliable's dictionaries) or to one array [N_m] per dataset, whose sizes may differ. An empty array is a missing cell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from offbench.analysis.score_checks import ScoreError, some
from offbench.analysis.scores import RETURN, SCORE, ScoreTable
from offbench.errors import UnknownNameError

Cells: TypeAlias = Sequence[np.ndarray] | np.ndarray
Scores: TypeAlias = ScoreTable | Mapping[str, Cells]


@dataclass(frozen=True)
class SharedScores:
    """Scores of some algorithms on the datasets that they share.

    Attributes:
        algorithms: in the order asked for, else that of the input.
        datasets: used, in the order of the input.
        cells: algorithm -> one float64 array [N_m] per dataset, N_m >= 1.
        left_out: datasets not used.
        notes: why, in sentences; empty if nothing was left out.
        unit: of the scores, "" for plain arrays or where datasets differ in it.
    """

    algorithms: tuple[str, ...]
    datasets: tuple[str, ...]
    cells: Mapping[str, tuple[np.ndarray, ...]]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    unit: str

    def sizes(self, algorithm: str) -> np.ndarray:
        """Number of runs on each dataset [M]."""
        return np.array([cell.size for cell in self.cells[algorithm]])

    def means(self) -> np.ndarray:
        """Mean over runs, float64 [datasets, algorithms]."""
        return np.array([[cell.mean() for cell in self.cells[name]] for name in self.algorithms]).T

    def in_fixed_order(self) -> SharedScores:
        """Datasets and runs sorted, so that the order of rows cannot change an interval."""
        order = sorted(range(len(self.datasets)), key=lambda i: self.datasets[i])
        cells = {name: tuple(np.sort(cells[i]) for i in order) for name, cells in self.cells.items()}
        datasets = tuple(self.datasets[i] for i in order)
        return SharedScores(self.algorithms, datasets, cells, self.left_out, self.notes, self.unit)

    def matrix(self, algorithm: str) -> np.ndarray:
        """Scores as [runs, datasets]; for replaying rliable, which knows nothing else.

        Raises:
            ScoreError: numbers of runs differ.
        """
        sizes = self.sizes(algorithm)
        if len(set(sizes.tolist())) > 1:
            raise ScoreError(
                "rliable needs the same number of seeds on every dataset",
                f"{algorithm} has {sizes.min()} to {sizes.max()}",
                "leave compat out",
            )
        return np.stack(self.cells[algorithm], axis=1)


def shared_scores(
    scores: Scores,
    algorithms: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    *,
    common_scale: bool,
) -> SharedScores:
    """Cells of the datasets on which all of `algorithms` have runs.

    Args:
        scores: a table, or plain arrays by algorithm.
        algorithms: which to compare; all by default.
        datasets: which to use. Naming them makes a missing cell an error; by default its dataset is left out.
            Datasets of plain arrays are called "dataset 1", "dataset 2" and so on.
        common_scale: whether numbers of different datasets will be averaged or compared, which raw returns do
            not allow: their datasets are then left out, unless there is just one.

    Raises:
        ScoreError: a missing cell on a named dataset, NaN in an array, or no dataset left.
        UnknownNameError: an algorithm or dataset that the scores do not have.
    """
    cells, units = _cells_of(scores)
    known = list(next(iter(cells.values())))
    chosen = tuple(cells) if algorithms is None else tuple(algorithms)
    if len(set(chosen)) < len(chosen):
        raise ScoreError(f"an algorithm is compared with itself: {', '.join(chosen)}")
    for name in chosen:
        if name not in cells:
            raise UnknownNameError("algorithm", name, cells)
    for name in datasets or ():
        if name not in known:
            raise UnknownNameError("dataset", name, known)
    wanted = known if datasets is None else list(datasets)
    gaps = {d: [a for a in chosen if not cells[a][d].size] for d in wanted}
    incomplete = [d for d in wanted if gaps[d]]
    if datasets is not None and incomplete:
        raise ScoreError(f"{gaps[incomplete[0]][0]} has no runs on {incomplete[0]}", fix="compare on shared datasets")
    used = [d for d in wanted if not gaps[d]]
    if not used:
        raise ScoreError(f"no dataset has runs of all of {some(chosen)}", fix="compare algorithms that share datasets")
    notes = []
    if incomplete:
        absent = sorted({a for d in incomplete for a in gaps[d]}, key=list(chosen).index)
        notes.append(f"Left out for lack of runs (of {some(absent)}): {some(incomplete)}.")
    if common_scale and len(used) > 1:
        used, note = _on_one_scale(used, units)
        notes += [note] if note else []
    kinds = {units[d] for d in used}
    return SharedScores(
        chosen,
        tuple(used),
        {a: tuple(cells[a][d] for d in used) for a in chosen},
        tuple(d for d in wanted if d not in used),
        tuple(notes),
        kinds.pop() if len(kinds) == 1 else "",
    )


def _on_one_scale(datasets: list[str], units: Mapping[str, str]) -> tuple[list[str], str]:
    kinds = {units[d] for d in datasets}
    if len(kinds) == 1 and RETURN not in kinds:
        return datasets, ""
    normalized = [d for d in datasets if units[d] == SCORE]
    if not normalized:
        raise ScoreError(
            "raw returns of different datasets have no common scale",
            f"{len(datasets)} datasets without normalized scores",
            "normalize them, or name one dataset",
        )
    rest = [d for d in datasets if units[d] != SCORE]
    return normalized, f"Left out, since they have no normalized scores: {some(rest)}."


def _cells_of(scores: Scores) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, str]]:
    """algorithm -> dataset -> scores, and the unit of each dataset."""
    if isinstance(scores, ScoreTable):
        names = scores.datasets
        empty = np.empty(0)
        grouped = {
            key: group.to_numpy(dtype=np.float64)
            for key, group in scores.rows.groupby(["algorithm", "dataset"], sort=False)["score"]
        }
        return {a: {d: grouped.get((a, d), empty) for d in names} for a in scores.algorithms}, scores.units
    if not scores:
        raise ScoreError("there are no scores to compare")
    arrays = {name: _as_cells(name, cells) for name, cells in scores.items()}
    counts = {name: len(cells) for name, cells in arrays.items()}
    if len(set(counts.values())) != 1:
        raise ScoreError(
            "algorithms have different numbers of datasets",
            ", ".join(f"{name}: {number}" for name, number in counts.items()),
            "give an empty array for a missing cell",
        )
    names = [f"dataset {i + 1}" for i in range(next(iter(counts.values())))]
    return {a: dict(zip(names, cells, strict=True)) for a, cells in arrays.items()}, dict.fromkeys(names, "")


def _as_cells(name: str, cells: Cells) -> list[np.ndarray]:
    if isinstance(cells, np.ndarray) and cells.dtype != object:
        if cells.ndim != 2:
            raise ScoreError(f"scores of {name} must be [runs, datasets]", f"their shape is {cells.shape}")
        cells = list(cells.T)
    arrays = [np.asarray(cell, dtype=np.float64) for cell in cells]
    for i, cell in enumerate(arrays):
        if cell.ndim != 1:
            raise ScoreError(f"{name}, dataset {i + 1}: one score per run is needed", f"the shape is {cell.shape}")
        bad = np.flatnonzero(~np.isfinite(cell))
        if bad.size:
            raise ScoreError(
                f"{name}, dataset {i + 1}: no finite score in run {some([str(b) for b in bad])}",
                fix="leave the runs out and say so: sizes may differ",
            )
    return arrays


def stream_seed(seed: int, name: str) -> int:
    """Seed of the bootstrap of one algorithm: independent between algorithms and the same in every comparison, so that
    swapping the two sides of a comparison mirrors its interval exactly.
    """
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "little")


def draw_counts(sizes: Sequence[int], reps: int, rng: np.random.Generator) -> np.ndarray:
    """How often each run is drawn when runs are drawn with replacement within each dataset.

    Args:
        sizes: number of runs per dataset, M of them.

    Returns:
        int64 [reps, M, max(sizes)]; zero beyond a dataset's own runs.
    """
    width = max(sizes)
    counts = np.empty((reps, len(sizes), width), dtype=np.int64)
    for m, size in enumerate(sizes):
        small = np.uint8 if size <= 255 else np.int64  # bytes are drawn several times faster
        flat = rng.integers(0, size, size=(reps, size), dtype=small) + np.arange(reps)[:, None] * width
        counts[:, m] = np.bincount(flat.ravel(), minlength=reps * width).reshape(reps, width)
    return counts
