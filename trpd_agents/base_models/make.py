"""Make the small base models that ship with the package: `python -m trpd_agents.base_models.make`.

They know what the bundled environments' texts look like and what a tool call answers, and no policy: they are language
models of *random legal play* under random settings. Nothing here looks at an expert, a success or a reward. So a few
hundred updates of imitation or distillation go into what to do, not into how to spell it.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from trpd_agents.batching import micro_batches, pad_ids
from trpd_agents.dialogue.tokenizer import train_tokenizer
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.textenv import EnvSpec, make
from trpd_envs.courier import ITEMS, ROOMS
from trpd_envs.keychain import COLOURS, WORDS
from trpd_envs.tools import format_call

VOCAB_SIZE = 1024
CONTEXT = 2048  # tokens
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(hidden_size=64, intermediate_size=192, num_hidden_layers=4, num_attention_heads=4),
    "small": dict(hidden_size=96, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4),
}
DRILLS = 0.4  # share of Courier's and KeyChain's episodes that are reading practice instead of play
UPDATES = 2000
TOKENS_PER_UPDATE = 2048
PEAK_LR = 2e-3

Message = tuple[str, str]  # ("observation" | "action", text)


def _courier(observation: str, rng: random.Random) -> str:
    exits = _listed(observation, "Exits")
    here = _listed(observation, "Here")
    held = _listed(observation, "You hold")
    calls = [format_call("go", room=room) for room in exits]
    calls += [format_call("drop", item=item) for item in held] or [format_call("take", item=item) for item in here] * 2
    if not calls or rng.random() < 0.03:  # what a refused call looks like
        calls = [format_call("go", room=rng.choice(ROOMS)), format_call("take", item=rng.choice(ITEMS))]
    return rng.choice(calls)


def _listed(observation: str, label: str) -> list[str]:
    found = re.findall(rf"{label}: ([^.]*)\.", observation)
    return [word for word in found[-1].split(", ") if word not in ("nothing", "none")] if found else []


def _keychain(observation: str, rng: random.Random) -> str:
    words = [entry.split()[-1] for entry in _listed(observation, "Keys") or _listed(observation, "Values")]
    word = rng.choice(words or WORDS)
    return format_call("submit", value=word) if "Values" in observation else format_call("lookup", key=word)


def _gridlake(observation: str, rng: random.Random) -> str:
    return rng.choice(["up", "down", "left", "right"])


def _frozenlake(observation: str, rng: random.Random) -> str:
    return rng.choice(["[up]", "[down]", "[left]", "[right]"])


def _guessnumber(observation: str, rng: random.Random) -> str:
    return str(rng.randint(1, 31))


# id, share of the corpus, random settings, random legal action
GAMES: list[tuple[str, float, Callable[[random.Random], dict], Callable[[str, random.Random], str]]] = [
    (
        "trpd/Courier-v0",
        0.55,
        lambda r: dict(
            rooms=r.randint(3, 6),
            items=r.randint(1, 3),
            locking=r.random() < 0.7,
            max_turns=r.randint(8, 14),
            words=r.randint(6, 12),
        ),
        _courier,
    ),
    (
        "trpd/KeyChain-v0",
        0.26,
        lambda r: dict(length=r.randint(2, 5), decoys=r.randint(1, 3), undo=r.random() < 0.3),
        _keychain,
    ),
    ("trpd/GridLake-v0", 0.07, lambda r: dict(size=r.randint(3, 5)), _gridlake),
    ("trpd/GuessNumber-v0", 0.07, lambda r: {}, _guessnumber),
    ("textarena/FrozenLake-v0", 0.05, lambda r: {}, _frozenlake),
]


def random_games(seed: int) -> Iterator[tuple[str, list[dict], list[Message]]]:
    """Endless random legal play: instructions, tools and the messages of one episode after another."""
    rng = random.Random(seed)
    while True:
        (name, _, settings, act) = rng.choices(GAMES, [share for _, share, _, _ in GAMES])[0]
        env = make(EnvSpec(name, settings(rng)))
        observation = env.reset(rng.randrange(2**31))
        messages = [("observation", observation)]
        if act in READING and rng.random() < DRILLS:
            yield env.instructions, env.tools, [("observation", READING[act](observation, rng))]
            continue
        ended = False
        while not ended:
            action = act(observation, rng)
            step = env.step(action)
            observation, ended = step.observation, step.terminated or step.truncated
            messages += [("action", action), ("observation", observation)]
        yield env.instructions, env.tools, messages


def read_map(observation: str, rng: random.Random) -> str:
    """The order and its map, then what they say again and again in another order: dense practice in looking things up.

    Random play asks the map a question now and then; a small model learns to copy many times faster from this.
    """
    order, _, state = observation.partition("\n")
    items, doors = (re.split(r"(?<=\.) ", part.strip()) for part in order.split("Items: ")[1].split("Map: "))
    lines = [observation]
    for _ in range(rng.randint(3, 6)):
        rng.shuffle(items)
        rng.shuffle(doors)
        lines.append(f"{order.split(' Items: ')[0]} Items: {' '.join(items)} Map: {' '.join(doors)}")
    return "\n".join(lines)


def read_keys(observation: str, rng: random.Random) -> str:
    """A list of coloured words, then the same list again and again in another order, likewise."""
    words = rng.sample(WORDS, rng.randint(2, 5))
    pairs = [f"{colour} {word}" for colour, word in zip(rng.sample(COLOURS, len(words)), words, strict=True)]
    lines = [observation]
    for _ in range(rng.randint(4, 8)):
        rng.shuffle(pairs)
        lines.append(f"{rng.choice(['Keys', 'Values'])}: {', '.join(pairs)}.")
    return "\n".join(lines)


READING: dict[Callable[[str, random.Random], str], Callable[[str, random.Random], str]] = {
    _courier: read_map,
    _keychain: read_keys,
}


def encode(dialogues: Dialogues, instructions: str, tools: list[dict], messages: list[Message]) -> list[int]:
    """One episode as the collector would have fed it."""
    dialogue = dialogues(instructions, tools)
    ids = list(dialogue.start(messages[0][1]))
    for kind, text in messages[1:]:
        ids += dialogue.answer(text) if kind == "action" else dialogue.observe(text, ended=True)
    return ids


def make_tokenizer(seed: int = 0) -> PreTrainedTokenizerBase:
    """The shared tokenizer: names are single tokens, recurring phrases are merged."""
    plain = train_tokenizer(["-"], 512)  # for its chat template only
    games = random_games(seed)
    texts = []
    for _ in range(600):
        instructions, tools, messages = next(games)
        chat = [{"role": "system", "content": instructions}] if instructions else []
        other = "tool" if tools else "user"
        chat.append({"role": "user", "content": messages[0][1]})
        chat += [{"role": "assistant" if kind == "action" else other, "content": text} for kind, text in messages[1:]]
        texts.append(str(plain.apply_chat_template(chat, tools=[*tools] or None, tokenize=False)))
    return train_tokenizer(texts, VOCAB_SIZE, atoms=[*ROOMS, *ITEMS, *COLOURS, *WORDS])


def pretrain(size: str, tokenizer: PreTrainedTokenizerBase, updates: int, seed: int = 0) -> LlamaForCausalLM:
    """A language model of random play. Untied embeddings, so that an inference engine's weight transfer is exact."""
    torch.manual_seed(seed)
    vocab = math.ceil(len(tokenizer) / 64) * 64
    config = LlamaConfig(
        vocab_size=vocab,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SIZES[size],
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=updates, pct_start=0.05)
    dialogues = Dialogues(tokenizer)
    games = random_games(seed + 1)
    started, total = time.time(), 0.0
    for update in range(1, updates + 1):
        batch, tokens = [], 0
        while tokens < TOKENS_PER_UPDATE:
            batch.append(encode(dialogues, *next(games)))
            tokens += len(batch[-1])
        for group in micro_batches([len(s) for s in batch], 3072):
            ids = pad_ids([np.array(batch[i]) for i in group], model.device)
            real = torch.arange(ids.shape[1]) < torch.tensor([len(batch[i]) for i in group])[:, None]
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            keep = real[:, 1:]
            logits = model.lm_head(hidden[:, :-1][keep])
            loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:][keep], reduction="sum") / tokens
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        if update % 100 == 0:
            pace = (time.time() - started) / update
            print(f"{size} {update}/{updates} loss {total / 100:.4f} nats/token, {pace:.2f} s/update", flush=True)
            total = 0.0
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", default=list(SIZES), help=f"which of {', '.join(SIZES)} to make")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the model directories go")
    parser.add_argument("--updates", type=int, default=UPDATES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    for size in arguments.sizes:
        if size not in SIZES:
            sys.exit(f"unknown size {size!r}; there are {', '.join(SIZES)}")
        model = pretrain(size, tokenizer, arguments.updates)
        directory = arguments.out / size
        model.bfloat16().save_pretrained(directory, safe_serialization=True)
        tokenizer.save_pretrained(directory)
        for file in directory.iterdir():
            file.chmod(0o644)
        print(f"{directory}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")


if __name__ == "__main__":
    main()
