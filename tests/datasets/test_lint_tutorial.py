"""The tutorial from a CSV of logs to a card is followed, block by block, and prints what it shows."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from offbench.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "tutorial_csv.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def words(text: str) -> str:
    return " ".join(text.split())


def run_python(code: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(PAGE), "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def run_command(line: str) -> str:
    result = CliRunner().invoke(app, shlex.split(line)[1:])
    failed = "--strict" not in line and " lint " in line  # only the last lint of the page finds nothing
    assert result.exit_code == (1 if failed else 0), result.output
    return result.stdout


def test_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "84")
    printed, shown, schemas = "", 0, 0
    for kind, body in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if kind in ("python", "py"):
            printed = run_python(body)
        elif kind == "bash":
            printed = "".join(run_command(line) for line in body.splitlines())
        elif kind == "yaml" and not schemas:
            schemas += 1
            assert (tmp_path / "suggested.yaml").read_text(encoding="utf-8") == body
        elif kind == "yaml":
            (tmp_path / "schema.yaml").write_text(body, encoding="utf-8")
        else:
            assert words(body) == words(printed)
            shown += 1
    assert shown == 4
    assert (tmp_path / "card" / "card.html").is_file()
    assert (tmp_path / "heater-v0" / "data" / "metadata.json").is_file()
