"""Does everybody agree on the token that ends a turn: templates, tokenizers, and what other software will stop at?"""

from __future__ import annotations

from collections.abc import Collection

from trpd_agents.dialogue import check_same_ends, end_ids
from trpd_agents.doctor.finding import Check, Finding, error, ok, warning
from trpd_agents.doctor.speakers import Language, Speaker
from trpd_agents.errors import UserError


def _check(language: Language) -> Finding:
    student = language.student
    ours = end_ids(student.tokenizer)
    if not ours:
        return error(
            "nothing ends a turn of the student's: neither its chat template nor eos_token",
            "Set tokenizer.eos_token, or a chat template that ends an assistant's message with a special token.",
        )
    for teacher in language.teachers:
        try:
            check_same_ends(student.tokenizer, teacher.tokenizer)
        except UserError as told:
            return error(
                str(told),
                "A teacher that ends turns otherwise finds every end of the student's turns wrong: give it the "
                "student's chat template and eos_token, or take an instruction-tuned teacher of the same family.",
            )
    elsewhere = [s for s in (student, *language.teachers) if s.generation_ends and not s.generation_ends & ours]
    if elsewhere:
        names = "; ".join(f"that of the {s.who} names {_names(s, s.generation_ends)}" for s in elsewhere)
        return warning(
            f"turns end with {_names(student, ours)}, but of generation_config.json {names}",
            "Training does not read that file; other software will run on past the end of a turn. Set eos_token_id.",
        )
    return ok(f"turns end with {_names(student, ours)}")


def _names(speaker: Speaker, ids: Collection[int]) -> str:
    tokenizer = speaker.tokenizer
    return ", ".join(f"{tokenizer.convert_ids_to_tokens(index)!r} ({index})" for index in sorted(ids))


ENDS = Check("end tokens", "one token ends a turn, for student, teacher, template and generation_config.json", _check)
