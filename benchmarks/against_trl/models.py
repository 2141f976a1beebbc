"""A student and a teacher that always write a tool call of exactly so many tokens, made without training.

A tool loop goes on only while the model writes valid calls, so nothing could be measured with random weights, and
forcing the calls from outside would cost one side or both some time. Here the weights themselves do it: an action is a
fixed row of slots, each with a set of tokens of its own, and the embedding and output matrices of an otherwise random
Llama are laid out so that a token of one slot is followed by one of the next: one particular token where the call's
syntax wants it, and one of several, drawn at random, inside the key. Both sides sample from these weights as from any
others. The random rest makes teacher and student differ.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import torch
from task import INSTRUCTIONS, WORDS, answer, question
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.utils import logging

from trpd_agents.dialogue import Dialogue, train_tokenizer
from trpd_agents.dialogue.chatml import END
from trpd_envs.tools import format_call

VOCAB_SIZE = 1024
SHAPE: dict[str, Any] = dict(hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=6)
CONTEXT = 8192  # tokens
PULL = 8.0  # length of a slot's direction in its tokens' embeddings, against 0.3 of the random part
PUSH = 2.0  # length of the same direction in the output rows of the next slot's tokens: 27 nats above all others
_KEY = "KEY"


def make_models(directory: Path, tools: list[dict[str, Any]], action_tokens: int, answer_words: int) -> dict[str, int]:
    """Write `student` and `teacher` into `directory`.

    Returns the sizes that the table names: `parameters` of one model, `prompt_tokens` before the first action, and
    `observation_tokens` between two actions, template included.

    Raises:
        ValueError: an action cannot have that few or that many tokens.
    """
    logging.disable_progress_bar()
    tokenizer = _tokenizer(tools, answer_words)
    slots = _slots(tokenizer, action_tokens)
    parameters = 0
    for seed, who in enumerate(("student", "teacher")):
        model = _model(tokenizer, slots, seed)
        model.save_pretrained(directory / who)
        tokenizer.save_pretrained(directory / who)
        parameters = sum(p.numel() for p in model.parameters())
    dialogue = Dialogue(tokenizer, INSTRUCTIONS, tools)
    return {
        "parameters": parameters,
        "prompt_tokens": len(dialogue.start(question(0))),
        "observation_tokens": len(dialogue.observe(answer("", answer_words), ended=True)),
    }


def _tokenizer(tools: list[dict[str, Any]], answer_words: int) -> PreTrainedTokenizerBase:
    """Trained on conversations of the task; every word of `WORDS` is one token."""
    plain = train_tokenizer(["-"], 512)  # for its chat template only
    rng = random.Random(0)
    texts = []
    for seed in range(200):
        key = "".join(rng.choices(WORDS, k=3))
        chat = [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": question(seed)},
            {"role": "assistant", "content": format_call("look", key=key)},
            {"role": "tool", "content": answer(key, answer_words)},
        ]
        texts.append(str(plain.apply_chat_template(chat, tools=tools, tokenize=False)))
    return train_tokenizer(texts, VOCAB_SIZE, atoms=WORDS)


def _slots(tokenizer: PreTrainedTokenizerBase, action_tokens: int) -> list[list[int]]:
    """Which tokens may stand at each place of an action."""
    before, after = format_call("look", key=_KEY).split(_KEY)
    fixed = [tokenizer.encode(text, add_special_tokens=False) for text in (before, after)]
    syntax = sum(map(len, fixed)) + 1  # and the end of the turn
    free = action_tokens - syntax
    if not 1 <= free <= len(WORDS) // 2:
        raise ValueError(
            f"an action of {action_tokens} tokens: wanted from {syntax + 1} to {syntax + len(WORDS) // 2}, because a "
            f"call without its key takes {syntax}"
        )
    words = [int(tokenizer.convert_tokens_to_ids(word)) for word in WORDS]
    size = min(len(words) // free, 16)
    key = [words[i * size : (i + 1) * size] for i in range(free)]
    slots = [*([i] for i in fixed[0]), *key, *([i] for i in fixed[1]), [int(tokenizer.convert_tokens_to_ids(END))]]
    flat = [token for slot in slots for token in slot]
    assert len(set(flat)) == len(flat), "a token stands in two slots, so what follows it is not decided"
    return slots


def _model(tokenizer: PreTrainedTokenizerBase, slots: list[list[int]], seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=math.ceil(len(tokenizer) / 64) * 64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SHAPE,
    )
    model = LlamaForCausalLM(config)
    opening = tokenizer.encode("assistant\n", add_special_tokens=False)[-1]  # the last token before any action
    previous = [[opening], *slots[:-1]]
    generator = torch.Generator().manual_seed(1234)  # the same directions in both models
    directions = torch.linalg.qr(torch.randn(SHAPE["hidden_size"], len(slots), generator=generator)).Q.T
    with torch.no_grad():
        for direction, sources, targets in zip(directions, previous, slots, strict=True):
            model.model.embed_tokens.weight[sources] += PULL * direction
            model.lm_head.weight[targets] += PUSH * direction
    return model
