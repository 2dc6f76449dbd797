"""The command `offbench quality`: measures of datasets, as a table, JSON, Parquet and the plane of TQ and SACo."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offbench.cli_data import build_datasets
from offbench.cli_output import err, examples, out, print_json, print_table, print_text, say, show
from offbench.errors import DatasetError, SpecError, StorageError

if TYPE_CHECKING:
    from offbench.analysis.quality import QualityReference, QualityTable
    from offbench.datasets import Dataset

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


@examples(
    "offbench quality cartpole/random cartpole/replay cartpole/expert",
    "offbench quality hopper/medium --measures tq,saco,saturation,saco_projected",
    "offbench quality mine.hdf5 --reference replay.hdf5 --json",
    "offbench quality --list",
)
def quality(
    datasets: Annotated[list[str] | None, typer.Argument(help="Ids, files or Minari folders of one task.")] = None,
    measures: Annotated[
        str | None, typer.Option("--measures", "-m", help="Names, separated by commas; by default all.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="D_ref of SACo; by default the replay data of the same family.")
    ] = None,
    random: Annotated[
        str | None, typer.Option("--random", help="Data whose mean return gets TQ 0; by default FAMILY/random.")
    ] = None,
    minimum: Annotated[float | None, typer.Option("--minimum", help="Return that gets TQ 0.")] = None,
    maximum: Annotated[float | None, typer.Option("--maximum", help="Return that gets TQ 1.")] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="paper, paper-own-bounds or paper-continuous; by default what fits."),
    ] = None,
    edges: Annotated[int | None, typer.Option("--edges", min=2, help="Edges of the bins, if not the preset's.")] = None,
    bounds: Annotated[
        str | None, typer.Option("--bounds", help="Of the bins: reference, own or pooled, if not the preset's.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for JSON, Parquet and the picture.")
    ] = None,
    list_measures: Annotated[bool, typer.Option("--list", help="List the measures and exit.")] = False,
    as_json: Json = False,
) -> None:
    """Measure what is in datasets: how good it is (TQ), how much it covers (SACo), and more.

    TQ and SACo follow Schweighofer et al. 2022 and their code. Both need a reference: built-in and D4RL datasets have
    one of their own; give yours for others. Measures that lack something say so.
    """
    if list_measures:
        _list(as_json)
        return
    if not datasets:
        raise SpecError("no dataset is given", "", "e.g. offbench quality cartpole/random cartpole/replay")
    from offbench.analysis.quality import measure_datasets
    from offbench.analysis.quality_registry import select_measures

    names = None if measures is None else [name.strip() for name in measures.split(",") if name.strip()]
    select_measures(names)  # a wrong name is found before anything is built
    known: dict[str, Dataset] = {}
    chosen = [_load(name, known) for name in dict.fromkeys(datasets)]
    against = _reference(chosen, datasets[0], known, reference, random, minimum, maximum)
    settings = _settings(chosen[0], preset, edges, bounds)
    with err().status("measuring") as status:
        table = measure_datasets(
            chosen,
            measures=names,
            reference=against,
            settings=settings,
            progress=lambda dataset, title: status.update(f"measuring {dataset}: {title}"),
        )
    files = [] if output is None else _write(table, output)
    if as_json:
        print_json({**table.to_json(), "files": files})
        return
    _show(table)
    for path in files:
        say(str(path))


# --- Helpers ---


def _load(name: str, known: dict[str, Dataset]) -> Dataset:
    """The dataset of an id or path, once; built-in ones are built first."""
    if name not in known:
        from offbench.datasets import load_dataset

        build_datasets([name])
        known[name] = load_dataset(name)
    return known[name]


def _reference(
    chosen: Sequence[Dataset],
    first: str,
    known: dict[str, Dataset],
    reference: str | None,
    random: str | None,
    minimum: float | None,
    maximum: float | None,
) -> QualityReference:
    from offbench.analysis.quality import paper_reference

    environments = {dataset.environment for dataset in chosen}
    if len(environments) > 1:
        raise SpecError(
            f"the datasets are of {len(environments)} environments: {', '.join(sorted(map(str, environments)))}",
            "they would need a reference each",
            "measure the datasets of one environment at a time",
        )
    replay_id, random_id = _usual(first)
    replay = _load(reference, known) if reference else None
    if replay is None and replay_id is not None:
        try:
            replay = _load(replay_id, known)
        except DatasetError as error:  # nobody asked for it: what needs no reference is measured all the same
            say(f"no reference for SACo: {error.what}; give --reference", "yellow")
    lowest = None
    if random or (random_id and minimum is None):
        lowest = _load(random or str(random_id), known)
    against = paper_reference(replay=replay, random=lowest)
    scores = next((dataset.reference for dataset in chosen if dataset.reference is not None), None)
    if against.minimum is None and scores is not None:
        against.minimum, against.minimum_source = scores.minimum, scores.source
    if against.maximum is None and scores is not None:
        against.maximum, against.maximum_source = scores.maximum, scores.source
    if minimum is not None:
        against.minimum, against.minimum_source = minimum, "given"
    if maximum is not None:
        against.maximum, against.maximum_source = maximum, "given"
    return against


def _usual(name: str) -> tuple[str | None, str | None]:
    """Ids of the replay and the random data that belong to a built-in or D4RL dataset, where there are any."""
    from offbench.datasets.recipe_table import RECIPES
    from offbench.datasets.references import d4rl_entries

    family = name.partition("/")[0]
    if name in RECIPES:
        replay = next((id for scheme in ("replay", "medium-replay") if (id := f"{family}/{scheme}") in RECIPES), None)
        return replay, f"{family}/random" if f"{family}/random" in RECIPES else None
    if name in d4rl_entries():
        task, _, version = name.partition("-")[0], "", name.rpartition("-")[2]
        replay = f"{task}-medium-replay-{version}"
        return (replay if replay in d4rl_entries() else None), None
    return None, None


def _settings(dataset: Dataset, preset: str | None, edges: int | None, bounds: str | None) -> Any:
    from dataclasses import replace

    from offbench.analysis.quality_settings import get_preset, preset_for

    name = preset or preset_for(dataset.environment, dataset.discrete)
    settings = get_preset(name)
    given: dict[str, Any] = {"edges": edges, "bounds": bounds}
    changes = {key: value for key, value in given.items() if value is not None}
    return replace(settings, **changes) if changes else name


def _list(as_json: bool) -> None:
    from offbench.analysis.quality_registry import measures

    table = measures().values()
    if as_json:
        keys = ("name", "title", "formula", "source", "reference", "cost", "meaning")
        print_json([{key: getattr(measure, key) for key in keys} for measure in table])
        return
    print_table(("measure", "a large value says"), [(measure.name, measure.meaning) for measure in table])
    say("formula, source, reference and cost of each: --json, or the page about dataset quality")


def _write(table: QualityTable, folder: Path) -> list[Path]:
    from offbench.cli_output import jsonable
    from offbench.reports.plots_quality import quality_plane
    from offbench.storage import write_json

    frame = table.to_frame()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / "quality.json", folder / "quality.parquet"]
        write_json(files[0], jsonable(table.to_json()))
        frame.to_parquet(files[1], index=False)
        if {"tq", "saco"} <= set(frame.columns):
            points = {row["dataset"]: (row["tq"], row["saco"]) for row in frame.to_dict("records")}
            plot = quality_plane(
                points, settings=f"reference {table.reference['dataset']}, {table.settings.edges} edges per column"
            )
            for format in ("png", "svg") if plot is not None else ():
                files.append(folder / f"tq_saco.{format}")
                files[-1].write_bytes(plot.render(format))  # type: ignore[union-attr]
    except OSError as error:
        raise StorageError(f"cannot write to {folder}", str(error), "choose another folder") from error
    return files


def _bins_words(table: QualityTable) -> str:
    extremes = {"own": "each dataset", "pooled": "all datasets", "reference": table.reference["dataset"]}
    preset = f"preset {table.preset}: " if table.preset != "custom" else ""
    return f"{preset}{table.settings.edges} edges between the extremes of {extremes[table.settings.bounds]}"


def _show(table: QualityTable) -> None:
    """Measures as rows, datasets as columns; as many columns at once as the window has room for."""
    from offbench.reports.plots_quality import short_names

    title, labels = short_names([row.name for row in table.datasets])
    sizes = [("transitions", [row.transitions for row in table.datasets])]
    sizes += [("episodes", [row.episodes for row in table.datasets])]
    lines = [(name, [show(count) for count in counts]) for name, counts in sizes]
    lines += [(m.title, [_number(row.values[m.name]) for row in table.datasets]) for m in table.measures]
    head = max(len(name) for name, _ in lines) + 2
    width = max(9, *(len(label) for label in labels)) + 2
    room = max(1, (shutil.get_terminal_size().columns - head) // width)
    for start in range(0, len(labels), room):
        part = slice(start, start + room)
        print_table((title, *labels[part]), [(name, *cells[part]) for name, cells in lines], numbers=True)
        if start + room < len(labels):
            out().print()
    _explain(table)


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 100 else f"{value:.3f}" if size >= 0.0005 or size == 0 else f"{value:.0e}"


def _explain(table: QualityTable) -> None:
    """What the numbers refer to, and why some are missing."""
    lines = []
    reference, settings = table.reference, table.settings
    if reference["minimum"] is not None and reference["maximum"] is not None:
        lines.append(f"TQ 0: {reference['minimum']:.6g} ({reference['minimum_source']})")
        lines.append(f"TQ 1: {reference['maximum']:.6g} ({reference['maximum_source']})")
    if reference["dataset"] is not None:
        lines.append(f"SACo 1: {reference['dataset']}; {_bins_words(table)}")
    if settings.first_rows is not None:
        lines.append(f"cells are counted in the first {settings.first_rows:,} transitions")
    error = max(row.error for row in table.datasets)
    if error:
        lines.append(f"counts are estimates with a relative standard error of {100 * error:.2g} %")
    missing: dict[str, list[str]] = {}
    for measure in table.measures:
        for reason in dict.fromkeys(r.reasons[measure.name] for r in table.datasets if measure.name in r.reasons):
            missing.setdefault(reason, []).append(measure.title)
    lines += [f"- : {', '.join(titles)}: {reason}" for reason, titles in missing.items()]
    full = [row.name for row in table.datasets if row.values.get("saturation", 0.0) > 0.9]
    if full:
        lines.append(
            f"nearly every row of {', '.join(full)} has a cell of its own: counts are bounded by the number of "
            "rows there, and differences of SACo understate those of coverage; see 'SACo, projected'"
        )
    for line in lines:
        print_text(line, "dim")
