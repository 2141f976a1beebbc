"""What is to be known of a model's language without its weights: its tokenizer, its head's width, its end tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from trpd_agents.config import ModelConfig, RunConfig, ServerTeacherConfig
from trpd_agents.models import LanguageModel, read_outline, resolve_model
from trpd_agents.teacher.of_run import teachers_of


@dataclass(frozen=True)
class Speaker:
    """A model's language. `width` is None for a model behind a server; `generation_ends` are the end tokens that its
    generation_config.json names, which other software stops at."""

    who: str
    tokenizer: PreTrainedTokenizerBase
    width: int | None
    generation_ends: frozenset[int] = frozenset()


Task = tuple[str, list[dict[str, Any]]]
"""What a conversation begins with: instructions and tools."""


@dataclass(frozen=True)
class Language:
    """The student's and its teachers'. A teacher without a tokenizer of its own is not listed.

    `tasks` are those that were met already; without any, the environment is asked.
    """

    config: RunConfig
    student: Speaker
    teachers: tuple[Speaker, ...]
    tasks: tuple[Task, ...] = ()


def read_language(config: RunConfig) -> Language:
    """The language of a run's models, from their files; no weights are read.

    Raises:
        UserError: a model or its tokenizer is not there.
    """
    speakers = []
    for name, section in teachers_of(config).items():
        who = f"teacher {name}".strip()
        if isinstance(section, ModelConfig):
            speakers.append(_read(who, section))
        elif isinstance(section, ServerTeacherConfig) and section.tokenizer is not None:
            speakers.append(Speaker(who, read_outline(section.tokenizer).tokenizer, None))
    return Language(config, _read("student", config.student), tuple(speakers))


def language_of(
    config: RunConfig, student: LanguageModel, teachers: Mapping[str, LanguageModel], tasks: Iterable[Task]
) -> Language:
    """The same of models that are loaded."""
    named = tuple(_loaded(f"teacher {name}".strip(), lm) for name, lm in teachers.items())
    return Language(config, _loaded("student", student), named, tuple(tasks))


def _read(who: str, model: ModelConfig) -> Speaker:
    outline = read_outline(model.model, model.trust_remote_code)
    try:
        found = GenerationConfig.from_pretrained(resolve_model(model.model))
    except (OSError, ValueError):  # a model need not have one
        return Speaker(who, outline.tokenizer, outline.vocab_size)
    return Speaker(who, outline.tokenizer, outline.vocab_size, _ends(found))


def _loaded(who: str, lm: LanguageModel) -> Speaker:
    return Speaker(who, lm.tokenizer, lm.vocab_size, _ends(lm.model.generation_config))


def _ends(settings: GenerationConfig | None) -> frozenset[int]:
    ends = getattr(settings, "eos_token_id", None)
    return frozenset(ends if isinstance(ends, (list, tuple)) else [] if ends is None else [int(ends)])
