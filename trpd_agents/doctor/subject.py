"""What the checks look at: the models of a run, ready to play and score, and a few turns that the student sampled.

Invariant: teachers score here without their cache, which would repeat itself whatever the model does, and playing
leaves no conversation behind in an engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from trpd_agents.batching import position_chunk
from trpd_agents.config import Cached, RoutedTeacherConfig, RunConfig
from trpd_agents.dialogue import end_ids
from trpd_agents.models import LanguageModel
from trpd_agents.rollout import Collector, Engine, Episode, Limits, Sampling
from trpd_agents.rollout.engine import StudentEngine
from trpd_agents.teacher import Teacher
from trpd_agents.teacher.probe import difference
from trpd_agents.textenv import EnvSpec
from trpd_agents.textenv.pool import EnvPool
from trpd_agents.trajectory import Trajectory

STREAM = 0x444F43  # the sampling seed: draws that no training or evaluation episode has
_KEYS = 1 << 38  # conversations of the doctor's, which no engine confuses with others
TURNS = 2  # of a sampled episode: enough for an observation between two actions
NEW_TOKENS = 32  # per action, at most


@dataclass
class Subject:
    """A run before its first step. `teachers` are its models by name, as `Ready` has them.

    `sampled` are the beginnings of episodes, played by `engine` as training plays.
    """

    config: RunConfig
    student: LanguageModel
    teacher: Teacher
    teachers: Mapping[str, LanguageModel]
    engine: StudentEngine
    pool: EnvPool
    max_turns: int
    sampled: list[Trajectory] = field(default_factory=list)

    def play(self, episodes: int, engine: Engine | None = None, *, temperature: float = 1.0) -> list[Trajectory]:
        """The first turns of episodes on held-out seeds, by the student's engine or another; without failed ones."""
        config = self.config
        new_tokens = min(config.rollout.max_new_tokens, NEW_TOKENS)
        collector = Collector(
            EnvSpec(config.env.id, config.env.kwargs),
            self.engine if engine is None else engine,
            self.student.tokenizer,
            Sampling(new_tokens, frozenset(end_ids(self.student.tokenizer)), temperature, seed=STREAM),
            Limits(min(self.max_turns, TURNS), config.rollout.max_tokens, config.rollout.episode_seconds),
            self.pool,
        )
        plan = [Episode(config.evaluation.seed + i, _KEYS + i) for i in range(episodes)]
        return [t for t in collector.collect(plan) if t.error is None and t.turns]

    @property
    def local(self) -> LanguageModel | None:
        """The model behind a teacher that reads just what the student reads, if there is one only."""
        named = list(self.teachers.values())
        return named[0] if len(named) == 1 and self.config.teacher.kind == "local" else None

    @property
    def coarse(self) -> bool:
        """Whether something computes in less than float32, so that equal sums may differ in their last bits."""
        models = [self.student, *self.teachers.values()]
        return any(lm.bfloat16 or lm.model.dtype != torch.float32 or lm.device.type != "cpu" for lm in models)


def without_cache(config: RunConfig) -> RunConfig:
    """The same run with teachers that keep no scores."""
    teacher = config.teacher
    if isinstance(teacher, RoutedTeacherConfig):
        plain = {name: _uncached(section) for name, section in teacher.teachers.items()}
        return config.model_copy(update={"teacher": teacher.model_copy(update={"teachers": plain})})
    return config.model_copy(update={"teacher": _uncached(teacher)})


def _uncached(section: object) -> object:
    return section.model_copy(update={"cache": None}) if isinstance(section, Cached) else section


@torch.inference_mode()
def plain_logprobs(lm: LanguageModel, tokens: np.ndarray) -> np.ndarray:
    """Float32 `[T]`, nats: what a bare forward pass over one whole sequence says of each token; NaN of the first.

    On purpose not `score_tokens`: no batch, no packing, no chosen positions. Row t - 1 of the logits is about token t.
    """
    ids = torch.from_numpy(np.asarray(tokens, dtype=np.int64)).to(lm.device)
    hidden = lm.hidden(ids[None])[0, :-1]
    chunk = position_chunk(lm.vocab_size)
    parts = [
        lm.logits(h).float().log_softmax(-1).gather(-1, t[:, None])[:, 0]
        for h, t in zip(hidden.split(chunk), ids[1:].split(chunk), strict=True)
    ]
    return np.concatenate([[np.nan], *(part.cpu().numpy() for part in parts)]).astype(np.float32)


def apart(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> np.ndarray:
    """Float64 `[n]`, nats: how far log-probabilities are apart; 0 where both are the same infinity or unknown."""
    a, b = (np.concatenate([np.zeros(0), *(np.asarray(p, dtype=np.float64) for p in parts)]) for parts in (one, other))
    return difference(a, b)
