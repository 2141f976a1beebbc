"""Is a conversation of k turns, as the chat template writes it, the beginning of one of k + 1?

Training never renders a conversation anew, so a template that rewrites earlier turns does no harm there unless it
cannot be fed piece by piece at all, which is an error. But whoever serves the student later does render it anew, and
then the student meets conversations that it was never trained on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

from transformers import PreTrainedTokenizerBase

from trpd_agents.config import RunConfig
from trpd_agents.dialogue.layout import Layout, find_layout
from trpd_agents.doctor.finding import Check, Finding, error, ok, warning
from trpd_agents.doctor.speakers import Language, Task
from trpd_agents.errors import UserError
from trpd_agents.textenv import EnvSpec, make
from trpd_agents.textenv.mixture import members

_TURNS = 4
_SHOWN = 60  # characters


def _check(language: Language) -> Finding:
    tokenizer = language.student.tokenizer
    notes: dict[str, None] = {}
    for instructions, tools in language.tasks or _tasks(language.config):
        try:
            layout = find_layout(tokenizer, instructions, tools)
        except UserError as told:
            return error(str(told), "Set the tokenizer's chat_template to one that only ever appends.")
        if parting := _parting(tokenizer, layout):
            return warning(
                f"{parting}; in training earlier turns stay as they were sampled"
                + "".join(f"; {note}" for note in layout.notes),
                "Serve the student with a template that leaves earlier turns alone, or train one with such a template.",
            )
        notes |= dict.fromkeys(layout.notes)
    if notes:
        return ok(f"{_TURNS - 1} turns are the beginning of {_TURNS}; {'; '.join(notes)}")
    return ok(f"{_TURNS - 1} turns are the beginning of {_TURNS}, with and without <think>")


def _tasks(config: RunConfig) -> Iterator[Task]:
    for member in members(EnvSpec(config.env.id, config.env.kwargs)):
        with closing(make(member.spec)) as env:
            env.reset(config.evaluation.seed)
            yield env.instructions, env.tools


def _parting(tokenizer: PreTrainedTokenizerBase, layout: Layout) -> str:
    """Where the rendering of some turns and of one more part, in words; nothing if they do not."""
    for thought in ("", "<think>\nplan {}\n</think>\n\n"):
        observations = [f"observation {i}" for i in range(_TURNS)]
        actions = [thought.format(i) + f"action {i}" for i in range(_TURNS)]
        texts = [
            str(
                tokenizer.apply_chat_template(
                    layout.way.conversation(observations[:k], actions[:k]),
                    tools=list(layout.way.tools) or None,
                    tokenize=False,
                )
            )
            for k in range(1, _TURNS + 1)
        ]
        for k, (shorter, longer) in enumerate(zip(texts, texts[1:], strict=False), start=1):
            # What follows the last action may be different when something comes after it.
            said = f"action {k - 1}"
            beginning = shorter[: shorter.rfind(said) + len(said)]
            if said not in shorter or not longer.startswith(beginning):
                at = max(len(os.path.commonprefix([beginning, longer])) - 15, 0)
                return (
                    f"with {k + 1} turns the template writes the first {k} otherwise than with {k}: "
                    f"{beginning[at : at + _SHOWN]!r} became {longer[at : at + _SHOWN]!r}"
                )
    return ""


TEMPLATE = Check("chat template", "a conversation's rendering begins with that of its earlier turns", _check)
