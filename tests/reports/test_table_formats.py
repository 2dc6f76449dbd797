"""Renderings of tables: LaTeX checked by a small strict parser, HTML by a parser, Markdown and CSV by their cells."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offbench.analysis import ScoreTable
from offbench.reports import dataset_table, to_html, to_latex, to_markdown
from offbench.reports.table_formats import frame_to_csv, latex_text
from offbench.reports.tables import Cell, TableRows

NAMES = ["TD3+BC", r"a_b & 50% $x$ #1 ~^{}\ <q>|"]


def table(names: list[str] = NAMES, datasets: tuple[str, ...] = ("hopper-medium-v2", "walker2d_x")) -> ScoreTable:
    rows = [
        (name, dataset, seed, -1.5 + 30 * i + seed)
        for i, name in enumerate(names)
        for dataset in datasets
        for seed in range(3)
    ]
    return ScoreTable.from_frame(pd.DataFrame(rows, columns=["algorithm", "dataset", "seed", "score"]))


# -- LaTeX -----------------------------------------------------------------------------------------

COMMANDS = {
    *("begin", "end", "centering", "small", "scriptsize", "setlength", "tabcolsep", "caption", "label", "toprule"),
    *("midrule", "bottomrule", "multicolumn", "textbf", "boldmath", "pm", "times", "geq", "leq", "rightarrow", "surd"),
    *("textbackslash", "textasciicircum", "textasciitilde", "textless", "textgreater", "textbar", "qquad"),
}
TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|%[^\n]*|[{}$&#_^~]|\n\n|.", re.DOTALL)


def parse_latex(text: str) -> list[list[str]]:
    """Rows of the one tabular; fails on what LaTeX would stumble over."""
    depth, math, environments, rows, row, cell, inside = 0, False, [], [], [], "", False
    for token in TOKEN.findall(text):
        if token.startswith("%"):
            continue
        name = token[1:] if token.startswith("\\") and len(token) > 1 else ""
        if name.isalpha():
            assert name in COMMANDS, f"unknown command {token}"
            if name in ("pm", "times", "geq", "leq", "rightarrow", "surd"):
                assert math, f"{token} outside mathematics"
        if token in ("#", "_", "^"):
            raise AssertionError(f"unescaped {token}")
        if token == "&":
            assert inside, "& outside a table"
        depth += {"{": 1, "}": -1}.get(token, 0)
        assert depth >= 0, "a brace too many"
        math ^= token == "$"
        assert ord(max(token)) < 128 or token.isalpha(), f"{token!r} is no letter and not ASCII"
        if token == "\\\\":
            assert inside
            assert not math
            assert depth == 0
            rows.append([*row, cell])
            row, cell = [], ""
        elif token == "&":
            row, cell = [*row, cell], ""
        else:
            cell += token
        if cell.endswith("\\begin{tabular}"):
            inside, cell = True, ""
        environments += re.findall(r"\\begin\{(\w+)\}$", cell)
        if re.search(r"\\end\{tabular\}$", cell):
            inside = False
    assert (depth, math) == (0, False)
    assert text.count("\\begin{") == text.count("\\end{") == 2
    return rows


def columns_of(text: str) -> int:
    alignment = re.search(r"\\begin\{tabular\}\{@\{\}(.*?)@\{\}\}\n", text)
    assert alignment
    return len(re.sub(r"@\{\\qquad\}", "", alignment[1]))


@pytest.mark.parametrize("spread", ["std", "se", "interval"])
def test_latex_is_well_formed(spread: str) -> None:
    text = to_latex(dataset_table(table(), spread=spread, averages=True))  # type: ignore[arg-type]
    rows = parse_latex(text)
    assert {len(row) for row in rows} == {columns_of(text)} == {3}
    assert len(rows) == 4  # header, two datasets, their average
    for needed in ("\\toprule", "\\bottomrule", "\\label{tab:scores}", "\\usepackage{booktabs}"):
        assert text.count(needed) == 1
    assert text.count("\\midrule") == 2  # under the header, above the average
    assert "\\textbf{\\boldmath 29.5" in text
    assert "$-$0.5" in text


def test_latex_of_many_algorithms_sets_averages_apart() -> None:
    names = [f"method {i}" for i in range(8)]
    text = to_latex(dataset_table(table(names), averages=True))
    assert {len(row) for row in parse_latex(text)} == {columns_of(text)} == {4}
    assert "@{\\qquad}r@{}}" in text


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_any_ascii_name_survives_latex(name: str) -> None:
    rows = TableRows(["dataset", "a"], [[Cell(name), Cell("1.0", value=1.0)]], name, pd.DataFrame())
    assert len(parse_latex(to_latex(rows))) == 2


def test_latex_characters() -> None:
    assert latex_text("50% ± ≥ –") == r"50\% $\pm$ $\geq$ --"
    assert to_latex(TableRows([], [], "Nothing: 5 %.", pd.DataFrame())).startswith("% ")


# -- HTML, Markdown, CSV ---------------------------------------------------------------------------


class Cells(HTMLParser):
    """Texts of all cells."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.bold: list[str] = []
        self.tag = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.tag = tag

    def handle_data(self, data: str) -> None:
        if self.tag in ("td", "th", "strong") and self.rows and data.strip():
            self.rows[-1][-1] += data
            if self.tag == "strong":
                self.bold.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.tag = ""


def test_html_and_markdown_hold_the_same_cells() -> None:
    rows = dataset_table(table(), averages=True)
    parser = Cells()
    parser.feed(to_html(rows))
    assert parser.rows == [rows.header, *([cell.text for cell in row] for row in rows.rows)]
    assert parser.bold == [cell.text for row in rows.rows for cell in row if cell.bold]
    lines = to_markdown(rows).splitlines()
    assert len({len(line.replace("\\|", "!")) for line in lines[:3]}) <= 2
    assert lines[1].count("-:") == 2
    assert sum(line.count("**") for line in lines) == 2 * len(parser.bold)


def test_csv_numbers_survive_a_round_trip() -> None:
    frame = pd.DataFrame({"a": [0.1 + 0.2, float("nan"), 3.0], "b": ['say "x", y', "é", ""]})
    text = frame_to_csv(frame)
    assert text.splitlines()[1] == '0.30000000000000004,"say ""x"", y"'
    assert text.splitlines()[2:] == [",é", "3,"]
