"""Texts that no environment should mind: what `fuzz.py` throws, and how it tells garbage from an action."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

from trpd_envs import Call, parse_calls
from trpd_envs.schema import coerce

HUGE = 200_000  # characters

# Arguments that a tool might be unwise enough to run, open, count to or repeat.
HOSTILE = (
    "", " ", "\0", "\n\n", "a" * 90_000, "9" * 5_000, "-1", "1e999", "NaN", "\u0663", "/", "//", "..", "~", "C:\\",
    "../../etc/passwd", "a/b/c/d/e/f/g/h", "con.txt", "$(reboot)", "`id`", "__import__('os').getcwd()",
    "{0.__class__}", "%s%n", "<tool_call>", "</tool_call>", "<|im_end|>", "\u202e", "e\u0301" * 500,
    "\U0001f600" * 500, "\ufeff", "'", '"', "\\", "--", "SELECT 1", "SELECT 1; SELECT 2", "EXPLAIN SELECT 1",
    "SELECT * FROM sqlite_master", "PRAGMA table_list", "ATTACH 'x.db' AS x", "DROP TABLE songs",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
    "SELECT zeroblob(1000000000)", "SELECT printf('%999999999d', 1)", "SELECT load_extension('x')",
    "SELECT " + "(" * 800, "SELECT " + "x+x x FROM (SELECT " * 40 + "1 x" + ")" * 40, "SELECT '" + "a" * 1_900 + "'",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**63, 10**400, -(10**18), 0.5, 1e308, "", [], [[]], ["a", 1, None], {}, {"a": {}},
)  # fmt: skip


def _bytes(rng: Random) -> str:
    return rng.randbytes(rng.randrange(1, 400)).decode(rng.choice(["latin-1", "utf-16-le", "utf-8"]), "replace")


def _unicode(rng: Random) -> str:
    return "".join(
        chr(rng.choice((rng.randrange(0x80), rng.randrange(0x110000), rng.randrange(0xD800, 0xE000))))
        for _ in range(rng.randrange(1, 60))
    )


def _huge(rng: Random) -> str:
    piece = rng.choice(
        [
            "x",
            "9",
            "a b ",
            "\0",
            "\ud800",
            "[",
            "{",
            "<tool_call>",
            "</tool_call>",
            "<tool_call>{}</tool_call>",
            "up ",
            "\u6f22",
        ]
    )
    return piece * (HUGE // len(piece))


def _tags(rng: Random) -> str:
    pieces = [
        "<tool_call>",
        "</tool_call>",
        "{}",
        "{",
        "}",
        "[",
        '"name"',
        ":",
        '"arguments"',
        "null",
        " ",
        "x",
        "<tool_call",
    ]
    return "".join(rng.choice(pieces) for _ in range(rng.randrange(1, 30)))


def _words(rng: Random) -> str:
    return " ".join(
        rng.choice(["go", "left", "the", "A", "C", "7", "12", "submit", "no", ".", "!", "up-", "_down"])
        for _ in range(rng.randrange(6))
    )


_GARBAGE: tuple[Callable[[Random], str], ...] = (
    _bytes,
    _unicode,
    _tags,
    _words,
    lambda rng: "\0" * rng.randrange(1, 50),
    lambda rng: rng.choice("0123456789-") * 5_000,
    lambda rng: "",
    lambda rng: rng.choice([" ", "\n", "\t\r\n", "\u00a0", "\u200b"]) * rng.randrange(1, 100),
    lambda rng: "<tool_call>" + rng.choice("[{") * rng.randrange(1, 3_000) + "</tool_call>",
    lambda rng: f'<tool_call>{{"name": {json.dumps(rng.choice(HOSTILE))}, "arguments": {{}}}}</tool_call>',
)


def garbage(rng: Random) -> str:
    """A text that has nothing to do with the environment; one in 60 is 200 kB long."""
    return _huge(rng) if rng.randrange(60) == 0 else rng.choice(_GARBAGE)(rng)


def mutated(action: str, rng: Random) -> str:
    """An action with something wrong: its characters, or, in a call, its name and arguments."""
    calls = [call for call in parse_calls(action) if isinstance(call, Call)]
    if calls and rng.random() < 0.6:
        return _changed_call(calls[0], rng)
    text = list(action)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(text) + 1)
        match rng.randrange(6):
            case 0:
                text[at : at + rng.randrange(1, 4)] = []
            case 1:
                text.insert(at, chr(rng.choice((rng.randrange(32, 127), rng.randrange(0x300), 0, 0xD800))))
            case 2:
                text[at:at] = text[: rng.randrange(len(text) + 1)]
            case 3:
                text[at:] = []
            case 4:
                text = list("".join(text).swapcase())
            case 5:
                text = [*text, "\n", *text]
    return "".join(text)


def _changed_call(call: Call, rng: Random) -> str:
    name, arguments = call.name, dict(call.arguments)
    keys = list(arguments)
    match rng.randrange(6):
        case 0:
            name = rng.choice(
                [name.upper(), name + "x", "", "__init__", "step", "finish", "expert", rng.choice(HOSTILE)]
            )
        case 1 if keys:
            del arguments[rng.choice(keys)]
        case 2:
            arguments[rng.choice(["self", "x", "", "table ", "__class__"])] = rng.choice(_VALUES)
        case 3 if keys:
            arguments[rng.choice(keys)] = rng.choice(_VALUES)
        case 4 if keys:
            key = rng.choice(keys)
            arguments[key] = mutated(str(arguments[key]), rng)
        case _ if keys:
            arguments[rng.choice(keys)] = rng.choice(HOSTILE)
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def is_action(text: str, tools: list[dict[str, Any]], legal: list[str]) -> bool:
    """Whether a well-formed action can be found in `text`.

    With tools, that is a call of one of them whose arguments fit its schema; whether it is a wise one is the
    environment's business. Without, it is the words of a legal action, one after the other; a number may stand for
    another one, because not all may be listed.
    """
    if tools:
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
        return any(
            isinstance(call, Call) and call.name in schemas and _fits(call, schemas[call.name])
            for call in parse_calls(text)
        )
    said = _signs(text)
    for action in legal:
        wanted = _signs(action)
        if any(said[i : i + len(wanted)] == wanted for i in range(len(said) - len(wanted) + 1)):
            return True
        if "".join(said) == "".join(wanted):  # whether there are spaces between is a matter of taste
            return True
    return False


def _fits(call: Call, parameters: dict[str, Any]) -> bool:
    if not set(parameters["required"]) <= set(call.arguments) <= set(parameters["properties"]):
        return False
    try:
        for name, value in call.arguments.items():
            coerce(value, parameters["properties"][name])
    except ValueError:
        return False
    return True


def _signs(text: str) -> list[str]:
    """The words of a text in small letters, those that are numbers of ordinary length as so many #."""
    words = re.findall(r"\w+", text.lower())
    return ["#" * len(str(int(word))) if re.fullmatch(r"[0-9]{1,12}", word) else word for word in words]
