"""Two tokenizers must mean the same by the same ids before one model may score what the other wrote."""

from __future__ import annotations

from collections.abc import Collection

from transformers import PreTrainedTokenizerBase

from trpd_agents.dialogue.encode import Encoder
from trpd_agents.dialogue.layout import find_layout
from trpd_agents.errors import UserError

_SHOWN = 3


def check_same_tokens(
    student: PreTrainedTokenizerBase,
    teacher: PreTrainedTokenizerBase,
    student_end: Collection[int] | None = None,
    teacher_end: Collection[int] | None = None,
    *,
    student_vocab_size: int | None = None,
    teacher_vocab_size: int | None = None,
) -> None:
    """Raise `UserError` unless `teacher` can score the ids of `student`.

    Every token of the student must have the same id in the teacher's vocabulary; the teacher may have more. The end
    tokens of their chat templates must agree, and `student_end` and `teacher_end` (default: `end_ids(tokenizer)`)
    must overlap. The vocabulary sizes are the widths of the two models' logits, which padding makes larger than the
    vocabularies: ids used by either must lie within both.
    """
    check_same_ids(student, teacher, student_vocab_size=student_vocab_size, teacher_vocab_size=teacher_vocab_size)
    check_same_ends(student, teacher, student_end, teacher_end)


def check_same_ids(
    student: PreTrainedTokenizerBase,
    teacher: PreTrainedTokenizerBase,
    *,
    student_vocab_size: int | None = None,
    teacher_vocab_size: int | None = None,
) -> None:
    """The part of `check_same_tokens` about ids and the widths of logits."""
    _check_vocabularies(student, teacher)
    for whose, tokenizer, other, width in (
        ("student", teacher, "teacher", student_vocab_size),
        ("teacher", student, "student", teacher_vocab_size),
    ):
        largest = max(tokenizer.get_vocab().values(), default=-1)
        if width is not None and largest >= width:
            raise UserError(
                f"the {other}'s tokenizer has ids up to {largest}, but the {whose} model knows only {width} tokens: "
                "use models of one family"
            )


def check_same_ends(
    student: PreTrainedTokenizerBase,
    teacher: PreTrainedTokenizerBase,
    student_end: Collection[int] | None = None,
    teacher_end: Collection[int] | None = None,
) -> None:
    """The part of `check_same_tokens` about what ends a turn."""
    student_template, teacher_template = _template_end(student), _template_end(teacher)
    ends = set(end_ids(student) if student_end is None else student_end)
    teacher_ends = set(end_ids(teacher) if teacher_end is None else teacher_end)
    differ = student_template is not None and teacher_template is not None and student_template != teacher_template
    if differ or not ends & teacher_ends:
        if differ:
            ends, teacher_ends = {student_template or 0}, {teacher_template or 0}
        raise UserError(
            f"student and teacher end their turns with different tokens: the student with {_names(student, ends)}, the "
            f"teacher with {_names(teacher, teacher_ends)}. Give both the same chat template and eos_token"
        )


def end_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids that end an assistant turn: the tokenizer's own end token and its chat template's."""
    return {end for end in (tokenizer.eos_token_id, _template_end(tokenizer)) if end is not None}


def _template_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    if not tokenizer.chat_template:
        return None
    try:
        layout = find_layout(tokenizer, "", [])
    except UserError:
        return None  # only the student's template is ever used
    found = Encoder(tokenizer).first_control_token(layout.bridge)
    return None if found is None else found[0]


def _check_vocabularies(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours == theirs:
        return
    differing = sorted((index, token) for token, index in ours.items() if theirs.get(token) != index)
    if not differing:
        return
    by_id = {index: token for token, index in theirs.items()}
    shown = ", ".join(
        f"id {index} is {token!r} for the student and {by_id.get(index)!r} for the teacher"
        for index, token in differing[:_SHOWN]
    )
    raise UserError(
        f"student and teacher do not share a vocabulary ({len(ours)} and {len(theirs)} tokens, {len(differing)} of the "
        f"student's differ): {shown}. Choose a teacher of the student's model family"
    )


def _names(tokenizer: PreTrainedTokenizerBase, ids: Collection[int]) -> str:
    return ", ".join(f"{tokenizer.convert_ids_to_tokens(index)!r} ({index})" for index in sorted(ids)) or "none"
