"""What can be wrong with a run, to be planted: by the tests of the doctor, and by benchmarks/doctor_faults.py."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from trpd_agents.doctor.subject import plain_logprobs
from trpd_agents.models import LanguageModel
from trpd_agents.rollout import TransformersEngine
from trpd_agents.rollout.sampling import sample
from trpd_agents.teacher import LocalTeacher
from trpd_agents.trajectory import Scores, Trajectory


def twin(lm: LanguageModel) -> LanguageModel:
    """Another model of the same weights, with a tokenizer of its own."""
    return replace(lm, model=copy.deepcopy(lm.model), tokenizer=copy.deepcopy(lm.tokenizer))


# Tokenizers and templates

STRIPS = """
{%- for message in messages %}
{%- set content = message.content %}
{%- if message.role == 'assistant' and not loop.last %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}
{{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""
"""Takes the reasoning out of all turns but the last."""

LAST_TWO = """
{%- for message in messages[-2:] %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""
"""Forgets all messages but two."""


def permuted(tokenizer: Any) -> Any:
    """The same tokens with two of the ids exchanged."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = state["model"]["vocab"]
    one, other = sorted(vocab, key=lambda token: vocab[token])[100:102]
    vocab[one], vocab[other] = vocab[other], vocab[one]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        chat_template=tokenizer.chat_template,
    )


def ends_otherwise(tokenizer: Any) -> Any:
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<|endoftext|>")
    tokenizer.eos_token = "<|endoftext|>"
    return tokenizer


def with_template(template: str) -> Callable[[Any], Any]:
    def change(tokenizer: Any) -> Any:
        tokenizer.chat_template = template
        return tokenizer

    return change


# Teachers


class Late(LocalTeacher):
    """Writes every score one position late: of each token, what was said of the one before."""

    by = -1

    def score(self, trajectories: Sequence[Trajectory]) -> list[Scores]:
        found = []
        for t in trajectories:
            plain = plain_logprobs(self.lm, t.tokens)
            at = t.action_positions()
            found.append(Scores(at, plain[np.clip(at + self.by, 1, len(plain) - 1)]))
        return found


class Early(Late):
    by = 1


class Misplaced(LocalTeacher):
    def score(self, trajectories: Sequence[Trajectory]) -> list[Scores]:
        return [replace(s, positions=s.positions - 1) for s in super().score(trajectories)]


class Scaled(LocalTeacher):
    """A temperature that nobody asked for."""

    def score(self, trajectories: Sequence[Trajectory]) -> list[Scores]:
        return [replace(s, lt=s.lt * 1.5) for s in super().score(trajectories)]


class Crowded(LocalTeacher):
    """Attends to padding: what it says depends on how many are asked about."""

    def score(self, trajectories: Sequence[Trajectory]) -> list[Scores]:
        return [replace(s, lt=s.lt - 0.3 * (len(trajectories) > 1)) for s in super().score(trajectories)]


class Noisy(LocalTeacher):
    """Dropout, or something like it, that is still on."""

    amount = 1.0

    def __init__(self, lm: LanguageModel):
        super().__init__(lm)
        lm.model.model.norm.register_forward_hook(lambda m, i, out: out + self.amount * torch.randn_like(out))


class SlightlyNoisy(Noisy):
    amount = 0.01


# Samplers


class Copying(TransformersEngine):
    """Has weights of its own, as servers do."""

    def __init__(self, lm: LanguageModel):
        super().__init__(twin(lm))

    def load_weights(self, state: Any, version: int) -> None:
        self.lm.model.load_state_dict(state)


class Undelivered(Copying):
    def load_weights(self, state: Any, version: int) -> None:
        self.version = version


class HalfDelivered(Copying):
    """Its head keeps the old weights, as a packed copy of a tied one does."""

    def load_weights(self, state: Any, version: int) -> None:
        body = {name: value for name, value in state.items() if not name.startswith("lm_head")}
        self.lm.model.load_state_dict(body, strict=False)


def truncated(p: float) -> Any:
    """Stands in for `sample`: top-p, with the log-probabilities of the whole distribution, as servers report them."""

    def draw(logits: torch.Tensor, *rest: Any) -> Any:
        probabilities, order = logits.float().softmax(-1).sort(descending=True)
        out = torch.zeros_like(probabilities, dtype=torch.bool)
        out.scatter_(-1, order, probabilities.cumsum(-1) - probabilities >= p)
        token, _ = sample(logits.masked_fill(out, -1e9), *rest)
        return token, logits.float().log_softmax(-1).gather(-1, token[:, None])[:, 0]

    return draw


def heated(temperature: float, told: bool) -> Any:
    """Stands in for `sample`: another temperature, whose log-probabilities are reported or not."""

    def draw(logits: torch.Tensor, sampling: Any, *rest: Any) -> Any:
        token, logprob = sample(logits, replace(sampling, temperature=temperature), *rest)
        if told:
            logprob = (logits.float() / temperature).log_softmax(-1).gather(-1, token[:, None])[:, 0]
        return token, logprob

    return draw
