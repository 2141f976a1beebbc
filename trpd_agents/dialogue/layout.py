"""What a chat template writes around messages, found by rendering stub conversations and cutting at their contents.

A layout exists only for a template that writes the same text around a message however many messages came before it.
Then a conversation can be fed piece by piece, each action kept as the ids that were sampled, and nothing is ever
tokenised twice. Templates that do otherwise (a counter of turns, tools moved to the newest message, content
rewritten) are refused.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from trpd_agents.dialogue.chatml import describe_tools
from trpd_agents.errors import UserError

Message = dict[str, str]
_THINK = re.compile(r"\s*</?think>\s*")
EARLIER_TURNS = 3  # stub conversations have 0 to this many earlier turns


@dataclass(frozen=True)
class Way:
    """One way to put a dialogue into a template: what is a system message, who renders the tools, who says
    observations."""

    instructions: str
    tools: tuple[dict[str, Any], ...]  # handed to the template; empty when they are described in the instructions
    system: bool  # instructions are a system message; otherwise they stand in front of the first observation
    observation_role: str

    def conversation(self, observations: Sequence[str], actions: Sequence[str]) -> list[Message]:
        """Messages that begin with an observation and alternate."""
        messages = [{"role": "system", "content": self.instructions}] if self.system else []
        for i, observation in enumerate(observations):
            role = self.observation_role if i else "user"
            messages.append({"role": role, "content": observation if i else self.first_prefix + observation})
            if i < len(actions):
                messages.append({"role": "assistant", "content": actions[i]})
        return messages

    @property
    def first_prefix(self) -> str:
        """What stands in front of the first observation, as part of its content."""
        return f"{self.instructions}\n\n" if self.instructions and not self.system else ""


@dataclass(frozen=True)
class Layout:
    """The texts around contents. A conversation reads `head` observation `first_prompt` action, then any number of
    times `bridge` observation `prompt` action. The template's own rendering of an action begins with `lead` after the
    prompt.
    """

    way: Way
    head: str
    first_prompt: str
    bridge: str
    prompt: str
    lead: str
    tail: str  # after the last action, when nothing follows
    notes: tuple[str, ...]


class Refused(Exception):
    """The template does not allow one way of using it; the message says what differs."""


def find_layout(tokenizer: PreTrainedTokenizerBase, instructions: str, tools: Sequence[dict[str, Any]]) -> Layout:
    """The layout of `tokenizer`'s chat template.

    The template's own way comes first (system message, `tools` argument, role "tool" for observations), then as
    little of it is given up as possible; what was given up is in the notes. Raises `UserError` when no way works over
    several turns.
    """
    refusals: list[str] = []
    for way in _ways(instructions.strip(), tools):
        try:
            layout = _probe(tokenizer, way)
        except Refused as refusal:
            refusals.append(str(refusal))
            continue
        return layout if not refusals else replace(layout, notes=(_given_up(way, tools, refusals[-1]), *layout.notes))
    reasons = "; asked for less, ".join(dict.fromkeys([refusals[0], refusals[-1]]))
    raise UserError(
        f"the chat template of {tokenizer.name_or_path or 'this tokenizer'} cannot be used over several turns: "
        f"{reasons}. Use a model whose template only ever appends to a conversation, or set "
        "tokenizer.chat_template to one that does"
    )


def _ways(instructions: str, tools: Sequence[dict[str, Any]]) -> Iterator[Way]:
    described = "\n\n".join(filter(None, [instructions, describe_tools(tools)]))
    options: list[tuple[str, tuple[dict[str, Any], ...], str]] = [(instructions, (), "user")]
    if tools:
        options = [(instructions, tuple(tools), "tool"), (instructions, tuple(tools), "user"), (described, (), "user")]
    for text, own_tools, role in options:
        for system in (True, False) if text else (False,):
            yield Way(text, own_tools, system, role)


def _given_up(way: Way, tools: Sequence[dict[str, Any]], reason: str) -> str:
    changes = []
    if tools and way.observation_role == "user":
        changes.append('observations after the first have role "user", not "tool"')
    if tools and not way.tools:
        changes.append("tools are described in the instructions")
    if way.instructions and not way.system:
        changes.append("instructions stand in front of the first observation")
    return f"{', '.join(changes)}, because {reason}"


def _observation(i: int) -> str:
    return f"Obs{i} <&> \"q\" 'é' {{{{x}}}}\nnext {i}."


def _action(i: int) -> str:
    return f"Act{i} <&> \"q\" 'é' {{{{x}}}}\nnext {i}."


def _render(tokenizer: PreTrainedTokenizerBase, way: Way, messages: list[Message], prompt: bool = True) -> str:
    try:
        text = tokenizer.apply_chat_template(
            messages, tools=list(way.tools) or None, tokenize=False, add_generation_prompt=prompt
        )
    except Exception as error:  # a template is a program of its own and may raise anything
        roles = ", ".join(message["role"] for message in messages)
        raise Refused(f"it raises {type(error).__name__} for roles {roles}: {_excerpt(str(error))}") from error
    return str(text)


def _cut(text: str, contents: Sequence[str]) -> list[str]:
    """The pieces of `text` around `contents`, each of which must occur exactly once and in order."""
    pieces = []
    begin = 0
    for content in contents:
        found = text.find(content, begin)
        if found < 0 or text.count(content) > 1:
            name = content.split()[0]
            near = re.search(name, text, re.IGNORECASE)
            if near is None:
                raise Refused(f"it leaves out a message: {_excerpt(content)} is missing from {_excerpt(text[-80:])}")
            if found >= 0:
                raise Refused(f"it writes a message twice: {_excerpt(text[near.start() :])}")
            raise Refused(f"it changes content: {_excerpt(content)} became {_excerpt(text[near.start() :])}")
        pieces.append(text[begin:found])
        begin = found + len(content)
    return [*pieces, text[begin:]]


def _probe(tokenizer: PreTrainedTokenizerBase, way: Way) -> Layout:
    """Render conversations with 0 to `EARLIER_TURNS` earlier turns and demand the same text around every message."""
    rendered = []
    for k in range(EARLIER_TURNS + 1):
        observations, actions = [_observation(i) for i in range(k + 1)], [_action(i) for i in range(k)]
        contents = [text for pair in zip(observations, [*actions, ""], strict=True) for text in pair if text]
        rendered.append(_cut(_render(tokenizer, way, way.conversation(observations, actions)), contents))
    # Pieces of one rendering: head, then for each earlier turn what stands between its observation and its action and
    # what stands between that action and the next observation, then the generation prompt.
    head, first_prompt = rendered[0]
    if not head.endswith(way.first_prefix):
        raise Refused(f"it changes the instructions: {_excerpt(way.first_prefix)} became {_excerpt(head)}")
    head = head.removesuffix(way.first_prefix)
    bridge, prompt = rendered[1][2], rendered[1][3]
    notes: list[str] = []
    for pieces in rendered[1:]:
        _same("the text before the first observation", head, pieces[0].removesuffix(way.first_prefix))
        for found in pieces[2:-1:2]:
            _same("the text between an action and the next observation", bridge, found)
        _same("the text after the newest observation", prompt, pieces[-1])
        for j, found in enumerate(pieces[1:-1:2]):
            _note_header(first_prompt if j == 0 else prompt, found, notes)
    _check_instructions(tokenizer, way, head)

    observations, actions = [_observation(0), _observation(1)], [_action(0), _action(1)]
    final = _cut(
        _render(tokenizer, way, way.conversation(observations, actions), prompt=False),
        [observations[0], actions[0], observations[1], actions[1]],
    )
    _note_header(prompt, final[3], notes)
    lead = final[3].removeprefix(prompt) if final[3].startswith(prompt) else ""
    if prompt.rstrip().endswith("<think>") and "</think>" not in lead:
        lead = "</think>\n\n"  # an answer that somebody wrote is not a thought
    notes += _harmless_differences(tokenizer, way)
    return Layout(way, head, first_prompt, bridge, prompt, lead, final[4], tuple(dict.fromkeys(notes)))


def _same(what: str, wanted: str, found: str) -> None:
    if wanted != found:
        at = max(len(os.path.commonprefix([wanted, found])) - 20, 0)
        raise Refused(f"{what} depends on the turns before: {_excerpt(wanted[at:])} became {_excerpt(found[at:])}")


def _note_header(prompt: str, found: str, notes: list[str]) -> None:
    """Compare what precedes an action when it is generated (`prompt`) and when it is history (`found`)."""
    if found == prompt:
        return
    if not (found.startswith(prompt) or prompt.startswith(found)):
        if _THINK.sub("", prompt) != _THINK.sub("", found):
            _same("the text before an action", prompt, found)
        notes.append("the template opens <think> in one way for generation and in another in history; ids are kept")
        return
    in_history = len(found) > len(prompt)
    extra = found.removeprefix(prompt) if in_history else prompt.removeprefix(found)
    if extra.isspace():
        return
    where = "history" if in_history else "the generation prompt"
    notes.append(f"the template writes {_excerpt(extra)} before an action only in {where}; ids are kept as generated")


def _check_instructions(tokenizer: PreTrainedTokenizerBase, way: Way, head: str) -> None:
    if way.system and way.instructions not in head:
        raise Refused(f"it leaves out or changes the system message: {_excerpt(head)}")
    names = [str(tool.get("function", tool).get("name", "")) for tool in way.tools]
    missing = [name for name in names if json.dumps(name, ensure_ascii=False)[1:-1] not in head]
    if missing or (way.tools and _ignores_tools(tokenizer, way, head)):
        raise Refused(f"it does not render tools ({', '.join(missing or names)}): {_excerpt(head)}")


def _ignores_tools(tokenizer: PreTrainedTokenizerBase, way: Way, head: str) -> bool:
    """A tool may be called what the instructions say anyway, so its name alone does not show that it was rendered."""
    messages = way.conversation([_observation(0)], [])
    try:
        bare = _render(tokenizer, replace(way, tools=()), messages)
    except Refused:  # a template for nothing but tool use
        return False
    return bare.startswith(head + way.first_prefix + _observation(0))


def _harmless_differences(tokenizer: PreTrainedTokenizerBase, way: Way) -> list[str]:
    """What the template would do to contents, and does not get to do because contents are fed as they are."""
    notes = []
    thought = f"<think>\nPlan0\n</think>\n\n{_action(0)}"
    padded = f" \n{_observation(1)}\n "
    text = _render(tokenizer, way, way.conversation([_observation(0), padded], [thought]))
    if thought not in text:
        notes.append("the template removes <think> from earlier turns; actions are kept as they were sampled")
    if padded not in text:
        notes.append("the template trims white space around observations; observations are fed as they are")
    if "strftime_now" in str(tokenizer.chat_template):
        notes.append("the template prints today's date, so runs on different days differ")
    return notes


def _excerpt(text: str, length: int = 80) -> str:
    return repr(text if len(text) <= length else text[:length] + "...")
