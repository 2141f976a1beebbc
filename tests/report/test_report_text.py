"""Nothing that a model wrote reaches a page or a terminal as anything but letters."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trpd_agents.report.text import one_line, script, visible


@given(st.text(st.characters(), max_size=60))
def test_no_control_or_format_character_is_left(text: str) -> None:
    for shown, kept in ((visible(text), "\n\t\u200c\u200d"), (one_line(text), "\u200c\u200d")):
        assert all(unicodedata.category(c)[0] != "C" or c in kept for c in shown)
        assert "\u2028" not in shown and "\u2029" not in shown
        shown.encode("utf-8")  # lone surrogates would not pass


@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x24F, exclude_categories=["C"]), max_size=60))
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_what_is_taken_out_is_named() -> None:
    assert visible("\x1b[31m\u202ea\x00\x7f\x85") == "␛[31m⟨U+202E⟩a␀␡⟨U+0085⟩"
    assert one_line("a\nb") == "a⏎b"
    assert visible("👩\u200d🔬 é 漢字") == "👩\u200d🔬 é 漢字"


def test_a_megabyte_is_cut_and_says_so() -> None:
    shown = visible("x" * 1_000_000)
    assert len(shown) < 20_100 and shown.endswith("… [980,000 more characters]")


@given(st.recursive(st.text(st.characters(), max_size=20), lambda inner: st.lists(inner, max_size=3), max_leaves=5))
def test_a_script_holds_the_data_and_no_markup(data: object) -> None:
    text = script("a/b", data)
    assert text.isascii() and "<" not in text
    assert json.loads(text.removeprefix('trpd.give("a/b",').removesuffix(");\n")) == data


def test_a_script_refuses_what_is_not_json() -> None:
    with pytest.raises(ValueError):
        script("a", float("nan"))
