"""Helpers of the command-line tests: every command of the tree, and parsing a command line without running it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import typer

from offbench.cli import app


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all commands and groups: (), ("run",), ("data",), ("data", "list"), ..."""
    command = command if command is not None else typer.main.get_command(app)
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def parse(line: str) -> dict[str, Any]:
    """The parameters of `offbench ...` after checking every option and argument; nothing is run."""
    program, *words = shlex.split(line, comments=True)
    assert program == "offbench", line
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        if words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        else:  # options of the group itself, e.g. --version
            return dict(command.make_context("offbench", words, resilient_parsing=True).params)
    return dict(command.make_context("offbench", words).params)
