"""`import offbench` is quick, silent and light, and its public names are there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import offbench

HEAVY = ["torch", "gymnasium", "matplotlib", "mujoco", "pandas", "minari", "numpy", "typer"]
PROBE = f"""
import json, sys, time
start = time.perf_counter()
import offbench
seconds = time.perf_counter() - start
print(json.dumps([seconds, [name for name in {HEAVY!r} if name in sys.modules]]))
"""


def test_import_is_quick_silent_and_light(tmp_path: Path) -> None:
    attempts = []
    for _ in range(3):  # the best of three: the machine may be busy
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, cwd=tmp_path, check=True)
        assert done.stderr == ""
        seconds, heavy = json.loads(done.stdout)
        assert heavy == []
        attempts.append(seconds)
    assert min(attempts) < 0.5


@pytest.mark.parametrize("name", offbench.__all__)
def test_public_names_are_there(name: str) -> None:
    assert getattr(offbench, name) is not None
    assert name in dir(offbench)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = offbench.nothing_of_the_kind  # type: ignore[attr-defined]
