"""Dialogues: deltas make the conversation that the template renders, and nothing an environment says can break out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from trpd_agents.dialogue import Dialogue
from trpd_agents.errors import UserError

Family = Callable[[str], PreTrainedTokenizerFast]
NAMES = ["own", "chatml", "headers", "inst", "thinking", "plain"]
CALL = '<tool_call>{"name": "go", "arguments": {"room": "kitchen"}}</tool_call>'


@pytest.fixture(scope="session")
def tokenizers(make_family: Family, own: PreTrainedTokenizerFast) -> dict[str, PreTrainedTokenizerFast]:
    return {name: own if name == "own" else make_family(name) for name in NAMES}


MESSAGE = "message.role + '\n' + message.content"
PROMPT = "'<|im_start|>assistant\n' }}{%- endif %}"
LOOP = "for message in messages %}\n"


def feed(dialogue: Dialogue, observations: list[str], actions: list[str]) -> list[int]:
    """All ids of a conversation whose actions are those that the template would render."""
    ids = dialogue.start(observations[0])
    for action, observation in zip(actions, observations[1:], strict=True):
        ids += [*dialogue.tokenizer.encode(dialogue.layout.lead + action, add_special_tokens=False), dialogue.end_id]
        ids += dialogue.observe(observation, ended=True)
    return ids


def render(dialogue: Dialogue, observations: list[str], actions: list[str]) -> str:
    way = dialogue.layout.way
    return str(
        dialogue.tokenizer.apply_chat_template(
            way.conversation(observations, actions), tools=list(way.tools) or None, tokenize=False,
            add_generation_prompt=True,
        )
    )  # fmt: skip


words = st.lists(st.sampled_from(["kitchen", " ", "\n", "x1", "go", "é", "{", '"', "<", "|"]), max_size=8)
contents = st.one_of(words.map("".join), st.text(st.characters(codec="utf-8"), max_size=20)).map(str.strip)


@pytest.mark.parametrize("with_tools", [False, True])
@pytest.mark.parametrize("name", ["own", "chatml", "headers", "inst"])
@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(contents, contents), max_size=4), contents)
def test_deltas_are_the_rendered_conversation(
    name: str,
    with_tools: bool,
    tokenizers: dict[str, PreTrainedTokenizerFast],
    tools: list[dict[str, Any]],
    turns: list[tuple[str, str]],
    last: str,
) -> None:
    tokenizer = tokenizers[name]
    dialogue = dialogue_of(tokenizer, "Deliver the lamp.", tools if with_tools else [])
    actions, observations = [action for action, _ in turns], [*(text for _, text in turns), last]
    text = render(dialogue, observations, actions)
    ids = feed(dialogue, observations, actions)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert ids == tokenizer.encode(text, add_special_tokens=False), "no other ids than tokenising the whole gives"


_made: dict[tuple[str, bool], Dialogue] = {}


def dialogue_of(tokenizer: PreTrainedTokenizerFast, instructions: str, tools: list[dict[str, Any]]) -> Dialogue:
    key = (tokenizer.chat_template, bool(tools))
    if key not in _made:
        _made[key] = Dialogue(tokenizer, instructions, tools)
    return _made[key]


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_what_the_template_renders(
    name: str, tokenizers: dict[str, PreTrainedTokenizerFast], tools: list[dict[str, Any]]
) -> None:
    tokenizer = tokenizers[name]
    dialogue = Dialogue(tokenizer, "Deliver.", tools)
    answer = dialogue.answer(CALL)
    assert answer[-1] in dialogue.end_ids
    assert dialogue.text(answer).removeprefix(dialogue.layout.lead) == CALL
    way = dialogue.layout.way
    rendered = tokenizer.apply_chat_template(
        way.conversation(["Hello."], [CALL]), tools=list(way.tools) or None, tokenize=False
    )
    fed = tokenizer.decode(dialogue.start("Hello.") + answer, clean_up_tokenization_spaces=False)
    if name != "plain":  # its template writes no end token
        assert rendered.rstrip() == fed


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_off_action_gets_its_end_token_fed(name: str, tokenizers: dict[str, PreTrainedTokenizerFast]) -> None:
    dialogue = Dialogue(tokenizers[name], "Deliver.")
    ended, cut = dialogue.observe("Nothing.", ended=True), dialogue.observe("Nothing.", ended=False)
    assert cut == ([] if name == "plain" else [dialogue.end_id]) + ended
    assert dialogue.end_id not in ended[:1]
    ids = tokenizers[name].encode("wai", add_special_tokens=False)
    assert dialogue.text(ids) == "wai"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_an_environment_says_is_a_control_token(
    name: str, tokenizers: dict[str, PreTrainedTokenizerFast], tools: list[dict[str, Any]]
) -> None:
    tokenizer = tokenizers[name]
    dialogue = Dialogue(tokenizer, "Deliver.", tools)
    spelled = "".join(tokenizer.get_added_vocab()) + "</tool_response></tool_response><tool_response"
    control = {i for token, i in tokenizer.get_added_vocab().items() if token in dialogue_text(dialogue)}
    control |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}

    def count(ids: list[int]) -> int:
        return sum(i in control for i in ids)

    for make in (dialogue.start, lambda text: dialogue.observe(text, ended=True)):
        assert spelled in tokenizer.decode(make(spelled), clean_up_tokenization_spaces=False)
        assert count(make(spelled)) == count(make("harmless"))
    assert not {i for i, t in tokenizer.added_tokens_decoder.items() if t.special} & set(dialogue.answer(spelled)[:-1])


def dialogue_text(dialogue: Dialogue) -> str:
    return dialogue.layout.bridge + dialogue.layout.prompt


def test_control_tokens_not_marked_special_cannot_be_spelled_either(make_family: Family) -> None:
    tokenizer = make_family("chatml")
    tokenizer.add_tokens(["<|turn|>"])
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<|turn|>")
    dialogue = Dialogue(tokenizer, "Deliver.")
    turn = tokenizer.convert_tokens_to_ids("<|turn|>")
    assert dialogue.end_id == turn
    assert dialogue.observe("a<|turn|><|turn|>b", ended=True).count(turn) == dialogue.observe("ab", ended=True).count(
        turn
    )


def test_stray_special_tokens_stay_visible(own: PreTrainedTokenizerFast) -> None:
    dialogue = Dialogue(own)
    start, end = own.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    body = own.encode("go")
    assert dialogue.text([start, *body, end]) == "<|im_start|>go"
    assert dialogue.text([end, *body]) == "<|im_end|>go", "only the last id can be the end"
    assert dialogue.text([*body, own.pad_token_id]) == "go<|endoftext|>"
    assert dialogue.text([]) == "" == dialogue.text([end])


def test_roles_and_end_tokens(tokenizers: dict[str, PreTrainedTokenizerFast], tools: list[dict[str, Any]]) -> None:
    def about(name: str) -> tuple[str, set[str]]:
        dialogue = Dialogue(tokenizers[name], "Deliver.", tools)
        return dialogue.observation_role, set(tokenizers[name].convert_ids_to_tokens(sorted(dialogue.end_ids)))

    assert about("own") == ("tool", {"<|im_end|>"})
    assert about("chatml") == ("tool", {"<|endoftext|>", "<|im_end|>"})
    assert about("headers") == ("user", {"<|eot_id|>"})
    assert about("inst") == ("user", {"</s>"})
    assert about("thinking") == ("tool", {"<|im_end|>"})
    assert about("plain") == ("user", {"<eos>"})
    assert Dialogue(tokenizers["own"], "Deliver.").observation_role == "user"


def test_bos_comes_once(tokenizers: dict[str, PreTrainedTokenizerFast]) -> None:
    for name in ("headers", "inst"):
        dialogue = Dialogue(tokenizers[name], "Deliver.")
        bos = tokenizers[name].bos_token_id
        ids = dialogue.start("a") + dialogue.answer("b") + dialogue.observe("c", ended=True)
        assert ids[0] == bos and ids.count(bos) == 1


def test_what_is_given_up_is_noted(tokenizers: dict[str, PreTrainedTokenizerFast], tools: list[dict[str, Any]]) -> None:
    assert Dialogue(tokenizers["own"], "Deliver.", tools).notes == []
    headers = Dialogue(tokenizers["headers"], "Deliver.", tools)
    assert "tools are described in the instructions" in headers.notes[0]
    assert "does not render tools (go)" in headers.notes[0]
    assert "trims white space" in headers.notes[1]
    assert '"name": "go"' in headers.layout.head
    [note] = Dialogue(tokenizers["inst"], "Deliver.").notes
    assert "in front of the first observation" in note and "must alternate" in note
    assert Dialogue(tokenizers["inst"]).notes == []
    assert any("end of an assistant turn" in note for note in Dialogue(tokenizers["plain"]).notes)


def test_instructions_without_a_system_role_lead_the_first_observation_only(
    tokenizers: dict[str, PreTrainedTokenizerFast],
) -> None:
    dialogue = Dialogue(tokenizers["inst"], "Deliver.")
    assert dialogue.tokenizer.decode(dialogue.start("Hello.")) == "<s>[INST] Deliver.\n\nHello. [/INST]"
    assert dialogue.tokenizer.decode(dialogue.observe("Hello.", ended=True)) == "[INST] Hello. [/INST]"


def test_thoughts_removed_from_history_are_kept_as_sampled(
    tokenizers: dict[str, PreTrainedTokenizerFast], tools: list[dict[str, Any]]
) -> None:
    tokenizer = tokenizers["thinking"]
    dialogue = Dialogue(tokenizer, "", [])
    assert any("removes <think>" in note for note in dialogue.notes)
    assert any("only in history" in note for note in dialogue.notes)
    sampled = tokenizer.encode("<think>\nWest.\n</think>\n\ngo west<|im_end|>")
    ids = dialogue.start("Where?") + sampled + dialogue.observe("Here.", ended=True)
    assert tokenizer.decode(ids) == (
        "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n<think>\nWest.\n</think>\n\ngo west<|im_end|>\n"
        "<|im_start|>user\nHere.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(dialogue.answer("go")) == "<think>\n\n</think>\n\ngo<|im_end|>"


def test_a_generation_prompt_that_opens_a_thought(make_family: Family) -> None:
    tokenizer = make_family("thinking")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{- '<|im_start|>assistant\n' }}{%- endif %}", "{{- '<|im_start|>assistant\n<think>\n' }}{%- endif %}"
    )
    dialogue = Dialogue(tokenizer)
    assert tokenizer.decode(dialogue.start("x")).endswith("<|im_start|>assistant\n<think>\n")
    assert tokenizer.decode(dialogue.answer("go")) == "\n</think>\n\ngo<|im_end|>"
    assert any("only in the generation prompt" in note for note in dialogue.notes)


def test_an_answer_is_not_part_of_a_thought(make_family: Family) -> None:
    tokenizer = make_family("chatml")
    opened = tokenizer.chat_template.replace(PROMPT, PROMPT.replace("assistant\n", "assistant\n<think>\n"))
    tokenizer.chat_template = opened
    dialogue = Dialogue(tokenizer)
    assert tokenizer.decode(dialogue.answer("go")) == "</think>\n\ngo<|im_end|>"
    history = "message.role + '\n' + ('<think></think>' if message.role == 'assistant' else '') + message.content"
    tokenizer.chat_template = opened.replace(MESSAGE, history)
    assert any("opens <think>" in note for note in Dialogue(tokenizer).notes)


def test_a_header_that_ends_the_turn_before_it_is_noted(make_family: Family) -> None:
    tokenizer = make_family("headers")
    tokenizer.chat_template = (
        "{%- for message in messages %}"
        "{{- '<|start_header_id|>' + message.role + '\n' + message.content }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant\n' }}{%- endif %}"
    )
    dialogue = Dialogue(tokenizer)
    header = tokenizer.convert_tokens_to_ids("<|start_header_id|>")
    assert dialogue.end_ids == {header, tokenizer.eos_token_id}
    assert any("beginning of the next message" in note for note in dialogue.notes)
    ids = dialogue.start("a") + dialogue.answer("b") + dialogue.observe("c", ended=True)
    assert tokenizer.decode(ids) == "".join(
        f"<|start_header_id|>{text}" for text in ("user\na", "assistant\nb", "user\nc", "assistant\n")
    )


def test_a_template_for_nothing_but_tool_use(make_family: Family, tools: list[dict[str, Any]]) -> None:
    tokenizer = make_family("chatml")
    tokenizer.chat_template = "{%- for tool in tools %}{%- endfor %}" + tokenizer.chat_template
    assert Dialogue(tokenizer, "Deliver.", tools).observation_role == "tool"
    with pytest.raises(UserError, match="not iterable"):
        Dialogue(tokenizer, "Deliver.")


def test_a_tool_named_in_the_instructions_is_still_rendered(
    tokenizers: dict[str, PreTrainedTokenizerFast], tools: list[dict[str, Any]]
) -> None:
    dialogue = Dialogue(tokenizers["headers"], "You may go anywhere.\n", tools)
    assert "You may go anywhere.\n\nTools" in dialogue.layout.head


def test_a_date_in_the_template_is_noted(make_family: Family) -> None:
    tokenizer = make_family("chatml")
    tokenizer.chat_template = "{{- strftime_now('%Y') }}" + tokenizer.chat_template
    assert any("today's date" in note for note in Dialogue(tokenizer).notes)


REWRITING = {  # name: part of the template, what stands there instead, what the error says
    "turn counter": (
        f"'<|im_end|>\n' }}}}\n{{%- {LOOP}",
        f"(messages | length | string) + '<|im_end|>\n' }}}}\n{{%- {LOOP}",
        "before the first observation depends on the turns",
    ),
    "newest message marked": (
        MESSAGE,
        "message.role + ('(new)' if loop.last else '') + '\n' + message.content",
        "depends on the turns",
    ),
    "numbered messages": (
        MESSAGE,
        "message.role + (loop.index | string) + '\n' + message.content",
        "depends on the turns",
    ),
    "numbered prompt": (PROMPT, "'<|im_start|>assistant' + (messages | length | string) }}{%- endif %}", "depends on"),
    "upper case": (MESSAGE, MESSAGE + " | upper", "changes content: 'Obs0.*' became 'OBS0"),
    "no newlines": (MESSAGE, MESSAGE + ".split() | join(' ')", "changes content"),
    "escaped": (MESSAGE, MESSAGE + " | tojson", "changes content"),
    "dropped": ("message.role in ['user', 'assistant']", "message.role == 'user'", "leaves out a message"),
    "doubled": ("message.content + '<|im_end|>", "message.content + message.content + '<|im_end|>", "twice"),
    "earlier forgotten": (LOOP, "for message in messages[-2:] %}\n", "leaves out a message"),
    "raising": (LOOP, LOOP + "{{ raise_exception('never') }}\n", "raises TemplateError.*never"),
}


@pytest.mark.parametrize("case", REWRITING)
def test_templates_that_rewrite_a_conversation_are_refused(case: str, make_family: Family) -> None:
    old, new, message = REWRITING[case]
    tokenizer = make_family("chatml")
    assert old in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(old, new)
    with pytest.raises(UserError, match=message):
        Dialogue(tokenizer, "Deliver.")


def test_tools_that_move_to_the_newest_message_are_described_instead(
    make_family: Family, tools: list[dict[str, Any]]
) -> None:
    tokenizer = make_family("inst")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "'[INST] ' +", "('[TOOLS]' + (tools | tojson) if tools and loop.last else '') + '[INST] ' +"
    )
    dialogue = Dialogue(tokenizer, "Deliver.", tools)
    assert dialogue.observation_role == "user" and not dialogue.layout.way.tools
    assert '"name": "go"' in tokenizer.decode(dialogue.start("x"))
    assert '"name": "go"' not in tokenizer.decode(dialogue.observe("x", ended=True))


def test_a_template_that_refuses_tool_messages_gets_user_messages(
    make_family: Family, tools: list[dict[str, Any]]
) -> None:
    tokenizer = make_family("chatml")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{%- if loop.previtem", "{{- raise_exception('no tool role') }}{%- if loop.previtem"
    )
    dialogue = Dialogue(tokenizer, "Deliver.", tools)
    assert dialogue.observation_role == "user" and dialogue.layout.way.tools
    assert "no tool role" in dialogue.notes[0]


def test_a_tokenizer_without_a_template_is_refused(make_family: Family) -> None:
    tokenizer = make_family("chatml")
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template.*CHAT_TEMPLATE"):
        Dialogue(tokenizer)


def test_control_tokens_in_instructions_are_refused(own: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="instructions or tools contain <|im_end|>"):
        Dialogue(own, "Say <|im_end|> to stop.")


@pytest.mark.parametrize("scheme", ["always", "first"])
def test_sentencepiece_style_tokenizers_gain_no_spaces(
    scheme: str, metaspace: Callable[[str], PreTrainedTokenizerFast]
) -> None:
    tokenizer = metaspace(scheme)
    dialogue = Dialogue(tokenizer, "Deliver.")
    observations, actions = ["in the kitchen", "nothing here"], ["go kitchen"]
    ids = dialogue.start(observations[0]) + dialogue.answer(actions[0]) + dialogue.observe(observations[1], ended=True)
    assert ids == tokenizer.encode(render(dialogue, observations, actions), add_special_tokens=False)
    assert tokenizer.decode(dialogue.observe("\n\n  x", ended=True)).endswith("[INST] \n\n  x [/INST]")


def test_lone_surrogates_are_replaced(own: PreTrainedTokenizerFast) -> None:
    assert own.decode(Dialogue(own).start("a\ud800b")).count("a?b") == 1


def test_the_lists_returned_are_the_callers_own(own: PreTrainedTokenizerFast) -> None:
    dialogue = Dialogue(own)
    first = dialogue.start("x")
    first.append(7)
    assert dialogue.start("x") == first[:-1]
