"""Tool calls as text: the Hermes grammar, `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`.

Invariant: `parse_calls` turns any string into calls and reasons, and never raises; text is only ever decoded as JSON,
never evaluated. `parse_calls(format_call(name, **arguments))` gives the call back.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

MAX_TEXT = 100_000  # characters; more than any sensible action, and it bounds the time of a parse

_TAG = re.compile(r"(</?tool_call>)")
_OPEN = "<tool_call>"
_CLOSE = "</tool_call>"


@dataclass(frozen=True)
class Call:
    """A well-formed call. Whether the tool exists and takes these arguments is the environment's business."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class BadCall:
    """An attempt at a call that is not one: `reason` says why in a few words, `text` is what stood between the tags."""

    reason: str
    text: str


def format_call(name: str, /, **arguments: Any) -> str:
    """The text of one call, spaced exactly as `<tool_call>{"name": "go", "arguments": {"room": "hall"}}</tool_call>`.

    Raises ValueError for what JSON or UTF-8 cannot carry (NaN, lone surrogates), TypeError for other objects.
    """
    payload = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False, allow_nan=False)
    payload.encode()  # a lone surrogate raises UnicodeEncodeError (a ValueError) here, not in some tokenizer
    if _TAG.search(payload):
        # `<` occurs only inside JSON strings, where the escape means the same.
        payload = payload.replace("<", "\\u003c")
    return f"{_OPEN}{payload}{_CLOSE}"


def parse_calls(text: str) -> list[Call | BadCall]:
    """Every call in `text`, in order; text outside the tags is ignored. Never raises."""
    if len(text) > MAX_TEXT:
        return [BadCall(f"the text has {len(text)} characters, more than {MAX_TEXT}", text)]
    found: list[Call | BadCall] = []
    pieces = _TAG.split(text)  # text, tag, text, tag, ..., text
    body: str | None = None
    for tag, after in zip(pieces[1::2], pieces[2::2], strict=True):
        if tag == _OPEN:
            if body is not None:
                found.append(BadCall("a tool call is not closed", body))
            body = after
        elif body is None:
            found.append(BadCall("a tool call is closed but was not opened", ""))
        else:
            found.append(_parse_body(body))
            body = None
    if body is not None:
        found.append(BadCall("a tool call is not closed", body))
    return found


def _parse_body(body: str) -> Call | BadCall:
    try:
        data = _DECODER.decode(body)
        _ENCODER.encode(data).encode()
    except UnicodeEncodeError:
        return BadCall("the call contains a lone surrogate", body)
    except (ValueError, RecursionError):  # the ValueErrors include integers of more digits than Python converts
        return BadCall("the call is not valid JSON", body)
    if not isinstance(data, dict):
        return BadCall("the call is not a JSON object", body)
    if not isinstance(data.get("name"), str):
        return BadCall('the call has no "name" that is a string', body)
    if not isinstance(data.get("arguments", {}), dict):
        return BadCall('"arguments" is not a JSON object', body)
    if extra := set(data) - {"name", "arguments"}:
        return BadCall(f'only "name" and "arguments" are wanted, found {len(extra)} more', body)
    return Call(data["name"], data.get("arguments", {}))


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is out of range")
    return value


# Made once: `json.loads` and `json.dumps` make theirs anew at every call that is not of the plainest kind.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite_float)
_ENCODER = json.JSONEncoder(ensure_ascii=False)
