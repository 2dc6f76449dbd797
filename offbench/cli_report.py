"""Commands that compare scores: `offbench report`, `offbench compare` and `offbench published`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from offbench.cli_output import examples, out, print_json, print_score_table, print_table, print_text, say
from offbench.cli_settings import words
from offbench.errors import SpecError, UnknownNameError

if TYPE_CHECKING:
    from offbench.reports import ReportFiles, TableRows
    from offbench.score_source import ScoreSource

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Algorithm = Annotated[str | None, typer.Option("--algorithm-column", help="The table's column of algorithms.")]
Dataset = Annotated[str | None, typer.Option("--dataset-column", help="Of datasets.")]
Seed = Annotated[str | None, typer.Option("--seed-column", help="Of seeds (training runs).")]
Score = Annotated[str | None, typer.Option("--score-column", help="Of scores.")]
Step = Annotated[str | None, typer.Option("--step-column", help="Of updates done, where rows are evaluations.")]
Episode = Annotated[str | None, typer.Option("--episode-column", help="Of episodes, where rows are episodes.")]
Scale = Annotated[float, typer.Option("--scale", help="Factor on scores: 100 for scores in 0-1.")]
Unit = Annotated[str | None, typer.Option("--unit", help="Of scores that are not normalized, e.g. 'raw return'.")]
Layout = Annotated[str | None, typer.Option("--layout", help="table, d3rlpy (log folders) or wandb (exports).")]
Missing = Annotated[bool, typer.Option("--leave-out-missing", help="Leave out rows without a score, and say so.")]
Selection = Annotated[str, typer.Option("--selection", help="Which evaluations count: last, last-k or best.")]

_CHOICES = {
    "--selection": ("last", "last-k", "best"),
    "--bold": ("not-worse", "best", "within-95", "none"),
    "--spread": ("std", "se", "interval"),
    "--method": ("calibrated", "t", "percentile", "basic", "bc", "bca"),
    "--formats": ("png", "svg", "pdf"),
    "--engine": ("offbench", "rliable"),
}


@examples(
    "offbench report runs",
    "offbench report scores.csv --algorithm-column algo --score-column final --output report",
    "offbench report scores.csv --bold within-95 --spread interval --published",
)
def report(
    source: Annotated[
        Path, typer.Argument(metavar="RUNS_OR_TABLE", help="Run folders, a CSV or Parquet table, or an earlier report.")
    ] = Path("runs"),
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", help="Where to write; by default ROOT/<study>/report, or <name>-report beside a table."
        ),
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Of a table's report; by default its name.")] = None,
    bold: Annotated[
        str, typer.Option("--bold", help="not-worse (than the best), best, within-95 or none.")
    ] = "not-worse",
    spread: Annotated[str, typer.Option("--spread", help="What follows a mean: std, se or interval.")] = "std",
    method: Annotated[
        str | None,
        typer.Option("--method", help="Of aggregates' intervals: calibrated (rliable: percentile), t, basic, bca ..."),
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", help="offbench, or rliable: aggregates by the reference itself (an extra).")
    ] = "offbench",
    reps: Annotated[int, typer.Option("--reps", min=100, help="Bootstrap replicates.")] = 50_000,
    published: Annotated[bool, typer.Option("--published", help="Set published scores beside yours.")] = False,
    formats: Annotated[str, typer.Option("--formats", help="Of figures, separated by commas.")] = "png,svg,pdf",
    selection: Selection = "last",
    severity: Annotated[
        str | None, typer.Option("--severity-column", help="How strongly data were disturbed: robustness curves.")
    ] = None,
    algorithm: Algorithm = None,
    dataset: Dataset = None,
    seed: Seed = None,
    score: Score = None,
    step: Step = None,
    episode: Episode = None,
    scale: Scale = 1.0,
    unit: Unit = None,
    layout: Layout = None,
    leave_out_missing: Missing = False,
    as_json: Json = False,
) -> None:
    """Write tables, figures, one self-contained HTML page and a JSON document about scores.

    Scores of runs are the means of their final evaluation; the seed is the unit of replication. Captions say the
    protocol, the interval method, the bold rule and what could mislead.
    """
    method = method or ("percentile" if engine == "rliable" else "calibrated")
    kinds = tuple(words(formats))
    _check(
        {
            "--bold": [bold],
            "--spread": [spread],
            "--method": [method],
            "--formats": kinds,
            "--selection": [selection],
            "--engine": [engine],
        }
    )
    options: dict[str, Any] = {
        **{"bold": bold, "spread": spread, "method": method, "engine": engine, "reps": reps},
        **{"published": published, "formats": kinds},
    }
    from offbench.score_source import kind_of

    columns = _columns(algorithm, dataset, seed, score, step, episode)
    if layout is None and not columns and severity is None and (not source.exists() or kind_of(source) == "runs"):
        from offbench.api import write_reports

        reports = write_reports(source, output, selection=selection, **options)
    else:
        from offbench.score_source import write_table_report

        opened = _open(source, columns, severity, selection, scale, unit, layout, leave_out_missing)
        files = write_table_report(opened, output, title=title, severity=severity, **options)
        reports = {title or source.name: files}
    _show_reports(reports, as_json)


def _show_reports(reports: dict[str, ReportFiles], as_json: bool) -> None:
    if as_json:
        print_json({study: files.paths for study, files in reports.items()})
        return
    for study, files in reports.items():
        say(f"{study}:", "bold")
        for notice in files.notices:
            say(f"  note: {notice.text}", "yellow")
        for path in files.paths[:4]:
            out().print(str(path), markup=False)
        for folder in sorted({path.parent for path in files.paths[4:]}):
            say(f"  and {sum(path.parent == folder for path in files.paths)} files in {folder}")


@examples(
    "offbench compare old/report new/report",
    "offbench compare TD3+BC IQL --in scores.csv",
    "offbench compare runs/study-a runs/study-b --json",
)
def compare(
    first: Annotated[str, typer.Argument(help="Run folders, a table or a report; with --in an algorithm.")],
    second: Annotated[str, typer.Argument(help="The other one.")],
    inside: Annotated[
        Path | None, typer.Option("--in", help="The table, runs or report that holds both algorithms.")
    ] = None,
    only: Annotated[str | None, typer.Option("--algorithm", help="Compare only this algorithm of two results.")] = None,
    metric: Annotated[str, typer.Option("--metric", help="iqm, mean, median or optimality_gap.")] = "iqm",
    selection: Selection = "last",
    algorithm: Algorithm = None,
    dataset: Dataset = None,
    seed: Seed = None,
    score: Score = None,
    step: Step = None,
    episode: Episode = None,
    scale: Scale = 1.0,
    unit: Unit = None,
    layout: Layout = None,
    leave_out_missing: Missing = False,
    as_json: Json = False,
) -> None:
    """Compare two results, or two algorithms of one, in plain sentences and a table of tests.

    Two results with the same algorithms are compared algorithm by algorithm, as after a change of code.
    """
    _check({"--selection": [selection]})
    from offbench.reports.two_results import compare_two, merged

    columns = _columns(algorithm, dataset, seed, score, step, episode)

    def opened(path: Path) -> ScoreSource:
        return _open(path, columns, None, selection, scale, unit, layout, leave_out_missing)

    if inside is not None:
        table, pairs = opened(inside).table, [(_one_of(first, opened(inside)), _one_of(second, opened(inside)))]
    else:
        sides = [opened(Path(name)) for name in (first, second)]
        table, pairs = merged(sides[0].table, sides[1].table, _names(first, second))
    if only is not None:
        pairs = [pair for pair in pairs if pair[0].startswith(f"{only} (")]
        if not pairs:
            raise UnknownNameError("algorithm", only, table.algorithms)
    results = [compare_two(table, one, other, metric=metric) for one, other in pairs]
    if as_json:
        print_json(
            [
                {
                    **{"first": r.first, "second": r.second, "sentences": r.sentences},
                    "datasets": r.table.records.to_dict("records"),
                    "notices": [{"code": notice.code, "text": notice.text} for notice in r.notices],
                }
                for r in results
            ]
        )
        return
    for text in dict.fromkeys(notice.text for result in results for notice in result.notices):
        say(f"note: {text}", "yellow")
    for result in results:
        _print_folded(result.table)
        for sentence in result.sentences:
            print_text(f"- {sentence}")
        print_text("")


def _one_of(name: str, source: ScoreSource) -> str:
    if name not in source.table.algorithms:
        raise UnknownNameError("algorithm", name, source.table.algorithms)
    return name


def _names(first: str, second: str) -> tuple[str, str]:
    """Short names of two paths that tell them apart."""
    one, other = Path(first), Path(second)
    if one.stem != other.stem:
        return one.stem, other.stem
    if one.parent.name != other.parent.name:
        return f"{one.parent.name}/{one.name}", f"{other.parent.name}/{other.name}"
    return ("first", "second") if first == second else (first, second)


@examples(
    "offbench published hopper-medium-v2",
    "offbench published TD3+BC --json",
    "offbench published --list",
)
def published(
    name: Annotated[str | None, typer.Argument(metavar="DATASET|ALGORITHM", help="In any spelling.")] = None,
    everything: Annotated[bool, typer.Option("--list", help="List the datasets, algorithms and sources.")] = False,
    copies: Annotated[bool, typer.Option("--copies", help="Also show numbers copied from other papers.")] = False,
    as_json: Json = False,
) -> None:
    """Print what papers and repositories report for a dataset or an algorithm, and how far they disagree.

    Sources are never pooled: they differ in settings, dataset versions and in how a checkpoint was chosen.
    """
    from offbench.analysis.published import disagreement, find, published_scores, published_sources
    from offbench.reports.published import disagreement_table, literature_table

    if name is None or everything:
        _list_published(as_json)
        return
    kind, canonical = find(name)
    rows = published_scores(**{kind: canonical})
    apart = disagreement(rows)
    if as_json:
        print_json(
            {
                kind: canonical,
                "scores": rows.to_dict("records"),
                "disagreement": apart.to_dict("records"),
                "sources": [vars(published_sources()[key]) for key in sorted(rows["source"].unique())],
            }
        )
        return
    shown = rows if copies else rows[rows["origin"] != "copy"]
    say(f"{canonical}: {len(rows)} published numbers from {rows['source'].nunique()} sources", "bold")
    _print_folded(literature_table(shown if len(shown) else rows, kind))
    if len(rows) > len(shown) > 0:
        say(f"{len(rows) - len(shown)} numbers copied from other papers are not shown (--copies shows them)")
    if len(apart):
        print_score_table(disagreement_table(apart, kind))
    for key in sorted(rows["source"].unique()):
        source = published_sources()[key]
        say(f"{key}: {source.title}{f' ({source.year})' if source.year else ''} {source.link}".rstrip())


def _print_folded(table: TableRows) -> None:
    """A table of words and numbers whose long cells are folded, and its caption."""
    rows = [[Text(cell.text, style="bold" if cell.bold else "") for cell in row] for row in table.rows]
    print_table(table.header, rows)
    print_text(f"{table.caption}\n", "dim")


def _list_published(as_json: bool) -> None:
    from offbench.analysis.published import published_scores, published_sources

    rows = published_scores()
    names = {
        "datasets": sorted(rows["dataset"].unique()),
        "algorithms": sorted(rows["algorithm"].unique(), key=str.lower),
        "sources": [vars(source) for source in published_sources().values()],
    }
    if as_json:
        print_json(names)
        return
    counts = rows["source"].value_counts()
    sources = [(s.key, s.title, s.year or "-", int(counts[s.key]), s.link or "-") for s in published_sources().values()]
    print_table(("source", "what", "year", "numbers", "link"), sources)
    print_text(f"\nalgorithms: {', '.join(names['algorithms'])}")
    print_text(f"\ndatasets: {', '.join(names['datasets'])}")


# -- options ---------------------------------------------------------------------------------------


def _check(given: dict[str, Sequence[str]]) -> None:
    for option, values in given.items():
        for value in values:
            if value not in _CHOICES[option]:
                raise UnknownNameError(f"value for {option}", value, _CHOICES[option])
        if not values:
            raise SpecError(f"{option} is empty", "", f"one or more of {', '.join(_CHOICES[option])}")


def _columns(*names: str | None) -> dict[str, str]:
    ours = ("algorithm", "dataset", "seed", "score", "step", "episode")
    return {key: name for key, name in zip(ours, names, strict=True) if name is not None}


def _open(
    path: Path,
    columns: dict[str, str],
    severity: str | None,
    selection: str,
    scale: float,
    unit: str | None,
    layout: str | None,
    leave_out: bool,
) -> ScoreSource:
    from offbench.score_source import open_scores

    options: dict[str, Any] = {"scale": scale} if scale != 1.0 else {}
    options |= {"unit": unit} if unit is not None else {}
    options |= {"layout": layout} if layout is not None else {}
    options |= {"missing": "leave-out"} if leave_out else {}
    return open_scores(path, columns=columns, severity=severity, selection=selection, **options)  # type: ignore[arg-type]
