"""Examines this installation: versions, device, cache, environments, extras. `offbench doctor` prints it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from offbench import __version__
from offbench.errors import OffbenchError

# Extra -> what it is for, and the modules that show that it is there.
EXTRAS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mujoco": ("the MuJoCo datasets and evaluation in MuJoCo environments", ("mujoco",)),
    "minigrid": ("the MiniGrid datasets and evaluation there", ("minigrid",)),
    "minatar": ("evaluation in MinAtar environments", ("minatar",)),
    "robotics": ("the PointMaze datasets and evaluation there", ("gymnasium_robotics",)),
    "rliable": ("computing a report with the reference implementation", ("rliable",)),
    "hub": ("downloading Minari datasets by id", ("huggingface_hub",)),
}
# Environment -> the extra that brings it ("" for those that come with Gymnasium).
ENVIRONMENTS = {
    "Pendulum-v1": "",
    "CartPole-v1": "",
    "Hopper-v5": "mujoco",
    "HalfCheetah-v5": "mujoco",
    "Walker2d-v5": "mujoco",
    "Hopper-v4": "mujoco",
}
ENOUGH_SPACE = 1 << 30  # bytes: the built-in datasets and a small study fit


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        topic: "version", "package", "device", "cache", "environment" or "extra".
        state: "ok"; "missing" (optional, the fix brings it); "broken" (offbench cannot work as it should).
        fix: the command or step that helps, empty when nothing is wrong.
    """

    topic: str
    name: str
    state: str
    detail: str
    fix: str = ""


def examine() -> list[Check]:
    """Run all checks; none of them raises."""
    checks = [*_versions(), *_device(), *_cache()]
    checks += [_environment(name, extra) for name, extra in ENVIRONMENTS.items()]
    return checks + [_extra(name) for name in EXTRAS]


def healthy(checks: list[Check]) -> bool:
    """Whether nothing essential is broken."""
    return all(check.state != "broken" for check in checks)


def has_module(name: str) -> bool:
    """Whether a module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _versions() -> list[Check]:
    python = platform.python_version()
    checks = [Check("version", "offbench", "ok", __version__)]
    checks.append(Check("version", "Python", "ok", f"{python} on {platform.platform()}"))
    for package in _core_packages():
        try:
            checks.append(Check("package", package, "ok", importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            checks.append(Check("package", package, "broken", "not installed", f"pip install {package}"))
    return checks


def _core_packages() -> list[str]:
    """The names that offbench's own metadata requires without an extra."""
    try:
        requirements = importlib.metadata.requires("offbench") or []
    except importlib.metadata.PackageNotFoundError:
        requirements = []
    names = [re.match(r"[A-Za-z0-9_.-]+", line) for line in requirements if "extra ==" not in line]
    return [name.group() for name in names if name]


def _device() -> list[Check]:
    def device() -> str:
        import torch

        from offbench.device import select_device

        chosen = select_device("auto")
        name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else platform.machine()
        return f"{chosen} ({name}), {os.cpu_count()} processors, torch uses {torch.get_num_threads()} threads"

    def matmul() -> str:
        from offbench.algorithms.matmul import select_matmul

        return select_matmul("auto")

    return [_try("device", "device", device), _try("device", "float32 products on the CPU", matmul)]


def _cache() -> list[Check]:
    def cache() -> str:
        from offbench.datasets import cache_dir

        folder = cache_dir()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
        note = "" if free >= ENOUGH_SPACE else ", which is little"
        return f"{folder} is writable, {free / (1 << 30):.1f} GiB free{note}"

    return [_try("cache", "dataset cache", cache, "set OFFBENCH_CACHE to a folder that you can write")]


def _environment(name: str, extra: str) -> Check:
    def make() -> str:
        from offbench.evaluation import make_environment

        environment = make_environment(name)
        try:
            environment.reset(seed=0)
            version = importlib.metadata.version(extra or "gymnasium")
            return f"can be made ({extra or 'gymnasium'} {version})"
        finally:
            environment.close()

    if extra and not all(has_module(module) for module in EXTRAS[extra][1]):
        return Check("environment", name, "missing", f"needs the extra {extra}", _pip(extra))
    return _try("environment", name, make)


def _extra(name: str) -> Check:
    purpose, modules = EXTRAS[name]
    if all(has_module(module) for module in modules):
        return Check("extra", name, "ok", f"installed: {purpose}")
    return Check("extra", name, "missing", f"for {purpose}", _pip(name))


def _pip(extra: str) -> str:
    return f"pip install 'offbench[{extra}]'"


def _try(topic: str, name: str, check: Callable[[], str], fix: str = "") -> Check:
    """A doctor reports whatever goes wrong, hence the broad except."""
    try:
        return Check(topic, name, "ok", check())
    except OffbenchError as error:
        return Check(topic, name, "broken", f"{error.what} ({error.why})", error.fix or fix)
    except Exception as error:
        return Check(topic, name, "broken", f"{type(error).__name__}: {error}", fix)
