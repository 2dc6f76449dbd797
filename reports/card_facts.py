"""What a dataset card says, computed once and independent of how it is shown: facts, statistics, findings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from offbench.datasets import Dataset, DatasetEntry, Reference
from offbench.datasets.lint import LintReport, lint_dataset

Pairs = list[tuple[str, str]]
UNKNOWN = "not known"
SHOWN_COLUMNS = 64  # of observations or actions; wider ones (images) get one row for all
QUANTILE_ROWS = 200_000  # more rows are thinned out for quantiles only


@dataclass(frozen=True)
class Grid:
    """A table of text: the header, rows, and a sentence that a reader needs."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    caption: str = ""


@dataclass(frozen=True)
class Card:
    """Everything that a card shows.

    Attributes:
        name, description: of the dataset.
        headline: the few numbers at the top.
        identity, ends, scores, origin, rights: labelled facts, section by section.
        statistics: of returns, lengths and rewards, of each observation and action column.
        transforms: one row per transform applied to the data, in order.
        caveats: what one has to know before trusting a number.
        returns, lengths: [K] of the complete episodes, for the histograms; of all episodes if none is complete.
        usage: Python that loads the dataset.
        report: of the lint.
    """

    name: str
    description: str
    headline: Pairs
    identity: Pairs
    episodes: Grid
    ends: Pairs
    observations: Grid
    actions: Grid
    scores: Pairs
    caveats: list[str]
    origin: Pairs
    transforms: Grid
    rights: Pairs
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    usage: str
    report: LintReport


def card_of(
    dataset: Dataset, *, entry: DatasetEntry | None = None, report: LintReport | None = None, call: str | None = None
) -> Card:
    """Gather what a card says.

    Args:
        dataset: the dataset.
        entry: what the catalogue knows about it: description, licence, citation, address and caveats.
        report: of the lint; made here if it is not given.
        call: Python that loads the dataset; by default `offbench.load_dataset(...)` of the entry's id or the name.
    """
    report = report if report is not None else lint_dataset(dataset, entry=entry)
    complete = dataset.episode_complete
    chosen = complete if complete.any() else np.ones(dataset.num_episodes, bool)
    returns, lengths = dataset.episode_returns[chosen], dataset.episode_lengths[chosen]
    summary = dataset.summary()
    return Card(
        name=dataset.name,
        description="" if entry is None else entry.description,
        headline=_headline(dataset, returns, lengths, summary["megabytes"]),
        identity=_identity(dataset, summary),
        episodes=_episode_statistics(dataset, returns, lengths, complete),
        ends=_ends(summary),
        observations=_observation_columns(dataset),
        actions=_action_columns(dataset),
        scores=_scores(dataset.reference, dataset.environment),
        caveats=[] if entry is None else list(entry.caveats),
        origin=[("source", dataset.provenance.source), *_flat(dataset.provenance.details)],
        transforms=_transforms(dataset),
        rights=_rights(entry),
        returns=returns,
        lengths=lengths,
        usage=_usage(dataset, call or f'offbench.load_dataset("{entry.id if entry is not None else dataset.name}")'),
        report=report,
    )


def _headline(dataset: Dataset, returns: NDArray[Any], lengths: NDArray[Any], megabytes: float) -> Pairs:
    facts = [
        ("transitions", f"{dataset.num_transitions:,}"),
        ("episodes", f"{dataset.num_episodes:,}"),
        ("mean return", short(returns.mean())),
        ("mean length", short(lengths.mean())),
    ]
    if dataset.reference is not None:
        score = f"{dataset.reference.normalize(returns).mean():.1f}".replace("-", "−")
        facts.insert(3, ("mean score", score))
    return [*facts, ("megabytes", f"{megabytes:,.1f}")]


def _identity(dataset: Dataset, summary: Mapping[str, Any]) -> Pairs:
    facts = [
        ("fingerprint", dataset.fingerprint),
        ("environment", dataset.environment or UNKNOWN),
        ("observation space", space_text(dataset.observation_space)),
        ("action space", space_text(dataset.action_space)),
        ("columns", ", ".join(summary["columns"])),
    ]
    if dataset.infos:
        facts.append(
            ("infos", ", ".join(f"{key} {list(col.shape[1:]) or ''}".strip() for key, col in dataset.infos.items()))
        )
    return facts


def _episode_statistics(
    dataset: Dataset, returns: NDArray[Any], lengths: NDArray[Any], complete: NDArray[np.bool_]
) -> Grid:
    rows = [("return of an episode", *describe(returns)), ("length of an episode", *describe(lengths))]
    if dataset.reference is not None:
        rows.insert(1, ("normalized score", *describe(dataset.reference.normalize(returns))))
    rows.append(("reward of a step", *describe(_thinned(dataset.rewards))))
    if dataset.costs is not None:
        costs = np.add.reduceat(dataset.costs, dataset.episode_starts, dtype=np.float64)
        rows.append(("cost of an episode", *describe(costs[complete] if complete.any() else costs)))
    left = int((~complete).sum())
    caption = "Returns are undiscounted."
    if left and complete.any():
        caption += f" {'One unfinished episode is' if left == 1 else f'{left:,} unfinished episodes are'} left out."
    return Grid(("", *STATISTICS), rows, caption)


def _ends(summary: Mapping[str, Any]) -> Pairs:
    def count(key: str) -> str:
        return f"{summary[key]:,}"

    episodes = summary["episodes"]
    return [
        ("terminated", f"{count('terminated')} rows: the task ended, the value after them is 0"),
        ("truncated", f"{count('truncated')} rows: the episode was cut, the task would have gone on"),
        ("both flags", f"{count('terminated_and_truncated')} rows; they count as terminated"),
        ("unfinished episodes", f"{episodes - summary['complete_episodes']:,} of {episodes:,}"),
        ("next observation unknown", f"{count('next_observation_unknown')} rows"),
        (
            "not for bootstrapping",
            f"{count('not_bootstrappable')} rows: cut, and the next observation is unknown",
        ),
    ]


STATISTICS = ("mean", "std", "min", "median", "max")


def describe(values: NDArray[Any]) -> tuple[str, ...]:
    """Mean, standard deviation, minimum, median and maximum as text."""
    wide = np.asarray(values, np.float64)
    return tuple(short(float(f(wide))) for f in (np.mean, np.std, np.min, np.median, np.max))


def _observation_columns(dataset: Dataset) -> Grid:
    frames = dataset.observations
    return _columns(frames.reshape(len(frames), -1), list(frames.shape[1:]), "observation")


def _action_columns(dataset: Dataset) -> Grid:
    space = dataset.action_space
    if isinstance(space, spaces.Discrete):
        counts = np.bincount(dataset.actions - int(space.start), minlength=int(space.n))
        rows = [
            (str(int(space.start) + action), f"{count:,}", f"{count / counts.sum():.1%}")
            for action, count in enumerate(counts.tolist())
        ]
        return Grid(("action", "rows", "share"), rows)
    grid = _columns(dataset.actions.reshape(len(dataset.actions), -1), list(dataset.actions.shape[1:]), "action")
    if not isinstance(space, spaces.Box) or len(grid.rows) != math.prod(dataset.actions.shape[1:]):
        return grid
    low, high = space.low.ravel(), space.high.ravel()
    actions = dataset.actions.reshape(len(dataset.actions), -1)
    share = ((actions <= low) | (actions >= high)).mean(axis=0)
    header = (*grid.header, "low", "high", "on a bound")
    bounded = [(*row, short(low[i]), short(high[i]), f"{share[i]:.1%}") for i, row in enumerate(grid.rows)]
    return Grid(header, bounded, grid.caption)


def _columns(values: NDArray[Any], shape: Sequence[int], kind: str) -> Grid:
    """Statistics of each column of `values` [rows, columns], or of all together if there are too many."""
    header = ("column", "mean", "std", "min", "1 %", "median", "99 %", "max", "zero")
    if values.shape[1] > SHOWN_COLUMNS:
        sample = _thinned(values[:: max(1, values.size // 4_000_000)]).reshape(-1, 1)
        return Grid(
            header, _column_rows(sample, ["all"]), f"All entries of {kind}s of shape {list(shape)}, from a sample."
        )
    caption = ""
    sample = _thinned(values)
    if len(sample) < len(values):
        caption = f"Quantiles are those of {len(sample):,} rows, evenly spread."
    return Grid(header, _column_rows(values, [str(i) for i in range(values.shape[1])], sample), caption)


def _column_rows(
    values: NDArray[Any], names: Sequence[str], sample: NDArray[Any] | None = None
) -> list[tuple[str, ...]]:
    low, middle, high = np.quantile(values if sample is None else sample, (0.01, 0.5, 0.99), axis=0)
    mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    least, most, zero = values.min(axis=0), values.max(axis=0), (values == 0).mean(axis=0)
    rows = []
    for i, name in enumerate(names):
        numbers = [short(float(part[i])) for part in (mean, std, least, low, middle, high, most)]
        rows.append((name, *numbers, f"{zero[i]:.1%}"))
    return rows


def _thinned(values: NDArray[Any]) -> NDArray[Any]:
    return values[:: max(1, -(-len(values) // QUANTILE_ROWS))]


def _scores(reference: Reference | None, environment: str | None) -> Pairs:
    if reference is None:
        return [("reference", "none: only raw returns can be reported"), ("evaluated in", environment or UNKNOWN)]
    pairs = [
        ("score 0", f"return {short(reference.minimum)}"),
        ("score 100", f"return {short(reference.maximum)}"),
        ("source", reference.source),
        ("measured in", reference.environment or UNKNOWN),
        ("also accepted", ", ".join(reference.compatible) or "no other environment"),
        ("evaluated in", environment or UNKNOWN),
    ]
    if reference.horizon:
        pairs.append(("time limit", f"{reference.horizon:,} steps"))
    return pairs


def _transforms(dataset: Dataset) -> Grid:
    rows = [
        (record.name, ", ".join(f"{key} {value}" for key, value in record.parameters.items()), str(record.seed))
        for record in dataset.provenance.transforms
    ]
    return Grid(("transform", "parameters", "seed"), rows)


def _rights(entry: DatasetEntry | None) -> Pairs:
    licence, citation = ("unknown", "unknown") if entry is None else (entry.licence, entry.citation)
    pairs = [("licence", licence), ("citation", citation)]
    pairs = [(name, UNKNOWN if value == "unknown" else value) for name, value in pairs]
    return [*pairs, ("address", entry.urls[0])] if entry is not None and entry.urls else pairs


def _usage(dataset: Dataset, call: str) -> str:
    return f"dataset = {call}\nprint(dataset.fingerprint.startswith({dataset.fingerprint[:12]!r}))"


def _flat(details: Mapping[str, Any], prefix: str = "") -> Pairs:
    """Nested details as (dotted name, value)."""
    pairs: Pairs = []
    for key, value in details.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{name}: ")
        elif isinstance(value, (list, tuple)):
            pairs.append((name, "; ".join(map(_item, value)) or "none"))
        else:
            pairs.append((name, str(value)))
    return pairs


def _item(value: Any) -> str:
    """An entry of a list of details; a mapping as "behaviour random, share 0.5"."""
    return ", ".join(f"{key} {inner}" for key, inner in value.items()) if isinstance(value, Mapping) else str(value)


def space_text(space: spaces.Space[Any]) -> str:
    """A space in one line, with bounds that are the same everywhere written once."""
    if not isinstance(space, spaces.Box):
        return str(space)
    bounds = [np.unique(bound) for bound in (space.low, space.high)]
    if all(len(bound) == 1 for bound in bounds):
        low, high = (short(float(bound[0])) for bound in bounds)
        limits = f"from {low} to {high}" if np.isfinite([bound[0] for bound in bounds]).all() else "no bounds"
    else:
        limits = "bounds differ by column"
    return f"{list(space.shape)} of {space.dtype}, {limits}"


def short(value: float) -> str:
    """A number with four significant digits, without an exponent where it can be read so: "1,510", "−0.02570"."""
    value = float(value)
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size >= 1000:
        text = f"{value:,.0f}" if size < 1e7 else f"{value:.3e}"
    else:
        text = f"{value:.4g}"
    return text.replace("-", "−", 1) if value < 0 else text
