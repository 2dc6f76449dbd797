"""Renderings of a table: aligned Markdown, LaTeX (booktabs), CSV of the unrounded numbers, HTML."""

from __future__ import annotations

import csv
import html
import io
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from offbench.reports.tables import Cell, TableRows
from offbench.reports.words import MISSING

# -- Markdown --------------------------------------------------------------------------------------


def to_markdown(rows: TableRows) -> str:
    """A Markdown table whose columns are aligned, so that it also reads well in a terminal, and its caption."""
    if not rows.rows:
        return f"{rows.caption}\n"
    lines = [[_escape(text) for text in rows.header]]
    lines += [[f"**{_escape(c.text)}**" if c.bold else _escape(c.text) for c in row] for row in rows.rows]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(rows.header))]
    right = set_right(rows)

    def row(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (w + 1) + ":" if r else "-" * (w + 2) for w, r in zip(widths, right, strict=True))
    return "\n".join([row(lines[0]), f"|{rule}|", *map(row, lines[1:]), "", rows.caption]) + "\n"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("\n", " ")


def set_right(rows: TableRows) -> list[bool]:
    """Which columns are numbers, and therefore set right: those where a cell has a value, and never the first."""
    return [
        column > 0 and (any(_numeric(row[column]) for row in rows.rows) or _all_missing(rows, column))
        for column in range(len(rows.header))
    ]


def _numeric(cell: Cell) -> bool:
    return math.isfinite(cell.value)


def _all_missing(rows: TableRows, column: int) -> bool:
    return all(row[column].text == MISSING for row in rows.rows)


# -- LaTeX -----------------------------------------------------------------------------------------

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "→": r"$\rightarrow$",
    "√": r"$\surd$",
    "−": r"$-$",
    "–": "--",
    "“": "``",
    "”": "''",
    "’": "'",
    "\u00a0": "~",
    "\n": " ",
}


def latex_text(text: str) -> str:
    """Text with every character that LaTeX treats specially escaped; letters beyond ASCII need UTF-8 (the default)."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex_number(text: str) -> str:
    """A printed number with a true minus sign."""
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", latex_text(text))


def to_latex(rows: TableRows, *, label: str = "tab:scores") -> str:
    """A `table` environment for a paper; needs only `\\usepackage{booktabs}`. Long tables are set small.

    Averages are set apart by a rule. A table without rows is its caption as a comment.
    """
    if not rows.rows:
        return f"% {rows.caption}\n"
    right = set_right(rows)
    alignment = "".join("r" if r else "l" for r in right)
    if rows.average_columns:
        cut = len(alignment) - rows.average_columns
        alignment = f"{alignment[:cut]}@{{\\qquad}}{alignment[cut:]}"
    header = [
        rf"\multicolumn{{1}}{{c}}{{{latex_text(t)}}}" if r else latex_text(t)
        for t, r in zip(rows.header, right, strict=True)
    ]
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}[t]",
        "  \\centering",
        "  \\small" if len(rows.header) <= 6 else "  \\scriptsize\\setlength{\\tabcolsep}{3pt}",
        f"  \\caption{{{latex_text(rows.caption)}}}",
        f"  \\label{{{label}}}",
        f"  \\begin{{tabular}}{{@{{}}{alignment}@{{}}}}",
        "    \\toprule",
        f"    {' & '.join(header)} \\\\",
        "    \\midrule",
    ]
    for index, row in enumerate(rows.rows):
        if rows.average_rows and index == len(rows.rows) - rows.average_rows:
            lines.append("    \\midrule")
        cells = [_latex_cell(cell, r) for cell, r in zip(row, right, strict=True)]
        lines.append(f"    {' & '.join(cells)} \\\\")
    return "\n".join([*lines, "    \\bottomrule", "  \\end{tabular}", "\\end{table}"]) + "\n"


def _latex_cell(cell: Cell, right: bool) -> str:
    text = latex_number(cell.text) if right else latex_text(cell.text)
    # \boldmath makes the plus-minus and minus signs as heavy as the digits
    return rf"\textbf{{\boldmath {text}}}" if cell.bold else text


# -- HTML ------------------------------------------------------------------------------------------


def to_html(rows: TableRows) -> str:
    """A plain `<table>` with its caption, to be put into any page."""
    if not rows.rows:
        return f"<p>{html.escape(rows.caption)}</p>\n"
    head = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in rows.header)
    right = set_right(rows)
    lines = ["<table>", f"<caption>{html.escape(rows.caption)}</caption>", f"<thead><tr>{head}</tr></thead>", "<tbody>"]
    for row in rows.rows:
        cells = []
        for cell, numeric in zip(row, right, strict=True):
            text = html.escape(cell.text)
            text = f"<strong>{text}</strong>" if cell.bold else text
            cells.append(f'<td style="text-align:right">{text}</td>' if numeric else f"<td>{text}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</tbody>", "</table>"]) + "\n"


# -- CSV -------------------------------------------------------------------------------------------


def to_csv(rows: TableRows) -> str:
    """The unrounded numbers behind the table, one cell per line."""
    return frame_to_csv(rows.records)


def frame_to_csv(frame: pd.DataFrame) -> str:
    """CSV with "\\n" line ends and shortest round-trip floats; NaN and None become empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(frame.columns)
    for row in frame.itertuples(index=False):
        writer.writerow(["" if pd.isna(value) else _plain(value) for value in row])
    return out.getvalue()


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value
