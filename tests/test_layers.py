"""The import rules of the design, checked on the source: which room may import which, and what stays lazy."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("datasets", "algorithms", "analysis", "reports", "offbench")
# Room -> rooms that it may import besides itself; `offbench.errors` is open to all.
ALLOWED: dict[str, set[str]] = {
    "datasets": set(),
    "algorithms": {"datasets"},
    "analysis": {"datasets"},
    "reports": {"analysis", "datasets"},
    "offbench": {"datasets", "algorithms", "analysis", "reports"},
}
# Room -> packages that nothing in it may import, not even inside a function.
NEVER: dict[str, set[str]] = {
    "datasets": {"torch", "matplotlib"},
    "analysis": {"torch", "matplotlib"},
    "reports": {"torch"},
}
# Train the behaviour policies that are shipped, or a replay buffer that must be made anew; transforms and measures
# that fit a model.
EXCEPT = {
    "datasets/train_*.py": {"torch"},
    "datasets/transforms/density_ratio.py": {"torch"},
    "datasets/transforms/action_free*.py": {"torch"},
    "analysis/quality_learned.py": {"torch"},
}
# Files that are read when `import offbench` or `offbench --help` runs: heavy packages only inside functions.
QUICK = (
    "__init__",
    "errors",
    "events",
    "cli",
    "cli_data",
    "cli_data_fetch",
    "cli_data_files",
    "cli_lookup",
    "cli_quality",
    "cli_report",
    "cli_robustness",
    "cli_settings",
    "cli_transform",
    "cli_output",
    "api",
    "doctor",
    "progress",
)
HEAVY = {"torch", "pandas", "numpy", "gymnasium", "minari", "mujoco", "matplotlib", "h5py", "pyarrow", "pydantic"}
UNSAFE = {"pickle", "cloudpickle", "dill", "shelve"}


def files(room: str) -> list[Path]:
    return sorted(path for path in (ROOT / room).rglob("*.py"))


def every_file() -> list[Path]:
    return [path for room in ROOMS for path in files(room)]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all imports, also those inside functions. Imports for type checkers only are included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            yield from (f"{module}.{alias.name}" for alias in node.names)


def top_level(tree: ast.Module) -> ast.Module:
    """The statements that run on import: no function bodies, no `if TYPE_CHECKING`."""

    def runs(node: ast.stmt) -> bool:
        return not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        )

    body = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            body += [inner for inner in node.body if runs(inner)]
        elif runs(node):
            body.append(node)
    return ast.Module(body, [])


def room_of(dotted: str) -> str | None:
    """The room that an import leads to; None for other packages and for `offbench.errors`."""
    first, *rest = dotted.split(".")
    if first != "offbench":
        return None
    if rest[:1] == ["errors"]:
        return None
    if rest == ["__version__"]:
        return None
    return rest[0] if rest and rest[0] in ROOMS else "offbench"


@pytest.mark.parametrize("path", every_file(), ids=name_of)
def test_imports_point_down_the_table(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for dotted in imports(tree):
        target = room_of(dotted)
        assert target is None or target == room or target in ALLOWED[room], f"{room} must not import {dotted}"
        package = dotted.split(".")[0]
        allowed = {p for pattern, packages in EXCEPT.items() if path.match(pattern) for p in packages}
        assert package not in NEVER.get(room, set()) - allowed, f"{dotted} in {room}"
        assert package not in UNSAFE, f"{dotted}: no pickle is ever loaded"
        assert package not in ROOMS or package == "offbench", f"{dotted}: rooms are imported as offbench.{package}"


@pytest.mark.parametrize("name", QUICK)
def test_what_the_command_line_reads_first_is_light(name: str) -> None:
    path = ROOT / "offbench" / f"{name}.py"
    for dotted in imports(top_level(ast.parse(path.read_text(encoding="utf-8")))):
        assert dotted.split(".")[0] not in HEAVY, f"{path.name} imports {dotted} on import"
        assert room_of(dotted) in (None, "offbench"), f"{path.name} imports {dotted} on import"


def test_matplotlib_is_never_imported_on_import() -> None:
    for path in every_file():
        if name_of(path).startswith("reports/plots"):
            continue
        for dotted in imports(top_level(ast.parse(path.read_text(encoding="utf-8")))):
            assert dotted.split(".")[0] != "matplotlib", name_of(path)


@pytest.mark.parametrize("path", every_file(), ids=name_of)
def test_house_rules(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a file says in its first line what it is for"
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: no assert in product code"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert not called.startswith(("np.random.seed", "random.seed")), called
            assert called != "torch.manual_seed", "no global random state"
            for keyword in node.keywords:
                unsafe = keyword.arg == "allow_pickle" and ast.unparse(keyword.value) == "True"
                assert not unsafe, "no pickle is ever loaded"
    for word in ("TODO", "FIXME", "NotImplementedError"):
        assert word not in text, word
