"""Commands that bring datasets here and scores to a scale: `offbench data prefetch`, `verify` and `reference`."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from offbench.cli_data import Json, TaskDisplay, data_app
from offbench.cli_output import err, examples, print_json, print_table, say
from offbench.errors import DatasetError, OffbenchError, SpecError

Wanted = Annotated[list[str], typer.Argument(help="Ids, and suites by name or YAML file.")]


@data_app.command("prefetch")
@examples(
    "offbench data prefetch smoke",
    "offbench data prefetch hopper-medium-v2 neorl2:Pipeline pendulum/random",
    "offbench data prefetch locomotion_v4 --offline",
)
def data_prefetch(
    wanted: Wanted,
    force: Annotated[bool, typer.Option("--force", help="Download or build again what is there.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Fetch nothing: only tell whether everything is here.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring everything that suites and ids need to this machine: download it, or build it.

    Do this before a job on a node without internet, and set OFFBENCH_OFFLINE=1 in the job. All are tried; the exit
    status is 1 if one of them failed.
    """
    from offbench.datasets.registry import locate, prefetch

    if offline and force:
        raise SpecError("--force and --offline exclude each other", "", "give one of them")
    console, rows = err(), []
    for name, options in _datasets_of(wanted):
        row: dict[str, Any] = {"dataset": name, "options": options, "place": None, "error": None}
        try:
            if offline and locate(name, options) is None:
                raise DatasetError(f"{name} is not on this machine", "", f"offbench data prefetch {name}")
            with contextlib.ExitStack() as stack:
                progress = TaskDisplay(f"fetching {name}", console, stack)
                row["place"] = str(prefetch(name, options, force=force, progress=progress))
        except OffbenchError as error:
            row["error"] = str(error)
            say(str(error), "red")
        rows.append(row)
    if as_json:
        print_json(rows)
    else:
        print_table(("dataset", "place"), [(row["dataset"], row["place"] or "missing") for row in rows])
    if any(row["error"] for row in rows):
        raise typer.Exit(1)


@data_app.command("verify")
@examples(
    "offbench data verify",
    "offbench data verify hopper-medium-v2 --json",
)
def data_verify(
    wanted: Annotated[list[str] | None, typer.Argument(help="Ids and suites; default: all that is here.")] = None,
    as_json: Json = False,
) -> None:
    """Compare files on this machine with the publisher's checksums, or with what was recorded at their download.

    "unknown" means that there is nothing to compare with: files in other packages' caches without a published
    checksum, and folders. The exit status is 1 if a file differs.
    """
    from offbench.datasets import find_entry, list_datasets
    from offbench.datasets.catalog_files import check, find_place

    if wanted:
        named = [(find_entry(name), options.get("split", "train")) for name, options in _datasets_of(wanted)]
        pairs = [(entry, split) for entry, split in named if entry is not None]
    else:
        cached = [entry for entry in list_datasets() if entry.cached]
        pairs = [(entry, file.split) for entry in cached for file in entry.files or (None,) if file is not None]
        pairs = [(entry, split) for entry, split in pairs if find_place(entry, split) is not None]
    rows = []
    for entry, split in pairs:
        row = {"dataset": entry.id, "split": split, "result": "", "place": str(find_place(entry, split) or "")}
        try:
            row["result"] = check(entry, split)
        except DatasetError as error:
            row["result"] = "bad"
            say(str(error), "red")
        rows.append(row)
    if as_json:
        print_json(rows)
    else:
        columns = ("dataset", "split", "result", "place")
        print_table(columns, [tuple(row[column] for column in columns) for row in rows])
    if any(row["result"] == "bad" for row in rows):
        raise typer.Exit(1)


@data_app.command("reference")
@examples(
    "offbench data reference Pendulum-v1 --behaviour expert",
    "offbench data reference Hopper-v5 --policy runs/a/policy",
    "offbench data reference --show",
)
def data_reference(
    environment: Annotated[str | None, typer.Argument(help="Gymnasium id with its version.")] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", help="Policy that offbench exported, for the score 100.")
    ] = None,
    behaviour: Annotated[
        str | None, typer.Option("--behaviour", help="Shipped behaviour for the score 100, e.g. expert.")
    ] = None,
    episodes: Annotated[int, typer.Option("--episodes", help="Episodes of each policy.")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Of the episodes and the actions.")] = 0,
    keep: Annotated[bool, typer.Option("--save/--no-save", help="Keep the result for later runs.")] = True,
    show: Annotated[bool, typer.Option("--show", help="Only show what was measured before.")] = False,
    as_json: Json = False,
) -> None:
    """Measure the returns that normalized scores refer to: random actions (0) and, if one is given, a policy (100).

    They are kept with their provenance in your references file, and datasets without a reference that holds in that
    environment get them from then on. They are never used in another environment or version.
    """
    from offbench import reference_scores
    from offbench.datasets.references_measured import measured_reference, measurements, references_file, store

    if show:
        _show_measurements(measurements(), as_json)
        return
    if environment is None:
        raise SpecError("no environment was named", "", "give a Gymnasium id such as Hopper-v5, or --show")
    if policy is not None and behaviour is not None:
        raise SpecError("--policy and --behaviour are both given", "one policy is worth 100", "keep one of them")
    with contextlib.ExitStack() as stack:
        display = TaskDisplay(f"random actions in {environment}", err(), stack)
        found = {
            "minimum": reference_scores.measure_random(environment, episodes=episodes, seed=seed, progress=display)
        }
    if behaviour is not None:
        with contextlib.ExitStack() as stack:
            display = TaskDisplay(f"{behaviour} in {environment}", err(), stack)
            found["maximum"] = reference_scores.measure_behaviour(
                environment, behaviour, episodes=episodes, seed=seed, progress=display
            )
    elif policy is not None:
        say(f"playing {policy} in {environment}")
        found["maximum"] = reference_scores.measure_policy(environment, policy, episodes=episodes, seed=seed)
    if keep:
        for role, measurement in found.items():
            store(measurement, "minimum" if role == "minimum" else "maximum")
    _show_measurements({environment: found}, as_json)
    if keep:
        say(f"kept in {references_file()}")
        if measured_reference(environment) is None:
            say("scores need both ends, the upper above the lower: give --policy or --behaviour", "yellow")


def _show_measurements(found: dict[str, Any], as_json: bool) -> None:
    rows = [
        {
            "environment": name,
            "score": 0 if role == "minimum" else 100,
            **dataclasses.asdict(one),
            "std_error": one.std_error,
        }
        for name, roles in found.items()
        for role, one in sorted(roles.items(), reverse=True)
    ]
    if as_json:
        print_json(rows)
        return
    shown = [
        (r["environment"], r["score"], r["policy"], f"{r['mean']:.6g} ± {r['std_error']:.2g}", r["episodes"], r["date"])
        for r in rows
    ]
    print_table(("environment", "score", "policy", "return ± standard error", "episodes", "measured"), shown)


def _datasets_of(wanted: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """(id or path, options that decide which data are meant) of ids and suites, each once, in order."""
    from offbench.api import load_suite, packaged_suites

    found: list[tuple[str, dict[str, Any]]] = []
    for name in wanted:
        if name.endswith((".yaml", ".yml")) or name in packaged_suites():
            for dataset in load_suite(name).datasets:
                deciding = ("split", "size", "seed", "run", "steps")
                found.append((dataset.id, {k: v for k, v in dataset.options.items() if k in deciding}))
        else:
            found.append((name, {}))
    return [pair for index, pair in enumerate(found) if pair not in found[:index]]
