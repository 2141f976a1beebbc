"""The call grammar: what is written can be read back, and nothing anybody writes raises."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trpd_envs import BadCall, Call, format_call, parse_calls

TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('<>/{}"\\'))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
    | st.sampled_from(["<tool_call>", "</tool_call>", "x</tool_call><tool_call>"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
GARBAGE = st.text(st.characters(categories=["Lu", "Nd", "Zs", "Cs", "Cc", "So"]), max_size=20) | st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        '{"name": "go"',
        '"arguments": {"room": ',
        "}",
        "[" * 50,
        "9" * 5000,
        "NaN",
        "\\ud800",
        "\0",
        '{"name": "go", "arguments": {"room": "hall"}}',
    ]
)


def test_format_is_exact() -> None:
    assert format_call("go", room="hall") == '<tool_call>{"name": "go", "arguments": {"room": "hall"}}</tool_call>'
    assert format_call("wait") == '<tool_call>{"name": "wait", "arguments": {}}</tool_call>'
    assert format_call("say", name="Žofie") == '<tool_call>{"name": "say", "arguments": {"name": "Žofie"}}</tool_call>'


@settings(max_examples=150, deadline=None)
@given(TEXT, st.dictionaries(TEXT, JSON, max_size=3), TEXT.filter(lambda t: "tool_call>" not in t))
def test_what_is_formatted_is_parsed_back(name: str, arguments: dict[str, object], around: str) -> None:
    text = format_call(name, **arguments)
    assert parse_calls(f"{around}{text}\n{around}{text}") == [Call(name, arguments)] * 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_format_refuses_what_cannot_be_sent(value: object) -> None:
    with pytest.raises(ValueError):
        format_call("go", room=value)


@pytest.mark.parametrize(
    ("body", "call"),
    [
        ('\n {"name": "go",\n "arguments": {"room": "hall"}}\n', Call("go", {"room": "hall"})),
        ('{"arguments":{"n":3},"name":"go"}', Call("go", {"n": 3})),
        ('{"name": "wait"}', Call("wait", {})),
    ],
)
def test_whitespace_order_and_missing_arguments_are_tolerated(body: str, call: Call) -> None:
    assert parse_calls(f"I think\n<tool_call>{body}</tool_call> so.") == [call]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<tool_call>{"name": "go"}', "not closed"),
        ("<tool_call>", "not closed"),
        ("</tool_call>", "not opened"),
        ("<tool_call></tool_call>", "not valid JSON"),
        ("<tool_call>go(hall)</tool_call>", "not valid JSON"),
        ("<tool_call>{'name': 'go'}</tool_call>", "not valid JSON"),
        ('<tool_call>__import__("os").abort()</tool_call>', "not valid JSON"),
        ('<tool_call>{"name": "go"} {"name": "go"}</tool_call>', "not valid JSON"),
        ('<tool_call>{"name": "go", "arguments": {"x": NaN}}</tool_call>', "not valid JSON"),
        ('<tool_call>{"name": "go", "arguments": {"x": -Infinity}}</tool_call>', "not valid JSON"),
        ('<tool_call>{"name": "go", "arguments": {"x": 1e999}}</tool_call>', "not valid JSON"),
        (f'<tool_call>{{"name": "go", "arguments": {{"x": {"9" * 5000}}}}}</tool_call>', "not valid JSON"),
        (f"<tool_call>{'[' * 40_000}</tool_call>", "not valid JSON"),
        (f"<tool_call>{'[' * 40_000}{']' * 40_000}</tool_call>", "not valid JSON"),
        ('<tool_call>{"name": "\\ud800"}</tool_call>', "surrogate"),
        ('<tool_call>{"name": "\ud800"}</tool_call>', "surrogate"),
        ("<tool_call>[1]</tool_call>", "not a JSON object"),
        ('<tool_call>{"arguments": {}}</tool_call>', '"name"'),
        ('<tool_call>{"name": 3}</tool_call>', '"name"'),
        ('<tool_call>{"name": "go", "arguments": ["hall"]}</tool_call>', '"arguments"'),
        ('<tool_call>{"name": "go", "arguments": "{}"}</tool_call>', '"arguments"'),
        ('<tool_call>{"name": "go", "parameters": {"room": "hall"}}</tool_call>', "found 1 more"),
        ("x" * 200_000, "200000 characters"),
    ],
)
def test_bad_calls_say_why(text: str, reason: str) -> None:
    (bad,) = parse_calls(text)
    assert isinstance(bad, BadCall) and reason in bad.reason and len(bad.reason) < 100


def test_a_bad_call_does_not_hide_a_good_one() -> None:
    text = f'<tool_call>{{"name": <tool_call>{json.dumps({"name": "go"})}</tool_call></tool_call> {format_call("look")}'
    assert [type(call) for call in parse_calls(text)] == [BadCall, Call, BadCall, Call]


@settings(max_examples=300, deadline=None)
@given(st.lists(GARBAGE, max_size=12).map("".join))
def test_parsing_never_raises(text: str) -> None:
    for call in parse_calls(text):
        assert isinstance(call, Call | BadCall)
        if isinstance(call, Call):
            json.dumps([call.name, call.arguments], ensure_ascii=False).encode()
