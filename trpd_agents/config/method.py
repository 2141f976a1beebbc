"""The `credit` section: a preset's name and what is changed in it, resolved to a `CreditConfig`.

A change is merged key by key into the preset. Changing the `kind` of a part drops the preset's other settings of that
part, because they belong to another kind: the rest then comes from the new kind's own defaults. A part may be given by
the name of its kind alone (`gate: soft`).
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError, model_serializer, model_validator

from trpd_agents.config.problems import Problems, suggest
from trpd_agents.config.sections import Name, Section
from trpd_agents.credit import config as credit
from trpd_agents.credit.presets import PRESETS


class MethodConfig(Section):
    """`preset` names where the method started; `method` is the whole of it, as credit assignment takes it."""

    preset: Name
    method: credit.CreditConfig = Field(exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or isinstance(data.get("method"), credit.CreditConfig):
            return data
        preset = data.get("preset")
        if preset is None:
            raise Problems([("preset", f"missing; {suggest('', PRESETS)}")])
        if not isinstance(preset, str) or preset not in PRESETS:
            raise Problems([("preset", f"no method is called {preset!r}; {suggest(preset, PRESETS)}")])
        changes = {key: value for key, value in data.items() if key != "preset"}
        return {"preset": preset, "method": resolve(PRESETS[preset].config, changes)}

    @model_serializer
    def _in_full(self) -> dict[str, Any]:
        return {"preset": self.preset, **dataclasses.asdict(self.method)}


def resolve(preset: credit.CreditConfig, changes: Mapping[str, Any]) -> credit.CreditConfig:
    """`preset` with `changes` merged in. Raises `Problems` naming every key or value that does not fit."""
    problems: list[tuple[str, str]] = []
    fields = {field.name: getattr(preset, field.name) for field in dataclasses.fields(preset)}
    for key, change in changes.items():
        if key not in fields:
            problems.append((key, f"unknown key; {suggest(key, ['preset', *fields])}"))
        else:
            fields[key] = _change_part(key, fields[key], change, problems)
    if not problems:
        try:
            return credit.CreditConfig(**fields)
        except ValueError as error:
            problems.append(("", str(error)))
    raise Problems(problems)


def _change_part(name: str, part: Any, change: Any, problems: list[tuple[str, str]]) -> Any:
    """`part` with the settings in `change`, or `part` as it was and an entry in `problems`."""
    kinds = credit.KINDS[name]
    if isinstance(change, str):
        change = {"kind": change}
    if not isinstance(change, Mapping):
        problems.append((name, f"a mapping of settings wanted, found {change!r}"))
        return part
    target, settings = type(part), {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    if "kind" in change:
        kind = change["kind"]
        if not isinstance(kind, str) or kind not in kinds:
            problems.append((f"{name}.kind", f"no {name} is called {kind!r}; {suggest(kind, kinds)}"))
            return part
        if kinds[kind] is not target:
            target, settings = kinds[kind], {}
    hints = typing.get_type_hints(target)
    known = [field.name for field in dataclasses.fields(target)]
    before = len(problems)
    for key, value in change.items():
        if key not in known:
            problems.append((f"{name}.{key}", f"unknown key; {suggest(key, known)}"))
        else:
            settings[key] = _checked(f"{name}.{key}", value, hints[key], problems)
    if len(problems) == before:
        try:
            return target(**settings)
        except (ValueError, TypeError) as error:
            problems.append((name, str(error)))
    return part


def _checked(path: str, value: Any, hint: Any, problems: list[tuple[str, str]]) -> Any:
    try:
        return TypeAdapter(hint).validate_python(tuple(value) if isinstance(value, list) else value, strict=True)
    except ValidationError as error:
        wanted = " or ".join(dict.fromkeys(detail["msg"].removeprefix("Input should be ") for detail in error.errors()))
        problems.append((path, f"{wanted} wanted, found {value!r}"))
        return value
