"""What is wrong with a configuration, in terms of the file the user wrote: dotted path, value found, what to do."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


class Problems(ValueError):
    """Several mistakes below one key, each as (path relative to that key, message)."""

    def __init__(self, found: list[tuple[str, str]]):
        super().__init__("; ".join(f"{path}: {message}" for path, message in found))
        self.found = found


def suggest(found: object, known: Iterable[str]) -> str:
    """`did you mean 'x'?` for the nearest known name, else the known names."""
    names = sorted(known)
    near = difflib.get_close_matches(str(found), names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(names)}"


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The section classes an annotation can hold: itself, or the members of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [model for part in typing.get_args(annotation) for model in _models(part)]
    if typing.get_origin(annotation) is dict:  # sections by name
        return _models(typing.get_args(annotation)[1])
    return []


def _walk(root: type[BaseModel], path: tuple[int | str, ...]) -> tuple[list[str], list[type[BaseModel]]]:
    """`path` as the user wrote it, and the classes that the section there can have.

    Where a section has several classes, an error's path also says, by its `kind`, which of them was tried.
    """
    written, here = [], [root]
    for step in path:
        of_kind = [
            m for m in here if len(here) > 1 and "kind" in m.model_fields and m.model_fields["kind"].default == step
        ]
        if of_kind:
            here = of_kind
            continue
        written.append(str(step))
        below = [
            m for model in here if step in model.model_fields for m in _models(model.model_fields[str(step)].annotation)
        ]
        here = below or here
    return written, here


def _keys_at(root: type[BaseModel], path: tuple[int | str, ...]) -> dict[str, Any]:
    """Field name -> annotation of the section at `path`; path entries that name a union member are passed over."""
    return {name: info.annotation for model in _walk(root, path)[1] for name, info in model.model_fields.items()}


def _elsewhere(root: type[BaseModel], key: str) -> str | None:
    """The one section that does have `key`, for a key written at the wrong place."""
    homes = [
        name
        for name in root.model_fields
        if key in _keys_at(root, (name,)) and _models(root.model_fields[name].annotation)
    ]
    return homes[0] if len(homes) == 1 else None


def _line(root: type[BaseModel], error: ErrorDetails) -> Iterable[str]:
    path, kind, context = error["loc"], error["type"], error.get("ctx", {})
    dotted = ".".join(_walk(root, path)[0])
    nested = context.get("error")
    if isinstance(nested, Problems):
        yield from (f"{'.'.join(filter(None, (dotted, below)))}: {message}" for below, message in nested.found)
    elif kind == "extra_forbidden":
        key = str(path[-1])
        home = _elsewhere(root, key)
        hint = f"did you mean '{home}.{key}'?" if home and path[0] != home else suggest(key, _keys_at(root, path[:-1]))
        yield f"{dotted}: unknown key; {hint}"
    elif kind == "missing":
        yield f"{dotted}: missing; this key has no default and must be given"
    elif kind == "literal_error":
        yield f"{dotted}: {context['expected']} wanted, found {error['input']!r}"
    elif kind == "union_tag_invalid":
        wanted = " or ".join(context["expected_tags"].split(", "))
        yield f"{dotted}.kind: {wanted} wanted, found {error['input']['kind']!r}"
    elif kind == "value_error":
        yield f"{dotted}: {nested}"
    elif kind in ("model_type", "dict_type", "model_attributes_type"):
        yield f"{dotted}: a mapping of keys to values wanted, found {error['input']!r}"
    else:
        wanted = error["msg"].removeprefix("Input should be ").removeprefix("a valid ")
        yield f"{dotted}: {wanted} wanted, found {error['input']!r}"


def explain(root: type[BaseModel], error: ValidationError) -> list[str]:
    """One line per mistake in `error`, in the order of the file's sections."""
    return [line for detail in error.errors(include_url=False) for line in _line(root, detail)]
