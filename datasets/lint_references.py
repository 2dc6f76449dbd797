"""Checks of the reference scores: whether they belong to the environment and the time limit of the data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from offbench.datasets.lint_checks import Hit, View, check


@check(
    "reference-of-another-environment",
    "error",
    finds="the reference scores were measured in another environment or version",
    why="versions differ in dynamics and rewards: a normalized score means nothing",
    fix="pass the reference of this environment, or evaluate in one that the reference accepts",
    known="Minari #303, #318; D4RL #114, #131; TD3_BC #1",
)
def reference_of_another_environment(view: View) -> Iterator[Hit]:
    reference, environment = view.dataset.reference, view.dataset.environment
    if reference is None or environment is None or reference.environment is None:
        return
    accepted = (reference.environment, *reference.compatible)
    if environment not in accepted:
        yield Hit(
            f"the data name {environment}, the reference scores {' or '.join(accepted)} ({reference.source})",
        )


@check(
    "reference-horizon",
    "warning",
    finds="the reference scores were measured with another time limit than the data",
    why="returns grow with the limit: policies score far above 100 without being better",
    fix="measure references with the limit of the data, or evaluate with the limit of the references",
    known="Minari #303 (pen: IQL scores 187 instead of 83)",
)
def reference_horizon(view: View) -> Iterator[Hit]:
    reference = view.dataset.reference
    if reference is None or not reference.horizon:
        return
    longest = int(view.lengths.max())
    if longest > reference.horizon:
        episodes = np.flatnonzero(view.lengths > reference.horizon)
        text = f"episodes have up to {longest:,} steps, the reference scores {reference.horizon:,} ({reference.source})"
        yield Hit(text, episodes=episodes)
    elif view.limit is not None and view.limit != reference.horizon and view.limit_source == view.dataset.environment:
        text = f"{view.limit_source} has {view.limit:,} steps, the reference scores {reference.horizon:,}"
        yield Hit(f"{text} ({reference.source})")


@check(
    "implausible-scores",
    "warning",
    finds="the data score above 200 or below -100 on average",
    why="the reference scores are probably not those of these rewards (scaled, shifted, another environment)",
    fix="compare the unit of the rewards with that of the reference",
    known="Minari #303",
)
def implausible_scores(view: View) -> Iterator[Hit]:
    data = view.dataset
    returns = data.episode_returns[data.episode_complete]
    if data.reference is not None and len(returns):
        score = float(data.reference.normalize(returns).mean())
        if not -100 <= score <= 200:
            yield Hit(f"the episodes score {score:.1f} on average, where 0 is {data.reference.minimum:g}")
