"""The student as its own teacher: the same weights, which have read a hint that the student has not.

On-policy self-distillation (OPSD, Zhao et al., 2601.18734): teacher and student are one model in two contexts, and the
student learns on its own episodes what the hint would have made of it. The hint is the environment's `info["hint"]` at
the reset. It stands in front of the first observation, in the same message, and so before every action; what the
environment says later could only be put before actions that it already knows about.

Invariant: but for the hint, what the teacher reads is the student's conversation, id by id. Only the ids up to the
first action differ; every score is written at the position of its token in the student's own conversation.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from trpd_agents.dialogue import Dialogue
from trpd_agents.errors import EnvironmentFailure, RunError, UserError
from trpd_agents.models import LanguageModel
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.rollout.engine import Completion, Engine, Request, Sampling
from trpd_agents.teacher.local import LocalTeacher
from trpd_agents.textenv import EnvSpec, make
from trpd_agents.trajectory import Scores, Trajectory

_TRIED = 3  # episodes in which `longest_hint` looks for a hint


class HintedTeacher:
    """Scores with `lm` what it would have done had it known the hint.

    Args:
        moving: the weights of `lm` change between updates, because they are the student's own. What `score` returned
            stays about the weights that it was asked of, also while the student is being updated.
        settings: those of `LocalTeacher`.
    """

    def __init__(self, lm: LanguageModel, *, moving: bool = False, **settings: int | bool):
        self.lm = lm
        self.moving = moving
        self._model = LocalTeacher(lm, **settings)  # type: ignore[arg-type]
        self._head: torch.nn.Linear | None = None
        self._dialogues = Dialogues(lm.tokenizer)
        self.engine: Engine = HintedEngine(self._model.engine, lm.tokenizer)

    def score(self, trajectories: Sequence[Trajectory]) -> list[Scores]:
        """The hinted model's opinion of every action token, at the student's positions.

        Raises:
            UserError: a trajectory has no hint, or is with it longer than the model's context.
            RunError: a trajectory does not begin as its instructions, tools and first observation say.
        """
        told = [tell(trajectory, self._dialogues) for trajectory in trajectories]
        self._fits(max((len(t.tokens) for t in told), default=0))
        if self.moving and self._model.keep_hidden:
            self._head = copy.deepcopy(self.lm.model.get_output_embeddings())
        scores = self._model.score(told)
        return [
            dataclasses.replace(found, positions=found.positions - (len(longer.tokens) - len(own.tokens)))
            for own, longer, found in zip(trajectories, told, scores, strict=True)
        ]

    @torch.no_grad()
    def log_distribution(self, hidden: torch.Tensor) -> torch.Tensor:
        """log pi_T over the vocabulary, `[n, V]` nats, from hidden states that the latest `score` kept."""
        if self._head is None:
            return self._model.log_distribution(hidden)
        return self.lm.logits(hidden, self._head).float().log_softmax(-1)

    def _fits(self, tokens: int) -> None:
        context = getattr(self.lm.model.config.get_text_config(), "max_position_embeddings", None)
        if context is not None and tokens > context:
            raise UserError(
                f"a conversation with its hint has {tokens} tokens, and the context of {self.lm.ref!r} ends at "
                f"{context}; lower rollout.max_tokens by {tokens - context}, or give shorter hints"
            )


class HintedEngine:
    """`engine`, which reads the hint at the beginning of every conversation; for guidance and evaluation.

    Requests need their `env`, whose hint it is.
    """

    version = 0

    def __init__(self, engine: Engine, tokenizer: PreTrainedTokenizerBase):
        self._engine = engine
        self._dialogues = Dialogues(tokenizer)
        self._begun: set[int] = set()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        return self._engine.generate([self._told(request) for request in requests], sampling)

    def append(self, requests: Sequence[Request], counts: Sequence[int]) -> list[np.ndarray]:
        return self._engine.append([self._told(request) for request in requests], counts)

    def release(self, conversations: Sequence[int]) -> None:
        self._begun.difference_update(conversations)
        self._engine.release(conversations)

    def load_weights(self, state: Mapping[str, torch.Tensor], version: int) -> None:
        self._engine.load_weights(state, version)

    def logprobs(self, sequences: Sequence[np.ndarray], positions: Sequence[np.ndarray], top_k: int) -> list[Scores]:
        raise NotImplementedError("sequences of tokens do not say what their hints are: score trajectories")

    def _told(self, request: Request) -> Request:
        if request.conversation in self._begun:
            return request
        env = request.env
        if env is None:
            raise ValueError("request.env: found None, wanted the environment whose hint is to be read")
        self._begun.add(request.conversation)
        dialogue = self._dialogues(env.instructions, env.tools)
        own, hinted = openings(dialogue, env.opening, _required(env.hint, env.spec.id))
        return dataclasses.replace(request, tokens=_exchange(list(request.tokens), own, hinted, env.spec.id))


def tell(trajectory: Trajectory, dialogues: Dialogues) -> Trajectory:
    """`trajectory` as it would have been recorded with its hint in front of the first observation.

    Spans and log-probabilities move with their tokens. Without any turn it is returned as it is.

    Raises:
        UserError: it has no hint.
        RunError: it does not begin as its instructions, tools and first observation say.
    """
    if not trajectory.turns:
        return trajectory
    dialogue = dialogues(trajectory.instructions, trajectory.tools)
    hint = _required(trajectory.hint, trajectory.env_id)
    own, hinted = openings(dialogue, trajectory.turns[0].observation, hint)
    tokens = _exchange(trajectory.tokens.tolist(), own, hinted, trajectory.env_id)
    added = len(hinted) - len(own)

    def moved(span: tuple[int, int]) -> tuple[int, int]:
        return span[0] + added, span[1] + added

    turns = [
        dataclasses.replace(turn, prompt=moved(turn.prompt), action=moved(turn.action)) for turn in trajectory.turns
    ]
    turns[0].prompt = (0, turns[0].prompt[1])
    unsampled = np.full(len(hinted), np.nan, dtype=np.float32)
    return dataclasses.replace(
        trajectory,
        tokens=np.array(tokens, dtype=np.int32),
        logprobs=np.concatenate([unsampled, trajectory.logprobs[len(own) :]]),
        turns=turns,
        scores=None,
    )


def openings(dialogue: Dialogue, observation: str, hint: str) -> tuple[list[int], list[int]]:
    """Ids before the first action, without and with the hint."""
    return dialogue.start(observation), dialogue.start(f"{hint}\n\n{observation}")


def longest_hint(spec: EnvSpec, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens hints add to a conversation, at most, in a few episodes of the environment.

    Raises:
        UserError: it gives no hint, or not every time.
    """
    dialogues = Dialogues(tokenizer)
    most = 0
    env = make(spec)
    try:
        for seed in range(_TRIED):
            observation = env.reset(seed)
            own, hinted = openings(
                dialogues(env.instructions, env.tools), observation, _required(env.hint, f"{spec.id} (seed {seed})")
            )
            most = max(most, len(hinted) - len(own))
    except EnvironmentFailure as failure:
        raise UserError(f"environment {spec.id} was to be asked for a hint: {failure.message}") from failure
    finally:
        env.close()
    return most


def _required(hint: str | None, env_id: str) -> str:
    if hint is None:
        raise UserError(
            f'environment {env_id} gives no info["hint"] at the reset, and a hinted teacher knows nothing else that '
            'the student does not; return {"hint": "a text that helps"} in the info of reset, or take another '
            "teacher.kind"
        )
    return hint


def _exchange(tokens: list[int], own: list[int], hinted: list[int], env_id: str) -> list[int]:
    """`tokens` with `hinted` in place of `own` at their beginning."""
    if tokens[: len(own)] != own:
        raise RunError(
            f"an episode of {env_id} does not begin with its instructions, tools and first observation, so there is no "
            "place for a hint: it was recorded by an earlier version, or with another tokenizer"
        )
    return hinted + tokens[len(own) :]
