"""The checks that look at tokenizers and templates alone, and those of environment and machine."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import trpd_agents.doctor.machine as machine
from trpd_agents.config import RunConfig
from trpd_agents.doctor.ends import ENDS
from trpd_agents.doctor.environment import ENVIRONMENT
from trpd_agents.doctor.finding import Finding, ask
from trpd_agents.doctor.machine import DISK, MACHINE
from trpd_agents.doctor.speakers import Language, Speaker, read_language
from trpd_agents.doctor.template import TEMPLATE
from trpd_agents.doctor.tokens import TOKENS
from trpd_agents.textenv.checks.finding import Verdict

_spec = importlib.util.spec_from_file_location("doctor_faults", Path(__file__).with_name("faults.py"))
assert _spec is not None and _spec.loader is not None
faults = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(faults)


@pytest.fixture
def language(configure: Callable[..., RunConfig], tokenizer: Any) -> Callable[..., Language]:
    """`language(teacher=change, student=change)`: what changes a copy of the tokenizer, and what is to be else."""

    def build(
        teacher: Callable[[Any], Any] = lambda t: t, student: Callable[[Any], Any] = lambda t: t, **speaker: Any
    ) -> Language:
        width = len(tokenizer)
        theirs = teacher(copy.deepcopy(tokenizer))
        return Language(
            configure(),
            Speaker("student", student(copy.deepcopy(tokenizer)), width),
            (Speaker("teacher", theirs, **({"width": width} | speaker)),),
        )

    return build


def pads_otherwise(tokenizer: Any) -> Any:
    tokenizer.pad_token = "<|im_end|>"
    return tokenizer


def endless(tokenizer: Any) -> Any:
    tokenizer.eos_token, tokenizer.chat_template = None, None
    return tokenizer


def found(check: Any, about: Any, verdict: Verdict, *told: str) -> Finding:
    finding = ask(check, about)
    assert finding.verdict is verdict, finding
    assert all(words in f"{finding.found} {finding.fix}" for words in told), finding
    assert bool(finding.fix) == (verdict in (Verdict.WARNING, Verdict.ERROR))
    return finding


def test_one_language(language: Callable[..., Language]) -> None:
    for check in (TOKENS, ENDS, TEMPLATE):
        found(check, language(generation_ends=frozenset([2])), Verdict.OK)


def test_tokens(language: Callable[..., Language]) -> None:
    found(TOKENS, language(faults.permuted), Verdict.ERROR, "do not share a vocabulary", "2 of the student's differ")
    found(TOKENS, language(width=300), Verdict.ERROR, "knows only 300 tokens")
    found(TOKENS, language(pads_otherwise), Verdict.WARNING, "pad_token_id of the teacher: 2, not 0")


def test_tokens_without_another_tokenizer(language: Callable[..., Language]) -> None:
    whole = language()
    found(TOKENS, Language(whole.config, whole.student, ()), Verdict.SKIPPED, "no tokenizer but the student's")


def test_end_tokens(language: Callable[..., Language]) -> None:
    found(
        ENDS, language(faults.ends_otherwise), Verdict.ERROR, "end their turns with different tokens", "<|endoftext|>"
    )
    found(ENDS, language(generation_ends=frozenset([0])), Verdict.WARNING, "that of the teacher names '<|endoftext|>'")
    found(ENDS, language(student=endless), Verdict.ERROR, "nothing ends a turn")


def test_a_template_that_takes_reasoning_out_of_earlier_turns(language: Callable[..., Language]) -> None:
    told = "the first 1 otherwise than with 1", "<think>", "stay as they were sampled"
    found(TEMPLATE, language(student=faults.with_template(faults.STRIPS)), Verdict.WARNING, *told)


def test_a_template_that_forgets_earlier_turns(language: Callable[..., Language]) -> None:
    found(
        TEMPLATE,
        language(student=faults.with_template(faults.LAST_TWO)),
        Verdict.ERROR,
        "cannot be used over several turns",
    )


def test_files_say_what_a_language_is(configure: Callable[..., RunConfig]) -> None:
    language = read_language(configure())
    assert [s.who for s in language.teachers] == ["teacher"] and language.student.generation_ends == {2}


def test_environment(configure: Callable[..., RunConfig], env_file: Path) -> None:
    found(ENVIRONMENT, configure(), Verdict.OK, "the expert of GuessNumber-v0 solved 3 of 3")
    here = {"kwargs": {}, "workers": 0}
    found(ENVIRONMENT, configure(env={"id": f"{env_file}:Short", **here}), Verdict.OK, "no expert")
    finding = found(ENVIRONMENT, configure(env={"id": f"{env_file}:Silent", **here}), Verdict.ERROR, "success")
    assert "trpd check" in finding.fix
    limited = configure(env={"id": "Courier-v0", "kwargs": {"rooms": 3, "items": 2, "max_turns": 8}, "max_turns": 2})
    found(ENVIRONMENT, limited, Verdict.WARNING, "solved 0 of 3", "raise env.max_turns")


def test_machine(configure: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    found(MACHINE, configure(), Verdict.OK, "cpu", "float32")
    found(MACHINE, configure(training={"ranks": 4096, "episodes_per_step": 4096}), Verdict.WARNING, "cores")
    found(DISK, configure(), Verdict.OK, "for 4 checkpoints")
    for free, verdict in ((10, Verdict.ERROR), (4_000_000, Verdict.WARNING)):
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        found(DISK, configure(training={"keep_checkpoints": 4}), verdict, "keep_checkpoints")
