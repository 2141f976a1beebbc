"""The recoverability card: how lasting the mistakes of an environment are.

A scripted expert takes over after k random legal actions. Where its success stays what it was from the start, every
mistake can be repaired; where it falls, some cannot. Random legal play is the floor.

Invariant: a card is a function of the environment, its arguments, the number of seeds and the first of them. Each seed
is played once in each way, so a rate is of independent episodes and has Wilson's interval. An episode that fails for a
fault of the environment is played once more on a fresh instance; if it fails again it is counted and in no rate.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

from trpd_agents.errors import EnvironmentFailure, UserError
from trpd_agents.evaluation.statistics import Estimate, success_rate
from trpd_agents.progress import Progress
from trpd_agents.textenv import AgentEnv, EnvSpec, make

RANDOM = "random legal play"
PLAYS = {RANDOM: None, "expert": 0, "expert after 1": 1, "expert after 2": 2, "expert after 4": 4}
"""The ways of playing: how many random legal actions come before the expert's, None for nothing but those."""


@dataclass(frozen=True)
class Rate:
    """How one way of playing went: success with its 95 % interval, mean turns of an episode, episodes counted."""

    success: Estimate
    turns: float
    episodes: int


@dataclass(frozen=True)
class Card:
    """`rates` by the way of playing, of those that could be measured; `notes` say what could not, and why.

    `faults` counts the episodes that are in no rate, by the kind of their `EnvironmentFailure`.
    """

    spec: EnvSpec
    rates: dict[str, Rate]
    notes: list[str]
    faults: Counter[str]


def measure_card(
    spec: EnvSpec | str,
    seeds: int = 200,
    *,
    first_seed: int = 0,
    max_turns: int | None = None,
    progress: Progress | None = None,
) -> Card:
    """Play `seeds` episodes in each way that `spec` allows.

    `max_turns` shortens episodes, and is needed for an environment without a limit of its own.

    Raises:
        UserError: there is neither an expert nor a list of legal actions, or no turn limit.
        EnvironmentFailure: the environment cannot be made, or not be reset once.
    """
    spec = EnvSpec(spec) if isinstance(spec, str) else spec
    player = _Player(spec, max_turns)
    try:
        plays, notes = player.possible(first_seed)
        if not plays:
            raise UserError(f"environment {spec.id} has no card: {' '.join(notes)}")
        rates: dict[str, Rate] = {}
        faults: Counter[str] = Counter()
        with (progress or Progress(quiet=True)).phase(f"card of {spec.id}", len(plays) * seeds) as shown:
            for number, play in enumerate(plays):
                outcomes: dict[int, list[bool]] = {}
                turns = 0
                for seed in range(first_seed, first_seed + seeds):
                    try:
                        success, length = player.play(PLAYS[play], seed)
                        outcomes[seed] = [success]
                        turns += length
                    except EnvironmentFailure as failure:
                        faults[failure.kind] += 1
                    shown.update(number * seeds + seed - first_seed + 1)
                rates[play] = Rate(success_rate(outcomes), turns / max(1, len(outcomes)), len(outcomes))
        return Card(spec, rates, notes, faults)
    finally:
        player.env.close()


class _Player:
    """One environment and the turns an episode may take. After a failure the instance is replaced."""

    def __init__(self, spec: EnvSpec, max_turns: int | None):
        self.spec = spec
        self.env: AgentEnv = make(spec)
        limits = [limit for limit in (self.env.max_turns, max_turns) if limit is not None]
        if not limits:
            self.env.close()
            raise UserError(
                f"environment {spec.id} has no turn limit, so random play could last for ever: set --max-turns, or "
                "give it an attribute max_turns."
            )
        self.limit = min(limits)

    def possible(self, seed: int) -> tuple[list[str], list[str]]:
        """The ways of playing that the environment supports, and a sentence for each thing that it lacks.

        What is legal is asked of the episode of `seed`: an environment may list nothing where there is too much.
        """
        self.env.reset(seed)
        expert, legal = self.env.has_expert, bool(self.env.legal_actions())
        notes = []
        if not expert:
            notes.append("No expert played: there is no method expert().")
        if not legal:
            why = "legal_actions() lists none" if self.env.has_legal_actions else "there is no method legal_actions()"
            notes.append(f"Nothing was played at random, not even openings: {why}.")
        return [play for play, k in PLAYS.items() if (legal or k == 0) and (expert or k is None)], notes

    def play(self, openings: int | None, seed: int) -> tuple[bool, int]:
        """Success and turns of one episode."""
        for attempt in range(2):
            try:
                return self._play(openings, seed)
            except EnvironmentFailure:
                self.env.close()
                self.env = make(self.spec)
                if attempt:
                    raise
        raise AssertionError("the second attempt returns or raises")

    def _play(self, openings: int | None, seed: int) -> tuple[bool, int]:
        env = self.env
        env.reset(seed)
        rng = Random(seed)  # the same for every number of openings: four of them begin as two do
        success: bool | None = False
        for turn in range(self.limit):
            action = None
            if openings is None or turn < openings:
                legal = env.legal_actions()
                action = rng.choice(legal) if legal else None
            if action is None and openings is not None:
                action = env.expert()
            if action is None:  # nobody knows how to go on
                return bool(success), turn
            step = env.step(action)
            success = step.success
            if step.terminated or step.truncated:
                return bool(success), turn + 1
        return bool(success), self.limit
