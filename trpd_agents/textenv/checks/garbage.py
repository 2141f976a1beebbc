"""Actions that no sensible player would take: each is answered, and none is rewarded.

Invariant: the text is given to the environment as it is, and where that fails once more as trpd_agents would give it:
cut and without NUL characters and surrogates. What fails only in the first form fails in other frameworks.
"""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium

from trpd_agents.errors import EnvironmentFailure
from trpd_agents.textenv.agent_env import AgentEnv, Step
from trpd_agents.textenv.checks.actions import GARBAGE, wrong_calls
from trpd_agents.textenv.checks.finding import Finding, error, ok, warning
from trpd_agents.textenv.checks.probe import Probe
from trpd_agents.textenv.preflight import ADVICE

_SHOWN = 5  # texts that a finding names
_WHY = (
    "A model writes such things while it learns. An episode that falls over is lost, and one that hangs costs seconds."
)
_ASK_AGAIN = 'Answer with an observation that says what was wrong, set info["ok"] = False and pay nothing.'


def garbage(probe: Probe) -> Iterator[Finding]:
    """Texts and tool calls that are wrong in every way we know are answered, and neither rewarded nor a success."""
    with probe.made() as env:
        env.reset(0)
        texts = {**GARBAGE, **wrong_calls(env.tools)}
    broken: dict[str, EnvironmentFailure] = {}
    raw: dict[str, EnvironmentFailure] = {}
    won, paid = [], []
    plan = [(label, text, later) for later in (False, True) for label, text in texts.items()]
    tried = 0
    for label, text, later in probe.within(plan):
        if label in broken or label in raw:
            continue
        tried += 1
        probe.note(f"the action {label}")
        try:
            step = _answer(probe, text, later, clean=False)
        except EnvironmentFailure as failure:
            try:
                step = _answer(probe, text, later, clean=True)
            except EnvironmentFailure as again:
                broken[label] = again
                continue
            raw[label] = failure
        if step is not None and step.success and label not in won:
            won.append(label)
        elif step is not None and step.reward > 0 and label not in paid:
            paid.append(label)
    if broken:
        label, first = next(iter(broken.items()))
        yield error(
            f"{_named(list(broken))} cannot be answered; {label}: {first.message}",
            _WHY,
            ADVICE.get(first.kind, _ASK_AGAIN),
        )
    if raw:
        label, first = next(iter(raw.items()))
        yield warning(
            f"{_named(list(raw))} cannot be answered as it is; {label}: {first.message}",
            "trpd_agents cuts actions and replaces NUL characters and lone surrogates; other frameworks hand over "
            "what the model wrote.",
            f"Check the length of an action before anything else looks at it. {_ASK_AGAIN}",
        )
    if won:
        yield error(f"{_named(won)} is a success", "A model is told that nonsense solves the task.", _ASK_AGAIN)
    if paid:
        yield warning(f"{_named(paid)} is rewarded", "A model is paid for nonsense.", _ASK_AGAIN)
    if not (broken or raw or won or paid):
        yield ok(f"{len(texts)} texts were answered in {tried} episodes, none with a reward")


class _Instead(gymnasium.Wrapper):
    """Plays `text` in place of one action, past everything that would clean it."""

    text: str | None = None

    def step(self, action: str) -> tuple:
        instead, self.text = self.text, None
        return self.env.step(action if instead is None else instead)


def _answer(probe: Probe, text: str, later: bool, clean: bool) -> Step | None:
    """What comes of `text` as the first action, or as a later one; None where an episode is over by then."""
    with probe.made() as made:
        wrapper = _Instead(made.env)
        env = AgentEnv(wrapper, made.spec, made.seconds)
        env.reset(0)
        if later:
            before = env.step(made.expert() or "hello")
            if before.terminated or before.truncated:
                return None
            paid_before = before.success
        else:
            paid_before = False
        if not clean:
            wrapper.text = text
        step = env.step(text)
        return None if paid_before else step


def _named(labels: list[str]) -> str:
    more = len(labels) - _SHOWN
    return ", ".join(f"'{label}'" for label in labels[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
