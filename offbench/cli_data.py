"""Commands about datasets as a whole: `offbench data list`, `info` and `build`; `cli_data_fetch` has more."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from offbench.cli_output import err, examples, out, print_json, print_table, say
from offbench.errors import SpecError

if TYPE_CHECKING:
    from offbench.datasets import DatasetEntry

_HELP = {"help_option_names": ["-h", "--help"]}
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]

_WIDE = 120  # columns of a window in which descriptions have room

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
    "offbench data list hopper --collection d4rl",
    "offbench data list --cached --json",
    "offbench data list --environment Hopper-v5",
)
def data_list(
    text: Annotated[str | None, typer.Argument(help="Only ids and families with this text, e.g. hopper.")] = None,
    collection: Annotated[
        str | None, typer.Option("--collection", help="built-in, user, d4rl, minari, neorl2, dsrl or ogbench.")
    ] = None,
    cached: Annotated[bool, typer.Option("--cached", help="Only what is on this machine.")] = False,
    environment: Annotated[
        str | None, typer.Option("--environment", help="Only what is evaluated in this Gymnasium environment.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the datasets that offbench knows by name, which are on this machine, and what their scores refer to.

    Built-in ones are made from shipped policies when they are first used; the others are downloaded. Files of your own
    need no entry here: give their path, or add them to your `datasets.yaml`. A star stands for names that are not
    listed one by one.
    """
    from offbench.datasets import list_datasets
    from offbench.datasets.catalog import collections
    from offbench.errors import UnknownNameError

    if collection is not None and collection not in collections():
        raise UnknownNameError("dataset collection", collection, collections())
    entries = list_datasets()
    families = {entry.family for entry in entries}
    if text is not None:
        entries = [entry for entry in entries if text.lower() in entry.id.lower() or text.lower() == entry.family]
        if not entries:
            raise UnknownNameError("dataset family", text, families)
    entries = [
        entry
        for entry in entries
        if (collection is None or entry.collection == collection)
        and (entry.cached or not cached)
        and (environment is None or entry.environment == environment)
    ]
    if as_json:
        print_json([entry.to_json() for entry in entries])
        return
    rows = [
        (
            entry.id,
            entry.environment,
            _size(entry.megabytes) if entry.cached else "no",
            _scale(entry),
            entry.description,
        )
        for entry in entries
    ]
    columns = ("dataset", "environment", "on disk", "score 0 / 100", "what it is")
    if out().width < _WIDE:
        print_table(columns[:-1], [row[:-1] for row in rows])
        say(f"what they are: in a window of {_WIDE} columns, with --json, or `offbench data info ID --catalogue`")
    else:
        print_table(columns, rows)
    say(f"{len(entries)} datasets; caveats, licence and citation: offbench data info ID --catalogue")


def _size(megabytes: float | None) -> str:
    return "yes" if megabytes is None else f"{megabytes:,.1f} MB"


def _scale(entry: DatasetEntry) -> str:
    if entry.reference is None:
        return "success rate" if entry.metric != "return" else "none"
    scale = f"{entry.reference.minimum:.6g} / {entry.reference.maximum:.6g}"
    return scale if entry.reference.holds_in(entry.environment) else f"none ({scale} in {entry.reference.environment})"


@data_app.command("info")
@examples(
    "offbench data info pendulum/medium-replay",
    "offbench data info cartpole/mixed --json",
    "offbench data info hopper-medium-v2 --catalogue",
)
def data_info(
    dataset: Annotated[str, typer.Argument(help="An id, a file or a Minari folder.")],
    environment: Annotated[
        str | None, typer.Option("--environment", help="Gymnasium id, where the data name none.")
    ] = None,
    catalogue: Annotated[
        bool, typer.Option("--catalogue", help="Only what is known without the data: no download, no build.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Describe a dataset: sizes, spaces, episode ends, returns, fingerprint and where it comes from.

    Built-in datasets are built first if they are not on this machine, others downloaded. What the catalogue says of a
    dataset (addresses, licence, citation, caveats) needs neither: --catalogue.
    """
    from offbench.datasets import find_entry, load_dataset

    entry = find_entry(dataset)
    if catalogue:
        _show_entry(dataset, entry, as_json)
        return
    build_datasets([dataset])
    options = {} if environment is None else {"environment": environment}
    summary = load_dataset(dataset, **options).summary()
    if as_json:
        print_json(summary)
        return
    rows = [(key.replace("_", " "), value) for key, value in summary.items() if key != "details"]
    print_table(("", ""), rows)
    for caveat in entry.caveats if entry is not None else ():
        say(f"note: {caveat}", "yellow")
    say("how it was made: --json has it under `details`")


def _show_entry(name: str, entry: DatasetEntry | None, as_json: bool) -> None:
    from offbench.datasets import list_datasets
    from offbench.errors import UnknownNameError

    if entry is None:
        raise UnknownNameError(
            "dataset",
            name,
            [known.id for known in list_datasets()],
            fix="`offbench data list` shows the catalogue; it knows no files",
        )
    if as_json:
        print_json(entry.to_json())
        return
    reference = entry.reference
    rows: list[tuple[str, object]] = [
        ("id", entry.id),
        ("collection", entry.collection),
        ("what it is", entry.description),
        ("environment", entry.environment or "none to evaluate in"),
        ("time limit", entry.horizon),
        ("metric", entry.metric),
        ("score 0 / 100", _scale(entry)),
        ("  they are from", reference.source if reference else None),
        (
            "  they hold in",
            ", ".join(filter(None, (reference.environment, *reference.compatible))) if reference else None,
        ),
        ("episode cost", f"{entry.costs.minimum:g} to {entry.costs.maximum:g}" if entry.costs else None),
        ("  thresholds", ", ".join(f"{limit:g}" for limit in entry.costs.thresholds) if entry.costs else None),
        ("on this machine", entry.place if entry.cached else "no"),
        ("size", _size(entry.megabytes) if entry.megabytes is not None else None),
        *((f"file ({file.split})", " ".join((*file.urls, file.checksum or ""))) for file in entry.files),
        ("licence", entry.licence),
        ("citation", entry.citation),
        *(("caveat", caveat) for caveat in entry.caveats),
    ]
    print_table(("", ""), [row for row in rows if row[1] is not None])


@data_app.command("build")
@examples(
    "offbench data build pendulum/medium-replay",
    "offbench data build pendulum/random cartpole/mixed --force",
    "offbench data build cartpole/noisy --size 20000 --seed 1",
    "offbench data build cartpole/expert cartpole/replay --run 142",
)
def data_build(
    datasets: Annotated[list[str] | None, typer.Argument(help="Ids of built-in datasets.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All built-in datasets.")] = False,
    size: Annotated[int | None, typer.Option("--size", help="Transitions, if not the dataset's usual number.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the data, if not 0.")] = None,
    run: Annotated[
        int | None, typer.Option("--run", help="Seed of an online DQN run that gives the behaviours.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Of that run; also the data's size.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Build again what is there already.")] = False,
) -> None:
    """Build built-in datasets into the cache by rolling their behaviour policies out.

    The same recipe gives the same data. Training builds what it needs by itself; this command does it beforehand.
    A replay dataset of another seed than 0 is another training run, which takes minutes to hours, and so are the
    behaviours of an environment for which none ship, and each --run.
    """
    from offbench.datasets.recipes import RECIPES, get_recipe

    names = list(RECIPES) if everything else list(datasets or [])
    if not names:
        raise SpecError("no dataset was named", "", f"give ids or --all; built-in: {', '.join(RECIPES)}")
    for name in names:
        get_recipe(name, size, seed, run, steps)
    for path in build_datasets(names, force=force, size=size, seed=seed, run=run, steps=steps):
        out().print(str(path), markup=False)


def build_datasets(
    names: Sequence[str],
    *,
    force: bool = False,
    size: int | None = None,
    seed: int | None = None,
    run: int | None = None,
    steps: int | None = None,
) -> list[Path]:
    """Build those of `names` that are built-in and not in the cache, showing progress; return their folders."""
    from offbench.datasets.recipes import build, is_built_in

    console = err()
    paths = []
    for name in [name for name in dict.fromkeys(names) if is_built_in(name)]:
        with contextlib.ExitStack() as stack:
            display = TaskDisplay(f"building {name}" + ("" if run is None else f", run {run}"), console, stack)
            paths.append(build(name, size=size, seed=seed, run=run, steps=steps, force=force, progress=display))
    return paths


class TaskDisplay:
    """A progress bar on a terminal, one line elsewhere, and nothing for a task that never reports progress."""

    def __init__(self, title: str, console: Console, stack: contextlib.ExitStack) -> None:
        self._title, self._console, self._stack = title, console, stack
        self._bar: Progress | None = None
        self._started = False

    def __call__(self, done: int, total: int | None) -> None:
        if not self._started:
            self._started = True
            if self._console.is_terminal:
                columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
                self._bar = self._stack.enter_context(Progress(*columns, console=self._console, transient=True))
                self._bar.add_task(self._title, total=total)
            else:
                say(self._title)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)
