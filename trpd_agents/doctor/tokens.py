"""Do the same ids mean the same tokens to student and teacher?"""

from __future__ import annotations

from trpd_agents.dialogue import check_same_ids
from trpd_agents.doctor.finding import Check, Finding, error, ok, skipped, warning
from trpd_agents.doctor.speakers import Language, Speaker
from trpd_agents.errors import UserError

_SPECIAL = ("bos_token_id", "pad_token_id", "unk_token_id")  # end tokens are a check of their own


def _check(language: Language) -> Finding:
    student = language.student
    if not language.teachers:
        return skipped(f"no tokenizer but the student's, with {_size(student)}")
    odd: list[str] = []
    for teacher in language.teachers:
        try:
            check_same_ids(
                student.tokenizer,
                teacher.tokenizer,
                student_vocab_size=student.width,
                teacher_vocab_size=teacher.width,
            )
        except UserError as told:
            return error(str(told), "Take student and teacher of one model family, with one tokenizer.")
        odd += [
            f"{name} of the {teacher.who}: {theirs}, not {ours}" for name, ours, theirs in _differing(student, teacher)
        ]
    sizes = ", ".join(f"{speaker.who} {_size(speaker)}" for speaker in (student, *language.teachers))
    if odd:
        fix = "Scores are not touched by it; other software that pads or begins texts is. Copy the student's tokenizer."
        return warning(f"the same tokens ({sizes}), but {'; '.join(odd)}", fix)
    return ok(f"{sizes}; every id of the student's means the same")


def _size(speaker: Speaker) -> str:
    head = "" if speaker.width is None else f", head of {speaker.width}"
    return f"{len(speaker.tokenizer)} tokens{head}"


def _differing(student: Speaker, teacher: Speaker) -> list[tuple[str, int, int]]:
    pairs = ((name, getattr(student.tokenizer, name), getattr(teacher.tokenizer, name)) for name in _SPECIAL)
    return [(name, ours, theirs) for name, ours, theirs in pairs if None not in (ours, theirs) and ours != theirs]


TOKENS = Check("tokens", "the same ids for the same tokens, all within both models' heads", _check)
