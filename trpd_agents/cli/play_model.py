"""A model that plays in the terminal: one action at a time, token-exact."""

from __future__ import annotations

from trpd_agents.cli.play_record import Action, Record
from trpd_agents.dialogue import Dialogue, end_ids
from trpd_agents.models import load_model, pick_device
from trpd_agents.rollout import Sampling
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.rollout.engine import Request
from trpd_agents.rollout.local_engine import local_engine
from trpd_agents.trajectory import Stop

MAX_TOKENS = 2048  # of a conversation, as in `trpd eval`


class ModelPlayer:
    """Samples at temperature 1, as the model is trained and evaluated; an episode's seed decides its actions, too."""

    def __init__(self, model: str, max_new_tokens: int):
        lm = load_model(model, device=pick_device())
        self._engine = local_engine(lm)
        self._dialogues = Dialogues(lm.tokenizer)
        self._sampling = Sampling(max_new_tokens, frozenset(end_ids(lm.tokenizer)))
        self._dialogue: Dialogue | None = None
        self._length = 0

    def act(self, record: Record) -> Action | None:
        """The next action; None where the context is full."""
        if self._dialogue is None:
            self._dialogue = self._dialogues(record.instructions, record.tools)
            prompt = list(self._dialogue.start(record.opening))
        else:
            prompt = list(self._dialogue.observe(record.observation, ended=record.turns[-1][1].complete))
        if self._length + len(prompt) + self._sampling.max_new_tokens > MAX_TOKENS:
            return None
        request = Request(record.seed, prompt, record.seed, record.env)
        (completion,) = self._engine.generate([request], self._sampling)
        self._length += len(prompt) + len(completion.tokens)
        text = self._dialogue.text(completion.tokens)
        complete = completion.stop is Stop.END
        return Action(text, "student", prompt, completion.tokens, completion.logprobs, complete)

    def finish(self, record: Record) -> None:
        """The episode is over."""
        self._engine.release([record.seed])
        self._dialogue, self._length = None, 0
