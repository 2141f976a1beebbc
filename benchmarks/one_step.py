"""One training step of random models on `talk.py`, taken apart: what each phase costs, and against which ceiling.

Precision is that of training: weights are float32; with `dtype="bfloat16"` scoring and update compute in it over them,
and a copy in bfloat16 plays, which is renewed after the update. Every action has exactly `new_tokens` tokens, because
no token ends it, so two settings that should do the same work do.
Used by `scaling.py` and `gpu.py`; a setting is measured in a process of its own, so that memory is its own too.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import MistralConfig, MistralForCausalLM

from trpd_agents.config import LearnerConfig
from trpd_agents.config.method import resolve
from trpd_agents.credit import assign_credit
from trpd_agents.credit.presets import PRESETS
from trpd_agents.learner import Learner
from trpd_agents.models import LanguageModel, builtin_models, read_outline
from trpd_agents.rollout import Collector, Episode, Limits, Sampling, TransformersEngine
from trpd_agents.rollout.captured import CudaGraphs
from trpd_agents.rollout.student_weights import plain_copy, push_weights
from trpd_agents.teacher.local import LocalTeacher
from trpd_agents.textenv import EnvSpec
from trpd_agents.trajectory import pad_scored

TALK = f"{Path(__file__).parent / 'talk.py'}:Talk"


@dataclass(frozen=True)
class Setting:
    """What is measured. Student and teacher have the same shape. `dtype` is what is computed in: float32, bfloat16."""

    turns: int = 16
    words: int = 16  # of each observation
    new_tokens: int = 16  # of each action
    episodes: int = 32
    hidden: int = 256
    layers: int = 4
    heads: int = 8
    intermediate: int = 688
    vocabulary: int = 1024
    window: int | None = None  # tokens that a layer sees; None: all before it
    device: str = "cpu"
    cuda_graphs: bool = False
    dtype: str = "float32"
    token_budget: int = 2048
    estimator: str = "sampled"
    rounds: int = 3


@dataclass(frozen=True)
class Cost:
    """Medians over rounds. `seconds`, `tokens` (that the phase is about) and `flops` by phase; `peak` is FLOP/s."""

    seconds: dict[str, float]
    tokens: dict[str, int]
    flops: dict[str, float]
    trajectory_tokens: int
    parameters: int
    peak: float
    memory: int  # bytes: of the device if it is a GPU, else the process's largest resident set

    @property
    def step(self) -> float:
        return sum(self.seconds[name] for name in ("rollout", "score", "credit", "update"))

    @property
    def overhead(self) -> float:
        """Share of the step that is neither model nor environment."""
        return 1 - sum(self.seconds[name] for name in ("generate", "environment", "score", "update")) / self.step

    def use(self, phase: str) -> float:
        """Share of the matmul peak."""
        return self.flops[phase] / self.seconds[phase] / self.peak


def measure(setting: Setting) -> Cost:
    """Time a setting in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (setting,))


def build(setting: Setting, seed: int) -> LanguageModel:
    torch.manual_seed(seed)
    config = MistralConfig(  # a Llama, with a window if asked for
        vocab_size=setting.vocabulary,
        hidden_size=setting.hidden,
        intermediate_size=setting.intermediate,
        num_hidden_layers=setting.layers,
        num_attention_heads=setting.heads,
        num_key_value_heads=setting.heads,
        max_position_embeddings=1 << 16,
        sliding_window=setting.window,
        tie_word_embeddings=False,
    )
    model = torch.nn.Module.to(MistralForCausalLM(config), setting.device)
    tokenizer = read_outline(str(next(iter(builtin_models().values())))).tokenizer
    return LanguageModel(model.eval(), tokenizer, "random")


def _measure(setting: Setting) -> Cost:
    if setting.device == "cpu":
        torch.set_num_threads(1)
    student, teacher = build(setting, 0), build(setting, 1)
    half = setting.dtype == "bfloat16"
    teacher.bfloat16 = half
    player = plain_copy(student, torch.bfloat16) if half else student
    engine = TransformersEngine(player, CudaGraphs() if setting.cuda_graphs else None)
    method = resolve(PRESETS["opd"].config, {"estimator": setting.estimator})
    sampling = Sampling(setting.new_tokens, frozenset())
    limits = Limits(setting.turns, max_tokens=1 << 16, parallel=setting.episodes)
    env = EnvSpec(TALK, {"turns": setting.turns, "words": setting.words})
    collector = Collector(env, engine, student.tokenizer, sampling, limits)
    scorer = LocalTeacher(teacher, keep_hidden=method.exact, token_budget=setting.token_budget)
    settings = LearnerConfig(
        lr=1e-6, token_budget=setting.token_budget, device=setting.device, dtype="bfloat16" if half else "float32"
    )
    learner = Learner(student, settings)

    rounds: list[dict[str, float]] = []
    peaks: list[float] = []
    for number in range(setting.rounds + 1):  # the first warms up
        seconds: dict[str, float] = {}
        with _timed(setting.device, seconds, "rollout"):
            trajectories = collector.collect(
                [Episode(i, number * setting.episodes + i) for i in range(setting.episodes)]
            )
        seconds |= collector.take_seconds()
        with _timed(setting.device, seconds, "score"):
            for trajectory, scores in zip(trajectories, scorer.score(trajectories), strict=True):
                trajectory.scores = scores
        with _timed(setting.device, seconds, "credit"):
            credit = assign_credit(pad_scored(trajectories), method, 0, 0)
        with _timed(setting.device, seconds, "update"):
            learner.update(trajectories, credit, method, scorer, progress=0.0)
            push_weights(engine, student, learner.steps)
        rounds.append(seconds)
        peaks.append(_matmul_peak(setting))

    lengths = [len(t.tokens) for t in trajectories]
    acted = setting.episodes * setting.turns * setting.new_tokens
    body = sum(p.numel() for p in student.model.base_model.parameters()) - setting.vocabulary * setting.hidden
    head = 2.0 * setting.vocabulary * setting.hidden
    attention = sum(4.0 * _pairs(n, setting.window) * setting.hidden * setting.layers for n in lengths)
    forward = 2.0 * body * sum(lengths) + attention + head * acted
    update = 3.0 * forward + (head * acted if method.exact else 0.0)  # the teacher's distributions are made there
    return Cost(
        seconds={name: statistics.median(r[name] for r in rounds[1:]) for name in rounds[0]},
        tokens={"rollout": acted, "generate": acted, "score": sum(lengths), "update": sum(lengths)},
        flops={"generate": forward, "score": forward - (head * acted if method.exact else 0.0), "update": update},
        trajectory_tokens=sum(lengths),
        parameters=student.parameters,
        peak=max(peaks),
        memory=torch.cuda.max_memory_allocated()
        if setting.device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _pairs(tokens: int, window: int | None) -> float:
    """How many tokens the tokens of a conversation see in a layer, together."""
    seen = min(tokens, window or tokens)
    return seen * seen / 2 + (tokens - seen) * seen


@contextmanager
def _timed(device: str, seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    if device == "cuda":
        torch.cuda.synchronize()
    seconds[name] = time.perf_counter() - started


def _matmul_peak(setting: Setting) -> float:
    """FLOP/s of a large square product in the setting's dtype on its device, now."""
    n = 8192 if setting.device == "cuda" else 1024
    a = torch.randn(n, n, dtype=getattr(torch, setting.dtype), device=setting.device)
    best = math.inf
    for _ in range(6):
        seconds: dict[str, float] = {}
        with _timed(setting.device, seconds, "product"):
            a @ a
        best = min(best, seconds["product"])
    return 2.0 * n**3 / best
