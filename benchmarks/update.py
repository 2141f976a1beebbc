"""Scoring and update, padded against packed: how fast, how near to the machine's matrix product, in how much memory.

    OMP_NUM_THREADS=1 python benchmarks/update.py --markdown benchmarks/results/update.md

Random models and random conversations: 32 of 220 to 380 tokens, a fifth of them sampled. The ways to compute take turns
with each other and with a large matrix product in every round, so that a machine that slows down slows all of them; a
figure is the median over rounds of what was measured within a round. On a CPU time is this process's CPU time, with one
thread. Conversations either have nothing in common, or come in groups of 8 that begin with the same 150 tokens.

FLOPs are those of the matrix products and of attention over the tokens before, each at the tokens that have to be
encoded: without padding, a shared beginning once, and the output head at sampled tokens only. An update has three times
those of a forward pass.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from trpd_agents.batching import pick_token_budget
from trpd_agents.config import LearnerConfig
from trpd_agents.credit import CreditConfig, assign_credit
from trpd_agents.learner import Learner
from trpd_agents.models import LanguageModel, builtin_models, read_outline
from trpd_agents.packing import pack
from trpd_agents.teacher import LocalTeacher
from trpd_agents.trajectory import Outcome, Stop, Trajectory, Turn, pad_scored

MODELS: dict[str, dict[str, Any]] = {
    "builtin:tiny": {"hidden_size": 64, "intermediate_size": 192},
    "3 M": {"hidden_size": 256, "intermediate_size": 688, "tie_word_embeddings": True},
}
EPISODES, GROUP, BEGINNING = 32, 8, 150


def random_model(name: str, device: str) -> LanguageModel:
    torch.manual_seed(0)
    shape = {"vocab_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 2048}
    model = LlamaForCausalLM(LlamaConfig(**shape, **MODELS[name])).to(device).eval()
    return LanguageModel(model, read_outline(str(next(iter(builtin_models().values())))).tokenizer, name)


def conversations(shared: bool) -> list[Trajectory]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(EPISODES):
        tokens = rng.integers(3, 1000, rng.integers(220, 381)).astype(np.int32)
        if shared:
            tokens[:BEGINNING] = np.random.default_rng(i // GROUP).integers(3, 1000, BEGINNING)
        turns = [
            Turn((a - 20, a), (a, a + 5), "student", Stop.END, "", "") for a in range(BEGINNING, len(tokens) - 5, 12)
        ]
        logprobs = np.full(len(tokens), -7.0, dtype=np.float32)
        made.append(Trajectory(i, "", {}, i, tokens, logprobs, turns, Outcome.TERMINATED, True, 0.0))
    return made


def forward_flops(lm: LanguageModel, trajectories: list[Trajectory]) -> float:
    config = lm.model.config
    products = sum(p.numel() for name, p in lm.model.named_parameters() if p.dim() == 2 and "layers" in name)
    order = lm.batches([t.tokens for t in trajectories], 10**9)[0]
    row = pack([trajectories[i].tokens for i in order])
    pairs = sum(s * c + s * s / 2 for s, c in zip(row.segments.sizes, row.segments.contexts, strict=True))
    sampled = sum(len(t.action_positions()) for t in trajectories)
    attention = 4 * config.num_hidden_layers * config.hidden_size * pairs
    return 2 * products * row.ids.shape[1] + attention + 2 * sampled * config.hidden_size * lm.vocab_size


def seconds(work: Callable[[], object], device: str) -> float:
    if device == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_bytes(work: Callable[[], object], device: str) -> int:
    """The most memory that tensors made by `work` have at one time."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def measure(name: str, shared: bool, rounds: int, device: str) -> list[str]:
    lm, episodes = random_model(name, device), conversations(shared)
    budget = pick_token_budget(LearnerConfig(lr=1e-3).token_budget, lm.device)
    teacher, method = LocalTeacher(lm, token_budget=budget), CreditConfig()
    for trajectory, scores in zip(episodes, teacher.score(episodes), strict=True):
        trajectory.scores = scores
    credit = assign_credit(pad_scored(episodes), method)
    plain, saving = (Learner(lm, LearnerConfig(lr=1e-6, activation_checkpointing=flag)) for flag in (False, True))
    assert lm.packs

    def run(work: Callable[[], object], packed: bool) -> Callable[[], object]:
        def go() -> None:
            lm.__dict__["packs"] = packed
            work()

        return go

    def update(learner: Learner) -> Callable[[], object]:
        def go() -> None:
            learner.update(episodes, credit, method, teacher, progress=0.0)

        return go

    n = 768
    left, right = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
    ways = {
        "product": lambda: [left @ right for _ in range(4)],
        "score padded": run(lambda: teacher.score(episodes), False),
        "score packed": run(lambda: teacher.score(episodes), True),
        "update padded": run(update(plain), False),
        "update packed": run(update(plain), True),
        "update packed, activation checkpointing": run(update(saving), True),
    }
    for work in ways.values():
        work()
    spent = [{way: seconds(work, device) for way, work in ways.items()} for _ in range(rounds)]
    memory = {way: peak_bytes(work, device) for way, work in ways.items()}
    run(lambda: None, True)()
    flops = forward_flops(lm, episodes)
    tokens = sum(len(t.tokens) for t in episodes)
    lines = []
    for way in list(ways)[1:]:
        phase = way.split()[0]
        padded = f"{phase} padded"
        ratio = statistics.median(s[padded] / s[way] for s in spent)
        rate = statistics.median(tokens / s[way] for s in spent)
        work = flops * (3 if phase == "update" else 1)
        share = statistics.median(work / s[way] / (4 * 2 * n**3 / s["product"]) for s in spent)
        begin = f"{BEGINNING} in groups of {GROUP}" if shared else "none"
        lines.append(
            f"| {name} | {begin} | {way} | {rate:,.0f} | {ratio:.2f} | {share:.0%} | {memory[way] / 2**20:,.0f} |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", choices=list(MODELS), action="append", help="by default all")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
        machine = f"{platform.machine()} CPU, one thread, float32"
    else:
        machine = torch.cuda.get_device_name()
    head = [
        "| model | shared beginning | what | trajectory tokens/s | speed against padded | share of matmul peak | MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(head))
    lines = [
        line
        for name in options.model or MODELS
        for shared in (False, True)
        for line in measure(name, shared, options.rounds, options.device)
    ]
    if options.markdown:
        text = [
            "# Scoring and update, padded against packed",
            f"`python benchmarks/update.py --rounds {options.rounds} --device {options.device}` on {machine}; torch "
            f"{torch.__version__}.",
            "\n".join([*head, *lines]),
        ]
        options.markdown.write_text("\n\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
