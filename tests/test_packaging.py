"""The built wheel: one top-level name, all data files, and it works from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("offbench", "datasets", "algorithms", "analysis", "reports", "suites")
PLAIN = ("pyproject.toml", "README.md", "LICENSE")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that leftovers of other builds cannot help it and it leaves nothing behind."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in PLAIN:
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (built,) = target.glob("offbench-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return target


def test_offbench_is_the_only_top_level_name(installed: Path) -> None:
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert names - {"bin", "Scripts"} == {"offbench"}


def test_every_data_file_is_in_the_wheel(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert "offbench/py.typed" in inside
    for room in SOURCES:
        prefix = "offbench" if room == "offbench" else f"offbench/{room}"
        for path in (ROOT / room).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"{prefix}/{path.relative_to(ROOT / room).as_posix()}" in inside, f"{path} is not packaged"


def run(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with only the wheel's offbench: `-S`-like isolation is not needed, PYTHONPATH comes first."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "OFFBENCH_CACHE": str(cwd / "cache")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_the_installed_package_is_used(installed: Path, tmp_path: Path) -> None:
    done = run(
        installed, tmp_path, "-c", "import offbench, offbench.datasets as d; print(offbench.__file__, d.__file__)"
    )
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(installed)) for path in done.stdout.split())


def test_the_command_line_works_elsewhere(installed: Path, tmp_path: Path) -> None:
    assert "Usage" in run(installed, tmp_path, "-m", "offbench.cli", "--help").stdout
    done = run(installed, tmp_path, "-m", "offbench.cli", "data", "info", "cartpole/random", "--json")
    assert done.returncode == 0, done.stderr
    assert '"name": "cartpole/random"' in done.stdout
    done = run(installed, tmp_path, "-m", "offbench.cli", "algorithms", "show", "iql", "--json")
    assert done.returncode == 0, done.stderr


def test_the_command_is_installed(installed: Path) -> None:
    assert (installed / "bin" / "offbench").exists() or (installed / "Scripts" / "offbench.exe").exists()
