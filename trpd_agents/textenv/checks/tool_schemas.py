"""Tools as a model is told of them: JSON Schema, in the subset that chat templates and our own tool layer use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from trpd_agents.textenv.checks.actions import function_of, kinds_of, properties_of
from trpd_agents.textenv.checks.finding import Finding, error, ok, skipped, warning
from trpd_agents.textenv.checks.probe import WATCHED, Probe
from trpd_envs.calls import Call, parse_calls
from trpd_envs.schema import coerce

_KINDS = ("string", "integer", "number", "boolean", "array", "object", "null")
_PYTHON: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_WHY = (
    "Chat templates and servers read the schema, and a model calls what it describes: what is wrong in it fails later."
)
_FIX = (
    'Describe a tool as {"type": "function", "function": {"name", "description", "parameters": {"type": "object", '
    '"properties": {...}, "required": [...]}}}, or derive from trpd_envs.ToolEnv, which writes it from type hints.'
)


def tools(probe: Probe) -> Iterator[Finding]:
    """Every tool's schema is valid, described, and fits the expert's calls."""
    with probe.made() as env:
        env.reset(0)
        listed = env.tools
    if not listed:
        yield skipped("there are no tools")
        return
    names = [function_of(tool).get("name") for tool in listed]
    faults = [fault for tool in listed for fault in _faults(tool)]
    faults += [
        f"two tools are named {name!r}" for name in {n for n in names if isinstance(n, str) and names.count(n) > 1}
    ]
    if faults:
        yield error("; ".join(faults[:6]) + (f"; and {len(faults) - 6} more" if len(faults) > 6 else ""), _WHY, _FIX)
        return
    mute = [name for tool, name in zip(listed, names, strict=True) if not function_of(tool).get("description")]
    if mute:
        yield warning(
            f"{', '.join(map(str, mute))}: no description",
            "A model can only guess from the name what the tool does.",
            "Give each tool a description; with ToolEnv, the first line of its docstring.",
        )
    misfits = list(_misfits(probe, {str(function_of(tool)["name"]): tool for tool in listed}))
    if misfits:
        yield warning(
            f"the expert's call does not fit its schema: {misfits[0]}",
            "A model that follows the schema cannot do what the expert does.",
            "Bring schema and expert() into line.",
        )
    if not (mute or misfits):
        yield ok(f"{len(listed)} schemas are valid")


def _faults(tool: dict[str, Any]) -> Iterator[str]:
    function = function_of(tool)
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield f"the name {name!r:.60} of a tool is not 1 to 64 letters, digits, '_', '-' or '.'"
    if "function" in tool and tool.get("type", "function") != "function":
        yield f'{name}: its "type" is {tool["type"]!r:.40}, not "function"'
    if not isinstance(function.get("description", ""), str):
        yield f"{name}: its description is not a string"
    parameters = function.get("parameters", {"type": "object", "properties": {}})
    if not isinstance(parameters, dict) or parameters.get("type") != "object":
        yield f'{name}: its parameters are not a schema with "type": "object"'
        return
    properties, required = parameters.get("properties", {}), parameters.get("required", [])
    if not isinstance(properties, dict):
        yield f"{name}: its properties are not a mapping from names to schemas"
        return
    if not isinstance(required, list) or not all(isinstance(one, str) for one in required):
        yield f"{name}: `required` is not a list of names"
    else:
        yield from (
            f"{name}: {one!r} is required, but is not among its properties" for one in required if one not in properties
        )
    for argument, schema in properties.items():
        yield from _schema_faults(f"{name}: {argument!r}", schema)


def _schema_faults(where: str, schema: Any) -> Iterator[str]:
    if not isinstance(schema, dict):
        yield f"{where} has no schema"
        return
    if any(key in schema for key in ("anyOf", "oneOf", "allOf", "$ref", "const")):
        return  # valid JSON Schema, beyond the subset: nothing is said about it
    kinds = kinds_of(schema)
    unknown = [kind for kind in kinds if kind not in _KINDS]
    if unknown:
        yield f"{where} has the type {unknown[0]!r}, which JSON Schema does not know; wanted one of {', '.join(_KINDS)}"
    elif not kinds and "enum" not in schema:
        yield f"{where} has no type"
    choices = schema.get("enum")
    if choices is not None and (not isinstance(choices, list) or not choices):
        yield f"{where} has an enum that is not a list of choices"
    elif choices and kinds and not unknown:
        yield from (f"{where} offers {one!r}, which is not of its type" for one in choices if not _is_of(one, kinds))
    if "items" in schema:
        yield from _schema_faults(f"{where}, its items", schema["items"])
    inner = schema.get("properties", {})
    for key, value in inner.items() if isinstance(inner, dict) else ():
        yield from _schema_faults(f"{where}, its {key!r}", value)


def _is_of(value: Any, kinds: list[str]) -> bool:
    if value is None or isinstance(value, bool):
        return ("null" if value is None else "boolean") in kinds
    return any(isinstance(value, _PYTHON[kind]) for kind in kinds if kind in _PYTHON and kind != "boolean")


def _misfits(probe: Probe, by_name: dict[str, dict[str, Any]]) -> Iterator[str]:
    for seed in probe.within(WATCHED):
        with probe.made() as env:
            env.reset(seed)
            said = env.expert() or ""
        for call in parse_calls(said):
            if not isinstance(call, Call):
                continue
            if call.name not in by_name:
                yield f"no tool is named {call.name!r}"
                continue
            properties = properties_of(by_name[call.name])
            required = function_of(by_name[call.name]).get("parameters", {}).get("required", [])
            yield from (f"{call.name} needs {name!r}" for name in required if name not in call.arguments)
            for name, value in call.arguments.items():
                if name not in properties:
                    yield f"{call.name} has no argument {name!r}"
                elif properties[name].get("type") in ("string", "integer", "number", "boolean"):
                    try:
                        coerce(value, properties[name])
                    except ValueError as problem:
                        yield f"{call.name}: {name!r} {problem}"
