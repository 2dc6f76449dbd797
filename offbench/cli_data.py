"""Commands about datasets as a whole: `offbench data list`, `info` and `build`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from offbench.cli_output import err, examples, out, print_json, print_table, say
from offbench.errors import SpecError

_HELP = {"help_option_names": ["-h", "--help"]}
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]

data_app = typer.Typer(no_args_is_help=True, context_settings=_HELP, rich_markup_mode="rich")


@data_app.callback()
@examples(
    "offbench data list",
    "offbench data info pendulum/medium-replay",
)
def data() -> None:
    """List, build and describe datasets.

    A dataset is named by the id of a built-in recipe, a D4RL id, a Minari id, or the path of a file or folder.
    """


@data_app.command("list")
@examples(
    "offbench data list",
    "offbench data list hopper --json",
)
def data_list(
    family: Annotated[str | None, typer.Argument(help="Only this family, e.g. pendulum.")] = None,
    as_json: Json = False,
) -> None:
    """List the datasets that offbench knows by name, and which are on this machine.

    Built-in ones are made from shipped policies when they are first used; D4RL ones are downloaded. Files of your own
    need no entry here: give their path.
    """
    from offbench.datasets import list_datasets
    from offbench.errors import UnknownNameError

    entries = list_datasets()
    if family is not None:
        families = {entry.family for entry in entries}
        entries = [entry for entry in entries if entry.family == family or entry.id.startswith(f"{family}/")]
        if not entries:
            raise UnknownNameError("dataset family", family, families)
    if as_json:
        print_json([dataclasses.asdict(entry) for entry in entries])
        return
    rows = [(entry.id, entry.environment, entry.cached, entry.description) for entry in entries]
    print_table(("dataset", "environment", "on disk", "what it is"), rows)


@data_app.command("info")
@examples(
    "offbench data info pendulum/medium-replay",
    "offbench data info cartpole/mixed --json",
)
def data_info(
    dataset: Annotated[str, typer.Argument(help="An id, a file or a Minari folder.")],
    environment: Annotated[
        str | None, typer.Option("--environment", help="Gymnasium id, where the data name none.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Describe a dataset: sizes, spaces, episode ends, returns, fingerprint and where it comes from.

    Built-in datasets are built first if they are not on this machine.
    """
    from offbench.datasets import load_dataset

    build_datasets([dataset])
    options = {} if environment is None else {"environment": environment}
    summary = load_dataset(dataset, **options).summary()
    if as_json:
        print_json(summary)
        return
    rows = [(key.replace("_", " "), value) for key, value in summary.items() if key != "details"]
    print_table(("", ""), rows)
    say("how it was made: --json has it under `details`")


@data_app.command("build")
@examples(
    "offbench data build pendulum/medium-replay",
    "offbench data build pendulum/random cartpole/mixed --force",
)
def data_build(
    datasets: Annotated[list[str] | None, typer.Argument(help="Ids of built-in datasets.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All built-in datasets.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Build again what is there already.")] = False,
) -> None:
    """Build built-in datasets into the cache by rolling their behaviour policies out.

    The same recipe gives the same data. Training builds what it needs by itself; this command does it beforehand.
    """
    from offbench.datasets.recipes import RECIPES, get_recipe

    names = list(RECIPES) if everything else list(datasets or [])
    if not names:
        raise SpecError("no dataset was named", "", f"give ids or --all; built-in: {', '.join(RECIPES)}")
    for name in names:
        get_recipe(name)
    for path in build_datasets(names, force=force):
        out().print(str(path), markup=False)


def build_datasets(names: Sequence[str], *, force: bool = False) -> list[Path]:
    """Build those of `names` that are built-in and not in the cache, showing progress; return their folders."""
    from offbench.datasets.recipes import RECIPES, build

    console = err()
    paths = []
    for name in [name for name in dict.fromkeys(names) if name in RECIPES]:
        with contextlib.ExitStack() as stack:
            paths.append(build(name, force=force, progress=_BuildDisplay(name, console, stack)))
    return paths


class _BuildDisplay:
    """A progress bar on a terminal, one line elsewhere, and nothing for a dataset that is in the cache."""

    def __init__(self, name: str, console: Console, stack: contextlib.ExitStack) -> None:
        self._name, self._console, self._stack = name, console, stack
        self._bar: Progress | None = None
        self._started = False

    def __call__(self, done: int, total: int) -> None:
        if not self._started:
            self._started = True
            if self._console.is_terminal:
                columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
                self._bar = self._stack.enter_context(Progress(*columns, console=self._console, transient=True))
                self._bar.add_task(f"building {self._name}", total=total)
            else:
                say(f"building {self._name}")
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)
