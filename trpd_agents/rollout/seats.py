"""Matches: two conversations about one environment, each with the observations of its own seat.

One is the student's. The other is the student's too when it plays against itself, and both are learned from; else a
model holds it whose weights never change. Invariant: what a seat says depends on its own conversation, and its random
numbers are its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trpd_agents.dialogue import end_ids
from trpd_agents.models import load_model, pick_device
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.rollout.engine import Sampling
from trpd_agents.rollout.live import Episode, Live, Player
from trpd_agents.rollout.local_engine import local_engine
from trpd_agents.textenv.agent_env import Ending
from trpd_agents.textenv.textarena_matches import SELF, seat_of

OTHER_SEAT = 1 << 41  # added to the key of an episode for the conversation of the seat that is not the agent's


class Players:
    """Models that play against the student, each loaded when it is first asked for; they sample like the student."""

    def __init__(self, sampling: Sampling):
        self.sampling = sampling
        self._loaded: dict[str, Player] = {}

    def __call__(self, name: str) -> Player:
        """The model `name`: a directory, a hub id or `builtin:NAME`.

        Raises:
            UserError: there is no such model.
        """
        if name not in self._loaded:
            threads = torch.get_num_threads()
            lm = load_model(name, device=pick_device("auto"))
            torch.set_num_threads(threads)  # which the student's model was given for its own size
            sampling = Sampling(
                self.sampling.max_new_tokens,
                frozenset(end_ids(lm.tokenizer)),
                self.sampling.temperature,
                self.sampling.seed,
            )
            self._loaded[name] = Player(local_engine(lm), Dialogues(lm.tokenizer), sampling)
        return self._loaded[name]


def take_seats(run: Live, players: Players) -> None:
    """Begin the match of `run`, whose environment has been opened: it gets the agent's seat, and a new one the other.

    Raises:
        UserError: the opponent is a model that is not there.
    """
    arguments = run.env.spec.kwargs
    own = seat_of(arguments.get("seat", "seed"), run.episode.seed)
    opponent = arguments.get("opponent", SELF)
    other = Live(Episode(run.episode.seed, run.episode.key + OTHER_SEAT), run.env, started=run.started)
    other.player = None if opponent == SELF else players(opponent)
    run.seats = other.seats = {own: run, 1 - own: other}


def conclude(run: Live, endings: Sequence[Ending]) -> None:
    """Tell the seats that have not just moved, as `run` has, how their match ended."""
    for seat, (_, reward, success, draw) in enumerate(endings):
        other = run.seats[seat]
        if other is run:
            continue
        other.reward += reward
        other.success, other.draw = success, draw
        if other.turns:
            other.turns[-1].reward = reward
