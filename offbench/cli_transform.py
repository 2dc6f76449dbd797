"""Commands that change datasets: `offbench data transform` and `offbench data transforms`."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offbench.cli_data import Json
from offbench.cli_data_fetch import data_app
from offbench.cli_data_files import Environment, Schema, load_named, target_format, write_target
from offbench.cli_output import examples, out, print_json, print_table, say
from offbench.errors import SpecError

if TYPE_CHECKING:
    from offbench.datasets import Dataset
    from offbench.datasets.transforms import Transform

Transforms = Annotated[
    list[str] | None,
    typer.Option(
        "--transform", "-t", metavar="TEXT", help="E.g. 'corrupt(target=rewards, rate=0.3)'; may be repeated, in order."
    ),
]


@data_app.command("transform")
@examples(
    'offbench data transform hopper/medium -t "corrupt(target=rewards)" -o new.hdf5',
    'offbench data transform cartpole/mixed -t "subsample(fraction=0.1)" -o small-v0',
    "offbench data transform my_logs.hdf5 --pipeline transforms.yaml -o out.parquet",
)
def data_transform(
    dataset: Annotated[str, typer.Argument(help="An id, a file or a Minari folder.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="NAME.hdf5, NAME.parquet, or the folder NAME-v0 of a Minari dataset.")
    ],
    transforms: Transforms = None,
    pipeline: Annotated[
        Path | None, typer.Option("--pipeline", help="A YAML list of transforms, applied before those of -t.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="minari, d4rl or parquet; by default from the output's name.")
    ] = None,
    environment: Environment = None,
    schema: Schema = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: Json = False,
) -> None:
    """Corrupt, reweight, filter, mix or relabel a dataset, and write the result with its provenance.

    `offbench data transforms` lists what there is and what each takes. The rows that changed are stored with the data
    (infos "touched/..."), so that nothing about a transformed dataset has to be remembered. Suites and `offbench train`
    take the same texts and need no file.
    """
    from offbench.datasets.transforms import apply_transforms, parse_transform

    steps = [parse_transform(entry) for entry in [*_read_pipeline(pipeline), *(transforms or [])]]
    if not steps:
        raise SpecError("no transform was given", "", "e.g. -t 'corrupt(target=rewards, rate=0.3)'")
    kind = target_format(output, to)
    before, _ = load_named(dataset, environment, schema)
    after = apply_transforms(before, steps)
    path = write_target(after, output, kind, overwrite)
    records = after.provenance.transforms[len(before.provenance.transforms) :]
    if as_json:
        applied = [{"name": r.name, "parameters": dict(r.parameters), "seed": r.seed} for r in records]
        print_json({"path": path, "format": kind, "transforms": applied, "touched": _touched(after), **_sizes(after)})
        return
    for record in records:
        shown = ", ".join(f"{key} {value}" for key, value in record.parameters.items() if value is not None)
        say(f"{record.name}: {shown}" + ("" if record.seed is None else f", seed {record.seed}"))
    for column, count in _touched(after).items():
        say(f"touched {count:,} of {len(after):,} rows of {column}")
    say(f"{len(before):,} -> {len(after):,} transitions, {before.num_episodes:,} -> {after.num_episodes:,} episodes")
    out().print(str(path), markup=False)


@data_app.command("transforms")
@examples(
    "offbench data transforms",
    "offbench data transforms corrupt",
)
def data_transforms(
    name: Annotated[str | None, typer.Argument(help="Show the parameters of this one.")] = None,
    as_json: Json = False,
) -> None:
    """List the transforms, or show what one of them takes.

    They are written NAME(parameter=value, ...) on the command line and in suites. Other packages add transforms
    through the entry-point group `offbench.transforms`.
    """
    from offbench.datasets.transforms import get_transform, transform_names

    if name is None:
        found = [(each, get_transform(each).summary) for each in transform_names()]
        if as_json:
            print_json([{"name": each, "summary": summary} for each, summary in found])
            return
        print_table(("transform", "what it does"), found)
        say("parameters: offbench data transforms NAME")
        return
    kind = get_transform(name)
    described = _parameters(kind)
    if as_json:
        print_json({"name": kind.name, "summary": kind.summary, "parameters": described})
        return
    out().print(f"{kind.name}: {kind.summary}", markup=False)
    documentation = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:")[0]
    out().print(f"\n{documentation.strip()}\n", markup=False)
    if described:
        print_table(
            ("parameter", "values", "default", "meaning"),
            [(row["name"], row["values"], row["default"], row["meaning"]) for row in described],
        )


def _parameters(kind: type[Transform]) -> list[dict[str, Any]]:
    """Name, values, default and meaning of each parameter; meanings are those of the class's docstring."""
    meanings = _meanings(kind)
    hints = typing.get_type_hints(kind)
    rows = []
    for field in dataclasses.fields(kind):
        default: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        required = default is dataclasses.MISSING
        rows.append(
            {
                "name": field.name,
                "values": _values(hints[field.name]),
                "default": "required" if required else default,
                "meaning": meanings.get(field.name, ""),
            }
        )
    return rows


def _values(hint: Any) -> str:
    """A type as people write its values: the words of a Literal, or the name of the type."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(map(str, arguments))
    if arguments and typing.get_origin(hint) in (tuple, list):
        return f"list of {_values(arguments[0])}"
    if arguments:
        shown = dict.fromkeys(_values(part) for part in arguments if part is not type(None) and part is not Ellipsis)
        return " or ".join(shown)
    return {"str": "text", "int": "integer", "float": "number", "bool": "true, false"}.get(
        getattr(hint, "__name__", str(hint)), getattr(hint, "__name__", str(hint))
    )


def _meanings(kind: type[Transform]) -> dict[str, str]:
    """What the docstrings of a transform and its bases say under "Attributes:"."""
    found: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2]
        for names, text in re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {8,}.*)*)", section, re.MULTILINE):
            for each in names.split(","):
                found[each.strip()] = " ".join(text.split())
    return found


def _read_pipeline(path: Path | None) -> list[Any]:
    """The transforms of a YAML file: a list, or a mapping with the one key `transforms`."""
    if path is None:
        return []
    import yaml

    from offbench.storage import storage_errors
    from offbench.suite_reading import Loader

    with storage_errors("read", path):
        text = path.read_text(encoding="utf-8")
    try:
        content = yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise SpecError(f"{path} is not valid YAML", str(error)) from None
    if isinstance(content, dict) and list(content) == ["transforms"]:
        content = content["transforms"]
    if not isinstance(content, list):
        raise SpecError(f"{path} holds no list of transforms", "", "write `- corrupt: {target: rewards, rate: 0.3}`")
    return content


def _touched(dataset: Dataset) -> dict[str, int]:
    from offbench.datasets.transforms.base import TOUCHED

    return {
        name.removeprefix(TOUCHED): int(mask.astype(bool).sum())
        for name, mask in dataset.infos.items()
        if name.startswith(TOUCHED)
    }


def _sizes(dataset: Dataset) -> dict[str, Any]:
    return {
        "transitions": dataset.num_transitions,
        "episodes": dataset.num_episodes,
        "fingerprint": dataset.fingerprint,
    }
