"""Reading suites: YAML as people write it, and errors that name the place and the nearest known key."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from offbench.errors import OffbenchError, SpecError


@contextlib.contextmanager
def at(place: str) -> Iterator[None]:
    """Put the place in the suite in front of the errors of a block."""
    try:
        yield
    except OffbenchError as error:
        error.what = f"{place}: {error.what}"
        error.args = (error.what, *error.args[1:])
        raise


def require_known(place: str, values: Mapping[str, Any], known: list[str]) -> None:
    """Raise SpecError with the nearest known key for a key of `values` that is not known."""
    for key in values:
        if key not in known:
            raise _unknown_key(f"{place}.{key}", key, known)


def _unknown_key(place: str, key: str, known: list[str]) -> SpecError:
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    why = f"did you mean {near[0]!r}?" if near else ""
    return SpecError(f"{place}: unknown key {key!r}", why, f"known: {', '.join(known)}")


def explain(error: ValidationError, root: type[BaseModel]) -> SpecError:
    """A pydantic error of the model `root` as ours: the first problem in full, the others by name."""
    problems = [_problem(detail, root) for detail in error.errors(include_url=False)]
    first = problems[0]
    if len(problems) == 1:
        return first
    others = "; ".join(problem.what for problem in problems[1:4])
    return SpecError(first.what, f"{first.why}; also: {others}".lstrip("; "), first.fix)


def _problem(detail: Any, root: type[BaseModel]) -> SpecError:
    place = _place(detail["loc"])
    if detail["type"] == "extra_forbidden":
        return _unknown_key(place, str(detail["loc"][-1]), list(_model_at(root, detail["loc"][:-1]).model_fields))
    if detail["type"] == "missing":
        return SpecError(f"{place}: this key is missing")
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    shown = repr(detail["input"])
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return SpecError(f"{place}: {shown}: {message}")


def _place(location: tuple[str | int, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "suite"


def _model_at(root: type[BaseModel], location: tuple[str | int, ...]) -> type[BaseModel]:
    """The model whose fields are allowed at a location inside a root model."""
    model = root
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            found = _inner_model(model.model_fields[part].annotation)
            model = found or model
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is not None:
        return next((found for arg in get_args(annotation) if (found := _inner_model(arg))), None)
    return None


class Loader(yaml.SafeLoader):
    """YAML with numbers like 3e-4 (plain PyYAML reads a string) and no duplicate keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                line = node.start_mark.line + 1
                raise SpecError(f"key {key!r} appears twice in the mapping that starts in line {line}")
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
