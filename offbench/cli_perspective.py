"""The command `offbench perspective`: which algorithms need good data (TQ) and which need broad data (SACo)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from offbench.cli_data import build_datasets
from offbench.cli_output import INTERRUPTED, err, examples, out, print_json, print_score_table, say
from offbench.cli_settings import Device, Root, Workers, parse_seeds, words
from offbench.errors import RunError, SpecError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


@examples(
    "offbench perspective",
    "offbench perspective --environments cartpole --steps 20000 --updates 2000 --runs 42 --seeds 1",
    "offbench perspective --preset paper --workers 64 -o paper",
    "offbench perspective --preset paper --runs 42,142 --yaml",
)
def perspective(
    preset: Annotated[
        str, typer.Option("--preset", help="reduced (two cores), paper, or paper-minatar (both for a cluster).")
    ] = "reduced",
    environments: Annotated[
        str | None, typer.Option("--environments", help="Families of built-in datasets with discrete actions.")
    ] = None,
    runs: Annotated[str | None, typer.Option("--runs", help="Seeds of the dataset-creation runs: 42,142,...")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=200, help="Of each online run and dataset.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="How many (5), or which, by commas (0,1,7).")] = None,
    updates: Annotated[int | None, typer.Option("--updates", "-u", min=1, help="Of each offline run.")] = None,
    evaluations: Annotated[int | None, typer.Option("--evaluations", min=1, help="During an offline run.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="Of all algorithms.")] = None,
    data_only: Annotated[
        bool, typer.Option("--data-only", help="Build and measure the datasets, and train no algorithm.")
    ] = False,
    name: Annotated[str | None, typer.Option("--name", help="Of the study: a folder below the root.")] = None,
    root: Root = Path("runs"),
    workers: Workers = None,
    device: Device = "auto",
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print the suite and train nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Run the study of "A Dataset Perspective on Offline RL" and relate performance to TQ and SACo.

    Online DQN runs give five datasets each (random, mixed, replay, noisy, expert); nine algorithms learn from all of
    them. The report has TQ and SACo of every dataset, the performance of every algorithm over their plane, and its
    correlations with both. The same command resumes; the preset `paper` has the authors' numbers.
    """
    from offbench.perspective import perspective_study

    study = perspective_study(
        preset,
        name=name,
        environments=None if environments is None else tuple(words(environments)),
        runs=None if runs is None else _run_seeds(runs),
        steps=steps,
        seeds=None if seeds is None else _seeds(seeds),
        updates=updates,
        evaluations=evaluations,
        learning_rate=learning_rate,
    )
    if as_yaml:
        out().print(study.suite.to_yaml().rstrip(), markup=False, soft_wrap=True)
        return
    for dataset in study.suite.datasets:
        build_datasets([dataset.id], **dataset.options)
    if data_only:
        _show_data(study, as_json)
        return
    from offbench.execution import run_suite
    from offbench.progress import ProgressDisplay

    with ProgressDisplay(err()) as display:
        summary = run_suite(study.suite, root, workers=workers, device=device, on_event=display)
    written = study.report(root, summary) if summary.already_done or summary.finished else None
    if as_json:
        print_json(_document(summary, written))
    elif written is not None:
        files, tables = written
        print_score_table(tables["perspective"])
        print_score_table(tables["correlations"])
        say(f"report: {files.html}")
    if summary.interrupted:
        say("stopped; run the same command to resume", "yellow")
        raise typer.Exit(INTERRUPTED)
    if summary.failed:
        first = "; ".join(f"{title}: {message}" for title, message in list(summary.failed.items())[:3])
        raise RunError(f"{len(summary.failed)} of {summary.total} runs failed; the others are kept", first)


def _show_data(study: Any, as_json: bool) -> None:
    from offbench.reports.perspective import quality_table

    points = study.quality()
    if as_json:
        print_json(points.to_dict("records"))
        return
    print_score_table(quality_table(points))


def _document(summary: Any, written: Any) -> dict[str, Any]:
    tables = {} if written is None else written[1]
    return {
        "folder": summary.folder,
        "runs": {"total": summary.total, "failed": len(summary.failed), "left": summary.left},
        "failed": summary.failed,
        "report": None if written is None else written[0].html,
        **{name: table.records.to_dict("records") for name, table in tables.items()},
    }


def _run_seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in words(text))
    except ValueError as error:
        raise SpecError(f"--runs {text!r} is not a list of seeds", "", "e.g. --runs 42,142") from error


def _seeds(text: str) -> int | tuple[int, ...]:
    found = parse_seeds(text)
    return found if isinstance(found, int) else tuple(found)
