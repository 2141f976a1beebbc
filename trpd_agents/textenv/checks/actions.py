"""Actions to try an environment with: calls that fit its tools' schemas, and texts that no environment should trust."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from trpd_envs.calls import format_call

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"

# Label and text. None of them is a sensible action in any environment.
GARBAGE: dict[str, str] = {
    "nothing": "",
    "white space": " \n\t ",
    "a greeting": "hello",
    "NUL characters": "[1] go north\n\x00",
    "lone surrogates": "\ud800 \udfff",
    "a right-to-left override and other controls": "\u202e\x1b[2J\x07\r\x7f",
    "letters of several scripts": "é 漢 \U0001f600 {}",
    "200 kB of one letter": "a" * 200_000,
    "200 kB of lines": "go\n" * 66_000,
    "5,000 digits": "9" * 5_000,
    "a minus and 5,000 digits": "-" + "1" * 5_000,
    "10,000 opening brackets": "[" * 10_000,
    "numbers that are none": "nan inf -inf 1e999 0x10 ٣",
    "a format string": "%s %n {0} {__class__} ${x}",
    "an unbalanced quotation": "\"'`\\",
    "a tag that is not closed": f'{_OPEN}{{"name": "look"',
    "a tag that was not opened": _CLOSE,
    "tags in the wrong order": f"{_CLOSE}{{}}{_OPEN}",
    "nested tags": f"{_OPEN}{_OPEN}{{}}{_CLOSE}{_CLOSE}",
    "a call that is not JSON": f"{_OPEN}look around{_CLOSE}",
    "a call that is a list": f'{_OPEN}["look"]{_CLOSE}',
    "a call of nothing": f"{_OPEN}{{}}{_CLOSE}",
    "a call with deep JSON": f"{_OPEN}{'[' * 5_000}{_CLOSE}",
    "a call of NaN": f'{_OPEN}{{"name": "look", "arguments": {{"x": NaN}}}}{_CLOSE}',
}
MOST_TOOLS = 12  # of which wrong calls are tried


def function_of(tool: dict[str, Any]) -> dict[str, Any]:
    """The function that a tool describes, in the OpenAI format or bare."""
    found = tool.get("function", tool)
    return found if isinstance(found, dict) else {}


def properties_of(tool: dict[str, Any]) -> dict[str, Any]:
    """The schemas of a tool's arguments, as far as it has well-formed ones."""
    parameters = function_of(tool).get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    if not isinstance(properties, dict):
        return {}
    return {name: schema for name, schema in properties.items() if isinstance(schema, dict)}


def wrong_calls(tools: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Well-formed calls that fit none of the tools, by label: unknown names, and arguments that do not exist or have
    the wrong type."""
    if not tools:
        return {}
    found = {"a call of a tool that does not exist": format_call("no_such_tool_here", x=1)}
    for tool in tools[:MOST_TOOLS]:
        name = str(function_of(tool).get("name", "look"))
        found[f"{name} with an argument that does not exist"] = format_call(name, no_such_argument=1)
        wrong = {key: _wrong(schema) for key, schema in properties_of(tool).items()}
        if wrong:
            found[f"{name} with arguments of the wrong type"] = format_call(name, **wrong)
            found[f"{name} with lists of lists"] = format_call(name, **dict.fromkeys(wrong, [[[]]]))
    return found


def random_call(tools: Sequence[dict[str, Any]], observation: str, rng: Random) -> str:
    """A call that fits its schema. Words for its texts are taken from the observation: there names are found."""
    tool = rng.choice(list(tools))
    words = [word.strip(".,:;!?\"'()[]") for word in observation.split()] or ["hello"]
    arguments = {name: _value(schema, words, rng) for name, schema in properties_of(tool).items()}
    return format_call(str(function_of(tool).get("name", "look")), **arguments)


def kinds_of(schema: dict[str, Any]) -> list[str]:
    """The JSON types that a schema names."""
    named = schema.get("type", [])
    return [named] if isinstance(named, str) else [kind for kind in named if isinstance(kind, str)]


def _value(schema: dict[str, Any], words: Sequence[str], rng: Random) -> Any:
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return rng.choice(schema["enum"])
    kind = next(iter(kinds_of(schema)), "string")
    if kind == "array":
        items = schema.get("items")
        return [_value(items if isinstance(items, dict) else {}, words, rng) for _ in range(rng.randrange(3))]
    values: dict[str, Any] = {
        "integer": rng.randrange(-2, 10),
        "number": rng.randrange(-20, 100) / 10,
        "boolean": rng.random() < 0.5,
        "object": {},
        "null": None,
    }
    return values[kind] if kind in values else rng.choice(list(words))


def _wrong(schema: dict[str, Any]) -> Any:
    return "wrong" if "object" in kinds_of(schema) else {"wrong": True}
