"""Dataset cards: one self-contained HTML page and the same in Markdown, written to a folder."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from offbench import __version__
from offbench.datasets import Dataset, DatasetEntry
from offbench.datasets.lint import Finding, LintReport
from offbench.errors import StorageError
from offbench.reports.card_facts import Card, Grid, Pairs, card_of
from offbench.reports.card_histogram import histogram

RETURNS, LENGTHS = "return of an episode", "steps of an episode"


@dataclass(frozen=True)
class CardFiles:
    """The files of a written card."""

    html: Path
    markdown: Path
    pictures: tuple[Path, ...]


def write_card(
    dataset: Dataset,
    folder: str | Path,
    *,
    entry: DatasetEntry | None = None,
    report: LintReport | None = None,
    call: str | None = None,
) -> CardFiles:
    """Write card.html (alone is enough), card.md and its two pictures to `folder`; existing ones are replaced.

    Args:
        dataset: the dataset.
        folder: made if it is not there.
        entry: what the catalogue knows (`offbench.datasets.find_entry`): licence, citation, address, caveats.
        report: of the lint; made here if it is not given.
        call: Python that loads the dataset, to be shown.

    Raises:
        StorageError: the folder or a file cannot be written.
    """
    card = card_of(dataset, entry=entry, report=report, call=call)
    folder = Path(folder)
    pictures = {
        "returns.svg": histogram(card.returns, RETURNS, standalone=True),
        "lengths.svg": histogram(card.lengths, LENGTHS, standalone=True),
    }
    texts = {"card.html": to_html(card), "card.md": to_markdown(card), **pictures}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise StorageError(
            f"cannot write the card to {folder}", str(error), "choose another folder with --output"
        ) from error
    return CardFiles(folder / "card.html", folder / "card.md", tuple(folder / name for name in pictures))


def to_html(card: Card, template: str = "card.html.j2", **facts: Any) -> str:
    """The card as one HTML page that loads nothing from anywhere.

    Args:
        template: a page that extends the card's. facts: what it shows besides.
    """
    folder = resources.files("offbench.reports").joinpath("templates")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        **facts,
        card=card,
        verdict=verdict(card.report),
        rows_of=rows_of,
        returns=Markup(histogram(card.returns, RETURNS)),
        lengths=Markup(histogram(card.lengths, LENGTHS)),
        version=__version__,
    )


def to_markdown(card: Card) -> str:
    """The card in Markdown, with pictures returns.svg and lengths.svg beside it."""
    lines = [f"# {card.name}", ""]
    if card.description:
        lines += [card.description, ""]
    lines += [f"**Lint:** {verdict(card.report)}", ""]
    lines += _pairs([*card.identity, *(pair for pair in card.headline if pair[0] in ("transitions", "episodes"))])
    lines += ["```python", "import offbench", "", card.usage, "```", ""]
    lines += ["## Episodes", "", *_grid(card.episodes)]
    lines += [f"![{RETURNS}](returns.svg) ![{LENGTHS}](lengths.svg)", ""]
    lines += ["## How episodes end", "", *_pairs(card.ends)]
    lines += ["## Scores", "", *_pairs(card.scores)]
    if card.caveats:
        lines += ["Caveats:", "", *(f"- {_escape(text)}" for text in card.caveats), ""]
    lines += ["## Findings", ""]
    lines += _grid(_findings(card.report)) if card.report.findings else ["The lint found nothing.", ""]
    lines += ["## Observations", "", *_grid(card.observations), "## Actions", "", *_grid(card.actions)]
    lines += ["## Origin", "", *_pairs(card.origin)]
    if card.transforms.rows:
        lines += ["Transforms, in this order:", "", *_grid(card.transforms)]
    lines += ["## Licence and citation", "", *_pairs(card.rights)]
    lines += [f"Made with offbench {__version__}.", ""]
    return "\n".join(lines)


def verdict(report: LintReport) -> str:
    """The lint's result in a few words: "2 errors, 1 note" or "nothing found"."""
    counts = [(report.count(severity), severity) for severity in ("error", "warning", "note")]
    words = [f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count]
    return ", ".join(words) if words else "nothing found"


def rows_of(finding: Finding) -> str:
    """Where a finding is: "rows 3, 8 of 12; episodes 0, 1"."""
    parts = []
    if finding.rows:
        more = f", … ({finding.count:,})" if finding.count > len(finding.rows) else ""
        parts.append(f"row{'s' if len(finding.rows) > 1 else ''} {', '.join(map(str, finding.rows))}{more}")
    if finding.episodes:
        parts.append(f"episode{'s' if len(finding.episodes) > 1 else ''} {', '.join(map(str, finding.episodes))}")
    return "; ".join(parts)


def _findings(report: LintReport) -> Grid:
    rows = [
        (
            finding.severity,
            f"`{finding.check}`",
            finding.message,
            rows_of(finding),
            finding.fix if finding.severity != "note" else "",
        )
        for finding in report.findings
    ]
    return Grid(("severity", "check", "finding", "where", "fix"), rows, "Rows and episodes are counted from 0.")


def _pairs(pairs: Pairs) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {_escape(name)} | {_escape(text)} |" for name, text in pairs), ""]


def _grid(grid: Grid) -> list[str]:
    lines = [f"| {' | '.join(map(_escape, grid.header))} |", f"|{'---|' * len(grid.header)}"]
    lines += [f"| {' | '.join(map(_escape, row))} |" for row in grid.rows]
    return [*lines, "", *([grid.caption, ""] if grid.caption else [])]


def _escape(text: str) -> str:
    """Text inside a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
