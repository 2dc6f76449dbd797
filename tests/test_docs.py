"""The documentation: commands parse, links lead somewhere, Python blocks run, every suite key is explained."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import parse

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def command_lines() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for body in blocks(page, "bash"):
            lines = body.replace("\\\n", " ").splitlines()
            found += [(page.name, line.strip()) for line in lines if line.strip().startswith("offbench ")]
    for page in PAGES:  # commands in running text, where they are complete enough to have a verb and no placeholder
        text = BLOCK.sub("", page.read_text(encoding="utf-8"))
        spans = re.findall(r"`(offbench [a-z][^`]*)`", text)
        found += [(page.name, span) for span in spans if not re.search(r"\b[A-Z]{2,}\b|\.\.\.", span)]
    return found


def python_blocks(*, but: str = " ") -> list[object]:
    """One test case per block of Python; `but` leaves a page out."""
    return [
        pytest.param(body, id=f"{page.name}-{index}")
        for page in PAGES
        if not page.name.startswith(but)
        for index, body in enumerate(blocks(page, "python"))
    ]


def run(code: str, folder: Path, cache: Path, **environment: str) -> str:
    file = folder / "example.py"
    file.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(file)],
        cwd=folder,
        env={**os.environ, "OFFBENCH_CACHE": str(cache), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_commands_parse(page: str, line: str) -> None:
    parse(line)


def test_there_are_commands_to_check() -> None:
    assert len(command_lines()) > 15
    assert len(python_blocks()) >= 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, link


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for body in blocks(page, "bash"):
            for target in re.findall(r"^make (\w+)", body, re.MULTILINE):
                assert f"\n{target}:" in makefile, f"{page.name}: make {target}"


@pytest.mark.parametrize("code", python_blocks())
def test_python_blocks_compile(code: str) -> None:
    compile(code, "example", "exec")


@pytest.mark.slow
@pytest.mark.parametrize("code", python_blocks(but="adding_an_algorithm"))
def test_python_blocks_run(code: str, tmp_path: Path, cache: Path) -> None:
    code = re.sub(r"(updates\"?[=:] ?)[\d_]+", r"\g<1>40", code)  # the same code, for a moment instead of minutes
    code = code.replace('"final_episodes": 20', '"final_episodes": 2')
    code = code.replace("updates=40,", "updates=40, final_episodes=2,", 1 if "final_episodes" not in code else 0)
    run(code, tmp_path, cache)


@pytest.mark.slow
def test_the_algorithm_of_the_guide_is_a_plug_in(tmp_path: Path, cache: Path) -> None:
    (code,) = blocks(ROOT / "docs" / "adding_an_algorithm.md", "python")
    (entry,) = blocks(ROOT / "docs" / "adding_an_algorithm.md", "toml")
    (name, value) = re.findall(r'^(\w+) = "(.+)"$', entry, re.MULTILINE)[0]
    site = tmp_path / "site"
    (site / "my_package").mkdir(parents=True)
    (site / "my_package" / "__init__.py").write_text("")
    (site / "my_package" / "huber_bc.py").write_text(code)
    info = site / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[offbench.algorithms]\n{name} = {value}\n")
    use = (
        "import offbench\n"
        "trained = offbench.train('huber_bc', 'pendulum/random', seeds=2, updates=40, batch_size=32,\n"
        "                         final_episodes=2, config={'hidden': [16, 16]})\n"
        "print(len(trained.summary.finished), set(trained.results['algorithm']))\n"
    )
    assert run(use, tmp_path, cache, PYTHONPATH=str(site)) == "2 {'huber_bc'}\n"


def test_the_suite_of_the_guide_is_valid_and_every_key_is_explained(tmp_path: Path) -> None:
    from offbench.algorithms.batches import Preprocessing
    from offbench.suite import AlgorithmRef, DatasetRef, Protocol, Suite

    page = ROOT / "docs" / "suites.md"
    file = tmp_path / "suite.yaml"
    (body,) = blocks(page, "yaml")
    file.write_text(body)
    assert Suite.from_yaml(file).name == "my-study"
    text = page.read_text(encoding="utf-8")
    explained = set(re.findall(r"`(\w+)`", "\n".join(line for line in text.splitlines() if line.startswith("| `"))))
    for model in (Suite, DatasetRef, AlgorithmRef, Protocol):
        assert set(model.model_fields) <= explained, model.__name__
    assert set(Preprocessing.__dataclass_fields__) <= explained


def test_packaged_suites_are_valid() -> None:
    from offbench.api import load_suite, packaged_suites

    assert {"demo", "smoke", "locomotion_v4"} <= packaged_suites().keys()
    for name in packaged_suites():
        assert load_suite(name).name == name
