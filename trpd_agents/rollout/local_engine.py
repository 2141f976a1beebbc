"""The engine for a model in this process: the fastest that is right for it."""

from __future__ import annotations

from collections.abc import Iterable

from trpd_agents.errors import UserError
from trpd_agents.models import LanguageModel
from trpd_agents.rollout.captured import Capture
from trpd_agents.rollout.plain_engine import PlainEngine
from trpd_agents.rollout.transformers_engine import TransformersEngine


def local_engine(lm: LanguageModel, capture: Capture | None = None) -> TransformersEngine | PlainEngine:
    """An engine that plays with `lm`; with `capture` decoding passes are captured and replayed.

    Raises:
        UserError: `capture` for a model that only the plain engine can play with, which has no pass to be replayed.
    """
    if lm.caches:
        return TransformersEngine(lm, capture)
    if capture is not None:
        raise UserError(
            f"rollout.engine.cuda_graphs is true, but {_why(lm)}; wanted rollout.engine.cuda_graphs=false, or "
            "rollout.engine=vllm"
        )
    return PlainEngine(lm)


def plain_notices(players: Iterable[LanguageModel]) -> list[str]:
    """What the user is to know where a model plays by the slower engine; one line for each such model."""
    lines = []
    for lm in players:
        if not lm.caches:
            cost = "which is slower" if lm.remembers else "all of a conversation is encoded again for every token"
            lines.append(f"{_why(lm)}: it plays by the plain engine, {cost}; see docs/engines.md")
    return list(dict.fromkeys(lines))


def _why(lm: LanguageModel) -> str:
    return f"model {lm.ref!r} ({type(lm.model).__name__}) has recurrent layers or attention of its own"
