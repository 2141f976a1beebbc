"""Episodes of a bundled environment whose actions a test writes, in text or in tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.textenv import EnvSpec, make
from trpd_agents.trajectory import Outcome, Stop, Trajectory, Turn

Said = str | Sequence[int] | None  # a text, token ids, or whatever the expert says
Play = Callable[..., Trajectory]


@pytest.fixture(scope="session")
def play(tokenizer) -> Play:
    """`play(env, seed, [said, ...])`: the student's episode with these actions; it may stop before the end."""
    dialogues = Dialogues(tokenizer)

    def build(spec: EnvSpec, seed: int, actions: Sequence[Said]) -> Trajectory:
        env = make(spec)
        observation = env.reset(seed)
        dialogue = dialogues(env.instructions, env.tools)
        tokens, turns, start = list(dialogue.start(observation)), [], 0
        for said in actions:
            if said is None:
                said = env.expert()
                assert said is not None
            ids = dialogue.answer(said) if isinstance(said, str) else list(said)
            span = (len(tokens), len(tokens) + len(ids))
            stop = Stop.END if ids[-1] in dialogue.end_ids else Stop.LENGTH
            turns.append(Turn((start, span[0]), span, "student", stop, observation, dialogue.text(ids)))
            tokens += ids
            start = len(tokens)
            step = env.step(turns[-1].text)
            observation = step.observation
            if step.terminated or step.truncated:
                break
            tokens += dialogue.observe(observation, ended=stop is Stop.END)
        return Trajectory(
            id=seed,
            env_id=spec.id,
            env_kwargs=dict(spec.kwargs),
            seed=seed,
            tokens=np.array(tokens, dtype=np.int32),
            logprobs=np.full(len(tokens), -1.0, dtype=np.float32),
            turns=turns,
            outcome=Outcome.TERMINATED,
            success=bool(step.success),
            reward=step.reward,
            final_observation=observation,
            instructions=env.instructions,
            tools=env.tools,
            hint=env.hint,
        )

    return build
