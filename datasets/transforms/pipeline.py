"""Transforms from text or mappings, as suites and the command line write them, and their application in order."""

from __future__ import annotations

import ast
import dataclasses
import re
import typing
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from offbench.datasets.transforms.base import Transform
from offbench.datasets.transforms.registry import get_transform
from offbench.errors import OffbenchError, SpecError

if TYPE_CHECKING:
    from offbench.datasets.dataset import Dataset

_WORDS = {"true": True, "false": False, "none": None, "null": None}
# What may stand without quotes: names, ids and relative paths such as hopper/expert or logs/run-1.hdf5.
_BARE = re.compile(r"[\w.][\w./:+-]*")


def apply_transforms(dataset: Dataset, transforms: Iterable[Transform | str | Mapping[str, Any]]) -> Dataset:
    """Apply transforms in order.

    Args:
        dataset: the data.
        transforms: each a `Transform`, a text "corrupt(target=rewards, rate=0.3)" or a mapping
            {"corrupt": {"target": "rewards", "rate": 0.3}}.

    Raises:
        SpecError, UnknownNameError: a transform or parameter is not known or wrong; all are read before one is applied.
        DatasetError, IncompatibleError: a transform does not apply; the message names it.
    """
    for transform in [parse_transform(entry) for entry in transforms]:
        try:
            dataset = transform.apply(dataset)
        except OffbenchError as error:
            error.what = f"{transform.name}: {error.what}".replace(f"{transform.name}: {transform.name}: ", "", 1)
            error.args = (error.what, *error.args[1:])
            raise
    return dataset


def parse_transform(entry: Transform | str | Mapping[str, Any]) -> Transform:
    """The transform that a text or mapping describes; see `apply_transforms` for the forms.

    Raises:
        SpecError: the text cannot be read, a parameter is unknown, missing, or has a wrong value.
        UnknownNameError: there is no transform of that name.
    """
    if isinstance(entry, Transform):
        return entry
    name, parameters = transform_call(entry)
    return _build(get_transform(name), parameters)


def transform_call(entry: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the parameters that a text or mapping gives, not checked against the transform."""
    if isinstance(entry, str):
        return _read_call(entry)
    if len(entry) != 1:
        raise SpecError(
            f"a transform is a mapping with one key, its name; this has {len(entry)}: {dict(entry)}",
            "",
            "write each transform as its own list item, e.g. `- corrupt: {target: rewards, rate: 0.3}`",
        )
    ((name, parameters),) = entry.items()
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, Mapping):
        raise SpecError(f"the parameters of {name} are {parameters!r}", "", "give a mapping of names to values")
    return str(name), {str(key): value for key, value in parameters.items()}


def describe_transform(transform: Transform, *, seed: bool = True) -> str:
    """The transform as the text that `parse_transform` reads, without parameters that have their default."""
    shown = []
    for field in dataclasses.fields(transform):
        value = getattr(transform, field.name)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        same = type(value) is type(default) and value == default if not hasattr(value, "shape") else False
        if not same and (seed or field.name != "seed"):
            shown.append(f"{field.name}={_written(transform.parameters.get(field.name, value))}")
    return f"{transform.name}({', '.join(shown)})" if shown else transform.name


def _written(value: Any) -> str:
    if isinstance(value, str):
        return value if _BARE.fullmatch(value) and value not in _WORDS else repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_written(entry) for entry in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_written(key)}: {_written(entry)}' for key, entry in value.items())}}}"
    return str(value).lower() if value is None or isinstance(value, bool) else repr(value)


def _read_call(text: str) -> tuple[str, dict[str, Any]]:
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if isinstance(call, ast.Name):
            return call.id, {}
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise SyntaxError("it is not NAME(parameter=value, ...)")
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise SyntaxError("parameters are given by name")
        return call.func.id, {str(word.arg): _value(word.value, text.strip()) for word in call.keywords}
    except (SyntaxError, ValueError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise SpecError(
            f"cannot read the transform {text!r}",
            str(reason),
            "write e.g. 'corrupt(target=rewards, rate=0.3)'; a value with more than letters, digits and . / : - + _ "
            "stands in quotes",
        ) from None


def _value(node: ast.expr, text: str) -> Any:
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(entry, text) for entry in node.elts]
    if isinstance(node, ast.Dict):
        keys = [key for key in node.keys if key is not None]
        return {_value(key, text): _value(entry, text) for key, entry in zip(keys, node.values, strict=True)}
    if isinstance(node, ast.Name):
        return _WORDS.get(node.id, node.id) if node.id.islower() else node.id
    try:
        return ast.literal_eval(node)
    except ValueError:
        pass
    source = ast.get_source_segment(text, node) or ""
    if not _BARE.fullmatch(source):
        raise ValueError(f"{source!r} is not a plain value")
    return source


def _build(kind: type[Transform], parameters: Mapping[str, Any]) -> Transform:
    """Make a transform, its values converted to the annotated types."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in parameters:
        if key not in fields:
            near = get_close_matches(key, fields, n=1, cutoff=0.5)
            why = f"did you mean {near[0]!r}?" if near else ""
            raise SpecError(f"{kind.name}: unknown parameter {key!r}", why, f"known: {', '.join(fields) or 'none'}")
    values: dict[str, Any] = {}
    hints = typing.get_type_hints(kind)
    for key, value in parameters.items():
        adapter: TypeAdapter[Any] = TypeAdapter(hints[key], config=ConfigDict(arbitrary_types_allowed=True))
        try:
            values[key] = adapter.validate_python(value)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]["msg"].removeprefix("Input ")
            raise SpecError(f"{kind.name}: {key} = {value!r}: {problem}") from None
    missing = [
        name
        for name, field in fields.items()
        if name not in values and field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise SpecError(f"{kind.name} needs {' and '.join(missing)}", "", f"write {kind.name}({missing[0]}=...)")
    return kind(**values)
