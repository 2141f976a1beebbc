"""What the rollout engine saves: the engine against a plain path, alternating in one process.

    python benchmarks/rollout.py --model builtin:tiny --episodes 32 128
    python benchmarks/rollout.py --model 3M --episodes 128 --parallel 32 128
    python benchmarks/rollout.py --model recurrent --episodes 32 --max-turns 16

The path without a cache plays the same episodes with the same draws: for every token it encodes the whole conversation
again, all live ones in one right-padded batch. The plain engine goes on from what the model remembers, see
docs/engines.md; for a model with recurrent layers it is the engine. Then the decode step alone: its share of what a
square matrix product reaches, measured in the same rounds. Figures are seconds of this thread's CPU time, the least of
the rounds, so that other processes on the machine disturb them less.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3_5ForCausalLM, Qwen3_5TextConfig

from trpd_agents.dialogue import end_ids
from trpd_agents.models import LanguageModel, load_model
from trpd_agents.rollout import Collector, Completion, Episode, Limits, Request, Sampling
from trpd_agents.rollout.local_engine import local_engine
from trpd_agents.rollout.model_engine import ModelEngine
from trpd_agents.rollout.plain_engine import PlainEngine
from trpd_agents.rollout.sampling import sample
from trpd_agents.textenv import EnvSpec
from trpd_agents.trajectory import Stop, Trajectory


class NoCache(ModelEngine):
    """Keeps the tokens of each conversation and nothing else."""

    def __init__(self, lm: LanguageModel):
        super().__init__(lm)
        self._said: dict[int, list[int]] = {}

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        for request in requests:
            self._said.setdefault(request.conversation, []).extend(request.tokens)
        answers = {r.conversation: Completion([], [], Stop.LENGTH) for r in requests}
        open_ = list(requests)
        for _ in range(sampling.max_new_tokens):
            whole = [self._said[r.conversation] for r in open_]
            at = torch.tensor([len(tokens) for tokens in whole])
            ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(tokens) for tokens in whole], batch_first=True)
            hidden = self.lm.hidden(ids)
            logits = self.lm.logits(hidden[torch.arange(len(open_)), at - 1])
            drawn, logprobs = sample(logits, sampling, torch.tensor([r.key for r in open_]), at)
            for request, token, logprob in zip(open_, drawn.tolist(), logprobs.tolist(), strict=True):
                self._said[request.conversation].append(token)
                answer = answers[request.conversation]
                answer.tokens.append(token)
                answer.logprobs.append(logprob)
                if token in sampling.end_ids:
                    answer.stop = Stop.END
            open_ = [r for r in open_ if answers[r.conversation].stop is not Stop.END]
            if not open_:
                break
        return [answers[r.conversation] for r in requests]

    def release(self, conversations: Sequence[int]) -> None:
        for conversation in conversations:
            self._said.pop(conversation, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:tiny", help="what load_model takes, or 3M, recurrent: untrained")
    parser.add_argument("--env", default="Courier-v0")
    parser.add_argument("--episodes", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--parallel", type=int, nargs="+", default=[256], help="episodes at once")
    parser.add_argument("--group-size", type=int, default=1, help="episodes with the same environment seed")
    parser.add_argument("--max-turns", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--past", type=int, nargs="+", default=[64, 192], help="tokens before a decode step")
    parser.add_argument("--skip-no-cache", action="store_true", help="no path without a cache")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lm = MADE[arguments.model]() if arguments.model in MADE else load_model(arguments.model)
    sampling = Sampling(arguments.max_new_tokens, frozenset(end_ids(lm.tokenizer)))
    print(f"{arguments.model}, {lm.parameters:,} parameters, {arguments.env}, torch {torch.__version__}, one thread\n")

    print(
        "| episodes | at once | no cache, s | plain engine, s | engine, s | no cache/engine | plain/engine | "
        "environments, s | tokens | encoded | differing |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for count in arguments.episodes:
        for parallel in arguments.parallel:
            episodes = [Episode(i // arguments.group_size, i) for i in range(count)]
            limits = Limits(arguments.max_turns, 1024, parallel=parallel)
            print(whole(lm, EnvSpec(arguments.env), episodes, limits, sampling, arguments), flush=True)

    print("\n| rows | tokens before | engine's step, ms | matrix products alone, ms | share of the matmul peak |")
    print("|---|---|---|---|---|")
    for rows in (32, 128):
        for past in arguments.past:
            print(step(lm, rows, past, sampling, arguments.rounds), flush=True)


def make_3m() -> LanguageModel:
    """An untrained Llama with 3 M parameters and the built-in tokenizer."""
    tokenizer = load_model("builtin:tiny").tokenizer
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    return LanguageModel(LlamaForCausalLM(config).eval(), tokenizer, "3M")


def make_recurrent() -> LanguageModel:
    """An untrained Qwen 3.5 with 0.3 M parameters, three of four layers recurrent, and the built-in tokenizer."""
    tokenizer = load_model("builtin:tiny").tokenizer
    config = Qwen3_5TextConfig(
        vocab_size=1024,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        linear_num_key_heads=4,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    return LanguageModel(Qwen3_5ForCausalLM(config).eval(), tokenizer, "recurrent")


MADE = {"3M": make_3m, "recurrent": make_recurrent}


def alternate(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least CPU seconds of each, measured in turn `rounds` times after one round to warm up."""
    least = dict.fromkeys(work, float("inf"))
    for turn in range(rounds + 1):
        for name, call in work.items():
            started = time.thread_time()
            call()
            if turn:
                least[name] = min(least[name], time.thread_time() - started)
    return least


def whole(
    lm: LanguageModel,
    env: EnvSpec,
    episodes: list[Episode],
    limits: Limits,
    sampling: Sampling,
    arguments: argparse.Namespace,
) -> str:
    """A table row: all `episodes`, played by each."""
    played: dict[str, list[Trajectory]] = {}
    encoded: list[int] = []
    environment: list[float] = []

    def play(name: str, kind: Callable[[LanguageModel], ModelEngine]) -> None:
        engine = kind(lm)
        collector = Collector(env, engine, lm.tokenizer, sampling, limits)
        played[name] = collector.collect(episodes)
        if name == "engine":
            encoded.append(engine.encoded)
            environment.append(collector.take_seconds()["environment"])

    work = {
        "no cache": lambda: play("no cache", NoCache),
        "plain": lambda: play("plain", PlainEngine),
        "engine": lambda: play("engine", local_engine),
    }
    if arguments.skip_no_cache:
        del work["no cache"]
    if not lm.caches:
        del work["plain"]  # it is the engine
    least = alternate(work, arguments.rounds)
    tokens = sum(len(t.tokens) for t in played["engine"])
    differing = sum(
        a.tokens.tolist() != b.tokens.tolist()
        for other in played.values()
        for a, b in zip(played["engine"], other, strict=True)
    )
    engine = least["engine"]
    nothing, plain = least.get("no cache", math.nan), least.get("plain", engine)
    return (
        f"| {len(episodes)} | {limits.parallel} | {nothing:.2f} | {plain:.2f} | {engine:.2f} | "
        f"{nothing / engine:.1f} | {plain / engine:.1f} | "
        f"{min(environment):.2f} | {tokens} | {encoded[0]} | {differing} |"
    )


@torch.inference_mode()
def step(lm: LanguageModel, rows: int, past: int, sampling: Sampling, rounds: int) -> str:
    """A table row: decode steps of `rows` conversations, against the matrix products in them and a square one."""
    steps = 16
    never = Sampling(steps + 1, frozenset({lm.vocab_size + 1}), seed=sampling.seed)
    once = Sampling(1, never.end_ids, seed=sampling.seed)
    generator = np.random.default_rng(0)
    prompts = [generator.integers(3, 1000, past).tolist() for _ in range(rows)]
    engine = local_engine(lm)
    first = [Request(i, prompt, i) for i, prompt in enumerate(prompts)]
    matrices = [m.weight for m in lm.model.modules() if isinstance(m, torch.nn.Linear)]
    inputs = {m.shape[1]: torch.randn(rows, m.shape[1]) for m in matrices}
    square = torch.randn(512, 512)

    def decode(names: int, how: Sampling) -> None:
        engine.generate([Request(r.conversation + names, r.tokens, r.key) for r in first], how)
        engine.release([r.conversation + names for r in first])

    def products() -> None:
        for _ in range(steps):
            for matrix in matrices:
                torch.nn.functional.linear(inputs[matrix.shape[1]], matrix)

    least = alternate(
        {
            "all": lambda: decode(0, never),
            "first": lambda: decode(rows, once),
            "products": products,
            "square": lambda: square @ square,
        },
        rounds,
    )
    seconds = (least["all"] - least["first"]) / steps
    work = 2 * rows * sum(m.numel() for m in matrices)
    share = work / seconds / (2 * 512**3 / least["square"])
    return f"| {rows} | {past} | {seconds * 1e3:.2f} | {least['products'] / steps * 1e3:.2f} | {share:.2f} |"


if __name__ == "__main__":
    main()
