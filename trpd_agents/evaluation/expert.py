"""How often an environment's scripted expert succeeds: the success rate of the oracle teacher, which is no model."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from trpd_agents.distributed import World
from trpd_agents.errors import EnvironmentFailure
from trpd_agents.evaluation.evaluate import HELD_OUT_SEED, Evaluation, Result, count, result_of
from trpd_agents.rollout.demonstrate import play_expert
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.textenv import EnvSpec


def evaluate_expert(
    spec: EnvSpec,
    tokenizer: PreTrainedTokenizerBase,
    episodes: int,
    *,
    max_turns: int,
    seed: int = HELD_OUT_SEED,
    world: World | None = None,
    on_finish: Callable[[object], None] = lambda _: None,
) -> Evaluation:
    """Let the expert of `spec` play `episodes` environment seeds from `seed` on, once each, and count.

    No token is sampled, so `tokens` is 0. An episode in which the expert knows no action ends there, without success.

    Raises:
        UserError: there is no expert.
    """
    world = world or World()
    dialogues = Dialogues(tokenizer)
    results = []
    for number in world.shard(range(seed, seed + episodes)):
        results.append(_play(spec, dialogues, number, max_turns))
        on_finish(results[-1])
    return count(world.unshard(results), 1)


def _play(spec: EnvSpec, dialogues: Dialogues, seed: int, max_turns: int) -> Result:
    kind = ""
    for _ in range(2):  # like every episode: once more, on a fresh environment
        try:
            return result_of(play_expert(spec, dialogues, seed, max_turns=max_turns))
        except EnvironmentFailure as failure:
            kind = failure.kind
    return Result(seed, success=None, error=kind, ending="error", stops=[], reward=0.0, refused=0, tokens=0)
