"""Tool calls as a person writes them, `go room="north hall" steps=2`, and schemas as a person reads them.

Invariant: a line becomes exactly the call that a model would have to write, or a `ValueError` that says what is wrong.
Whether the call is wise is the environment's business.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from trpd_agents.textenv.checks.actions import function_of, kinds_of, properties_of
from trpd_agents.textenv.spec import did_you_mean
from trpd_envs.calls import format_call


def parse_call(line: str, tools: Sequence[dict[str, Any]]) -> str:
    """The text of the call that `NAME ARG=VALUE ...` means.

    Values are read as the tool's schema has them: texts as they are (in quotes where they have spaces), numbers and
    true or false as such, anything else as JSON. Raises ValueError.
    """
    by_name = {str(function_of(tool).get("name")): tool for tool in tools}
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise ValueError(f"{error}; put a value with spaces or quotes in it into quotes") from None
    if not words:
        raise ValueError(f"which tool? {', '.join(by_name) or 'There are none here'}")
    name, *given = words
    if name not in by_name:
        raise ValueError(
            f"no tool is named {name!r}; there are: {', '.join(by_name) or 'none'}.{did_you_mean(name, by_name)}"
        )
    properties = properties_of(by_name[name])
    arguments: dict[str, Any] = {}
    for word in given:
        key, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is not ARG=VALUE; {name} takes: {', '.join(properties) or 'nothing'}")
        if key not in properties:
            known = ", ".join(properties) or "no arguments"
            raise ValueError(f"{name} has no argument {key!r}; it takes: {known}.{did_you_mean(key, properties)}")
        arguments[key] = _value(f"{name}: {key}", text, properties[key])
    return format_call(name, **arguments)


def describe_tool(tool: dict[str, Any]) -> str:
    """A tool in a few lines: `go room=... [steps=...]`, what it does, and each argument with its type."""
    function, properties = function_of(tool), properties_of(tool)
    parameters = function.get("parameters")
    required = parameters.get("required", []) if isinstance(parameters, dict) else []
    shown = [f"{name}=..." if name in required else f"[{name}=...]" for name in properties]
    lines = [" ".join([str(function.get("name")), *shown])]
    if function.get("description"):
        lines.append(f"    {function['description']}")
    for name, schema in properties.items():
        told = f": {schema['description']}" if schema.get("description") else ""
        lines.append(f"    {name} ({_kind(schema)}){told}")
    return "\n".join(lines)


def _kind(schema: dict[str, Any]) -> str:
    if isinstance(schema.get("enum"), list):
        return " | ".join(json.dumps(choice, ensure_ascii=False) for choice in schema["enum"])
    if "array" in kinds_of(schema) and isinstance(schema.get("items"), dict):
        return f"list of {_kind(schema['items'])}"
    return " or ".join(kinds_of(schema)) or "anything"


def _value(where: str, text: str, schema: dict[str, Any]) -> Any:
    kinds = kinds_of(schema)
    if text == "null" and "null" in kinds:
        return None
    if "string" in kinds or not kinds and not text.startswith(("{", "[", '"')):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{where}={text!r:.60}: wanted {_kind(schema)}") from None
    fits = {
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "boolean": isinstance(value, bool),
        "array": isinstance(value, list),
        "object": isinstance(value, dict),
    }
    if kinds and not any(fits.get(kind, False) for kind in kinds):
        raise ValueError(f"{where}={text!r:.60}: wanted {_kind(schema)}")
    return value
