"""How the command line speaks: JSON on standard output, all else on standard error, no traceback for user errors."""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from offbench.errors import OffbenchError

if TYPE_CHECKING:
    from offbench.reports.tables import TableRows

INTERRUPTED = 130  # 128 + SIGINT, what shells use

F = TypeVar("F", bound=Callable[..., Any])


def examples(*commands: str) -> Callable[[F], F]:
    """Append examples to a command's docstring, from which typer makes the help text.

    Paragraphs become single lines, because typer keeps line breaks inside them and the terminal wraps them anyway.
    """

    def attach(function: F) -> F:
        paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        paragraphs = [" ".join(paragraph.split()) for paragraph in paragraphs]
        function.__doc__ = "\n\n".join([*paragraphs, "\n".join(["Examples:", *(f"  {c}" for c in commands)])])
        return function

    return attach


def out() -> Console:
    """Standard output: results only."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def err() -> Console:
    """Standard error: progress, notes and errors."""
    return Console(stderr=True, highlight=False)


def say(message: str, style: str = "") -> None:
    """A note for people, on standard error; never wrapped, so that paths and commands can be copied."""
    err().print(Text(message, style=style), soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output; NaN and infinity become null."""
    sys.stdout.write(json.dumps(jsonable(value), indent=2, ensure_ascii=False) + "\n")


def jsonable(value: Any) -> Any:
    """Turn mappings, sequences, NumPy scalars and paths into what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [jsonable(item) for item in items]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    return str(value)


def print_text(text: str, style: str = "") -> None:
    """A paragraph on standard output, wrapped to the window."""
    Console(highlight=False).print(Text(text, style=style))


_NARROW = 14  # to so many characters other columns are folded before the first one is


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, numbers: bool = False) -> None:
    """A table on standard output that folds long cells in a narrow window.

    Columns of numbers are set right; with `numbers` that is every column but the first. The first column holds names
    that people copy: it is folded last.
    """
    console = Console(highlight=False)
    table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=any(columns))
    for index, column in enumerate(columns):
        right = (numbers and index > 0) or (rows and all(isinstance(row[index], (int, float)) for row in rows))
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    cells = [[cell if isinstance(cell, Text) else Text(show(cell)) for cell in row] for row in rows]
    widths = _widths([[Text(name) for name in columns], *cells], console.width)
    for made, width in zip(table.columns, widths, strict=True):
        made.width = width
    for row in cells:
        table.add_row(*row)
    console.print(table)


def _widths(rows: Sequence[Sequence[Text]], available: int) -> list[int]:
    """Widths of columns that fit into the window: the widest is narrowed first, the first column last."""
    widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    excess = sum(widths) + 2 * (len(widths) - 1) - available  # two blanks between columns
    while excess > 0:
        others = [index for index in range(1, len(widths)) if widths[index] > _NARROW]
        index = max(others, key=lambda i: widths[i]) if others else widths.index(max(widths))
        if widths[index] <= 1:
            break
        widths[index] -= 1
        excess -= 1
    return widths


def print_score_table(rows: TableRows) -> None:
    """A table of scores with its caption, on standard output; one value per line where the window is too narrow."""
    console = Console(highlight=False)
    widths = [max(len(row[index].text) for row in rows.rows) for index in range(len(rows.header) if rows.rows else 0)]
    width = sum(max(w, len(title)) + 2 for w, title in zip(widths, rows.header, strict=False))
    cells = [[Text(cell.text, style="bold" if cell.bold else "") for cell in row] for row in rows.rows]
    if width <= console.width:
        print_table(rows.header, cells, numbers=True)
    else:
        long = [
            (row[0] if index == 0 else "", title, cell)
            for row in cells
            for index, (title, cell) in enumerate(zip(rows.header[1:], row[1:], strict=True))
        ]
        print_table((rows.header[0], "", ""), long)
    print_text(f"{rows.caption}\n", "dim")


def show(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {show(item)}" for key, item in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(show(item) for item in value) or "-"
    return "-" if value is None else str(value)


def report_error(error: OffbenchError) -> None:
    """What, why and how to fix."""
    console = err()
    console.print(Text("error: ", style="bold red") + Text(error.what), soft_wrap=True)
    if error.why:
        console.print(Text("  why: ", style="bold") + Text(error.why), soft_wrap=True)
    if error.fix:
        console.print(Text("  fix: ", style="bold") + Text(error.fix), soft_wrap=True)


def report_crash(error: Exception, debug: bool) -> None:
    """An error that nobody foresaw: short, with the traceback in a file (or shown with --debug)."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    say(f"unexpected error: {type(error).__name__}: {error}", "bold red")
    if debug:
        sys.stderr.write(text)
        return
    try:
        handle, name = tempfile.mkstemp(prefix="offbench-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"{sys.argv}\n{text}")
    except OSError:
        say("  show the traceback with: offbench --debug ...")
        return
    say(f"  the traceback is in {Path(name)}; show it with: offbench --debug ...")
    say("  this is a bug of offbench: please report it with that file")


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Python's warnings without the line of code that they came from."""
    say(f"warning: {message}", "yellow")


class ErrorGroup(TyperGroup):
    """A command group that turns exceptions into messages and exit statuses, for every command below it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except OffbenchError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            report_error(error)
            raise typer.Exit(error.exit_status) from error
        except KeyboardInterrupt as error:
            say("stopped; run the same command to resume", "yellow")
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError:
            raise  # the reader of our output has gone (`offbench ... | head`): typer ends quietly
        except Exception as error:
            # The parser's own exceptions (wrong option, --help, exit) carry an exit code and are not errors of ours.
            if hasattr(error, "exit_code") or isinstance(error, typer.Abort):
                raise
            report_crash(error, bool(ctx.params.get("debug")))
            raise typer.Exit(1) from error
