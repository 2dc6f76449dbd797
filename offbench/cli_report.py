"""Commands that compare scores: `offbench report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offbench.cli_output import examples, out, print_json, say

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


@examples(
    "offbench report",
    "offbench report runs --output report",
)
def report(
    root: Annotated[Path, typer.Argument(help="The folder that was given to run or train as --root.")] = Path("runs"),
    output: Annotated[
        Path | None, typer.Option("--output", help="Where to write; by default ROOT/<study>/report.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write tables, plots and one self-contained HTML page about the finished runs under a folder.

    Scores are the means of each run's final evaluation; the seed is the unit of replication. The captions say the
    protocol, the interval method and what could mislead.
    """
    from offbench.api import write_reports

    reports = write_reports(root, output)
    if as_json:
        print_json({study: files.paths for study, files in reports.items()})
        return
    for study, files in reports.items():
        say(f"{study}:", "bold")
        for notice in files.notices:
            say(f"  note: {notice.text}", "yellow")
        for path in files.paths:
            out().print(str(path), markup=False)
