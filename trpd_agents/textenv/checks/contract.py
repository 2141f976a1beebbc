"""Gymnasium's contract: the environment can be made, its spaces hold what is said, `check_env` is content."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
from gymnasium.utils.env_checker import check_env

from trpd_agents.errors import EnvironmentFailure
from trpd_agents.textenv.blame import blame
from trpd_agents.textenv.checks.finding import Finding, error, ok, warning
from trpd_agents.textenv.checks.probe import WATCHED, Probe
from trpd_agents.textenv.resolve import build
from trpd_agents.textenv.time_limit import TimeExpired, call_within
from trpd_envs.spaces import Text

_NAMES = ("observation_space", "action_space")
_CALLS = 20  # resets and steps that Gymnasium's checker makes, at most
_COLOUR = re.compile(r"\x1b\[[0-9;]*m|^WARN: ")
_TEXT_FIX = (
    "Use trpd_envs.Text(), which holds any text, or gymnasium.spaces.Text with a charset and max_length that do."
)


def construction(probe: Probe) -> Iterator[Finding]:
    """It can be made, in a process of its own, from its name and arguments alone."""
    env = build(probe.spec)
    kind = type(env.unwrapped)
    env.close()
    yield ok(f"{kind.__name__} can be made from its name and arguments in a new process")


def spaces(probe: Probe) -> Iterator[Finding]:
    """Observation and action space are text, and hold the texts that really occur."""
    env = build(probe.spec)
    declared = {name: getattr(env, name, None) for name in _NAMES}
    env.close()
    wrong = [f"{name} is {space!r:.80}" for name, space in declared.items() if not _text_or_none(space)]
    if wrong:
        yield error(
            "; ".join(wrong),
            "Agents read and write text: nothing else can be given to a model or taken from it.",
            "Wrap the environment so that observations and actions are strings, and declare trpd_envs.Text() for them.",
        )
        return
    missing = [name for name, space in declared.items() if space is None]
    if missing:
        yield warning(
            f"{' and '.join(missing)} not declared",
            "trpd_agents does not need it, but Gymnasium's checker, its vectorisation and other frameworks do.",
            "Set observation_space = action_space = trpd_envs.Text() on the class.",
        )
    outside = []
    with contextlib.suppress(EnvironmentFailure):  # which the checks that come after this one tell
        outside = _outside(probe, declared)
    for name, text, space in outside:
        yield warning(
            f"{name} does not hold {text!r:.60}: {_reason(space, text)}",
            "trpd_agents does not ask spaces, but Gymnasium's checker and other frameworks refuse such a text.",
            _TEXT_FIX,
        )
    if not missing and not outside:
        yield ok("both are text and hold what was observed and done")


def gymnasium_checker(probe: Probe) -> Iterator[Finding]:
    """`gymnasium.utils.env_checker.check_env`, with spaces that hold any text where the declared ones do not."""
    env = build(probe.spec).unwrapped
    declared = {name: getattr(env, name, None) for name in _NAMES}
    replaced = []
    if None in declared.values() or _outside(probe, declared):
        replaced = list(_NAMES)
        for name in _NAMES:
            setattr(env, name, Text())
    probe.note("gymnasium.utils.env_checker.check_env")
    refusal = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            call_within(_CALLS * probe.settings.seconds, check_env, env, skip_render_check=True)
        except TimeExpired as expired:
            raise EnvironmentFailure(
                "timeout", f"Gymnasium's checker does not come to an end: {blame(expired)}"
            ) from None
        except Exception as problem:
            refusal = problem
    env.close()
    said = [_COLOUR.sub("", str(one.message)).removeprefix("WARN: ") for one in caught]
    for message in dict.fromkeys(said):
        yield warning(f"check_env warns: {message:.400}", "It is part of Gymnasium's contract.", "Do as it says.")
    if refusal is None:
        if not said:
            yield ok("check_env passes" + (", but for the spaces above" if replaced else ""))
    elif "truncates after 1 step" in str(refusal):
        yield ok("check_env passes as far as it goes: it does not know episodes of one turn")
    else:
        yield error(
            f"check_env fails: {_COLOUR.sub('', blame(refusal)):.400}",
            "It is part of Gymnasium's contract, which wrappers, vectorisation and other frameworks rely on.",
            "Do as it says: reset(self, *, seed=None, options=None) calls super().reset(seed=seed), draws from "
            "self.np_random, and both methods return new objects.",
        )


def _outside(probe: Probe, declared: dict[str, Any]) -> list[tuple[str, str, gymnasium.spaces.Text]]:
    """Of each space, the first text that occurred and that it does not hold."""
    found = []
    recorded = [probe.record(seed) for seed in probe.within(WATCHED)]
    occurred = {
        "observation_space": [text for _, episode in recorded for text in episode.observations],
        "action_space": [text for actions, _ in recorded for text in actions],
    }
    for name, texts in occurred.items():
        space = declared[name]
        outside = next((text for text in texts if space is not None and not space.contains(text)), None)
        if outside is not None:
            found.append((name, outside, space))
    return found


def _reason(space: gymnasium.spaces.Text, text: str) -> str:
    if not space.min_length <= len(text) <= space.max_length:
        return f"it has {len(text)} characters, and the space takes {space.min_length} to {space.max_length}"
    if space.character_set == gymnasium.spaces.Text(1).character_set:
        return "gymnasium.spaces.Text takes only the 62 letters and digits unless it is given a charset: no space"
    return f"its charset lacks {sorted(set(text) - set(space.character_set))[:5]}"


def _text_or_none(space: Any) -> bool:
    return space is None or isinstance(space, gymnasium.spaces.Text)
