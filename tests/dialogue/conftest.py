"""Tokenizers and chat templates for the dialogue tests, all made here: nothing is downloaded.

The templates are written in the style of well-known families, reduced to what matters for feeding a conversation piece
by piece. A family is a template with the added tokens it relies on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from trpd_agents.dialogue import train_tokenizer

CORPUS = [
    '<|im_start|>assistant\n<tool_call>{"name": "go", "arguments": {"room": "kitchen"}}</tool_call><|im_end|>\n',
    "<|im_start|>tool\nYou are in the kitchen. There is a lamp here.\n<|im_end|>\n",
    "user\nObservation: nothing happens.\n",
] * 4

CHATML = """
{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content }}
{%- else %}{{- '<|im_start|>system\nYou are a helpful model.' }}{%- endif %}
{%- if tools %}{{- '\n\n<tools>' }}{%- for tool in tools %}{{- '\n' + (tool | tojson) }}{%- endfor %}
{{- '\n</tools>' }}{%- endif %}{{- '<|im_end|>\n' }}
{%- for message in messages %}
{%- if message.role in ['user', 'assistant'] %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- elif message.role == 'tool' %}
{%- if loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
{%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""

HEADERS = """
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + (message.content | trim) + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}
"""

INST = """
{{- bos_token }}
{%- for message in messages %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant') }}{%- endif %}
{%- if message.role == 'user' %}{{- '[INST] ' + message.content + ' [/INST]' }}
{%- else %}{{- ' ' + message.content + eos_token }}{%- endif %}
{%- endfor %}
"""

THINKING = """
{%- set ns = namespace(last=0) %}
{%- for message in messages %}{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- if tools %}{{- '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{%- set answer = message.content.split('</think>')[-1].lstrip('\n') %}
{{- '<|im_start|>assistant\n' }}
{%- if loop.index0 > ns.last %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{{- answer + '<|im_end|>\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""

PLAIN = """
{%- for message in messages %}{{- message.role + ': ' + message.content + '\n\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant: ' }}{%- endif %}
"""

ADDED = {
    CHATML: ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    HEADERS: ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    INST: ["<s>", "</s>", "[INST]", "[/INST]"],
    THINKING: ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    PLAIN: ["<eos>"],
}
BOS = {HEADERS: "<|begin_of_text|>", INST: "<s>"}
EOS = {CHATML: "<|endoftext|>", HEADERS: "<|eot_id|>", INST: "</s>", THINKING: "<|im_end|>", PLAIN: "<eos>"}
FAMILIES = {"chatml": CHATML, "headers": HEADERS, "inst": INST, "thinking": THINKING, "plain": PLAIN}

GO: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "go",
        "description": "Walk to a room.",
        "parameters": {"type": "object", "properties": {"room": {"type": "string"}}, "required": ["room"]},
    },
}


def bpe(
    special: list[str], ordinary: list[str], metaspace: str | None = None, **tokens: str
) -> PreTrainedTokenizerFast:
    """A small BPE with added tokens. `metaspace`: prepend scheme of a SentencePiece-style one; None: byte level."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>" if metaspace else None, byte_fallback=metaspace is not None))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=metaspace, split=False)
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        alphabet = []
        special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *special]
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False, min_frequency=2
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if metaspace:  # the byte tokens are vocabulary, not control tokens
        tokenizer = _without_added_bytes(tokenizer)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in ordinary])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)


def _without_added_bytes(tokenizer: Tokenizer) -> Tokenizer:
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if not t["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(state))


@pytest.fixture(scope="session")
def make_family() -> Callable[[str], PreTrainedTokenizerFast]:
    """A fresh tokenizer of the family `name` with its template."""

    def make(name: str) -> PreTrainedTokenizerFast:
        template = FAMILIES[name]
        special = ADDED[template]
        tokens = {"eos_token": EOS[template]}
        if template in BOS:
            tokens["bos_token"] = BOS[template]
        ordinary = ["<tool_response>", "</tool_response>", "<tool_call>", "</tool_call>", "<think>", "</think>"]
        tokenizer = bpe(special, ordinary if template in (CHATML, THINKING) else [], **tokens)
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.fixture(scope="session")
def metaspace() -> Callable[[str], PreTrainedTokenizerFast]:
    """A SentencePiece-style tokenizer with the `inst` template, by prepend scheme."""

    def make(scheme: str) -> PreTrainedTokenizerFast:
        tokenizer = bpe(["<s>", "</s>"], [], metaspace=scheme, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
        tokenizer.chat_template = INST
        return tokenizer

    return make


@pytest.fixture(scope="session")
def own() -> PreTrainedTokenizerFast:
    """A tokenizer made by `train_tokenizer`, with atoms."""
    return train_tokenizer(CORPUS, 420, ["kitchen", "attic", "lamp", "red key", "room2", "café", "key"])


@pytest.fixture(scope="session")
def tools() -> list[dict[str, Any]]:
    return [GO]
