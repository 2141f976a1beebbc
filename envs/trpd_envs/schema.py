"""From a typed Python method to a JSON-schema function, and from a model's JSON arguments to checked Python ones.

Invariant: the schema shown to the model is the very one its arguments are checked against.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from trpd_envs.base import Refused

_SCALARS: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}
_NOUNS = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_SHOWN = 40  # characters of a model's own word that an observation repeats
_ARGUMENT = re.compile(r"(\w+)\s*(?:\([^)]*\))?:\s*(.*)")


@dataclass(frozen=True)
class Function:
    """One tool: the function to run, and what a model is told about it."""

    name: str
    run: Callable[..., str]
    description: str
    properties: dict[str, dict[str, Any]]
    required: list[str]

    def schema(self) -> dict[str, Any]:
        """The function in the OpenAI format that chat templates read."""
        parameters = {"type": "object", "properties": self.properties, "required": self.required}
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": parameters},
        }

    def bind(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments for `run`. Raises `Refused` for a missing, unknown or wrongly typed argument."""
        for name in arguments:
            if name not in self.properties:
                raise Refused(f"{self.name} has no argument {quote(name)}.{suggest(name, list(self.properties))}")
        for name in self.required:
            if name not in arguments:
                raise Refused(f'{self.name} needs "{name}".')
        return {name: self._checked(name, value) for name, value in arguments.items()}

    def _checked(self, name: str, value: Any) -> Any:
        try:
            return coerce(value, self.properties[name])
        except ValueError as error:
            raise Refused(f'{self.name}: "{name}" {error}.') from None


def describe_function(method: Callable[..., str]) -> Function:
    """Read a method's signature, hints and docstring. TypeError names the argument that no schema can describe."""
    where = method.__qualname__
    try:
        hints = get_type_hints(method)
    except NameError as error:
        raise TypeError(f"@tool {where}: a type hint cannot be resolved ({error}); define it in the module") from error
    described = _argument_texts(inspect.getdoc(method) or "")
    properties: dict[str, dict[str, Any]] = {}
    required = []
    for parameter in list(inspect.signature(method).parameters.values())[1:]:  # without self
        name = parameter.name
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"@tool {where}: argument {name!r} cannot be passed by name; write plain arguments")
        if name not in hints:
            raise TypeError(f"@tool {where}: argument {name!r} has no type hint; write one, such as `{name}: str`")
        try:
            properties[name] = hint_schema(hints[name])
        except TypeError as error:
            raise TypeError(f"@tool {where}: argument {name!r}: {error}") from None
        if name in described:
            properties[name]["description"] = described[name]
        if parameter.default is parameter.empty:
            required.append(name)
    description = (inspect.getdoc(method) or "").partition("\n")[0].strip()
    return Function(method.__name__, method, description, properties, required)


def hint_schema(hint: Any) -> dict[str, Any]:
    """JSON schema of str, int, float, bool, list[...], Literal[...] or one of these with None. Else TypeError."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is None and isinstance(hint, type) and hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if origin is list:
        return {"type": "array", "items": hint_schema(args[0])}
    if origin is Literal and len(kinds := {type(a) for a in args}) == 1 and kinds <= {str, int, bool}:
        return {"type": _SCALARS[kinds.pop()], "enum": list(args)}
    if origin in (Union, types.UnionType) and type(None) in args and len(args) == 2:
        schema = hint_schema(next(a for a in args if a is not type(None)))
        schema["type"] = [schema["type"], "null"]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
        return schema
    raise TypeError(
        f"the hint {hint!r} has no schema here; "
        "use str, int, float, bool, list[...] of these, Literal[...] of one type, or one of them with None"
    )


def coerce(value: Any, schema: dict[str, Any]) -> Any:
    """`value` as the schema wants it (an integer becomes a float for "number"). ValueError says what must be."""
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    found = _kind(value)
    if found == "null" and "null" in kinds:
        return None
    kind = kinds[0]
    if kind == "number" and found == "integer":
        try:
            return float(value)
        except OverflowError:
            raise ValueError("must be a number of ordinary size") from None
    if found != kind:
        raise ValueError(f"must be {_NOUNS[kind]}, not {_NOUNS[found]}")
    if "enum" in schema and value not in schema["enum"]:
        raise ValueError(f"must be one of {', '.join(map(str, schema['enum']))}")
    if kind == "array":
        return [coerce(item, schema["items"]) for item in value]
    return value


def quote(text: str) -> str:
    """A model's own word for use in an observation: short, ASCII, and unable to form a special token such as a tag."""
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    return json.dumps(shown).replace("<", "\\u003c")


def suggest(word: str, known: list[str]) -> str:
    """` Did you mean "go"?`, or nothing when no known name is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f' Did you mean "{near[0]}"?' if near else ""


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return _SCALARS.get(type(value)) or ("array" if isinstance(value, list) else "object")


def _argument_texts(doc: str) -> dict[str, str]:
    """Descriptions under `Args:` in a Google-style docstring; a deeper indented line continues the one before."""
    lines = iter(doc.splitlines())
    for line in lines:
        if line.strip() in ("Args:", "Arguments:"):
            break
    texts: dict[str, str] = {}
    indent = None
    current = None
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if not line.strip() or depth == 0:
            break
        indent = depth if indent is None else indent
        match = _ARGUMENT.match(line.strip()) if depth == indent else None
        if match:
            current = match[1]
            texts[current] = match[2]
        elif current is not None:
            texts[current] = f"{texts[current]} {line.strip()}".strip()
    return texts
