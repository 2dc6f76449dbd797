"""The command `offbench robustness`: train algorithms on clean and corrupted data and say what is left of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from offbench.cli_data import build_datasets
from offbench.cli_output import INTERRUPTED, err, examples, out, print_json, print_score_table, say
from offbench.cli_settings import (
    BatchSize,
    Device,
    EvaluateEvery,
    EvaluationEpisodes,
    FinalEpisodes,
    PreprocessingSettings,
    Root,
    Settings,
    Updates,
    Workers,
    parse_seeds,
    parse_settings,
    words,
)
from offbench.errors import RunError, SpecError, UnknownNameError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


@examples(
    "offbench robustness bc,td3_bc,iql,riql hopper/medium-replay --seeds 3 -u 20000",
    "offbench robustness iql,riql hopper/medium-replay --modes random --rates 0.1,0.3,0.5",
    "offbench robustness dqn,bc cartpole/mixed --targets rewards,observations --modes random",
    "offbench robustness bc,iql pendulum/medium-replay --yaml",
)
def robustness(
    algorithms: Annotated[str, typer.Argument(help="Names, separated by commas; see `offbench algorithms list`.")],
    datasets: Annotated[str, typer.Argument(help="Ids or files, separated by commas.")],
    targets: Annotated[
        str, typer.Option("--targets", help="What is corrupted; several at once are joined by +.")
    ] = "observations,actions,rewards,dynamics",
    modes: Annotated[str, typer.Option("--modes", help="random, adversarial or both.")] = "random,adversarial",
    rates: Annotated[str, typer.Option("--rates", help="Shares of the transitions.")] = "0.3",
    scales: Annotated[str, typer.Option("--scales", help="Sizes, in the targets' units.")] = "1.0",
    corruption: Annotated[
        list[str] | None,
        typer.Option("--corruption", metavar="KEY=VALUE", help="Of `corrupt`: preset=clean, adversary_updates=..."),
    ] = None,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="Corrupt anew for every seed, as RIQL's authors do.")
    ] = False,
    attack_settings: Annotated[
        bool, typer.Option("--attack-settings/--one-setting", help="Use RIQL's settings per attack.")
    ] = True,
    seeds: Annotated[str, typer.Option("--seeds", help="How many (5), or which, by commas (0,1,7).")] = "3",
    updates: Updates = None,
    batch_size: BatchSize = None,
    evaluate_every: EvaluateEvery = None,
    evaluation_episodes: EvaluationEpisodes = None,
    final_episodes: FinalEpisodes = None,
    config: Settings = None,
    preprocessing: PreprocessingSettings = None,
    name: Annotated[str, typer.Option("--name", help="Name of the study: a folder below the root.")] = "robustness",
    root: Root = Path("runs"),
    workers: Workers = None,
    device: Device = "auto",
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print the suite and train nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Train algorithms on a dataset as it is and corrupted, and compare what is left of each.

    Targets x modes x rates x scales, as in RIQL's benchmark (Yang et al. 2024): the share `rate` of the transitions is
    disturbed, at random or by an adversary whose critic is trained first and kept. The report has the clean score,
    every corruption, their average, the worst case and the change from clean, curves against rate and scale, and ranks
    with tests over seeds. The same command resumes.
    """
    from offbench.execution import run_suite
    from offbench.progress import ProgressDisplay
    from offbench.robustness import robustness_study

    study = robustness_study(
        _with_settings(words(algorithms), parse_settings("-c", config or [])),
        words(datasets),
        targets=words(targets),
        modes=words(modes),
        rates=_numbers("--rates", rates),
        scales=_numbers("--scales", scales),
        seeds=parse_seeds(seeds),
        corruption=parse_settings("--corruption", corruption or []),
        redraw=redraw,
        attack_settings=attack_settings,
        name=name,
        preprocessing=parse_settings("-p", preprocessing or []),
        protocol={
            key: value
            for key, value in (
                ("updates", updates),
                ("batch_size", batch_size),
                ("evaluate_every", evaluate_every),
                ("evaluation_episodes", evaluation_episodes),
                ("final_episodes", final_episodes),
            )
            if value is not None
        },
    )
    if as_yaml:
        out().print(study.suite.to_yaml().rstrip(), markup=False, soft_wrap=True)
        return
    build_datasets(words(datasets))
    say(f"{len(study.conditions)} datasets: clean and corrupted; an adversary's critic is trained where it is not kept")
    with ProgressDisplay(err()) as display:
        summary = run_suite(study.suite, root, workers=workers, device=device, on_event=display)
    written = study.report(root, summary) if summary.already_done or summary.finished else None
    if as_json:
        print_json(_document(summary, written))
    elif written is not None:
        print_score_table(written[1])
        for sentence in written[0].sentences:
            say(f"  {sentence}")
        say(f"report: {written[0].html}")
    if summary.interrupted:
        say("stopped; run the same command to resume", "yellow")
        raise typer.Exit(INTERRUPTED)
    if summary.failed:
        first = "; ".join(f"{title}: {message}" for title, message in list(summary.failed.items())[:3])
        raise RunError(f"{len(summary.failed)} of {summary.total} runs failed; the others are kept", first)


def _document(summary: Any, written: Any) -> dict[str, Any]:
    return {
        "folder": summary.folder,
        "runs": {"total": summary.total, "failed": len(summary.failed), "left": summary.left},
        "failed": summary.failed,
        "report": None if written is None else written[0].html,
        "scores": [] if written is None else written[1].records.to_dict("records"),
        "sentences": [] if written is None else written[0].sentences,
    }


def _with_settings(algorithms: list[str], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Give every algorithm the settings that it has: one option serves algorithms of different fields."""
    import dataclasses

    from offbench.algorithms import get_algorithm

    fields = {
        name: [field.name for field in dataclasses.fields(get_algorithm(name).config_class)] for name in algorithms
    }
    for key in settings:
        if not any(key in known for known in fields.values()):
            raise UnknownNameError("setting", key, {field for known in fields.values() for field in known})
    return [
        {"name": name, "config": {key: value for key, value in settings.items() if key in known}}
        for name, known in fields.items()
    ]


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(word) for word in words(text)]
    except ValueError as error:
        raise SpecError(f"{option} {text!r} is not a list of numbers", "", f"e.g. {option} 0.1,0.3") from error
