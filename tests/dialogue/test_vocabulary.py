"""Student and teacher must mean the same by the same ids."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from trpd_agents.dialogue import check_same_tokens, end_ids, train_tokenizer
from trpd_agents.errors import UserError

Family = Callable[[str], PreTrainedTokenizerFast]


def test_a_tokenizer_agrees_with_itself_and_with_a_larger_teacher(make_family: Family) -> None:
    student, teacher = make_family("chatml"), make_family("chatml")
    check_same_tokens(student, teacher)
    teacher.add_tokens(["<extra>"])
    check_same_tokens(student, teacher)
    check_same_tokens(student, teacher, student_vocab_size=2000, teacher_vocab_size=1000)
    with pytest.raises(UserError, match="'<extra>'"):
        check_same_tokens(teacher, student)
    with pytest.raises(UserError, match=f"knows only {len(student)} tokens"):
        check_same_tokens(student, teacher, student_vocab_size=len(student))


def test_different_vocabularies_are_named(own: PreTrainedTokenizerFast) -> None:
    other = train_tokenizer(["some other text, some other text"], 420, ["attic", "lamp"])
    with pytest.raises(UserError, match=r"id \d+ is .* for the student and .* for the teacher.*model family"):
        check_same_tokens(own, other)


def test_different_end_tokens_are_named(make_family: Family) -> None:
    student, teacher = make_family("chatml"), make_family("chatml")
    teacher.eos_token = "<|im_end|>"
    check_same_tokens(student, teacher)  # the template ends turns with <|im_end|> for both
    teacher.chat_template = student.chat_template.replace("<|im_end|>", "<|endoftext|>")
    with pytest.raises(
        UserError, match=r"the student with '<\|im_end\|>' \(2\), the teacher with '<\|endoftext\|>' \(0\)"
    ):
        check_same_tokens(student, teacher)
    student.chat_template = None
    teacher.chat_template = None
    with pytest.raises(UserError, match="different tokens"):
        check_same_tokens(student, teacher)
    check_same_tokens(student, teacher, student_end=[0, 2])


def test_end_ids(make_family: Family) -> None:
    tokenizer = make_family("chatml")
    assert end_ids(tokenizer) == {0, 2}
    tokenizer.chat_template = "{{ messages | length }}"
    assert end_ids(tokenizer) == {0}, "a template that cannot be used has no say"
