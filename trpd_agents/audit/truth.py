"""Was the teacher right? For every turn that a student played: what its teacher would have done there, and what was
optimal.

Invariant: the teacher is asked after exactly the tokens that the student had before it when it acted, and answers
greedily. The environment's expert is the truth; what it knows nothing for is lost, and there nothing is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from trpd_agents.batching import micro_batches
from trpd_agents.rollout import Engine, Request, Sampling
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.teacher.oracle_replay import replay
from trpd_agents.trajectory import Trajectory

OnDone = Callable[[int], None]  # called with how many are done


@dataclass(frozen=True)
class Turns:
    """Every turn of the audited episodes, episode after episode; all columns `[n]`."""

    episode: np.ndarray  # int64, counted from 0
    seed: np.ndarray  # int64, of the environment
    turn: np.ndarray  # int64, counted from 0
    on_track: np.ndarray  # bool: success can still be reached
    teacher_right: np.ndarray  # bool: on track, and the teacher's preferred action is one of the optimal ones
    student_right: np.ndarray  # bool: the same of what the student did
    teacher_action: list[str]
    student_action: list[str]
    optimal: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.turn)

    @property
    def wrong(self) -> np.ndarray:
        """bool: there is something right to do, and the teacher prefers something else."""
        return self.on_track & ~self.teacher_right

    @property
    def lost(self) -> np.ndarray:
        """bool: nothing is right any more, whatever the teacher says."""
        return ~self.on_track


def label_turns(
    trajectories: Sequence[Trajectory],
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_new_tokens: int,
    end_ids: frozenset[int],
    token_budget: int,
    on_done: OnDone = lambda done: None,
) -> Turns:
    """Compare what the teacher behind `engine` prefers at every turn with what is optimal there.

    `on_done` counts turns. `token_budget` bounds the tokens that the engine holds at once, padding included.

    Raises:
        UserError: the environment has no expert.
        RunError: an episode cannot be played again.
    """
    prefixes = [t.tokens[: turn.action[0]] for t in trajectories for turn in t.turns]
    sampling = Sampling(max_new_tokens, end_ids, temperature=0.0)
    preferred = iter(preferred_actions(engine, prefixes, sampling, token_budget, on_done))
    dialogues = Dialogues(tokenizer)
    place: list[tuple[int, int, int]] = []
    right: list[tuple[bool, bool, bool]] = []
    teacher_action: list[str] = []
    optimal: list[tuple[str, ...]] = []
    for number, trajectory in enumerate(trajectories):
        truth = replay(trajectory)
        dialogue = dialogues(truth.instructions, truth.tools)
        for k, (turn, options) in enumerate(zip(trajectory.turns, truth.options, strict=True)):
            said = dialogue.text(next(preferred))
            place.append((number, trajectory.seed, k))
            right.append((bool(options.optimal), options.is_optimal(said), options.is_optimal(turn.text)))
            teacher_action.append(said)
            optimal.append(options.optimal)
    episode, seed, turn_index = np.array(place, dtype=np.int64).reshape(-1, 3).T
    on_track, teacher_right, student_right = np.array(right, dtype=bool).reshape(-1, 3).T
    return Turns(
        episode=episode,
        seed=seed,
        turn=turn_index,
        on_track=on_track,
        teacher_right=teacher_right,
        student_right=student_right,
        teacher_action=teacher_action,
        student_action=[turn.text for t in trajectories for turn in t.turns],
        optimal=optimal,
    )


def preferred_actions(
    engine: Engine,
    prefixes: Sequence[np.ndarray],
    sampling: Sampling,
    token_budget: int,
    on_done: OnDone = lambda done: None,
) -> list[list[int]]:
    """What `engine` says after each of `prefixes`, token ids; each prefix is a conversation of its own, asked once."""
    places: dict[tuple[int, ...], list[int]] = {}
    for i, prefix in enumerate(prefixes):
        places.setdefault(tuple(prefix.tolist()), []).append(i)
    distinct = list(places)
    found: list[list[int]] = [[] for _ in prefixes]
    done = 0
    for group in micro_batches([len(prefix) + sampling.max_new_tokens for prefix in distinct], token_budget):
        completions = engine.generate([Request(i, distinct[i], i) for i in group], sampling)
        engine.release(group)
        for i, completion in zip(group, completions, strict=True):
            for place in places[distinct[i]]:
                found[place] = completion.tokens
            done += len(places[distinct[i]])
        on_done(done)
    return found
