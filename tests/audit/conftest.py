"""Episodes whose actions a test writes, a teacher that says what a test wants, and scores made up for both."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from trpd_agents.rollout import Collector, Completion, Episode, Limits, Request, Sampling
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.textenv import EnvSpec
from trpd_agents.textenv.pool import EnvView
from trpd_agents.trajectory import Scores, Stop, Trajectory

Say = Callable[[EnvView, int], str]  # from the environment and the turn to what is said


class Scripted:
    """An engine that plays `say`; its own words have log-probability -1."""

    version = 0

    def __init__(self, dialogues: Dialogues, say: Say):
        self.dialogues, self.say = dialogues, say
        self.turns: dict[int, int] = {}

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        found = []
        for request in requests:
            turn = self.turns.get(request.conversation, 0)
            self.turns[request.conversation] = turn + 1
            assert request.env is not None
            text = self.say(request.env, turn)
            ids = self.dialogues(request.env.instructions, request.env.tools).answer(text)
            found.append(Completion(ids, [-1.0] * len(ids), Stop.END))
        return found

    def release(self, conversations: Sequence[int]) -> None:
        pass


class Teacher:
    """Answers the n-th distinct prefix of `prefixes`, in the order given there, with `texts[n]`."""

    def __init__(self, tokenizer, prefixes: Sequence[np.ndarray], texts: Sequence[str], end: int):
        ids = [[*tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in texts]
        self.answers = {tuple(prefix.tolist()): said for prefix, said in zip(prefixes, ids, strict=True)}
        self.asked: list[tuple[int, ...]] = []
        self.held: set[int] = set()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        assert sampling.temperature == 0
        self.asked += [tuple(request.tokens) for request in requests]
        self.held |= {request.conversation for request in requests}
        answers = [self.answers[tuple(request.tokens)] for request in requests]
        return [Completion(ids, [0.0] * len(ids), Stop.END) for ids in answers]

    def release(self, conversations: Sequence[int]) -> None:
        self.held -= set(conversations)


@pytest.fixture(scope="session")
def collect(tokenizer, ends) -> Callable[..., list[Trajectory]]:
    """`collect(spec, seeds, say)`: the student's episodes."""

    def run(spec: EnvSpec, seeds: Sequence[int], say: Say) -> list[Trajectory]:
        engine = Scripted(Dialogues(tokenizer), say)
        collector = Collector(spec, engine, tokenizer, Sampling(8, ends), Limits(6))  # type: ignore[arg-type]
        return collector.collect([Episode(seed, seed) for seed in seeds])

    return run


@pytest.fixture(scope="session")
def make_teacher(tokenizer) -> Callable[..., Teacher]:
    """`make_teacher(trajectories, texts)`: what it says at every turn, episode after episode."""

    def build(trajectories: Sequence[Trajectory], texts: Sequence[str]) -> Teacher:
        prefixes = [t.tokens[: turn.action[0]] for t in trajectories for turn in t.turns]
        return Teacher(tokenizer, prefixes, texts, tokenizer.eos_token_id)

    return build


@pytest.fixture(scope="session")
def score() -> Callable[..., None]:
    """`score(trajectories, log_ratios)`: every token of the n-th turn gets the n-th log ratio, its entropy is n."""

    def write(trajectories: Sequence[Trajectory], log_ratios: Sequence[float]) -> None:
        n = 0
        for trajectory in trajectories:
            positions = trajectory.action_positions()
            numbers = n + trajectory.turn_index()[positions]
            d = np.asarray(log_ratios, dtype=np.float32)[numbers]
            n += len(trajectory.turns)
            lt = (trajectory.logprobs[positions] + d).astype(np.float32)
            trajectory.scores = Scores(positions, lt, entropy=numbers.astype(np.float32))

    return write
