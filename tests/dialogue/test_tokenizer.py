"""The small tokenizer: lossless, atoms whole, phrases short, the same after saving and loading."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from trpd_agents.dialogue import CHAT_TEMPLATE, train_tokenizer
from trpd_agents.errors import UserError

ATOMS = ["kitchen", "attic", "lamp", "red key", "room2", "café", "key"]
CALL = '<tool_call>{"name": "go", "arguments": {"room": "attic"}}</tool_call>'
WORDS = st.sampled_from(
    [*ATOMS, " ", "\n", "12", "x", "<|im_end|>", "<|im_start|>", "assistant\n", '"', "_", "é", "\r", "\u2028"]
)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.lists(WORDS).map("".join)))
def test_any_text_survives(own: PreTrainedTokenizerFast, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()  # lone surrogates are not text
    assert own.decode(own.encode(text)) == text
    assert own.decode(own(text, split_special_tokens=True)["input_ids"]) == text


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(ATOMS), st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_an_atom_between_others_is_one_token(own: PreTrainedTokenizerFast, atom: str, left: str, right: str) -> None:
    [token] = own.encode(atom)
    if left.endswith("red") and atom == "key":
        return
    assert own.encode(f"{left} {atom}.{right}").count(token) >= 1
    assert own.encode(f'({atom})"{atom}" {atom}\n{atom}').count(token) == 4


def test_an_atom_within_a_word_is_not_that_token(own: PreTrainedTokenizerFast) -> None:
    [token] = own.encode("kitchen")
    for text in ("kitchens", "mykitchen", "kitchen_door", "kitchené"):
        assert token not in own.encode(text)
    assert own.convert_ids_to_tokens(own.encode("red key")) == ["redĠkey"], "the longest atom wins"
    assert len(own.encode("room21")) > 1


def test_digits_stand_alone(own: PreTrainedTokenizerFast) -> None:
    tokens = own.convert_ids_to_tokens(own.encode("a 120 b room2 3.14"))
    assert [t for t in tokens if any(c.isdigit() for c in t)] == ["1", "2", "0", "room2", "3", "1", "4"]


def test_phrases_and_headers_are_short(own: PreTrainedTokenizerFast) -> None:
    assert len(own.encode("<|im_start|>assistant\n")) == 2
    assert len(own.encode("<|im_start|>tool\nzzz")) == 5
    tokenizer = train_tokenizer([CALL] * 2 + [CALL.replace("attic", "kitchen")] * 2, 500, ATOMS)
    assert len(tokenizer.encode(CALL)) == 3


def test_special_tokens_take_no_part_in_merges() -> None:
    tokenizer = train_tokenizer(["<|im_start|>a<|im_end|>\n"] * 50, 600)
    ids = tokenizer("<|im_start|><|im_end|>", split_special_tokens=True, add_special_tokens=False)["input_ids"]
    assert not {0, 1, 2} & set(ids)
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [0, 1, 2]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)


def test_training_twice_gives_the_same_tokenizer(own: PreTrainedTokenizerFast) -> None:
    texts = [f"the room {word} is to the {way} of\n" for word in "abcdefg" for way in ("north", "south", "east")]
    one, two = (train_tokenizer(iter(texts), 400, atoms) for atoms in (ATOMS, ATOMS[::-1]))
    assert one.get_vocab() == two.get_vocab()
    assert len(one) <= 400


def test_saved_and_loaded_is_the_same(
    own: PreTrainedTokenizerFast, tools: list[dict[str, object]], tmp_path: Path
) -> None:
    own.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.chat_template == CHAT_TEMPLATE
    assert loaded.get_vocab() == own.get_vocab()
    assert (loaded.eos_token_id, loaded.pad_token_id) == (own.eos_token_id, own.pad_token_id)
    for text in (CALL, "a  red key,\n\n12 kitchens  . ,", "<|im_start|>user\nkitchen<|im_end|>", "日本 \x00 café"):
        assert loaded.encode(text) == own.encode(text)
        assert loaded(text, split_special_tokens=True)["input_ids"] == own(text, split_special_tokens=True)["input_ids"]
        assert loaded.decode(loaded.encode(text)) == text
    messages = [{"role": "user", "content": "go"}]
    assert loaded.apply_chat_template(messages, tools=tools, tokenize=False) == own.apply_chat_template(
        messages, tools=tools, tokenize=False
    )


def test_the_template_renders_calls_and_refuses_late_system_messages(own: PreTrainedTokenizerFast) -> None:
    call = {"type": "function", "function": {"name": "go", "arguments": {"room": "attic"}}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert own.apply_chat_template(messages, tokenize=False).endswith(f"<|im_start|>assistant\n{CALL}<|im_end|>\n")
    with pytest.raises(Exception, match="system may only come first"):
        own.apply_chat_template([*messages, {"role": "system", "content": "y"}], tokenize=False)


@pytest.mark.parametrize("atom", ["", " lamp", "a<|im_end|>"])
def test_impossible_atoms_are_refused(atom: str) -> None:
    with pytest.raises(UserError, match="atom"):
        train_tokenizer(["x"], 400, [atom])


def test_a_vocabulary_too_small_is_refused_with_the_least_size() -> None:
    with pytest.raises(UserError, match="need 264"):
        train_tokenizer(["x"], 100, ["lamp"])
    assert len(train_tokenizer(["xyxyxy"] * 9, 264, ["lamp"])) == 264
    with pytest.raises(UserError, match="one string"):
        train_tokenizer("x", 400)
