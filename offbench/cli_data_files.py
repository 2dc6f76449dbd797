"""Commands about the rows of a dataset: `offbench data lint`, `card`, `convert` and `schema`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from offbench.cli_data import Json, build_datasets
from offbench.cli_data_fetch import data_app
from offbench.cli_output import examples, out, print_json, say
from offbench.errors import SpecError

if TYPE_CHECKING:
    from offbench.datasets import Dataset, DatasetEntry
    from offbench.datasets.lint import Finding, LintReport

Environment = Annotated[
    str | None, typer.Option("--environment", help="Gymnasium id of the task, where the data name none.")
]
Schema = Annotated[
    Path | None, typer.Option("--schema", help="Columns of a table, as YAML; see `offbench data schema`.")
]
_STYLES = {"error": "bold red", "warning": "bold yellow", "note": "cyan"}


@data_app.command("lint")
@examples(
    "offbench data lint hopper/medium-replay",
    "offbench data lint my_logs.hdf5 --environment Hopper-v5",
    "offbench data lint my_logs.csv --schema schema.yaml --strict --json",
)
def data_lint(
    datasets: Annotated[list[str], typer.Argument(help="Ids, files or Minari folders.")],
    environment: Environment = None,
    schema: Schema = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings too make the exit status 1.")] = False,
    as_json: Json = False,
) -> None:
    """Look for defects: wrong episode ends, foreign next observations, copies, bad values, wrong references.

    Each finding names its rows (counted from 0) and episodes, and says how to mend it. A file that cannot be loaded is
    checked column by column. The exit status is 1 if there are errors. Notes are normal in good data.
    """
    from offbench.datasets.lint import lint_path

    build_datasets(datasets)
    reports = [lint_path(name, **_options(environment, schema)) for name in datasets]
    good = all(report.clean if strict else report.ok for report in reports)
    if as_json:
        print_json({"ok": good, "strict": strict, "datasets": [report.to_json() for report in reports]})
    else:
        for report in reports:
            _show(report)
    if not good:
        raise typer.Exit(1)


@data_app.command("card")
@examples(
    "offbench data card hopper/medium-replay",
    "offbench data card my_logs.hdf5 --environment Hopper-v5 -o cards/my_logs",
)
def data_card(
    dataset: Annotated[str, typer.Argument(help="An id, a file or a Minari folder.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the card; by default card-NAME.")
    ] = None,
    environment: Environment = None,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """Write a card of a dataset: one self-contained HTML page, and the same in Markdown.

    It says what the dataset is (fingerprint, sizes, spaces), how its episodes end and what they return, what every
    column looks like, where it comes from, what its scores mean, its licence where known, and what the lint found.
    """
    from offbench.reports.card import write_card

    data, entry = load_named(dataset, environment, schema)
    folder = output or Path(f"card-{_slug(data.name)}")
    arguments = [dataset if entry is not None else Path(dataset).name, *_options(environment, schema).items()]
    shown = ", ".join(f'"{a}"' if isinstance(a, str) else f'{a[0]}="{a[1]}"' for a in arguments)
    files = write_card(data, folder, entry=entry, call=f"offbench.load_dataset({shown})")
    if as_json:
        print_json(vars(files))
        return
    for path in (files.html, files.markdown):
        out().print(str(path), markup=False)


@data_app.command("convert")
@examples(
    "offbench data convert my_logs.csv my_logs.hdf5 --schema schema.yaml",
    "offbench data convert hopper/medium-replay hopper.parquet",
    "offbench data convert hopper-medium-v2.hdf5 minari/mujoco/hopper-medium-v0 --to minari",
)
def data_convert(
    source: Annotated[str, typer.Argument(help="An id, a file or a Minari folder.")],
    target: Annotated[Path, typer.Argument(help="A file, or the folder ROOT/NAME-v0 of a Minari dataset.")],
    to: Annotated[
        str | None, typer.Option("--to", help="minari, d4rl or parquet; by default from the target's name.")
    ] = None,
    environment: Environment = None,
    schema: Schema = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write a dataset in another format: Minari, D4RL's HDF5 or Parquet.

    The copy has the same fingerprint, which is checked: what a format has no place for is stored where its readers
    do not look.
    """
    from offbench.datasets import load_dataset
    from offbench.errors import DatasetError

    kind = target_format(target, to)
    data, _ = load_named(source, environment, schema)
    path = write_target(data, target, kind, overwrite)
    copy = load_dataset(path)
    if copy.fingerprint != data.fingerprint:
        raise DatasetError(
            f"the copy at {path} has another fingerprint than {source}",
            f"{copy.fingerprint[:12]} instead of {data.fingerprint[:12]}",
            "this is a bug of offbench: please report it with both",
        )
    if as_json:
        print_json({"path": path, "format": kind, "fingerprint": copy.fingerprint, "transitions": len(copy)})
        return
    say(f"{len(copy):,} transitions, fingerprint {copy.fingerprint[:12]} as in {source}")
    out().print(str(path), markup=False)


@data_app.command("schema")
@examples(
    "offbench data schema my_logs.csv",
    "offbench data schema my_logs.csv -o schema.yaml",
)
def data_schema(
    file: Annotated[Path, typer.Argument(help="A CSV or Parquet file.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it to this file.")] = None,
) -> None:
    """Print the schema that a table's column names suggest, as YAML, to be edited and given to --schema.

    It says which columns are observations, actions, rewards, flags and episode numbers. It is a suggestion: what was
    guessed is marked, and nothing is read with it before you pass it on.
    """
    from offbench.datasets.tables import infer_schema
    from offbench.errors import StorageError

    text = infer_schema(file).to_yaml()
    if output is None:
        out().print(text.rstrip(), markup=False, soft_wrap=True)
        return
    try:
        output.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise StorageError(f"cannot write {output}", str(error), "choose another folder") from error
    out().print(str(output), markup=False)


# --- Helpers ---

_WRITERS = ("minari", "d4rl", "parquet")


def _options(environment: str | None, schema: Path | None) -> dict[str, Any]:
    return {name: value for name, value in (("environment", environment), ("schema", schema)) if value is not None}


def load_named(name: str, environment: str | None, schema: Path | None) -> tuple[Dataset, DatasetEntry | None]:
    """The dataset and what the catalogue knows about it; built-in ones are built first."""
    from offbench.datasets import find_entry, load_dataset

    build_datasets([name])
    return load_dataset(name, **_options(environment, schema)), find_entry(name)


def target_format(target: Path, to: str | None = None) -> str:
    """The format `to`, or the one that the target's name says; a folder NAME-v0 is Minari's."""
    from offbench.datasets.minari_write import ID_PATTERN

    if to is not None:
        if to not in _WRITERS:
            raise SpecError(f"cannot write {to!r}", "", f"--to is one of {', '.join(_WRITERS)}")
        return to
    suffix = target.suffix.lower()
    if suffix in (".hdf5", ".h5"):
        return "d4rl"
    if suffix == ".parquet":
        return "parquet"
    if ID_PATTERN.fullmatch(target.name):
        return "minari"
    raise SpecError(
        f"the format of {target} is not clear from its name",
        "names end in .hdf5, .parquet or, for Minari's folders, -v0",
        "give --to minari, d4rl or parquet",
    )


def write_target(data: Dataset, target: Path, kind: str, overwrite: bool) -> Path:
    """Write a dataset in the format `kind` and return its place."""
    from offbench.datasets import write_minari
    from offbench.datasets.d4rl_write import write_d4rl
    from offbench.datasets.minari_format import minari_root
    from offbench.datasets.parquet_write import write_parquet

    target = target.expanduser()
    if kind == "d4rl":
        return write_d4rl(data, target, overwrite=overwrite)
    if kind == "parquet":
        return write_parquet(data, target, overwrite=overwrite)
    root = minari_root().expanduser().resolve()
    # Below Minari's own root the folders between are the namespace of the id.
    root = root if target.resolve().is_relative_to(root) else target.resolve().parent
    return write_minari(data, root, target.resolve().relative_to(root).as_posix(), overwrite=overwrite)


def _slug(name: str) -> str:
    """A dataset's name as part of a file name."""
    return "".join(letter if letter.isalnum() or letter in "-._" else "_" for letter in name)


def _show(report: LintReport) -> None:
    """The report for people: findings by severity, with rows and the way to mend them."""
    console = out()
    title = Text(report.name, style="bold")
    if report.fingerprint is None:
        title.append("  could not be loaded; these are its stored columns", style="red")
    else:
        size = f"  {report.transitions:,} transitions, {report.episodes:,} episodes, {report.fingerprint[:12]}"
        title.append(size, style="dim")
    console.print(title)
    # Folding keeps every word where the window is narrow; the grid sets the lines of a finding below each other.
    grid = Table.grid(padding=(0, 2, 0, 0), expand=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in report.findings:
        grid.add_row(Text(f"  {finding.severity}", style=_STYLES[finding.severity]), Text(finding.check, style="bold"))
        lines = Text(finding.message)
        if where := _where(finding):
            lines.append(f"\n{where}", style="dim")
        if finding.severity != "note":
            lines.append("\nfix: ", style="green")
            lines.append(finding.fix)
        grid.add_row("", lines)
    if report.findings:
        console.print(grid)
    counts = [(report.count("error"), "error"), (report.count("warning"), "warning"), (report.count("note"), "note")]
    words = [f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count]
    style = "red" if not report.ok else "yellow" if not report.clean else "green"
    console.print(Text(f"  {', '.join(words) if words else 'nothing found'}\n", style=style))


def _where(finding: Finding) -> str:
    """ "rows 3, 8, 9, 11, 20, ... (12 in all); episodes 0, 1" """
    from offbench.datasets.lint_findings import SHOWN

    parts = []
    for word, values in (("row", finding.rows), ("episode", finding.episodes)):
        if not values:
            continue
        text = f"{word}{'s' if len(values) > 1 else ''} {', '.join(map(str, values))}"
        counted = word == "row" or not finding.rows  # the finding counts its rows, or else its episodes
        if counted and finding.count > len(values):
            text += f", ... ({finding.count:,} in all)"
        elif not counted and len(values) == SHOWN and finding.count > SHOWN:
            text += ", ..."
        parts.append(text)
    return "; ".join(parts)
