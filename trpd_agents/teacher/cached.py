"""A teacher whose scores are kept on disk, so that what was scored once is not scored again.

A run that is resumed, or started again with the same seed, plays episodes that its teacher has already seen. The key
of a trajectory's scores is a hash of who scores (weights and vocabulary, or whatever else identifies it), what was
asked for, the token ids and the positions of the action tokens; for a teacher that looks at more than tokens, of that
as well. Where whole distributions are wanted, the hidden states that give them are kept, too.

Invariant: a score from disk is the one that was computed, bit by bit. So the teacher must not change while it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from trpd_agents.config import Cached
from trpd_agents.distributed import World
from trpd_agents.models import LanguageModel
from trpd_agents.rollout.engine import Engine
from trpd_agents.teacher.base import Teacher
from trpd_agents.teacher.hinted import HintedTeacher
from trpd_agents.teacher.local import LocalTeacher
from trpd_agents.teacher.oracle import OracleTeacher
from trpd_agents.teacher.routed import RoutedTeacher
from trpd_agents.teacher.score_files import ScoreFiles
from trpd_agents.teacher.server import ServerTeacher, TeacherServer
from trpd_agents.textenv import EnvSpec
from trpd_agents.textenv.source import source_hash
from trpd_agents.trajectory import Scores, Trajectory

# Settings of a model that are about where it lies, how it was saved and how it computes.
_NOT_THE_MODEL = ("_name_or_path", "architectures", "dtype", "attn_implementation", "_attn_implementation")


class CachedTeacher:
    """`teacher`, asked only for what is not in `files`.

    Args:
        identity: of the teacher and of what it was asked to return.
        context: what the scores of a trajectory depend on beside its tokens.
        device: where hidden states from disk go.
    """

    def __init__(
        self,
        teacher: Teacher,
        files: ScoreFiles,
        identity: str,
        *,
        context: Callable[[Trajectory], object] = lambda _: None,
        device: torch.device | str = "cpu",
    ):
        self.teacher = teacher
        self.files = files
        self.context = context
        self.device = device
        self._identity = identity
        self._hits = self._misses = 0

    @property
    def engine(self) -> Engine | None:
        return self.teacher.engine

    def score(self, trajectories: Sequence[Trajectory]) -> list[Scores]:
        keys = [self._key(trajectory) for trajectory in trajectories]
        found = [self.files.read(key) for key in keys]
        missing = [i for i, scores in enumerate(found) if scores is None]
        self._hits += len(found) - len(missing)
        self._misses += len(missing)
        computed = self.teacher.score([trajectories[i] for i in missing]) if missing else []
        for i, scores in zip(missing, computed, strict=True):
            if not np.isnan(scores.lt).any():  # which may be a failure that passes
                self.files.write(keys[i], scores)
            found[i] = scores
        return [self._placed(scores) for scores in found if scores is not None]

    def log_distribution(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.teacher.log_distribution(hidden)

    def take_counts(self) -> tuple[int, int]:
        """Trajectories whose scores were there and were not, since this was last asked."""
        counts, self._hits, self._misses = (self._hits, self._misses), 0, 0
        return counts

    def _key(self, trajectory: Trajectory) -> str:
        digest = hashlib.blake2b(self._identity.encode(), digest_size=24)
        digest.update(json.dumps(self.context(trajectory), sort_keys=True, default=str).encode())
        for values in (trajectory.tokens, trajectory.action_positions()):
            digest.update(len(values).to_bytes(8, "little") + np.asarray(values, dtype="<i8").tobytes())
        return digest.hexdigest()

    def _placed(self, scores: Scores) -> Scores:
        if scores.hidden is not None:
            scores.hidden = scores.hidden.to(self.device)
        return scores


def model_identity(lm: LanguageModel, asked: object) -> str:
    """A hash of the weights, what they are wired to, the vocabulary, where it is computed, and what was asked for."""
    settings = {name: value for name, value in lm.model.config.to_dict().items() if name not in _NOT_THE_MODEL}
    digest = hashlib.blake2b(digest_size=24)
    vocabulary = sorted(lm.tokenizer.get_vocab().items())
    known = [type(lm.model).__name__, settings, vocabulary, lm.device.type, lm.bfloat16, asked]
    digest.update(json.dumps(known, sort_keys=True, default=str).encode())
    for name, tensor in sorted(lm.model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _nothing(trajectory: Trajectory) -> object:
    """A model looks at tokens alone."""
    return None


def _what_was_told(trajectory: Trajectory) -> object:
    return [trajectory.hint, trajectory.instructions, trajectory.tools]


def _what_was_played(trajectory: Trajectory) -> object:
    """An oracle looks at the states of the environment, which its code, the seed and the actions decide."""
    spec = EnvSpec(trajectory.env_id, trajectory.env_kwargs)
    played = [[turn.action, turn.text] for turn in trajectory.turns]
    return [spec.id, spec.kwargs, _source(spec.id, json.dumps(spec.kwargs, default=str)), trajectory.seed, played]


@lru_cache
def _source(env_id: str, kwargs: str) -> str:
    return source_hash(EnvSpec(env_id, json.loads(kwargs)))


def with_cache(
    teacher: Teacher,
    section: Cached,
    asked: object,
    *,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device | str = "cpu",
) -> Teacher:
    """`teacher`, behind the cache that its settings name, if they name one.

    Args:
        asked: what the teacher returns beside the scores of the sampled tokens.
        tokenizer: the student's.
        device: where hidden states are wanted.
    """
    if section.cache is None:
        return teacher
    context: Callable[[Trajectory], object] = _nothing
    identity = ""
    if isinstance(teacher, LocalTeacher):
        identity = model_identity(teacher.lm, asked)
    elif isinstance(teacher, HintedTeacher):
        identity, context = model_identity(teacher.lm, ["hinted", asked]), _what_was_told
    elif isinstance(teacher, OracleTeacher):
        settings = [sorted(tokenizer.get_vocab().items()), str(tokenizer.chat_template), teacher.vocab_size]
        identity, context = json.dumps([settings, teacher.uniform, asked]), _what_was_played
    elif isinstance(teacher, ServerTeacher):
        identity = server_identity(teacher.server, asked)
    else:
        raise TypeError(f"{type(teacher).__name__} cannot be told from others, so its scores cannot be kept")
    files = ScoreFiles(Path(section.cache).expanduser(), int(section.cache_gigabytes * 1e9))
    return CachedTeacher(teacher, files, identity, context=context, device=device)


def server_identity(server: TeacherServer, asked: object) -> str:
    """A server's weights are not ours to hash: its address, its model's name, and what it said when it was probed.

    Servers do not say the very same each time, so log-probabilities are read to a hundredth of a nat, as means.
    """
    probe = server.probe
    said = [f"{part[np.isfinite(part)].mean():.2f}" for part in np.array_split(probe.lt, 2)]
    return json.dumps([server.endpoint.url, server.model, str(probe.dialect), probe.tokens.tolist(), said, asked])


def cache_figures(world: World, teacher: Teacher) -> dict[str, float]:
    """Hits and misses of all caches in `teacher` since this was last asked, over all ranks; nothing without a cache."""
    parts = teacher.teachers.values() if isinstance(teacher, RoutedTeacher) else [teacher]
    counts = [part.take_counts() for part in parts if isinstance(part, CachedTeacher)]
    if not counts:
        return {}
    hits, misses = world.sum(*(float(sum(column)) for column in zip(*counts, strict=True)))
    return {"teacher_cache_hits": hits, "teacher_cache_misses": misses}
